"""Optimizers and schedules as data: what Python writes is what the store reads."""

import dataclasses

import numpy

import case
import kvstored
from kvstored import lr_scheduler, optimizer

LINES = ("1.9", "2.0")
COMMON = {field.name for field in dataclasses.fields(optimizer.Optimizer)}
PLAUSIBLE = {"warmup_strategy": "linear", "upper_bound": 10.0, "batch_scale": 2}


class Optimizers(case.Case):
    def setUp(self):
        self.kv = kvstored.create("local")
        self.addCleanup(self.kv.close)

    def set(self, given):
        """"OK" or the reason of the refusal."""
        try:
            self.kv.set_optimizer(given)
        except kvstored.KVStoreError as error:
            return error.reason
        return "OK"

    def test_every_name_of_mxnet_and_of_ours_has_a_class(self):
        expected = """adabelief adadelta adagrad adam adamax adamw ccsgd dcasgd diloco ftml ftrl
            groupadagrad lamb lans lars lbsgd lion nadam nag rmsprop sgd sgld signum
            test""".split()
        self.assertEqual(expected, optimizer.names())

    def test_the_store_knows_every_name_in_one_line_at_least(self):
        for name in optimizer.names():
            with self.subTest(name):
                said = {self.set(optimizer.create(name, rules=line)) for line in LINES}
                self.assertIn("OK", said)
                self.assertLessEqual(said, {"OK", "INVALID_FIELD"})

    def test_the_store_knows_every_parameter_in_one_line_at_least(self):
        for name in optimizer.names():
            for field in dataclasses.fields(optimizer.create(name)):
                if field.name in COMMON:
                    continue
                value = PLAUSIBLE.get(field.name, True if "bool" in field.type else
                                      2 if "int" in field.type else 0.5)
                with self.subTest(f"{name}.{field.name}"):
                    said = {self.set(optimizer.create(name, rules=line, **{field.name: value}))
                            for line in LINES}
                    self.assertIn("OK", said)

    def test_the_parameters_arrive(self):
        given = optimizer.SGD(learning_rate=0.25, momentum=0.5, wd=0.125, rescale_grad=2.0,
                              clip_gradient=8.0, begin_num_update=3, lazy_update=False,
                              lr_mult={1: 2.0, "b": 3.0}, rules="2.0")
        given.set_wd_mult({"b": 0.0})
        self.kv.set_optimizer(given)
        found = self.kv.get_optimizer()
        for name, value in given.to_dict().items():
            self.assertEqual(value, found[name], name)
        self.assertEqual({"1": 2.0, "b": 3.0}, found["lr_mult"])

    def test_all_forms_set_the_same(self):
        found = []
        for given in (optimizer.Adam(beta1=0.5), {"name": "adam", "beta1": 0.5},
                      '{"name": "Adam", "beta1": 0.5}', optimizer.create("ADAM", beta1=0.5),
                      optimizer.Optimizer.create_optimizer("Adam", beta1=0.5)):
            self.kv.set_optimizer(given)
            found.append(self.kv.get_optimizer())
        self.assertEqual([found[0]] * 5, found)
        self.kv.set_optimizer(None)
        self.assertIsNone(self.kv.get_optimizer())

    def test_numbers_of_numpy_are_numbers(self):
        schedule = kvstored.lr_scheduler.FactorScheduler(numpy.int64(3), numpy.float64(0.5))
        self.kv.set_optimizer(optimizer.SGD(
            learning_rate=numpy.float32(0.5), momentum=numpy.array(0.25),
            multi_precision=numpy.bool_(True), lr_scheduler=schedule,
            lr_mult={"w": numpy.float16(2)}))
        found = self.kv.get_optimizer()
        self.assertEqual((0.5, 0.25, True, 3, {"w": 2}),
                         (found["learning_rate"], found["momentum"], found["multi_precision"],
                          found["lr_scheduler"]["step"], found["lr_mult"]))

    def test_what_is_wrong_is_named(self):
        with self.assertRaises(TypeError):
            optimizer.SGD(momentun=0.9)
        with self.assertRaisesRegex(ValueError, "sgdd"):
            optimizer.create("sgdd")
        with self.refused("INVALID_FIELD", "momentun"):
            self.kv.set_optimizer({"name": "sgd", "momentun": 0.9})
        with self.refused("INVALID_FIELD", "/beta1"):
            self.kv.set_optimizer(optimizer.Adam(beta1=1.5))
        with self.refused("INVALID_FIELD", "dict or JSON"):
            self.kv.set_optimizer(0.1)
        for given in (float("nan"), numpy.float32("inf"), lambda count: 0.1):
            with self.refused("INVALID_FIELD", "/learning_rate cannot be sent"):
                self.kv.set_optimizer(optimizer.SGD(learning_rate=given))
        with self.refused("INVALID_FIELD", "/lr_scheduler cannot be sent"):
            self.kv.set_optimizer(optimizer.SGD(lr_scheduler=lambda count: 0.1))
        with self.refused("INVALID_FRAME"):
            self.kv.set_optimizer("{")

    def test_a_new_learning_rate_keeps_the_momentum(self):
        rule = optimizer.SGD(learning_rate=1.0, momentum=0.5)
        self.kv.init("w", numpy.zeros(1, "float32"))
        self.kv.set_optimizer(rule)
        self.kv.push("w", numpy.ones(1, "float32"))     # m = -1, w = -1
        rule.set_learning_rate(0.0)
        self.kv.set_optimizer(rule)
        self.kv.push("w", numpy.ones(1, "float32"))     # m = -0.5, w = -1.5
        out = numpy.zeros(1, "float32")
        self.kv.pull("w", out)
        self.assert_array(-1.5, out)


