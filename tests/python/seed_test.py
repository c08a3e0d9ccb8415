"""Every example of MXNet's KVStore page, embedded and through a server."""

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

    def test_a_command_is_executed(self):
        self.kv._send_command_to_servers(7, "hello")


class Local(Examples, case.Case):
    type = "local"

    def setUp(self):
        self.kv = kvstored.create("local")
        self.addCleanup(self.kv.close)

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
        server = case.Server()
        self.addCleanup(server.__exit__, None, None, None)
        self.kv = kvstored.create(self.type, server.grpc)
        self.addCleanup(self.kv.close)

    def test_an_updater_is_for_embedded_stores(self):
        with self.refused("UNIMPLEMENTED"):
            self.kv._set_updater(lambda key, input, stored: None)


if __name__ == "__main__":
    case.main()
