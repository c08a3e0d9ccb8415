"""Builds a wheel that carries libkvstore, from a checkout of the whole project.

The library is what KVSTORE_LIBRARY names, else the release build's, which is built where it is not
there. The version is the one of the project, in CMakeLists.txt. Nothing is written into the
checkout but that build.
"""

import atexit
import os
import pathlib
import re
import shutil
import subprocess
import tempfile

from setuptools import Distribution, setup
from setuptools.command.build_py import build_py

try:
    from setuptools.command.bdist_wheel import bdist_wheel
except ImportError:  # before setuptools 70.1
    from wheel.bdist_wheel import bdist_wheel

ROOT = pathlib.Path(__file__).resolve().parents[2]


def version():
    text = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    return re.search(r"^project\(kvstored VERSION ([0-9.]+)", text, re.MULTILINE)[1]


def library():
    named = os.environ.get("KVSTORE_LIBRARY")
    if named:
        return pathlib.Path(named)
    built = ROOT / "build" / "lib" / "libkvstore.so"
    if not built.exists():
        for command in (["cmake", "--preset", "release"],
                        ["cmake", "--build", "--preset", "release", "--target", "kvstore"]):
            subprocess.run(command, cwd=ROOT, check=True)
    return built


class Build(build_py):
    """The modules, and the library beside them."""

    def run(self):
        super().run()
        shutil.copyfile(library(), pathlib.Path(self.build_lib) / "kvstored" / "libkvstore.so")


class Wheel(bdist_wheel):
    """For any Python 3 of this platform: ctypes needs no interpreter's headers."""

    def finalize_options(self):
        super().finalize_options()
        self.root_is_pure = False

    def get_tag(self):
        return "py3", "none", super().get_tag()[2]


class WithLibrary(Distribution):
    def has_ext_modules(self):
        return True


folder = tempfile.mkdtemp(prefix="kvstored-wheel-")
atexit.register(shutil.rmtree, folder, ignore_errors=True)
setup(
    version=version(),
    packages=["kvstored"],
    package_data={"kvstored": ["py.typed"]},
    cmdclass={"build_py": Build, "bdist_wheel": Wheel},
    distclass=WithLibrary,
    options={"build": {"build_base": folder}, "egg_info": {"egg_base": folder}},
)
