"""kvctl against a live server: every command, its output, its exit codes and its next steps."""

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest

import numpy

import support

PROGRAM = sys.argv.pop(1) if len(sys.argv) > 1 else str(support.BINARY / "bin" / "kvctl")
DONE, REFUSED, USAGE, UNREACHABLE, LOCAL = range(5)


class KvctlTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory(prefix="kvs-kvctl-")
        cls.unix = os.path.join(cls.folder.name, "socket")
        cls.server = support.Server("--num-workers", "2", "--unix-socket", cls.unix)

    @classmethod
    def tearDownClass(cls):
        cls.server.__exit__(None, None, None)
        cls.folder.cleanup()

    def file(self, name):
        return os.path.join(self.folder.name, name)

    def kvctl(self, *words, code=DONE, stdin=None, binary=False, **environment):
        """Runs it; (stdout, stderr). Every failure must end with a next step."""
        result = subprocess.run(
            [PROGRAM, *words], input=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            timeout=30, check=False,
            env={"KVCTL_ENDPOINT": self.server.http, "KVCTL_GRPC_ENDPOINT": self.server.grpc,
                 **environment})
        err = result.stderr.decode()
        self.assertEqual(result.returncode, code, (words, result.stdout, err))
        if code != DONE:
            self.assertRegex(err, r"(?m)^kvctl: .+\n  next: \S.*$")
        return (result.stdout if binary else result.stdout.decode()), err

    def put_text(self, key, text, *flags):
        return self.kvctl("put", key, "-", "--format", "text", *flags, stdin=text.encode())

    def store(self, num_workers=1):
        """A store of the test's own, over gRPC."""
        name = "t" + self.id().rsplit(".", 1)[1].replace("_", "-")[:60]
        stub = support.stubs.AdminStub(support.grpc.insecure_channel(self.server.grpc))
        stub.CreateStore(support.pb.CreateStoreRequest(name=name, type="dist_sync",
                                                       num_workers=num_workers))
        self.addCleanup(stub.DeleteStore, support.pb.DeleteStoreRequest(store=name))
        return name

    def test_status_tells_of_the_server_and_its_stores(self):
        name = self.store()
        out, _ = self.kvctl("status")
        self.assertRegex(out.splitlines()[0],
                         r"^kvstored \S+  epoch \d+  READY  up \S+  engine cpu")
        self.assertRegex(out, rf"(?m)^{name} +dist_sync +0/1 +fail +0 +0 B +-$")
        status = json.loads(self.kvctl("status", "-o", "json")[0])
        self.assertEqual(sorted(status), ["ready", "rounds", "server", "stores"])
        self.assertIn(name, [store["name"] for store in status["stores"]])

    def test_states_are_saved_and_loaded(self):
        name = self.store()
        saved = self.file("states.safetensors")
        self.put_text("w", "1 2 3", "--store", name)
        _, err = self.kvctl("states", "save", saved, "--store", name, code=REFUSED)
        self.assertIn("OPTIMIZER_NOT_SET", err)
        self.assertFalse(os.path.exists(saved))
        self.kvctl("optimizer", "set", "sgd", "momentum=0.9", "--store", name)
        worker = support.Worker(self.server.grpc, store=name)
        worker.push("w", [1.0, 2.0, 3.0])
        self.kvctl("states", "save", saved, "--weights", "--dump-optimizer", "--store", name)
        before = self.kvctl("get", "w", "--store", name)[0]
        worker.push("w", [1.0, 2.0, 3.0])
        worker.close()
        self.kvctl("optimizer", "set", "none", "--store", name)
        _, err = self.kvctl("states", "load", saved, "--store", name)
        self.assertIn("loaded 3 tensors; the optimizer is the file's", err)
        self.assertEqual(self.kvctl("get", "w", "--store", name)[0], before)
        self.assertIn("0.9", self.kvctl("optimizer", "get", "--store", name)[0])
        again = self.file("again.safetensors")
        self.kvctl("states", "save", again, "--weights", "--dump-optimizer", "--store", name)
        with open(saved, "rb") as one, open(again, "rb") as two:
            self.assertEqual(one.read(), two.read())
        self.put_text("more", "1", "--store", name)
        _, err = self.kvctl("states", "load", saved, "--store", name, code=REFUSED)
        self.assertRegex(err, r"(?m)^  /more::momentum_buffer is missing$")
        self.kvctl("states", "load", self.file("none"), "--store", name, code=LOCAL)
        os.mkfifo(self.file("pipe"))  # nobody will ever write to it
        _, err = self.kvctl("states", "load", self.file("pipe"), "--store", name, code=LOCAL)
        self.assertIn("no regular file", err)
        self.kvctl("states", "save", "/nowhere/x", "--store", name, code=LOCAL)

    def test_status_names_the_ranks_that_a_round_waits_for(self):
        name = self.store(num_workers=2)
        first = support.Worker(self.server.grpc, store=name, rank=0)
        second = support.Worker(self.server.grpc, store=name, rank=1)
        self.addCleanup(first.close)
        self.addCleanup(second.close)
        self.put_text("w", "1 2 3", "--store", name)
        pushing = threading.Thread(target=first.push, args=("w", [1.0, 2.0, 3.0]))
        pushing.start()
        waits = rf"(?m)^{name}: 1 open round\(s\), the oldest \S+ of key w; missing ranks: 1$"
        end = time.monotonic() + 10
        out = ""
        while not re.search(waits, out) and time.monotonic() < end:
            out, _ = self.kvctl("status", "--store", name)
        second.push("w", [1.0, 2.0, 3.0])
        pushing.join(10)
        self.assertRegex(out, waits)
        self.assertRegex(out, rf"(?m)^{name} +dist_sync +2/2 ")
        self.assertNotIn("open round", self.kvctl("status", "--store", name)[0])

    def test_a_value_goes_and_comes_as_text(self):
        self.put_text("as-text", "1 2.5 -3\n4 5 6e-3", "--shape", "2,3")
        self.assertEqual(self.kvctl("get", "as-text")[0], "1 2.5 -3\n4 5 0.006\n")
        value = json.loads(self.kvctl("get", "as-text", "-o", "json")[0])
        self.assertEqual(value["shape"], [2, 3])
        self.assertEqual(value["dtype"], "f32")
        self.assertEqual(value["values"], [1, 2.5, -3, 4, 5, 0.006])
        self.assertRegex(value["version"], r"^\d+-\d+$")

    def test_text_of_every_dtype_comes_back_as_it_was(self):
        texts = {"f32": "1.5 -0.1 3.4028235e+38", "f64": "0.1 1e-300 3", "u8": "0 7 255",
                 "i8": "-128 0 127", "i32": "-2147483648 0 2147483647",
                 "i64": "-9223372036854775808 0 9223372036854775807"}
        for dtype, text in texts.items():
            with self.subTest(dtype=dtype):
                self.put_text("dtype/" + dtype, text, "--dtype", dtype)
                self.assertEqual(self.kvctl("get", "dtype/" + dtype)[0].strip(), text)

    def test_numbers_that_do_not_fit_the_dtype_are_refused_before_sending(self):
        for dtype, text, word in (("u8", "1 256", "256"), ("i32", "1.5", "1.5"),
                                  ("f32", "1 two", "two")):
            _, err = self.kvctl("put", "bad", "-", "--format", "text", "--dtype", dtype,
                                stdin=text.encode(), code=LOCAL)
            self.assertIn(f"{word} is no {dtype}", err)
        self.kvctl("get", "bad", code=REFUSED)

    def test_safetensors_files_go_and_come(self):
        self.put_text("st", "1 2 3")
        self.kvctl("get", "st", self.file("st.safetensors"))
        with open(self.file("st.safetensors"), "rb") as file:
            content = file.read()
        header = json.loads(content[8:8 + int.from_bytes(content[:8], "little")])
        self.assertEqual(header["st"], {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]})
        self.assertEqual(numpy.frombuffer(content[-12:], "<f4").tolist(), [1, 2, 3])
        self.put_text("st", "4 5 6")
        _, err = self.kvctl("put", "st", self.file("st.safetensors"))
        self.assertIn("assigned", err)
        same, _ = self.kvctl("get", "st", "-", "--format", "safetensors", binary=True)
        self.assertEqual(same, content)
        _, err = self.kvctl("put", "other", "-", "--format", "safetensors", stdin=content,
                            code=REFUSED)
        self.assertIn('"st", not "other"', err)

    def test_npy_files_go_and_come(self):
        value = numpy.arange(24, dtype=numpy.float32).reshape(2, 3, 4) / 7
        numpy.save(self.file("sent.npy"), value)
        _, err = self.kvctl("put", "npy/key", self.file("sent.npy"))
        self.assertIn("created", err)
        _, err = self.kvctl("put", "npy/key", self.file("sent.npy"))
        self.assertIn("assigned", err)
        out, _ = self.kvctl("get", "npy/key", self.file("got.npy"))
        self.assertEqual(out, "")
        numpy.testing.assert_array_equal(numpy.load(self.file("got.npy")), value)

    def test_raw_files_go_and_come(self):
        value = numpy.arange(6, dtype=numpy.int64)
        value.tofile(self.file("sent.bin"))
        self.kvctl("put", "raw", self.file("sent.bin"), "--dtype", "i64", "--shape", "2,3")
        out, _ = self.kvctl("get", "raw", "-o", "raw", binary=True)
        self.assertEqual(out, value.tobytes())
        self.kvctl("put", "piped", "-", "--dtype", "i64", "--shape", "6", stdin=value.tobytes())
        self.assertEqual(self.kvctl("get", "piped")[0], "0 1 2 3 4 5\n")
        _, err = self.kvctl("put", "raw-without", self.file("sent.bin"), code=REFUSED)
        self.assertIn("INVALID_TENSOR", err)

    def test_a_large_value_streams_both_ways(self):
        value = numpy.random.default_rng(1).standard_normal(3_000_000).astype(numpy.float32)
        numpy.save(self.file("large.npy"), value)
        self.kvctl("put", "large", self.file("large.npy"))
        self.kvctl("get", "large", self.file("large-got.npy"))
        numpy.testing.assert_array_equal(numpy.load(self.file("large-got.npy")), value)

    def test_a_failed_get_leaves_no_file(self):
        self.kvctl("get", "no-such-key", self.file("none.npy"), code=REFUSED)
        self.assertFalse(os.path.exists(self.file("none.npy")))

    def test_put_with_an_old_version_is_refused(self):
        self.put_text("guarded", "1 2")
        version = json.loads(self.kvctl("get", "guarded", "-o", "json")[0])["version"]
        self.put_text("guarded", "3 4", "--if-match", f'"{version}"')
        _, err = self.kvctl("put", "guarded", "-", "--format", "text", "--if-match",
                            f'"{version}"', stdin=b"5 6", code=REFUSED)
        self.assertIn("ETAG_MISMATCH", err)
        self.assertEqual(self.kvctl("get", "guarded")[0], "3 4\n")

    def test_keys_lists_every_page(self):
        name = self.store()
        worker = support.Worker(self.server.grpc, store=name)
        self.addCleanup(worker.close)
        headers = []
        for i in range(2345):
            headers += worker.headers(f"k{i:04}", [1], [0.0], sequenced=False)[0]
        worker.kv.Init(worker.frames(headers, bytes(4 * len(headers))), timeout=30)
        keys = json.loads(self.kvctl("keys", "--store", name, "-o", "json")[0])
        self.assertEqual([key["key"] for key in keys], [f"k{i:04}" for i in range(2345)])

    def test_keys_takes_a_prefix_and_any_name(self):
        name = self.store()
        for i in range(12):
            self.put_text(f"layer{i}/w e ß", "1 2 3", "--store", name)
        some = json.loads(self.kvctl("keys", "--prefix", "layer1", "--store", name, "-o",
                                     "json")[0])
        self.assertEqual([key["key"] for key in some],
                         [f"layer{i}/w e ß" for i in (1, 10, 11)])
        out, _ = self.kvctl("keys", "--store", name)
        self.assertRegex(out, r"(?m)^layer3/w e ß +f32 +3 +12 B +1 +0$")
        self.assertEqual(self.kvctl("get", "layer3/w e ß", "--store", name)[0], "1 2 3\n")

    def test_the_optimizer_is_set_by_fields_json_file_and_taken_away(self):
        name = self.store()
        where = ("--store", name)
        self.assertIn("none", self.kvctl("optimizer", "get", *where)[0])
        out, _ = self.kvctl("optimizer", "set", "sgd", "learning_rate=0.1", "momentum=0.9", *where)
        self.assertRegex(out, r"(?m)^learning_rate +0\.1$")
        got = json.loads(self.kvctl("optimizer", "get", "-o", "json", *where)[0])
        self.assertEqual((got["name"], got["learning_rate"], got["momentum"]), ("sgd", 0.1, 0.9))
        self.kvctl("optimizer", "set", '{"name": "adam"}', *where)
        with open(self.file("o.json"), "w", encoding="utf-8") as file:
            json.dump({"name": "sgd", "wd": 0.25, "lr_mult": {"w": 2.0}}, file)
        self.kvctl("optimizer", "set", "@" + self.file("o.json"), *where)
        got = json.loads(self.kvctl("optimizer", "get", "-o", "json", *where)[0])
        self.assertEqual((got["name"], got["wd"], got["lr_mult"]), ("sgd", 0.25, {"w": 2.0}))
        self.kvctl("optimizer", "set", "-", *where, stdin=b'{"name": "test"}')
        self.kvctl("optimizer", "set", "none", *where)
        self.assertEqual(self.kvctl("optimizer", "get", "-o", "json", *where)[0].strip(), "null")

    def test_a_bad_optimizer_is_refused_with_its_field_named(self):
        _, err = self.kvctl("optimizer", "set", "sgd", "learning_rat=1", code=REFUSED)
        self.assertIn("INVALID_FIELD", err)
        self.assertIn('did you mean "learning_rate"', err)
        self.kvctl("optimizer", "set", "sgd", "nothing", code=USAGE)
        self.kvctl("optimizer", "set", "{", code=USAGE)
        self.kvctl("optimizer", "set", "@/nonexistent", code=LOCAL)

    def test_worker_ls_shows_ranks_and_names(self):
        name = self.store(num_workers=2)
        support.Worker(self.server.grpc, store=name, rank=1, name="trainer-b")
        out, _ = self.kvctl("worker", "ls", "--store", name)
        self.assertRegex(out, r"(?m)^ +1 +trainer-b +live +[0-9a-f]{8} ")
        workers = json.loads(self.kvctl("worker", "ls", "-o", "json", "--store", name)[0])
        self.assertEqual([worker["rank"] for worker in workers if worker["state"] == "live"], [1])

    def test_health_is_good_over_both_planes_and_the_unix_socket(self):
        self.assertEqual(self.kvctl("health")[0], "http ready\n")
        self.assertEqual(self.kvctl("health", "--rpc")[0], "http ready\ngrpc SERVING\n")
        self.kvctl("health", "--rpc", "--grpc-endpoint", "unix:" + self.unix)
        answer = json.loads(self.kvctl("health", "--rpc", "-o", "json")[0])
        self.assertEqual(answer, {"ready": True, "rpc": "SERVING"})

    def test_health_of_nothing_is_exit_code_1(self):
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            address = "127.0.0.1:%d" % unused.getsockname()[1]
            self.kvctl("health", "--endpoint", address, code=REFUSED)
            self.kvctl("health", "--rpc", "--grpc-endpoint", address, code=REFUSED)
            _, err = self.kvctl("status", "--endpoint", address, code=UNREACHABLE)
        self.assertIn(address, err)

    def test_an_http_server_that_is_no_kvstored_is_told_apart(self):
        with socket.socket() as fake:
            fake.bind(("127.0.0.1", 0))
            fake.listen(4)
            process = subprocess.Popen(
                [PROGRAM, "status", "--endpoint", "127.0.0.1:%d" % fake.getsockname()[1]],
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            peer, _ = fake.accept()
            peer.recv(4096)
            peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
            out, err = process.communicate(timeout=20)
            peer.close()
        self.assertEqual(process.returncode, REFUSED, out)
        self.assertIn("next:", err)

    def test_a_server_that_never_answers_ends_at_the_timeout(self):
        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))
            silent.listen(4)
            self.kvctl("status", "--endpoint", "127.0.0.1:%d" % silent.getsockname()[1],
                       "--timeout", "1", code=UNREACHABLE)

    def test_selftest_passes_and_leaves_nothing_behind(self):
        before = self.kvctl("status", "-o", "json")[0]
        out, _ = self.kvctl("selftest")
        self.assertTrue(all(line.startswith("ok ") for line in out.splitlines()), out)
        self.assertGreaterEqual(len(out.splitlines()), 10)
        steps = json.loads(self.kvctl("selftest", "-o", "json")[0])
        self.assertTrue(all(step["ok"] for step in steps))
        stores = [store["name"] for store in json.loads(before)["stores"]]
        after = json.loads(self.kvctl("status", "-o", "json")[0])["stores"]
        self.assertEqual([store["name"] for store in after], stores)

    def test_selftest_fails_without_gRPC_and_removes_its_store(self):
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            out, _ = self.kvctl("selftest", "--timeout", "1", "--grpc-endpoint",
                                "127.0.0.1:%d" % unused.getsockname()[1], code=REFUSED)
        self.assertIn("FAIL", out)
        names = [s["name"] for s in json.loads(self.kvctl("status", "-o", "json")[0])["stores"]]
        self.assertFalse([name for name in names if name.startswith("selftest")])

    def test_version_tells_both(self):
        out, _ = self.kvctl("version")
        self.assertRegex(out, r"^kvctl +\d+\.\d+\.\d+\nkvstored +\d+\.\d+\.\d+ ")
        both = json.loads(self.kvctl("version", "-o", "json")[0])
        self.assertEqual(sorted(both), ["kvctl", "server"])

    def test_misspelt_words_are_answered_with_the_nearest(self):
        for words, suggestion in ((("stauts",), "status"), (("optimizer", "gte"), "get"),
                                  (("status", "--endpont", "x"), "endpoint"),
                                  (("get", "w", "-o", "jsn"), "json")):
            _, err = self.kvctl(*words, code=USAGE)
            self.assertIn(f"Did you mean {suggestion}?", err)

    def test_wrong_use_is_exit_code_2(self):
        for words in (("get",), ("put", "w"), ("worker",), ("status", "-o", "yaml"),
                      ("status", "--timeout", "0"), ("status", "more"),
                      ("put", "w", "-", "--dtype", "f31"), ("put", "w", "-", "--shape", "2,")):
            self.kvctl(*words, code=USAGE)
        self.assertIn("Usage", self.kvctl("--help")[0])

    def test_results_are_on_stdout_and_chatter_on_stderr(self):
        out, err = self.put_text("quiet", "1")
        self.assertEqual(out, "")
        self.assertTrue(re.search("quiet: (created|assigned)", err))

    def test_a_store_that_is_not_there_is_named(self):
        _, err = self.kvctl("keys", "--store", "nowhere", code=REFUSED)
        self.assertIn("STORE_NOT_FOUND", err)
        self.assertIn("nowhere", err)
        _, err = self.kvctl("keys", KVCTL_STORE="nowhere", code=REFUSED)
        self.assertIn("STORE_NOT_FOUND", err)


if __name__ == "__main__":
    support.main()
