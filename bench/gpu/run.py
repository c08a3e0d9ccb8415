#!/usr/bin/env python3
"""What a card is worth to kvstored: builds, runs the suite on the card, measures, writes JSON.

    bench/gpu/run.py [--output gpu.json] [--quick] [--no-suite]

Prints for each kernel of the CUDA engine its time over the floor (the bytes that it must move, at
the copy bandwidth measured on the spot), the CPU engine beside it, pushes and pulls of the backend
beside the link's measured limit, and those of a whole server with each engine.

--stand-in measures the stand-in of the tests instead of a card: shows that all this runs.
Exit codes: 0 done, 1 failed, 77 there is no card that can be used.
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
SKIPPED = 77
QUICK = ["--parts", "2", "--repeats", "1", "--rounds", "1", "--link-mib", "1"]
GPU_WORDS = "name,driver_version,pcie.link.gen.max,pcie.link.width.max,power.limit"


def say(text):
    print(f"run.py: {text}", file=sys.stderr, flush=True)


def fail(text, code=1):
    say(text)
    sys.exit(code)


def call(*command, engine=None):
    """The standard output of a command; what it says on stderr goes through."""
    environment = dict(os.environ)
    if engine:
        environment["KVSTORED_ENGINE"] = engine
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, text=True,
                          env=environment, check=False)
    if done.returncode != 0:
        fail(f"{command[0]} ended with {done.returncode}:\n{done.stdout}")
    return done.stdout


def machine():
    """The host in words, and what the driver says of its card."""
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        processor = next((line.split(":", 1)[1].strip() for line in file
                          if line.startswith("model name")), "unknown")
    words = {"date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
             "processor": processor, "cores": os.cpu_count(), "kernel": platform.release()}
    if shutil.which("nvidia-smi"):
        values = call("nvidia-smi", "--query-gpu=" + GPU_WORDS, "--format=csv,noheader")
        names = GPU_WORDS.split(",")
        words["card"] = dict(zip(names, (one.strip() for one in values.split("\n")[0].split(","))))
    return words


def suite(build):
    """The contract of a backend on the card, beside that on the CPU; a skipped case is no pass."""
    say("runs the contract suite")
    text = call("ctest", "--test-dir", build, "-L", "^(gpu|contract)$", "--output-on-failure")
    skipped = [line.split("- ")[1] for line in text.split("\n") if "(Skipped)" in line]
    if any("cuda" in name for name in skipped):
        fail("the suite was skipped on the card: " + ", ".join(skipped))
    return text.rstrip().split("\n")[-1]


def times_over_floor(case, limits):
    """The time of a case over what its bytes take at the measured limit."""
    return limits[case["limit"]] / case["cuda"]["bytes_per_second"]


def print_cases(report):
    limits = report["card"]["bytes_per_second"]
    print(f"\n{report['cuda']} beside {report['cpu']}")
    print("limits: " + ", ".join(f"{name.replace('_', ' ')} {rate / 1e9:.1f} GB/s"
                                 for name, rate in limits.items()))
    print(f"{'case':34}{'B/element':>10}{'limit':>6}{'GB/s':>9}{'time/floor':>12}"
          f"{'CPU GB/s':>10}{'CPU/GPU time':>14}")
    for case in report["cases"]:
        head = f"{case['name']:34}{case['bytes_per_element']:10.3f}{case['limit']:>6}"
        if "left_out" in case["cuda"]:
            print(f"{head}   {case['cuda']['left_out']}")
            continue
        print(f"{head}{case['cuda']['bytes_per_second'] / 1e9:9.1f}"
              f"{times_over_floor(case, limits):12.2f}", end="")
        if "left_out" in case["cpu"]:
            print()
            continue
        print(f"{case['cpu']['bytes_per_second'] / 1e9:10.1f}"
              f"{case['cpu']['seconds'] / case['cuda']['seconds']:14.2f}")


def print_servers(servers):
    """A server with each engine, as kvbench has them."""
    print(f"\n{'a whole server over loopback':34}{'unit':>28}{'cuda':>10}{'cpu':>10}")
    for on_cuda, on_cpu in zip(servers["cuda"]["cases"], servers["cpu"]["cases"]):
        if "kvstored" in on_cuda:
            name = f"{on_cuda['name']}, {on_cuda['workers']} workers"
            print(f"{name:34}{on_cuda['unit']:>28}{on_cuda['kvstored']['median']:10.3f}"
                  f"{on_cpu['kvstored']['median']:10.3f}")


def arguments():
    parser = argparse.ArgumentParser(description="see the head of this file")
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build")
    parser.add_argument("--output", default="gpu.json")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--no-build", action="store_true")
    parser.add_argument("--no-suite", action="store_true")
    parser.add_argument("--stand-in", action="store_true")
    return parser.parse_args()


def main():
    line = arguments()
    if not line.no_build:
        say("builds")
        call("cmake", "--preset", "release", "-S", ROOT)
        call("cmake", "--build", line.build, "--parallel", os.cpu_count())
    program = (line.build / "tests" / "kvbench_gpu_cudasim" if line.stand_in
               else line.build / "bin" / "kvbench_gpu")
    server = {"cuda": line.build / ("tests/kvstored_cudasim" if line.stand_in else "bin/kvstored"),
              "cpu": line.build / "bin" / "kvstored"}
    if not program.exists():
        fail("the CUDA engine is not built: cmake found no nvcc", SKIPPED)
    if subprocess.run([program, "--parts", "0", "--repeats", "1", "--link-mib", "1"],
                      stdout=subprocess.DEVNULL, check=False).returncode != 0:
        fail("there is no card that can be used", SKIPPED)
    report = {"machine": machine(), "stand_in": line.stand_in}
    if not line.no_suite:
        report["suite"] = suite(line.build)
    say("measures the kernels")
    report["kernels"] = json.loads(call(program, *(QUICK if line.quick else [])))
    report["servers"] = {}
    for engine in ("cuda", "cpu"):
        say(f"measures a server on {engine}")
        report["servers"][engine] = json.loads(
            call(line.build / "bin" / "kvbench", "--json", "--server", server[engine],
                 *(["--quick"] if line.quick else []), engine=engine))
    with open(line.output, "w", encoding="utf-8") as file:
        json.dump(report, file, indent=2)
        file.write("\n")
    if line.stand_in:
        print("On the stand-in, which runs on the CPU: no time below says anything of a card.")
    print(json.dumps(report["machine"]))
    print_cases(report["kernels"])
    print_servers(report["servers"])
    say(f"wrote {line.output}")


main()
