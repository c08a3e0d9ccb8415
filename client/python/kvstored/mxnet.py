"""MXNet's own KVStore interface over kvstored. A program changes the line that makes its store:

    kv = mx.kv.create("dist_sync")                          # before
    kv = kvstored.mxnet.create("dist_sync", "host:9400")    # after; also mx.kv.create("kvstored")

The second form takes the server's place from the environment, since MXNet's create has a name only:
KVSTORED_ADDRESS, KVSTORED_TYPE (dist_sync; local without an address) and KVSTORED_STORE. A
gluon.Trainer and a Module take the store as their kvstore.

Values are copied between MXNet's arrays and numpy's on the way in and out, row_sparse ones as the
rows that they hold. Each call returns with its outs filled.
"""

from __future__ import annotations

import inspect
import os
from typing import Any, Callable, Optional

import mxnet
import numpy
from mxnet.kvstore import KVStore as MXKVStore, KVStoreBase
from mxnet.ndarray.sparse import RowSparseNDArray

from . import lr_scheduler as schedules
from . import optimizer as optimizers
from ._rows import RowSparse, has_rows
from ._store import KVStore, create as create_store


class _Updater:
    """What Trainer looks for beside a store: the optimizer, which its owner may change."""

    optimizer: Any = None


@KVStoreBase.register
class KVStored(MXKVStore):
    """Every call of MXNet's KVStore. It is one by its class, because Trainer wants that of a store
    for sparse gradients; of MXNet's own it has nothing.

    kv  the store below, with what MXNet has no call for
    """

    def __init__(self, type: Optional[str] = None, address: Optional[str] = None,
                 **options: Any) -> None:
        if address is None:
            address = os.environ.get("KVSTORED_ADDRESS")
        if type is None:
            type = os.environ.get("KVSTORED_TYPE", "local" if address is None else "dist_sync")
        options.setdefault("store", os.environ.get("KVSTORED_STORE", "default"))
        self.kv: KVStore = create_store(type, address, **options)
        self._updater = _Updater()
        self._told: Any = None  # what the store knows of the updater's optimizer
        self._dense: set[Any] = set()  # keys whose storage is not row_sparse

    def __del__(self) -> None:
        """Nothing of MXNet's is to be freed; the store closes itself."""

    # -------------------------------------------------------------- values

    def init(self, key: Any, value: Any) -> None:
        """A dense weight that Trainer says has gradients of rows is kept by rows, so that a lazy
        optimizer leaves its other rows alone, as MXNet's does."""
        several = isinstance(key, (list, tuple))
        for name, entry in zip(key, value) if several else [(key, value)]:
            near = _map(_near, entry)
            if isinstance(near, RowSparse):
                pass
            elif self._has_gradients_of_rows(name) and near.ndim > 0:
                near = RowSparse(numpy.arange(len(near)), near, near.shape)
            else:
                self._dense.add(name)
            self.kv.init(name, near)

    def push(self, key: Any, value: Any, priority: int = 0) -> None:
        self._tell()
        self.kv.push(key, self._values(key, value), priority)

    def pull(self, key: Any, out: Any = None, priority: int = 0,
             ignore_sparse: bool = True) -> None:
        outs = self._places(key, out)
        self.kv.pull(key, outs, priority, ignore_sparse)
        _write(outs, out, ignore_sparse)

    def pushpull(self, key: Any, value: Any, out: Any = None, priority: int = 0) -> None:
        self._tell()
        target = value if out is None else out
        values = self._values(key, value)
        if has_rows(values):  # MXNet's is a push and a pull, which passes over outs of rows
            self.kv.push(key, values, priority)
            self.pull(key, target, priority)
            return
        outs = self._places(key, target)
        self.kv.pushpull(key, values, outs, priority)
        _write(outs, target)

    def broadcast(self, key: Any, value: Any, out: Any, priority: int = 0) -> None:
        self.init(key, value)
        self.pull(key, out, priority)

    def row_sparse_pull(self, key: Any, out: Any = None, priority: int = 0,
                        row_ids: Any = None) -> None:
        outs = _map(_place, out)
        self.kv.row_sparse_pull(key, outs, _map(_near, row_ids), priority)
        _write(outs, out)

    def _values(self, key: Any, given: Any) -> Any:
        """As the key's storage has them: rows for a dense key become a dense array."""
        if isinstance(key, (list, tuple)) and isinstance(given, (list, tuple)):
            return [self._values(*pair) for pair in zip(key, given)]
        return _map(_near_dense if key in self._dense else _near, given)

    def _places(self, key: Any, out: Any) -> Any:
        """Room for what is pulled."""
        if isinstance(key, (list, tuple)) and isinstance(out, (list, tuple)):
            return [self._places(*pair) for pair in zip(key, out)]
        return _map(_place_dense if key in self._dense else _place, out)

    def _has_gradients_of_rows(self, key: Any) -> bool:
        parameters = getattr(self._updater.optimizer, "param_dict", {})
        return getattr(parameters.get(key), "_grad_stype", "default") == "row_sparse"

    # -------------------------------------------------------------- the rule

    def set_optimizer(self, optimizer: Any) -> None:
        """What its owner changes later (Trainer.set_learning_rate) counts from the next push on."""
        told = _translate(optimizer)
        self.kv.set_optimizer(told)
        self._updater.optimizer, self._told = optimizer, told

    def _tell(self) -> None:
        """Tells the store where MXNet's optimizer has other numbers than it had."""
        if isinstance(self._updater.optimizer, mxnet.optimizer.Optimizer):
            now = _translate(self._updater.optimizer)
            if now != self._told:
                self.kv.set_optimizer(now)
                self._told = now

    def set_gradient_compression(self, compression_params: dict[str, Any]) -> None:
        self.kv.set_gradient_compression(compression_params)

    def _set_updater(self, updater: Callable[[Any, Any, Any], None]) -> None:
        """updater(key, input, stored) of MXNet's arrays; stored is changed in place."""
        def update(key: Any, given: Any, stored: Any) -> None:
            place = mxnet.nd.array(stored, dtype=stored.dtype)
            updater(key, mxnet.nd.array(given, dtype=given.dtype), place)
            stored[...] = place.asnumpy()

        self.kv._set_updater(update)
        self._updater.optimizer = None

    @staticmethod
    def is_capable(capability: str) -> bool:
        if capability.lower() == KVStoreBase.OPTIMIZER:
            return True
        raise ValueError(f"unknown capability: {capability}")

    def save_optimizer_states(self, fname: str, dump_optimizer: bool = False) -> None:
        self.kv.save_optimizer_states(fname, dump_optimizer)

    def load_optimizer_states(self, fname: str) -> None:
        """Where the file has an optimizer, MXNet's takes its numbers as well."""
        self.kv.load_optimizer_states(fname)
        given = self._updater.optimizer
        if isinstance(given, mxnet.optimizer.Optimizer):
            loaded = self.kv.get_optimizer() or {}
            for name, value in vars(given).items():
                now = loaded.get(_FIELDS.get(name, name))
                if isinstance(value, (bool, int, float)) and isinstance(now, (bool, int, float)):
                    setattr(given, name, now)
            self._told = _translate(given)

    # -------------------------------------------------------------- workers

    @property
    def type(self) -> str:
        return self.kv.type

    @property
    def rank(self) -> int:
        return self.kv.rank

    @property
    def num_workers(self) -> int:
        return self.kv.num_workers

    def _barrier(self) -> None:
        self.kv.barrier()

    def _send_command_to_servers(self, head: int, body: str) -> None:
        self.kv._send_command_to_servers(head, body)


