"""A run that ends, and goes on from a file of states in another process, ends as one that did not.

Every optimizer of both lines with the settings of tests/oracle (momenta, decay, factors by key),
but schedules that change the rate on both sides of the save; on values of f64, f32 and f16, with
masters and without, and on rows. To the bit.

usage: resume_test.py [all]     unless all: not every setting, and at a server one of each optimizer
"""

import os
import pathlib
import sys
import tempfile

import numpy

import case
import kvstored
from kvstored import RowSparse

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "oracle"))
import optimizers_test as oracle  # noqa: E402

BEFORE, AFTER = 9, 9
WHOLE = False
SHAPE = (5, 4)
KEYS = {"f64": "float64", "f32": "float32", "f16": "float16", "rows": "float32"}
SCHEDULES = [
    {"name": "factor", "step": 4, "factor": 0.5, "stop_factor_lr": 0.005, "base_lr": 0.1},
    {"name": "multifactor", "step": [3, 11], "factor": 0.3, "base_lr": 0.1},
    {"name": "poly", "max_update": 15, "warmup_steps": 3, "base_lr": 0.1},
    {"name": "cosine", "max_update": 15, "warmup_steps": 12, "warmup_begin_lr": 0.2,
     "warmup_mode": "constant", "base_lr": 0.1},
]
SGLD = [{"name": "sgld", "rules": rules, "seed": 5, "wd": 0.01} for rules in ("1.9", "2.0")]


def settings():
    """All with masters of f16; those with a certain decay without them as well."""
    for number, said in enumerate([*oracle.settings(), *SGLD]):
        if "lr_scheduler" in said:
            said = {**said, "lr_scheduler": SCHEDULES[number % len(SCHEDULES)]}
        yield {**said, "multi_precision": True}
        if said.get("wd") == 0.01:
            yield said


def gradient(number, step, key):
    random = numpy.random.RandomState([number, step, len(key)])
    values = (random.standard_normal(SHAPE) * 0.25).astype(KEYS[key])
    if key != "rows":
        return values
    rows = random.permutation(SHAPE[0])[:random.randint(0, SHAPE[0])]
    return RowSparse(rows, values[rows], SHAPE)


class Run:
    """One setting's store: opened on what is there, trained, its weights read."""

    def __init__(self, number, said, kv):
        self.number = number
        self.said = said
        self.kv = kv

    def start(self, weights=None, rule=True):
        if rule:
            self.kv.set_optimizer(self.said)
        if weights is None:
            weights = {key: (numpy.arange(20).reshape(SHAPE) / 8 - 1).astype(kind)
                       for key, kind in KEYS.items()}
        for key, value in weights.items():
            if key == "rows":
                value = RowSparse(numpy.arange(len(value)), value, value.shape)
            self.kv.init(key, value)

    def train(self, first, last):
        for step in range(first, last):
            for key in KEYS:
                self.kv.push(key, gradient(self.number, step, key))
        self.kv.wait()

    def weights(self):
        outs = {key: numpy.zeros(SHAPE, kind) for key, kind in KEYS.items()}
        self.kv.pull(list(outs), list(outs.values()))
        return outs


class Resume:
    """`open(number)` gives a store without keys, `die()` ends all that were opened so far."""

    def test_it_ends_as_the_run_that_was_not_interrupted(self):
        said = self.settings()
        names = {(one["name"], one["rules"]) for one in said if "rules" in one}
        saved, expected = [], []
        with tempfile.TemporaryDirectory() as folder:
            def path(number, dump):
                return os.path.join(folder, f"{number}.{dump}")

            for number, one in enumerate(said):
                run = Run(number, one, self.open(number))
                run.start()
                run.train(0, BEFORE)
                for dump in (False, True):
                    run.kv.save_optimizer_states(path(number, dump), dump_optimizer=dump)
                saved.append(run.weights())
                run.train(BEFORE, BEFORE + AFTER)
                expected.append(run.weights())
            for dump in (False, True):
                self.die()
                for number, one in enumerate(said):
                    with self.subTest(said=one, dump=dump):
                        run = Run(number, one, self.open(number))
                        run.start(saved[number], rule=not dump)
                        run.kv.load_optimizer_states(path(number, dump))
                        run.train(BEFORE, BEFORE + AFTER)
                        self.check(expected[number], run.weights())
        print(f"{len(said)} settings of {len(names)} optimizers")

    def check(self, expected, got):
        for key, value in expected.items():
            self.assertTrue(numpy.isfinite(value).all(), key)
            self.assertEqual(value.tobytes(), got[key].tobytes(), key)


class Local(Resume, case.Case):
    def settings(self):
        return [said for said in settings() if WHOLE or "wd" in said and "multi_precision" in said]

    def setUp(self):
        self.opened = []
        self.addCleanup(self.die)

    def open(self, number):
        self.opened.append(kvstored.create("local"))
        return self.opened[-1]

    def die(self):
        while self.opened:
            self.opened.pop().close()


class Distributed(Resume, case.Case):
    """The server is killed with all its stores, and another one has them anew."""

    def settings(self):
        """Of each optimizer and line the last one, which has a schedule and masters."""
        if WHOLE:
            return list(settings())
        return list({(one["name"], one.get("rules")): one for one in settings()
                     if one.get("multi_precision")}.values())

    def setUp(self):
        self.server = None
        self.opened = []
        self.addCleanup(self.die)

    def open(self, number):
        if self.server is None:
            self.server = case.Server(exit_code=-9)
        name = f"store-{number}"
        case.create_store(self.server, name, type="dist_sync", num_workers=1)
        kv = kvstored.create("dist_sync", self.server.grpc, store=name)
        self.opened.append(kv)
        return kv

    def die(self):
        if self.server is not None:
            self.server.process.kill()
            self.server.process.wait()
            self.server.__exit__(None, None, None)
            self.server = None
        while self.opened:
            self.opened.pop()._native.close()


if __name__ == "__main__":
    WHOLE = sys.argv[1:] == ["all"]
    del sys.argv[1:]
    case.main()
