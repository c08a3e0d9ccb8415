"""Arrays in memory that the server shares: no bytes of them are sent."""

import gc
import os
import re
import tempfile
import time
import urllib.request

import numpy

import case
import kvstored


def metric(server, name):
    with urllib.request.urlopen(f"http://{server.http}/metrics", timeout=20) as reply:
        return float(re.search(f"^{name} (.*)$", reply.read().decode(), re.M).group(1))


class Shared(case.Case):
    def test_a_push_of_such_an_array_sends_no_bytes(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "socket")
            with case.Server("--unix-socket", path, "--allow-client-shm"), \
                    kvstored.create("dist_sync", f"unix:{path}") as kv:
                gradient = kv.empty((512, 512))
                self.assertEqual(0, gradient.__array_interface__["data"][0] % 64)
                kv.init("w", numpy.zeros((512, 512), "float32"))
                before = kv.statistics()
                gradient[:] = 3
                out = numpy.zeros((512, 512), "float32")
                kv.push("w", gradient)
                kv.pull("w", out)
                self.assert_array(3, out)
                gradient[:] = 4
                kv.push("w", gradient[:])       # a view of it
                kv.pull("w", out)
                self.assert_array(4, out)
                kv.push("w", out)               # copied, to the same memory
                kv.wait()
                after = kv.statistics()
                self.assertEqual(before["bytes_sent"], after["bytes_sent"])
                self.assertEqual(3 << 20, after["bytes_shared"] - before["bytes_shared"])
                self.assertEqual(before["bytes_received"], after["bytes_received"])
                self.assertEqual(2 << 20, after["bytes_mapped"] - before["bytes_mapped"])
                # Far more than the server shares, if it were not given back.
                for _ in range(200):
                    kv.empty(4 << 20)[0] = 1
                    gc.collect()
            gradient[:] = 5                     # it outlives store and server
            self.assertEqual(5 * 512 * 512, gradient.sum())

    def check_view(self, kv, shape, dtype):
        count = int(numpy.prod(shape))
        values = (numpy.arange(count) % 251).astype(dtype).reshape(shape)
        key = f"{dtype}{len(shape)}{count}"
        kv.init(key, values)
        before = kv.statistics()
        view = kv.view(key)
        self.assertEqual((shape, dtype), (view.shape, str(view.dtype)))
        self.assert_array(values, view)
        with self.assertRaises(ValueError):
            view[...] = 0
        if dtype.startswith("f"):       # without an optimizer the sum is the value
            kv.push(key, (values + 1).astype(dtype))
            kv.push(key, (values + 2).astype(dtype))
            again = kv.view(key)        # after the pushes, which it waits for
            self.assert_array(values + 2, again)
            self.assert_array(values, view)
        self.assertEqual(before["bytes_received"], kv.statistics()["bytes_received"])

    def test_a_view_is_the_servers_own_memory(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "socket")
            with case.Server("--unix-socket", path, "--allow-client-shm") as server, \
                    kvstored.create("dist_sync", f"unix:{path}") as kv:
                for shape in ((1 << 20,), (1000, 300), (5, 7, 11), (), (3, 0)):
                    for dtype in ("float32", "float64", "float16", "uint8", "int64"):
                        with self.subTest(shape=shape, dtype=dtype):
                            self.check_view(kv, shape, dtype)
                sparse = numpy.arange(3000, dtype="float32").reshape(1000, 3)
                kv.init("rows", kvstored.RowSparse.from_dense(sparse))
                self.assert_array(sparse, kv.view("rows"))
                gc.collect()
                # What is left is what pushes are copied to.
                pushes = metric(server, "kvstored_shm_regions") * (64 << 20)
                end = time.monotonic() + 10
                while metric(server, "kvstored_shm_bytes") > pushes:
                    self.assertLess(time.monotonic(), end)
                large = kv.view("float321" + str(1 << 20))
                self.assertEqual(pushes + (4 << 20), metric(server, "kvstored_shm_bytes"))
                with self.refused("KEY_NOT_FOUND"):
                    kv.view("nobody")
                with self.refused("INVALID_FIELD"):
                    kv.view(["a"])
            self.assertEqual(1 << 20, len(large))   # it outlives store and server

    def test_a_view_is_a_copy_where_nothing_is_shared(self):
        with case.Server() as server, kvstored.create("dist_sync", server.grpc) as kv:
            kv.init("w", numpy.arange(300000, dtype="float32"))
            self.assert_array(numpy.arange(300000), kv.view("w"))
        with kvstored.create("local") as kv:
            for shape in ((300000,), (2, 3), ()):
                kv.init(str(len(shape)), numpy.full(shape, 3, "float64"))
                view = kv.view(str(len(shape)))
                kv.push(str(len(shape)), numpy.full(shape, 4, "float64"))
                self.assert_array(3, view)
                self.assertEqual(shape, view.shape)
            with self.refused("KEY_NOT_FOUND"):
                kv.view("nobody")

    def test_elsewhere_it_is_an_array_like_any_other(self):
        for type_, flags in (("local", None), ("dist_sync", ())):
            with self.subTest(type_):
                server = case.Server(*flags) if flags is not None else None
                with kvstored.create(type_, server.grpc if server else None) as kv:
                    kv.init("w", numpy.zeros(3, "float64"))
                    value = kv.empty(3, "float64")
                    value[:] = [1, 2, 3]
                    out = numpy.zeros(3, "float64")
                    kv.push("w", value)
                    kv.pull("w", out)
                    self.assert_array([1, 2, 3], out)
                    self.assertEqual(0, kv.statistics()["bytes_shared"])
                    self.assertEqual((0, 4), kv.empty((0, 4)).shape)
                if server:
                    server.__exit__(None, None, None)


if __name__ == "__main__":
    case.main()
