"""Random programs of init, push, pull, pushpull and pulls of rows by 1 to 7 workers, against a
model in numpy.

usage: random_programs_test.py [FIRST [LAST]]      seeds; 1 to 20 unless said

A seed makes a store (embedded, synchronous or asynchronous), keys, an optimizer, sometimes gradient
compression, and what each worker does; each runs it on a thread of its own, with a connection of
its own. What is pulled must be what the model has:

- local and dist_sync: to the bit. The model adds device values from left to right and workers by
  rank; with an optimizer the numbers are such that no sum is rounded.
- dist_async: at least what the worker itself has pushed, at most what all have, in the end exactly
  that.
"""

import sys
import time

import numpy

import case
import kvstored
from kvstored import RowSparse

STEPS_MAX = 12
WORKERS_MAX = 7
DEVICES_MAX = 3
COMPRESSIONS = [{"type": "2bit", "threshold": 0.5}, {"type": "2bit", "threshold": 1.25},
                {"type": "1bit", "threshold": 0}, {"type": "fp16"}]


class Plan:
    """What a seed stands for: steps[worker][i] is (verb, keys, gradients, expected)."""

    def __init__(self, seed):
        self.seed = seed
        self.random = numpy.random.RandomState(seed)
        self.type = str(self.random.choice(["local", "dist_sync", "dist_sync", "dist_async"]))
        self.workers = 1 if self.type == "local" else self.random.randint(1, WORKERS_MAX + 1)
        self.sync = self.type != "dist_async"
        choices = [{"name": "test", "rescale_grad": 0.5},
                   {"name": "sgd", "learning_rate": 0.25, "rescale_grad": 2}]
        if self.sync:
            choices += [None, None]
        else:
            choices = [{"name": "test"}]
        self.optimizer = choices[self.random.randint(len(choices))]
        kinds = ["float32", "float64"]
        if self.optimizer is None:
            kinds += ["float16", "int8", "int32", "int64", "uint8"]
        self.dtype = str(self.random.choice(kinds))
        self.compression = None
        if self.sync and self.random.rand() < 0.3:
            self.compression = COMPRESSIONS[self.random.randint(len(COMPRESSIONS))]
            self.dtype = "float32"
        self.left = {}  # of the values of a worker, or of each device of an embedded store, by key
        count = self.random.randint(1, 5)
        self.keys = [i * 7 - 3 for i in range(count)] if self.random.rand() < 0.5 else \
            [f"layer.{i}" for i in range(count)]
        self.shapes = {key: self.shape() for key in self.keys}
        self.sparse = {key for key in self.keys
                       if self.optimizer and self.compression is None and self.shapes[key]
                       and self.random.rand() < 0.3}
        self.first = {key: self.numbers(key) for key in self.keys}
        self.values = {key: value.copy() for key, value in self.first.items()}
        self.steps = [[] for _ in range(self.workers)]
        for _ in range(self.random.randint(1, STEPS_MAX + 1)):
            (self.sync_step if self.sync else self.async_step)()

    def features(self):
        """What the program has in it, to be counted."""
        verbs = {verb for steps in self.steps for verb, keys, _, _ in steps}
        found = [self.type, self.dtype, *sorted(verbs)]
        if self.sparse & {key for steps in self.steps for verb, keys, _, _ in steps
                          if verb.endswith("pull") for key in keys}:
            found.append("row_sparse_pull")
        if self.compression is not None:
            found.append(self.compression["type"])
        return found

    def shape(self):
        if self.random.rand() < 0.03:
            return (3, 90000)  # two parts
        return tuple(self.random.randint(1, 5, size=self.random.randint(0, 4)))

    def numbers(self, key):
        shape = self.shapes[key]
        if self.optimizer is None and self.dtype in ("float32", "float64"):
            return self.random.standard_normal(shape).astype(self.dtype)
        return numpy.asarray(self.random.randint(0, 9, size=shape)).astype(self.dtype)

    def gradient(self, key):
        if self.compression is not None:
            quarters = self.random.randint(-8, 9, size=self.shapes[key])
            return numpy.asarray(quarters / 4, "float32")
        if key not in self.sparse:
            return self.numbers(key)
        rows, *shape = self.shapes[key]
        count = self.random.randint(0, 6)
        values = self.random.randint(0, 9, size=(count, *shape)).astype(self.dtype)
        return RowSparse(self.random.randint(0, rows, size=count), values, self.shapes[key])

    def some_keys(self):
        count = self.random.randint(1, len(self.keys) + 1)
        return [self.keys[i] for i in self.random.choice(len(self.keys), count, replace=False)]

    def gradients(self, keys):
        return [[self.gradient(key) for _ in range(self.random.randint(1, DEVICES_MAX + 1))]
                for key in keys]

    def contribution(self, worker, key, values):
        """What a worker's push adds to the sum: each device of an embedded store encodes its own
        value, a worker of a server the sum of its devices."""
        if self.compression is None:
            return add(values)
        if self.type == "local":
            return add([self.encoded((key, device), value) for device, value in enumerate(values)])
        return self.encoded((key, worker), add(values))

    def encoded(self, whose, value):
        """What comes out at the other end; what is lost stays for the next time."""
        if self.compression["type"] == "fp16":
            return value.astype("float16").astype("float32")
        left = self.left.get(whose, numpy.zeros_like(value)) + value
        if self.compression["type"] == "1bit":
            sent = numpy.where(left > 0, 1, -1)
        else:
            bound = self.compression["threshold"]
            sent = numpy.where(left >= bound, bound, numpy.where(left <= -bound, -bound, 0))
        sent = numpy.asarray(sent, "float32")
        self.left[whose] = left - sent
        return sent

    def apply(self, key, total):
        """The optimizer, on the sum of a round or of one push."""
        if self.optimizer is None:
            self.values[key] = total
        elif self.optimizer["name"] == "test":
            scale = self.dtype_of(self.optimizer.get("rescale_grad", 1))
            self.values[key] = self.values[key] + scale * total
        else:
            scale = self.dtype_of(self.optimizer["rescale_grad"] * self.optimizer["learning_rate"])
            self.values[key] = self.values[key] - scale * total

    def dtype_of(self, number):
        return numpy.dtype(self.dtype).type(number)

    def sync_step(self):
        """All workers do the same to the same keys, each with numbers of its own."""
        verb = self.random.choice(["push", "push", "pushpull", "pull", "barrier"])
        keys = [] if verb == "barrier" else self.some_keys()
        given = [self.gradients(keys) if verb in ("push", "pushpull") else None
                 for _ in range(self.workers)]
        if verb in ("push", "pushpull"):
            for i, key in enumerate(keys):
                self.apply(key, add([self.contribution(worker, key, values[i])
                                     for worker, values in enumerate(given)]))
        for worker in range(self.workers):
            self.steps[worker].append((verb, keys, given[worker],
                                       [self.values[key].copy() for key in keys]))

    def async_step(self):
        """Each worker does what it likes."""
        for worker in range(self.workers):
            verb = self.random.choice(["push", "push", "pushpull", "pull"])
            keys = self.some_keys()
            given = None
            if verb != "pull":
                given = self.gradients(keys)
                for i, key in enumerate(keys):
                    self.apply(key, add(given[i]))
            self.steps[worker].append((verb, keys, given, None))


