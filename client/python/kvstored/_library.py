"""libkvstore by ctypes: where it is found, and its functions with their types.

The declarations follow client/include/kvstore/kvstore.h. ctypes gives up the interpreter's lock
during every call, so that other threads run while one waits.

Threads: any. Errors: ImportError where no library is found or where it is too old.
"""

from __future__ import annotations

import ctypes
import functools
import os
import pathlib
from ctypes import POINTER, Structure, c_char_p, c_int, c_int64, c_size_t, c_uint, c_uint32, \
    c_uint64, c_void_p
from typing import Any

FOREVER = 2 ** 64 - 1
BORROW = 1

F32, F64, F16, BF16, U8, I8, I32, I64 = range(1, 9)


class Key(Structure):
    _fields_ = [("name", c_char_p), ("number", c_int64)]


class Array(Structure):
    _fields_ = [("data", c_void_p), ("dtype", c_int), ("rank", c_uint32),
                ("shape", POINTER(c_uint64))]


class Options(Structure):
    _fields_ = [("store", c_char_p), ("worker", c_char_p), ("rank", c_int64),
                ("connect_timeout_ms", c_uint64), ("request_timeout_ms", c_uint64),
                ("credit_bytes", c_uint64)]


STATISTICS = ("reconnects", "replayed_parts", "parts_pushed", "parts_pulled", "bytes_sent",
              "bytes_received", "messages_sent", "bytes_shared", "bytes_mapped")


class Statistics(Structure):
    _fields_ = [(name, c_uint64) for name in STATISTICS]


class RowSparse(Structure):
    _fields_ = [("data", c_void_p), ("dtype", c_int), ("rank", c_uint32),
                ("shape", POINTER(c_uint64)), ("ids", c_void_p), ("id_dtype", c_int),
                ("count", c_uint64)]


UPDATER = ctypes.CFUNCTYPE(None, Key, POINTER(Array), POINTER(Array), c_void_p)
PROGRESS = ctypes.CFUNCTYPE(None, c_uint64, c_uint64, c_void_p)

_STORE = c_void_p
_HANDLE = POINTER(c_void_p)
_KEYS = POINTER(Key)
_ARRAYS = POINTER(Array)
_COUNTS = POINTER(c_size_t)
_ROWS = POINTER(RowSparse)

# name: (what it returns, what it takes)
_FUNCTIONS: dict[str, tuple[Any, list[Any]]] = {
    "kv_version": (c_char_p, []),
    "kv_status_reason": (c_char_p, [c_int]),
    "kv_status_grpc_code": (c_int, [c_int]),
    "kv_status_advice": (c_char_p, [c_int]),
    "kv_options_init": (None, [POINTER(Options)]),
    "kv_create": (c_int, [c_char_p, c_char_p, POINTER(Options), POINTER(_STORE), c_char_p,
                          c_size_t]),
    "kv_close": (c_int, [_STORE]),
    "kv_last_error": (c_char_p, [_STORE]),
    "kv_type": (c_char_p, [_STORE]),
    "kv_rank": (c_uint32, [_STORE]),
    "kv_num_workers": (c_uint32, [_STORE]),
    "kv_init": (c_int, [_STORE, _KEYS, _ARRAYS, c_size_t]),
    "kv_push": (c_int, [_STORE, _KEYS, _ARRAYS, _COUNTS, c_size_t, c_int, c_uint, _HANDLE]),
    "kv_pull": (c_int, [_STORE, _KEYS, _ARRAYS, _COUNTS, c_size_t, c_int, _HANDLE]),
    "kv_pushpull": (c_int, [_STORE, _KEYS, _ARRAYS, _COUNTS, _ARRAYS, _COUNTS, c_size_t, c_int,
                            c_uint, _HANDLE]),
    "kv_init_row_sparse": (c_int, [_STORE, _KEYS, _ROWS, c_size_t]),
    "kv_push_row_sparse": (c_int, [_STORE, _KEYS, _ROWS, _COUNTS, c_size_t, c_int, _HANDLE]),
    "kv_row_sparse_pull": (c_int, [_STORE, _KEYS, _ROWS, _COUNTS, _ARRAYS, c_size_t, c_size_t,
                                   c_int, _HANDLE]),
    "kv_handle_poll": (c_int, [_STORE, _HANDLE, c_uint64]),
    "kv_handle_is_done": (c_int, [_STORE, c_void_p]),
    "kv_set_optimizer": (c_int, [_STORE, c_char_p]),
    "kv_get_optimizer": (c_int, [_STORE, POINTER(c_void_p)]),
    "kv_free": (None, [c_void_p]),
    "kv_alloc": (c_int, [_STORE, c_uint64, POINTER(c_void_p)]),
    "kv_dealloc": (None, [c_void_p]),
    "kv_view_open": (c_int, [_STORE, _KEYS, POINTER(c_void_p)]),
    "kv_view_get": (None, [c_void_p, _ARRAYS]),
    "kv_view_free": (None, [c_void_p]),
    "kv_set_updater": (c_int, [_STORE, UPDATER, c_void_p]),
    "kv_save_optimizer_states": (c_int, [_STORE, c_char_p, c_int]),
    "kv_load_optimizer_states": (c_int, [_STORE, c_char_p]),
    "kv_set_progress": (None, [_STORE, PROGRESS, c_void_p]),
    "kv_set_gradient_compression": (c_int, [_STORE, c_char_p]),
    "kv_barrier": (c_int, [_STORE, c_uint64]),
    "kv_send_command": (c_int, [_STORE, c_int, c_char_p]),
    "kv_is_capable": (c_int, [_STORE, c_char_p, POINTER(c_int)]),
    "kv_count": (None, [_STORE, POINTER(Statistics)]),
    "kv_tune_malloc": (None, []),
}


def _places() -> list[str]:
    """What KVSTORE_LIBRARY names; else the one that the wheel carries; else the system's."""
    named = os.environ.get("KVSTORE_LIBRARY")
    if named:
        return [named]
    carried = pathlib.Path(__file__).with_name("libkvstore.so")
    return [str(carried)] if carried.exists() else ["libkvstore.so.0", "libkvstore.so"]


def _open() -> ctypes.CDLL:
    failures = []
    for place in _places():
        try:
            return ctypes.CDLL(place)
        except OSError as error:
            failures.append(f"{place}: {error}")
    raise ImportError("libkvstore does not load. Build it (cmake --preset release && cmake --build "
                      "--preset release --target kvstore) and name it in KVSTORE_LIBRARY, or "
                      "install the package by pip. Tried " + "; ".join(failures))


@functools.lru_cache(maxsize=None)
def load() -> Any:
    """The library, opened at the first call."""
    library = _open()
    for name, (result, arguments) in _FUNCTIONS.items():
        function = getattr(library, name, None)
        if function is None:
            raise ImportError(f"{library._name} is older than this package: it has no {name}")
        function.restype = result
        function.argtypes = arguments
    return library
