"""The example on all of its data: gradients in 2 bits or 1 train within a point of whole ones."""

import json
import pathlib
import subprocess
import sys
import tempfile
import unittest

import support

DATA = pathlib.Path("/usr/share/datasets/fashion-mnist")
PROGRAM = sys.argv.pop(1) if len(sys.argv) > 1 else str(support.BINARY / "bin" / "fashion_mnist")


class ExampleTest(unittest.TestCase):
    def test_compressed_gradients_train_within_a_point_of_whole_ones(self):
        for kind in ("2bit", "1bit"):
            with self.subTest(kind=kind), tempfile.TemporaryDirectory() as folder:
                result = subprocess.run(
                    [PROGRAM, "demo", "--server", support.SERVER, "--output", folder,
                     "--compression", kind],
                    stdout=subprocess.PIPE, text=True, timeout=400, check=True)
                self.assertIn("not equal", result.stdout)  # the weights do differ
                last = json.loads(result.stdout.splitlines()[-1])
                print(kind, last)
                self.assertGreater(last["single_process_accuracy"], 0.86)
                self.assertGreater(last["accuracy"], last["single_process_accuracy"] - 0.01)


if __name__ == "__main__":
    if not DATA.is_dir():
        support.skip("dataset-fashion-mnist is not installed")
    support.main()
