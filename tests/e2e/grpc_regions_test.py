"""Memory that a worker shares with the server: pushes from it, and what a hostile worker tries."""

import ctypes
import fcntl
import mmap
import os
import pathlib
import queue
import random
import re
import resource
import signal
import socket
import tempfile
import threading
import time
import unittest
import urllib.request

import support
from support import Case, Server, Worker, grpc, pb

CODE = grpc.StatusCode
MIB = 1 << 20
PART = 1 << 18
F_GET_SEALS = 1034
F_ADD_SEALS = 1033
SIZE_SEALS = 1 | 2 | 4  # F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW
PUNCH_HOLE = 1 | 2      # FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE


class Link:
    """A connection to the socket of regions, as any language would have it."""

    def __init__(self, path, worker):
        self.worker = worker
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(10)
        self.socket.connect(path + ".shm")
        self.maps = []

    def send(self, **fields):
        named = dict(store=self.worker.store, session=self.worker.session,
                     epoch=self.worker.epoch)
        named.update(fields)
        self.socket.send(pb.RegionRequest(**named).SerializeToString())
        data, descriptors, _, _ = socket.recv_fds(self.socket, 1024, 4)
        return pb.RegionReply.FromString(data), descriptors

    def make(self, bytes):
        """(number, mapping, descriptor) of a region."""
        reply, descriptors = self.send(bytes=bytes)
        if reply.HasField("problem"):
            raise support.Refused(reply)
        mapped = mmap.mmap(descriptors[0], reply.bytes)
        self.maps.append((mapped, descriptors[0]))
        return reply.region, mapped, descriptors[0]

    def refused(self, **fields):
        reply, descriptors = self.send(**fields)
        assert not descriptors
        return reply.problem.reason

    def close(self):
        for mapped, descriptor in self.maps:
            mapped.close()
            os.close(descriptor)
        self.socket.close()


def count_maps(server):
    text = pathlib.Path(f"/proc/{server.process.pid}/maps").read_text(encoding="utf-8")
    return text.count("kvstored-region")


def count_descriptors(server):
    return len(os.listdir(f"/proc/{server.process.pid}/fd"))


def cpu_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Shared(Case):
    FLAGS = ("--allow-client-shm", "--shm-max-bytes", "64MiB")

    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.path = os.path.join(self.folder.name, "socket")
        self.server = Server("--unix-socket", self.path, *self.FLAGS)
        self.addCleanup(self.server.__exit__, None, None, None)
        self.worker = Worker(f"unix:{self.path}")
        self.addCleanup(self.worker.close)
        self.link = Link(self.path, self.worker)
        self.addCleanup(self.link.close)
        self.worker.init("k", [2, 3], [1.0] * 6)
        self.worker.init("long", [PART + 5], bytes(4 * (PART + 5)))

    def frame(self, region, *headers):
        return self.worker.frame(headers, b"", region=region)

    def headers(self, key, values, offset):
        headers, data = self.worker.headers(key, None, values)
        for header in headers:
            header.region_offset = offset
            offset += header.payload_bytes
        return headers, data

    def push(self, frame, kind="Push"):
        return list(getattr(self.worker.kv, kind)(iter([frame]), timeout=10))

    def still_serves(self):
        values = [random.random() > 0.5] * 6
        self.worker.push("k", values)
        self.assertEqual(self.worker.pull("k"), {"k": values})

    def stream_refused(self, code, detail, frame):
        """The stream ends, and its sequences were never given."""
        with self.assertRaises(grpc.RpcError) as caught:
            self.push(frame)
        self.assertEqual(caught.exception.code(), code)
        self.assertIn(detail, caught.exception.details())
        self.worker.sequence -= len(frame.parts)
        self.worker.last[frame.parts[0].key] = frame.parts[0].after

    def metric(self, name):
        text = urllib.request.urlopen(f"http://{self.server.http}/metrics").read().decode()
        return float(re.search(f"^{name} (.*)$", text, re.M).group(1))

    def wait_for(self, condition):
        end = time.monotonic() + 10
        while not condition():
            self.assertLess(time.monotonic(), end)
            time.sleep(0.01)