def create(type: str = "local", address: Optional[str] = None, **options: Any) -> KVStored:
    """As kvstored.create(), for MXNet's arrays."""
    return KVStored(type, address, **options)


# ------------------------------------------------------------------ arrays

def _map(function: Callable[[Any], Any], given: Any) -> Any:
    if isinstance(given, (list, tuple)):
        return [_map(function, entry) for entry in given]
    return function(given)


def _near(array: Any) -> Any:
    """A copy in numpy: MXNet's memory may be on a device, and is written by its own engine."""
    if isinstance(array, RowSparseNDArray):
        return RowSparse(array.indices.asnumpy(), array.data.asnumpy(), array.shape)
    return array.asnumpy()


def _near_dense(array: Any) -> Any:
    return array.asnumpy()


def _place(array: Any) -> Any:
    """Room for what is pulled."""
    if isinstance(array, RowSparseNDArray):
        return RowSparse.zeros(array.shape, array.dtype)
    return numpy.empty(array.shape, array.dtype)


def _place_dense(array: Any) -> Any:
    return numpy.empty(array.shape, array.dtype)


def _write(values: Any, outs: Any, ignore_sparse: bool = False) -> None:
    if isinstance(outs, (list, tuple)):
        for value, out in zip(values, outs):
            _write(value, out, ignore_sparse)
    elif not (ignore_sparse and isinstance(outs, RowSparseNDArray)):
        with mxnet.autograd.pause():  # what arrives is no step of the caller's computation
            _write_one(values, outs)


def _write_one(values: Any, out: Any) -> None:
    if not isinstance(out, RowSparseNDArray):
        out[:] = mxnet.nd.array(values, ctx=out.context, dtype=values.dtype)
        return
    rows = values if isinstance(values, RowSparse) else RowSparse.from_dense(values)
    mxnet.nd.sparse.row_sparse_array((rows.values, rows.indices), shape=rows.shape,
                                     ctx=out.context, dtype=rows.dtype).copyto(out)


# ------------------------------------------------------------------ optimizers

# What MXNet's objects call otherwise than their constructors do.
_FIELDS = {"lr": "learning_rate", "float_stable_eps": "eps"}
_SCHEDULE_FIELDS = {"base_lr_orig": "base_lr", "power": "pwr", "_step": "step"}


def _translate(given: Any) -> Any:
    """An optimizer of MXNet as a dict: the numbers that it and ours both have. Others as given."""
    if not isinstance(given, mxnet.optimizer.Optimizer):
        return given
    made = optimizers.create(type(given).__name__)
    _copy(given, made, _FIELDS)
    made.rules = "1.9" if mxnet.__version__.startswith("1.") else "2.0"
    made.lr_mult = _multipliers(given, "lr_mult")
    made.wd_mult = _multipliers(given, "wd_mult")
    if given.lr_scheduler is not None:
        made.lr_scheduler = _translate_schedule(given.lr_scheduler)
        made.learning_rate = None  # the schedule has it
    return made.to_dict()


def _multipliers(given: Any, which: str) -> dict[str, float]:
    """By the key, which is a parameter's number (Trainer) or its name (Module): a parameter's own
    goes before that of its number, and that before the one of its name, as in MXNet."""
    told = getattr(given, which)
    found = {str(key): factor for key, factor in told.items()}
    for number, name in given.idx2name.items():
        if number in told:
            found[name] = told[number]
        elif name in told:
            found[str(number)] = told[name]
    for number, parameter in given.param_dict.items():
        found[str(number)] = getattr(parameter, which)
    return {key: factor for key, factor in found.items() if factor != 1}


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
