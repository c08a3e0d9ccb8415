"""f16, bf16 and encoded gradients over gRPC and REST, against numpy."""

import concurrent.futures
import io
import itertools

import support
from rest_client import Rest
from support import Case, Server, Worker, pb

try:
    import numpy
except ImportError:
    support.skip("python3-numpy is not installed")

ELEMENTS = 300
F16 = pb.DTYPE_F16
BF16 = pb.DTYPE_BF16


def to_bf16(array):
    """Bits of bf16: the nearest, ties to even."""
    bits = numpy.asarray(array, dtype="<f4").view("<u4").astype("<u8")
    return ((bits + 0x7fff + (bits >> 16 & 1)) >> 16).astype("<u2")


def from_bf16(bits):
    return (bits.astype("<u4") << 16).view("<f4")


def encode(dtype, array):
    return array.astype("<f2").tobytes() if dtype == F16 else to_bf16(array).tobytes()


def decode(dtype, data):
    if dtype == F16:
        return numpy.frombuffer(data, "<f2").astype("<f4")
    return from_bf16(numpy.frombuffer(data, "<u2"))


def rounded(dtype, array):
    return decode(dtype, encode(dtype, array))


class Party:
    """A server with three workers."""

    def __init__(self, workers=3):
        self.server = Server("--num-workers", str(workers)).__enter__()
        self.rest = Rest(self.server.http)
        self.workers = [Worker(self.server.grpc, rank=rank) for rank in range(workers)]

    def close(self):
        for worker in self.workers:
            worker.close()
        self.server.__exit__(None, None, None)

    def path(self, key):
        return f"/v1/keys/{key}/value"

    def put(self, key, dtype, data, shape=ELEMENTS):
        name = {F16: "f16", BF16: "bf16", pb.DTYPE_F32: "f32"}[dtype]
        reply = self.rest.put(f"{self.path(key)}?format=raw&dtype={name}&shape={shape}", data)
        assert reply.status in (200, 201), reply

    def raw(self, key):
        return self.rest.get(self.path(key) + "?format=raw").body

    def push(self, rank, key, data, dtype, **fields):
        worker = self.workers[rank]
        sequence, after = worker.number(key)
        header = pb.PartHeader(key=key, dtype=dtype, element_count=ELEMENTS, sequence=sequence,
                               after=after, payload_bytes=len(data), **fields)
        replies = list(worker.kv.Push(iter([worker.frame([header], data)]), timeout=20))
        support.raise_refusals(replies)

    def round(self, key, payloads, dtype, order, **fields):
        """All ranks push, in that order of arrival as far as it can be had."""
        with concurrent.futures.ThreadPoolExecutor(len(payloads)) as pool:
            for done in [pool.submit(self.push, rank, key, payloads[rank], dtype, **fields)
                         for rank in order]:
                done.result()


