"""Runs a test with packages that the distribution does not have, from PyPI, in a venv of its own.

usage: in_venv.py NAME REQUIREMENTS COMMAND...

REQUIREMENTS are what pip takes, between commas. COMMAND is a script beside this one, or `-m` and a
module, with arguments. The venv is kept in the build folder for the next run, and made anew where
the requirements are others. Exit code 77 where it cannot be made: no venv, no network, no such
package for this Python.
"""

import os
import pathlib
import shutil
import subprocess
import sys

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "e2e"))
from server import BINARY, SOURCE, skip  # noqa: E402

PIP_SECONDS = 300


def made(name, requirements):
    """The interpreter of the venv."""
    folder = BINARY / "venv" / name
    python = folder / "bin" / "python"
    note = folder / "requirements"
    said = f"{sys.version}\n{requirements}"
    if note.exists() and note.read_text(encoding="utf-8") == said:
        return str(python)
    shutil.rmtree(folder, ignore_errors=True)
    install = [str(python), "-m", "pip", "install", "--quiet", "--only-binary", ":all:",
               *requirements.split(",")]
    for command in ([sys.executable, "-m", "venv", str(folder)], install):
        try:
            done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, text=True, timeout=PIP_SECONDS,
                                  check=False)
        except subprocess.TimeoutExpired:
            skip(f"no answer within {PIP_SECONDS} s: {' '.join(command)}")
        if done.returncode != 0:
            skip(f"{' '.join(command)}: {done.stdout.strip()[-500:]}")
    note.write_text(said, encoding="utf-8")
    return str(python)


def main():
    name, requirements, *command = sys.argv[1:]
    if command[0] != "-m":
        command[0] = str(HERE / command[0])
    os.chdir(SOURCE)
    python = made(name, requirements)
    sys.stdout.flush()
    os.execv(python, [python, "-B", *command])


if __name__ == "__main__":
    main()
