"""A torch optimizer whose step is a pushpull: gradients go to the store, weights come back.

    kv = kvstored.create("dist_sync", address)
    optimizer = kvstored.torch.KVStoreOptimizer(
        model.named_parameters(), kv, kvstored.optimizer.SGD(learning_rate=0.1))
    ...
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()

The store applies the rule and keeps its states. In a synchronous store the gradients of all workers
are summed: give the rule rescale_grad = 1 / (workers * batch) or scale the loss.
"""

from __future__ import annotations

from typing import Any, Callable, Iterable, Optional, Union

import torch

from ._arguments import field_error
from ._errors import KVStoreError
from ._store import KVStore
from .optimizer import Optimizer

Parameters = Iterable[Union[torch.Tensor, "tuple[str, torch.Tensor]"]]


class KVStoreOptimizer(torch.optim.Optimizer):
    """Parameters that need no gradient are left out.

    params     tensors, whose keys are 0, 1, 2 ...; or pairs of name and tensor, as of
               model.named_parameters(), whose keys are the names
    kv         a store; all of its workers need the same keys and shapes
    optimizer  the rule, set on the store; None: the one that it has

    Making one is a broadcast: every worker has rank 0's weights then (or the store's, if it had the
    keys). A step pushes every parameter, zeros where there is no gradient, so that each worker
    takes part in each round; the first parameters have the highest priority. Tensors on a device
    go by way of the CPU, sparse gradients as dense ones.

    There is one group of parameters, whose "lr" is the rule's learning rate: what a schedule of
    torch's makes of it is told to the store before the next step (by every worker, all having the
    same schedule). A rule that has a schedule of its own goes by that one instead.
    """

    def __init__(self, params: Parameters, kv: KVStore,
                 optimizer: Union[Optimizer, dict[str, Any], None] = None) -> None:
        self.kv = kv
        self.keys: list[Any] = []
        self.tensors: list[torch.Tensor] = []
        for i, given in enumerate(params):
            if isinstance(given, dict):
                raise field_error("params are tensors, or pairs of name and tensor, not groups: "
                                  "lr_mult and wd_mult of the rule are by key")
            key, tensor = (i, given) if isinstance(given, torch.Tensor) else given
            if tensor.requires_grad:
                self.keys.append(key)
                self.tensors.append(tensor)
        if optimizer is not None:
            kv.set_optimizer(optimizer)
        rule = kv.get_optimizer()
        if rule is None:
            raise KVStoreError("OPTIMIZER_NOT_SET", "the store has no optimizer",
                               next_step="Give one, or call kv.set_optimizer first.")
        self._told = rule.get("learning_rate")
        super().__init__(self.tensors, {"lr": self._told})
        weights = self._places()
        kv.broadcast(self.keys, [self._near(tensor) for tensor in self.tensors], out=weights)
        self._write(weights)

    @torch.no_grad()
    def step(self, closure: Optional[Callable[[], Any]] = None) -> Any:
        """Returns with the weights of this step's round."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._tell()
        gradients = [torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
                     for tensor in self.tensors]
        weights = self._places()
        handles = [self.kv.pushpull(key, self._near(gradient), out=weight, priority=-i, wait=False)
                   for i, (key, gradient, weight) in enumerate(zip(self.keys, gradients, weights))]
        for handle in handles:
            handle.wait()
        self._write(weights)
        return loss

    def _tell(self) -> None:
        """Tells the store a learning rate that has been changed here since it was last told."""
        rate = self.param_groups[0]["lr"]
        if rate == self._told:
            return
        rule = self.kv.get_optimizer()
        if rule is not None and rule.get("lr_scheduler") is None:
            rule["learning_rate"] = rate
            self.kv.set_optimizer(rule)
        self._told = rate

    @staticmethod
    def _near(tensor: torch.Tensor) -> torch.Tensor:
        near: torch.Tensor = tensor.detach().cpu()
        return near if near.layout == torch.strided else near.to_dense()

    def _places(self) -> list[torch.Tensor]:
        """Where weights arrive: the parameters themselves, or memory for those on a device."""
        return [tensor.detach() if tensor.device.type == "cpu" else
                torch.empty_like(tensor, device="cpu") for tensor in self.tensors]

    def _write(self, weights: list[torch.Tensor]) -> None:
        with torch.no_grad():
            for tensor, weight in zip(self.tensors, weights):
                if tensor.device.type != "cpu":
                    tensor.copy_(weight)
