"""Optimizers as data, by MXNet's names and parameters; the store runs them.

A parameter left at None takes MXNet's default of the line that `rules` names: "1.9" (unless said)
or "2.0". A name that only one of the lines has is refused by the other; numbers are checked by the
store, which names the field.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from typing import Any, Optional, Union

from ._errors import KVStoreError
from .lr_scheduler import LRScheduler

_registry: dict[str, type["Optimizer"]] = {}


@dataclass(kw_only=True)
class Optimizer:
    """What all have.

    learning_rate     replaces the scheduler's base_lr where both are given
    wd                weight decay
    rescale_grad      every gradient is multiplied by it first
    clip_gradient     the absolute value that no rescaled gradient exceeds; None: no limit
    clip_norm         the length that no rescaled gradient of a key exceeds; None: no limit
    multi_precision   keeps float32 masters of float16 and bfloat16 weights
    begin_num_update  where the count of updates begins
    lr_mult, wd_mult  factors by key
    rules             "1.9" or "2.0"
    """

    learning_rate: Optional[float] = None
    wd: Optional[float] = None
    rescale_grad: Optional[float] = None
    clip_gradient: Optional[float] = None
    clip_norm: Optional[float] = None
    lr_scheduler: Optional[LRScheduler] = None
    multi_precision: Optional[bool] = None
    begin_num_update: Optional[int] = None
    lr_mult: dict[str, float] = field(default_factory=dict)
    wd_mult: dict[str, float] = field(default_factory=dict)
    rules: Optional[str] = None

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        _registry[cls.__name__.lower()] = cls

    def to_dict(self) -> dict[str, Any]:
        """As it travels: the contract's "optimizer as data"."""
        found: dict[str, Any] = {"name": type(self).__name__.lower()}
        for place in fields(self):
            value = getattr(self, place.name)
            if isinstance(value, LRScheduler):
                value = value.to_dict()
            elif isinstance(value, dict):
                value = {str(key): factor for key, factor in value.items()} or None
            if value is not None:
                found[place.name] = value
        return found

    def set_learning_rate(self, lr: float) -> None:
        """Counts from the next kv.set_optimizer(), which keeps states and counters."""
        self.learning_rate = lr

    def set_lr_mult(self, args_lr_mult: dict[Any, float]) -> None:
        self.lr_mult = {str(key): factor for key, factor in args_lr_mult.items()}

    def set_wd_mult(self, args_wd_mult: dict[Any, float]) -> None:
        self.wd_mult = {str(key): factor for key, factor in args_wd_mult.items()}

    @staticmethod
    def create_optimizer(name: str, **arguments: Any) -> "Optimizer":
        return create(name, **arguments)


def create(name: str, **arguments: Any) -> Optimizer:
    """The optimizer of that name, whatever its case."""
    found = _registry.get(name.lower())
    if found is None:
        raise ValueError(f"no optimizer is called {name!r}; there are {', '.join(names())}")
    return found(**arguments)


def names() -> list[str]:
    return sorted(_registry)


def to_json(given: Union[Optimizer, dict[str, Any]]) -> str:
    """As it travels. Numbers of numpy and its like are numbers; whatever else JSON has no word for
    is refused, with the field that holds it."""
    words = given.to_dict() if isinstance(given, Optimizer) else given
    for name, value in words.items():
        try:
            json.dumps(value, allow_nan=False, default=_plain)
        except (TypeError, ValueError):
            raise KVStoreError("INVALID_FIELD", f"/{name} cannot be sent: {value!r}") from None
    return json.dumps(words, default=_plain)


def _plain(value: Any) -> Any:
    """A number as Python has it."""
    if isinstance(value, LRScheduler):
        return value.to_dict()
    if hasattr(value, "item") and getattr(value, "ndim", 1) == 0:
        return value.item()
    raise TypeError


@dataclass(kw_only=True)
class SGD(Optimizer):
    """w -= lr g; with momentum m: v = m v - lr g, w += v."""

    momentum: Optional[float] = None
    lazy_update: Optional[bool] = None


@dataclass(kw_only=True)
class ccSGD(SGD):  # noqa: N801 (MXNet's name)
    """SGD by its old name."""


@dataclass(kw_only=True)
class NAG(Optimizer):
    """Nesterov's accelerated gradient."""

    momentum: Optional[float] = None


@dataclass(kw_only=True)
class SGLD(Optimizer):
    """Stochastic gradient Langevin dynamics; its noise is a function of the seed."""

    seed: Optional[int] = None


@dataclass(kw_only=True)
class Signum(Optimizer):
    """The sign of the gradient or, with momentum, of its mean."""

    momentum: Optional[float] = None
    wd_lh: Optional[float] = None


