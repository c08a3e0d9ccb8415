"""The blocks of README.md and docs/PYTHON.md marked `python run`, what they print, the example."""

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

    def test_the_example(self):
        command = [sys.executable, str(case.SOURCE / "examples" / "push_pull.py")]
        with case.Server() as server:
            for address, kind in (([], "local"), ([server.grpc], "dist_sync")):
                said = subprocess.run(command + address, text=True, check=True, timeout=60,
                                      stdout=subprocess.PIPE).stdout
                self.assertEqual(f"{kind}: w is now 0.5 everywhere\n", said)


case.main()
