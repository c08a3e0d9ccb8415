"""Every optimizer of the server on gradients of rows, against numpy in float64 over 1,000 steps.

A lazy optimizer touches the rows of its gradient alone: weights, states and decay; the count goes
on for all, also where a gradient has no row. The others take rows that are not there for zeros. The
rules and tolerances are those of optimizers_test.py.

usage: rows_test.py [all]       unless all: of each name, line and laziness one setting
"""

import sys
import unittest

import numpy

import optimizers_test as oracle
from optimizers_test import STEPS, case, kvstored

SHAPE = (12, 4)
COMMON = [
    {},
    {"wd": 0.01, "rescale_grad": 0.5, "clip_gradient": 0.3},
    {"wd": 0.02, "rescale_grad": 0.7, "begin_num_update": 3,
     "lr_scheduler": {"name": "factor", "step": 100, "factor": 0.9, "base_lr": 0.02}},
]
ALWAYS_LAZY = {"adagrad", "ftrl", "groupadagrad"}


def settings():
    """Of each name and line its first and last own numbers; lazy and not where it can be said."""
    for name, owns in oracle.OWN.items():
        for rules in oracle.LINES.get(name, ["1.9", "2.0"]):
            for own in owns[:1] + owns[1:][-1:]:
                if name == "signum" and own.get("momentum") == 0:
                    continue
                for common in COMMON:
                    said = {"name": name, "rules": rules, **common, **own}
                    if name == "groupadagrad":
                        said.pop("wd", None)  # it takes none
                    if name in ("sgd", "adam", "ccsgd"):
                        yield {**said, "lazy_update": False}
                        said["lazy_update"] = True
                    yield said


def quick_settings():
    """The last of each kind: decay and a schedule move what a lazy rule leaves alone."""
    return list({(said["name"], said["rules"], said.get("lazy_update")): said
                 for said in settings()}.values())


class Rows:
    """A rule of the oracle, fed with rows."""

    def __init__(self, said, weight, key):
        self.rule = oracle.rules.rule_of(said["name"])(said, weight, key)
        self.lazy = said.get("lazy_update", said["name"] in ALWAYS_LAZY)

    @property
    def w(self):
        return self.rule.w

    def step(self, rows, g):
        if not self.lazy:
            self.rule.step(g)
            return
        others = numpy.setdiff1d(numpy.arange(SHAPE[0]), rows)
        before = {name: value.copy() for name, value in vars(self.rule).items()
                  if isinstance(value, numpy.ndarray)}
        self.rule.step(g)
        for name, value in before.items():
            getattr(self.rule, name)[others] = value[others]


class Optimizers(oracle.case.Case):
    check = oracle.Optimizers.check

    def run_both(self, kv, said, number):
        random = numpy.random.RandomState(number)
        scale = 10.0 ** random.uniform(-3, 0.5, SHAPE)
        names = [f"{number}/f64", f"{number}/f32"]
        kinds = [numpy.float64, numpy.float32]
        start = random.uniform(-2, 2, SHAPE).astype(numpy.float32)
        kv.set_optimizer(said)
        for name, kind in zip(names, kinds):
            kv.init(name, kvstored.RowSparse.from_dense(start.astype(kind)))
        expected = Rows(said, start, names[0])
        largest = numpy.zeros(SHAPE)
        for step in range(STEPS):
            # The first has all rows, since adamax of 1.9 would make NaN of a first zero.
            count = SHAPE[0] if step == 0 else random.randint(0, 6)
            rows = random.permutation(SHAPE[0])[:count]
            values = (random.standard_normal((count, SHAPE[1])) * scale[rows]).astype("float32")
            for name, kind in zip(names, kinds):
                kv.push(name, kvstored.RowSparse(rows, values.astype(kind), SHAPE))
            dense = numpy.zeros(SHAPE)
            dense[rows] = values
            before = expected.w.copy()
            expected.step(rows, dense)
            largest = numpy.maximum(largest, abs(expected.w - before))
        outs = [numpy.zeros(SHAPE, kind) for kind in kinds]
        kv.pull(names, outs)
        return outs, expected.w, largest

    def test_a_thousand_steps_of_rows(self):
        worst = {"f64": 0, "f32": 0}
        count = 0
        with case.Server() as server, kvstored.create("dist_sync", server.grpc) as kv:
            for number, said in enumerate(chosen()):
                with self.subTest(said=said):
                    got, expected, largest = self.run_both(kv, said, number)
                    got = [array.ravel() for array in got]
                    expected, largest = expected.ravel(), largest.ravel()
                    size = numpy.maximum(abs(expected), 1)
                    error = self.check(got[0], expected, 1e-12 * size, said)
                    worst["f64"] = max(worst["f64"], error)
                    if said["name"] not in oracle.SIGNS:
                        error = self.check(got[1], expected, 5e-5 * (size + 32 * largest), said)
                        worst["f32"] = max(worst["f32"], error)
                    count += 1
        print(f"{count} settings of {STEPS} steps; largest errors, in tolerances: {worst}")


if __name__ == "__main__":
    chosen = settings if sys.argv[1:] == ["all"] else quick_settings
    del sys.argv[1:]
    unittest.main(verbosity=2)
