"""torch's tensors as values and outs, and KVStoreOptimizer. Skipped where torch is missing."""

import copy
import os
import re
import subprocess
import sys

import numpy

import case
import kvstored

try:
    import torch
except ImportError:
    case.skip("torch is not installed")
from kvstored.torch import KVStoreOptimizer  # noqa: E402


def model():
    torch.manual_seed(7)
    return torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Tanh(), torch.nn.Linear(5, 1))


def batch(i, rows=8):
    generator = torch.Generator().manual_seed(i)
    x = torch.randn(rows, 6, generator=generator)
    return x, x.sum(1, keepdim=True)


def loss_of(net, i):
    x, y = batch(i)
    return ((net(x) - y) ** 2).mean()


class Tensors(case.Case):
    def setUp(self):
        self.kv = kvstored.create("local")
        self.addCleanup(self.kv.close)

    def test_tensors_are_values_and_outs(self):
        self.kv.init("w", torch.ones(2, 3))
        out = torch.zeros(2, 3)
        self.kv.pull("w", out)
        self.assertTrue(torch.equal(torch.ones(2, 3), out))
        parameter = torch.nn.Parameter(torch.zeros(3, 2))
        self.kv.pull("w", parameter.T)
        self.assertTrue(torch.equal(torch.ones(3, 2), parameter))
        self.kv.push("w", [out, numpy.ones((2, 3), "float32"), parameter.T])
        self.kv.pull("w", out)
        self.assertTrue(torch.equal(torch.full((2, 3), 3.0), out))

    def test_bfloat16_is_known_by_its_bits(self):
        view = kvstored._arguments._read_value(torch.ones(2, dtype=torch.bfloat16))
        self.assertEqual((4, 0x3F80), (view.code, view.array[0]))

    def test_bfloat16_is_summed_and_pulled(self):
        ones = torch.ones(3, dtype=torch.bfloat16)
        self.kv.init("w", ones)
        self.kv.push("w", [ones, ones * 2.5])
        out = torch.zeros(3, dtype=torch.bfloat16)
        self.kv.pull("w", out)
        self.assertTrue(torch.equal(ones * 3.5, out))

    def test_a_tensor_elsewhere_is_refused(self):
        with self.refused("INVALID_TENSOR", "cpu()"):
            self.kv.init("w", torch.ones(2, device="meta"))
        with self.refused("INVALID_TENSOR", "to_dense()"):
            self.kv.init("w", torch.ones(2).to_sparse())

    def test_the_package_does_not_import_torch(self):
        code = "import kvstored, sys; sys.exit('torch' in sys.modules)"
        self.assertEqual(0, subprocess.run([sys.executable, "-c", code], check=False).returncode)


