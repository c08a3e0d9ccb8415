"""Connections: silent ones, wrong ones, too many of them, no descriptors left, Unix sockets, and
peers that do not read."""

import os
import resource
import socket
import stat
import struct
import tempfile
import time

import support
from support import Case, Server, Worker, grpc, pb

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = b"\0\0\0\x04\0\0\0\0\0"


def connect(server, data=b""):
    made = socket.create_connection(("127.0.0.1", server.port), timeout=10)
    if data:
        made.sendall(data)
    return made


def closed(connection, seconds):
    """True when the peer closes within that time, whatever it says before."""
    end = time.monotonic() + seconds
    connection.settimeout(seconds)
    try:
        while time.monotonic() < end:
            if connection.recv(4096) == b"":
                return True
    except ConnectionError:
        return True
    except socket.timeout:
        pass
    return False


def refused(server):
    """A new connection is reset at once."""
    try:
        with connect(server) as connection:
            return closed(connection, 2)
    except ConnectionError:
        return True


def fill(server, count):
    """So many connections that the server has answered: its own probe may hold a place at first."""
    held = []
    end = time.monotonic() + 10
    while len(held) < count and time.monotonic() < end:
        try:
            connection = connect(server, PREFACE + SETTINGS)
        except ConnectionError:
            time.sleep(0.1)  # refused so fast that not even the connect has ended well
            continue
        connection.settimeout(2)
        try:
            answered = connection.recv(9) != b""
        except (ConnectionError, socket.timeout):
            answered = False
        if answered:
            held.append(connection)
        else:
            connection.close()
            time.sleep(0.1)
    return held


def works(server, seconds=10):
    """A fresh connection registers, and leaves again so that the rank is free; retries while the
    server is full."""
    end = time.monotonic() + seconds
    while True:
        try:
            with Worker(server.grpc, timeout=2) as worker:
                request = pb.SessionRequest(session=worker.session, epoch=worker.epoch, leave=True)
                list(worker.kv.Session(iter([request]), timeout=5))
            return True
        except grpc.RpcError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


def descriptors(server):
    return len(os.listdir(f"/proc/{server.process.pid}/fd"))


class Connections(Case):
    def test_a_hundred_half_open_connections_are_closed_and_others_are_served_meanwhile(self):
        with Server() as server:
            before = descriptors(server)
            silent = [connect(server) for _ in range(50)]
            half = [connect(server, PREFACE[:10]) for _ in range(50)]
            self.assertTrue(works(server))
            for connection in silent + half:
                self.assertTrue(closed(connection, 8))
                connection.close()
            self.assertTrue(works(server))
            time.sleep(1.5)
            self.assertLess(descriptors(server), before + 10)

    def test_a_connection_that_speaks_something_else_is_closed_at_once(self):
        with Server() as server:
            for data in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\x02\0\x01\0\x01\xfc",
                         b"\0" * 100, PREFACE[:20] + b"XXXX"):
                connection = connect(server, data)
                self.assertTrue(closed(connection, 2), data)
                connection.close()
            self.assertTrue(works(server))

    def test_a_preface_in_single_bytes_is_a_preface(self):
        with Server() as server:
            connection = connect(server)
            for byte in PREFACE + SETTINGS:
                connection.sendall(bytes([byte]))
                time.sleep(0.002)
            connection.settimeout(5)
            self.assertEqual(connection.recv(9)[3], 4)  # SETTINGS of the server
            connection.close()

    def test_a_connection_without_calls_is_closed_in_the_end(self):
        with Server() as server:
            connection = connect(server, PREFACE + SETTINGS)
            self.assertTrue(closed(connection, 20))
            connection.close()

    def test_more_connections_than_allowed_are_refused_at_once_and_then_welcome(self):
        with Server("--max-connections", "20") as server:
            held = fill(server, 20)
            self.assertEqual(len(held), 20)
            self.assertTrue(refused(server))
            for connection in held:
                connection.close()
            self.assertTrue(works(server))

    def test_an_address_with_too_many_connections_is_refused(self):
        with Server("--max-connections-per-ip", "5") as server:
            held = fill(server, 5)
            self.assertEqual(len(held), 5)
            self.assertTrue(refused(server))
            for connection in held:
                connection.close()
            self.assertTrue(works(server))

    def test_the_server_survives_running_out_of_descriptors(self):
        limit = 64
        with Server(prefix=("prlimit", f"--nofile={limit}")) as server:
            held = []
            for _ in range(2 * limit):
                try:
                    held.append(connect(server, PREFACE + SETTINGS))
                except OSError:
                    pass
            time.sleep(1)
            self.assertGreater(descriptors(server), limit - 6)
            self.assertIsNone(server.process.poll())
            for connection in held:
                connection.close()
            self.assertTrue(works(server))
            time.sleep(6)  # past the next self-probe
            self.assertTrue(works(server))
            self.assertIsNone(server.process.poll())