@dataclass(kw_only=True)
class DCASGD(Optimizer):
    """Delay-compensated asynchronous SGD."""

    momentum: Optional[float] = None
    lamda: Optional[float] = None


@dataclass(kw_only=True)
class DiLoCo(Optimizer):
    """DiLoCo's outer rule: Nesterov's momentum on what workers moved (not MXNet's)."""

    momentum: Optional[float] = None


@dataclass(kw_only=True)
class FTML(Optimizer):
    """Follow the moving leader."""

    beta1: Optional[float] = None
    beta2: Optional[float] = None
    epsilon: Optional[float] = None


@dataclass(kw_only=True)
class Adam(Optimizer):
    beta1: Optional[float] = None
    beta2: Optional[float] = None
    epsilon: Optional[float] = None
    lazy_update: Optional[bool] = None


@dataclass(kw_only=True)
class Lion(Optimizer):
    """The sign of a mean of gradients, with the decay apart from it (not MXNet's)."""

    beta1: Optional[float] = None
    beta2: Optional[float] = None


@dataclass(kw_only=True)
class AdamW(Optimizer):
    """Adam with the decay apart from the gradient."""

    beta1: Optional[float] = None
    beta2: Optional[float] = None
    epsilon: Optional[float] = None
    correct_bias: Optional[bool] = None


@dataclass(kw_only=True)
class AdaBelief(Optimizer):
    """(2.0)"""

    beta1: Optional[float] = None
    beta2: Optional[float] = None
    epsilon: Optional[float] = None
    correct_bias: Optional[bool] = None


@dataclass(kw_only=True)
class Adamax(Optimizer):
    beta1: Optional[float] = None
    beta2: Optional[float] = None


@dataclass(kw_only=True)
class Nadam(Optimizer):
    beta1: Optional[float] = None
    beta2: Optional[float] = None
    epsilon: Optional[float] = None
    schedule_decay: Optional[float] = None


@dataclass(kw_only=True)
class AdaGrad(Optimizer):
    """eps in 1.9, epsilon in 2.0."""

    eps: Optional[float] = None
    epsilon: Optional[float] = None


@dataclass(kw_only=True)
class GroupAdaGrad(Optimizer):
    """One state a row. eps in 1.9, epsilon in 2.0."""

    eps: Optional[float] = None
    epsilon: Optional[float] = None


@dataclass(kw_only=True)
class AdaDelta(Optimizer):
    rho: Optional[float] = None
    epsilon: Optional[float] = None


@dataclass(kw_only=True)
class RMSProp(Optimizer):
    """gamma1 and gamma2 in 1.9, rho and momentum in 2.0."""

    gamma1: Optional[float] = None
    gamma2: Optional[float] = None
    rho: Optional[float] = None
    momentum: Optional[float] = None
    epsilon: Optional[float] = None
    centered: Optional[bool] = None
    clip_weights: Optional[float] = None


@dataclass(kw_only=True)
class Ftrl(Optimizer):
    """Follow the regularised leader."""

    lamda1: Optional[float] = None
    beta: Optional[float] = None


@dataclass(kw_only=True)
class LARS(Optimizer):
    """Layer-wise rates for SGD."""

    momentum: Optional[float] = None
    eta: Optional[float] = None
    eps: Optional[float] = None
    epsilon: Optional[float] = None
    momentum_correction: Optional[bool] = None


@dataclass(kw_only=True)
class LBSGD(Optimizer):
    """SGD for large batches, with a warm-up (1.9)."""

    momentum: Optional[float] = None
    warmup_strategy: Optional[str] = None
    warmup_epochs: Optional[int] = None
    batch_scale: Optional[int] = None
    updates_per_epoch: Optional[int] = None
    begin_epoch: Optional[int] = None
    num_epochs: Optional[int] = None


@dataclass(kw_only=True)
class LAMB(Optimizer):
    """Layer-wise rates for Adam."""

    beta1: Optional[float] = None
    beta2: Optional[float] = None
    epsilon: Optional[float] = None
    lower_bound: Optional[float] = None
    upper_bound: Optional[float] = None
    bias_correction: Optional[bool] = None


@dataclass(kw_only=True)
class LANS(Optimizer):
    """LAMB with Nesterov's momentum (2.0)."""

    beta1: Optional[float] = None
    beta2: Optional[float] = None
    epsilon: Optional[float] = None
    lower_bound: Optional[float] = None
    upper_bound: Optional[float] = None


@dataclass(kw_only=True)
class Test(Optimizer):
    """MXNet's rule for tests: w += rescale_grad g (1.9)."""
