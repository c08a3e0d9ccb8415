"""KVStore: MXNet's calls over libkvstore, with numpy arrays where MXNet has NDArrays."""

from __future__ import annotations

import ctypes
import json
import os
import threading
import time
import warnings
import weakref
from collections import deque
from typing import Any, Callable, Literal, Optional, Sequence, Union, overload

from . import _library, _native
from ._arguments import KeyLike, Numbers, Packed, Shape, array_at, array_of_view, bytes_of, \
    empty_at, field_error, key_of, may_borrow, pack_keys, read_int, read_keys, read_text
from ._errors import KVStoreError
from ._native import Handle
from ._rows import PackedRows, all_rows, drop_rows, has_rows
from .optimizer import Optimizer, to_json

Keys = Union[KeyLike, Sequence[KeyLike]]
Updater = Callable[[KeyLike, Any, Any], None]
Progress = Callable[[int, int], None]
Path = Union[str, "os.PathLike[str]"]


def create(type: str = "local", address: Optional[str] = None, *, store: str = "default",
           rank: Optional[int] = None, worker: Optional[str] = None,
           connect_timeout: Optional[float] = None, request_timeout: Optional[float] = None,
           credit_bytes: int = 0) -> "KVStore":
    """A store: "dist_sync", "dist_async" and their like at a server (`address` is "host:port" or
    "unix:/path"), every other name embedded in this process.

    store            its name at the server; it must be there
    rank             the rank wanted, in [0, num_workers); None: any
    worker           a name for people; None: host and process
    connect_timeout  seconds until the server must be reached (30)
    request_timeout  seconds that one request may take, reconnects included (120)
    credit_bytes     how much may be under way; 0: what the server grants
    """
    if not isinstance(type, str):
        raise TypeError("the type of a store is a str")
    options = _library.Options()
    _library.load().kv_options_init(ctypes.byref(options))
    options.store = store.encode()
    options.worker = None if worker is None else worker.encode()
    options.rank = -1 if rank is None else rank
    options.connect_timeout_ms = _milliseconds(connect_timeout)
    options.request_timeout_ms = _milliseconds(request_timeout)
    options.credit_bytes = credit_bytes
    return KVStore(_native.create(type, address, options))


def _milliseconds(seconds: Optional[float]) -> int:
    """0, the library's default, for None."""
    return 0 if seconds is None else max(1, int(seconds * 1000))


class _UpdaterCall:
    """A Python updater as C calls it. It works on copies, which it may keep: C's arrays are gone
    after the call. After an exception the value is as before, and the push that led here raises."""

    def __init__(self, function: Updater) -> None:
        self.function = function
        self.thread: Optional[int] = None  # where it runs just now
        self.errors: dict[int, BaseException] = {}  # by the thread that pushed
        self.pointer = _library.UPDATER(self._run)

    def _run(self, key: Any, given: Any, stored: Any, context: Any) -> None:
        thread = threading.get_ident()
        if thread in self.errors:
            return  # of the same push, an earlier key
        self.thread = thread
        try:
            summed, value = array_at(given).copy(), array_at(stored).copy()
            summed.flags.writeable = False
            self.function(key_of(key), summed, value)
            array_at(stored)[...] = value
        except BaseException as error:  # nothing may be raised into C
            self.errors[thread] = error
        finally:
            self.thread = None

    def take_error(self) -> Optional[BaseException]:
        """Of the calling thread's push."""
        return self.errors.pop(threading.get_ident(), None)


