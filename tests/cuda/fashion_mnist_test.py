"""Fashion-MNIST at a server on the CUDA backend and at one on the CPU: equal weights, to the bit.

usage: fashion_mnist_test.py FASHION_MNIST KVSTORED
"""

import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "e2e"))
import server  # noqa: E402

PROGRAM, ON_CPU = sys.argv[1:3]
del sys.argv[1:3]
DATA = pathlib.Path("/usr/share/datasets/fashion-mnist")
SMALL = ["--samples", "2048", "--epochs", "1", "--batch", "128", "--workers", "2"]


def weights(program, engine, *flags):
    """The hash of the workers' weights, and that of the one process, which needs no server."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [PROGRAM, "demo", "--server", program, "--output", folder, *SMALL, *flags],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=200, check=False,
            env={**os.environ, "KVSTORED_ENGINE": engine})
    if done.returncode != 0:
        raise AssertionError(done.stdout + done.stderr)
    if f" on {'cuda' if engine == 'cuda' else 'cpu'} " not in done.stderr:
        raise AssertionError("another engine: " + done.stderr)
    lines = [line for line in done.stdout.splitlines() if line.startswith("weights of")]
    return [next(word for word in line.split() if len(word) == 16) for line in lines]


class FashionMnist(unittest.TestCase):
    def same(self, *flags):
        on_cuda, on_cpu = (weights(server.SERVER, "cuda", *flags), weights(ON_CPU, "cpu", *flags))
        self.assertEqual(on_cuda, on_cpu)
        return on_cuda

    def test_whole_gradients_give_the_weights_of_the_cpu_and_of_one_process(self):
        workers, alone = self.same()
        self.assertEqual(workers, alone)

    def test_gradients_in_two_bits_give_the_weights_of_the_cpu(self):
        workers, alone = self.same("--compression", "2bit")
        self.assertNotEqual(workers, alone)

    def test_another_seed_gives_other_weights(self):
        self.assertNotEqual(weights(server.SERVER, "cuda", "--seed", "2"),
                            weights(ON_CPU, "cpu", "--seed", "3"))


if __name__ == "__main__":
    if not DATA.is_dir():
        server.skip("dataset-fashion-mnist is not installed")
    unittest.main()
