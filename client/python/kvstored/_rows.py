"""RowSparse: some rows of a value that has many, and how libkvstore takes and gives them."""

from __future__ import annotations

import ctypes
from typing import Any, Union

import numpy

from . import _library
from ._arguments import Numbers, address_of, field_error, pack_counts, pack_keys, pack_shape, \
    pair, read_array, read_keys, tensor_error

_ID_DTYPES = {"uint8": _library.U8, "int8": _library.I8, "int32": _library.I32,
              "int64": _library.I64, "float32": _library.F32, "float64": _library.F64}


class RowSparse:
    """Rows of a value.

    indices  which rows: int64, one dimension. Given to a store they may be in any order and stand
             twice (the rows are added up); from a store each stands once, in ascending order
    values   (len(indices), *shape[1:])
    shape    of the whole value; the first dimension counts its rows
    """

    def __init__(self, indices: Any, values: Any, shape: tuple[int, ...]) -> None:
        self.shape = tuple(int(size) for size in shape)
        self.indices = _read_ids(indices).reshape(-1)
        self.values: Numbers = numpy.asarray(values)
        expected = (len(self.indices), *self.shape[1:])
        if not self.shape or self.values.shape != expected:
            raise tensor_error(f"rows have the shape {self.values.shape}",
                               f"Of {len(self.indices)} indices and the shape {self.shape} it is "
                               f"{expected}.")

    @property
    def dtype(self) -> numpy.dtype[Any]:
        kind: numpy.dtype[Any] = self.values.dtype
        return kind

    @classmethod
    def zeros(cls, shape: tuple[int, ...], dtype: Any = "float32") -> "RowSparse":
        """No rows yet: an out."""
        return cls(numpy.empty(0, "int64"), numpy.empty((0, *tuple(shape)[1:]), dtype), shape)

    @classmethod
    def from_dense(cls, array: Any) -> "RowSparse":
        """The rows that are not all zero."""
        dense = numpy.asarray(array)
        found = numpy.flatnonzero(dense.reshape(len(dense), -1).any(axis=1))
        return cls(found, dense[found], dense.shape)

    def todense(self) -> Numbers:
        dense = numpy.zeros(self.shape, self.dtype)
        numpy.add.at(dense, self.indices, self.values)
        return dense

    def __repr__(self) -> str:
        return f"<kvstored.RowSparse {len(self.indices)} rows of {self.shape} {self.dtype}>"


def _read_ids(given: Any) -> Numbers:
    """Whole numbers of a dtype that the library reads; it checks their range."""
    try:
        ids: Numbers = numpy.asarray(given)
    except ValueError:
        raise tensor_error("row ids are lists of several lengths", "Pass integers.") from None
    if ids.size == 0:
        ids = ids.astype("int64")
    if ids.dtype.kind == "f":  # as they come from arrays of MXNet, whose default is float32
        with numpy.errstate(invalid="ignore"):
            whole = ids == ids.astype("int64")
        if not whole.all():
            raise tensor_error(f"{ids[~whole][0]} is no row id", "Pass integers.")
    if ids.dtype.kind == "u" and ids.size and ids.max() >= 2 ** 63:
        raise tensor_error(f"{ids.max()} is no row id", "Pass integers of 63 bits.")
    if ids.dtype.name not in _ID_DTYPES and ids.dtype.kind in "iu":
        ids = ids.astype("int64")
    if ids.dtype.name not in _ID_DTYPES or not ids.dtype.isnative:
        raise tensor_error(f"row ids have the dtype {ids.dtype}", "Pass integers.")
    return numpy.asarray(ids, order="C")


def has_rows(given: Any) -> bool:
    """True when there is a RowSparse among the values or outs of a call."""
    if isinstance(given, (list, tuple)):
        return any(has_rows(entry) for entry in given)
    return isinstance(given, RowSparse)


def _is_list(ids: Any) -> bool:
    return isinstance(ids, (list, tuple)) or numpy.ndim(ids) > 0


def _lists_of_ids(row_ids: Any, counts: Any) -> list[Any]:
    """One entry for all outs or one each, of keys that have `counts` outs."""
    if not isinstance(row_ids, (list, tuple)) or not any(_is_list(ids) for ids in row_ids):
        return [row_ids]  # an array, or a list of numbers
    if sum(counts) == 1 and len(row_ids) > 1:
        return [row_ids]  # an array of two dimensions, as lists
    if len(row_ids) != len(counts):
        return list(row_ids)
    flat = []
    for ids, count in zip(row_ids, counts):
        many = isinstance(ids, (list, tuple)) and any(_is_list(entry) for entry in ids)
        if many and len(ids) != count:
            raise field_error(f"a key has {count} outs, but {len(ids)} lists of row ids")
        flat += list(ids) if many else [ids]
    return flat


