"""Every optimizer of the server against MXNet's formulas, written out here in float64.

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
import math
import pathlib
import re
import sys
import unittest

import numpy

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "python"))
import case  # noqa: E402
import kvstored  # noqa: E402

STEPS = 1000
SIZE = 48


# ---------------------------------------------------------------- schedules, as loops over n

class Schedule:
    def __init__(self, rate, said):
        said = said or {}
        self.said = said
        self.base = self.first = rate
        self.count = 0
        self.next = 0

    def at(self, n):
        said = self.said
        if not said:
            return self.base
        warm = said.get("warmup_steps", 0)
        if n < warm:
            begin = said.get("warmup_begin_lr", 0)
            if said.get("warmup_mode", "linear") == "constant":
                return begin
            return begin + (self.first - begin) * n / warm
        return getattr(self, said["name"])(n, warm)

    def factor(self, n, warm):
        while n > self.count + self.said["step"]:
            self.count += self.said["step"]
            self.base = max(self.base * self.said.get("factor", 1),
                            self.said.get("stop_factor_lr", 1e-8))
        return self.base

    def multifactor(self, n, warm):
        steps = self.said["step"]
        while self.next < len(steps) and n > steps[self.next]:
            self.next += 1
            self.base *= self.said.get("factor", 1)
        return self.base

    def poly(self, n, warm):
        last = self.said["max_update"]
        final = self.said.get("final_lr", 0)
        if n <= last:
            left = 1 - (n - warm) / (last - warm)
            self.base = final + (self.first - final) * left ** self.said.get("pwr", 2)
        return self.base

    def cosine(self, n, warm):
        last = self.said["max_update"]
        final = self.said.get("final_lr", 0)
        if n <= last:
            turn = math.pi * (n - warm) / (last - warm)
            self.base = final + (self.first - final) * (1 + math.cos(turn)) / 2
        return self.base


# ---------------------------------------------------------------- rules

class Rule:
    """The state of one key. `defaults` of a subclass: (in 1.9, in 2.0) or one for both."""

    defaults = {}
    rate = (0.01, 0.01)

    def __init__(self, said, weight, key):
        self.old = said.get("rules", "1.9") == "1.9"
        for name, value in self.defaults.items():
            if isinstance(value, tuple):
                value = value[0 if self.old else 1]
            setattr(self, name, said.get(name, value))
        rate = said.get("learning_rate", self.rate[0 if self.old else 1])
        schedule = said.get("lr_scheduler")
        if schedule and "learning_rate" not in said:
            rate = schedule.get("base_lr", rate)
        self.schedule = Schedule(rate, schedule)
        self.lr_mult = said.get("lr_mult", {}).get(key, 1)
        self.wd = said.get("wd", 0) * said.get("wd_mult", {}).get(key, 1)
        self.rescale = said.get("rescale_grad", 1)
        self.limit = said.get("clip_gradient")
        self.t = self.begin = said.get("begin_num_update", 0)
        self.w = weight.astype(numpy.float64)
        self.start()

    def start(self):
        pass

    def zeros(self):
        return numpy.zeros_like(self.w)

    def clip(self, x):
        return x if self.limit is None else numpy.clip(x, -self.limit, self.limit)

    def after(self, g):
        """Clipped, then decayed."""
        return self.clip(self.rescale * g) + self.wd * self.w

    def within(self, g):
        """Decayed, then clipped."""
        return self.clip(self.rescale * g + self.wd * self.w)

    def bare(self, g):
        return self.clip(self.rescale * g)

    def by_line(self, g):
        return self.within(g) if self.old else self.after(g)

    def step(self, g):
        self.t += 1
        self.lr = self.schedule.at(self.t) * self.lr_mult
        self.update(g)

    def unbiased(self, beta):
        return 1 - beta ** self.t


class Sgd(Rule):
    rate = (0.01, 0.1)
    defaults = {"momentum": 0}

    def start(self):
        self.m = self.zeros()

    def update(self, g):
        self.m = self.momentum * self.m - self.lr * self.after(g)
        self.w = self.w + self.m


class Nag(Sgd):
    defaults = {"momentum": (0, 0.9)}

    def update(self, g):
        d = self.lr * self.after(g)
        self.m = self.momentum * self.m - d
        self.w = self.w + self.momentum * self.m - d


class Diloco(Sgd):
    """torch.optim.SGD with nesterov=True."""

    rate = (0.7, 0.7)
    defaults = {"momentum": 0.9}

    def update(self, g):
        d = self.after(g)
        self.m = self.momentum * self.m + d
        self.w = self.w - self.lr * (d + self.momentum * self.m)


class Signum(Sgd):
    rate = (0.01, 0.01)
    defaults = {"momentum": 0.9, "wd_lh": 0}

    def update(self, g):
        if self.momentum == 0:
            decay = self.wd if self.old else self.wd + self.wd_lh
            self.w = (1 - self.lr * decay) * self.w - self.lr * numpy.sign(g)
            return
        self.m = self.momentum * self.m - (1 - self.momentum) * self.after(g)
        self.w = (1 - self.lr * self.wd_lh) * self.w + self.lr * numpy.sign(self.m)


class Lbsgd(Rule):
    defaults = {"momentum": 0, "batch_scale": 1, "warmup_strategy": "linear", "warmup_epochs": 5,
                "updates_per_epoch": 32, "begin_epoch": 0}

    def start(self):
        self.m = self.zeros()
        self.sum = self.zeros()

    def multiplier(self, n):
        last = self.warmup_epochs * self.updates_per_epoch
        if n >= last:
            return self.batch_scale
        if last <= 1:
            return 1
        way = {"linear": n / last, "power2": (n / last) ** 2, "sqrt": math.sqrt(n / last)}
        return 1 + (self.batch_scale - 1) * way.get(self.warmup_strategy, 0)

    def step(self, g):
        self.lr = self.schedule.at(self.t) * self.lr_mult  # of the count before
        self.t += 1
        self.sum = self.sum + g
        n = self.begin_epoch * self.updates_per_epoch + self.t - self.begin
        if n % self.batch_scale == 0:
            d = self.after(self.sum / self.batch_scale)
            self.m = self.momentum * self.m - self.lr * self.multiplier(n) * d
            self.w = self.w + self.m
            self.sum = self.zeros()


class Lion(Rule):
    rate = (0.0001, 0.0001)
    defaults = {"beta1": 0.9, "beta2": 0.99}

    def start(self):
        self.m = self.zeros()

    def update(self, g):
        d = self.bare(g)
        way = numpy.sign(self.beta1 * self.m + (1 - self.beta1) * d)
        self.w = self.w - self.lr * (way + self.wd * self.w)
        self.m = self.beta2 * self.m + (1 - self.beta2) * d


class Ftml(Rule):
    rate = (0.01, 0.0025)
    defaults = {"beta1": 0.6, "beta2": 0.999, "epsilon": 1e-8}

    def start(self):
        self.d, self.v, self.z = self.zeros(), self.zeros(), self.zeros()

    def update(self, g):
        g = self.by_line(g)
        self.v = self.beta2 * self.v + (1 - self.beta2) * g * g
        d = (self.unbiased(self.beta1) / self.lr
             * (numpy.sqrt(self.v / self.unbiased(self.beta2)) + self.epsilon))
        self.z = (self.beta1 * self.z + (1 - self.beta1) * g
                  - (d - self.beta1 * self.d) * self.w)
        self.d = d
        self.w = -self.z / d


class Ftrl(Rule):
    rate = (0.1, 0.1)
    defaults = {"lamda1": 0.01, "beta": 1}

    def start(self):
        self.z, self.n = self.zeros(), self.zeros()

    def update(self, g):
        g = self.bare(g)
        root = numpy.sqrt(self.n + g * g)
        self.z = self.z + g - (root - numpy.sqrt(self.n)) * self.w / self.lr
        self.n = self.n + g * g
        far = numpy.maximum(abs(self.z) - self.lamda1, 0)
        self.w = -numpy.sign(self.z) * far / ((self.beta + root) / self.lr + self.wd)


class Adam(Rule):
    rate = (0.001, 0.001)
    defaults = {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8}

    def start(self):
        self.m, self.v = self.zeros(), self.zeros()

    def means(self, g):
        self.m = self.beta1 * self.m + (1 - self.beta1) * g
        self.v = self.beta2 * self.v + (1 - self.beta2) * g * g

    def corrected(self):
        return self.lr * math.sqrt(self.unbiased(self.beta2)) / self.unbiased(self.beta1)

    def update(self, g):
        self.means(self.by_line(g))
        self.w = self.w - self.corrected() * self.m / (numpy.sqrt(self.v) + self.epsilon)


class Adamw(Adam):
    defaults = {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-6, "correct_bias": True}

    def update(self, g):
        self.means(self.bare(g))
        rate = self.corrected() if self.correct_bias else self.lr
        self.w = self.w - rate * (self.m / (numpy.sqrt(self.v) + self.epsilon) + self.wd * self.w)


class Adabelief(Adamw):
    def update(self, g):
        g = self.within(g)
        self.m = self.beta1 * self.m + (1 - self.beta1) * g
        self.v = self.beta2 * self.v + (1 - self.beta2) * (g - self.m) ** 2 + self.epsilon
        rate = self.corrected() if self.correct_bias else self.lr
        self.w = self.w - rate * self.m / (numpy.sqrt(self.v) + self.epsilon)


class Adamax(Rule):
    rate = (0.002, 0.002)
    defaults = {"beta1": 0.9, "beta2": 0.999}

    def start(self):
        self.m, self.u = self.zeros(), self.zeros()

    def update(self, g):
        g = self.by_line(g)
        self.m = self.beta1 * self.m + (1 - self.beta1) * g
        self.u = numpy.maximum(self.beta2 * self.u, abs(g))
        self.w = self.w - (self.lr / self.unbiased(self.beta1) * self.m
                           / (self.u if self.old else self.u + 1e-8))


class Nadam(Adam):
    defaults = {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8, "schedule_decay": 0.004}

    def start(self):
        super().start()
        self.product = 1

    def momentum_at(self, n):
        return self.beta1 * (1 - 0.5 * 0.96 ** (n * self.schedule_decay))

    def update(self, g):
        g = self.by_line(g)
        now, then = self.momentum_at(self.t), self.momentum_at(self.t + 1)
        self.product *= now
        self.means(g)
        gradient = g / (1 - self.product)
        mean = self.m / (1 - self.product * then)
        root = numpy.sqrt(self.v / self.unbiased(self.beta2))
        self.w = self.w - self.lr * ((1 - now) * gradient + then * mean) / (root + self.epsilon)


class Adagrad(Rule):
    defaults = {"eps": (1e-7, None), "epsilon": (None, 1e-6)}

    def start(self):
        self.h = self.zeros()

    def update(self, g):
        g = self.bare(g) if self.old else self.after(g)
        self.h = self.h + g * g
        if self.old:
            step = g / numpy.sqrt(self.h + self.eps) + self.wd * self.w
        else:
            step = g / (numpy.sqrt(self.h) + self.epsilon)
        self.w = self.w - self.lr * step


class Adadelta(Rule):
    rate = (0.01, 1)
    defaults = {"rho": 0.9, "epsilon": (1e-5, 1e-6)}

    def start(self):
        self.a, self.d = self.zeros(), self.zeros()

    def update(self, g):
        g = self.bare(g) if self.old else self.after(g)
        self.a = self.rho * self.a + (1 - self.rho) * g * g
        step = numpy.sqrt(self.d + self.epsilon) / numpy.sqrt(self.a + self.epsilon) * g
        self.d = self.rho * self.d + (1 - self.rho) * step * step
        self.w = self.w - (step + self.wd * self.w if self.old else self.lr * step)


class Rmsprop(Rule):
    rate = (0.001, 0.001)
    defaults = {"gamma1": (0.9, None), "gamma2": (0.9, None), "rho": (None, 0.9),
                "momentum": (None, 0.9), "epsilon": 1e-8, "centered": False, "clip_weights": None}

    def start(self):
        self.n, self.a, self.d = self.zeros(), self.zeros(), self.zeros()
        if self.old:
            self.rho, self.momentum = self.gamma1, self.gamma2

    def update(self, g):
        g = self.by_line(g)
        self.n = self.rho * self.n + (1 - self.rho) * g * g
        if self.centered:
            self.a = self.rho * self.a + (1 - self.rho) * g
            root = numpy.sqrt(self.n - self.a * self.a + self.epsilon)
            self.d = self.momentum * self.d - self.lr * g / root
            self.w = self.w + self.d
        elif self.old:
            self.w = self.w - self.lr * g / numpy.sqrt(self.n + self.epsilon)
        else:
            self.w = self.w - self.lr * g / (numpy.sqrt(self.n) + self.epsilon)
        if self.clip_weights:
            self.w = numpy.clip(self.w, -self.clip_weights, self.clip_weights)


class Dcasgd(Rule):
    rate = (0.01, 0.1)
    defaults = {"momentum": 0, "lamda": 0.04}

    def start(self):
        self.m = self.zeros()
        self.previous = self.w

    def update(self, g):
        bare = self.bare(g) if self.old else self.after(g)
        decayed = bare + self.wd * self.w if self.old else bare
        d = decayed + self.lamda * bare * bare * (self.w - self.previous)
        self.m = self.momentum * self.m - self.lr * d
        self.previous = self.w
        self.w = self.w + self.m


class Test(Rule):
    def update(self, g):
        if self.old:
            self.w = self.w + self.rescale * g
        else:
            self.w = self.w - self.lr * (self.rescale * g + self.wd * self.w)


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
               "warmup_strategy": "power2"}],
    "lion": [{}, {"beta1": 0.5, "beta2": 0.75, "learning_rate": 0.01}],
    "ftml": [{}, {"beta1": 0.9, "beta2": 0.99, "epsilon": 1e-4}],
    "ftrl": [{}, {"lamda1": 0.5, "beta": 0.25, "learning_rate": 0.5}],
    "adam": [{}, {"beta1": 0.5, "beta2": 0.9, "epsilon": 1e-3}],
    "adamw": [{}, {"correct_bias": False, "epsilon": 1e-2}],
    "adabelief": [{}, {"correct_bias": False, "beta1": 0.7}],
    "adamax": [{}, {"beta1": 0.5, "beta2": 0.9}],
    "nadam": [{}, {"schedule_decay": 0.1, "beta1": 0.99}],
    "adagrad": [{}, {"learning_rate": 0.5}],
    "adadelta": [{}, {"rho": 0.5, "epsilon": 1e-3}],
    "rmsprop": [{}, {"centered": True}, {"clip_weights": 1.0}],
    "dcasgd": [{}, {"momentum": 0.9, "lamda": 0.5}],
    "test": [{}],
}
LINES = {"ccsgd": ["1.9"], "lbsgd": ["1.9"], "adabelief": ["2.0"]}
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
SHARED = {"name", "wd", "rescale_grad", "clip_gradient", "multi_precision", "lr_scheduler",
          "lr_mult", "wd_mult", "begin_num_update", "rules"}


def settings():
    for name, owns in OWN.items():
        for rules in LINES.get(name, ["1.9", "2.0"]):
            for own in owns:
                if name == "signum" and rules == "1.9" and own.get("momentum") == 0:
                    own = {key: value for key, value in own.items() if key != "wd_lh"}
                for common in COMMON:
                    yield {"name": name, "rules": rules, **common, **own}
    for schedule in SCHEDULES:
        yield {"name": "sgd", "lr_scheduler": schedule}
        yield {"name": "adam", "rules": "2.0", "lr_scheduler": schedule, "learning_rate": 0.05}


class Optimizers(case.Case):
    def run_both(self, kv, said, number):
        """One setting: the weights (f64, f32) of the server, of numpy, and the largest step."""
        random = numpy.random.RandomState(number)
        scale = 10.0 ** random.uniform(-3, 0.5, SIZE)
        names = [f"{number}/f64", f"{number}/f32"]
        said = {key: {f"{number}/{name}": value for name, value in given.items()}
                if key.endswith("_mult") else given for key, given in said.items()}
        start = random.uniform(-2, 2, SIZE).astype(numpy.float32)
        values = [start.astype(numpy.float64), start.copy()]
        kv.set_optimizer(said)
        kv.init(names, values)
        oracle = globals()[said["name"].capitalize().replace("Ccsgd", "Sgd")](
            said, start, names[0])
        largest = numpy.zeros(SIZE)
        for step in range(STEPS):
            g = (random.standard_normal(SIZE) * scale).astype(numpy.float32)
            if step > 0:  # adamax of 1.9 would make NaN of a first one; the server does not
                g[random.uniform(size=SIZE) < 0.05] = 0
            kv.push(names, [g.astype(numpy.float64), g])
            before = oracle.w
            oracle.step(g.astype(numpy.float64))
            largest = numpy.maximum(largest, abs(oracle.w - before))
        kv.pull(names, values)
        return values, oracle.w, largest

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
