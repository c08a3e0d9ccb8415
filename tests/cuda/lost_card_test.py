"""A server whose card is lost, or out of memory, in the middle of a run.

usage: lost_card_test.py
"""

import http.client
import os
import pathlib
import struct
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "e2e"))
import support  # noqa: E402
from rest_client import Rest  # noqa: E402
from support import Refused, Server, Worker, grpc  # noqa: E402

SHAPES = {"w": 1003, "layer/0.bias": 7}
STEPS = 30
OPTIMIZER = {"name": "adam", "learning_rate": 0.01}
# Those of a turn that has computed: the card's own calls, not those of the start.
LOSSES = [("cudaLaunchKernelEx", 40), ("cudaLaunchKernelEx", 63), ("cudaMemcpyAsync", 52),
          ("cudaStreamSynchronize", 61), ("cudaStreamSynchronize", 62), ("cudaEventRecord", 90),
          ("cudaStreamWaitEvent", 75)]


def gradient(name, step):
    return [((step + 1) * (i + 3)) % 11 / 8 - 0.5 for i in range(SHAPES[name])]


class Run:
    """A server in whose runtime one call fails, and what a worker does there, one at a time."""

    def __init__(self, failing="", exit_code=0):
        self.folder = tempfile.TemporaryDirectory(prefix="kvs-card-")
        self.server = Server("--data-dir", self.folder.name, "--shards", "1",
                             prefix=("env", "CUDASIM_FAIL=" + failing), exit_code=exit_code)
        self.rest = Rest(self.server.http)
        self.worker = None

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if self.worker is not None:
            self.worker.close()
        self.server.__exit__(*error)
        self.folder.cleanup()

    def path(self, name):
        return f"/v1/keys/{name.replace('/', '%2F')}/value?format=raw"

    def put(self, name):
        return self.rest.put(f"{self.path(name)}&dtype=f32&shape={SHAPES[name]}",
                             struct.pack(f"<{SHAPES[name]}f", *([0.5] * SHAPES[name])))

    def set_optimizer(self):
        return self.rest.put("/v1/optimizer", OPTIMIZER)

    def push(self, name, step):
        """The reason of a refusal, or nothing."""
        if self.worker is None:
            self.worker = Worker(self.server.grpc)
        try:
            self.worker.push(name, gradient(name, step))
        except Refused as refused:
            return refused.reason
        except grpc.RpcError as error:
            return support.reason_of(error) or str(error.code())
        return ""

    def save(self):
        """The file, or the reason why there is none."""
        try:
            reply = self.rest.get("/v1/optimizer/states?weights=true")
        except (OSError, http.client.HTTPException) as error:
            return b"", type(error).__name__
        return (reply.body, "") if reply.status == 200 else (b"", reply.reason)

    def files(self):
        return sorted(os.listdir(self.folder.name))


def train(run, saved):
    """Pushes, and saves after every step, until the first refusal; its reason."""
    for step in range(STEPS):
        for name in SHAPES:
            reason = run.push(name, step)
            if reason:
                return reason
        file, reason = run.save()
        if reason:
            return reason
        saved.append(file)
    return ""


class LostCard(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.expected = []
        with Run() as run:
            cls.files = run.files()
            for name in SHAPES:
                assert run.put(name).status == 201
            assert run.set_optimizer().status == 200
            assert train(run, cls.expected) == ""
            assert run.files() == cls.files, "the server keeps no states of its own"

    def test_a_lost_card_is_told_and_ends_the_server_with_6(self):
        for call, nth in LOSSES:
            with self.subTest(call=call, nth=nth), Run(f"{call}:{nth}", exit_code=6) as run:
                saved = []
                for name in SHAPES:
                    self.assertEqual(201, run.put(name).status)
                self.assertEqual(200, run.set_optimizer().status)
                self.assertEqual("DEVICE_LOST", train(run, saved))
                self.assertEqual(6, run.server.process.wait(20))
                # Whole files, each of one version; none of what the card had left.
                self.assertEqual(self.expected[:len(saved)], saved)
                self.assertEqual(self.files, run.files())
                self.assertRegex(run.server.text(), r"event=device_lost device=0 error=cudaError")

    def test_out_of_memory_is_told_and_changes_nothing(self):
        for call in ("cudaMalloc", "cudaMallocHost"):
            told = set()
            for nth in range(9, 27, 2):
                # Twice: a shard that finds no room gives back what it keeps and tries again.
                with self.subTest(call=call, nth=nth), Run(f"{call}:{nth}-{nth + 1}") as run:
                    told |= self.train_short_of_memory(run)
            self.assertGreater(len(told), 1, (call, told))

    def test_a_store_that_finds_no_memory_is_not_made(self):
        with self.assertRaisesRegex(RuntimeError, "The machine has no memory left"):
            Run("cudaMalloc:3")

    def train_short_of_memory(self, run):
        """What was refused and had not changed anything."""
        told = set()

        def value(name):
            reply = run.rest.get(run.path(name))
            while reply.status == 507 and reply.reason == "NO_MEMORY":
                told.add("get")
                reply = run.rest.get(run.path(name))
            return (reply.status, reply.body if reply.status == 200 else b"")

        for name in SHAPES:
            while (reply := run.put(name)).status != 201:
                told.add("put")
                self.assertEqual((507, "NO_MEMORY"), (reply.status, reply.reason))
                self.assertEqual(404, value(name)[0])
        self.assertEqual(200, run.set_optimizer().status)
        for step in range(3):
            for name in SHAPES:
                before = value(name)
                while reason := run.push(name, step):
                    told.add("push")
                    self.assertEqual("NO_MEMORY", reason)
                    self.assertEqual(before, value(name))
        file, reason = run.save()
        while reason == "NO_MEMORY":
            told.add("save")
            file, reason = run.save()
        self.assertEqual((self.expected[2], ""), (file, reason))
        return told


if __name__ == "__main__":
    support.main()
