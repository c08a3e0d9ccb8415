"""The blocks of docs/PYTHON.md marked `python run`, one after another, and what they print."""

import contextlib
import io
import re

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
    def test_the_blocks_run_and_print_what_they_say(self):
        found = blocks((case.SOURCE / "docs" / "PYTHON.md").read_text(encoding="utf-8"))
        self.assertGreater(len(found), 5)
        names = {}
        with case.Server() as server:
            for code, expected in found:
                printed = io.StringIO()
                with contextlib.redirect_stdout(printed):
                    exec(code.replace("127.0.0.1:9400", server.grpc), names)
                if expected is not None:
                    self.assertEqual(expected, printed.getvalue(), code)


case.main()
