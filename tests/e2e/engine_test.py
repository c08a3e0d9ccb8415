"""The CUDA engine in the program: what nvcc put there, and how it starts where no card can be used.

usage: engine_test.py yes ARCHITECTURES Build|Start
       engine_test.py no REASON Build|Start        where the engine is not built
"""

import json
import os
import re
import struct
import subprocess
import sys
import tempfile
import unittest

import server

BUILT, WORDS = sys.argv[1] == "yes", sys.argv[2]
del sys.argv[1:3]
FATBIN_MAGIC = 0xBA55ED50
PTX, MACHINE_CODE = 1, 2
# With no device to be seen it is as if there were no card.
NO_CARD = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}


def images(fatbins):
    """The (kind, architecture) of every image in each of the fat binaries, one set for each."""
    found = []
    at = fatbins.find(struct.pack("<I", FATBIN_MAGIC))
    while at >= 0:
        header, total = struct.unpack_from("<HQ", fatbins, at + 6)
        place, end, one = at + header, at + header + total, set()
        while place < end:
            kind, _, head, size = struct.unpack_from("<HHIQ", fatbins, place)
            one.add((kind, struct.unpack_from("<I", fatbins, place + 28)[0]))
            place += head + size
        found.append(one)
        at = fatbins.find(struct.pack("<I", FATBIN_MAGIC), end)
    return found


class Build(unittest.TestCase):
    def test_every_kernel_is_there_for_every_card_and_as_ptx_for_later_ones(self):
        with tempfile.NamedTemporaryFile() as out:
            subprocess.run(["objcopy", "-O", "binary", "--only-section=.nv_fatbin",
                            "--set-section-flags", ".nv_fatbin=alloc", server.SERVER, out.name],
                           check=True)
            found = images(out.read())
        cards = [int(number) for number in re.findall(r"\d+", WORDS)]
        wanted = {(MACHINE_CODE, card) for card in cards} | {(PTX, max(cards))}
        self.assertGreater(len(found), 0)
        for one in found:
            self.assertEqual(wanted, one)

    def test_the_runtime_is_inside_and_the_driver_is_not_linked(self):
        needed = subprocess.run(["readelf", "-d", server.SERVER], stdout=subprocess.PIPE,
                                text=True, check=True).stdout
        self.assertIn("NEEDED", needed)
        self.assertNotRegex(needed, r"libcuda|libcudart|libstdc\+\+")


class Start(unittest.TestCase):
    REASON = r"no CUDA device can be used: cudaError\w+" if BUILT else "built without CUDA"

    def test_auto_serves_from_the_cpu_and_says_why(self):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        with server.Server("--engine", "auto") as one:
            self.assertRegex(json.loads(one.get("/version"))["engine"], r"^cpu ")
            self.assertRegex(one.text(), 'level=info event=engine_cpu reason=".*' + self.REASON)

    def test_cuda_refuses_with_exit_code_6_and_says_why(self):
        done = subprocess.run([server.SERVER, "--engine", "cuda", "--grpc-address", "127.0.0.1:0",
                               "--http-address", "127.0.0.1:0"], stderr=subprocess.PIPE, text=True,
                              env=NO_CARD, timeout=20, check=False)
        self.assertEqual(done.returncode, 6, done.stderr)
        self.assertRegex(done.stderr, "the CUDA engine does not start: .*" + self.REASON)

    def test_cpu_does_not_ask_for_a_card(self):
        with server.Server("--engine", "cpu") as one:
            self.assertNotIn("event=engine_cpu", one.text())


if __name__ == "__main__":
    if not BUILT and "Build" in sys.argv[1:]:
        server.skip("the CUDA engine is not built: " + WORDS)
    unittest.main()
