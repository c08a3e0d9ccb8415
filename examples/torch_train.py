"""Workers that train one torch model: gradients go to the store, weights come back.

    python3 examples/torch_train.py                          # embedded, one worker
    python3 examples/torch_train.py 127.0.0.1:9400           # each worker of a server's
"""

import sys

import torch

import kvstored
from kvstored.torch import KVStoreOptimizer

BATCH = 32
STEPS = 300


def batch(generator):
    """Points of two rings, and which ring each is of."""
    ring = torch.randint(0, 2, (BATCH,), generator=generator)
    angle = torch.rand(BATCH, generator=generator) * 6.2832
    radius = 1 + ring + 0.2 * torch.randn(BATCH, generator=generator)
    return torch.stack([radius * torch.cos(angle), radius * torch.sin(angle)], 1), ring


def accuracy(net):
    with torch.no_grad():
        points, rings = zip(*[batch(torch.Generator().manual_seed(1000 + i)) for i in range(10)])
        found = net(torch.cat(points)).argmax(1)
        return float((found == torch.cat(rings)).float().mean())


def main():
    address = sys.argv[1] if len(sys.argv) > 1 else None
    with kvstored.create("dist_sync" if address else "local", address) as kv:
        net = torch.nn.Sequential(torch.nn.Linear(2, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2))
        rule = kvstored.optimizer.Adam(learning_rate=0.02, rescale_grad=1 / kv.num_workers)
        optimizer = KVStoreOptimizer(net.named_parameters(), kv, rule)  # rank 0's weights for all
        generator = torch.Generator().manual_seed(kv.rank)  # each worker its own batches
        for _ in range(STEPS):
            points, rings = batch(generator)
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(net(points), rings).backward()
            optimizer.step()
        print(f"rank {kv.rank} of {kv.num_workers}: accuracy {accuracy(net):.3f}")


main()
