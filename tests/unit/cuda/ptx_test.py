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
if not NVCC:
    print("skipped: the CUDA backend is not built")
    sys.exit(77)

FLAGS = ["-std=c++17", "-fmad=false", "-I", ROOT]
PTX_OF = "-arch=sm_80"
# Those of cuda/CMakeLists.txt that this nvcc knows.
ARCHITECTURES = ("75", "80", "90", "100")
# A block has 256 threads and a multiprocessor 65536 registers: 64 registers leave four blocks on
# it, 48 five, 80 three, 128 two. The f64 rules are there for completeness, not for speed.
REGISTERS_MAX = {"kvs_cuda_move_kernel": 48, "kvs_cuda_update_kernelIf": 80,
                 "kvs_cuda_update_kernelId": 128, "kvs_cuda_cast_kernel": 40,
                 "kvs_cuda_encode_kernel": 48, "kvs_cuda_row_kernel": 48,
                 "kvs_cuda_scan_kernel": 48,
                 "kvs_cuda_measure_kernelIf": 96,
                 "kvs_cuda_measure_kernelId": 128,
                 "kvs_cuda_row_rule_kernelIf": 80, "kvs_cuda_row_rule_kernelId": 128}
# The rules that train most models.
REGISTERS_MAX_OF = {"sgd_f32": 40, "sgd_momentum_f32": 48, "adam_19_f32": 64, "adamw_f32": 64}
DENSE = r"\d+kvs_cuda_%s\d+kvs_cuda_dense"
SOURCES = ("stream", "casts", "encodes", "rows", "row_rules", "scans", "updates", "measures")


