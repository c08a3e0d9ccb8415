"""HTTP itself: methods, media types, hosts, framing, limits, and clients that mean no good."""

import re
import socket
import threading
import time

import support
from rest_client import Rest
from support import Case, Server


class Http(Case):
    @classmethod
    def setUpClass(cls):
        cls.server = Server("--http-hosts", "kv.example, other.example")
        cls.rest = Rest(cls.server.http)

    @classmethod
    def tearDownClass(cls):
        cls.server.__exit__(None, None, None)

    def setUp(self):
        self.addCleanup(self.still_serves)

    def still_serves(self):
        self.assertEqual(self.rest.get("/livez").body, b"ok\n")

    def raw(self, data, seconds=5, half_close=True):
        """Sends bytes; what came back until the server closed or was silent."""
        host, port = self.server.http.split(":")
        with socket.create_connection((host, int(port)), timeout=seconds) as connection:
            got = b""
            try:
                connection.sendall(data)
                if half_close:
                    connection.shutdown(socket.SHUT_WR)
                while piece := connection.recv(65536):
                    got += piece
            except OSError:
                pass
            return got

    def status(self, data):
        answer = self.raw(data)
        return int(answer.split(b" ")[1]) if answer.startswith(b"HTTP/1.") else None

    def test_every_reply_has_the_headers_of_the_house(self):
        for path, status in [("/v1/type", 200), ("/nope", 404), ("/livez", 200)]:
            reply = self.rest.get(path)
            self.assertEqual(reply.status, status)
            self.assertEqual(reply.headers["Server"], "kvstored")
            self.assertEqual(reply.headers["Cache-Control"], "no-store")
            self.assertEqual(reply.headers["X-Content-Type-Options"], "nosniff")
            self.assertRegex(reply.headers["X-Request-Id"], "^[0-9a-f]{16}$")
            self.assertIsNotNone(reply.headers["Date"])

    def test_a_request_id_is_echoed_if_it_is_harmless(self):
        reply = self.rest.get("/nope", X_Request_Id="run-7.b_2")
        self.assertEqual(reply.headers["X-Request-Id"], "run-7.b_2")
        self.assertEqual((reply.json["request_id"], reply.json["instance"]),
                         ("run-7.b_2", "/nope#run-7.b_2"))
        for bad in ["a b", "x" * 65, 'a"b', ""]:
            self.assertRegex(self.rest.get("/nope", X_Request_Id=bad).headers["X-Request-Id"],
                             "^[0-9a-f]{16}$")

    def test_a_problem_has_all_of_its_members(self):
        reply = self.rest.get("/v1/keys/nokey")
        self.assertEqual((reply.status, reply.type), (404, "application/problem+json"))
        problem = reply.json
        self.assertEqual((problem["type"], problem["title"], problem["status"], problem["code"],
                          problem["reason"]),
                         ("https://kvstored.dev/problems/key-not-found", "No such key", 404,
                          "NOT_FOUND", "KEY_NOT_FOUND"))
        self.assertIn("nokey", problem["detail"])

    def test_another_method_is_told_what_the_path_has(self):
        for method in ["DELETE", "PATCH", "TRACE", "POST"]:
            reply = self.rest.ask(method, "/v1/type", b"")
            self.assertEqual((reply.status, reply.headers["Allow"]), (405, "GET, HEAD, OPTIONS"))
        reply = self.rest.ask("OPTIONS", "/v1/keys/a/value")
        self.assertEqual((reply.status, reply.headers["Allow"]), (204, "GET, HEAD, PUT, OPTIONS"))
        self.assertEqual(self.rest.ask("OPTIONS", "*").status, 204)
        self.assertEqual(self.rest.ask("OPTIONS", "/nope").status, 404)

    def test_head_is_get_without_the_body(self):
        for path in ["/v1/type", "/metrics", "/openapi.yaml", "/", "/version"]:
            get, head = self.rest.get(path), self.rest.ask("HEAD", path)
            self.assertEqual((head.status, head.body, head.type), (200, b"", get.type))

    def test_accept_is_obeyed(self):
        for path, good in [("/v1/type", "application/json"), ("/metrics", "text/plain"),
                           ("/openapi.yaml", "application/yaml")]:
            self.assertEqual(self.rest.get(path, Accept=good).status, 200)
            self.assertEqual(self.rest.get(path, Accept="image/png, */*;q=0.1").status, 200)
            reply = self.rest.get(path, Accept="image/png")
            self.assertEqual((reply.status, reply.reason), (406, "NOT_ACCEPTABLE"))

    def test_mutations_want_json(self):
        for media in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"]:
            reply = self.rest.ask("POST", "/v1/stores", b'{"name": "csrf"}',
                                  {"Content-Type": media})
            self.assertEqual((reply.status, reply.reason), (415, "MEDIA_TYPE"))
        self.assertEqual(self.rest.ask("POST", "/v1/stores", b'{"name": "csrf"}').status, 415)
        self.assertEqual(self.rest.get("/v1/stores/csrf").status, 404)
        reply = self.rest.ask("POST", "/v1/stores", b"x", {"Content-Type": "application/json",
                                                           "Content-Encoding": "gzip"})
        self.assertEqual(reply.status, 415)

    def test_a_host_that_is_not_ours_is_refused(self):
        for host in ["evil.example", "kv.example.evil", "localhost.evil.example:9401", "a b"]:
            reply = self.rest.get("/v1/type", Host=host)
            self.assertEqual((reply.status, reply.reason), (421, "HOST_REFUSED"), host)
        for host in ["localhost", "localhost:9401", "127.0.0.1:1", "[::1]:9401", "kv.example",
                     "OTHER.example:80", "192.0.2.7"]:
            self.assertEqual(self.rest.get("/v1/type", Host=host).status, 200, host)

    def test_a_target_in_absolute_form_is_served(self):
        self.assertEqual(self.status(b"GET http://localhost/v1/type HTTP/1.1\r\n"
                                     b"Host: localhost\r\n\r\n"), 200)
        self.assertEqual(self.status(b"GET http://evil.example/v1/type HTTP/1.1\r\n"
                                     b"Host: localhost\r\n\r\n"), 421)

    def test_unknown_parameters_and_broken_json_are_refused(self):
        reply = self.rest.get("/v1/keys?prefx=a")
        self.assertEqual((reply.status, reply.reason), (422, "INVALID_FIELD"))
        self.assertIn("prefix", reply.json["detail"])
        self.assertEqual(self.rest.get("/v1/keys?prefix=a&prefix=b").status, 422)
        self.assertEqual(self.rest.get("/v1/keys?prefix=%zz").status, 400)
        self.assertEqual(self.rest.get("/v1/type?x").status, 422)
        for body, status in [(b"", 400), (b"{", 400), (b'{"name": "a", "name": "b"}', 400),
                             (b"[" * 100000, 400), (b'{"name": "\xff"}', 400), (b"[]", 422),
                             (b'{"store": "x"}', 422), (b'{"a": 1} x', 400)]:
            reply = self.rest.ask("POST", "/v1/stores", body, {"Content-Type": "application/json"})
            self.assertEqual(reply.status, status, body[:40])

    def test_bodies_have_bounds(self):
        json = {"Content-Type": "application/json"}
        reply = self.rest.ask("POST", "/v1/stores", None,
                              {**json, "Content-Length": str(2 << 20)})
        self.assertEqual((reply.status, reply.reason), (413, "TOO_LARGE"))
        reply = self.rest.ask("PUT", "/v1/keys/a/value", None,
                              {"Content-Length": str(1 << 40)})
        self.assertEqual((reply.status, reply.reason), (413, "TOO_LARGE"))
        chunk = b"%x\r\n%s\r\n" % (65536, b" " * 65536)
        answer = self.raw(b"POST /v1/stores HTTP/1.1\r\nHost: localhost\r\n"
                          b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
                          + chunk * 20 + b"0\r\n\r\n")
        self.assertIn(b" 413 ", answer.split(b"\r\n")[0])
        self.assertEqual(self.rest.ask("GET", "/v1/type", b"x").status, 400)

    def test_requests_whose_end_is_unclear_are_refused(self):
        head = b"POST /v1/stores HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        smuggled = b'{"name": "smuggled"}'
        for framing in [b"Content-Length: 2\r\nContent-Length: 3\r\n",
                        b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n",
                        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
                        b"Transfer-Encoding: xchunked\r\n", b"Content-Length: -1\r\n",
                        b"Content-Length: 0x5\r\n", b"Content-Length: 5 5\r\n"]:
            answer = self.raw(head + framing + b"\r\n" + smuggled)
            self.assertIn(b" 400 ", answer.split(b"\r\n")[0], framing)
            # libmicrohttpd prints the head of its own refusals twice; no second request is read.
            self.assertEqual(answer.count(b"HTTP/1.1 "), answer.count(b"HTTP/1.1 400 "), framing)
        self.assertEqual(self.status(b"GET /v1/type HTTP/1.1\r\nHost: a\r\n"
                                     b"Host: localhost\r\n\r\n"), 400)
        self.assertEqual(self.rest.get("/v1/stores/smuggled").status, 404)

    def test_garbage_and_giants_get_a_refusal_or_a_closed_door(self):
        get = b"GET /v1/type HTTP/1.1\r\nHost: localhost\r\n"
        # None: closed while some of ours was unread, the kernel resets, and the answer is lost.
        self.assertIn(self.status(get + b"X: " + b"a" * 40000 + b"\r\n\r\n"), (431, None))
        self.assertIn(self.status(b"GET /" + b"a" * 40000 + b" HTTP/1.1\r\nHost: a\r\n\r\n"),
                      (414, 431, None))
        self.assertEqual(self.status(b"GET /v1/type HTTP/1.1\r\n\r\n"), 400)
        self.assertIn(self.status(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), (400, 505))
        for data in [b"\x16\x03\x01\x02\x00\x01\x00" * 10, b"\x00" * 1000, b"\r\n\r\n\r\n", b""]:
            self.raw(data)
        self.assertEqual(self.rest.get("/v1/type").status, 200)

    def test_requests_on_one_connection_are_answered_in_order(self):
        answer = self.raw(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
                          b"GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n"
                          b"GET /v1/type HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
                          half_close=False)
        statuses = re.findall(rb"HTTP/1.1 (\d+) ", answer)
        self.assertEqual(statuses, [b"200"] * 3)

    def test_a_stalled_body_is_given_up(self):
        host, port = self.server.http.split(":")
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            connection.sendall(b"POST /v1/stores HTTP/1.1\r\nHost: localhost\r\n"
                               b"Content-Type: application/json\r\nContent-Length: 20\r\n\r\n{")
            begun = time.monotonic()
            self.assertEqual(connection.recv(1), b"")
            self.assertLess(time.monotonic() - begun, 20)

    def test_hundreds_of_silent_connections_do_not_keep_the_door_shut(self):
        host, port = self.server.http.split(":")
        silent = []
        for _ in range(400):
            try:
                connection = socket.create_connection((host, int(port)), timeout=5)
                connection.sendall(b"GET /v1/type HTTP/1.1\r\n")
                silent.append(connection)
            except OSError:
                break
        for connection in silent:
            connection.close()
        end = time.monotonic() + 15
        while True:
            try:
                self.assertEqual(self.rest.get("/livez").status, 200)
                break
            except OSError:
                self.assertLess(time.monotonic(), end)
                time.sleep(0.1)

    def test_many_at_once_are_all_answered(self):
        bad = []

        def ask():
            for _ in range(20):
                reply = self.rest.get("/v1/stores")
                if reply.status != 200:
                    bad.append(reply)

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(bad, [])

    def test_the_metrics_are_in_prometheus_form(self):
        text = self.rest.get("/metrics").body.decode()
        helped, typed = set(), set()
        for line in text.splitlines():
            if line.startswith("# HELP "):
                helped.add(line.split()[2])
            elif line.startswith("# TYPE "):
                self.assertIn(line.split()[3], ("counter", "gauge"))
                typed.add(line.split()[2])
            else:
                self.assertRegex(line, r'^[a-z_]+(\{[a-z]+="[^"]*"(,[a-z]+="[^"]*")*\})? '
                                       r'[0-9.e+-]+$')
                self.assertIn(line.split("{")[0].split(" ")[0], typed)
        self.assertEqual(helped, typed)
        self.assertIn("kvstored_connections", typed)


if __name__ == "__main__":
    support.main()