class Schedules(case.Case):
    SCHEDULES = [
        lr_scheduler.FactorScheduler(3, 0.5, base_lr=0.5),
        lr_scheduler.FactorScheduler(2, 0.5, stop_factor_lr=0.1, base_lr=0.5),
        lr_scheduler.FactorScheduler(4, 0.5, base_lr=1.0, warmup_steps=3, warmup_begin_lr=0.25),
        lr_scheduler.MultiFactorScheduler([2, 5, 6], 0.5, base_lr=1.0),
        lr_scheduler.PolyScheduler(8, base_lr=0.5, pwr=2, final_lr=0.125),
        lr_scheduler.PolyScheduler(8, base_lr=0.5, warmup_steps=2, warmup_mode="constant",
                                   warmup_begin_lr=0.75),
        lr_scheduler.CosineScheduler(8, base_lr=0.5, final_lr=0.25),
    ]

    def test_the_store_has_the_rates_that_python_tells(self):
        for i, schedule in enumerate(self.SCHEDULES):
            with self.subTest(repr(schedule)), kvstored.create("local") as kv:
                kv.init("w", numpy.zeros(1, "float64"))
                kv.set_optimizer(optimizer.SGD(lr_scheduler=schedule))
                before = numpy.zeros(1, "float64")
                for n in range(1, 13):
                    out = numpy.zeros(1, "float64")
                    kv.pushpull("w", numpy.ones(1, "float64"), out=out)
                    self.assertAlmostEqual(schedule(n), float(before[0] - out[0]), 6, f"{i}, {n}")
                    before = out

    def test_rates_by_hand(self):
        factor = lr_scheduler.FactorScheduler(step=10, factor=0.5, base_lr=1.0)
        self.assertEqual([1.0, 1.0, 0.5, 0.25], [factor(n) for n in (1, 10, 11, 21)])
        several = lr_scheduler.MultiFactorScheduler([5, 8], 0.1, base_lr=1.0)
        self.assertEqual([1.0, 1.0, 0.1], [several(n) for n in (1, 5, 6)])
        self.assertAlmostEqual(0.01, several(9))
        self.assertEqual(0.25, lr_scheduler.PolyScheduler(10, base_lr=1.0, pwr=2)(5))
        self.assertAlmostEqual(0.5, lr_scheduler.CosineScheduler(10, base_lr=1.0)(5))

    def test_what_makes_no_schedule_is_refused(self):
        for make in (lambda: lr_scheduler.FactorScheduler(0),
                     lambda: lr_scheduler.FactorScheduler(1, 1.5),
                     lambda: lr_scheduler.MultiFactorScheduler([3, 3]),
                     lambda: lr_scheduler.MultiFactorScheduler([])):
            with self.assertRaises(ValueError):
                make()


if __name__ == "__main__":
    case.main()
