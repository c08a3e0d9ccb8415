"""Handles, deadlines, threads, forks, Ctrl-C: what happens while something is under way."""

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import weakref

import numpy

import case
import kvstored

LARGE = 1 << 20


def ones(count=4):
    return numpy.ones(count, "float32")


class Waits(case.Case):
    """Two workers: nothing of a round is over before both have pushed."""

    @classmethod
    def setUpClass(cls):
        cls.server = case.Server("--num-workers", "2", "--drain-timeout", "1s")

    @classmethod
    def tearDownClass(cls):
        cls.server.__exit__(None, None, None)

    def setUp(self):
        name = self._testMethodName.replace("_", "-")[:60]
        case.create_store(self.server, name, type="dist_sync", num_workers=2)
        self.first, self.second = case.together(*[
            lambda rank=rank: kvstored.create("dist_sync", self.server.grpc, store=name, rank=rank,
                                              request_timeout=20) for rank in (0, 1)])

    def tearDown(self):
        case.together(self.first.close, self.second.close)

    def init(self, count=4):
        case.together(lambda: self.first.init("w", ones(count)),
                      lambda: self.second.init("w", ones(count)))

    def test_ranks_and_counts(self):
        self.assertEqual((0, 1), (self.first.rank, self.second.rank))
        self.assertEqual(2, self.first.num_workers)
        self.assertIn("rank 1 of 2", repr(self.second))

    def test_a_round_is_the_sum_of_both(self):
        self.init()
        outs = [numpy.zeros(4, "float32"), numpy.zeros(4, "float32")]
        case.together(lambda: self.first.pushpull("w", ones() * 2, out=outs[0]),
                      lambda: self.second.pushpull("w", ones() * 3, out=outs[1]))
        self.assert_array(5, outs)

    def test_a_handle_is_done_when_the_round_is(self):
        self.init()
        out = numpy.zeros(4, "float32")
        pushed = self.first.push("w", ones(), wait=False)
        pulled = self.first.pull("w", out, wait=False)
        time.sleep(0.1)
        self.assertFalse(pushed.done)
        with self.refused("DEADLINE"):
            pushed.wait(0.05)
        with self.refused("DEADLINE"):
            self.first.wait(timeout=0.05)
        self.second.push("w", ones(), wait=True)
        pulled.wait()
        self.assert_array(2, out)
        pushed.wait(5)
        pushed.wait()
        self.assertTrue(pushed.done)
        self.first.wait()

    def test_an_out_that_is_not_contiguous_is_filled_by_the_wait(self):
        self.init()
        whole = numpy.zeros((4, 2), "float32")
        handle = self.first.pushpull("w", ones(), out=whole[:, 0], wait=False)
        self.second.push("w", ones())
        handle.wait()
        self.assert_array(2, whole[:, 0])
        self.assert_array(0, whole[:, 1])

    def test_arrays_live_as_long_as_the_library_needs_them(self):
        self.init(LARGE)
        value = ones(LARGE)
        out = numpy.zeros(LARGE, "float32")
        gone = [weakref.ref(value), weakref.ref(out)]
        handle = self.first.pushpull("w", value, out=out, copy=False, wait=False)
        del value, out
        gc.collect()
        self.assertTrue(all(reference() is not None for reference in gone))
        self.second.push("w", ones(LARGE))
        handle.wait()
        self.second.wait()
        del handle
        self.assertTrue(all(reference() is None for reference in gone))

    def test_a_copied_value_may_change_at_once(self):
        self.init(LARGE)
        value, out = ones(LARGE), numpy.zeros(LARGE, "float32")
        self.first.push("w", value)
        value[:] = 99
        self.second.pushpull("w", ones(LARGE), out=out)
        self.assert_array(2, out)
        self.first.wait()

    def test_a_push_that_fails_later_is_told_by_the_next_wait(self):
        self.init()
        self.first.push("nothing", ones())
        with self.refused("KEY_NOT_FOUND", "nothing"):
            self.first.wait()
        self.first.wait()
        self.first.push("nothing", ones())
        with self.refused("KEY_NOT_FOUND", "nothing"):
            for _ in range(500):  # the pulls of one key do not wait for another's push
                self.first.pull("w", numpy.zeros(4, "float32"))
                time.sleep(0.01)
        with self.refused("KEY_NOT_FOUND"):
            self.first.push("nothing", ones(), wait=True)
        handle = self.first.push("nothing", ones(), wait=False)
        with self.refused("KEY_NOT_FOUND"):
            handle.wait()
        self.first.wait()

    def test_a_barrier_waits_for_both_and_not_for_ever(self):
        with self.refused("DEADLINE", "rank 1"):
            self.first.barrier(timeout=0.3)
        time.sleep(3.5)  # the server lets go three seconds after the caller
        case.together(self.first.barrier, self.second._barrier)

    def test_statistics_count_what_was_sent(self):
        self.init()
        before = self.first.statistics()["parts_pushed"]
        case.together(lambda: self.first.push("w", ones(), wait=True),
                      lambda: self.second.push("w", ones(), wait=True))
        self.assertEqual(before + 1, self.first.statistics()["parts_pushed"])

    def test_a_wait_beside_a_call_that_begins_does_not_end_it(self):
        """The library has not given a handle yet when the other thread waits for everything."""
        inside = threading.Event()

        def update(key, given, stored):
            inside.set()
            time.sleep(0.3)
            stored += given

        whole = numpy.zeros((4, 2), "float32")
        with kvstored.create("local") as kv:
            kv.init("w", ones())
            kv._set_updater(update)
            case.together(lambda: kv.pushpull("w", ones(), out=whole[:, 0]),
                          lambda: (inside.wait(10), kv.wait()))
        self.assert_array(2, whole[:, 0])

    def test_a_wait_may_be_endless(self):
        self.init()
        handle = self.first.push("w", ones(), wait=False)
        self.second.push("w", ones())
        handle.wait(float("inf"))
        self.second.wait(float("inf"))

    def test_an_argument_that_is_no_number_ends_the_call(self):
        for head in ("7", 7.0, None, 2 ** 31):
            with self.refused("INVALID_FIELD", "head"):
                self.first._send_command_to_servers(head, "")
        self.first._send_command_to_servers(numpy.int64(7), "")
        with self.refused("INVALID_FIELD", "priority"):
            self.first.push("w", ones(), priority=0.5)
        with self.assertRaises(ZeroDivisionError):
            self.first._native.call(lambda pointer: 1 // 0)

    def test_many_threads_share_a_store(self):
        keys = [f"k{i}" for i in range(8)]
        case.together(*[lambda kv=kv: kv.init(keys, [ones()] * 8)
                        for kv in (self.first, self.second)])

        def work(kv, key):
            out = numpy.zeros(4, "float32")
            for i in range(20):
                kv.pushpull(key, ones() * i, out=out)
                self.assert_array(2 * i, out)
            return True

        done = case.together(*[lambda kv=kv, key=key: work(kv, key)
                               for kv in (self.first, self.second) for key in keys])
        self.assertEqual([True] * 16, done)

    def test_two_threads_wait_for_one_handle(self):
        self.init()
        handle = self.first.push("w", ones(), wait=False)
        waits = threading.Timer(0.3, lambda: self.second.push("w", ones()))
        waits.start()
        case.together(*[handle.wait] * 4)
        waits.join()

    def interrupted(self, call):
        """What a SIGINT in the middle of the call leads to, and how long it took, in seconds."""
        timer = threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT))
        timer.start()
        start = time.monotonic()
        with self.assertRaises(KeyboardInterrupt):
            call()
        timer.join()
        self.assertLess(time.monotonic() - start, 3)

    def test_an_interrupt_ends_the_wait_and_not_the_request(self):
        self.init()
        out = numpy.zeros(4, "float32")
        self.interrupted(lambda: self.first.pushpull("w", ones(), out=out))
        self.second.push("w", ones())
        self.first.wait()
        self.assert_array(2, out)
        self.interrupted(lambda: self.first.push("w", ones(), wait=True))
        self.second.pushpull("w", ones(), out=out)
        self.first.wait()
        self.assert_array(2, out)

    def test_a_signal_handler_does_not_wait_for_what_it_interrupts(self):
        """A close there would be for ever, or take the store from under the wait."""
        self.init()
        before = signal.signal(signal.SIGUSR1, lambda number, frame: self.first.close())
        self.addCleanup(signal.signal, signal.SIGUSR1, before)
        timer = threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGUSR1))
        timer.start()
        peer = threading.Timer(0.6, lambda: self.second.push("w", ones()))
        peer.start()  # without it the close would have nothing to end
        with self.refused("INVALID_FIELD", "signal handler"):
            self.first.push("w", ones(), wait=True)
        timer.join()
        peer.join()
        with self.refused("STOPPING"):
            self.first.rank

    def test_a_close_amid_a_call_in_this_process_comes_after_it(self):
        kv = kvstored.create("local")
        self.addCleanup(kv.close)

        def call(pointer):
            kv.close()  # as a signal handler may
            self.assertIsNotNone(kv._native._closing)  # the memory is still there
            return kv._native.library.kv_is_capable(pointer, b"nothing", None)

        with self.refused("INVALID_FIELD", "capability"):
            kv._native.quick(call)
        with self.refused("STOPPING"):
            kv.rank

    def test_an_interrupt_ends_a_barrier_and_an_init(self):
        self.interrupted(self.first.barrier)
        self.second.barrier()
        self.interrupted(lambda: self.second.init("w", ones()))
        self.first.init("w", ones())
        out = numpy.zeros(4, "float32")
        self.second.pull("w", out)
        self.assert_array(1, out)

    def test_what_an_interrupted_init_reads_lives_until_it_ends(self):
        given = [ones(), kvstored.RowSparse([0], numpy.ones((1, 2), "float32"), (4, 2))]
        alive = [weakref.ref(given[0]), weakref.ref(given[1].values)]
        for key in ("w", "rows"):
            self.interrupted(lambda key=key: self.second.init(key, given.pop(0)))
        gc.collect()
        self.assertTrue(all(reference() is not None for reference in alive))
        self.first.init("w", ones())
        self.first.init("rows", kvstored.RowSparse.zeros((4, 2)))
        for _ in range(500):
            if all(reference() is None for reference in alive):
                return
            time.sleep(0.01)
        self.fail("what was read is kept")

    def test_a_store_closed_after_an_interrupt_leaves_when_the_call_ends(self):
        self.interrupted(lambda: self.second.barrier(timeout=2))
        self.second.close()
        with self.refused("RANK_TAKEN"):
            self.join()
        time.sleep(2.5)
        for _ in range(100):
            try:
                self.second = self.join()
                return
            except kvstored.KVStoreError:
                time.sleep(0.1)
        self.fail("the rank is not free")

    def join(self):
        name = self._testMethodName.replace("_", "-")[:60]
        return kvstored.create("dist_sync", self.server.grpc, store=name, rank=1)


