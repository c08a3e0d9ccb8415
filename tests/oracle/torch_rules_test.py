"""The optimizers that torch has as well: the same gradients over 1,000 steps, the same weights.

Where torch places its epsilon elsewhere (adam, adamax), it is 0 in both. nadam is left out: torch
1.13 multiplies one momentum too many into its product. Skipped where torch is missing.
"""

import unittest

import numpy

from optimizers_test import STEPS, case, kvstored

try:
    import torch
except ImportError:
    case.skip("torch is not installed")

SIZE = 24
OPTIM = torch.optim
# What is said to the store, and the same of torch.
RULES = [
    ({"name": "sgd", "learning_rate": 0.1, "wd": 0.01},
     lambda p: OPTIM.SGD(p, lr=0.1, weight_decay=0.01)),
    ({"name": "sgd", "learning_rate": 0.05, "momentum": 0.9, "wd": 0.01},
     lambda p: OPTIM.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.01)),
    ({"name": "nag", "rules": "2.0", "learning_rate": 0.05, "momentum": 0.9, "wd": 0.01},
     lambda p: OPTIM.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.01, nesterov=True)),
    ({"name": "diloco", "learning_rate": 0.7, "momentum": 0.9},
     lambda p: OPTIM.SGD(p, lr=0.7, momentum=0.9, nesterov=True)),
    ({"name": "adam", "learning_rate": 0.01, "epsilon": 0},
     lambda p: OPTIM.Adam(p, lr=0.01, eps=0)),
    ({"name": "adam", "rules": "2.0", "learning_rate": 0.01, "epsilon": 0, "wd": 0.01,
      "beta1": 0.5},
     lambda p: OPTIM.Adam(p, lr=0.01, eps=0, weight_decay=0.01, betas=(0.5, 0.999))),
    ({"name": "adamw", "learning_rate": 0.01, "epsilon": 0},
     lambda p: OPTIM.AdamW(p, lr=0.01, eps=0, weight_decay=0)),
    ({"name": "adagrad", "rules": "2.0", "learning_rate": 0.1, "wd": 0.01, "epsilon": 1e-6},
     lambda p: OPTIM.Adagrad(p, lr=0.1, weight_decay=0.01, eps=1e-6)),
    ({"name": "adadelta", "rules": "2.0", "wd": 0.01},
     lambda p: OPTIM.Adadelta(p, lr=1, rho=0.9, eps=1e-6, weight_decay=0.01)),
    ({"name": "rmsprop", "rules": "2.0", "learning_rate": 0.01, "wd": 0.01},
     lambda p: OPTIM.RMSprop(p, lr=0.01, alpha=0.9, eps=1e-8, weight_decay=0.01)),
    ({"name": "adamax", "learning_rate": 0.01, "wd": 0.01},
     lambda p: OPTIM.Adamax(p, lr=0.01, eps=0, weight_decay=0.01)),
]


class Optimizers(case.Case):
    def test_a_thousand_steps_end_where_torchs_do(self):
        random = numpy.random.RandomState(1)
        start = random.uniform(-2, 2, SIZE)
        gradients = random.standard_normal((STEPS, SIZE)) * 10.0 ** random.uniform(-2, 0.5, SIZE)
        for said, make in RULES:
            with self.subTest(said=said), kvstored.create("local") as kv:
                kv.set_optimizer(said)
                kv.init("w", start)
                parameter = torch.nn.Parameter(torch.tensor(start))
                theirs = make([parameter])
                for gradient in gradients:
                    kv.push("w", gradient)
                    parameter.grad = torch.tensor(gradient)
                    theirs.step()
                found = numpy.zeros(SIZE)
                kv.pull("w", found)
                expected = parameter.detach().numpy()
                numpy.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10)
                self.assertGreater(abs(expected - start).min(), 1e-3)


if __name__ == "__main__":
    unittest.main(verbosity=2)
