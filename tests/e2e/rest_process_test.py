"""The process: configuration, exit codes, signals, epochs, the address file."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import tempfile
import threading
import time

import support
from rest_client import Rest
from support import Case, Server


def run(*flags, environment=None, seconds=20):
    return subprocess.run([support.SERVER, *flags], capture_output=True, text=True, timeout=seconds,
                          env={**os.environ, **(environment or {})}, check=False)


class Configuration(Case):
    def test_check_config_tells_by_its_exit_code(self):
        self.assertEqual(run("--check-config").returncode, 0)
        bad = run("--check-config", "--num-worker", "2")
        self.assertEqual(bad.returncode, 2)
        self.assertIn("did you mean --num-workers?", bad.stderr)
        bad = run("--check-config", environment={"KVSTORED_LEASE": "soon"})
        self.assertEqual(bad.returncode, 2)

    def test_print_config_shows_each_value_and_its_source(self):
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump({"lease": "3s", "num_workers": 4, "shards": 2}, file)
            file.flush()
            out = run("--config", file.name, "--shards", "8", "--print-config",
                      environment={"KVSTORED_NUM_WORKERS": "6"})
        rows = {line.split()[0]: line.split()[1:] for line in out.stdout.splitlines()}
        self.assertEqual(rows["lease"], ["3s", "file"])
        self.assertEqual(rows["num-workers"], ["6", "environment"])
        self.assertEqual(rows["shards"], ["8", "flag"])
        self.assertEqual(rows["policy"], ["fail", "default"])

    def test_help_names_every_setting(self):
        text = run("--help").stdout
        for line in run("--print-config").stdout.splitlines():
            self.assertIn("--" + line.split()[0], text)
        self.assertRegex(run("--version").stdout, r"^kvstored \d+\.\d+\.\d+\n$")

    def test_other_machines_are_let_in_only_when_that_is_said(self):
        for flag in ["--grpc-address", "--http-address"]:
            refused = run(flag, "0.0.0.0:0")
            self.assertEqual(refused.returncode, 2)
            self.assertIn("--insecure-allow-remote", refused.stderr)
        self.assertEqual(run("--http-address", "0.0.0.0:0", "--insecure-allow-remote",
                             "--check-config").returncode, 0)

    def test_an_address_in_use_is_exit_code_3(self):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            address = "127.0.0.1:%d" % taken.getsockname()[1]
            for flags in [("--grpc-address", address, "--http-address", "127.0.0.1:0"),
                          ("--grpc-address", "127.0.0.1:0", "--http-address", address)]:
                out = run(*flags)
                self.assertEqual(out.returncode, 3, out.stderr)
                self.assertIn(address, out.stderr)

    def test_a_data_folder_that_cannot_be_had_is_exit_code_4(self):
        with tempfile.TemporaryDirectory() as folder:
            file = pathlib.Path(folder, "file")
            file.write_text("x")
            self.assertEqual(run("--data-dir", str(file)).returncode, 4)
            with Server("--data-dir", folder):
                second = run("--data-dir", folder, "--grpc-address", "127.0.0.1:0",
                             "--http-address", "127.0.0.1:0")
                self.assertEqual(second.returncode, 4)
                self.assertIn("another server", second.stderr)

    def test_an_engine_that_is_not_there_is_an_error(self):
        out = run("--grpc-address", "127.0.0.1:0", "--http-address", "127.0.0.1:0",
                  environment={"KVSTORED_CPU": "mmx", "KVSTORED_ENGINE": "cpu"})
        self.assertEqual(out.returncode, 2, out.stderr)
        # Without a card, or without CUDA in the build.
        out = run("--engine", "cuda", "--grpc-address", "127.0.0.1:0", "--http-address",
                  "127.0.0.1:0", environment={"CUDA_VISIBLE_DEVICES": ""})
        self.assertEqual(out.returncode, 6, out.stderr)
        self.assertIn("the CUDA engine does not start: ", out.stderr)


class Life(Case):
    def test_the_epoch_grows_with_each_start_on_a_folder(self):
        with tempfile.TemporaryDirectory() as folder:
            pathlib.Path(folder, "epoch").write_text("99999999999\n")
            for expected in ["100000000000", "100000000001"]:
                with Server("--data-dir", folder) as server:
                    self.assertEqual(Rest(server.http).get("/version").json["epoch"], expected)

    def test_settings_reach_the_default_store(self):
        with Server("--store-type", "dist_async", "--num-workers", "3", "--policy", "wait",
                    "--lease", "4s", "--round-deadline", "5s", "--barrier-deadline",
                    "6s") as server:
            store = Rest(server.http).get("/v1/stores/default").json
            self.assertEqual((store["type"], store["num_workers"], store["policy"],
                              store["lease_ms"], store["round_deadline_ms"],
                              store["barrier_deadline_ms"]),
                             ("dist_async", 3, "wait", "4000", "5000", "6000"))

    def test_sigterm_and_sigint_end_with_0(self):
        for number in [signal.SIGTERM, signal.SIGINT]:
            server = Server()
            self.assertEqual(server.stop(number), 0)
            server.__exit__(None, None, None)

    def test_sigterm_ends_with_0_while_a_worker_and_a_curl_are_connected(self):
        server = Server("--num-workers", "2")
        rest = Rest(server.http)
        replies = []
        with support.Worker(server.grpc) as worker:
            worker.init("w", [4], [0.0] * 4) if worker.rank == 0 else None
            waiting = threading.Thread(target=lambda: replies.append(
                rest.post("/v1/stores/default/barriers", {"rank": 1})))
            waiting.start()
            end = time.monotonic() + 5
            while not rest.get("/v1/stores/default/barriers").json["barriers"]:
                self.assertLess(time.monotonic(), end)
            begun = time.monotonic()
            code = server.stop()
            self.assertLess(time.monotonic() - begun, 8)
            waiting.join(10)
        self.assertEqual(code, 0, server.text())
        self.assertEqual((replies[0].status, replies[0].reason), (503, "STOPPING"))
        server.__exit__(None, None, None)

    def test_readiness_ends_before_the_doors_close(self):
        server = Server("--drain-delay", "4s")
        rest = Rest(server.http)
        end = time.monotonic() + 10
        while rest.get("/readyz").status != 200:  # its first probe is under way
            self.assertLess(time.monotonic(), end)
            time.sleep(0.01)
        server.process.send_signal(signal.SIGTERM)
        end = time.monotonic() + 3.5
        while (reply := rest.get("/readyz")).status == 200:
            self.assertLess(time.monotonic(), end)
            time.sleep(0.01)
        self.assertEqual(reply.status, 503)
        self.assertEqual(rest.get("/livez").status, 200)
        self.assertIn(b"[-]grpc", rest.get("/readyz?verbose").body)
        self.assertEqual(server.process.wait(20), 0)
        server.__exit__(None, None, None)

    def test_a_second_signal_does_not_wait(self):
        server = Server("--drain-delay", "60s", exit_code=9)
        server.process.send_signal(signal.SIGTERM)
        end = time.monotonic() + 5
        while "event=drain" not in server.text():
            self.assertLess(time.monotonic(), end)
            time.sleep(0.01)
        begun = time.monotonic()
        self.assertEqual(server.stop(), 9)
        self.assertLess(time.monotonic() - begun, 5)
        server.__exit__(None, None, None)

    def test_sighup_and_sigpipe_change_nothing(self):
        with Server() as server:
            for number in [signal.SIGHUP, signal.SIGPIPE]:
                server.process.send_signal(number)
            time.sleep(0.1)
            self.assertEqual(Rest(server.http).get("/livez").status, 200)

    def test_the_banner_says_how_to_connect(self):
        with Server() as server:
            text = server.text()
            self.assertIn(server.grpc, text)
            self.assertIn(f"curl http://{server.http}/", text)


if __name__ == "__main__":
    support.main()