class Halves(Case):
    @classmethod
    def setUpClass(cls):
        cls.party = Party()
        cls.random = numpy.random.default_rng(11)

    @classmethod
    def tearDownClass(cls):
        cls.party.close()

    def gradients(self, dtype):
        """Of wildly different sizes, so that the order and each rounding show."""
        return [rounded(dtype, self.random.normal(size=ELEMENTS)
                        * 10.0 ** self.random.integers(-3, 3, ELEMENTS)) for _ in range(3)]

    def test_sums_are_rounded_at_each_addition_in_rank_order(self):
        for number, order in enumerate(itertools.permutations(range(3))):
            for dtype in (F16, BF16):
                key = f"sum{dtype}.{number}"
                terms = self.gradients(dtype)
                self.party.put(key, dtype, encode(dtype, numpy.zeros(ELEMENTS)))
                self.party.round(key, [encode(dtype, term) for term in terms], dtype, order)
                expected = rounded(dtype, rounded(dtype, terms[0] + terms[1]) + terms[2])
                self.assertEqual(self.party.raw(key), encode(dtype, expected))

    def test_init_and_pull_keep_every_bit(self):
        worker = self.party.workers[0]
        bits = numpy.concatenate([numpy.arange(0, 65536, 7), [0x7c01, 0x7f81, 0xffff]])
        data = bits.astype("<u2").tobytes()
        for dtype in (F16, BF16):
            key = f"bits{dtype}"
            header = pb.PartHeader(key=key, dtype=dtype, shape=[len(bits)],
                                   element_count=len(bits), payload_bytes=len(data))
            worker.kv.Init(iter([worker.frame([header], data)]), timeout=10)
            replies = list(worker.kv.Pull(iter([worker.pull_request(key)]), timeout=10))
            support.raise_refusals(replies)
            self.assertEqual(support.assemble(replies)[key], data)

    def test_f16_travels_as_npy_and_bf16_does_not(self):
        array = numpy.arange(ELEMENTS, dtype="<f2")
        file = io.BytesIO()
        numpy.save(file, array)
        path = self.party.path("npy")
        self.assertEqual(self.party.rest.put(path, file.getvalue()).status, 201)
        back = numpy.load(io.BytesIO(self.party.rest.get(path).body))
        self.assertEqual((back.dtype, back.tobytes()), (array.dtype, array.tobytes()))
        self.party.put("brain", BF16, encode(BF16, array))
        reply = self.party.rest.get(self.party.path("brain") + "?format=npy")
        self.assertEqual((reply.status, reply.reason), (406, "NOT_ACCEPTABLE"))
        self.assertIn("format=safetensors or raw", reply.json["detail"])
        file = io.BytesIO()
        numpy.save(file, numpy.zeros(3, dtype="V2"))
        reply = self.party.rest.put(self.party.path("void"), file.getvalue())
        self.assertEqual((reply.status, reply.reason), (400, "INVALID_TENSOR"))
        self.assertIn("dtype=bf16", reply.json["detail"])

    def test_encoded_gradients_of_ranks_are_summed_in_rank_order(self):
        """Each rank in another encoding; whoever comes early is held as it came."""
        values = self.random.normal(size=ELEMENTS).astype("<f4")
        index = numpy.arange(0, ELEMENTS, 3, dtype="<u4")
        entries = numpy.empty(len(index), dtype=[("i", "<u4"), ("v", "<f4")])
        entries["i"], entries["v"] = index, values[index]
        codes = self.random.integers(0, 4, 304)
        codes[ELEMENTS:] = 0
        quads = codes.reshape(-1, 4)
        two = (quads[:, 0] << 6 | quads[:, 1] << 4 | quads[:, 2] << 2 | quads[:, 3])
        threshold = numpy.float32(0.3)
        plain = numpy.zeros(ELEMENTS, dtype="<f4")
        plain[index] = values[index]
        signed = numpy.array([0, 0, -threshold, threshold], dtype="<f4")[codes[:ELEMENTS]]
        ways = [
            (dict(codec=pb.CODEC_BF16), to_bf16(values).tobytes(), from_bf16(to_bf16(values))),
            (dict(codec=pb.CODEC_2BIT, threshold=threshold), two.astype("u1").tobytes(), signed),
            (dict(codec=pb.CODEC_ENTRIES), entries.tobytes(), plain),
        ]
        for number, order in enumerate(itertools.permutations(range(3))):
            key = f"encoded{number}"
            self.party.put(key, pb.DTYPE_F32, bytes(4 * ELEMENTS))
            with concurrent.futures.ThreadPoolExecutor(3) as pool:
                for done in [pool.submit(self.party.push, rank, key, ways[rank][1],
                                         pb.DTYPE_F32, **ways[rank][0]) for rank in order]:
                    done.result()
            expected = ways[0][2] + ways[1][2]
            expected[index] += plain[index]
            self.assertEqual(self.party.raw(key), expected.astype("<f4").tobytes())

    def test_an_encoded_push_of_another_dtype_is_refused(self):
        self.party.put("half", F16, bytes(2 * ELEMENTS))
        for dtype in (F16, pb.DTYPE_F32):
            with self.assertRaises(support.Refused) as caught:
                self.party.push(0, "half", bytes(2 * ELEMENTS), dtype, codec=pb.CODEC_F16)
            self.assertEqual(caught.exception.reason, "INVALID_TENSOR")


class Masters(Case):
    """multi_precision, through a save and a load in another process."""

    OPTIMIZERS = [
        {"name": "sgd", "learning_rate": 0.01, "momentum": 0.9, "multi_precision": True},
        {"name": "adam", "learning_rate": 0.001, "multi_precision": True},
        {"name": "adam", "learning_rate": 0.001},
    ]

    def train(self, party, dtype, first, end):
        for number in range(first, end):
            payloads = [encode(dtype, numpy.sin(numpy.arange(ELEMENTS) * (number + 1) + rank))
                        for rank in range(2)]
            party.round("w", payloads, dtype, range(2))

    def start(self, optimizer, dtype):
        party = Party(2)
        self.addCleanup(party.close)
        party.put("w", dtype, encode(dtype, numpy.linspace(-1, 1, ELEMENTS)))
        self.assertEqual(party.rest.put("/v1/optimizer", optimizer).status, 200)
        return party

    def test_a_run_goes_on_bit_for_bit(self):
        for optimizer, dtype in itertools.product(self.OPTIMIZERS, (F16, BF16)):
            with self.subTest(optimizer=optimizer, dtype=dtype):
                whole = self.start(optimizer, dtype)
                self.train(whole, dtype, 0, 5)
                states = whole.rest.get("/v1/optimizer/states").body
                weights = whole.raw("w")
                self.train(whole, dtype, 5, 10)
                again = self.start(optimizer, dtype)
                again.put("w", dtype, weights)
                reply = again.rest.put("/v1/optimizer/states", states)
                self.assertIn(reply.status, (200, 204), reply)
                self.assertEqual(again.rest.get("/v1/optimizer/states").body, states)
                self.train(again, dtype, 5, 10)
                self.assertEqual(again.raw("w"), whole.raw("w"))

    def test_states_before_the_first_update_are_whole(self):
        party = self.start(self.OPTIMIZERS[0], BF16)
        states = party.rest.get("/v1/optimizer/states").body
        self.assertIn(b"w::master", states)
        self.assertIn(from_bf16(numpy.frombuffer(party.raw("w"), "<u2")).tobytes(), states)


if __name__ == "__main__":
    support.main()