class Borrowed(case.Case):
    """A push to a server that has stopped: what has not been sent is read when it goes on."""

    def pushed(self, value, **arguments):
        """What arrives of a value whose last number changes after the push has returned."""
        with case.Server() as server, kvstored.create("dist_sync", server.grpc,
                                                      credit_bytes=1 << 20) as kv:
            kv.init("w", numpy.zeros_like(value))
            server.process.send_signal(signal.SIGSTOP)
            try:
                kv.push("w", value, **arguments)
                value[-1] = 7
            finally:
                server.process.send_signal(signal.SIGCONT)
            out = numpy.zeros_like(value)
            kv.pull("w", out)
            self.assert_array(1, out[:1])
            return out[-1]

    def test_a_value_is_copied_unless_it_is_lent(self):
        count = 1 << 23  # 32 MiB, of which a fraction may be under way
        lent = kvstored.empty(count)
        lent[:] = 1
        self.assertEqual(1, self.pushed(ones(count)))
        self.assertEqual(7, self.pushed(ones(count), copy=False))
        self.assertEqual(7, self.pushed(lent))


class Processes(case.Case):
    def test_an_interrupt_ends_create(self):
        """At an address where nobody answers."""
        program = textwrap.dedent("""
            import os, signal, threading, kvstored
            threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
            try:
                kvstored.create("dist_sync", "127.0.0.1:1", connect_timeout=30)
            except KeyboardInterrupt:
                print("interrupted")
        """)
        start = time.monotonic()
        done = subprocess.run([sys.executable, "-c", program], text=True, timeout=30, check=True,
                              stdout=subprocess.PIPE)
        self.assertEqual("interrupted\n", done.stdout)
        self.assertLess(time.monotonic() - start, 10)

    def test_a_server_that_is_not_there_is_told_in_time(self):
        start = time.monotonic()
        with self.refused("UNAVAILABLE"):
            kvstored.create("dist_sync", "127.0.0.1:1", connect_timeout=0.5)
        self.assertLess(time.monotonic() - start, 5)

    def test_a_program_that_forgets_to_close_ends(self):
        with case.Server() as server:
            program = textwrap.dedent(f"""
                import kvstored, numpy
                kv = kvstored.create("dist_sync", "{server.grpc}")
                kv.init("w", numpy.ones(4, "float32"))
                kv.push("w", numpy.ones(4, "float32") * 3)
            """)
            subprocess.run([sys.executable, "-c", program], timeout=30, check=True)
            with kvstored.create("dist_sync", server.grpc) as kv:
                out = numpy.zeros(4, "float32")
                kv.pull("w", out)
                self.assert_array(3, out)

    def test_a_store_that_is_dropped_is_closed(self):
        with case.Server() as server:
            for _ in range(3):  # one rank: the next has none unless the one before is gone
                kv = kvstored.create("dist_sync", server.grpc)
                del kv
                gc.collect()

    def test_a_child_has_no_store_of_its_parent(self):
        with case.Server() as server:
            kv = kvstored.create("dist_sync", server.grpc)
            local = kvstored.create("local")
            kv.init("w", ones())
            child = multiprocessing.get_context("fork").Process(
                target=_use_in_child, args=(kv, local, server.grpc))
            child.start()
            child.join(20)
            self.assertEqual(0, child.exitcode)
            out = numpy.zeros(4, "float32")
            kv.pull("w", out)
            self.assert_array(1, out)
            kv.close()

    def test_spawned_children_are_workers(self):
        with case.Server("--num-workers", "2") as server:
            kv = kvstored.create("dist_sync", server.grpc, rank=0)
            context = multiprocessing.get_context("spawn")
            child = context.Process(target=_work_in_child, args=(server.grpc,))
            child.start()
            kv.init("w", ones())
            out = numpy.zeros(4, "float32")
            kv.pushpull("w", ones(), out=out)
            self.assert_array(3, out)
            child.join(30)
            self.assertEqual(0, child.exitcode)
            kv.close()


def _use_in_child(kv, local, address):
    """Ends with 0 when everything is refused in words."""
    left = [lambda: kv.pull("w", ones()), lambda: local.init("w", ones()),
            lambda: kvstored.create("dist_sync", address)]
    for call in list(left):
        try:
            call()
        except kvstored.KVStoreError as error:
            if error.reason == "NOT_REGISTERED" and "spawn" in error.next_step:
                left.remove(call)
    with kvstored.create("local") as own:
        own.init("w", ones())
    kv.close()
    sys.exit(len(left))


def _work_in_child(address):
    with kvstored.create("dist_sync", address, rank=1) as kv:
        kv.init("w", ones())
        kv.pushpull("w", ones() * 2, out=ones())


if __name__ == "__main__":
    case.main()
