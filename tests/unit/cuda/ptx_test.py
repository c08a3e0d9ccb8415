"""What nvcc makes of the kernels: words of 16 bytes, no contraction, nothing spilled.

usage: ptx_test.py NVCC SOURCE_FOLDER
"""
import os
import re
import subprocess
import sys
import tempfile
import unittest

NVCC, ROOT = sys.argv[1:3]
del sys.argv[1:3]

FLAGS = ["-std=c++17", "-fmad=false", "-arch=sm_80", "-I", ROOT]
# A block has 256 threads and a multiprocessor 65536 registers: 64 registers leave four blocks on
# it, 128 two. The f64 rules are there for completeness, not for speed.
REGISTERS_MAX = {"kvs_cuda_move_kernel": 40, "kvs_cuda_update_kernel_f32": 64,
                 "kvs_cuda_update_kernel_f64": 128, "kvs_cuda_cast_kernel": 40}
SOURCES = ("stream", "casts")


def nvcc(*arguments):
    done = subprocess.run([NVCC, *FLAGS, *arguments], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode != 0:
        raise AssertionError(done.stdout)
    return done.stdout


def entries(text, start):
    """The text of each kernel, by its name."""
    found = {}
    for piece in re.split(start, text)[1:]:
        name = next((name for name in REGISTERS_MAX if name in piece.split("\n", 1)[0]), None)
        found.setdefault(name, piece)
    return found


class Ptx(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        with tempfile.TemporaryDirectory() as folder:
            cls.ptx, cls.words = {}, {}
            for name in SOURCES:
                ptx = os.path.join(folder, name + ".ptx")
                source = os.path.join(ROOT, "cuda", name + ".cu")
                nvcc("-ptx", "-o", ptx, source)
                with open(ptx, encoding="utf-8") as file:
                    cls.ptx.update(entries(file.read(), r"\.visible \.entry "))
                words = nvcc("-Xptxas=-v", "-c", "-o", os.path.join(folder, name + ".o"), source)
                cls.words.update(entries(words, r"Compiling entry function "))

    def test_every_kernel_is_there(self):
        self.assertEqual(set(REGISTERS_MAX), set(self.ptx))
        self.assertEqual(set(REGISTERS_MAX), set(self.words))

    def test_no_product_is_fused_with_a_sum(self):
        for name, text in self.ptx.items():
            self.assertNotRegex(text, r"\bfma\.", name)

    def test_square_roots_and_quotients_are_rounded_to_nearest(self):
        for name in ("kvs_cuda_update_kernel_f32", "kvs_cuda_update_kernel_f64"):
            self.assertIn("sqrt.rn.", self.ptx[name])
            self.assertIn("div.rn.", self.ptx[name])
            self.assertNotRegex(self.ptx[name], r"\b(sqrt|div)\.(approx|full)")
            self.assertNotIn(".ftz", self.ptx[name])

    def test_elements_move_in_words_of_16_bytes(self):
        wide = {"kvs_cuda_move_kernel": r"v4\.[uf]32", "kvs_cuda_update_kernel_f32": r"v4\.f32",
                "kvs_cuda_update_kernel_f64": r"v2\.f64"}
        for name, word in wide.items():
            self.assertRegex(self.ptx[name], r"ld\.global\." + word, name)
            self.assertRegex(self.ptx[name], r"st\.global\." + word, name)

    def test_nothing_is_spilled_and_registers_leave_room_for_blocks(self):
        for name, text in self.words.items():
            self.assertIn("0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads", text)
            used = int(re.search(r"Used (\d+) registers", text).group(1))
            self.assertLessEqual(used, REGISTERS_MAX[name], name)


unittest.main()