class Regions(Shared):
    def test_a_push_takes_its_payload_from_the_region(self):
        number, mapped, _ = self.link.make(2 * MIB)
        values = [random.uniform(-1, 1) for _ in range(PART + 5)]
        headers, data = self.headers("long", values, 4099)  # at no multiple of anything
        mapped[4099:4099 + len(data)] = data
        small, more = self.headers("k", [1, 2, 3, 4, 5, 6], 64)
        mapped[64:64 + len(more)] = more
        for frame in (self.frame(number, *small), self.frame(number, *headers)):
            support.raise_refusals(self.push(frame))
        self.assertEqual(self.worker.pull("k"), {"k": [1, 2, 3, 4, 5, 6]})
        self.assertEqual(self.worker.pull("long")["long"], support.unpack(data))

    def test_a_pushpull_from_a_region_brings_the_value(self):
        number, mapped, _ = self.link.make(MIB)
        headers, data = self.headers("k", [2.0] * 6, 0)
        mapped[:len(data)] = data
        replies = self.push(self.frame(number, *headers), "PushPull")
        frames = [reply.frame for reply in replies if reply.WhichOneof("reply") == "frame"]
        self.assertEqual([2.0] * 6, support.unpack(frames[0].data))

    def test_what_lies_outside_the_region_is_refused(self):
        number, mapped, _ = self.link.make(4096)
        for offset in (4096, 4073, 2**64 - 1, 2**64 - 24, 2**63):
            headers, _ = self.headers("k", [1.0] * 6, 0)
            headers[0].region_offset = offset
            self.stream_refused(CODE.INVALID_ARGUMENT, "outside", self.frame(number, *headers))
        headers, _ = self.headers("k", [1.0] * 6, 0)
        headers[0].payload_bytes = 2**64 - 1
        self.stream_refused(CODE.INVALID_ARGUMENT, "outside", self.frame(number, *headers))
        self.still_serves()

    def test_a_region_that_is_not_the_sessions_is_refused(self):
        number, _, _ = self.link.make(4096)
        with self.other() as other:
            header = pb.PartHeader(key="k", dtype=pb.DTYPE_F32, element_count=6, payload_bytes=24,
                                   sequence=1)
            frame = other.frame([header], b"", region=number)
            with self.assertRaises(grpc.RpcError) as caught:
                list(other.kv.Push(iter([frame]), timeout=10))
            self.assertEqual(caught.exception.code(), CODE.UNAVAILABLE)
        headers, _ = self.headers("k", [1.0] * 6, 0)
        self.stream_refused(CODE.UNAVAILABLE, "no region", self.frame(99, *headers))
        self.still_serves()

    def other(self):
        self.worker.admin.CreateStore(pb.CreateStoreRequest(name="other", type="dist_async"),
                                      timeout=10)
        return Worker(f"unix:{self.path}", store="other")

    def test_data_beside_a_region_and_codecs_in_one_are_refused(self):
        number, _, _ = self.link.make(4096)
        headers, data = self.headers("k", [1.0] * 6, 0)
        self.stream_refused(CODE.INVALID_ARGUMENT, "no data",
                            self.worker.frame(headers, data, region=number))
        headers, _ = self.headers("k", [1.0] * 6, 0)
        headers[0].codec, headers[0].payload_bytes = pb.CODEC_F16, 12
        self.stream_refused(CODE.INVALID_ARGUMENT, "encoded", self.frame(number, *headers))
        header = pb.PartHeader(key="new", dtype=pb.DTYPE_F32, shape=[1], element_count=1,
                               payload_bytes=4)
        with self.assertRaises(grpc.RpcError) as caught:
            self.worker.kv.Init(iter([self.frame(number, header)]), timeout=10)
        self.assertEqual(caught.exception.code(), CODE.INVALID_ARGUMENT)
        self.still_serves()

    def test_requests_are_judged(self):
        self.assertEqual("OVER_BUDGET", self.link.refused(bytes=0))
        self.assertEqual("OVER_BUDGET", self.link.refused(bytes=65 * MIB))
        self.assertEqual("OVER_BUDGET", self.link.refused(bytes=2**64 - 1))
        self.assertEqual("NOT_REGISTERED", self.link.refused(bytes=4096, session=b"x" * 16))
        self.assertEqual("STORE_NOT_FOUND", self.link.refused(bytes=4096, store="nobody"))
        self.assertEqual("FENCED", self.link.refused(bytes=4096, epoch=1))
        self.assertEqual("INVALID_FIELD", self.link.refused(release=7))
        for _ in range(64):
            self.link.make(4096)
        self.assertEqual("TOO_MANY", self.link.refused(bytes=4096))

    def test_a_region_that_was_given_back_makes_room_and_is_not_named_again(self):
        number, _, _ = self.link.make(60 * MIB)
        headers, _ = self.headers("k", [0.0] * 6, 0)
        support.raise_refusals(self.push(self.frame(number, *headers)))
        self.assertEqual("OVER_BUDGET", self.link.refused(bytes=8 * MIB))
        reply, _ = self.link.send(release=number)
        self.assertFalse(reply.HasField("problem"))
        headers, _ = self.headers("k", [0.0] * 6, 0)
        self.stream_refused(CODE.UNAVAILABLE, "no region", self.frame(number, *headers))
        self.link.make(60 * MIB)

    def test_a_stream_that_outlives_the_connection_is_told(self):
        number, _, _ = self.link.make(4096)
        headers, _ = self.headers("k", [0.0] * 6, 0)
        frame = self.frame(number, *headers)
        applied = threading.Event()

        def send():
            yield frame
            applied.wait(10)
            self.link.socket.close()
            self.wait_for(lambda: self.metric("kvstored_shm_regions") == 0)
            headers, _ = self.headers("k", [0.0] * 6, 0)
            yield self.frame(number, *headers)

        call = self.worker.kv.Push(send(), timeout=20)
        with self.assertRaises(grpc.RpcError) as caught:
            for reply in call:
                if reply.WhichOneof("reply") == "acks":
                    applied.set()
        self.assertEqual(caught.exception.code(), CODE.UNAVAILABLE)
        self.assertIn("gone", caught.exception.details())
        self.worker.sequence -= 1
        self.worker.last["k"] -= 1
        self.still_serves()

    def test_the_size_is_sealed_and_holes_are_zeros(self):
        number, mapped, descriptor = self.link.make(2 * MIB)
        self.assertEqual(SIZE_SEALS, fcntl.fcntl(descriptor, F_GET_SEALS) & SIZE_SEALS)
        for size in (0, 4096, 4 * MIB):
            with self.assertRaises(PermissionError):
                os.ftruncate(descriptor, size)
        with self.assertRaises(PermissionError):
            fcntl.fcntl(descriptor, F_ADD_SEALS, 8)
        mapped[:24] = support.pack([5.0] * 6)
        libc = ctypes.CDLL(None)
        self.assertEqual(0, libc.fallocate(descriptor, PUNCH_HOLE, ctypes.c_int64(0),
                                           ctypes.c_int64(MIB)))
        headers, _ = self.headers("k", [0.0] * 6, 0)
        support.raise_refusals(self.push(self.frame(number, *headers)))
        self.assertEqual(self.worker.pull("k"), {"k": [0.0] * 6})

    def test_values_that_change_meanwhile_hurt_nobody_else(self):
        number, mapped, _ = self.link.make(2 * MIB)
        headers, data = self.headers("long", [1.0] * (PART + 5), 0)
        calls = [self.worker.kv.Push(iter([self.frame(number, *headers)]), timeout=10)]
        for i in range(200):
            mapped[:len(data)] = bytes([i % 256]) * len(data)
        list(calls[0])
        self.still_serves()

    def test_a_foreign_descriptor_and_rubbish_end_the_connection_at_most(self):
        before = count_descriptors(self.server)
        with tempfile.TemporaryFile() as file:
            request = pb.RegionRequest(session=self.worker.session, epoch=self.worker.epoch,
                                       bytes=4096).SerializeToString()
            socket.send_fds(self.link.socket, [request], [file.fileno()] * 3)
            data, descriptors, _, _ = socket.recv_fds(self.link.socket, 1024, 4)
            self.assertEqual(1, len(descriptors))
            os.close(descriptors[0])
        generator = random.Random(1)
        for length in (0, 1, 2, 15, 200, 1024, 1025, 4000):
            link = Link(self.path, self.worker)
            link.socket.send(bytes(generator.randrange(256) for _ in range(length)))
            try:
                link.socket.recv(1024)
            except ConnectionError:
                pass
            link.close()
        self.link.make(4096)
        self.wait_for(lambda: count_descriptors(self.server) <= before)

    def test_workers_that_come_and_die_leave_nothing(self):
        base = count_descriptors(self.server), count_maps(self.server)
        for _ in range(250):
            link = Link(self.path, self.worker)
            link.make(32 * MIB if _ % 50 == 0 else 4096)
            link.close()
        self.wait_for(lambda: (count_descriptors(self.server), count_maps(self.server)) == base)
        self.link.make(60 * MIB)

    def test_without_descriptors_it_waits_and_does_not_spin(self):
        pid = self.server.process.pid
        limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (count_descriptors(self.server), limits[1]))
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as waiting:
            waiting.connect(self.path + ".shm")
            before = cpu_seconds(pid)
            time.sleep(1)
            self.assertLess(cpu_seconds(pid) - before, 0.3)
            resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
            link = Link(self.path, self.worker)
            self.addCleanup(link.close)
            link.make(4096)

    def test_a_worker_that_is_killed_leaves_nothing(self):
        maps = count_maps(self.server)
        child = os.fork()
        if child == 0:
            link = Link(self.path, self.worker)
            link.make(60 * MIB)
            os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(child, 0)
        self.wait_for(lambda: count_maps(self.server) == maps)
        self.link.make(60 * MIB)

    @unittest.skipUnless(os.geteuid() == 0, "only root can be somebody else")
    def test_another_user_is_turned_away(self):
        os.chmod(self.folder.name, 0o755)
        os.chmod(self.path + ".shm", 0o666)
        child = os.fork()
        if child == 0:
            os.setuid(65534)
            try:
                link = Link(self.path, self.worker)
                link.send(bytes=4096)
            except (ConnectionError, BrokenPipeError):
                os._exit(7)
            except Exception:  # noqa: BLE001 (whatever it is, the parent says it)
                os._exit(8)
            os._exit(9)
        _, status = os.waitpid(child, 0)
        self.assertEqual(7, os.waitstatus_to_exitcode(status))


