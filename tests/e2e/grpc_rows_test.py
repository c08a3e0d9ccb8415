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

    def pull(self, ids):
        """What came, by row."""
        request = self.worker.pull_request(self.key)
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
