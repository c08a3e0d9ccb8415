"""Every optimizer of the server against MXNet's formulas, written out in float64 (rules.py).

Each setting takes 1,000 steps of random gradients at a real server, on a key of f64 and on one of
f32, and the same in numpy. Gradients do not depend on the weights, so errors add up and do not grow
by themselves:

- f64: a step makes a few errors of 1e-16 of its terms, and 1,000 steps were seen to leave 2e-14 of
  the weight or of 1; 1e-12 is far above that, and far below any wrong formula.
- f32: errors are 5e8 times those of f64: 5e-5 of the weight, or of the largest step times the
  square root of 1,000, where 1e-5 was seen. Rules that take a sign are left out: where the
  argument is as small as its error, the sign is anybody's.
"""

import json
import pathlib
import re
import sys
import unittest

import numpy

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "python"))
import case  # noqa: E402
import kvstored  # noqa: E402
import rules  # noqa: E402

STEPS = 1000
SHAPE = (8, 6)


# ---------------------------------------------------------------- settings

# Of each name: what is set beside the common numbers. "rules" is added where both lines have it.
OWN = {
    "sgd": [{}, {"momentum": 0.9}],
    "ccsgd": [{"momentum": 0.5}],
    "nag": [{}, {"momentum": 0.8}],
    "diloco": [{}, {"momentum": 0.5, "learning_rate": 0.1}],
    "signum": [{}, {"wd_lh": 0.02, "momentum": 0.5}, {"momentum": 0}],
    "lbsgd": [{}, {"momentum": 0.9, "batch_scale": 4, "warmup_strategy": "sqrt"},
              {"batch_scale": 3, "begin_epoch": 1, "warmup_epochs": 9,
               "warmup_strategy": "power2"}, {"batch_scale": 2, "warmup_strategy": "lars"}],
    "lars": [{}, {"momentum": 0.9, "eta": 0.02}],
    "lamb": [{}, {"lower_bound": 0.5, "upper_bound": 3.0, "beta1": 0.5},
             {"bias_correction": False, "epsilon": 1e-3}],
    "lans": [{}, {"lower_bound": 0.5, "upper_bound": 3.0, "beta2": 0.9}],
    "lion": [{}, {"beta1": 0.5, "beta2": 0.75, "learning_rate": 0.01}],
    "ftml": [{}, {"beta1": 0.9, "beta2": 0.99, "epsilon": 1e-4}],
    "ftrl": [{}, {"lamda1": 0.5, "beta": 0.25, "learning_rate": 0.5}],
    "adam": [{}, {"beta1": 0.5, "beta2": 0.9, "epsilon": 1e-3}],
    "adamw": [{}, {"correct_bias": False, "epsilon": 1e-2}],
    "adabelief": [{}, {"correct_bias": False, "beta1": 0.7}],
    "adamax": [{}, {"beta1": 0.5, "beta2": 0.9}],
    "nadam": [{}, {"schedule_decay": 0.1, "beta1": 0.99}],
    "adagrad": [{}, {"learning_rate": 0.5}],
    "groupadagrad": [{}, {"learning_rate": 0.5}],
    "adadelta": [{}, {"rho": 0.5, "epsilon": 1e-3}],
    "rmsprop": [{}, {"centered": True}, {"clip_weights": 1.0}],
    "dcasgd": [{}, {"momentum": 0.9, "lamda": 0.5}],
    "test": [{}],
}
LINES = {"ccsgd": ["1.9"], "lbsgd": ["1.9"], "adabelief": ["2.0"], "lans": ["2.0"]}
COMMON = [
    {},
    {"wd": 0.01, "rescale_grad": 0.5, "clip_gradient": 0.3},
    {"wd": 0.02, "wd_mult": {"f64": 0.5, "f32": 0.5}, "lr_mult": {"f64": 1.5, "f32": 1.5},
     "begin_num_update": 7,
     "lr_scheduler": {"name": "factor", "step": 100, "factor": 0.9, "base_lr": 0.02}},
]
SCHEDULES = [
    {"name": "factor", "step": 50, "factor": 0.5, "stop_factor_lr": 0.001, "base_lr": 0.1},
    {"name": "factor", "step": 7, "factor": 0.99, "warmup_steps": 100, "warmup_begin_lr": 0.3},
    {"name": "multifactor", "step": [10, 500, 501, 900], "factor": 0.3},
    {"name": "poly", "max_update": 700, "pwr": 1.5, "final_lr": 0.001},
    {"name": "poly", "max_update": 1200, "warmup_steps": 200},
    {"name": "cosine", "max_update": 800, "final_lr": 0.01, "warmup_steps": 50,
     "warmup_begin_lr": 0.2, "warmup_mode": "constant"},
]
SIGNS = {"signum", "lion"}
# Fields that every optimizer has, but the rate.
SHARED = {"name", "wd", "rescale_grad", "clip_gradient", "clip_norm", "multi_precision",
          "lr_scheduler", "lr_mult", "wd_mult", "begin_num_update", "rules"}


