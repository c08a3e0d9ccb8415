"""MXNet's own KVStore interface over kvstored: mx.kv.create("kvstored") after importing this.

Where the server is and which type of store it has comes from the environment, since MXNet's create
takes a name only: KVSTORED_ADDRESS, KVSTORED_TYPE (dist_sync; local without an address) and
KVSTORED_STORE. A gluon.Trainer takes the store as its kvstore argument.
"""

from __future__ import annotations

import inspect
import os
from typing import Any, Union

import mxnet
from mxnet.kvstore import KVStoreBase

from . import lr_scheduler as schedules
from . import optimizer as optimizers
from ._store import KVStore, create


@KVStoreBase.register
class KVStored(KVStoreBase):  # type: ignore[misc]
    """broadcast, pushpull and an optimizer that runs in the store."""

    def __init__(self) -> None:
        address = os.environ.get("KVSTORED_ADDRESS")
        kind = os.environ.get("KVSTORED_TYPE", "local" if address is None else "dist_sync")
        self.kv: KVStore = create(kind, address,
                                  store=os.environ.get("KVSTORED_STORE", "default"))

    def broadcast(self, key: Any, value: Any, out: Any, priority: int = 0) -> None:
        outs = _map(_near, out)
        self.kv.broadcast(key, _map(_near, value), outs, priority)
        _write(outs, out)

    def pushpull(self, key: Any, value: Any, out: Any = None, priority: int = 0) -> None:
        target = value if out is None else out
        outs = _map(_near, target)
        self.kv.pushpull(key, _map(_near, value), outs, priority)
        _write(outs, target)

    def set_optimizer(self, optimizer: Any) -> None:
        self.kv.set_optimizer(_translate(optimizer))

    @staticmethod
    def is_capable(capability: str) -> bool:
        if capability.lower() == KVStoreBase.OPTIMIZER:
            return True
        raise ValueError(f"unknown capability: {capability}")

    def save_optimizer_states(self, fname: str, dump_optimizer: bool = False) -> None:
        self.kv.save_optimizer_states(fname, dump_optimizer)

    def load_optimizer_states(self, fname: str) -> None:
        self.kv.load_optimizer_states(fname)

    @property
    def type(self) -> str:
        return self.kv.type

    @property
    def rank(self) -> int:
        return self.kv.rank

    @property
    def num_workers(self) -> int:
        return self.kv.num_workers


def _map(function: Any, given: Any) -> Any:
    if isinstance(given, (list, tuple)):
        return [_map(function, entry) for entry in given]
    return function(given)


def _near(array: Any) -> Any:
    """A copy in numpy: MXNet's memory may be on a device, and is written by its own engine."""
    return array.asnumpy()


def _write(values: Any, outs: Any) -> None:
    if isinstance(outs, (list, tuple)):
        for value, out in zip(values, outs):
            _write(value, out)
    else:
        outs[:] = mxnet.nd.array(values, ctx=outs.context, dtype=values.dtype)


# What MXNet's objects call otherwise than their constructors do.
_FIELDS = {"lr": "learning_rate", "float_stable_eps": "epsilon"}
_SCHEDULE_FIELDS = {"base_lr_orig": "base_lr", "power": "pwr", "_step": "step"}


def _translate(given: Any) -> Union[optimizers.Optimizer, dict[str, Any], str, None]:
    """An optimizer of MXNet as data: the numbers that it and ours both have."""
    if not isinstance(given, mxnet.optimizer.Optimizer):
        return given  # type: ignore[no-any-return]
    made = optimizers.create(type(given).__name__)
    _copy(given, made, _FIELDS)
    made.rules = "1.9" if mxnet.__version__.startswith("1.") else "2.0"
    if given.lr_scheduler is not None:
        made.lr_scheduler = _translate_schedule(given.lr_scheduler)
        made.learning_rate = None  # the schedule has it
    return made


def _translate_schedule(given: Any) -> schedules.LRScheduler:
    """A schedule that has not been used yet: the store counts by itself."""
    kind = getattr(schedules, type(given).__name__, None)
    if kind is None:
        raise ValueError(f"no schedule of the store's is called {type(given).__name__}")
    made: schedules.LRScheduler = kind.__new__(kind)
    _copy(given, made, _SCHEDULE_FIELDS)
    return made


def _copy(given: Any, made: Any, fields: dict[str, str]) -> None:
    """Numbers and texts, and the steps of a schedule, by the names that the two share."""
    known = set(inspect.signature(type(made)).parameters)
    for name, value in vars(given).items():
        name = fields.get(name, name)
        if name in known and isinstance(value, (bool, int, float, str, list)):
            setattr(made, name, value)
