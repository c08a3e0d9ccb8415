"""The real server on free ports of 127.0.0.1, for tests in Python; needs nothing but Python."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request

SOURCE = pathlib.Path(os.environ.get("KVS_SOURCE_DIR", pathlib.Path(__file__).parents[2]))
BINARY = pathlib.Path(os.environ.get("KVS_BINARY_DIR", SOURCE / "build"))
SERVER = os.environ.get("KVSTORED", str(BINARY / "bin" / "kvstored"))
START_SECONDS = 20
# Workers made of stubs send no heartbeats: on a slow machine a test may outlast the default.
LEASE = "60s"


def skip(reason):
    print(f"skipped: {reason}")
    sys.exit(77)


class Server:
    """A kvstored on free ports; a context manager that ends it by SIGTERM and wants exit 0."""

    def __init__(self, *flags, prefix=(), exit_code=0):
        self.folder = tempfile.TemporaryDirectory(prefix="kvs-e2e-")
        self.exit_code = exit_code
        address_file = os.path.join(self.folder.name, "address")
        self.log_path = os.path.join(self.folder.name, "log")
        self.log = open(self.log_path, "wb")
        self.process = subprocess.Popen(
            [*prefix, SERVER, "--grpc-address", "127.0.0.1:0", "--http-address", "127.0.0.1:0",
             "--address-file", address_file, "--drain-delay", "0s", "--lease", LEASE, *flags],
            stderr=self.log, stdout=self.log)
        end = time.monotonic() + START_SECONDS
        while not os.path.exists(address_file):
            if self.process.poll() is not None or time.monotonic() > end:
                self.process.kill()
                self.process.wait()
                text = self.text()
                self.log.close()
                self.folder.cleanup()
                raise RuntimeError("the server did not start: " + text)
            time.sleep(0.01)
        with open(address_file, encoding="utf-8") as file:
            addresses = json.load(file)
        self.grpc = addresses["grpc"]
        self.http = addresses["http"]
        self.port = int(self.grpc.rsplit(":", 1)[1])

    def text(self):
        with open(self.log_path, encoding="utf-8", errors="replace") as file:
            return file.read()

    def stop(self, number=signal.SIGTERM, seconds=20):
        self.process.send_signal(number)
        return self.process.wait(seconds)

    def get(self, path):
        with urllib.request.urlopen(f"http://{self.http}{path}", timeout=10) as reply:
            return reply.read()

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        running = self.process.poll() is None
        code = self.stop() if running else self.process.returncode
        self.log.close()
        text = self.text()
        self.folder.cleanup()
        if kind is not None:
            sys.stderr.write(text)
        elif code != self.exit_code:
            raise AssertionError(f"exit code {code}, not {self.exit_code}:\n{text}")
