"""The C store below a KVStore: its life, its calls that can be interrupted, and what is under way.

A signal's exception (KeyboardInterrupt) may come between any two steps of the interpreter. So
whatever libkvstore may still read or write is registered before the call, and stays registered
until libkvstore has said that it is over.

Threads: any; closing is for one thread while no other is in a call.
Forks: a store is the process's that made it. A child has it no more (NOT_REGISTERED).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
import time
import weakref
from typing import Any, Callable, Iterator, Optional, Union

from . import _library
from ._arguments import Packed
from ._errors import KVStoreError, from_status
from ._rows import PackedRows

_SLICE_MS = 200  # how long a signal may have to wait for the interpreter
_FORKED_DETAIL = "the store was made by another process, before a fork"
_FORKED_STEP = "Create stores after the fork, or start the child by spawn."

_natives: "weakref.WeakSet[Native]" = weakref.WeakSet()
_used_grpc = False      # by this process
_inherited_grpc = False  # this process is a fork of one that did


def _after_fork() -> None:
    """In the child: threads and connections of the stores are the parent's."""
    global _inherited_grpc
    _inherited_grpc = _inherited_grpc or _used_grpc
    for native in list(_natives):
        native.pointer = None
        native._mutex = threading.RLock()  # a thread of the parent may have held it
        native.forked = True


os.register_at_fork(after_in_child=_after_fork)


def run(function: Callable[[], Any], abandoned: Callable[[Any], None] = lambda result: None) -> Any:
    """What `function` returns or raises. On the main thread, a signal's exception ends the wait for
    it at once; the function goes on, and what it gives in the end goes to `abandoned`."""
    if threading.current_thread() is not threading.main_thread():
        return function()
    results: list[Any] = []
    errors: list[BaseException] = []
    left: list[bool] = []
    mutex = threading.Lock()
    done = threading.Event()

    def work() -> None:
        try:
            result = function()
        except BaseException as error:  # for the thread that waits, if it still does
            errors.append(error)
            done.set()
            return
        with mutex:
            results.append(result)
            unwanted = bool(left)
        done.set()
        if unwanted:
            abandoned(result)

    threading.Thread(target=work, name="kvstored-call", daemon=True).start()
    try:
        done.wait()
    except BaseException:
        with mutex:
            left.append(True)
            finished = list(results)
        for result in finished:
            abandoned(result)
        raise
    if errors:
        raise errors[0]
    return results[0]


class Native:
    """The pointer, and what must live until it is closed."""

    def __init__(self, pointer: ctypes.c_void_p, remote: bool) -> None:
        self.library = _library.load()
        self.pointer: Optional[ctypes.c_void_p] = pointer
        self.remote = remote
        self.forked = False
        self.inflight: set[Handle] = set()
        self.updaters: list[Any] = []  # what C may call
        self._mutex = threading.RLock()  # a signal handler may come back to it
        self._inside = 0  # calls that an exception may leave, or a signal handler interrupt
        self._closing: Optional[ctypes.c_void_p] = None  # what the last of them has to close
        _natives.add(self)

    def use(self) -> ctypes.c_void_p:
        pointer = self.pointer
        if pointer is None:
            if self.forked:
                raise KVStoreError("NOT_REGISTERED", _FORKED_DETAIL, next_step=_FORKED_STEP)
            raise KVStoreError("STOPPING", "the store is closed", next_step="Create another.")
        return pointer

    def enter(self) -> ctypes.c_void_p:
        """As use(); until leave() the store is not closed."""
        with self._mutex:
            pointer = self.use()
            self._inside += 1
            return pointer

    def error(self, pointer: ctypes.c_void_p, status: int) -> KVStoreError:
        """Of the calling thread's last call."""
        return from_status(status, self.library.kv_last_error(pointer))

    def quick(self, function: Any, *arguments: Any) -> None:
        """A synchronous call that asks nobody."""
        pointer = self.enter()
        try:
            status = function(pointer, *arguments)
            if status != 0:
                raise self.error(pointer, status)
        finally:
            self.leave()

    def call(self, function: Any, *arguments: Any, keep: Any = None) -> None:
        """A synchronous call that may take long at a server. `keep` lives until it has ended, which
        may be after an exception has left it."""
        if not self.remote:
            self.quick(function, *arguments)
            return
        pointer = self.use()
        held = (arguments, keep)

        def work() -> Optional[KVStoreError]:
            with self._mutex:
                self._inside += 1
            try:
                status = function(pointer, *held[0])
                return None if status == 0 else self.error(pointer, status)
            finally:
                self.leave()

        error = run(work)
        if error is not None:
            raise error

    def leave(self) -> None:
        """The end of a call; the last one closes what close() has left to it."""
        with self._mutex:
            self._inside -= 1
            pointer = None
            if self._inside == 0:
                pointer, self._closing = self._closing, None
        if pointer is not None:
            self.library.kv_close(pointer)

    def close(self) -> int:
        """Waits for what is under way; where a call is still inside that an exception has left or
        that a signal handler interrupts, that call closes at its end. Accepts a second call."""
        with self._mutex:
            pointer, self.pointer = self.pointer, None
            if pointer is None:
                return 0
            if self._inside > 0:
                self._closing = pointer
                return 0
        status: int = self.library.kv_close(pointer)
        self.inflight.clear()
        return status


