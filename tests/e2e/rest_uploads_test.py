"""Uploads: a refusal reaches whoever sends to the end; whoever stalls keeps nothing."""

import http.client
import socket
import threading
import time

import support
from rest_client import Rest
from support import Case, Server, grpc, pb, stubs

MIB = 1 << 20
RAW = {"Content-Type": "application/octet-stream"}


def send_all(address, path, body, headers):
    """As a plain client does it: everything, and then the reply. Its bytes in pieces, as HTTP sends
    them of a body whose length is not known, when `body` is a list."""
    chunked = isinstance(body, list)
    connection = http.client.HTTPConnection(address, timeout=30)
    try:
        connection.request("PUT", path, iter(body) if chunked else body, headers,
                           encode_chunked=chunked)
        reply = connection.getresponse()
        return reply.status, reply.read()
    finally:
        connection.close()


class Uploads(Case):
    @classmethod
    def setUpClass(cls):
        cls.server = Server("--slow-reader-timeout", "1s", "--num-workers", "1")
        cls.rest = Rest(cls.server.http)
        cls.rest.put("/v1/keys/w/value?format=raw&dtype=f32&shape=2", bytes(8), **RAW)

    @classmethod
    def tearDownClass(cls):
        cls.server.__exit__(None, None, None)

    def test_a_refusal_arrives_however_long_the_value_is(self):
        path = "/v1/keys/w/value"
        chunked = {**RAW, "Transfer-Encoding": "chunked"}
        npy = b"\x93NUMPY\x01\x00" + b"v\x00" + b"{'descr': '<f4', 'fortran_order': False, " \
            b"'shape': (2,), }".ljust(117) + b"\n"
        cases = [
            ("too long, as announced", path + "?format=raw", bytes(16 * MIB), RAW, 413),
            ("no such store", "/v1/stores/none/keys/w/value", bytes(16 * MIB), RAW, 404),
            ("another version", path, bytes(16 * MIB), {**RAW, "If-Match": '"none"'}, 412),
            ("the head promises less", path, npy + bytes(16 * MIB),
             {"Content-Type": "application/x-npy"}, 400),
            ("too long, in pieces", path, [bytes(MIB)] * 16, chunked, 413),
            ("no store, in pieces", "/v1/stores/none/keys/w/value", [bytes(MIB)] * 16, chunked,
             404),
            ("no states", "/v1/optimizer/states", bytes(16 * MIB), RAW, 400),
        ]
        for name, target, body, headers, wanted in cases:
            with self.subTest(name):
                status, text = send_all(self.server.http, target, body, headers)
                self.assertEqual(status, wanted, text)

    def test_a_client_that_waits_to_send_is_told_before(self):
        with socket.create_connection(self.server.http.split(":"), timeout=10) as client:
            client.sendall(b"PUT /v1/keys/w/value?format=raw HTTP/1.1\r\nHost: " +
                           self.server.http.encode() + b"\r\nContent-Length: 99999999\r\n"
                           b"Content-Type: application/octet-stream\r\n"
                           b"Expect: 100-continue\r\n\r\n")
            self.assertIn(b" 413 ", client.recv(4096).split(b"\r\n")[0])

    def test_an_upload_that_trickles_is_given_up(self):
        for path in ["/v1/keys/w/value?format=npy", "/v1/optimizer/states"]:
            with self.subTest(path), \
                    socket.create_connection(self.server.http.split(":"), timeout=10) as client:
                client.sendall(f"PUT {path} HTTP/1.1\r\nHost: {self.server.http}\r\n"
                               "Content-Length: 1000000\r\n\r\n".encode())
                client.sendall(b"\x93NUMPY" if "npy" in path else bytes([9] * 2 + [0] * 6))
                end = time.monotonic() + 8
                with self.assertRaises(ConnectionError):
                    while time.monotonic() < end:
                        client.sendall(b"\x01")
                        time.sleep(0.2)

    def test_an_upload_by_grpc_that_stalls_is_given_up(self):
        with grpc.insecure_channel(self.server.grpc) as channel:
            admin = stubs.AdminStub(channel)
            ended = threading.Event()

            def stalling(first):
                yield first
                ended.wait(30)

            calls = [(admin.PutValue, pb.PutValueChunk(key="w", data=b"\x93NUMPY")),
                     (admin.LoadOptimizerStates, pb.DataChunk(data=bytes([9] + [0] * 7)))]
            try:
                for call, first in calls:
                    began = time.monotonic()
                    with self.assertRaises(grpc.RpcError) as caught:
                        call(stalling(first), timeout=20)
                    self.assertEqual(caught.exception.code(), grpc.StatusCode.DEADLINE_EXCEEDED)
                    self.assertIn("nothing has come for", caught.exception.details())
                    self.assertLess(time.monotonic() - began, 10)
            finally:
                ended.set()


if __name__ == "__main__":
    support.main()