class PackedRows:
    """The arguments of a call with RowSparse values or outs."""

    def __init__(self, key: Any, given: Any, what: str) -> None:
        keys, many = read_keys(key)
        lists = pair(keys, many, given, what)
        self.count = len(keys)
        self.keys = pack_keys(keys)
        self.counts = pack_counts(lists)
        self.sparse: list[RowSparse] = [entry for entries in lists for entry in entries]
        for entry in self.sparse:
            if not isinstance(entry, RowSparse):
                raise field_error(f"of one call, each {what} is a RowSparse or none is"
                                  if has_rows(given) else
                                  f"rows go to a RowSparse, not to {type(entry).__name__}")
        self.rows = (_library.RowSparse * len(self.sparse))()
        self.keep: list[Any] = []
        self.outs: list[tuple[Numbers, Numbers]] = []  # ids and rows as they arrive
        self.row_ids: Any = None
        self.row_ids_count = 0

    def pack_values(self) -> None:
        for place, given in zip(self.rows, self.sparse):
            # Its parts may have been exchanged since it was made: they have to fit each other.
            entry = RowSparse(given.indices, given.values, given.shape)
            self._fill(place, entry, numpy.asarray(entry.values, order="C"),
                       numpy.asarray(entry.indices, order="C"))
            place.count = len(entry.indices)

    def pack_outs(self, row_ids: Any) -> None:
        """`row_ids`: one array for all outs, or a list with one for each, or for a list of keys
        a list of those."""
        if row_ids is None:
            raise field_error("row_ids is needed")
        lists = [_read_ids(ids) for ids in _lists_of_ids(row_ids, self.counts)]
        if len(lists) not in (1, len(self.sparse)):
            raise field_error(f"{len(self.sparse)} outs, but {len(lists)} lists of row ids")
        self.row_ids = (_library.Array * len(lists))()
        self.row_ids_count = len(lists)
        for i, ids in enumerate(lists):
            self.row_ids[i] = _library.Array(address_of(ids), _ID_DTYPES[ids.dtype.name], ids.ndim,
                                             pack_shape(ids.shape))
            self.keep.append(ids)
        for i, (place, entry) in enumerate(zip(self.rows, self.sparse)):
            room = lists[i if len(lists) > 1 else 0].size
            ids = numpy.empty(room, "int64")
            rows = numpy.empty((room, *entry.shape[1:]), entry.dtype)
            self._fill(place, entry, rows, ids)
            self.outs.append((ids, rows))

    def _fill(self, place: Any, entry: RowSparse, rows: Numbers, ids: Numbers) -> None:
        place.data = address_of(rows)
        place.dtype = read_array(rows).code
        place.rank = len(entry.shape)
        place.shape = pack_shape(entry.shape)
        place.ids = address_of(ids)
        place.id_dtype = _ID_DTYPES[ids.dtype.name]
        self.keep.append((rows, ids))

    def write_back(self) -> None:
        """Fills the outs."""
        for place, entry, (ids, rows) in zip(self.rows, self.sparse, self.outs):
            entry.indices = ids[:place.count]
            entry.values = rows[:place.count]


def drop_rows(key: Any, out: Any) -> tuple[list[Any], list[Any]]:
    """The keys and outs of a call without the RowSparse ones."""
    keys, many = read_keys(key)
    kept = []
    for name, outs in zip(keys, pair(keys, many, out, "out")):
        dense = [entry for entry in outs if not isinstance(entry, RowSparse)]
        if dense:
            kept.append((name, dense))
    return [name for name, _ in kept], [dense for _, dense in kept]


def all_rows(sparse: Any) -> Union[Numbers, list[Any]]:
    """The ids of every row of each."""
    if isinstance(sparse, (list, tuple)):
        return [ids for entry in sparse for ids in _as_list(all_rows(entry))]
    return numpy.arange(sparse.shape[0], dtype="int64")


def _as_list(given: Any) -> list[Any]:
    return given if isinstance(given, list) else [given]
