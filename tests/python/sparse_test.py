"""RowSparse values: the seed's examples, merging, ids of all kinds, refusals."""

import numpy

import case
import kvstored
from kvstored import RowSparse

SHAPE = (3, 3)
ONES = numpy.ones(SHAPE, "float32")


class Value(case.Case):
    def test_rows_are_checked(self):
        for indices, values, shape in (([0], ONES, SHAPE), ([0], ONES[:1, :2], SHAPE),
                                       ([], ONES[:0], ()), ([[0, 1]], ONES[:1], SHAPE)):
            with self.refused("INVALID_TENSOR"):
                RowSparse(indices, values, shape)
        with self.refused("INVALID_TENSOR", "Pass integers."):
            RowSparse(numpy.array(["a"]), ONES[:1], SHAPE)

    def test_dense_and_back(self):
        dense = numpy.array([[0, 0], [1, 0], [0, 0], [2, 3]], "float32")
        rows = RowSparse.from_dense(dense)
        self.assert_array([1, 3], rows.indices)
        self.assert_array(dense, rows.todense())
        twice = RowSparse([1, 1], ONES[:2], SHAPE)
        self.assert_array([2, 2, 2], twice.todense()[1])
        self.assertEqual((0, (0, 3), "float64"),
                         (len(RowSparse.zeros(SHAPE).indices), RowSparse.zeros(SHAPE).values.shape,
                          RowSparse.zeros(SHAPE, "float64").dtype))


