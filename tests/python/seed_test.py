"""Every example of MXNet's KVStore page, embedded and through a server."""

import contextlib
import io
import os
import tempfile
import unittest

import numpy

import case
import kvstored

SHAPE = (2, 3)
KEYS = [5, 7, 9]
DEVICES = 4


def ones():
    return numpy.ones(SHAPE, "float32")


def zeros():
    return numpy.zeros(SHAPE, "float32")


class Examples:
    """What both kinds of store do; `kv` is fresh for each test."""

    def init_three(self):
        self.kv.init(3, ones() * 2)

    def init_list(self):
        self.kv.init(KEYS, [ones() for _ in KEYS])

    def assert_three(self, expected):
        a = zeros()
        self.kv.pull(3, out=a)
        self.assert_array(expected, a)

    def test_init_of_a_single_key_is_pulled(self):
        self.init_three()
        self.assert_three(2)

    def test_init_of_a_list_of_keys_is_pulled(self):
        self.init_list()
        b = [zeros() for _ in KEYS]
        self.kv.pull(KEYS, out=b)
        for array in b:
            self.assert_array(1, array)

    def test_push_of_a_single_key_replaces_the_value(self):
        self.init_three()
        self.kv.push(3, ones() * 8)
        self.assert_three(8)

    def test_push_from_four_devices_is_their_sum(self):
        self.init_three()
        self.kv.push(3, [ones() for _ in range(DEVICES)])
        self.assert_three(4)

    def test_push_of_a_list_of_keys(self):
        self.init_list()
        self.kv.push(KEYS, [ones() for _ in KEYS])
        b = [zeros() for _ in KEYS]
        self.kv.pull(KEYS, out=b)
        self.assert_array(1, b[1])

    def test_push_of_a_list_of_keys_from_four_devices(self):
        self.init_list()
        b = [[ones() for _ in range(DEVICES)] for _ in KEYS]
        self.kv.push(KEYS, b)
        self.kv.pull(KEYS, out=b)
        self.assert_array(4, b[1][1])
        self.assert_array(4, b[2][3])

    def test_pull_into_four_devices(self):
        self.init_three()
        b = [ones() for _ in range(DEVICES)]
        self.kv.pull(3, out=b)
        for array in b:
            self.assert_array(2, array)

    def test_pull_of_a_list_of_keys_into_four_devices(self):
        self.init_list()
        b = [[zeros() for _ in range(DEVICES)] for _ in KEYS]
        self.kv.pull(KEYS, out=b)
        self.assert_array(1, b[1][1])

    def test_priorities_are_taken(self):
        self.init_list()
        for i, key in enumerate(KEYS):
            self.kv.push(key, ones() * 3, priority=-i)
        b = [zeros() for _ in KEYS]
        self.kv.pull(KEYS, b, -1)
        self.assert_array(3, b[2])

    def test_pushpull_gives_the_sum(self):
        self.init_three()
        a = zeros()
        self.kv.pushpull(3, [ones(), ones() * 4], out=a)
        self.assert_array(5, a)
        b = [ones(), ones() * 2]
        self.kv.pushpull(3, b)  # into the values
        self.assert_array(3, b[0])
        self.assert_array(3, b[1])

    def test_broadcast_is_an_init_and_a_pull(self):
        outs = [zeros() for _ in range(DEVICES)]
        self.kv.broadcast("w", ones() * 7, out=outs)
        for out in outs:
            self.assert_array(7, out)

    def test_set_optimizer_runs_it_in_the_store(self):
        self.init_three()
        self.kv.set_optimizer(kvstored.optimizer.SGD(learning_rate=0.5))
        self.kv.push(3, ones())
        self.assert_three(1.5)

    def test_the_test_optimizer_by_dict(self):
        self.init_three()
        self.kv.set_optimizer({"name": "test", "rescale_grad": 2})
        self.kv.push(3, [ones()] * 3)
        self.assert_three(8)

    def test_type_rank_and_num_workers(self):
        self.assertEqual(self.type, self.kv.type)
        self.assertEqual(0, self.kv.rank)
        self.assertEqual(1, self.kv.num_workers)
        self.assertTrue(self.kv.is_capable("optimizer"))

    def test_barrier_before_pulling_the_inited_value(self):
        if self.kv.rank == 0:
            self.init_three()
        self.kv._barrier()
        self.assert_three(2)

    def test_the_rows_of_the_page(self):
        a = kvstored.RowSparse.zeros((3, 3))
        self.kv.init("3", kvstored.RowSparse.from_dense(numpy.ones((3, 3), "float32")))
        for row_ids, rows in (([0, 2], [0, 2]), ([2, 2], [2]), ([1, 0], [0, 1])):
            self.kv.row_sparse_pull("3", out=a, row_ids=numpy.array(row_ids, "int64"))
            expected = numpy.zeros((3, 3))
            expected[rows] = 1
            self.assert_array(expected, a.todense())

    def test_states_are_saved_and_loaded(self):
        self.init_three()
        self.kv.set_optimizer(kvstored.optimizer.SGD(learning_rate=1, momentum=0.5))
        self.kv.push(3, ones())
        with tempfile.TemporaryDirectory() as folder:
            for dump in (False, True):
                fname = os.path.join(folder, f"states.{dump}")
                self.kv.save_optimizer_states(fname, dump_optimizer=dump)
            self.kv.push(3, ones())
            self.assert_three(-0.5)
            self.kv.load_optimizer_states(fname)
        self.kv.push(3, ones())
        self.assert_three(-2)

    def test_a_command_is_executed(self):
        self.kv._send_command_to_servers(7, "hello")


