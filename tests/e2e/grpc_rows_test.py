"""row_sparse values through generated stubs, and what the admin plane shows of them."""

import io
import json
import urllib.request

import support
from support import Case, Refused, Server, Worker, pb

try:
    import numpy
except ImportError:
    support.skip("python3-numpy is not installed")

CODE = support.grpc.StatusCode
ROWS, WIDTH = 10, 3
SPARSE = pb.STORAGE_ROW_SPARSE


class Rows(Case):
    @classmethod
    def setUpClass(cls):
        cls.server = Server()

    @classmethod
    def tearDownClass(cls):
        cls.server.__exit__(None, None, None)

    @staticmethod
    def leave(worker):
        """The rank is free for the next test when this returns."""
        for _ in worker.kv.Session(iter([pb.SessionRequest(
                session=worker.session, epoch=worker.epoch, leave=True)]), timeout=10):
            pass

    def setUp(self):
        self.worker = Worker(self.server.grpc)
        self.addCleanup(self.leave, self.worker)
        self.key = self.id().rsplit(".", 1)[1]

    def header(self, ids, values, sequence=0, after=0, **fields):
        data = support.pack(values)
        named = dict(key=self.key, dtype=pb.DTYPE_F32, storage=SPARSE, element_count=ROWS * WIDTH,
                     row_ids=ids, payload_bytes=len(data), sequence=sequence, after=after)
        named.update(fields)
        return pb.PartHeader(**named), data

    def init(self, ids, values, shape=(ROWS, WIDTH)):
        header, data = self.header(ids, values, shape=shape)
        return self.worker.kv.Init(iter([self.worker.frame([header], data)]), timeout=10)

    def push(self, ids, values, **fields):
        sequence, after = self.worker.number(self.key)
        header, data = self.header(ids, values, sequence, after, **fields)
        replies = list(self.worker.kv.Push(iter([self.worker.frame([header], data)]), timeout=10))
        support.raise_refusals(replies)

    def pull(self, ids, **fields):
        """What came, by row."""
        request = self.worker.pull_request(self.key, **fields)
        request.keys[0].row_ids.extend(ids)
        replies = list(self.worker.kv.Pull(iter([request]), timeout=10))
        support.raise_refusals(replies)
        rows = {}
        for reply in replies:
            at = 0
            for header in reply.frame.parts:
                self.assertEqual((header.storage, header.element_count), (SPARSE, ROWS * WIDTH))
                values = support.unpack(reply.frame.data[at:at + header.payload_bytes])
                at += header.payload_bytes
                for i, row in enumerate(header.row_ids):
                    rows[row] = values[i * WIDTH:(i + 1) * WIDTH]
        return rows

    def get(self, path):
        with urllib.request.urlopen(f"http://{self.server.http}{path}", timeout=10) as reply:
            return reply.read()

    def test_rows_in_any_order_and_twice(self):
        self.init([7, 2, 7], [1.0] * 3 + [2.0] * 3 + [4.0] * 3)
        self.assertEqual(self.pull([9, 7, 2, 7]), {2: [2.0] * 3, 7: [5.0] * 3, 9: [0.0] * 3})
        self.push([3, 3], [1.0, 2.0, 3.0, 10.0, 20.0, 30.0])
        self.assertEqual(self.pull([3, 7]), {3: [11.0, 22.0, 33.0], 7: [0.0] * 3})

    def test_no_ids_are_no_rows_or_all(self):
        self.init([], [float(i) for i in range(ROWS * WIDTH)])
        self.assertEqual(self.pull([9]), {9: [27.0, 28.0, 29.0]})
        self.push([], [])
        self.assertEqual(self.pull([9]), {9: [0.0] * 3})
        self.push([], [1.0] * (ROWS * WIDTH), storage=pb.STORAGE_DENSE)
        self.assertEqual(self.worker.pull(self.key), {self.key: [1.0] * (ROWS * WIDTH)})

    def test_a_reply_of_many_row_ids_fits_its_messages(self):
        """A row of one byte, its id of four: a MiB of such rows is more than a message holds."""
        rows = 1 << 22
        part = self.worker.reply.limits.part_elements
        headers = [pb.PartHeader(key=self.key, dtype=pb.DTYPE_U8, storage=SPARSE, shape=(rows, 1),
                                 element_offset=offset, element_count=part)
                   for offset in range(0, rows, part)]
        self.worker.kv.Init(iter([self.worker.frame(headers, b"")]), timeout=10)
        request = self.worker.pull_request(self.key)
        request.keys[0].row_ids.extend(range(rows - 4 * part, rows))
        replies = list(self.worker.kv.Pull(iter([request]), timeout=30))
        support.raise_refusals(replies)
        counts = [len(header.row_ids) for reply in replies for header in reply.frame.parts]
        self.assertEqual(counts, [part] * 4)

    def test_a_snapshot_of_rows_comes_like_any_rows(self):
        self.init([1, 8], [1.0] * 3 + [2.0] * 3)
        self.assertEqual(self.pull([8, 1, 0, 8], snapshot=True),
                         {0: [0.0] * 3, 1: [1.0] * 3, 8: [2.0] * 3})

    def test_rows_come_in_the_codec_that_is_asked_for(self):
        self.init([1, 8], [1.0, -2.0, 127.0] + [0.5, 0.25, 0.0])
        for snapshot in (False, True):
            for codec, size in ((pb.CODEC_BF16, 2), (pb.CODEC_F16, 2)):
                request = self.worker.pull_request(self.key, codec=codec, snapshot=snapshot)
                request.keys[0].row_ids.extend([8, 1])
                parts, data = self.parts_of(request)
                self.assertEqual([(p.codec, list(p.row_ids), p.payload_bytes) for p in parts],
                                 [(codec, [1, 8], 6 * size)])
                words = numpy.frombuffer(data, "<u2")
                halves = (words.astype("<u4") << 16).view("<f4") if codec == pb.CODEC_BF16 \
                    else words.view("<f2").astype("<f4")
                self.assertEqual(halves.tolist(), [1.0, -2.0, 127.0, 0.5, 0.25, 0.0])
            request = self.worker.pull_request(self.key, codec=pb.CODEC_INT8, snapshot=snapshot)
            request.keys[0].row_ids.extend([8, 1])
            parts, data = self.parts_of(request)
            self.assertEqual(parts[0].payload_bytes, 2 * (4 + 3))
            self.assertEqual(numpy.frombuffer(data[:4], "<f4")[0], 1)  # each row has its scale
            self.assertEqual(numpy.frombuffer(data[4:7], "i1").tolist(), [1, -2, 127])
            self.assertEqual(numpy.frombuffer(data[11:], "i1").tolist(), [127, 64, 0])

    def parts_of(self, request):
        replies = list(self.worker.kv.Pull(iter([request]), timeout=10))
        support.raise_refusals(replies)
        parts = [header for reply in replies for header in reply.frame.parts]
        return parts, b"".join(reply.frame.data for reply in replies)

    def test_codecs_of_gradients_are_none_of_values(self):
        self.init([1], [1.0] * 3)
        for codec in (pb.CODEC_2BIT, pb.CODEC_1BIT, pb.CODEC_ENTRIES, 99):
            for fields in (dict(), dict(snapshot=True)):
                with self.assertRaises(Refused) as caught:
                    self.pull([1], codec=codec, **fields)
                self.assertEqual(caught.exception.reason, "INVALID_FIELD")
        sequence, after = self.worker.number(self.key)
        header, data = self.header([1], [1.0] * 3, sequence, after)
        with self.assertRaises(Refused) as caught:
            support.raise_refusals(list(self.worker.kv.PushPull(iter([self.worker.frame(
                [header], data, value_codec=pb.CODEC_2BIT)]), timeout=10)))
        self.assertEqual(caught.exception.reason, "INVALID_FIELD")
        self.assertEqual(self.pull([1]), {1: [1.0] * 3})

    def test_one_header_stands_for_parts_without_rows(self):
        """A value of 40 parts of one row each, of which a push brings one."""
        width = self.worker.reply.limits.part_elements
        parts = [pb.PartHeader(key=self.key, dtype=pb.DTYPE_U8, storage=SPARSE, shape=(40, width),
                               element_offset=i * width, element_count=width) for i in range(40)]
        self.worker.kv.Init(iter([self.worker.frame(parts, b"")]), timeout=10)
        first = self.worker.sequence + 1
        self.worker.sequence += 40
        self.worker.last[self.key] = first + 39
        named = dict(key=self.key, dtype=pb.DTYPE_U8, storage=SPARSE, element_count=width)
        headers = [pb.PartHeader(**named, sequence=first, empty_parts=7),
                   pb.PartHeader(**named, sequence=first + 7, element_offset=7 * width,
                                 row_ids=[7], payload_bytes=width),
                   pb.PartHeader(**named, sequence=first + 8, element_offset=8 * width,
                                 empty_parts=32)]
        replies = list(self.worker.kv.Push(iter([self.worker.frame(headers, b"\x05" * width)]),
                                           timeout=10))
        support.raise_refusals(replies)
        acked = {s for reply in replies for range_ in reply.acks.ranges
                 for s in range(range_.first, range_.last + 1)}
        self.assertEqual(acked, set(range(first, first + 40)))
        key = json.loads(self.get(f"/v1/keys/{self.key}"))
        self.assertEqual(key["version"]["count"], "1")
        value = self.worker.pull(self.key, code="B")[self.key]
        self.assertEqual((value[7 * width], value[6 * width], value[8 * width]), (5, 0, 0))

    def test_a_frame_stands_for_so_many_parts_and_no_more(self):
        self.init([1], [1.0] * 3)
        header, _ = self.header([], [], 1)
        for runs in ([4097], [2**64 - 1], [4096, 1], [2**63, 2**63]):
            headers = []
            for run in runs:
                headers.append(pb.PartHeader())
                headers[-1].CopyFrom(header)
                headers[-1].empty_parts = run
            self.refused(CODE.RESOURCE_EXHAUSTED, "TOO_LARGE", lambda: list(self.worker.kv.Push(
                iter([self.worker.frame(headers, b"")]), timeout=10)))

    def test_rows_that_are_not_there_are_refused(self):
        self.init([1], [1.0] * 3)
        for ids, values, fields in (([ROWS], [1.0] * 3, {}), ([2**64 - 1], [1.0] * 3, {}),
                                    ([1, 2], [1.0] * 3, {}), ([1], [1.0] * 2, {}),
                                    ([1], [1.0] * 3, {"storage": pb.STORAGE_DENSE}),
                                    ([1], [1.0] * 3, {"codec": pb.CODEC_1BIT})):
            with self.assertRaises(Refused) as caught:
                self.push(ids, values, **fields)
            self.assertEqual(caught.exception.reason, "INVALID_TENSOR")
        with self.assertRaises(Refused) as caught:
            self.pull([1, ROWS])
        self.assertEqual(caught.exception.reason, "INVALID_TENSOR")
        with self.assertRaises(Refused) as caught:
            self.push([1], [1.0] * 3, storage=9)
        self.assertEqual(caught.exception.reason, "INVALID_FIELD")
        self.assertEqual(self.pull([1]), {1: [1.0] * 3})

    def test_shapes_without_rows_are_refused(self):
        for shape in ((), (ROWS, 0)):
            self.refused(CODE.INVALID_ARGUMENT, "INVALID_TENSOR", lambda: self.init([], [], shape))

    def test_the_admin_plane_shows_a_dense_value(self):
        self.init([4], [1.0, 2.0, 3.0])
        key = json.loads(self.get(f"/v1/keys/{self.key}"))
        self.assertEqual((key["storage"], key["shape"]), ("row_sparse", ["10", "3"]))
        listed = {row["key"]: row["storage"] for row in json.loads(self.get("/v1/keys"))["keys"]}
        self.assertEqual(listed[self.key], "row_sparse")
        path = f"/v1/keys/{self.key}/value"
        value = numpy.load(io.BytesIO(self.get(path + "?format=npy")))
        expected = numpy.zeros((ROWS, WIDTH), numpy.float32)
        expected[4] = [1, 2, 3]
        numpy.testing.assert_array_equal(value, expected)
        expected[9] = 7
        body = io.BytesIO()
        numpy.save(body, expected)
        request = urllib.request.Request(f"http://{self.server.http}{path}", body.getvalue(),
                                         {"Content-Type": "application/x-npy"}, method="PUT")
        with urllib.request.urlopen(request, timeout=10) as reply:
            self.assertEqual(reply.status, 200)
        self.assertEqual(self.pull([4, 9]), {4: [1.0, 2.0, 3.0], 9: [7.0] * 3})


if __name__ == "__main__":
    support.main()
