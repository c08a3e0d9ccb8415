"""The scripts parse, are executable, and the table of layers catches a planted breach."""
import json
import os
import subprocess
import tempfile
import unittest

import tree

SCRIPTS = [path for path in tree.files(under="scripts") + tree.files(".sh") + [".ci/run"]
           if tree.read(path).startswith("#!")]


def check_layers(folder):
    command = [os.path.join(tree.ROOT, "tools/check_layers.sh"), folder]
    return subprocess.run(command, stdout=subprocess.PIPE, check=False, text=True)


class Scripts(unittest.TestCase):
    def test_every_script_parses_and_what_people_call_is_executable(self):
        for path in SCRIPTS:
            with self.subTest(path):
                full = os.path.join(tree.ROOT, path)
                if not path.startswith("tests/"):  # ctest names their interpreter
                    self.assertTrue(os.access(full, os.X_OK))
                if "bash" in tree.read(path).split("\n", 1)[0]:
                    subprocess.run(["bash", "-n", full], check=True)

    def test_every_preset_has_its_workflow(self):
        presets = json.loads(tree.read("CMakePresets.json"))
        names = [p["name"] for p in presets["configurePresets"] if not p.get("hidden")]
        self.assertEqual(["release", "dev", "tsan", "fuzz", "coverage"], names)
        self.assertEqual(names, [p["name"] for p in presets["workflowPresets"]])

    def test_the_tree_keeps_its_layers(self):
        done = check_layers(tree.ROOT)
        self.assertEqual((0, ""), (done.returncode, done.stdout))

    def test_an_include_against_the_layers_is_refused(self):
        for path, line, word in (
                ("engine/x.c", '#include "service/rest.h"', "above or beside"),
                ("engine/x.c", "#include <grpc/grpc.h>", "door"),
                ("engine/x.c", '#include "store.h"', "not relative"),
                ("cuda/x.cu", '#include "engine/store.h"', "above or beside"),
                ("service/x.c", "#include <microhttpd.h>", "door")):
            with self.subTest(path + ": " + line), tempfile.TemporaryDirectory() as folder:
                os.mkdir(os.path.join(folder, os.path.dirname(path)))
                with open(os.path.join(folder, path), "w", encoding="utf-8") as file:
                    file.write(line + "\n")
                done = check_layers(folder)
                self.assertEqual(1, done.returncode)
                self.assertIn(word, done.stdout)


tree.main()
