"""Values through the gRPC plane: the seed's examples, lists, large values, rounds of two."""

import threading

import support
from support import Case, Refused, Server, Worker, pb

ONES = [1.0] * 6
SHAPE = [2, 3]


def twice(values):
    return [2.0 * value for value in values]


class Values(Case):
    @classmethod
    def setUpClass(cls):
        cls.server = Server()

    @classmethod
    def tearDownClass(cls):
        cls.server.__exit__(None, None, None)

    def worker(self, store, workers=1, **options):
        support.stubs.AdminStub(support.grpc.insecure_channel(self.server.grpc)).CreateStore(
            pb.CreateStoreRequest(name=store, type="dist_sync", num_workers=workers), timeout=10)
        made = [Worker(self.server.grpc, store=store, **options) for _ in range(workers)]
        for one in made:
            self.addCleanup(one.close)
        return made[0] if workers == 1 else made

    def test_pull_after_init_gives_the_initial_value(self):
        worker = self.worker("seed-init")
        reply = worker.init("3", SHAPE, twice(ONES))
        self.assertEqual([(row.key, row.existed, row.parts) for row in reply.keys],
                         [("3", False, 1)])
        self.assertEqual(worker.pull("3"), {"3": [2.0] * 6})

    def test_push_without_an_optimizer_replaces_the_value(self):
        worker = self.worker("seed-push")
        worker.init("3", SHAPE, twice(ONES))
        worker.push("3", [8.0] * 6)
        self.assertEqual(worker.pull("3"), {"3": [8.0] * 6})

    def test_values_of_four_devices_are_pushed_as_their_sum(self):
        worker = self.worker("seed-devices")
        worker.init("3", SHAPE, twice(ONES))
        devices = [ONES] * 4
        worker.push("3", [sum(column) for column in zip(*devices)])
        self.assertEqual(worker.pull("3"), {"3": [4.0] * 6})

    def test_a_list_of_keys_travels_in_one_frame_both_ways(self):
        worker = self.worker("seed-list")
        keys = ["5", "7", "9"]
        headers, data = [], b""
        for key in keys:
            more, bytes_ = worker.headers(key, SHAPE, ONES, sequenced=False)
            headers += more
            data += bytes_
        worker.kv.Init(iter([worker.frame(headers, data)]), timeout=10)
        headers, data = [], b""
        for key in keys:
            more, bytes_ = worker.headers(key, None, [float(key)] * 6)
            headers += more
            data += bytes_
        replies = list(worker.kv.Push(iter([worker.frame(headers, data)]), timeout=10))
        acked = sum(r.last - r.first + 1 for reply in replies for r in reply.acks.ranges)
        self.assertEqual(acked, 3)
        replies = list(worker.kv.Pull(iter([worker.pull_request(*keys)]), timeout=10))
        frames = [reply for reply in replies if reply.WhichOneof("reply") == "frame"]
        self.assertEqual(len(frames), 1)
        self.assertEqual({key: support.unpack(value)
                          for key, value in support.assemble(replies).items()},
                         {key: [float(key)] * 6 for key in keys})

    def test_pushpull_gives_the_value_after_its_own_round(self):
        worker = self.worker("pushpull")
        worker.init("k", SHAPE, ONES)
        self.assertEqual(worker.pushpull("k", [5.0] * 6), [5.0] * 6)
        self.assertEqual(worker.pushpull("k", [7.0] * 6), [7.0] * 6)

    def test_a_value_of_many_parts_comes_back_as_it_went(self):
        worker = self.worker("large")
        count = 3 * 262144 + 17
        data = b"".join(i.to_bytes(4, "little") for i in range(count))
        headers, data = worker.headers("big", [count], data, sequenced=False)
        self.assertEqual(len(headers), 4)
        worker.kv.Init(worker.frames(headers, data), timeout=20)
        replies = list(worker.kv.Pull(iter([worker.pull_request("big")]), timeout=20))
        self.assertEqual(support.assemble(replies)["big"], data)
        doubled = b"".join((2 * i).to_bytes(4, "little") for i in range(count))
        worker.push("big", doubled)
        replies = list(worker.kv.Pull(iter([worker.pull_request("big")]), timeout=20))
        self.assertEqual(support.assemble(replies)["big"], doubled)

    def test_a_value_longer_than_the_read_ahead_reaches_its_reader_whole(self):
        worker = self.worker("long", timeout=30)
        count = 5 * (1 << 20)
        data = bytes(range(256)) * (count * 4 // 256)
        headers, data = worker.headers("long", [count], data, sequenced=False)
        worker.kv.Init(worker.frames(headers, data), timeout=30)
        for fields in ({}, {"snapshot": True}):
            request = worker.pull_request("long", **fields)
            replies = list(worker.kv.Pull(iter([request]), timeout=30))
            self.assertEqual(support.assemble(replies)["long"] == data, True)

    def test_small_keys_come_back_many_to_a_frame(self):
        worker = self.worker("small")
        keys = [f"key{i:04d}" for i in range(1000)]
        headers, data = [], b""
        for i, key in enumerate(keys):
            more, bytes_ = worker.headers(key, [1], [float(i)], sequenced=False)
            headers += more
            data += bytes_
        worker.kv.Init(iter([worker.frame(headers, data)]), timeout=10)
        request = pb.PullRequest(store="small", session=worker.session, epoch=worker.epoch,
                                 all=True)
        replies = list(worker.kv.Pull(iter([request]), timeout=10))
        support.raise_refusals(replies)
        self.assertEqual({key: support.unpack(value)
                          for key, value in support.assemble(replies).items()},
                         {key: [float(i)] for i, key in enumerate(keys)})
        self.assertLess(len(replies), 50)

    def test_pull_by_prefix_gives_the_keys_that_begin_so(self):
        worker = self.worker("prefix")
        for key in ("fc1.w", "fc1.b", "fc2.w"):
            worker.init(key, [1], [float(len(key))])
        self.assertEqual(worker.pull(prefix="fc1."), {"fc1.b": [5.0], "fc1.w": [5.0]})

    def test_a_scalar_has_no_dimensions_and_one_element(self):
        worker = self.worker("scalar")
        worker.init("s", [], [3.5])
        self.assertEqual(worker.pull("s"), {"s": [3.5]})

    def test_halves_come_back_as_they_were_given(self):
        worker = self.worker("dtypes")
        worker.init("d", [2], [1.5, -0.25], "e")
        self.assertEqual(worker.pull("d", code="e"), {"d": [1.5, -0.25]})

    def test_a_round_of_two_closes_with_the_sum_of_both(self):
        first, second = self.worker("two", workers=2)
        started = threading.Thread(target=first.init, args=("k", SHAPE, ONES))
        started.start()
        second.init("k", SHAPE, ONES)
        started.join()
        results = {}

        def push(worker, value):
            results[worker.rank] = worker.pushpull("k", [value] * 6)

        threads = [threading.Thread(target=push, args=(first, 1.0)),
                   threading.Thread(target=push, args=(second, 10.0))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(results, {0: [11.0] * 6, 1: [11.0] * 6})

    def test_a_repeated_sequence_is_acked_as_a_duplicate_and_not_added(self):
        worker = self.worker("again")
        worker.init("k", SHAPE, ONES)
        headers, data = worker.headers("k", None, [2.0] * 6)
        frames = list(worker.frames(headers, data))
        for duplicate in (False, True, True):
            replies = list(worker.kv.Push(iter(frames), timeout=10))
            ranges = [range_ for reply in replies for range_ in reply.acks.ranges]
            self.assertEqual([(r.first, r.last, r.duplicate) for r in ranges],
                             [(1, 1, duplicate)])
        self.assertEqual(worker.pull("k"), {"k": [2.0] * 6})
        row = worker.admin.GetKey(pb.GetKeyRequest(store="again", key="k"), timeout=10)
        self.assertEqual(row.version.count, 1)

    def test_credit_comes_back_for_every_byte(self):
        worker = self.worker("credit")
        worker.init("k", [1 << 18], bytes(1 << 20))
        replies = worker.push("k", bytes(1 << 20))
        self.assertEqual(sum(reply.credit.bytes for reply in replies), 1 << 20)

    def test_push_to_a_store_of_sgd_applies_the_rule_in_the_server(self):
        worker = self.worker("sgd")
        worker.init("w", SHAPE, twice(ONES))
        worker.admin.SetOptimizer(pb.SetOptimizerRequest(
            store="sgd", optimizer=pb.Optimizer(
                json='{"name": "sgd", "learning_rate": 0.5, "wd": 0}')), timeout=10)
        worker.push("w", ONES)
        self.assertEqual(worker.pull("w"), {"w": [1.5] * 6})

    def test_an_unknown_key_is_refused_and_the_stream_goes_on(self):
        worker = self.worker("unknown")
        worker.init("k", SHAPE, ONES)
        with self.assertRaises(Refused) as caught:
            worker.pull("nothing")
        self.assertEqual(caught.exception.reason, "KEY_NOT_FOUND")
        replies = list(worker.kv.Pull(iter([worker.pull_request("nothing"),
                                            worker.pull_request("k")]), timeout=10))
        kinds = {reply.WhichOneof("reply") for reply in replies}
        self.assertEqual(kinds, {"refusal", "frame", "acks"})


if __name__ == "__main__":
    support.main()
