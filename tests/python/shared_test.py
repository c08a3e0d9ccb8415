"""Arrays in memory that the server shares: no bytes of them are sent."""

import gc
import os
import tempfile

import numpy

import case
import kvstored


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