class Peers(Case):
    def test_a_unix_socket_serves_and_is_removed_at_the_end(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "kv.sock")
            for _ in range(2):
                with Server("--unix-socket", path) as server:
                    self.assertTrue(stat.S_ISSOCK(os.stat(path).st_mode))
                    with Worker(f"unix:{path}") as worker:
                        worker.init("k", [2], [1.0, 2.0])
                        self.assertEqual(worker.pull("k"), {"k": [1.0, 2.0]})
                    self.assertTrue(server.process.poll() is None)
                self.assertFalse(os.path.exists(path))

    def test_a_stale_unix_socket_is_replaced_and_a_live_one_is_not(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "kv.sock")
            stale = socket.socket(socket.AF_UNIX)
            stale.bind(path)
            stale.close()
            with Server("--unix-socket", path):
                with self.assertRaises(RuntimeError):
                    Server("--unix-socket", path)
                self.assertTrue(os.path.exists(path))

    def test_a_port_that_is_taken_ends_the_server_with_3(self):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            with tempfile.TemporaryDirectory() as folder:
                ended = support.subprocess.run(
                    [support.SERVER, "--grpc-address", f"127.0.0.1:{taken.getsockname()[1]}",
                     "--http-address", "127.0.0.1:0", "--address-file", f"{folder}/a"],
                    stderr=support.subprocess.PIPE, timeout=20, check=False)
            self.assertEqual(ended.returncode, 3, ended.stderr)

    def test_a_peer_that_does_not_read_is_cut_and_others_are_served_meanwhile(self):
        count = 8 << 20
        with Server("--slow-reader-timeout", "2s", "--num-workers", "2") as server:
            # The deaf peer never gives flow control back: it sends its request by hand.
            slow = Worker(server.grpc, timeout=30)
            other = Worker(server.grpc, timeout=30)
            headers, data = slow.headers("big", [count], bytes(4 * count), sequenced=False)
            waiting = other.kv.Init.future(iter(
                [other.frame([pb.PartHeader(key="big", dtype=pb.DTYPE_F32, shape=[count])], b"")]),
                timeout=30)
            slow.kv.Init(slow.frames(headers, data), timeout=30)
            waiting.result(30)
            request = slow.pull_request("big")
            before = resident(server)
            deaf = connect(server, PREFACE + SETTINGS + call("/kvstored.v1.KVStore/Pull", request))
            end = time.monotonic() + 15
            while "event=slow_reader" not in server.text():
                self.assertLess(time.monotonic(), end, server.text())
                time.sleep(0.1)
                self.assertIsNotNone(
                    other.admin.GetStore(pb.GetStoreRequest(), timeout=5).name)
            self.assertLess(resident(server) - before, 16 << 20)
            deaf.close()
            slow.close()
            other.close()


    def test_a_peer_that_pushes_and_never_reads_its_answers_is_held_back(self):
        with Server("--slow-reader-timeout", "2s") as server:
            worker = Worker(server.grpc, timeout=30)
            worker.init("k", [6], [1.0] * 6)

            def frames():
                headers, data = [], b""
                for _ in range(200):  # refused one by one: an answer each
                    headers.append(pb.PartHeader(key="nobody", dtype=pb.DTYPE_F32,
                                                 element_count=6, payload_bytes=24,
                                                 sequence=1 << 40))
                    data += bytes(24)
                frame = worker.frame(headers, data)
                while True:
                    yield frame

            before = resident(server)
            unread = worker.kv.Push(frames(), timeout=30)
            end = time.monotonic() + 15
            while "event=slow_reader" not in server.text():
                self.assertLess(time.monotonic(), end)
                time.sleep(0.1)
            self.assertLess(resident(server) - before, 32 << 20)
            with self.assertRaises(grpc.RpcError) as caught:
                for _ in unread:
                    pass
            self.assertEqual(caught.exception.code(), grpc.StatusCode.RESOURCE_EXHAUSTED)
            self.assertEqual(worker.pull("k"), {"k": [1.0] * 6})
            worker.close()


def resident(server):
    with open(f"/proc/{server.process.pid}/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def literal(name, value):
    """A header field that is not indexed (RFC 7541, 6.2.2)."""
    return (b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode())


def call(path, message):
    """HEADERS and DATA of a call on stream 1, as HTTP/2 has them."""
    headers = b"\x83\x86" + literal(":path", path) + literal(":authority", "localhost") + \
        literal("content-type", "application/grpc") + literal("te", "trailers")
    data = message.SerializeToString()
    data = b"\0" + struct.pack(">I", len(data)) + data
    return (struct.pack(">I", len(headers))[1:] + b"\x01\x04\0\0\0\x01" + headers +
            struct.pack(">I", len(data))[1:] + b"\0\0\0\0\0\x01" + data)


if __name__ == "__main__":
    support.main()
