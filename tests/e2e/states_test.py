"""Optimizer states through REST and gRPC: saved, and loaded into another process."""

import concurrent.futures
import contextlib
import json
import struct

import support
from rest_client import Rest
from support import Server, Worker, pb, stubs

grpc = support.grpc
SHAPES = {"w": 7, "layer/0.bias": 3}
OPTIMIZERS = [
    {"name": "sgd", "learning_rate": 0.1, "momentum": 0.9, "wd": 0.01},
    {"name": "sgd", "learning_rate": 0.1},
    {"name": "adam", "learning_rate": 0.01,
     "lr_scheduler": {"name": "factor", "step": 3, "factor": 0.5}},
    {"name": "adam", "learning_rate": 0.01, "rules": "2.0"},
]


def parse(file):
    """Header, notes and tensors of a safetensors file, by a reader of its own."""
    length = struct.unpack("<Q", file[:8])[0]
    header = json.loads(file[8:8 + length])
    notes = header.pop("__metadata__", {})
    data = file[8 + length:]
    at = 0
    tensors = {}
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        begin, end = entry["data_offsets"]
        assert begin == at, "a gap"
        at = end
        tensors[name] = (entry["dtype"], entry["shape"], data[begin:end])
    assert at == len(data)
    return notes, tensors


def gradient(name, rank, number):
    return [((number + 1) * (i + 3) + rank * 7) % 11 / 8 - 0.5 for i in range(SHAPES[name])]


class Party(contextlib.AbstractContextManager):
    """A server with two workers."""

    def __init__(self, optimizer, initial=True):
        self.server = Server("--num-workers", "2")
        self.server.__enter__()
        self.rest = Rest(self.server.http)
        self.workers = [Worker(self.server.grpc, rank=rank) for rank in range(2)]
        if initial:
            for name, count in SHAPES.items():
                self.put(name, support.pack([1 / (i + 1) for i in range(count)]))
        if optimizer is not None:
            assert self.rest.put("/v1/optimizer", optimizer).status == 200

    def path(self, name):
        return f"/v1/keys/{name.replace('/', '%2F')}/value"

    def put(self, name, data):
        reply = self.rest.put(
            f"{self.path(name)}?format=raw&dtype=f32&shape={SHAPES[name]}", data)
        assert reply.status in (200, 201), reply

    def weights(self):
        return {name: self.rest.get(f"{self.path(name)}?format=raw").body for name in SHAPES}

    def train(self, first, end):
        def work(worker, rank):
            for number in range(first, end):
                for name in SHAPES:
                    worker.push(name, gradient(name, rank, number))
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            for done in [pool.submit(work, w, r) for r, w in enumerate(self.workers)]:
                done.result()

    def save(self, query=""):
        reply = self.rest.get(f"/v1/optimizer/states{query}")
        assert reply.status == 200, reply
        assert reply.type == "application/vnd.safetensors"
        return reply.body

    def load(self, file, **headers):
        return self.rest.put("/v1/optimizer/states", file, **headers)

    def __exit__(self, *error):
        for worker in self.workers:
            worker.close()
        self.server.__exit__(*error)