class Optimizer(case.Case):
    RULES = [
        (kvstored.optimizer.SGD(learning_rate=0.1), lambda p: torch.optim.SGD(p, lr=0.1)),
        (kvstored.optimizer.SGD(learning_rate=0.1, momentum=0.9, wd=0.01),
         lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01)),
    ]

    def assert_same(self, expected, net):
        for one, other in zip(expected.parameters(), net.parameters()):
            numpy.testing.assert_allclose(one.detach(), other.detach(), rtol=1e-4, atol=1e-6)

    def test_it_does_what_torchs_own_does(self):
        for rule, own in self.RULES:
            with self.subTest(rule.to_dict()), kvstored.create("local") as kv:
                net, expected = model(), model()
                ours = KVStoreOptimizer(net.named_parameters(), kv, rule)
                theirs = own(expected.parameters())
                for i in range(10):
                    for this, other in ((ours, net), (theirs, expected)):
                        this.zero_grad()
                        loss_of(other, i).backward()
                        this.step()
                self.assert_same(expected, net)

    def test_a_closure_is_called_and_its_loss_returned(self):
        with kvstored.create("local") as kv:
            net = model()
            ours = KVStoreOptimizer(net.parameters(), kv, {"name": "sgd", "learning_rate": 0.1})

            def closure():
                ours.zero_grad()
                loss = loss_of(net, 0)
                loss.backward()
                return loss

            losses = [float(ours.step(closure).detach()) for _ in range(20)]
            self.assertLess(losses[-1], losses[0])

    def test_workers_train_as_one_with_their_batches_together(self):
        workers = 3
        rule = kvstored.optimizer.SGD(learning_rate=0.1, momentum=0.5, rescale_grad=1 / workers)
        expected = model()
        theirs = torch.optim.SGD(expected.parameters(), lr=0.1, momentum=0.5)
        for i in range(6):
            theirs.zero_grad()
            (sum(loss_of(expected, workers * i + rank) for rank in range(workers))
             / workers).backward()
            theirs.step()
        nets = [model() for _ in range(workers)]  # here: threads share torch's generator
        with case.Server("--num-workers", str(workers)) as server:
            def work(rank):
                with kvstored.create("dist_sync", server.grpc, rank=rank) as kv:
                    net = nets[rank]
                    with torch.no_grad():  # only rank 0's weights count
                        for parameter in net.parameters():
                            parameter += rank
                    ours = KVStoreOptimizer(net.named_parameters(), kv, copy.copy(rule))
                    for i in range(6):
                        ours.zero_grad()
                        loss_of(net, workers * i + rank).backward()
                        ours.step()
                    return net

            for net in case.together(*[lambda rank=rank: work(rank) for rank in range(workers)]):
                self.assert_same(expected, net)

    def test_parameters_without_gradient_take_part_or_are_left_out(self):
        with kvstored.create("local") as kv:
            net = model()
            net[0].weight.requires_grad_(False)
            rule = kvstored.optimizer.SGD(learning_rate=0.1)
            ours = KVStoreOptimizer(net.named_parameters(), kv, rule)
            self.assertNotIn("0.weight", ours.keys)
            before = net[0].bias.detach().clone()
            ours.step()
            self.assertTrue(torch.equal(before, net[0].bias))

    def test_a_schedule_of_torchs_reaches_the_store(self):
        with kvstored.create("local") as kv:
            net, expected = model(), model()
            rule = kvstored.optimizer.SGD(learning_rate=0.1)
            ours = KVStoreOptimizer(net.named_parameters(), kv, rule)
            theirs = torch.optim.SGD(expected.parameters(), lr=0.1)
            schedules = [torch.optim.lr_scheduler.StepLR(each, 2, 0.5) for each in (ours, theirs)]
            for i in range(7):
                for this, other, schedule in zip((ours, theirs), (net, expected), schedules):
                    this.zero_grad()
                    loss_of(other, i).backward()
                    this.step()
                    schedule.step()
            self.assertEqual(0.0125, kv.get_optimizer()["learning_rate"])
            self.assert_same(expected, net)

    def test_a_schedule_of_the_store_stays(self):
        with kvstored.create("local") as kv:
            net = model()
            rule = kvstored.optimizer.SGD(
                lr_scheduler=kvstored.lr_scheduler.FactorScheduler(2, 0.5, base_lr=0.1))
            ours = KVStoreOptimizer(net.parameters(), kv, rule)
            before = kv.get_optimizer()
            ours.param_groups[0]["lr"] = 7.0
            ours.step()
            self.assertEqual(before, kv.get_optimizer())

    def test_sparse_gradients_count_as_dense_ones(self):
        with kvstored.create("local") as kv:
            table = torch.nn.Embedding(5, 2, sparse=True)
            expected = table.weight.detach().clone()
            expected[[1, 3]] -= 0.5
            rule = kvstored.optimizer.SGD(learning_rate=0.5)
            ours = KVStoreOptimizer(table.parameters(), kv, rule)
            table(torch.tensor([1, 3])).sum().backward()
            ours.step()
            self.assertTrue(torch.equal(expected, table.weight))

    def test_groups_of_parameters_are_refused(self):
        with kvstored.create("local") as kv, self.refused("INVALID_FIELD", "lr_mult"):
            KVStoreOptimizer([{"params": model().parameters()}], kv, kvstored.optimizer.SGD())

    def test_a_store_without_an_optimizer_is_refused(self):
        with kvstored.create("local") as kv, self.refused("OPTIMIZER_NOT_SET"):
            KVStoreOptimizer(model().parameters(), kv)


class Example(case.Case):
    COMMAND = [sys.executable, str(case.SOURCE / "examples" / "torch_train.py")]

    def accuracy(self, said):
        """Of all workers the same, since they end with the same weights."""
        found = set(re.findall(r"accuracy ([0-9.]+)$", said, re.M))
        self.assertEqual(1, len(found), said)
        return float(found.pop())

    def run_example(self, *arguments):
        return subprocess.Popen([*self.COMMAND, *arguments], text=True, stdout=subprocess.PIPE,
                                env={**os.environ, "OMP_NUM_THREADS": "1"})

    def test_it_learns_alone_and_with_a_second_worker(self):
        self.assertGreater(self.accuracy(self.run_example().communicate(timeout=60)[0]), 0.95)
        with case.Server("--num-workers", "2") as server:
            workers = [self.run_example(server.grpc) for _ in range(2)]
            said = [worker.communicate(timeout=60)[0] for worker in workers]
        self.assertGreater(self.accuracy("".join(said)), 0.95)


if __name__ == "__main__":
    case.main()
