"""Runs the fenced commands of README.md and docs/ that are marked `sh run` against a live server.

A block after it, marked `text output`, is what it must print: JSON is compared as JSON, other text
line by line without spaces at the ends; "..." stands for anything. One server and one folder per
document; the default addresses in the text are replaced by those of the server.

usage: commands_test.py BUILD_FOLDER
"""
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

import tree

BUILD = sys.argv.pop(1)
BLOCK = re.compile(r"^```([^\n]*)\n(.*?)^```\s*$", re.MULTILINE | re.DOTALL)
CTEST = re.compile(r"ctest --preset \w+ (-[RL]) ([\w-]+)")
START_SECONDS = 20


def blocks(text):
    """(line number, command, output or None) of each runnable block."""
    found = []
    for match in BLOCK.finditer(text):
        kind = match[1].strip()
        if kind == "sh run":
            found.append([text[:match.start()].count("\n") + 1, match[2], None])
        elif kind == "text output":
            found[-1][2] = match[2]
    return found


def same(wanted, got):
    """Whether the output is what the document says."""
    try:
        return json.loads(wanted) == json.loads(got)
    except ValueError:
        pass
    pattern = "\n".join(line.strip() for line in wanted.strip().split("\n"))
    text = "\n".join(line.strip() for line in got.strip().split("\n"))
    return re.fullmatch(re.escape(pattern).replace(r"\.\.\.", ".*"), text, re.DOTALL) is not None


class Server:
    def __enter__(self):
        self.folder = tempfile.mkdtemp()
        address_file = os.path.join(self.folder, "addresses.json")
        self.log = open(os.path.join(self.folder, "log"), "w+", encoding="utf-8")
        self.process = subprocess.Popen(
            [os.path.join(BUILD, "bin/kvstored"), "--grpc-address", "127.0.0.1:0",
             "--http-address", "127.0.0.1:0", "--address-file", address_file,
             "--drain-delay", "0"], stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        end = time.monotonic() + START_SECONDS
        while not os.path.exists(address_file):
            if self.process.poll() is not None or time.monotonic() > end:
                self.log.seek(0)
                raise AssertionError("the server did not start:\n" + self.log.read())
            time.sleep(0.02)
        with open(address_file, encoding="utf-8") as file:
            self.addresses = json.load(file)
        return self

    def __exit__(self, *what):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.exit_code = self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.exit_code = self.process.wait()
        self.log.close()
        shutil.rmtree(self.folder)


def run(command, server, folder):
    text = command.replace("127.0.0.1:9400", server.addresses["grpc"])
    text = text.replace("127.0.0.1:9401", server.addresses["http"])
    text = re.sub(r"(?<![\w/])build/", BUILD + "/", text)
    environment = dict(os.environ, KVCTL_ENDPOINT=server.addresses["http"],
                       KVCTL_GRPC_ENDPOINT=server.addresses["grpc"], LC_ALL="C.UTF-8")
    return subprocess.run(["bash", "-euo", "pipefail", "-c", text], cwd=folder, text=True,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, env=environment, check=False, timeout=60)


class Commands(unittest.TestCase):
    def check_document(self, path):
        found = blocks(tree.read(path))
        with Server() as server, tempfile.TemporaryDirectory() as folder:
            # A copy of what the commands name, so that nothing is written into the tree.
            for name in ("examples", "client", "api"):
                os.symlink(os.path.join(tree.ROOT, name), os.path.join(folder, name))
            for line, command, output in found:
                with self.subTest("%s:%d" % (path, line)):
                    done = run(command, server, folder)
                    self.assertEqual(0, done.returncode, command + done.stdout + done.stderr)
                    if output is not None:
                        said = "%sprinted:\n%swanted:\n%s" % (command, done.stdout, output)
                        self.assertTrue(same(output, done.stdout), said)
            self.assertIsNone(server.process.poll(), "the server has ended")
        self.assertEqual(0, server.exit_code)

    def test_the_readme_has_commands_that_run(self):
        self.assertGreater(len(blocks(tree.read("README.md"))), 3)
        self.check_document("README.md")

    def test_the_commands_of_the_documents_run(self):
        for path in tree.files(".md", under="docs"):
            if blocks(tree.read(path)):
                self.check_document(path)

    def test_every_ctest_command_of_the_documents_has_tests(self):
        wanted = [pair for path in tree.files(".md")
                  for pair in CTEST.findall(tree.read(path)) if "NAME" not in pair]
        self.assertGreater(len(wanted), 10)
        for option, pattern in wanted:
            said = subprocess.run(["ctest", "--test-dir", BUILD, "-N", option, pattern], text=True,
                                  stdout=subprocess.PIPE, check=True).stdout
            self.assertNotIn("Total Tests: 0", said, pattern)

    def test_another_output_is_seen(self):
        self.assertTrue(same('{"a": 1, "b": 2}', '{"b":2,"a":1}\n'))
        self.assertTrue(same("rank ... of 4", "rank 3 of 4\n"))
        self.assertFalse(same("rank ... of 4", "rank 3 of 5\n"))
        self.assertFalse(same('{"a": 1}', '{"a": 2}'))


tree.main()
