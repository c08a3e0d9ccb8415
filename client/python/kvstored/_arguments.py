"""The arguments of a call: keys and arrays as Python has them, and as libkvstore takes them.

A key is an int or a str, or a list of them. What belongs to one key is an array or a list of arrays
(one a device). An array is whatever numpy can look at without a copy: numpy arrays, what has
__array_interface__ or a buffer, CPU tensors of torch (which is not imported for it).
Values that are not contiguous are copied; outs that are not are filled by way of a copy.

Memory: a Packed owns what libkvstore borrows during the call; the arrays' numbers are borrowed from
  the caller, and `keep` holds them.
"""

from __future__ import annotations

import ctypes
import math
import operator
import sys
import weakref
from typing import Any, Callable, Optional, Union

import numpy

from . import _library
from ._errors import KVStoreError

KeyLike = Union[int, str]
Numbers = numpy.ndarray[Any, Any]
Shape = Union[int, tuple[int, ...], list[int]]

_CODES = {"float32": _library.F32, "float64": _library.F64, "float16": _library.F16,
          "bfloat16": _library.BF16, "uint8": _library.U8, "int8": _library.I8,
          "int32": _library.I32, "int64": _library.I64}
_DTYPES = {code: name for name, code in _CODES.items() if name != "bfloat16"}
_ALIGN_BYTES = 64


class View:
    """An array as numpy sees it, and its dtype as the library knows it."""

    __slots__ = ("array", "code")

    def __init__(self, array: Numbers, code: int) -> None:
        self.array = array
        self.code = code


# ------------------------------------------------------------------ keys

def field_error(detail: str) -> KVStoreError:
    return KVStoreError("INVALID_FIELD", detail)


def read_keys(key: Any) -> tuple[list[KeyLike], bool]:
    """The keys of a call, and whether they were given as a list."""
    if isinstance(key, (list, tuple)):
        return [_read_key(entry) for entry in key], True
    return [_read_key(key)], False


def _read_key(key: Any) -> KeyLike:
    if isinstance(key, str):
        try:
            known = b"\0" not in key.encode()
        except UnicodeEncodeError:
            known = False
        if not known:
            raise field_error("a key is UTF-8 without NUL")
        return key
    if isinstance(key, (bool, numpy.bool_)) or not hasattr(key, "__index__"):
        raise field_error(f"a key is an int or a str, not {type(key).__name__}")
    number = operator.index(key)
    if not -2 ** 63 <= number < 2 ** 63:
        raise field_error(f"the key {number} does not fit 64 bits")
    return number


def read_int(given: Any, what: str) -> int:
    """A number that C takes as an int."""
    if not hasattr(given, "__index__"):
        raise field_error(f"{what} is an int, not {type(given).__name__}")
    number = operator.index(given)
    if not -2 ** 31 <= number < 2 ** 31:
        raise field_error(f"{what} has 32 bits, which {number} does not fit")
    return number


def read_text(given: Any, what: str) -> bytes:
    """A text that C takes as one."""
    if not isinstance(given, str):
        raise field_error(f"{what} is a str, not {type(given).__name__}")
    return given.encode()


def pair(keys: list[KeyLike], many: bool, given: Any, what: str) -> list[list[Any]]:
    """What belongs to each key, as lists."""
    if given is None:
        raise field_error(f"{what} is needed")
    if not many:
        given = [given]
    elif not isinstance(given, (list, tuple)):
        raise field_error(f"for a list of keys, {what} is a list, not {type(given).__name__}")
    if len(given) != len(keys):
        raise field_error(f"{len(keys)} keys, but {what} has {len(given)} entries")
    return [list(entry) if isinstance(entry, (list, tuple)) else [entry] for entry in given]


def pack_keys(keys: list[KeyLike]) -> Any:
    packed = (_library.Key * len(keys))()
    for place, key in zip(packed, keys):
        if isinstance(key, str):
            place.name = key.encode()
        else:
            place.number = key
    return packed


def pack_counts(lists: list[list[Any]]) -> Any:
    return (ctypes.c_size_t * len(lists))(*map(len, lists))


# ------------------------------------------------------------------ arrays

def tensor_error(detail: str, next_step: str) -> KVStoreError:
    return KVStoreError("INVALID_TENSOR", detail, next_step=next_step)


