"""The example on a part of its data: the same bits alone and with workers, and what it writes."""

import csv
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest
import xml.dom.minidom

import support

DATA = pathlib.Path("/usr/share/datasets/fashion-mnist")
PROGRAM = sys.argv.pop(1) if len(sys.argv) > 1 else str(support.BINARY / "bin" / "fashion_mnist")
SMALL = ["--samples", "5120", "--epochs", "2", "--batch", "256"]


def demo(folder, *flags):
    """The last line of a demo, its whole text and its exit code."""
    result = subprocess.run(
        [PROGRAM, "demo", "--server", support.SERVER, "--output", folder, *SMALL, *flags],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=100, check=False)
    if result.returncode != 0:
        raise AssertionError(result.stdout + result.stderr)
    return json.loads(result.stdout.splitlines()[-1]), result.stdout, result.stderr


def hashes(text):
    """The hash of the workers' weights and of the one process's."""
    lines = [line for line in text.splitlines() if line.startswith("weights of")]
    return [next(word for word in line.split() if len(word) == 16) for line in lines]


class ExampleTest(unittest.TestCase):
    def test_four_workers_and_one_process_end_with_equal_weights_twice(self):
        with tempfile.TemporaryDirectory() as folder:
            first, text, _ = demo(folder)
            again, text_again, _ = demo(folder)
        self.assertEqual(hashes(text)[0], hashes(text)[1])
        self.assertEqual(hashes(text), hashes(text_again))
        self.assertEqual(first["accuracy"], first["single_process_accuracy"])
        self.assertEqual(first["accuracy"], again["accuracy"])
        self.assertEqual(first["workers"], 4)
        self.assertEqual(first["type"], "dist_sync")
        self.assertEqual(sorted(first), ["accuracy", "seconds", "single_process_accuracy", "type",
                                         "workers"])
        self.assertGreater(first["accuracy"], 0.5)

    def test_other_seeds_end_with_other_weights(self):
        with tempfile.TemporaryDirectory() as folder:
            _, text, _ = demo(folder, "--workers", "1", "--seed", "1")
            _, other, _ = demo(folder, "--workers", "1", "--seed", "2")
        self.assertNotEqual(hashes(text)[0], hashes(other)[0])

    def test_the_loss_is_written_as_csv_and_svg(self):
        with tempfile.TemporaryDirectory() as folder:
            demo(folder, "--workers", "2")
            with open(os.path.join(folder, "loss.csv"), encoding="utf-8", newline="") as file:
                rows = list(csv.DictReader(file))
            picture = xml.dom.minidom.parse(os.path.join(folder, "loss.svg"))
        runs = {row["run"] for row in rows}
        self.assertEqual(runs, {"2 workers dist_sync", "one process local"})
        steps = 2 * (5120 // 256)
        self.assertEqual(len(rows), 2 * steps)
        self.assertLess(float(rows[steps - 1]["loss"]), float(rows[0]["loss"]))
        self.assertNotEqual(rows[steps - 1]["accuracy"], "")
        self.assertEqual(picture.documentElement.tagName, "svg")
        self.assertEqual(len(picture.getElementsByTagName("polyline")), 4)

    def test_asynchronous_workers_end_with_one_set_of_weights(self):
        with tempfile.TemporaryDirectory() as folder:
            last, _, _ = demo(folder, "--type", "dist_async")
        self.assertEqual(last["type"], "dist_async")
        self.assertGreater(last["accuracy"], 0.4)

    def test_compressed_gradients_train_as_well_as_whole_ones(self):
        for kind in ("2bit", "1bit"):
            with self.subTest(kind=kind), tempfile.TemporaryDirectory() as folder:
                last, text, _ = demo(folder, "--compression", kind)
                self.assertIn("not equal", text)  # they do differ
                self.assertGreater(last["accuracy"], last["single_process_accuracy"] - 0.01)

    def test_progress_is_plain_lines_without_a_terminal(self):
        with tempfile.TemporaryDirectory() as folder:
            _, _, chatter = demo(folder, "--workers", "2")
        self.assertIn("2 workers, dist_sync: epoch 1 of 2, loss ", chatter)
        self.assertNotIn("\r", chatter)
        self.assertNotIn("\033", chatter)

    def test_wrong_use_is_exit_code_2_and_a_missing_server_1(self):
        for words in (["nothing"], ["demo", "--workers", "3"], ["demo", "--epochs", "0"],
                      ["train", "--type", "dist_sync"], ["demo", "--type", "local"]):
            code = subprocess.run([PROGRAM, *words], stderr=subprocess.DEVNULL,
                                  stdout=subprocess.DEVNULL, timeout=20, check=False).returncode
            self.assertEqual(code, 2, words)
        missing = subprocess.run([PROGRAM, "demo", "--server", "/nonexistent/kvstored", *SMALL],
                                 stderr=subprocess.PIPE, text=True, timeout=20, check=False)
        self.assertEqual(missing.returncode, 1)
        self.assertIn("--server", missing.stderr)


if __name__ == "__main__":
    if not DATA.is_dir():
        support.skip("dataset-fashion-mnist is not installed")
    support.main()
