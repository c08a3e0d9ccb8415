"""Sessions, ranks, leases, barriers, Watch, and how the server stops."""

import threading
import time

import support
from support import Case, Server, Worker, grpc, pb

CODE = grpc.StatusCode


class Requests:
    """An iterator that a test feeds; ends on close."""

    def __init__(self, *first):
        self.items = list(first)
        self.closed = False
        self.changed = threading.Condition()

    def send(self, item):
        with self.changed:
            self.items.append(item)
            self.changed.notify()

    def close(self):
        with self.changed:
            self.closed = True
            self.changed.notify()

    def __iter__(self):
        return self

    def __next__(self):
        with self.changed:
            while not self.items and not self.closed:
                self.changed.wait()
            if self.items:
                return self.items.pop(0)
            raise StopIteration


def beat(worker, **fields):
    return pb.SessionRequest(store=worker.store, session=worker.session, epoch=worker.epoch,
                             **fields)


class Sessions(Case):
    @classmethod
    def setUpClass(cls):
        cls.server = Server()
        cls.channel = grpc.insecure_channel(cls.server.grpc)
        cls.admin = support.stubs.AdminStub(cls.channel)
        cls.kv = support.stubs.KVStoreStub(cls.channel)

    @classmethod
    def tearDownClass(cls):
        cls.channel.close()
        cls.server.__exit__(None, None, None)

    def create(self, name, **fields):
        named = dict(name=name, type="dist_sync", num_workers=2)
        named.update(fields)
        self.admin.CreateStore(pb.CreateStoreRequest(**named), timeout=10)

    def worker(self, store, **options):
        made = Worker(self.server.grpc, store=store, **options)
        self.addCleanup(made.close)
        return made

    # ------------------------------------------------------------------ Register

    def test_ranks_are_given_in_order_and_the_store_fills(self):
        self.create("ranks")
        self.assertEqual([self.worker("ranks").rank for _ in range(2)], [0, 1])
        self.refused(CODE.FAILED_PRECONDITION, "STORE_FULL", self.worker, "ranks")

    def test_a_wanted_rank_is_given_once(self):
        self.create("wanted")
        self.assertEqual(self.worker("wanted", rank=1).rank, 1)
        self.refused(CODE.ALREADY_EXISTS, "RANK_TAKEN", lambda: self.worker("wanted", rank=1))
        self.assertEqual(self.worker("wanted").rank, 0)

    def test_a_rank_outside_the_store_is_an_error(self):
        self.create("outside")
        self.refused(CODE.INVALID_ARGUMENT, "INVALID_FIELD",
                     lambda: self.worker("outside", rank=2))

    def test_the_other_kind_of_type_is_refused(self):
        self.create("kinds")
        self.refused(CODE.FAILED_PRECONDITION, "STORE_TYPE_MISMATCH",
                     lambda: self.worker("kinds", type_="dist_async"))
        self.assertEqual(self.worker("kinds", type_="dist_sync_device").rank, 0)

    def test_an_unknown_store_is_not_made(self):
        self.refused(CODE.NOT_FOUND, "STORE_NOT_FOUND", lambda: self.worker("nobody"))

    def test_a_resumed_session_keeps_rank_and_window(self):
        self.create("resume", num_workers=1)
        worker = self.worker("resume")
        worker.init("k", [1], [1.0])
        worker.push("k", [2.0])
        reply = self.kv.Register(pb.RegisterRequest(
            store="resume", resume_session=worker.session, epoch=worker.epoch), timeout=10)
        self.assertEqual((reply.resumed, reply.rank, reply.session, reply.next_sequence),
                         (True, worker.rank, worker.session, 2))
        self.refused(CODE.INVALID_ARGUMENT, "INVALID_FIELD", self.kv.Register,
                     pb.RegisterRequest(store="resume", resume_session=b"short"))
        error = self.refused(CODE.FAILED_PRECONDITION, "NOT_REGISTERED", self.kv.Register,
                             pb.RegisterRequest(store="resume", resume_session=b"n" * 16,
                                                epoch=worker.epoch))
        self.assertIn("Register", error.details())

    # ------------------------------------------------------------------ Session

    def test_a_heartbeat_is_answered_with_the_membership(self):
        self.create("beat")
        worker = self.worker("beat")
        requests = Requests(beat(worker))
        replies = worker.kv.Session(requests, timeout=10)
        first = next(replies)
        self.assertEqual((first.num_workers, first.live_workers, first.drain), (2, 1, False))
        self.assertEqual(first.lease_ms, 10000)
        self.worker("beat")
        second = next(replies)
        self.assertEqual((second.live_workers, second.membership > first.membership), (2, True))
        requests.close()

    def test_leaving_frees_the_rank_at_once(self):
        self.create("leave", num_workers=1)
        worker = self.worker("leave")
        replies = list(worker.kv.Session(iter([beat(worker, leave=True)]), timeout=10))
        self.assertEqual(len(replies), 1)
        self.assertEqual(self.worker("leave").rank, 0)
        self.refused(CODE.FAILED_PRECONDITION, "NOT_REGISTERED",
                     lambda: list(worker.kv.Session(iter([beat(worker)]), timeout=10)))

    def test_a_lost_lease_fails_the_round_and_names_the_rank(self):
        self.create("lease", lease_ms=500)
        first, second = self.worker("lease"), self.worker("lease")
        requests = Requests(beat(first))
        replies = first.kv.Session(requests, timeout=20)
        stop = threading.Event()

        def beating():
            while not stop.wait(0.1):
                requests.send(beat(first))

        thread = threading.Thread(target=beating)
        thread.start()
        next(replies)
        initialised = threading.Thread(target=second.init, args=("k", [1], [1.0]))
        initialised.start()
        first.init("k", [1], [1.0])
        initialised.join()
        began = time.monotonic()
        with self.assertRaises(support.Refused) as caught:
            first.push("k", [1.0])
        self.assertLess(time.monotonic() - began, 10)  # not the default deadline
        self.assertEqual(caught.exception.reason, "ROUND_FAILED")
        self.assertIn("missing rank 1", str(caught.exception))
        self.assertEqual(first.pull("k"), {"k": [1.0]})
        stop.set()
        thread.join()
        requests.close()

    # ------------------------------------------------------------------ Barrier

    def barrier(self, worker, timeout=10, **fields):
        return worker.kv.Barrier(pb.BarrierRequest(store=worker.store, session=worker.session,
                                                   epoch=worker.epoch, **fields), timeout=timeout)

    def test_a_barrier_ends_when_every_rank_has_entered(self):
        self.create("barrier")
        first, second = self.worker("barrier"), self.worker("barrier")
        replies = []
        thread = threading.Thread(target=lambda: replies.append(self.barrier(first)))
        thread.start()
        time.sleep(0.1)
        self.assertEqual(replies, [])
        replies.append(self.barrier(second))
        thread.join()
        self.assertEqual(len({reply.generation for reply in replies}), 1)
        self.assertEqual(sorted(reply.arrival_index for reply in replies), [0, 1])

    def test_a_barrier_at_its_deadline_names_who_is_missing(self):
        self.create("late")
        first = self.worker("late")
        self.worker("late")
        error = self.refused(CODE.DEADLINE_EXCEEDED, "DEADLINE",
                             lambda: self.barrier(first, timeout=1))
        self.assertIn("1", error.details())

    def test_a_call_that_is_cancelled_leaves_the_barrier(self):
        self.create("cancelled")
        first, second = self.worker("cancelled"), self.worker("cancelled")

        def listed():
            return self.admin.ListBarriers(pb.ListBarriersRequest(store="cancelled")).barriers

        def until(true):
            end = time.monotonic() + 10
            while not true() and time.monotonic() < end:
                time.sleep(0.01)
            self.assertTrue(true())

        def enter(stub):
            return stub.future(pb.BarrierRequest(store="cancelled", session=first.session,
                                                 epoch=first.epoch), timeout=60)

        for call in [
                lambda: enter(first.kv.Barrier),
                lambda: self.admin.EnterBarrier.future(pb.EnterBarrierRequest(
                    store="cancelled", rank=first.rank, timeout_ms=60000), timeout=60)]:
            waiting = call()
            until(listed)
            waiting.cancel()
            until(lambda: not listed())
        again = enter(first.kv.Barrier)
        self.barrier(second)
        again.result()

    def test_a_barrier_without_a_deadline_is_an_error(self):
        self.create("endless")
        worker = self.worker("endless")
        self.refused(CODE.INVALID_ARGUMENT, "INVALID_FIELD",
                     lambda: self.barrier(worker, timeout=None))

    # ------------------------------------------------------------------ Watch, commands

    def test_watch_tells_versions_membership_and_configuration(self):
        self.create("watch", num_workers=1)
        request = pb.WatchRequest(store="watch", versions=True, membership=True,
                                  configuration=True)
        events = self.kv.Watch(request, timeout=20)
        seen = [next(events), next(events)]
        self.assertEqual([event.WhichOneof("event") for event in seen],
                         ["membership", "configuration"])
        self.assertEqual(list(seen[0].membership.missing_ranks), [0])
        self.assertEqual(seen[1].configuration.optimizer_json, "")
        worker = self.worker("watch")
        event = next(events)
        self.assertEqual(list(event.membership.live_ranks), [0])
        worker.init("k", [1], [1.0])
        event = next(events)
        self.assertEqual((event.version.key, event.version.version.count), ("k", 0))
        worker.push("k", [2.0])
        event = next(events)
        self.assertEqual((event.version.key, event.version.version.count), ("k", 1))
        self.admin.SetOptimizer(pb.SetOptimizerRequest(
            store="watch", optimizer=pb.Optimizer(json='{"name": "sgd"}')), timeout=10)
        self.assertIn("sgd", next(events).configuration.optimizer_json)
        self.admin.DeleteStore(pb.DeleteStoreRequest(store="watch"), timeout=10)
        with self.assertRaises(grpc.RpcError) as caught:
            for _ in events:
                pass
        self.assertEqual(support.reason_of(caught.exception), "STORE_DELETED")

    def test_watch_tells_a_command_of_either_door(self):
        self.create("told", num_workers=1)
        worker = self.worker("told")
        events = self.kv.Watch(pb.WatchRequest(store="told", configuration=True), timeout=5)
        self.assertEqual(next(events).WhichOneof("event"), "configuration")
        worker.kv.SendCommand(pb.SendCommandRequest(
            store="told", session=worker.session, epoch=worker.epoch, head=7, body="hello"),
            timeout=10)
        event = next(events)
        self.assertEqual((event.command.head, event.command.body), (7, "hello"))
        self.admin.SendCommand(pb.AdminCommandRequest(store="told", head=8, body="again"),
                               timeout=10)
        event = next(events)
        self.assertEqual((event.command.head, event.command.body), (8, "again"))

    def test_a_command_needs_a_session(self):
        self.create("command")
        self.refused(CODE.FAILED_PRECONDITION, "NOT_REGISTERED", self.kv.SendCommand,
                     pb.SendCommandRequest(store="command", head=1))

    def test_a_deleted_store_refuses_who_waits(self):
        self.create("deleted")
        first, second = self.worker("deleted"), self.worker("deleted")
        initialised = threading.Thread(target=second.init, args=("k", [1], [1.0]))
        initialised.start()
        first.init("k", [1], [1.0])
        initialised.join()
        failures = []

        def push():
            try:
                first.push("k", [1.0])
            except (support.Refused, grpc.RpcError) as error:
                failures.append(str(error))

        thread = threading.Thread(target=push)
        thread.start()
        time.sleep(0.2)
        self.admin.DeleteStore(pb.DeleteStoreRequest(store="deleted"), timeout=10)
        thread.join(10)
        self.assertEqual(len(failures), 1)
        self.assertIn("STORE_DELETED", failures[0])


