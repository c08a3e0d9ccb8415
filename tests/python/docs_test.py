"""The blocks of README.md and docs/PYTHON.md marked `python run`, what they print, the example, and
the table of examples of docs/TESTING.md."""

import contextlib
import io
import re
import subprocess
import sys

import case

BLOCK = re.compile(r"^```(python run|text printed)\n(.*?)^```\s*$", re.MULTILINE | re.DOTALL)


def blocks(text):
    """[code, what it prints or None] of each."""
    found = []
    for kind, body in BLOCK.findall(text):
        if kind == "python run":
            found.append([body, None])
        else:
            found[-1][1] = body
    return found


class Documents(case.Case):
    def check(self, path, at_least):
        found = blocks((case.SOURCE / path).read_text(encoding="utf-8"))
        self.assertGreaterEqual(len(found), at_least)
        names = {}
        with case.Server() as server:
            for code, expected in found:
                printed = io.StringIO()
                with contextlib.redirect_stdout(printed):
                    exec(code.replace("127.0.0.1:9400", server.grpc), names)
                if expected is not None:
                    self.assertEqual(expected, printed.getvalue(), code)

    def test_the_page_of_the_package(self):
        self.check("docs/PYTHON.md", 8)

    def test_the_readme(self):
        self.check("README.md", 1)

    def test_the_examples_of_mxnets_page_are_where_the_table_says(self):
        text = (case.SOURCE / "docs" / "TESTING.md").read_text(encoding="utf-8")
        table = text.split("## The examples of MXNet's page")[1].split("\n## ")[0]
        rows = [row.split("|")[2:5] for row in re.findall(r"^\| .*$", table, re.M)[1:]]
        self.assertGreater(len(rows), 14)
        tests = [("tests/python/seed_test.py", r"`(test_\w+)`"),
                 ("tests/e2e/client_seed_test.c", r"`([a-z]\w+)`"),
                 ("tests/e2e/perl_seed_test.pl", r"^ (\w.*) $")]
        for row in rows:
            for cell, (path, pattern) in zip(row, tests):
                files = [path, *re.findall(r"`(tests/\S+)`", cell)]
                code = "".join((case.SOURCE / file).read_text(encoding="utf-8") for file in files)
                names = re.findall(pattern, cell)
                self.assertTrue(names or len(files) > 1, cell)
                for name in names:
                    self.assertRegex(code, rf"\b{name}\b")

    def test_the_example(self):
        command = [sys.executable, str(case.SOURCE / "examples" / "push_pull.py")]
        with case.Server() as server:
            for address, kind in (([], "local"), ([server.grpc], "dist_sync")):
                said = subprocess.run(command + address, text=True, check=True, timeout=60,
                                      stdout=subprocess.PIPE).stdout
                self.assertEqual(f"{kind}: w is now 0.5 everywhere\n", said)


case.main()
