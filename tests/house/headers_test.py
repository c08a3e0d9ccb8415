"""Every header compiles alone, and twice; those that CUDA sees also as C++17.

usage: headers_test.py C_COMPILER CXX_COMPILER BUILD_FOLDER
"""
import concurrent.futures
import os
import re
import subprocess
import sys
import unittest

import tree

CC, CXX, BUILD = sys.argv[1:4]
del sys.argv[1:4]

FOLDERS = ("base/", "api/", "engine/", "cuda/", "service/", "client/", "bench/", "examples/")
INCLUDE = re.compile(r'^\s*#\s*include\s*"([^"]+)"', re.MULTILINE)


def headers():
    return [path for path in tree.files(".h") if path.startswith(FOLDERS)]


def shared_with_cuda():
    """What the CUDA backend includes, and what that includes."""
    waiting = [path for path in tree.files(".cu", ".cuh", ".h", under="cuda")]
    seen = set(waiting)
    while waiting:
        for name in INCLUDE.findall(tree.read(waiting.pop())):
            if name not in seen and tree.exists(name):
                seen.add(name)
                waiting.append(name)
    return sorted(path for path in seen if path.endswith((".h", ".cuh")))


def compile_alone(compiler, language, standard, path):
    """The compiler's words about one header, empty where it has none."""
    name = path.replace("client/include/", "") if path.startswith("client/include/") else path
    command = [compiler, "-x", language, "-std=" + standard, "-fsyntax-only", "-Wall", "-Wextra",
               "-Wpedantic", "-Werror", "-D_GNU_SOURCE", "-I", tree.ROOT,
               "-I", os.path.join(BUILD, "generated"),
               "-I", os.path.join(tree.ROOT, "client/include"), "-"]
    if path.startswith("cuda/"):
        command[-1:-1] = ["-isystem", os.path.join(tree.ROOT, "tests/support/cudasim")]
    text = '#include "%s"\n#include "%s"\nint the_header_stood_alone;\n' % (name, name)
    done = subprocess.run(command, input=text, text=True, stderr=subprocess.PIPE, check=False)
    return "" if done.returncode == 0 else "%s as %s:\n%s" % (path, standard, done.stderr)


class Headers(unittest.TestCase):
    def compile_all(self, compiler, language, standard, paths):
        self.assertTrue(paths, "no header was found")
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            words = pool.map(lambda path: compile_alone(compiler, language, standard, path), paths)
        self.assertEqual("", "\n".join(word for word in words if word))

    def test_every_header_compiles_alone_as_c17(self):
        # The CUDA backend is C++ inside; only what it includes of ours is both.
        inside = set(tree.files(".h", under="cuda")) - {"cuda/backend_cuda.h"}
        self.compile_all(CC, "c", "gnu17", [path for path in headers() if path not in inside])

    def test_every_header_that_cuda_sees_compiles_alone_as_cxx17(self):
        self.compile_all(CXX, "c++", "c++17", shared_with_cuda())

    def test_a_header_that_needs_another_one_first_is_refused(self):
        path = os.path.join(BUILD, "needs_another.h")
        with open(path, "w", encoding="utf-8") as file:
            file.write("uint32_t kvs_needs_stdint(void);\n")
        self.assertNotEqual("", compile_alone(CC, "c", "gnu17", path))

    def test_the_guard_of_a_header_is_its_path(self):
        wrong = []
        for path in headers():
            public = path.startswith("client/include/")
            guard = re.sub(r"[^A-Z0-9]", "_", path.replace("client/include/", "").upper())
            guard = guard if public else "KVS_" + guard
            if path.startswith("examples/"):
                guard = r"\w+"  # a user's program, with names of its own
            if not re.search(r"^#ifndef (%s)\n#define \1$" % guard, tree.read(path), re.MULTILINE):
                wrong.append("%s: expected %s" % (path, guard))
        self.assertEqual([], wrong)

    def test_a_header_begins_with_the_comment_that_says_what_it_is(self):
        wrong = [path for path in headers() if not tree.read(path).startswith("/* ")]
        self.assertEqual([], wrong)


tree.main()