def add(values):
    """From left to right, the first as it is."""
    values = [value.todense() if isinstance(value, RowSparse) else value for value in values]
    total = values[0].copy()
    for value in values[1:]:
        total = total + value
    return numpy.asarray(total, values[0].dtype)


class Worker:
    def __init__(self, plan, address, store, rank):
        self.plan = plan
        self.random = numpy.random.RandomState(plan.seed * WORKERS_MAX + rank)
        self.rank = rank
        self.own = {key: value.copy() for key, value in plan.first.items()}
        self.kv = kvstored.create(plan.type, address, store=store, rank=rank) \
            if plan.type != "local" else kvstored.create("device" if plan.compression else "local")

    def run(self):
        plan = self.plan
        with self.kv as kv:
            if plan.optimizer is not None:
                kv.set_optimizer(plan.optimizer)
            if plan.compression is not None:
                kv.set_gradient_compression(plan.compression)
            values = [plan.first[key] if self.rank == 0 else numpy.ones_like(plan.first[key])
                      for key in plan.keys]
            for key, value in zip(plan.keys, values):
                kv.init(key, RowSparse.from_dense(value) if key in plan.sparse else value)
            for step, (verb, keys, given, expected) in enumerate(plan.steps[self.rank]):
                self.do(verb, keys, given, expected, f"step {step}: {verb} {keys}")
            kv.barrier()
            kv.wait()
            kv.barrier()
            self.check(plan.keys, self.pull(plan.keys),
                       [plan.values[key] for key in plan.keys], "the end")
            kv.barrier()

    def outs(self, keys):
        return [numpy.full(self.plan.shapes[key], 77, self.plan.dtype) for key in keys]

    def pull(self, keys):
        outs = self.outs(keys)
        self.kv.pull(keys, outs)
        return outs

    def do(self, verb, keys, given, expected, words):
        """Keys of rows one by one, the others in one call."""
        if given and not self.plan.sync:
            for name, values in zip(keys, given):
                self.own[name] = self.own[name] + add(values)
        rest = []
        for i, key in enumerate(keys):
            if key in self.plan.sparse:
                self.do_rows(verb, key, given and given[i], expected and expected[i], words)
            else:
                rest.append(i)
        if rest or verb == "barrier":
            self.do_dense(verb, [keys[i] for i in rest], given and [given[i] for i in rest],
                          expected and [expected[i] for i in rest], words)

    def do_rows(self, verb, key, given, expected, words):
        if verb.startswith("push"):
            self.kv.push(key, given, priority=self.random.randint(-5, 5))
        if verb.endswith("pull"):
            rows = self.plan.shapes[key][0]
            ids = self.random.randint(0, rows, size=self.random.randint(0, 2 * rows))
            out = RowSparse.zeros(self.plan.shapes[key], self.plan.dtype)
            self.kv.row_sparse_pull(key, out, ids)
            if not numpy.array_equal(numpy.unique(ids), out.indices):
                raise AssertionError(f"{words}: rows {out.indices} came for {ids}")
            if expected is None:
                self.check_bounds(key, out.values, out.indices, words)
            else:
                self.check([key], [out.values], [expected[out.indices]], words)

    def do_dense(self, verb, keys, given, expected, words):
        kv, one = self.kv, len(keys) == 1 and self.random.rand() < 0.5
        key = keys[0] if one else keys
        value = given[0] if one and given else given
        wait = self.random.rand() < 0.7
        if verb == "barrier":
            kv.barrier()
        elif verb == "push":
            kv.push(key, value, priority=self.random.randint(-5, 5),
                    copy=bool(self.random.rand() < 0.5))
        elif verb == "pull":
            outs = self.outs(keys)
            handle = kv.pull(key, outs[0] if one else outs, wait=wait)
            self.end(handle, keys, outs, expected, words)
        elif self.random.rand() < 0.3:  # into the values
            copies = [[array.copy() for array in values] for values in given]
            handle = kv.pushpull(key, copies[0] if one else copies, wait=wait)
            self.end(handle, keys, [values[-1] for values in copies], expected, words)
        else:
            outs = self.outs(keys)
            handle = kv.pushpull(key, value, out=outs[0] if one else outs, wait=wait)
            self.end(handle, keys, outs, expected, words)

    def end(self, handle, keys, outs, expected, words):
        if handle is not None:
            handle.wait()
        if expected is not None:
            self.check(keys, outs, expected, words)
            return
        for key, out in zip(keys, outs):
            self.check_bounds(key, out, ..., words)

    def check_bounds(self, key, out, where, words):
        low, high = self.own[key][where], self.plan.values[key][where]
        if not ((low <= out) & (out <= high)).all():
            raise AssertionError(f"{words}: key {key}: {out} is not between {low} and {high}")

    def check(self, keys, outs, expected, words):
        for key, out, value in zip(keys, outs, expected):
            if out.tobytes() != value.tobytes():
                raise AssertionError(f"worker {self.rank}, {words}: key {key} is\n{out}\nnot\n"
                                     f"{value}")


def run_seed(server, seed):
    plan = Plan(seed)
    store = f"seed-{seed}"
    if plan.type != "local":
        case.create_store(server, store, type=plan.type, num_workers=int(plan.workers))
    workers = case.together(*[lambda rank=rank: Worker(plan, server.grpc, store, rank)
                              for rank in range(plan.workers)])
    case.together(*[worker.run for worker in workers])
    if plan.type != "local":
        case.delete_store(server, store)
    return plan


def main():
    first, last = ([int(word) for word in sys.argv[1:]] + [1, 20][len(sys.argv) - 1:])[:2]
    start = time.monotonic()
    kinds = {}
    with case.Server() as server:
        for seed in range(first, last + 1):
            try:
                plan = run_seed(server, seed)
            except Exception:
                print(f"failed: {sys.argv[0]} {seed} {seed}", flush=True)
                raise
            for kind in plan.features():
                kinds[kind] = kinds.get(kind, 0) + 1
    print(f"seeds {first} to {last}: {kinds} in {time.monotonic() - start:.1f} s")


if __name__ == "__main__":
    main()
