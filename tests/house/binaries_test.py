"""What the linker made: hardening, exported names and forbidden calls, read back by readelf.

usage: binaries_test.py BUILD_FOLDER
"""
import glob
import os
import re
import subprocess
import sys
import unittest

import tree

BUILD = sys.argv.pop(1)
PROGRAMS = sorted(path for path in glob.glob(os.path.join(BUILD, "bin", "*"))
                  if os.path.isfile(path) and os.access(path, os.X_OK))
LIBRARIES = sorted(path for path in glob.glob(os.path.join(BUILD, "lib", "*.so*"))
                   if not os.path.islink(path))
FORBIDDEN = ("system", "popen", "dlopen", "gets", "tmpnam", "mktemp", "strcpy", "sprintf")


def readelf(*options):
    done = subprocess.run(["readelf", "-W", *options], stdout=subprocess.PIPE, check=True,
                          env={**os.environ, "LC_ALL": "C"})
    return done.stdout.decode()


def imported(path):
    """Names that the dynamic linker finds elsewhere, without their version."""
    names = set()
    for line in readelf("--dyn-syms", path).split("\n"):
        words = line.split()
        if len(words) >= 8 and words[6] == "UND":
            names.add(words[7].split("@")[0])
    return names


def exported(path):
    names = set()
    for line in readelf("--dyn-syms", path).split("\n"):
        words = line.split()
        if len(words) >= 8 and words[4] in ("GLOBAL", "WEAK") and words[6] not in ("UND", "ABS"):
            names.add(words[7].split("@")[0])
    return names


class Binaries(unittest.TestCase):
    def test_the_programs_and_the_library_are_there(self):
        names = [os.path.basename(path) for path in PROGRAMS]
        for name in ("kvstored", "kvctl", "kvbench"):
            self.assertIn(name, names)
        self.assertTrue(any("libkvstore.so" in path for path in LIBRARIES), LIBRARIES)

    def test_programs_are_position_independent(self):
        for path in PROGRAMS:
            with self.subTest(path):
                self.assertRegex(readelf("-h", path), r"Type:\s+DYN")

    def test_relocations_are_read_only_after_the_start(self):
        for path in PROGRAMS + LIBRARIES:
            with self.subTest(path):
                self.assertIn("GNU_RELRO", readelf("-l", path))
                self.assertRegex(readelf("-d", path), r"BIND_NOW|Flags:.*NOW")

    def test_nothing_is_writable_and_executable(self):
        for path in PROGRAMS + LIBRARIES:
            with self.subTest(path):
                segments = readelf("-l", path)
                self.assertNotRegex(segments, r"\bRWE\b")
                self.assertRegex(segments, r"GNU_STACK.*\bRW\b")

    def test_nothing_is_loaded_from_a_fixed_folder(self):
        for path in PROGRAMS + LIBRARIES:
            with self.subTest(path):
                paths = re.findall(r"\(R(?:UN)?PATH\).*\[(.*)\]", readelf("-d", path))
                # The tree's own library beside the program; the server needs not even that.
                allowed = [] if path.endswith("/kvstored") else ["$ORIGIN/../lib"]
                for entry in paths:
                    self.assertIn(entry.rstrip(":"), allowed)

    def test_the_stack_is_guarded_and_calls_are_fortified(self):
        for path in PROGRAMS + LIBRARIES:
            with self.subTest(path):
                names = imported(path)
                self.assertIn("__stack_chk_fail", names)
                self.assertTrue(any(name.endswith("_chk") for name in names), "no _chk call")

    def test_no_call_runs_a_command_or_an_unbounded_copy(self):
        for path in PROGRAMS + LIBRARIES:
            with self.subTest(path):
                with open(path, "rb") as file:
                    # The static CUDA runtime looks for the driver by dlopen, and uses strcpy.
                    cuda = b"cudaGetDeviceCount" in file.read()
                allowed = {"dlopen", "strcpy"} if cuda else set()
                self.assertEqual(set(), (imported(path) & set(FORBIDDEN)) - allowed)

    def test_the_library_exports_its_own_names_only(self):
        for path in LIBRARIES:
            with self.subTest(path):
                names = exported(path)
                self.assertIn("kv_create", names)
                self.assertEqual([], sorted(n for n in names if not n.startswith("kv_")))


tree.main()
