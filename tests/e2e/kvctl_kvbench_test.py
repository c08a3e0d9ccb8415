"""kvbench in its quick form: it runs and its numbers are there. No time is judged here."""

import json
import subprocess
import sys
import unittest

import support

PROGRAM = sys.argv.pop(1) if len(sys.argv) > 1 else str(support.BINARY / "bin" / "kvbench")


def kvbench(*flags, code=0):
    result = subprocess.run([PROGRAM, "--server", support.SERVER, *flags], stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True, timeout=100, check=False)
    if result.returncode != code:
        raise AssertionError(result.stdout + result.stderr)
    return result


class KvbenchTest(unittest.TestCase):
    def test_every_case_has_positive_numbers_on_both_sides(self):
        report = json.loads(kvbench("--quick", "--json").stdout)
        self.assertEqual(report["rounds"], 1)
        self.assertTrue(report["machine"]["processor"])
        limits = [case for case in report["cases"] if "limit" in case]
        cases = [case for case in report["cases"] if "limit" not in case]
        self.assertEqual([case["name"] for case in limits],
                         ["memcpy", "sum", "loopback TCP, received and summed"])
        self.assertEqual({(case["name"], case["workers"]) for case in cases
                          if case["unit"].startswith("GB/s") and not case["shared"]},
                         {(verb, workers) for verb in ("push", "pull", "pushpull")
                          for workers in (1, 2)})
        self.assertEqual([case["name"] for case in cases if case["shared"]],
                         ["push where it lies", "push of a copy", "pull"])
        for case in limits:
            self.assertGreater(case["limit"]["median"], 0)
        for case in cases:
            for side in ("bare", "kvstored"):
                self.assertGreater(case[side]["median"], 0, case)
                if side == "kvstored" or not case["shared"]:
                    self.assertGreater(case[side]["client_cpu"], 0, case)
                self.assertLessEqual(case[side]["lowest"], case[side]["highest"])
            self.assertAlmostEqual(case["ratio"],
                                   case["kvstored"]["median"] / case["bare"]["median"], places=3)

    def test_the_table_names_machine_commit_and_ratio(self):
        text = kvbench("--quick").stdout
        for word in ("machine ", "build ", "gRPC core", "ratio", "pushpull, 2 workers"):
            self.assertIn(word, text)

    def test_rows_stand_beside_a_copy_of_such_rows(self):
        report = json.loads(kvbench("--rows", "20000", "--ask", "500", "--rounds", "1",
                                    "--json").stdout)
        self.assertEqual((report["rows"], report["width"], report["ask"]), (20000, 64, 500))
        for case in ("memcpy of rows", "pull, embedded", "push, embedded", "pull, server",
                     "push, server"):
            self.assertGreater(report[case]["rows_s"], 0)

    def test_raw_needs_no_server(self):
        out = kvbench("--quick", "--raw", "--json", "--server", "/nonexistent").stdout
        report = json.loads(out)
        self.assertTrue(all("kvstored" not in case for case in report["cases"]))

    def test_a_missing_server_is_an_error_that_names_the_option(self):
        self.assertIn("--server", kvbench("--quick", "--server", "/nonexistent", code=1).stderr)

    def test_wrong_use_is_exit_code_2(self):
        kvbench("--rounds", "0", code=2)
        kvbench("--rows", "many", code=2)
        kvbench("--nothing", code=2)
        kvbench("more", code=2)


if __name__ == "__main__":
    support.main()
