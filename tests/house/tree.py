"""The files of the project as the house tests see them: what a clone holds, no build folders."""
import os
import re
import sys
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SKIPPED = 77

_LEFT_OUT = re.compile(r"^(build.*|\.git|\.cache|__pycache__|Testing|node_modules)$")


def files(*suffixes, under=""):
    """Paths relative to the root, sorted, that end in one of the suffixes (all without any)."""
    found = []
    for folder, folders, names in os.walk(os.path.join(ROOT, under)):
        folders[:] = [name for name in folders if not _LEFT_OUT.match(name)]
        for name in names:
            if not suffixes or name.endswith(suffixes):
                found.append(os.path.relpath(os.path.join(folder, name), ROOT))
    return sorted(found)


def read(path):
    with open(os.path.join(ROOT, path), encoding="utf-8") as file:
        return file.read()


def exists(path):
    return os.path.exists(os.path.join(ROOT, path))


def skip(reason):
    print("skipped: " + reason)
    sys.exit(SKIPPED)


def main():
    unittest.main(verbosity=2)
