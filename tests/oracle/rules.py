"""MXNet's optimizers and schedules in float64, written out from formulas; one object a key."""

import math

import numpy


def rule_of(name):
    """The class of an optimizer's name."""
    return Sgd if name == "ccsgd" else globals()[name.capitalize()]


def norm(values):
    return math.sqrt(float((values * values).sum()))


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
        self.longest = said.get("clip_norm")
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
        if self.longest is not None:
            g = g * min(1, self.longest / (norm(self.rescale * g) + 1e-8))
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
            times = self.multiplier(n)
            if self.warmup_strategy == "lars":
                g = norm(self.sum / self.batch_scale)
                times = math.sqrt(norm(self.w) ** 2
                                  / (g * g + self.wd * norm(self.w) ** 2 + 1e-18))
                times = min(max(times, 0.01), 100)
            self.m = self.momentum * self.m - self.lr * times * d
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


class Groupadagrad(Rule):
    """h is one number a row."""

    defaults = {"eps": (1e-5, None), "epsilon": (None, 1e-6)}

    def start(self):
        self.h = numpy.zeros((self.w.shape[0], 1))

    def update(self, g):
        g = self.bare(g)
        self.h = self.h + (g * g).mean(axis=1, keepdims=True)
        if self.old:
            root = numpy.sqrt(self.h + self.eps)
        else:
            root = numpy.sqrt(self.h) + self.epsilon
        self.w = self.w - self.lr * g / root


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


class Lars(Sgd):
    defaults = {"momentum": 0, "eta": 0.001, "eps": (0, None), "epsilon": (None, 1e-8),
                "momentum_correction": (True, None)}

    def start(self):
        super().start()
        self.before = None

    def update(self, g):
        momentum = self.momentum
        if self.momentum_correction and self.before:
            momentum *= self.lr / self.before
        self.before = self.lr
        w, raw, rate = norm(self.w), norm(self.rescale * g), self.lr
        if w > 0 and raw > 0:
            small = self.eps if self.old else self.epsilon
            rate *= self.eta * w / (raw + self.wd * w + small)
        self.m = momentum * self.m - rate * self.after(g)
        self.w = self.w + self.m


class Lamb(Adam):
    defaults = {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-6, "lower_bound": None,
                "upper_bound": None, "bias_correction": True}

    def trust(self, way):
        """How long a way is beside the weight."""
        w = norm(self.w)
        if self.lower_bound is not None:
            w = max(w, self.lower_bound)
        if self.upper_bound is not None:
            w = min(w, self.upper_bound)
        return w / norm(way) if w > 0 and norm(way) > 0 else 1

    def hats(self):
        if not self.bias_correction:
            return self.m, self.v
        return self.m / self.unbiased(self.beta1), self.v / self.unbiased(self.beta2)

    def update(self, g):
        self.means(self.bare(g))
        m, v = self.hats()
        way = m / (numpy.sqrt(v) + self.epsilon) + self.wd * self.w
        self.w = self.w - self.lr * self.trust(way) * way


class Lans(Lamb):
    bias_correction = True

    def update(self, g):
        g = self.clip(self.rescale * g / (norm(self.rescale * g) or 1))
        self.means(g)
        m, v = self.hats()
        root = numpy.sqrt(v) + self.epsilon
        mean, now = m / root + self.wd * self.w, g / root + self.wd * self.w
        self.w = self.w - self.lr * (self.beta1 * self.trust(mean) * mean
                                     + (1 - self.beta1) * self.trust(now) * now)