class Stop(Case):
    def test_a_stop_tells_sessions_ends_idle_streams_and_exits_with_0(self):
        with Server("--drain-timeout", "5s") as server:
            worker = Worker(server.grpc)
            worker.init("k", [1], [1.0])
            requests = Requests(beat(worker))
            replies = worker.kv.Session(requests, timeout=20)
            self.assertFalse(next(replies).drain)
            pulls = Requests(worker.pull_request("k"))
            pulled = worker.kv.Pull(pulls, timeout=20)
            self.assertEqual(next(pulled).WhichOneof("reply"), "frame")
            began = time.monotonic()
            server.process.terminate()
            self.assertTrue(next(replies).drain)
            with self.assertRaises(grpc.RpcError) as caught:
                for _ in pulled:
                    pass
            self.assertEqual(caught.exception.code(), CODE.UNAVAILABLE)
            self.assertEqual(server.process.wait(10), 0)
            self.assertLess(time.monotonic() - began, 5)
            requests.close()
            pulls.close()
            worker.close()

    def test_a_stop_with_waiting_barriers_and_open_rounds_still_ends(self):
        with Server("--num-workers", "2", "--drain-timeout", "1s") as server:
            worker, other = Worker(server.grpc), Worker(server.grpc)
            initialised = threading.Thread(target=other.init, args=("k", [1], [1.0]))
            initialised.start()
            worker.init("k", [1], [1.0])
            initialised.join()
            ended = []

            def run(function):
                try:
                    function()
                except (grpc.RpcError, support.Refused) as error:
                    ended.append(error)

            request = pb.BarrierRequest(session=worker.session, epoch=worker.epoch)
            threads = [
                threading.Thread(target=run, args=(lambda: worker.push("k", [1.0]),)),
                threading.Thread(
                    target=run, args=(lambda: worker.kv.Barrier(request, timeout=60),))]
            for thread in threads:
                thread.start()
            time.sleep(0.3)
            self.assertEqual(ended, [])
            server.process.terminate()
            self.assertIn(server.process.wait(15), (0, 9))
            server.exit_code = server.process.returncode
            for thread in threads:
                thread.join(10)
            self.assertEqual(len(ended), 2)
            worker.close()
            other.close()

    def test_a_stop_does_not_wait_for_a_rank_that_is_not_there(self):
        with Server("--num-workers", "2", "--policy", "wait", "--drain-timeout", "120s") as server:
            worker, other = Worker(server.grpc, rank=0), Worker(server.grpc, rank=1)
            worker.init("k", [1], [1.0])
            other.init("k", [1], [1.0])
            requests = Requests(beat(other, leave=True))
            self.assertEqual(len(list(other.kv.Session(requests, timeout=10))), 1)
            ended = {}

            def run(name, function):
                try:
                    function()
                except (grpc.RpcError, support.Refused) as error:
                    ended[name] = str(error)

            worker.timeout = 100
            request = pb.BarrierRequest(session=worker.session, epoch=worker.epoch)
            threads = [
                threading.Thread(target=run, args=("push", lambda: worker.push("k", [1.0]))),
                threading.Thread(target=run, args=(
                    "barrier", lambda: worker.kv.Barrier(request, timeout=100)))]
            for thread in threads:
                thread.start()
            time.sleep(0.5)
            self.assertEqual(ended, {})
            began = time.monotonic()
            server.process.terminate()
            self.assertEqual(server.process.wait(60), 0)
            self.assertLess(time.monotonic() - began, 60)
            for thread in threads:
                thread.join(10)
            self.assertIn("missing rank 1 of 2", ended["push"])
            self.assertIn("missing ranks: 1", ended["barrier"])
            worker.close()
            other.close()


if __name__ == "__main__":
    support.main()