def _read_tensor(tensor: Any) -> View:
    """A torch tensor, which shares its memory with what numpy() gives."""
    if tensor.device.type != "cpu":
        raise tensor_error(f"a tensor is on {tensor.device}", "Pass tensor.cpu().")
    tensor = tensor.detach()
    torch = sys.modules["torch"]
    if tensor.layout != torch.strided:
        raise tensor_error(f"a tensor has the layout {tensor.layout}",
                           "Pass tensor.to_dense(), or a kvstored.RowSparse.")
    if tensor.dtype == torch.bfloat16:  # numpy has no such dtype: its bits
        return View(tensor.view(torch.int16).numpy(), _library.BF16)
    return read_array(tensor.numpy())


def read_array(array: Numbers) -> View:
    code = _CODES.get(array.dtype.name)
    if code is None or not array.dtype.isnative:
        raise tensor_error(f"an array has the dtype {array.dtype}",
                            "Convert it by astype to one of " + ", ".join(_CODES) + ".")
    return View(array, code)


def _is_tensor(value: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _read(value: Any) -> tuple[View, bool]:
    """The array of a value, and whether it is the value's own memory."""
    if isinstance(value, numpy.ndarray):
        return read_array(value), True
    if _is_tensor(value):
        return _read_tensor(value), True
    if hasattr(value, "__array_interface__"):
        return read_array(numpy.asarray(value)), not isinstance(value, numpy.generic)
    try:
        return read_array(numpy.asarray(memoryview(value))), True
    except TypeError:
        pass
    if hasattr(value, "__array__"):
        return read_array(numpy.asarray(value)), False
    next_step = "Pass a numpy array."
    if type(value).__name__ == "RowSparse":
        next_step = "Rows go by init, push and row_sparse_pull; there is no pushpull of them."
    raise tensor_error(f"a value is of type {type(value).__name__}", next_step)


def _read_value(value: Any) -> View:
    view = _read(value)[0]
    view.array = numpy.asarray(view.array, order="C")
    return view


def _read_out(out: Any) -> View:
    view, own = _read(out)
    if not own:
        raise tensor_error(f"an out of type {type(out).__name__} cannot be filled in place",
                            "Pass a numpy array.")
    if not view.array.flags.writeable:
        raise tensor_error("an out is read-only", "Pass an array that may be written.")
    return view


def dtype_of(code: int) -> numpy.dtype[Any]:
    """The numpy dtype of a number of the library's; bfloat16 comes as its bits."""
    return numpy.dtype(_DTYPES.get(code, "uint16"))


# ------------------------------------------------------------------ memory that is not copied

_borrowable: dict[int, "weakref.ref[Any]"] = {}


def empty(shape: Shape, dtype: Any = "float32") -> Numbers:
    """An array, aligned and not filled, that a push reads where it lies.

    It is not to be changed between the push and the wait for it (kv.wait(), or a pull of the key).
    """
    kind, dimensions, nbytes = _measure(shape, dtype)
    memory = numpy.empty(nbytes + _ALIGN_BYTES, dtype="uint8")
    start = -memory.__array_interface__["data"][0] % _ALIGN_BYTES
    return _lend(memory, start, nbytes, kind, dimensions)


def empty_at(address: int, free: Callable[[int], None], shape: Shape, dtype: Any) -> Numbers:
    """The same over memory of the library's, which is freed with the last array of it."""
    kind, dimensions, nbytes = _measure(shape, dtype)
    memory = numpy.ctypeslib.as_array((ctypes.c_uint8 * max(nbytes, 1)).from_address(address))
    weakref.finalize(memory.base, free, address)
    return _lend(memory, 0, nbytes, kind, dimensions)


def bytes_of(shape: Shape, dtype: Any) -> int:
    return _measure(shape, dtype)[2]


def _measure(shape: Shape, dtype: Any) -> tuple[numpy.dtype[Any], tuple[int, ...], int]:
    kind = numpy.dtype(dtype)
    sizes = (shape,) if isinstance(shape, (int, numpy.integer)) else tuple(shape)
    dimensions = tuple(operator.index(size) for size in sizes)
    if any(size < 0 for size in dimensions):
        raise field_error(f"a shape has no negative sizes: {dimensions}")
    return kind, dimensions, math.prod(dimensions) * kind.itemsize


def _lend(memory: Numbers, start: int, nbytes: int, kind: numpy.dtype[Any],
          dimensions: tuple[int, ...]) -> Numbers:
    made: Numbers = memory[start:start + nbytes].view(kind).reshape(dimensions)
    identity = id(made.base)
    _borrowable[identity] = weakref.ref(made.base, lambda _: _borrowable.pop(identity, None))
    return made


def may_borrow(views: list[View]) -> bool:
    """True when all of them lie in memory that empty() gave."""
    for view in views:
        found = _borrowable.get(id(view.array.base))
        if found is None or found() is not view.array.base:
            return False
    return bool(views)


# ------------------------------------------------------------------ for the library

def address_of(array: Numbers) -> int:
    address: int = array.__array_interface__["data"][0]
    return address


def pack_shape(shape: tuple[int, ...]) -> Any:
    return (ctypes.c_uint64 * len(shape))(*shape)


class Packed:
    """The arguments of one call.

    keys, count             one entry a key
    values, value_counts    None: none
    outs, out_counts        None: none, or the values themselves
    """

    __slots__ = ("keys", "count", "values", "value_counts", "outs", "out_counts", "value_views",
                 "keep", "copies")

    def __init__(self, key: Any, value: Any = None, out: Any = None, *, with_values: bool = False,
                 with_outs: bool = False, in_place: bool = False) -> None:
        keys, many = read_keys(key)
        self.count = len(keys)
        self.keep: list[Any] = []
        self.copies: list[tuple[Numbers, Numbers]] = []
        self.value_views: list[View] = []
        self.keys = pack_keys(keys)
        self.values: Any = None
        self.value_counts: Any = None
        self.outs: Any = None
        self.out_counts: Any = None
        if with_values:
            lists = pair(keys, many, value, "value")
            read = self._out_view if in_place else _read_value
            self.value_views = [read(entry) for entries in lists for entry in entries]
            self.values = self._pack_arrays(self.value_views)
            self.value_counts = pack_counts(lists)
        if with_outs:
            lists = pair(keys, many, out, "out")
            self.outs = self._pack_arrays([self._out_view(entry) for entries in lists
                                           for entry in entries])
            self.out_counts = pack_counts(lists)

    def _out_view(self, out: Any) -> View:
        """The out itself, or a copy that is written back at the end."""
        view = _read_out(out)
        if not view.array.flags.c_contiguous:
            copy = numpy.array(view.array, order="C")
            self.copies.append((view.array, copy))
            view.array = copy
        return view

    def _pack_arrays(self, views: list[View]) -> Any:
        packed = (_library.Array * len(views))()
        for i, view in enumerate(views):
            array = view.array
            packed[i] = _library.Array(address_of(array), view.code, array.ndim,
                                       pack_shape(array.shape))
            self.keep.append(array)
        return packed

    def write_back(self) -> None:
        """Fills the outs that were not contiguous."""
        for out, copy in self.copies:
            out[...] = copy
        self.copies = []


def array_at(place: Any) -> Numbers:
    """The array that a library's pointer names, over the same memory."""
    array = place.contents
    shape = tuple(array.shape[i] for i in range(array.rank))
    kind = dtype_of(array.dtype)
    count = 1
    for size in shape:
        count *= size
    if count == 0:
        return numpy.empty(shape, kind)
    memory = (ctypes.c_uint8 * (count * kind.itemsize)).from_address(array.data)
    view: Numbers = numpy.frombuffer(memoryview(memory), kind).reshape(shape)
    return view


def array_of_view(library: Any, view: int) -> Numbers:
    """The array of a kv_view, which is freed with the last array of it."""
    found = _library.Array()
    library.kv_view_get(view, ctypes.byref(found))
    shape = tuple(found.shape[i] for i in range(found.rank))
    kind = dtype_of(found.dtype)
    nbytes = math.prod(shape) * kind.itemsize
    memory = numpy.ctypeslib.as_array((ctypes.c_uint8 * max(nbytes, 1)).from_address(found.data))
    weakref.finalize(memory.base, library.kv_view_free, view)
    memory.flags.writeable = False
    made: Numbers = memory[:nbytes].view(kind).reshape(shape)
    return made


def key_of(key: _library.Key) -> KeyLike:
    """The key that a callback is given."""
    name: Optional[bytes] = key.name
    number: int = key.number
    return number if name is None else name.decode()