class Local(Examples, case.Case):
    type = "local"

    def setUp(self):
        self.kv = kvstored.create("local")
        self.addCleanup(self.kv.close)

    def test_the_updater_of_the_page(self):
        def update(key, input, stored):
            print(f"update on key: {key}")
            stored += input * 2

        self.kv.init(3, ones() * 4)
        self.kv._set_updater(update)
        self.assert_three(4)
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            self.kv.push(3, ones())
        self.assertEqual("update on key: 3\n", printed.getvalue())
        self.assert_three(6)

    def test_an_updater_changes_the_stored_value(self):
        seen = []

        def update(key, input, stored):
            seen.append(key)
            stored += input * 2

        self.init_three()
        self.kv._set_updater(update)
        self.assert_three(2)
        self.kv.push(3, ones())
        self.assert_three(4)
        self.kv.push(3, [ones()] * 4)
        self.assert_three(12)
        self.assertEqual([3, 3], seen)

    def test_an_updater_may_keep_what_it_is_given(self):
        kept = []

        def update(key, input, stored):
            stored += input
            kept.append((input, stored))

        self.init_three()
        self.kv._set_updater(update)
        self.kv.push(3, ones())
        self.kv.push(3, ones() * 4)
        for (input, stored), (given, result) in zip(kept, [(1, 3), (4, 7)]):
            self.assert_array(given, input)
            self.assert_array(result, stored)
        self.assert_three(7)


class Distributed(Examples, case.Case):
    type = "dist_sync"

    def setUp(self):
        self.server = case.Server()
        self.addCleanup(self.server.__exit__, None, None, None)
        self.kv = kvstored.create(self.type, self.server.grpc)
        self.addCleanup(self.kv.close)

    def test_two_bits_take_a_threshold_or_the_default(self):
        self.kv.set_gradient_compression({"type": "2bit"})  # 0.5
        self.init_three()
        for threshold in (0.5, 2):
            self.kv.push(3, ones() * 9)
            self.assert_three(threshold)
            self.kv.set_gradient_compression({"type": "2bit", "threshold": 2})

    def test_machine_0_inits_and_all_pull_after_a_barrier(self):
        case.create_store(self.server, "two", type="dist_sync", num_workers=2)
        workers = [kvstored.create("dist_sync", self.server.grpc, store="two", rank=rank)
                   for rank in range(2)]

        def work(kv):
            if kv.rank == 0:
                kv.init(3, ones() * 2)
            kv._barrier()
            a = zeros()
            kv.pull(3, out=a)
            kv.close()
            return a

        self.assert_array(2, case.together(*[lambda kv=kv: work(kv) for kv in workers]))

    def test_an_updater_is_for_embedded_stores(self):
        with self.refused("UNIMPLEMENTED"):
            self.kv._set_updater(lambda key, input, stored: None)


if __name__ == "__main__":
    case.main()
