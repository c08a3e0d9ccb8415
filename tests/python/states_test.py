"""Optimizer states on disk and gradient compression, from Python."""

import os
import pathlib
import signal
import tempfile

import numpy

import case
import kvstored

RULE = kvstored.optimizer.SGD(learning_rate=0.5, momentum=0.5)


def ones():
    return numpy.ones(4, "float32")


class States:
    """`open` gives a store without keys."""

    def trained(self, kv, pushes=3):
        kv.init("w", ones())
        kv.set_optimizer(RULE)
        for _ in range(pushes):
            kv.push("w", ones())

    def value(self, kv):
        out = numpy.zeros(4, "float32")
        kv.pull("w", out)
        return out

    def test_training_goes_on_from_a_file(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "states.safetensors")
            first = self.open()
            self.trained(first)
            weights = self.value(first)
            first.save_optimizer_states(path, dump_optimizer=True)
            first.push("w", ones())
            expected = self.value(first)
            second = self.open()
            second.init("w", weights)
            second.load_optimizer_states(pathlib.Path(path))
            self.assertEqual(first.get_optimizer(), second.get_optimizer())
            second.push("w", ones())
            self.assert_array(expected, self.value(second))

    def test_progress_is_told_and_its_exception_raised(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "states.safetensors")
            kv = self.open()
            self.trained(kv)
            seen = []
            kv.save_optimizer_states(path, progress=lambda *given: seen.append(given))
            self.assertEqual((os.path.getsize(path),) * 2, seen[-1])
            seen.clear()
            kv.load_optimizer_states(path, progress=lambda *given: seen.append(given))
            self.assertEqual((os.path.getsize(path),) * 2, seen[-1])
            with self.assertRaises(ZeroDivisionError):
                kv.load_optimizer_states(path, progress=lambda done, total: done / 0)

    def test_a_file_that_does_not_fit_changes_nothing(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "states.safetensors")
            first = self.open()
            self.trained(first)
            first.save_optimizer_states(path)
            second = self.open()
            second.init("other", ones())
            second.set_optimizer(RULE)
            with self.refused("STATES_MISMATCH") as caught:
                second.load_optimizer_states(path)
            for name in ("w::step", "w::momentum_buffer"):
                self.assertIn(f'"{name}" is nothing that the store has', str(caught.exception))
            for name in ("other::step", "other::momentum_buffer"):
                self.assertIn(f'"{name}" is missing', str(caught.exception))
            with self.assertRaises(kvstored.KVStoreError):
                second.load_optimizer_states(os.path.join(folder, "nothing"))


class LocalStates(States, case.Case):
    def open(self):
        kv = kvstored.create("local")
        self.addCleanup(kv.close)
        return kv


class DistributedStates(States, case.Case):
    def open(self):
        server = case.Server()
        self.addCleanup(server.__exit__, None, None, None)
        kv = kvstored.create("dist_sync", server.grpc)
        self.addCleanup(kv.close)
        return kv


class Compression(case.Case):
    GIVEN = numpy.array([0.6, -0.6, 0.3, 0.1], "float32")

    def check(self, kv):
        """The seed's 2bit: what is left out is added to the next gradient."""
        kv.set_gradient_compression({"type": "2bit", "threshold": 0.5})
        kv.init("w", ones())
        out = numpy.zeros(4, "float32")
        kv.pull("w", out)
        self.assert_array(1, out)
        kv.pushpull("w", self.GIVEN.copy(), out=out)
        self.assert_array(numpy.array([0.5, -0.5, 0, 0], "float32"), out)
        kv.pushpull("w", self.GIVEN.copy(), out=out)
        self.assert_array(numpy.array([0.5, -0.5, 0.5, 0], "float32"), out)

    def test_between_devices(self):
        with kvstored.create("device") as kv:
            self.check(kv)

    def test_to_a_server(self):
        with case.Server() as server, kvstored.create("dist_sync", server.grpc) as kv:
            self.check(kv)

    def test_values_are_pulled_in_fewer_bytes(self):
        value = numpy.array([1 / 3, -2 / 3, 1e-3, 127], "float32")
        cut = (value.view("u4") + 0x7fff + (value.view("u4") >> 16 & 1)) & 0xffff0000
        with case.Server() as server, kvstored.create("dist_sync", server.grpc) as kv:
            kv.init("w", value)
            kv.init("rows", kvstored.RowSparse([1], value[None], (3, 4)))
            out, rows = numpy.zeros(4, "float32"), kvstored.RowSparse.zeros((3, 4))
            for pull, expected in (("bf16", cut.view("f4")),
                                   ("fp16", value.astype("float16").astype("float32")),
                                   ("int8", numpy.array([0, -1, 0, 127], "float32")),
                                   ("none", value)):
                kv.set_gradient_compression({"pull": pull})
                kv.pull("w", out)
                self.assert_array(expected, out)
                kv.row_sparse_pull("rows", rows, [1])
                self.assert_array(expected, rows.values[0])
            with self.refused("INVALID_FIELD", "bf16"):
                kv.set_gradient_compression({"pull": "2bit"})

    def test_what_the_server_was_not_told_is_not_set(self):
        with case.Server() as server:
            with kvstored.create("dist_sync", server.grpc, request_timeout=1) as kv:
                kv.init("w", numpy.ones(4))
                server.process.send_signal(signal.SIGSTOP)
                with self.refused("DEADLINE"):
                    kv.set_gradient_compression({"type": "2bit"})
                server.process.send_signal(signal.SIGCONT)
                kv.push("w", numpy.ones(4), wait=True)  # of f64, which is not compressed

    def test_what_it_does_not_know_is_refused(self):
        with kvstored.create("device") as kv:
            for given in ({"type": "3bit"}, {}, {"type": "2bit", "threshold": -1}):
                with self.refused("INVALID_FIELD"):
                    kv.set_gradient_compression(given)


if __name__ == "__main__":
    case.main()