def nvcc(*arguments):
    done = subprocess.run([NVCC, *FLAGS, *arguments], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode != 0:
        raise AssertionError(done.stdout)
    return done.stdout


def entries(text, start):
    """The texts of each kind of kernel, by the whole name of each (and its architecture)."""
    found = {}
    for piece in re.split(start, text)[1:]:
        line = piece.split("\n", 1)[0]
        kind = next((kind for kind in REGISTERS_MAX if kind in line), None)
        name = " ".join(re.findall(r"\b_Z\w+|\bsm_\d+", line))
        found.setdefault(kind, {})[name] = piece
    return found


def rules():
    """The number of states of each rule, by its step."""
    with open(os.path.join(ROOT, "engine/rules.h"), encoding="utf-8") as file:
        return {step: int(states) for step, states in
                re.findall(r"^    X\([A-Z0-9_]+, (\w+), (\d)\)", file.read(), re.M)}


def words_of_16_bytes(text):
    """How many loads and stores of 16 bytes a kernel has."""
    return [len(re.findall(r"\b" + verb + r"(?:\.global)?(?:\.nc)?\.(?:v4\.[ufb]32|v2\.[ufb]64)\b",
                           text)) for verb in ("ld", "st")]


class Ptx(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        with tempfile.TemporaryDirectory() as folder:
            cls.ptx, cls.words = {}, {}
            for name in SOURCES:
                ptx = os.path.join(folder, name + ".ptx")
                source = os.path.join(ROOT, "cuda", name + ".cu")
                nvcc("-ptx", PTX_OF, "-o", ptx, source)
                with open(ptx, encoding="utf-8") as file:
                    cls.ptx.update(entries(file.read(), r"\.visible \.entry "))
                words = nvcc("-Xptxas=-v", *cls.architectures(), "-c", "-o",
                             os.path.join(folder, name + ".o"), source)
                cls.words.update(entries(words, r"Compiling entry function "))

    @staticmethod
    def architectures():
        """Machine code for each card that the release is built for."""
        known = subprocess.run([NVCC, "--list-gpu-code"], stdout=subprocess.PIPE, text=True,
                               check=True).stdout.split()
        return [word for number in ARCHITECTURES if "sm_" + number in known
                for word in ("-gencode", f"arch=compute_{number},code=sm_{number}")]

    def test_every_kernel_is_there_for_every_card(self):
        with open(os.path.join(ROOT, "engine/rules.h"), encoding="utf-8") as file:
            measures = len(re.findall(r"^    X\([A-Z0-9_]+, \w+, \d, \d, \d\)", file.read(), re.M))
        self.assertGreater(len(rules()), 0)
        self.assertGreater(measures, 0)
        for found, cards in ((self.ptx, 1), (self.words, len(self.architectures()) // 2)):
            self.assertEqual({"kvs_cuda_move_kernel": cards, "kvs_cuda_cast_kernel": cards,
                              "kvs_cuda_row_kernel": cards, "kvs_cuda_encode_kernel": cards,
                              "kvs_cuda_measure_kernelIf": measures * cards,
                              "kvs_cuda_measure_kernelId": measures * cards,
                              "kvs_cuda_scan_kernel": cards,
                              "kvs_cuda_row_rule_kernelIf": 2 * cards,
                              "kvs_cuda_row_rule_kernelId": 2 * cards,
                              # Dense, and with a map.
                              "kvs_cuda_update_kernelIf": 2 * len(rules()) * cards,
                              "kvs_cuda_update_kernelId": 2 * len(rules()) * cards},
                             {kind: len(texts) for kind, texts in found.items()})

    def test_no_product_is_fused_with_a_sum(self):
        for texts in self.ptx.values():
            for name, text in texts.items():
                self.assertNotRegex(text, r"\bfma\.", name)

    def test_square_roots_and_quotients_are_rounded_to_nearest(self):
        for kind in ("kvs_cuda_update_kernelIf", "kvs_cuda_update_kernelId"):
            whole = "".join(self.ptx[kind].values())
            self.assertIn("sqrt.rn.", whole)
            self.assertIn("div.rn.", whole)
            self.assertNotRegex(whole, r"\b(sqrt|div)\.(approx|full)")
            self.assertNotIn(".ftz", whole)

    def test_elements_move_in_words_of_16_bytes(self):
        (move,) = self.ptx["kvs_cuda_move_kernel"].values()
        # A load and a store for each copy, two and one for each of seven sums, a store of zeros.
        self.assertEqual([15, 9], words_of_16_bytes(move))
        (cast,) = self.ptx["kvs_cuda_cast_kernel"].values()
        # Of a group of elements: two words of f32 to sum and two to narrow, one of halves.
        self.assertEqual([5, 3], words_of_16_bytes(cast))
        (encode,) = self.ptx["kvs_cuda_encode_kernel"].values()
        # Two groups of a block; what is written is a quarter of that.
        self.assertEqual([2, 0], words_of_16_bytes(encode))
        self.assertEqual(2, len(re.findall(r"\bst\.global\.u32\b", encode)))
        (scan,) = self.ptx["kvs_cuda_scan_kernel"].values()
        loads, stores = words_of_16_bytes(scan)  # of both, as often as the loop is unrolled
        self.assertGreater(loads, 0)
        self.assertEqual((0, 0), (loads % 2, stores))
        (row,) = self.ptx["kvs_cuda_row_kernel"].values()
        for count in words_of_16_bytes(row):
            self.assertGreater(count, 0)

    def test_a_rule_moves_weight_gradient_and_states_in_words_of_16_bytes(self):
        for kind, real in (("kvs_cuda_update_kernelIf", "f32"),
                           ("kvs_cuda_update_kernelId", "f64")):
            for step, states in rules().items():
                if step == "sgld":  # it goes element by element: its noise needs registers
                    continue
                texts = [text for name, text in self.ptx[kind].items()
                         if re.search(rf"\d+kvs_cuda_{step}_{real}\d", name)]
                self.assertEqual(2, len(texts), step)
                for text in texts:
                    loads, stores = words_of_16_bytes(text)
                    # Each once, or as often as the loop is unrolled or has kinds of gradients.
                    with self.subTest(step + " " + real):
                        self.assertGreater(stores, 0)
                        self.assertEqual(0, stores % (1 + states), stores)
                        self.assertGreaterEqual(loads, 1 + states)

    def test_a_measure_reads_words_of_16_bytes(self):
        for kind, each in (("kvs_cuda_measure_kernelIf", 1), ("kvs_cuda_measure_kernelId", 2)):
            for name, text in self.ptx[kind].items():
                with self.subTest(name):
                    loads, stores = words_of_16_bytes(text)
                    # A quad of what it reads: the gradient at least.
                    self.assertGreaterEqual(loads, each)
                    self.assertEqual((0, 0), (loads % each, stores))

    def test_nothing_is_spilled_and_registers_leave_room_for_blocks(self):
        for kind, texts in self.words.items():
            for name, text in texts.items():
                self.assertIn("0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads",
                              text, name)
                used = int(re.search(r"Used (\d+) registers", text).group(1))
                most = next((most for rule, most in REGISTERS_MAX_OF.items()
                             if re.search(DENSE % rule, name)), REGISTERS_MAX[kind])
                if name.endswith("sm_75"):  # it holds 1024 threads at most: 64 fill it
                    most = max(most, 64)
                self.assertLessEqual(used, most, name)


unittest.main()