class KVStore:
    """Made by kvstored.create(). A context manager that closes it.

    Threads: may be used from several; close it while no other thread is in a call.
    Forks: a child cannot use it.
    Errors: KVStoreError. What fails after a push has returned is raised by the next call that
      waits.
    """

    def __init__(self, native: _native.Native) -> None:
        self._native = native
        self._library = native.library
        self._finalizer = weakref.finalize(self, native.close)
        self._pushes: deque[Handle] = deque()  # that nobody else waits for
        self._pushes_mutex = threading.Lock()
        self._states_mutex = threading.Lock()
        self._failure: Optional[KVStoreError] = None

    # -------------------------------------------------------------- what it is

    @property
    def type(self) -> str:
        """As it was given, in lower case."""
        text: bytes = self._library.kv_type(self._use())
        return text.decode()

    @property
    def rank(self) -> int:
        rank: int = self._library.kv_rank(self._use())
        return rank

    @property
    def num_workers(self) -> int:
        count: int = self._library.kv_num_workers(self._use())
        return count

    def is_capable(self, capability: str) -> bool:
        """Only "optimizer" is known."""
        found = ctypes.c_int()
        self._use()
        self._native.quick(self._library.kv_is_capable, capability.encode(), ctypes.byref(found))
        return bool(found.value)

    def statistics(self) -> dict[str, int]:
        """What this client has sent and received so far."""
        counts = _library.Statistics()
        self._library.kv_count(self._use(), ctypes.byref(counts))
        return {name: getattr(counts, name) for name in _library.STATISTICS}

    # -------------------------------------------------------------- init, push, pull

    def init(self, key: Keys, value: Any) -> None:
        """Rank 0's values count; other ranks wait for them. RowSparse values make keys of
        row_sparse storage."""
        self._use()
        if has_rows(value):
            rows = PackedRows(key, value, "value")
            rows.pack_values()
            _check_single(rows.counts)
            self._native.call(self._library.kv_init_row_sparse, rows.keys, rows.rows, rows.count,
                              keep=rows)
            return
        packed = Packed(key, value, with_values=True)
        _check_single(packed.value_counts)
        self._native.call(self._library.kv_init, packed.keys, packed.values, packed.count,
                          keep=packed)

    @overload
    def push(self, key: Keys, value: Any, priority: int = ..., *, copy: bool = ...,
             wait: Literal[False]) -> Handle: ...

    @overload
    def push(self, key: Keys, value: Any, priority: int = ..., *, copy: bool = ...,
             wait: Optional[bool] = ...) -> Optional[Handle]: ...

    def push(self, key: Keys, value: Any, priority: int = 0, *, copy: bool = True,
             wait: Optional[bool] = None) -> Optional[Handle]:
        """Returns once queued. Several values of a key are summed.

        copy  False: the value is read where it lies, and is not to be changed until waited for
        wait  True: returns when it is applied; False: gives a handle
        """
        if has_rows(value):
            handle = self._push_rows(key, value, priority)
        else:
            packed = Packed(key, value, with_values=True)
            handle = self._start(self._library.kv_push, packed, packed.keys, packed.values,
                                 packed.value_counts, packed.count, _read_priority(priority),
                                 self._flags(packed, copy))
        if wait is False:
            return handle
        if wait is True:
            self._finish(handle)
            return None
        self._pushes.append(handle)
        self._reap()
        return None

    @overload
    def pull(self, key: Keys, out: Any, priority: int = ..., ignore_sparse: bool = ..., *,
             wait: Literal[False]) -> Handle: ...

    @overload
    def pull(self, key: Keys, out: Any, priority: int = ..., ignore_sparse: bool = ..., *,
             wait: bool = ...) -> Optional[Handle]: ...

    def pull(self, key: Keys, out: Any, priority: int = 0, ignore_sparse: bool = True, *,
             wait: bool = True) -> Optional[Handle]:
        """Fills `out` with the newest value, that of one's own pushes included. RowSparse outs are
        left as they are, as MXNet does, or with ignore_sparse=False filled with all rows."""
        if has_rows(out):
            if not ignore_sparse:
                return self.row_sparse_pull(key, out, all_rows(out), priority, wait=wait)
            key, out = drop_rows(key, out)
        packed = Packed(key, out=out, with_outs=True)
        handle = self._start(self._library.kv_pull, packed, packed.keys, packed.outs,
                             packed.out_counts, packed.count, _read_priority(priority))
        return self._end(handle, wait)

    @overload
    def pushpull(self, key: Keys, value: Any, out: Any = ..., priority: int = ..., *,
                 copy: bool = ..., wait: Literal[False]) -> Handle: ...

    @overload
    def pushpull(self, key: Keys, value: Any, out: Any = ..., priority: int = ..., *,
                 copy: bool = ..., wait: bool = ...) -> Optional[Handle]: ...

    def pushpull(self, key: Keys, value: Any, out: Any = None, priority: int = 0, *,
                 copy: bool = True, wait: bool = True) -> Optional[Handle]:
        """A push, and a pull of what the push led to. Without `out`, into the values."""
        packed = Packed(key, value, out, with_values=True, with_outs=out is not None,
                        in_place=out is None)
        handle = self._start(self._library.kv_pushpull, packed, packed.keys, packed.values,
                             packed.value_counts, packed.outs, packed.out_counts, packed.count,
                             _read_priority(priority), self._flags(packed, copy))
        return self._end(handle, wait)

    def broadcast(self, key: Keys, value: Any, out: Any, priority: int = 0) -> None:
        """init, then pull."""
        self.init(key, value)
        self.pull(key, out, priority)

    @overload
    def row_sparse_pull(self, key: Keys, out: Any, row_ids: Any = ..., priority: int = ..., *,
                        wait: Literal[False]) -> Handle: ...

    @overload
    def row_sparse_pull(self, key: Keys, out: Any, row_ids: Any = ..., priority: int = ..., *,
                        wait: bool = ...) -> Optional[Handle]: ...

    def row_sparse_pull(self, key: Keys, out: Any, row_ids: Any = None, priority: int = 0, *,
                        wait: bool = True) -> Optional[Handle]:
        """Fills each RowSparse of `out` with the rows that `row_ids` names, each once, in ascending
        order. `row_ids`: one array of integers for all outs, or a list with one for each."""
        rows = PackedRows(key, out, "out")
        rows.pack_outs(row_ids)
        handle = self._start(self._library.kv_row_sparse_pull, rows, rows.keys, rows.rows,
                             rows.counts, rows.row_ids, rows.row_ids_count, rows.count,
                             _read_priority(priority))
        return self._end(handle, wait)

    def empty(self, shape: Shape, dtype: Any = "float32") -> Numbers:
        """An array, aligned and not filled, that a push reads where it lies, as kvstored.empty.

        Where the store's address is a Unix socket and its server shares memory, such a push moves
        no bytes. The array may outlive the store.
        """
        address = ctypes.c_void_p()
        self._native.quick(self._library.kv_alloc, bytes_of(shape, dtype), ctypes.byref(address))
        return empty_at(address.value or 0, self._library.kv_dealloc, shape, dtype)

    def view(self, key: KeyLike) -> Numbers:
        """The whole value at one version, after what this store has pushed, as a read-only array.

        Where the server shares memory no bytes are moved: the array is the server's own memory,
        which it keeps as it is while array and store are there. Else it is a copy.
        """
        keys, several = read_keys(key)
        if several:
            raise field_error("a view is of one key, not of a list")
        found = ctypes.c_void_p()
        packed = pack_keys(keys)
        self._native.call(self._library.kv_view_open, packed, ctypes.byref(found), keep=packed)
        return array_of_view(self._library, found.value or 0)

    def wait(self, timeout: Optional[float] = None) -> None:
        """Until all that is under way is over. Raises the first failure among it."""
        self._use()
        failure = None
        end = None if timeout is None else time.monotonic() + timeout
        for handle in list(self._native.inflight):
            left = None if end is None else max(0.0, end - time.monotonic())
            failure = handle.settle(left) or failure
        self._reap()
        self._raise_failure()
        if failure is not None:
            raise failure

    # -------------------------------------------------------------- the optimizer

    def set_optimizer(self, optimizer: Union[Optimizer, dict[str, Any], str, None]) -> None:
        """An optimizer of kvstored.optimizer, or what it is as a dict or as JSON; None for none.
        Every rank may call it; an equal one changes nothing."""
        if isinstance(optimizer, (Optimizer, dict)):
            optimizer = to_json(optimizer)
        if optimizer is not None and not isinstance(optimizer, str):
            raise field_error("an optimizer is one of kvstored.optimizer, a dict or JSON, not "
                              f"{optimizer.__class__.__name__}")
        self._use()
        self._native.call(self._library.kv_set_optimizer,
                          None if optimizer is None else optimizer.encode())

    def get_optimizer(self) -> Optional[dict[str, Any]]:
        """With every field, or None."""
        text = ctypes.c_void_p()
        self._use()
        self._native.call(self._library.kv_get_optimizer, ctypes.byref(text))
        try:
            words = ctypes.string_at(text.value or 0)
        finally:
            self._library.kv_free(text)
        found: Optional[dict[str, Any]] = json.loads(words) if words else None
        return found

    def _set_updater(self, updater: Optional[Updater]) -> None:
        """Embedded stores only: updater(key, input, stored) changes `stored` in place, on the
        thread that pushes. None takes it away. It must not call this store."""
        if updater is not None and not callable(updater):
            raise field_error(f"an updater is a function, not {type(updater).__name__}")
        calls = [] if updater is None else [_UpdaterCall(updater)]
        pointer = calls[0].pointer if calls else _library.UPDATER()
        self._use()
        self._native.updaters.extend(calls)  # before C has it
        self._native.quick(self._library.kv_set_updater, pointer, None)
        self._native.updaters = calls

    def set_gradient_compression(self, compression_params: dict[str, Any]) -> None:
        """{"type": "2bit", "threshold": 0.5}: what the pushes that follow send. What is left out
        stays here and is added to the next gradient of the key. {"pull": "bf16"} (or "fp16",
        "int8", "none"): what the pulls from a server that follow ask for."""
        self._use()
        self._native.call(self._library.kv_set_gradient_compression,
                          json.dumps(compression_params).encode())

    def save_optimizer_states(self, fname: Path, dump_optimizer: bool = False, *,
                              progress: Optional[Progress] = None) -> None:
        """The states of all keys, of one moment, as a safetensors file on this machine; with
        dump_optimizer also the optimizer. progress(done_bytes, total_bytes) is called meanwhile,
        perhaps on another thread; it must not call this store."""
        self._move_states(progress, self._library.kv_save_optimizer_states, os.fsencode(fname),
                          int(dump_optimizer))

    def load_optimizer_states(self, fname: Path, *, progress: Optional[Progress] = None) -> None:
        """The states of a saved file: all, or none where it does not fit the store."""
        self._move_states(progress, self._library.kv_load_optimizer_states, os.fsencode(fname))

    def _move_states(self, progress: Optional[Progress], function: Any, *arguments: Any) -> None:
        self._use()
        errors: list[BaseException] = []

        def report(done: int, total: int, context: Any) -> None:
            try:
                if progress is not None and not errors:
                    progress(done, total)
            except BaseException as error:  # nothing may be raised into C
                errors.append(error)

        def move(pointer: Any, *given: Any) -> Any:
            call = _library.PROGRESS(report)
            with self._states_mutex:  # the library has one place for what is to be called
                self._library.kv_set_progress(pointer, call, None)
                status = function(pointer, *given)
                self._library.kv_set_progress(pointer, _library.PROGRESS(), None)
            return status

        self._native.call(move, *arguments)
        if errors:
            raise errors[0]

    # -------------------------------------------------------------- all workers

    def barrier(self, timeout: Optional[float] = None) -> None:
        """Until every rank has called it. `timeout` in seconds; None: the store's own."""
        self._use()
        self._native.call(self._library.kv_barrier, _milliseconds(timeout))

    def _barrier(self) -> None:
        self.barrier()

    def _send_command_to_servers(self, head: int, body: str) -> None:
        self._use()
        self._native.call(self._library.kv_send_command, read_int(head, "a head"),
                          read_text(body, "a body"))

    # -------------------------------------------------------------- the end

    def close(self) -> None:
        """Waits for what is under way, says goodbye. A second call does nothing. A signal handler
        that interrupts a wait has to raise; a close there is refused, and done after that wait."""
        if self._native.pointer is None:
            return
        failure: Optional[KVStoreError] = None
        try:
            self.wait()
        except KVStoreError as error:
            failure = error
        self._finalizer.detach()
        status = self._native.close()
        if failure is not None:
            raise failure
        if status != 0:
            raise KVStoreError(self._library.kv_status_reason(status).decode(), "at the close")

    def __enter__(self) -> "KVStore":
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        try:
            self.close()
        except KVStoreError as failure:
            if kind is None:
                raise
            warnings.warn(f"closing the store: {failure}", RuntimeWarning, stacklevel=2)

    def __repr__(self) -> str:
        if self._native.pointer is None:
            return "<kvstored.KVStore closed>"
        return f"<kvstored.KVStore {self.type} rank {self.rank} of {self.num_workers}>"

    # -------------------------------------------------------------- inside

    def _use(self) -> ctypes.c_void_p:
        """The pointer; refuses a closed store, and an updater that calls its own store."""
        for updater in self._native.updaters:
            if updater.thread == threading.get_ident():
                raise KVStoreError("INVALID_FIELD", "an updater calls its own store",
                                   next_step="Change the stored array alone.")
        return self._native.use()

    @staticmethod
    def _flags(packed: Packed, copy: bool) -> int:
        return _library.BORROW if not copy or may_borrow(packed.value_views) else 0

    def _push_rows(self, key: Keys, value: Any, priority: int) -> Handle:
        rows = PackedRows(key, value, "value")
        rows.pack_values()
        return self._start(self._library.kv_push_row_sparse, rows, rows.keys, rows.rows,
                           rows.counts, rows.count, _read_priority(priority))

    def _start(self, function: Any, packed: Union[Packed, PackedRows], *arguments: Any) -> Handle:
        self._use()
        handle = Handle(self._native, packed)
        try:
            handle.start(function, *arguments)
        except KVStoreError as failure:
            self._raise_updater_error(failure)
            raise
        self._raise_updater_error(handle.settle() if self._native.updaters else None)
        return handle

    def _raise_updater_error(self, cause: Optional[KVStoreError]) -> None:
        for updater in self._native.updaters:
            error = updater.take_error()
            if error is not None:
                raise error from cause

    def _end(self, handle: Handle, wait: bool) -> Optional[Handle]:
        if not wait:
            return handle
        self._finish(handle)
        return None

    def _finish(self, handle: Handle) -> None:
        handle.wait()
        self._reap()
        self._raise_failure()

    def _reap(self) -> None:
        """Ends the handles of pushes that are over, and keeps the first failure."""
        if not self._pushes_mutex.acquire(blocking=False):
            return  # another thread is at it
        try:
            while self._pushes and self._pushes[0].done:
                failure = self._pushes[0].settle()
                self._pushes.popleft()
                self._failure = self._failure or failure
        finally:
            self._pushes_mutex.release()

    def _raise_failure(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure


def _read_priority(priority: Any) -> int:
    return read_int(priority, "a priority")


def _check_single(counts: Any) -> None:
    if any(count != 1 for count in counts):
        raise KVStoreError("INVALID_FIELD", "init takes one value a key")