class Examples:
    def rows_of(self, key, row_ids, shape=SHAPE):
        out = RowSparse.zeros(shape)
        self.kv.row_sparse_pull(key, out, row_ids)
        return out

    def test_the_examples_of_row_sparse_pull(self):
        self.kv.init("3", RowSparse.from_dense(ONES))
        a = RowSparse.zeros(SHAPE)
        self.kv.row_sparse_pull("3", out=a, row_ids=numpy.array([0, 2], "int64"))
        self.assert_array([[1, 1, 1], [0, 0, 0], [1, 1, 1]], a.todense())
        self.kv.row_sparse_pull("3", out=a, row_ids=numpy.array([2, 2], "int64"))
        self.assert_array([[0, 0, 0], [0, 0, 0], [1, 1, 1]], a.todense())
        self.kv.row_sparse_pull("3", out=a, row_ids=numpy.array([1, 0], "int64"))
        self.assert_array([[1, 1, 1], [1, 1, 1], [0, 0, 0]], a.todense())
        self.assert_array([0, 1], a.indices)

    def test_ids_of_every_kind(self):
        self.kv.init("w", RowSparse.from_dense(ONES))
        for ids in ([0, 2], (2, 0), numpy.array([0, 2], "uint8"), numpy.array([2, 0], "int32"),
                    numpy.array([0, 2], "float32"), numpy.array([0, 2], "uint64"),
                    numpy.array([[0], [2]], "int16")):
            self.assert_array([0, 2], self.rows_of("w", ids).indices)
        self.assert_array([1], self.rows_of("w", 1).indices)
        none = self.rows_of("w", numpy.empty(0, "int64"))
        self.assertEqual((0, (0, 3)), (len(none.indices), none.values.shape))
        for ids in ([3], [-1]):
            with self.assertRaises(kvstored.KVStoreError):
                self.rows_of("w", ids)

    def test_one_list_of_ids_for_many_outs_and_one_for_each(self):
        self.kv.init("w", RowSparse.from_dense(ONES))
        outs = [RowSparse.zeros(SHAPE), RowSparse.zeros(SHAPE)]
        self.kv.row_sparse_pull("w", outs, [0, 1])
        self.assert_array([0, 1], outs[1].indices)
        self.kv.row_sparse_pull("w", outs, [numpy.array([0]), numpy.array([2, 1])])
        self.assert_array([0], outs[0].indices)
        self.assert_array([1, 2], outs[1].indices)
        with self.refused("INVALID_FIELD", "2 outs, but 3"):
            self.kv.row_sparse_pull("w", outs, [numpy.array([0])] * 3)
        with self.refused("INVALID_FIELD", "row_ids is needed"):
            self.kv.row_sparse_pull("w", outs)

    def test_ids_of_nested_lists(self):
        self.kv.init(["v", "w"], [RowSparse.from_dense(ONES)] * 2)
        self.assert_array([0, 1, 2], self.rows_of("w", [[0, 1], [1, 2]]).indices)
        with self.refused("INVALID_TENSOR"):
            self.rows_of("w", [[0, 1], [1]])
        outs = [[RowSparse.zeros(SHAPE) for _ in range(2)] for _ in range(2)]
        ids = [[[2], [0, 1]], (numpy.array([0]), numpy.array([1]))]
        self.kv.row_sparse_pull(["v", "w"], outs, row_ids=ids)
        for these, those in zip(outs, ids):
            for out, expected in zip(these, those):
                self.assert_array(expected, out.indices)
        with self.refused("INVALID_FIELD", "a key has 2 outs, but 1 lists"):
            self.kv.row_sparse_pull(["v", "w"], outs, row_ids=[ids[0], ids[1][:1]])

    def test_what_is_no_row_id_is_named(self):
        self.kv.init("w", RowSparse.from_dense(ONES))
        for ids, words in (([0.5], "0.5 is no row id"), ([numpy.nan], "nan is no row id"),
                           (numpy.array([1, 2 ** 63], "uint64"), "9223372036854775808 is no")):
            with self.refused("INVALID_TENSOR", words):
                self.rows_of("w", ids)

    def test_an_out_has_the_rows_of_its_key(self):
        self.kv.init("w", RowSparse.from_dense(ONES))
        for rows in (2, 4):
            with self.refused("INVALID_TENSOR", f"has 3 rows, its out {rows}"):
                self.rows_of("w", [1], (rows, 3))

    def test_a_dense_out_takes_no_rows(self):
        with self.refused("INVALID_FIELD", "to a RowSparse, not to ndarray"):
            self.kv.row_sparse_pull("w", numpy.zeros(SHAPE, "float32"), [0])

    def test_there_is_no_pushpull_of_rows(self):
        self.kv.init("w", RowSparse.from_dense(ONES))
        with self.refused("INVALID_TENSOR", "row_sparse_pull"):
            self.kv.pushpull("w", RowSparse.from_dense(ONES))

    def test_a_push_adds_rows_up_and_an_optimizer_takes_them(self):
        self.kv.init("w", RowSparse.from_dense(ONES))
        self.kv.set_optimizer(kvstored.optimizer.SGD(learning_rate=0.5))
        self.kv.push("w", [RowSparse([2, 0, 2], numpy.ones((3, 3), "float32"), SHAPE),
                           RowSparse([2], ONES[:1], SHAPE)])
        self.assert_array([[0.5], [1], [-0.5]], self.rows_of("w", [0, 1, 2]).todense())

    def test_a_handle_fills_the_out(self):
        self.kv.init("w", RowSparse.from_dense(ONES))
        out = RowSparse.zeros(SHAPE)
        self.kv.row_sparse_pull("w", out, [1], wait=False).wait()
        self.assert_array([1], out.indices)
        self.assert_array(1, out.values)

    def test_plain_pull_of_rows(self):
        self.kv.init("w", RowSparse([1], ONES[:1], SHAPE))
        out = RowSparse.zeros(SHAPE)
        self.kv.pull("w", out)
        self.assertEqual(0, len(out.indices))
        self.kv.pull("w", out, ignore_sparse=False)
        self.assert_array([[0], [1], [0]], out.todense())
        dense = numpy.full(SHAPE, 9, "float32")
        self.kv.pull(["w", "w"], [out, dense])
        self.assert_array([[0], [1], [0]], dense)

    def test_rows_that_no_longer_fit_each_other_are_refused(self):
        self.kv.init("w", RowSparse.zeros(SHAPE))
        for name, part in (("indices", numpy.zeros(1 << 20, "int64")), ("values", ONES[:0]),
                           ("shape", (3, 1 << 20))):
            rows = RowSparse([0], ONES[:1], SHAPE)
            setattr(rows, name, part)
            with self.refused("INVALID_TENSOR"):
                self.kv.push("w", rows, wait=True)

    def test_dense_and_rows_do_not_mix_in_a_call(self):
        with self.refused("INVALID_FIELD", "or none is"):
            self.kv.init(["a", "b"], [ONES, RowSparse.from_dense(ONES)])


class Local(Examples, case.Case):
    def setUp(self):
        self.kv = kvstored.create("local")
        self.addCleanup(self.kv.close)


class Distributed(Examples, case.Case):
    def setUp(self):
        server = case.Server()
        self.addCleanup(server.__exit__, None, None, None)
        self.kv = kvstored.create("dist_sync", server.grpc)
        self.addCleanup(self.kv.close)


if __name__ == "__main__":
    case.main()
