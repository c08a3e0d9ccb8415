"""DiLoCo beside synchronous SGD on a part of the data: the bytes to the number, the accuracy."""

import json
import pathlib
import subprocess
import sys
import unittest

import support

DATA = pathlib.Path("/usr/share/datasets/fashion-mnist")
PROGRAM = sys.argv.pop(1) if len(sys.argv) > 1 else str(support.BINARY / "bin" / "diloco")
WORKERS, SAMPLES, EPOCHS, BATCH = 4, 10240, 4, 256
STEPS = EPOCHS * (SAMPLES // BATCH)
VALUE_BYTES = 4 * (784 * 128 + 128 + 128 * 10 + 10)


def diloco(*flags):
    """The last line, of a run that has ended well."""
    result = subprocess.run(
        [PROGRAM, "--server", support.SERVER, "--samples", str(SAMPLES), "--epochs", str(EPOCHS),
         "--batch", str(BATCH), *flags],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=100, check=False)
    if result.returncode != 0:
        raise AssertionError(result.stdout + result.stderr)
    return json.loads(result.stdout.splitlines()[-1])


class DilocoTest(unittest.TestCase):
    def test_20_own_steps_save_19_of_20_bytes_and_cost_at_most_2_points(self):
        # Measured: 0.8296 beside 0.8350; with seeds 2 and 3 0.8269 beside 0.8328, 0.8266 beside
        # 0.8278.
        got = diloco("--local-steps", "20", "--accuracy-loss", "0.02")
        rounds = STEPS // 20
        self.assertEqual(got["workers"], WORKERS)
        self.assertEqual(got["outer"], "diloco")
        self.assertEqual(got["bytes"], 2 * rounds * WORKERS * VALUE_BYTES)
        # The gradients of every step, the new weights, and the first weights once.
        self.assertEqual(got["synchronous_bytes"], (2 * STEPS + 1) * WORKERS * VALUE_BYTES)
        self.assertGreater(got["bytes_ratio"], 19.9)
        self.assertGreater(got["accuracy"], 0.81)
        self.assertGreater(got["synchronous_accuracy"], 0.82)

    def test_steps_that_are_left_at_the_end_are_exchanged_too(self):
        got = diloco("--local-steps", "7", "--accuracy-loss", "1", "--workers", "2",
                     "--outer", "sgd", "--outer-momentum", "0", "--outer-learning-rate", "1",
                     "--samples", "2560", "--epochs", "1")
        rounds = 2  # of 10 steps
        self.assertEqual(got["bytes"], 2 * rounds * 2 * VALUE_BYTES)

    def test_what_is_lost_beyond_the_bound_is_a_failure(self):
        result = subprocess.run(
            [PROGRAM, "--server", support.SERVER, "--samples", "1024", "--epochs", "1",
             "--outer-learning-rate", "0"],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
        self.assertEqual(result.returncode, 1)
        self.assertIn("below", result.stderr)

    def test_wrong_use_is_exit_code_2_and_a_missing_server_1(self):
        for words in (["--local-steps", "0"], ["--workers", "3"], ["--epochs"], ["--what", "1"],
                      ["--outer", "sgd\""], ["--samples", "8"], ["--epochs", "1.5"]):
            code = subprocess.run([PROGRAM, *words], stderr=subprocess.DEVNULL,
                                  stdout=subprocess.DEVNULL, timeout=20, check=False).returncode
            self.assertEqual(code, 2, words)
        missing = subprocess.run([PROGRAM, "--server", "/nonexistent/kvstored"],
                                 stderr=subprocess.PIPE, text=True, timeout=20, check=False)
        self.assertEqual(missing.returncode, 1)
        self.assertIn("--server", missing.stderr)


if __name__ == "__main__":
    if not DATA.is_dir():
        support.skip("dataset-fashion-mnist is not installed")
    support.main()
