"""What the tests of the Python package share: the package, a server, words for what is expected.

The package is found by PYTHONPATH, the library by KVSTORE_LIBRARY (tests/python/CMakeLists.txt).
"""

import contextlib
import json
import pathlib
import sys
import threading
import unittest
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "e2e"))
from server import SOURCE, Server, skip  # noqa: E402, F401

try:
    import numpy
except ImportError:
    skip("numpy is not installed (python3-numpy)")
import kvstored  # noqa: E402


class Case(unittest.TestCase):
    @contextlib.contextmanager
    def refused(self, reason, words=""):
        """The block ends by a KVStoreError of that reason, whose text has the words."""
        with self.assertRaises(kvstored.KVStoreError) as caught:
            yield caught
        self.assertEqual(reason, caught.exception.reason)
        self.assertIn(words, str(caught.exception))

    def assert_array(self, expected, got):
        numpy.testing.assert_array_equal(got, numpy.broadcast_to(expected, numpy.shape(got)))


def create_store(server, name, **settings):
    """Another store at the server, by REST."""
    request = urllib.request.Request(
        f"http://{server.http}/v1/stores", json.dumps({"name": name, **settings}).encode(),
        {"Content-Type": "application/json"}, method="POST")
    with urllib.request.urlopen(request, timeout=20) as reply:
        reply.read()


def delete_store(server, name):
    request = urllib.request.Request(f"http://{server.http}/v1/stores/{name}", method="DELETE")
    with urllib.request.urlopen(request, timeout=20) as reply:
        reply.read()


def together(*functions):
    """Runs each on a thread of its own; returns what they return, raises what the first raises."""
    results = [None] * len(functions)
    errors = []

    def run(i):
        try:
            results[i] = functions[i]()
        except BaseException as error:  # noqa: B036 (handed on below)
            errors.append(error)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(functions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results


def main():
    unittest.main(verbosity=2)
