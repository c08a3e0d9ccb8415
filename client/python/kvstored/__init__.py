"""kvstored for Python: push gradients, pull weights; the optimizer runs in the server.

    import kvstored
    kv = kvstored.create("dist_sync", "127.0.0.1:9400")
    kv.init("w", weights)
    kv.set_optimizer(kvstored.optimizer.SGD(learning_rate=0.1))
    kv.pushpull("w", gradient, out=weights)

MXNet's KVStore by name and meaning, with numpy arrays; docs/PYTHON.md has the rest. It stands on
libkvstore: what KVSTORE_LIBRARY names, else what the installed package carries.
"""

from typing import Any

from . import lr_scheduler, optimizer
from ._arguments import empty
from ._errors import KVStoreError
from ._native import Handle
from ._rows import RowSparse
from ._store import KVStore, create

__all__ = ["Handle", "KVStore", "KVStoreError", "RowSparse", "create", "empty", "lr_scheduler",
           "optimizer", "tune_malloc"]


def tune_malloc() -> None:
    """Makes the C library keep large buffers: faster, but for the whole process."""
    from . import _library
    _library.load().kv_tune_malloc()


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from . import _library
        return _library.load().kv_version().decode()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
