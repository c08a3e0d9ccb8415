"""`pip install ./client/python` without a network: the wheel carries the library and its version.

Skipped where venv, pip, setuptools or wheel is missing.
"""

import importlib.util
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import zipfile

import case
import kvstored

for module in ("venv", "ensurepip", "setuptools", "wheel", "pip"):
    if importlib.util.find_spec(module) is None:
        case.skip(f"{module} is not installed (python3-venv, python3-pip, python3-setuptools, "
                  "python3-wheel)")

PROGRAM = """
import kvstored, numpy
kv = kvstored.create("local")
kv.init("w", numpy.ones(3, "float32"))
out = numpy.zeros(3, "float32")
kv.pull("w", out)
print(kvstored.__version__, kvstored.__file__, out.tolist())
"""


def run(*command, **environment):
    clean = {name: value for name, value in os.environ.items()
             if name not in ("PYTHONPATH", "KVSTORE_LIBRARY")}
    done = subprocess.run(command, env={**clean, **environment}, text=True, check=False,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120)
    if done.returncode != 0:
        raise AssertionError(" ".join(map(str, command)) + "\n" + done.stdout)
    return done.stdout


class Install(case.Case):
    def test_pip_installs_what_runs_by_itself(self):
        source = case.SOURCE / "client" / "python"
        before = sorted(source.rglob("*"))
        with tempfile.TemporaryDirectory(prefix="kvs-install-") as folder:
            run(sys.executable, "-m", "venv", "--system-site-packages", folder)
            python = os.path.join(folder, "bin", "python")
            options = ["--no-build-isolation", "--no-index", "--no-deps", "--quiet",
                       "--disable-pip-version-check"]
            library = os.environ["KVSTORE_LIBRARY"]
            run(python, "-m", "pip", "wheel", *options, "--wheel-dir", folder, str(source),
                KVSTORE_LIBRARY=library)
            wheel, = pathlib.Path(folder).glob("*.whl")
            self.assertRegex(wheel.name, r"^kvstored-[0-9.]+-py3-none-linux_")
            names = zipfile.ZipFile(wheel).namelist()
            self.assertIn("kvstored/libkvstore.so", names)
            self.assertIn("kvstored/py.typed", names)
            run(python, "-m", "pip", "install", *options, str(source), KVSTORE_LIBRARY=library)
            version, place, value = run(python, "-c", PROGRAM).strip().split(" ", 2)
            self.assertTrue(place.startswith(folder), place)
            self.assertEqual("[1.0, 1.0, 1.0]", value)
            self.assertEqual(kvstored.__version__, version)
            told = run(python, "-m", "pip", "show", "kvstored")
            self.assertEqual(version, re.search(r"^Version: (.*)$", told, re.MULTILINE)[1])
        self.assertEqual(before, sorted(source.rglob("*")), "left in the checkout")


case.main()