class Places(Shared):
    """Values that are read where the server has them."""

    def ask(self, requests, **fields):
        """The stream of a pull of "long" by its place, and the frames of its values."""
        request = self.worker.pull_request("long", shared=True, **fields)
        requests.put(request)
        call = self.worker.kv.Pull(iter(requests.get, None), timeout=10)
        frames = []
        while sum(header.element_count for frame in frames for header in frame.parts) < PART + 5:
            reply = next(call)
            if reply.WhichOneof("reply") == "frame":
                frames.append(reply.frame)
        return call, frames

    def read(self, frame):
        reply, descriptors = self.link.send(map=frame.region)
        self.assertFalse(reply.HasField("problem"), reply.problem.detail)
        mapped = mmap.mmap(descriptors[0], reply.bytes, prot=mmap.PROT_READ)
        self.link.maps.append((mapped, descriptors[0]))
        header = frame.parts[0]
        return mapped[header.region_offset:header.region_offset + header.payload_bytes]

    def test_a_pull_names_the_place_and_its_bytes_stay(self):
        values = [float(i % 1000) for i in range(PART + 5)]
        self.worker.push("long", values)
        requests = queue.Queue()
        call, frames = self.ask(requests)
        shared = [frame for frame in frames if frame.region != 0]
        self.assertEqual(1, len(shared))    # the part of 20 bytes is no page, and goes as data
        self.assertEqual(b"", shared[0].data)
        self.assertEqual(support.pack(values[:PART]), self.read(shared[0]))
        for i in range(4):                  # updates go elsewhere
            self.worker.push("long", [float(i)] * (PART + 5))
            self.assertEqual(support.pack(values[:PART]), self.read(shared[0]))
        self.assertEqual(4 * PART, self.metric("kvstored_shm_bytes"))
        requests.put(self.worker.pull_request(release=shared[0].hold))
        self.wait_for(lambda: self.metric("kvstored_shm_bytes") == 0)
        requests.put(None)
        list(call)

    def test_nobody_but_the_server_writes_there(self):
        requests = queue.Queue()
        call, frames = self.ask(requests)
        reply, (descriptor,) = self.link.send(map=frames[0].region)
        with self.assertRaises(PermissionError):
            mmap.mmap(descriptor, reply.bytes)
        with self.assertRaises(PermissionError):
            os.pwrite(descriptor, b"x", 0)
        again = os.open(f"/proc/self/fd/{descriptor}", os.O_RDWR)
        with self.assertRaises(PermissionError):
            mmap.mmap(again, reply.bytes)
        with self.assertRaises(PermissionError):
            os.ftruncate(again, 0)
        libc = ctypes.CDLL(None)
        self.assertNotEqual(0, libc.fallocate(again, PUNCH_HOLE, ctypes.c_int64(0),
                                              ctypes.c_int64(MIB)))
        os.close(again)
        os.close(descriptor)
        requests.put(None)
        list(call)

    def test_a_stream_that_ends_holds_nothing(self):
        requests = queue.Queue()
        call, _ = self.ask(requests)
        self.assertEqual(4 * PART, self.metric("kvstored_shm_bytes"))
        call.cancel()
        self.wait_for(lambda: self.metric("kvstored_shm_bytes") == 0)
        self.still_serves()

    def test_beyond_the_bound_values_go_as_data(self):
        self.link.make(64 * MIB)
        requests = queue.Queue()
        call, frames = self.ask(requests)
        self.assertEqual([0], [frame.region for frame in frames if frame.region != 0] or [0])
        self.assertEqual(4 * (PART + 5), sum(len(frame.data) for frame in frames))
        requests.put(None)
        list(call)

    def test_a_region_that_is_not_there_is_refused(self):
        for number in (1, 1 << 63, (1 << 63) + 77, 2**64 - 1):
            self.assertEqual("INVALID_FIELD", self.link.refused(map=number))

    def test_a_snapshot_comes_by_its_place_too(self):
        requests = queue.Queue()
        call, frames = self.ask(requests, snapshot=True)
        self.assertNotEqual(0, frames[0].region)
        requests.put(None)
        list(call)


class Without(Case):
    def test_nothing_is_shared_unless_it_is_allowed(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "socket")
            with Server("--unix-socket", path), Worker(f"unix:{path}") as worker:
                self.assertFalse(os.path.exists(path + ".shm"))
                worker.init("k", [1], [1.0])
                header = pb.PartHeader(key="k", dtype=pb.DTYPE_F32, element_count=1,
                                       payload_bytes=4, sequence=1)
                with self.assertRaises(grpc.RpcError) as caught:
                    list(worker.kv.Push(iter([worker.frame([header], b"", region=1)]), timeout=10))
                self.assertEqual(caught.exception.code(), CODE.INVALID_ARGUMENT)

    def test_the_socket_goes_with_the_server(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "socket")
            with Server("--unix-socket", path, "--allow-client-shm"):
                self.assertTrue(os.path.exists(path + ".shm"))
            self.assertFalse(os.path.exists(path + ".shm"))


if __name__ == "__main__":
    support.main()
