"""bench/gpu/run.py on the stand-in: it runs and its numbers are there. No time is judged here.

usage: bench_test.py   (KVS_SOURCE_DIR and KVS_BINARY_DIR in the environment)
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

SCRIPT = pathlib.Path(os.environ["KVS_SOURCE_DIR"], "bench", "gpu", "run.py")
BUILD = os.environ["KVS_BINARY_DIR"]


def run(*flags, **environment):
    return subprocess.run(
        [sys.executable, "-B", str(SCRIPT), "--build", BUILD, "--no-build", "--no-suite",
         "--quick", *flags], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=200,
        env={**os.environ, **environment}, check=False)


class Bench(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        with tempfile.TemporaryDirectory() as folder:
            output = os.path.join(folder, "gpu.json")
            done = run("--stand-in", "--output", output)
            if done.returncode != 0:
                raise AssertionError(done.stdout + done.stderr)
            with open(output, encoding="utf-8") as file:
                cls.report = json.load(file)
        cls.text = done.stdout

    def test_every_kernel_and_both_servers_have_numbers(self):
        self.assertTrue(self.report["stand_in"])
        self.assertIn("no time below says anything of a card", self.text)
        kernels = self.report["kernels"]
        self.assertEqual(kernels["cuda"], "cuda stand-in")
        for rate in kernels["card"]["bytes_per_second"].values():
            self.assertGreater(rate, 0)
        for case in kernels["cases"]:
            for engine in ("cuda", "cpu"):
                if "left_out" not in case[engine]:
                    self.assertGreater(case[engine]["bytes_per_second"], 0, case)
            self.assertIn(f"\n{case['name']} ", self.text)
        for engine in ("cuda", "cpu"):
            cases = self.report["servers"][engine]["cases"]
            self.assertTrue(any("kvstored" in case for case in cases))

    def test_the_floor_counts_what_a_kernel_must_move(self):
        bytes_of = {case["name"]: case["bytes_per_element"]
                    for case in self.report["kernels"]["cases"]}
        for name, wanted in (("copy", 8), ("sum f32", 12), ("sum f32 of 8 terms", 40),
                             ("value as bf16", 6), ("value as int8", 5.015625),
                             ("sgd f32", 12), ("sgd momentum f32", 20), ("adam f32", 28),
                             ("adam f32, last gradient with it", 32), ("adam f64", 56),
                             ("sum f32 of 2bit", 8.25), ("push f32 of 2bit", 0.25)):
            self.assertAlmostEqual(bytes_of[name], wanted, 4, name)

    def test_without_a_card_it_is_skipped_and_says_so(self):
        if not os.path.exists(os.path.join(BUILD, "bin", "kvbench_gpu")):
            self.skipTest("no nvcc")
        done = run(CUDA_VISIBLE_DEVICES="")
        self.assertEqual(done.returncode, 77, done.stdout + done.stderr)
        self.assertIn("there is no card that can be used", done.stderr)


unittest.main()