def settings():
    for name, owns in OWN.items():
        for rules in LINES.get(name, ["1.9", "2.0"]):
            for own in owns:
                if name == "signum" and rules == "1.9" and own.get("momentum") == 0:
                    own = {key: value for key, value in own.items() if key != "wd_lh"}
                for common in COMMON:
                    said = {"name": name, "rules": rules, **common, **own}
                    if name == "groupadagrad":
                        said.pop("wd", None)  # it takes none
                    yield said
    for schedule in SCHEDULES:
        yield {"name": "sgd", "lr_scheduler": schedule}
        yield {"name": "adam", "rules": "2.0", "lr_scheduler": schedule, "learning_rate": 0.05}
        yield {"name": "lars", "momentum": 0.5, "lr_scheduler": schedule}
    for said in ({"name": "sgd", "momentum": 0.9}, {"name": "adam"}, {"name": "lamb"}):
        yield {**said, "clip_norm": 0.5, "wd": 0.01, "rescale_grad": 2}


class Optimizers(case.Case):
    def run_both(self, kv, said, number):
        """One setting: the weights (f64, f32) of the server, of numpy, and the largest step."""
        random = numpy.random.RandomState(number)
        scale = 10.0 ** random.uniform(-3, 0.5, SHAPE)
        names = [f"{number}/f64", f"{number}/f32"]
        said = {key: {f"{number}/{name}": value for name, value in given.items()}
                if key.endswith("_mult") else given for key, given in said.items()}
        start = random.uniform(-2, 2, SHAPE).astype(numpy.float32)
        values = [start.astype(numpy.float64), start.copy()]
        kv.set_optimizer(said)
        kv.init(names, values)
        oracle = rules.rule_of(said["name"])(said, start, names[0])
        largest = numpy.zeros(SHAPE)
        for step in range(STEPS):
            g = (random.standard_normal(SHAPE) * scale).astype(numpy.float32)
            if step > 0:  # adamax of 1.9 would make NaN of a first one; the server does not
                g[random.uniform(size=SHAPE) < 0.05] = 0
            kv.push(names, [g.astype(numpy.float64), g])
            before = oracle.w
            oracle.step(g.astype(numpy.float64))
            largest = numpy.maximum(largest, abs(oracle.w - before))
        kv.pull(names, values)
        return [value.ravel() for value in values], oracle.w.ravel(), largest.ravel()

    def check(self, got, expected, tolerance, said):
        """Returns the largest error, in tolerances."""
        wrong = abs(got - expected) / tolerance
        worst = int(numpy.argmax(numpy.where(numpy.isfinite(wrong), wrong, numpy.inf)))
        if not wrong[worst] <= 1:
            self.fail(f"{said}: {got.dtype} {got[worst]!r} is not {expected[worst]!r}")
        return wrong[worst]

    def test_a_thousand_steps_of_every_optimizer(self):
        count = 0
        worst = {"f64": 0, "f32": 0}
        with case.Server() as server, kvstored.create("dist_sync", server.grpc) as kv:
            for number, said in enumerate(settings()):
                with self.subTest(said=said):
                    got, expected, largest = self.run_both(kv, said, number)
                    size = numpy.maximum(abs(expected), 1)
                    error = self.check(got[0], expected, 1e-12 * size, said)
                    worst["f64"] = max(worst["f64"], error)
                    if said["name"] not in SIGNS:
                        error = self.check(got[1], expected, 5e-5 * (size + 32 * largest), said)
                        worst["f32"] = max(worst["f32"], error)
                    count += 1
        print(f"{count} settings of {STEPS} steps; largest errors, in tolerances: {worst}")

    def noise_of(self, kv, said, number):
        """What sgld adds to the step of its formula, in roots of the rate, at every update of two
        keys of f64: of dense gradients, and of gradients of some rows."""
        random = numpy.random.RandomState(number)
        names = [f"{number}/f64", f"{number}/rows"]
        start = random.uniform(-2, 2, SHAPE)
        kv.set_optimizer(said)
        kv.init(names[0], start)
        kv.init(names[1], kvstored.RowSparse.from_dense(start))
        found = numpy.zeros((2, STEPS, *SHAPE))
        got = [numpy.zeros(SHAPE), numpy.zeros(SHAPE)]
        oracles = [rules.Sgd({**said, "rules": "1.9"}, start, name) for name in names]
        for step in range(STEPS):
            g = 1 + random.standard_normal(SHAPE)
            rows = random.permutation(SHAPE[0])[:random.randint(0, SHAPE[0])]
            given = numpy.zeros(SHAPE)
            given[rows] = g[rows]
            kv.push(names[0], g)
            kv.push(names[1], kvstored.RowSparse(rows, g[rows], SHAPE))
            kv.pull(names, got)
            for place, oracle, value, gradient in zip(found, oracles, got, (g, given)):
                before = oracle.w
                oracle.m = oracle.zeros()  # half the step of sgd, without a momentum
                oracle.step(gradient)
                place[step] = (value - (before + oracle.w) / 2) / oracle.lr ** 0.5
                oracle.w = value.copy()
        return found

    def test_a_thousand_steps_of_sgld_are_half_of_sgds_and_normal_noise(self):
        settings = [{"name": "sgld", "rules": "1.9", "learning_rate": 0.05, "seed": 1},
                    {"name": "sgld", "rules": "2.0", "wd": 0.01, "rescale_grad": 0.5, "seed": 2,
                     "clip_gradient": 0.3, "begin_num_update": 7,
                     "lr_scheduler": {"name": "factor", "step": 100, "factor": 0.9,
                                      "base_lr": 0.5}}]
        with case.Server() as server, kvstored.create("dist_sync", server.grpc) as kv:
            every = numpy.stack([noise for number, said in enumerate(settings)
                                 for noise in self.noise_of(kv, said, number)])
        far = 5 / STEPS ** 0.5  # so many deviations of a mean of STEPS numbers, or fewer, of more
        self.assertLess(abs(every.mean(axis=1)).max(), far)
        self.assertLess(abs((every ** 2).mean(axis=1) - 1).max(), far * 2 ** 0.5)
        for noise in every:
            self.assertLess(abs(noise.mean()), 5 / noise.size ** 0.5)
        self.assertLess(abs((every ** 2).mean() - 1), 5 * 2 ** 0.5 / every.size ** 0.5)
        self.assertLess(abs((every ** 4).mean() - 3), 5 * 96 ** 0.5 / every.size ** 0.5)
        for lag in range(1, 4):  # updates do not know of each other
            self.assertLess(abs((every[:, lag:] * every[:, :-lag]).mean()), 5 / every.size ** 0.5)
        flat = every.transpose(0, 2, 3, 1).reshape(-1, STEPS)  # nor elements, keys and seeds
        among = flat @ flat.T / STEPS - numpy.diag((flat ** 2).mean(axis=1))
        self.assertLess(abs(among).max(), 6 / STEPS ** 0.5)

    def test_norms_are_those_of_values_in_several_parts(self):
        random = numpy.random.RandomState(2)
        start = random.uniform(-2, 2, (1000, 300))  # two parts, of which each has some of row 873
        for said in ({"name": "lars", "momentum": 0.9, "wd": 0.01}, {"name": "lamb", "wd": 0.01},
                     {"name": "lans", "rules": "2.0"}, {"name": "sgd", "clip_norm": 0.5},
                     {"name": "groupadagrad"}):
            with self.subTest(said=said), case.Server() as server, \
                    kvstored.create("dist_sync", server.grpc) as kv:
                kv.set_optimizer(said)
                kv.init("w", start)
                oracle = rules.rule_of(said["name"])(said, start, "w")
                got = numpy.zeros_like(start)
                for _ in range(3):
                    g = random.standard_normal(start.shape)
                    kv.pushpull("w", g, out=got)
                    oracle.step(g)
                size = numpy.maximum(abs(oracle.w), 1).ravel()
                self.check(got.ravel(), oracle.w.ravel(), 1e-12 * size, said)
                self.assertGreater(abs(oracle.w - start).max(), 1e-6)

    def test_the_document_names_every_field_with_its_default(self):
        text = (case.SOURCE / "docs" / "OPTIMIZERS.md").read_text(encoding="utf-8")
        rows = re.findall(r"^\| `(\w+)` \| ([\d., ]+) \| `(.*?)` \|", text, re.M)
        told = {(name, line): json.loads("{" + own + "}")
                for name, lines, own in rows for line in lines.split(", ")}
        found = {}
        with kvstored.create("local") as kv:
            for name in kvstored.optimizer.names():
                for line in ("1.9", "2.0"):
                    try:
                        kv.set_optimizer({"name": name, "rules": line})
                    except kvstored.KVStoreError:
                        continue
                    own = kv.get_optimizer()
                    found[name, line] = {key: own[key] for key in own if key not in SHARED}
        self.assertEqual(found, told)

    def test_the_oracle_knows_every_optimizer_that_the_server_has(self):
        with kvstored.create("local") as kv:
            for name in kvstored.optimizer.names():
                for rules in ("1.9", "2.0"):
                    try:
                        kv.set_optimizer({"name": name, "rules": rules})
                    except kvstored.KVStoreError:
                        continue
                    self.assertIn(name, {*OWN, "sgld"})


if __name__ == "__main__":
    unittest.main(verbosity=2)
