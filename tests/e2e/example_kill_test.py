"""One of four workers is killed in the middle of training: who finishes, and who is told what."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.error

import support

DATA = pathlib.Path("/usr/share/datasets/fashion-mnist")
PROGRAM = sys.argv.pop(1) if len(sys.argv) > 1 else str(support.BINARY / "bin" / "fashion_mnist")
LEASE_SECONDS = 2
WORKERS = 4
KILLED = 2
# Rounds of a tiny batch: enough of them that training lasts until after the kill.
STEPS = 40 * 64


class Training:
    """Four workers of one server."""

    def __init__(self, server):
        self.server = server
        self.folder = tempfile.TemporaryDirectory(prefix="kvs-kill-")
        self.workers = []
        for rank in range(WORKERS):
            with open(self.path(rank, "err"), "wb") as chatter, \
                    open(self.path(rank, "out"), "wb") as out:
                self.workers.append(subprocess.Popen(
                    [PROGRAM, "train", "--type", "dist_sync", "--address", server.grpc,
                     "--rank", str(rank), "--workers", str(WORKERS), "--samples", "2560",
                     "--batch", "64", "--epochs", "64", "--quiet"],
                    stdout=out, stderr=chatter))

    def path(self, rank, kind):
        return os.path.join(self.folder.name, f"{rank}.{kind}")

    def read(self, rank, kind):
        with open(self.path(rank, kind), encoding="utf-8") as file:
            return file.read()

    def result(self, rank):
        return json.loads(self.read(rank, "out").splitlines()[-1])

    def steps_done(self):
        """Versions of a key: rounds that were closed."""
        try:
            key = json.loads(self.server.get("/v1/keys/fc2_bias"))
        except urllib.error.HTTPError:
            return 0  # not made yet
        return int(key["version"]["count"])

    def kill_one(self):
        end = time.monotonic() + 30
        while self.steps_done() < 50:
            if time.monotonic() > end:
                raise AssertionError("training did not begin: " + self.read(0, "err"))
            time.sleep(0.02)
        self.workers[KILLED].send_signal(signal.SIGKILL)
        self.workers[KILLED].wait(10)
        return time.time()

    def survivors(self):
        return [rank for rank in range(WORKERS) if rank != KILLED]

    def close(self):
        for worker in self.workers:
            if worker.poll() is None:
                worker.kill()
            worker.wait(10)
        self.folder.cleanup()


def server(policy):
    return support.Server("--num-workers", str(WORKERS), "--policy", policy, "--lease",
                          f"{LEASE_SECONDS}s")


class KillTest(unittest.TestCase):
    def test_under_fail_the_others_are_told_the_rank_within_the_lease_and_a_second(self):
        with server("fail") as running:
            training = Training(running)
            self.addCleanup(training.close)
            killed = training.kill_one()
            for rank in training.survivors():
                self.assertEqual(training.workers[rank].wait(60), 1)
            for rank in training.survivors():
                told = os.path.getmtime(training.path(rank, "err"))
                self.assertLess(told - killed, LEASE_SECONDS + 1)
                words = training.read(rank, "err")
                self.assertIn("ROUND_FAILED", words)
                self.assertRegex(words, rf"rank\S* {KILLED}\b")
                self.assertFalse(training.result(rank)["done"])
            steps = training.steps_done()
            self.assertGreaterEqual(steps, 50)
            self.assertLess(steps, STEPS)
            self.assert_state_is_kept(running)

    def assert_state_is_kept(self, running):
        self.assertEqual(len(running.get("/v1/keys/fc1_weight/value?format=raw")),
                         784 * 128 * 4)
        self.assertEqual(json.loads(running.get("/v1/optimizer"))["name"], "sgd")

    def test_under_shrink_the_others_finish_with_equal_weights(self):
        with server("shrink") as running:
            training = Training(running)
            self.addCleanup(training.close)
            training.kill_one()
            for rank in training.survivors():
                self.assertEqual(training.workers[rank].wait(60), 0,
                                 training.read(rank, "err"))
            results = [training.result(rank) for rank in training.survivors()]
            self.assertEqual(len({result["weights"] for result in results}), 1)
            for result in results:
                self.assertTrue(result["done"])
                self.assertEqual(result["steps"], STEPS)
            self.assertEqual(training.steps_done(), STEPS)


if __name__ == "__main__":
    if not DATA.is_dir():
        support.skip("dataset-fashion-mnist is not installed")
    support.main()