def create(type_: str, address: Optional[str], options: _library.Options) -> Native:
    """Raises KVStoreError."""
    global _used_grpc
    remote = "dist" in type_.lower()
    if remote and _inherited_grpc:
        raise KVStoreError("NOT_REGISTERED", "the parent process used a server before the fork",
                           next_step=_FORKED_STEP)
    _used_grpc = _used_grpc or remote
    library = _library.load()

    def work() -> tuple[int, ctypes.c_void_p, bytes]:
        pointer = ctypes.c_void_p()
        text = ctypes.create_string_buffer(512)
        status = library.kv_create(type_.encode(), None if address is None else address.encode(),
                                   ctypes.byref(options), ctypes.byref(pointer), text, len(text))
        return status, pointer, text.value

    status, pointer, text = run(work, lambda made: library.kv_close(made[1])) if remote else work()
    if status != 0:
        raise from_status(status, text)
    return Native(pointer, remote)


class Handle:
    """Something asked for and not yet waited for: of a call with wait=False."""

    def __init__(self, native: Native, packed: Union[Packed, PackedRows]) -> None:
        self._native = native
        self._packed: Union[Packed, PackedRows, None] = packed
        self._pointer = ctypes.c_void_p()
        self._mutex = threading.Lock()
        self._holder: Optional[int] = None  # the thread that has the mutex
        self._error: Optional[KVStoreError] = None

    @contextlib.contextmanager
    def _held(self) -> Iterator[ctypes.c_void_p]:
        """The library's store, and the handle for this thread alone."""
        if self._holder == threading.get_ident():
            raise KVStoreError("INVALID_FIELD", "a signal handler waits for what it interrupts",
                               next_step="Let the handler raise, and wait or close after that.")
        pointer = self._native.enter()
        try:
            with self._mutex:
                self._holder = threading.get_ident()
                try:
                    yield pointer
                finally:
                    self._holder = None
        finally:
            self._native.leave()

    def start(self, function: Any, *arguments: Any) -> None:
        """Calls a function of the library that gives a handle."""
        native = self._native
        with self._held() as pointer:  # a wait of another thread would take it for over already
            native.inflight.add(self)
            try:
                status = function(pointer, *arguments, ctypes.byref(self._pointer))
            except ctypes.ArgumentError:  # the library was not called
                self._end()
                raise
            if status != 0:
                self._end()
                raise native.error(pointer, status)

    @property
    def done(self) -> bool:
        """True when a wait returns at once."""
        if not self._mutex.acquire(blocking=False):
            return False  # another thread waits for it
        try:
            if not self._pointer or self._native.pointer is None:
                return True
            return bool(self._native.library.kv_handle_is_done(self._native.use(), self._pointer))
        finally:
            self._mutex.release()

    def wait(self, timeout: Optional[float] = None) -> None:
        """Returns once it is over; raises what it failed with. `timeout` is in seconds; when it
        has passed, KVStoreError DEADLINE, and the handle may be waited for again."""
        self.settle(timeout)
        if self._error is not None:
            raise self._error

    def settle(self, timeout: Optional[float] = None) -> Optional[KVStoreError]:
        """What it failed with, or None. Raises DEADLINE only."""
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            left = None if end is None else max(0.0, end - time.monotonic())
            late = self._step(_SLICE_MS if left is None else int(min(_SLICE_MS, left * 1000)))
            if late is None:
                return self._error
            if left is not None and left <= 0:
                raise late

    def _step(self, slice_ms: int) -> Optional[KVStoreError]:
        """None once it is over, else that it is not."""
        if self._packed is None:
            return None
        with self._held() as pointer:  # refused before a mutex that a fork may have left locked
            native = self._native
            if self._packed is None:
                return None
            if self._pointer:
                status = native.library.kv_handle_poll(pointer, ctypes.byref(self._pointer),
                                                       slice_ms)
                error = None if status == 0 else native.error(pointer, status)
                if self._pointer:
                    return error
                self._error = error
            if self._error is None:
                self._packed.write_back()
            self._end()
            return None

    def _end(self) -> None:
        self._packed = None
        self._native.inflight.discard(self)