class States(support.Case):
    def test_a_run_goes_on_bit_for_bit_in_another_process(self):
        for optimizer in OPTIMIZERS:
            with self.subTest(optimizer=optimizer):
                with Party(optimizer) as one:
                    one.train(0, 4)
                    file, weights = one.save(), one.weights()
                    one.train(4, 8)
                    expected = one.weights()
                with Party(optimizer) as two:
                    two.train(30, 32)
                    for name, data in weights.items():
                        two.put(name, data)
                    reply = two.load(file)
                    self.assertEqual(reply.status, 200, reply)
                    self.assertFalse(reply.json["optimizer_set"])
                    self.assertEqual(two.save(), file)
                    two.train(4, 8)
                    self.assertEqual(two.weights(), expected)

    def test_one_file_holds_weights_states_and_optimizer_of_one_cut(self):
        with Party(OPTIMIZERS[2]) as one:
            one.train(0, 3)
            file = one.save("?weights=true&dump_optimizer=true")
            again = one.save("?weights=true&dump_optimizer")
            weights = one.weights()
            optimizer = one.rest.get("/v1/optimizer").json
        self.assertEqual(file, again)
        notes, tensors = parse(file)
        self.assertEqual(json.loads(notes["kvstored.optimizer"]), optimizer)
        self.assertEqual((notes["format"], notes["kvstored.rule"]), ("pt", "adam"))
        for name, count in SHAPES.items():
            self.assertEqual(tensors[name], ("F32", [count], weights[name]))
            self.assertEqual(tensors[f"{name}::step"], ("I64", [], struct.pack("<q", 3)))
            for state in ("exp_avg", "exp_avg_sq"):
                self.assertEqual(tensors[f"{name}::{state}"][:2], ("F32", [count]))
        self.assertEqual(len(tensors), 4 * len(SHAPES))
        with Party(None) as two:
            reply = two.load(file)
            self.assertEqual(reply.status, 200, reply)
            self.assertTrue(reply.json["optimizer_set"])
            self.assertEqual(two.weights(), weights)
            self.assertEqual(two.rest.get("/v1/optimizer").json, optimizer)

    def test_what_does_not_fit_is_listed_and_changes_nothing(self):
        with Party(OPTIMIZERS[0]) as party:
            party.train(0, 2)
            file = party.save()
            party.rest.put("/v1/keys/new/value?format=raw&dtype=f32&shape=2", bytes(8))
            before = party.save("?weights=true")
            reply = party.load(file)
            self.assertEqual((reply.status, reply.reason), (409, "STATES_MISMATCH"))
            self.assertIn("2 misfits", reply.json["detail"])
            self.assertEqual(
                sorted((e["pointer"], e["detail"]) for e in reply.json["errors"]),
                [("/new::momentum_buffer", "is missing"), ("/new::step", "is missing")])
            party.rest.put("/v1/optimizer", OPTIMIZERS[2])
            reply = party.load(file)
            self.assertEqual((reply.status, reply.reason), (409, "STATES_MISMATCH"))
            self.assertIn("sgd", reply.json["detail"])
            party.rest.put("/v1/optimizer", OPTIMIZERS[0])
            fits = party.save()
            self.assertEqual(party.load(fits[:-1]).reason, "INVALID_FRAME")
            self.assertEqual(party.load(fits + b"x").reason, "INVALID_FRAME")
            self.assertEqual(party.load(b"\x80\x04pickle").reason, "TOO_LARGE")
            self.assertEqual(party.load(b"").reason, "INVALID_FRAME")
            _, tensors = parse(before)
            values = [data for name, (_, _, data) in tensors.items() if "::" not in name]
            after = parse(party.save("?weights=true"))[1]
            self.assertEqual(values,
                             [data for name, (_, _, data) in after.items() if "::" not in name])

    def test_a_large_file_that_does_not_fit_is_still_answered(self):
        with Party(OPTIMIZERS[0]) as party:
            big = json.dumps({"big::momentum_buffer": {
                "dtype": "F32", "shape": [5 << 20], "data_offsets": [0, 20 << 20]}}).encode()
            reply = party.load(struct.pack("<Q", len(big)) + big + bytes(20 << 20))
            self.assertEqual((reply.status, reply.reason), (409, "STATES_MISMATCH"))
            self.assertEqual(len(reply.json["errors"]), 5)

    def test_etags_and_ranges(self):
        with Party(OPTIMIZERS[0]) as party:
            first = party.rest.get("/v1/optimizer/states")
            tag = first.headers["ETag"]
            self.assertEqual(
                party.rest.get("/v1/optimizer/states", If_None_Match=tag).status, 304)
            part = party.rest.get("/v1/optimizer/states", Range="bytes=8-", If_Range=tag)
            self.assertEqual((part.status, part.body), (206, first.body[8:]))
            party.train(0, 1)
            self.assertNotEqual(party.rest.get("/v1/optimizer/states").headers["ETag"], tag)
            self.assertEqual(party.rest.get("/v1/optimizer/states?weights=maybe").status, 422)
            self.assertEqual(party.load(first.body, Content_Type="text/plain").status, 415)

    def test_grpc_streams_the_same_file_both_ways(self):
        with Party(OPTIMIZERS[2]) as party:
            admin = party.workers[0].admin
            party.train(0, 2)
            chunks = list(admin.SaveOptimizerStates(
                pb.SaveOptimizerStatesRequest(weights=True), timeout=20))
            file = b"".join(chunk.data for chunk in chunks)
            self.assertEqual(chunks[0].total_bytes, len(file))
            self.assertEqual(chunks[0].content_type, "application/vnd.safetensors")
            self.assertEqual(file, party.save("?weights=true"))
            party.train(2, 3)
            pieces = [pb.DataChunk(data=file[at:at + 33]) for at in range(0, len(file), 33)]
            pieces[0].store = "default"
            reply = admin.LoadOptimizerStates(iter(pieces), timeout=20)
            self.assertEqual((reply.bytes, reply.tensors), (len(file), 8))
            self.assertEqual(party.save("?weights=true"), file)
            code = grpc.StatusCode
            self.refused(code.INVALID_ARGUMENT, "INVALID_FRAME",
                         lambda: admin.LoadOptimizerStates(iter([]), timeout=20))
            self.refused(code.INVALID_ARGUMENT, "INVALID_FRAME",
                         lambda: admin.LoadOptimizerStates(iter(pieces[:-1]), timeout=20))
            error = self.refused(
                code.FAILED_PRECONDITION, "STATES_MISMATCH",
                lambda: admin.LoadOptimizerStates(
                    iter([pb.DataChunk(data=struct.pack("<Q", 2) + b"{}")]), timeout=20))
            self.assertIn("is missing", error.details())
            self.refused(code.NOT_FOUND, "STORE_NOT_FOUND",
                         lambda: admin.LoadOptimizerStates(
                             iter([pb.DataChunk(store="none")]), timeout=20))
            party.rest.put("/v1/optimizer", b"null", Content_Type="application/json")
            self.refused(code.FAILED_PRECONDITION, "OPTIMIZER_NOT_SET",
                         lambda: list(admin.SaveOptimizerStates(
                             pb.SaveOptimizerStatesRequest(), timeout=20)))

    def test_the_formats_own_library_reads_and_writes_it(self):
        try:
            import numpy
            from safetensors import numpy as safetensors
        except ImportError as missing:
            self.skipTest(f"{missing.name} is not installed")
        with Party(OPTIMIZERS[0]) as party:
            party.train(0, 2)
            tensors = safetensors.load(party.save("?weights=true"))
            self.assertEqual(tensors["w"].tobytes(), party.weights()["w"])
            tensors["w::momentum_buffer"] = numpy.full(SHAPES["w"], 3, numpy.float32)
            self.assertEqual(party.load(safetensors.save(tensors)).status, 200)
            read = safetensors.load(party.save())
            self.assertEqual(read["w::momentum_buffer"].tolist(), [3] * SHAPES["w"])


if __name__ == "__main__":
    support.main()
