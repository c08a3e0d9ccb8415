"""Sizes that keep a file readable: 600 lines a file, about 70 a function, 100 columns a line."""
import re
import unittest

import tree

FILE_LINES_MAX = 600
# The door to gRPC's C core is one file by design (tools/layers.txt), and a state machine.
FILE_LINES_MAX_OF = {"service/rpc.c": 1100}
FUNCTION_LINES_MAX = 80  # "about 70": the eye decides below this
COLUMNS_MAX = 100

CODE = (".c", ".h", ".cu", ".cuh", ".cpp", ".inc")
SCRIPTS = (".py", ".sh", ".pl", ".pm", ".cmake", "CMakeLists.txt")


def functions(text):
    """(first line, length) of each function, by the brace in the first column."""
    start = None
    for number, line in enumerate(text.split("\n"), 1):
        if line == "{":
            start = number
        elif line.startswith("}") and start is not None:
            yield start, number - start + 1
            start = None


class Size(unittest.TestCase):
    def test_no_file_is_over_600_lines(self):
        long = ["%s: %d lines" % (path, tree.read(path).count("\n"))
                for path in tree.files(*CODE, *SCRIPTS)
                if tree.read(path).count("\n") > FILE_LINES_MAX_OF.get(path, FILE_LINES_MAX)]
        self.assertEqual([], long)

    def test_no_function_is_much_over_70_lines(self):
        long = ["%s:%d: %d lines" % (path, start, length) for path in tree.files(*CODE)
                for start, length in functions(tree.read(path)) if length > FUNCTION_LINES_MAX]
        self.assertEqual([], long)

    def test_no_line_is_over_100_columns(self):
        long = ["%s:%d" % (path, number) for path in tree.files(*CODE, *SCRIPTS)
                for number, line in enumerate(tree.read(path).split("\n"), 1)
                if len(line) > COLUMNS_MAX]
        self.assertEqual([], long)

    def test_a_long_function_is_seen(self):
        text = "int f(void)\n{\n" + "    f();\n" * 100 + "}\n"
        self.assertEqual([(2, 102)], list(functions(text)))

    def test_every_text_ends_in_one_newline_and_no_line_in_a_space(self):
        wrong = []
        for path in tree.files(*CODE, *SCRIPTS, ".md", ".yaml", ".proto", ".json", ".txt"):
            if "/corpus/" in path:
                continue  # bytes, whatever their name
            text = tree.read(path)
            if text and (not text.endswith("\n") or text.endswith("\n\n")):
                wrong.append(path + ": its end")
            wrong += ["%s:%d: a space at the end" % (path, number)
                      for number, line in enumerate(text.split("\n"), 1)
                      if re.search(r"[ \t]$", line)]
        self.assertEqual([], wrong)

    def test_nothing_is_left_to_do_later(self):
        left = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X|HA" + r"CK)\b")
        found = ["%s:%d" % (path, number) for path in tree.files(*CODE, *SCRIPTS)
                 for number, line in enumerate(tree.read(path).split("\n"), 1)
                 if left.search(line)]
        self.assertEqual([], found)


tree.main()
