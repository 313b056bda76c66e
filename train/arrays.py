"""Arrays and functions as data: what a person has at hand becomes a data set, and from there on everything is exact.

Arrays are written once, into a temporary folder that goes with the `Dataset` that shows it; its fingerprint is one of
the content, so that a run can be resumed by another process that makes the same arrays again. Functions that return a
minibatch are called as theanets calls them, without arguments.

Columns of n samples are NumPy arrays, tensors, lists, frames and series of pandas, or sparse matrices of SciPy, which
are made dense block by block.
"""

import inspect
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from minibatch import Dataset, DatasetWriter, MinibatchSource
from minibatch.arguments import checked_integer
from minibatch.errors import SchemaError

CALLS_PER_ITERATION = 100  # of a function that has no length: downhill's default
BLOCK_BYTES = 8 << 20  # of a sparse matrix, once dense

Minibatch = dict[str, NDArray[Any]]


def as_dataset(data: Any, names: Sequence[str], *, optional: Sequence[str] = (), flat: Sequence[str] = ()) -> Dataset:
    """The data set of fields `names` that `data` is: arrays in the order of `names`, a mapping of them, or a data set.

    data: one array where there is one name; else a tuple or list of arrays, perhaps with those of the fields
    `optional` behind; or {name: array}; or a `Dataset` or the folder of one, which is only opened. flat: fields in
    which arrays (n,) stand for (n, 1). Raises ValueError and TypeError that name the column that does not fit.

    >>> dataset = as_dataset(([[0.5, 1.0], [2.0, 3.0]], [1, 0]), ["x", "label"])
    >>> dataset.read([1])["x"].tolist(), len(dataset)
    ([[2.0, 3.0]], 2)
    """
    if isinstance(data, Dataset | str | os.PathLike):
        return Dataset.open(data)
    columns = as_columns(data, names, optional=optional, flat=flat)
    return written([columns])


def as_columns(data: Any, names: Sequence[str], *, optional: Sequence[str] = (), flat: Sequence[str] = ()) -> Minibatch:
    """Arrays by name, all with the same number of samples; see `as_dataset` for what may be given."""
    given = _by_name(data, names, optional)
    columns = {name: _column(values, name, name in flat) for name, values in given.items()}
    counts = {name: column.shape[0] for name, column in columns.items()}
    if len(set(counts.values())) != 1:
        raise ValueError(f"data: the columns have different numbers of samples, {counts}")
    if not all(counts.values()):
        raise ValueError(f"data: there are no samples in {', '.join(names)}")
    return columns


def written(blocks: Sequence[Mapping[str, Any]]) -> Dataset:
    """The data set of the rows of all blocks, one after the other, in a temporary folder that goes when it does."""
    folder = tempfile.mkdtemp(prefix="minibatch-arrays-")
    try:
        with DatasetWriter(folder, source="arrays") as writer:
            for block in blocks:
                for part in _dense(block):
                    writer.write(part)
        dataset = Dataset.open(folder)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    weakref.finalize(dataset, shutil.rmtree, folder, ignore_errors=True)
    return dataset


class Calls:
    """Minibatches from a function of the user's: called with no argument, or with the number of the call from 0 on.

    columns: makes arrays by name of what it returns, as `as_columns` does; their number of samples may differ from call
    to call. A function of the number of the call can be resumed anywhere; one without argument is called again from its
    beginning. optional: columns that there may be. iteration_size: calls that make an iteration, by default the
    function's len(), or 100.

    >>> calls = Calls(lambda: [[1.0], [2.0]], lambda data: as_columns(data, ["x"]))
    >>> calls.next()["x"].shape, calls.iteration_size, calls.made
    ((2, 1), 100, 1)
    """

    def __init__(
        self,
        function: Callable[..., Any],
        columns: Callable[[Any], Mapping[str, Any]],
        *,
        optional: Sequence[str] = (),
        iteration_size: int | None = None,
    ) -> None:
        self.function = function
        self.columns = columns
        self.optional = tuple(optional)
        self.numbered = _takes_a_number(function)
        if iteration_size is None:
            iteration_size = len(function) if hasattr(function, "__len__") else CALLS_PER_ITERATION
        self.iteration_size = checked_integer(iteration_size, "iteration_size", least=1)
        self.made = 0  # how many minibatches have been given out
        self._waiting: list[Minibatch] = []

    @property
    def found(self) -> tuple[str, ...]:
        """Which of the optional columns there are: as the next minibatch says, which is made for that."""
        if not self._waiting:
            self._waiting.append(self._call(self.made))
        return tuple(name for name in self.optional if name in self._waiting[0])

    def next(self) -> Minibatch:
        """The next minibatch, as arrays by name."""
        if self._waiting:
            self.made += 1
            return self._waiting.pop(0)
        columns = self._call(self.made)
        self.made += 1
        return columns

    def ahead(self, count: int) -> Dataset:
        """The next `count` minibatches as a data set; they are still given out."""
        while len(self._waiting) < count:
            self._waiting.append(self._call(self.made + len(self._waiting)))
        return written(self._waiting[:count])

    def go_to(self, made: int) -> None:
        """Stand behind the first `made` minibatches: a function without argument is called for those in between."""
        if made < self.made:
            raise ValueError(f"the function stands at minibatch {self.made} and cannot go back to {made}")
        if self.numbered:
            del self._waiting[: made - self.made]
            self.made = made
        while self.made < made:
            self.next()

    def _call(self, number: int) -> Minibatch:
        try:
            returned = self.function(number) if self.numbered else self.function()
        except StopIteration:
            raise ValueError(f"the function that gives minibatches ended at its call {number + 1:,}") from None
        return {name: _dense_column(column, 0, column.shape[0]) for name, column in self.columns(returned).items()}


def is_calls(data: Any) -> bool:
    """Whether data are a function that gives minibatches (and no array, data set or source)."""
    return callable(data) and not isinstance(data, Dataset | MinibatchSource | Tensor | np.ndarray)


def field_names(dataset: Dataset, usual: Sequence[str], given: Sequence[str] | None) -> tuple[str, ...]:
    """Which fields of a data set play the roles `usual`: those `given`, those of these names, or all in their order.

    Raises SchemaError that says what there is, where a data set has neither these fields nor exactly so many.

    >>> field_names(as_dataset({"image": [[1.0]], "digit": [3]}, ["image", "digit"]), ["x", "label"], None)
    ('image', 'digit')
    """
    there = list(dataset.fields)
    chosen = tuple(given) if given is not None else tuple(usual)
    if given is None and not set(usual) <= set(there) and len(there) == len(usual):
        chosen = tuple(there)
    if len(chosen) != len(usual) or not set(chosen) <= set(there):
        raise SchemaError(
            f"{dataset.name} has the fields {', '.join(there)}: pass fields= with those that are "
            f"{', '.join(usual)} here, in this order" + (f"; got {chosen}" if given is not None else "")
        )
    return chosen


def _by_name(data: Any, names: Sequence[str], optional: Sequence[str]) -> dict[str, Any]:
    """The columns given, unchecked, by the names of the fields they are for."""
    most = len(names) + len(optional)
    if isinstance(data, Mapping):
        missing, unknown = set(names) - set(data), set(data) - {*names, *optional}
        if missing or unknown:
            raise ValueError(f"data: expected the columns {', '.join(names)}, got {', '.join(map(str, data))}")
        return dict(data)
    several = isinstance(data, tuple) or (isinstance(data, list) and optional and 1 < len(data) <= most)
    if len(names) > 1 or (several and all(_is_column(item) for item in data)):
        if not isinstance(data, tuple | list) or not len(names) <= len(data) <= most:
            what = f"{len(data)} items" if isinstance(data, tuple | list) else f"one {type(data).__name__}"
            extra = f" (and perhaps {', '.join(optional)})" if optional else ""
            raise ValueError(f"data: expected ({', '.join(names)}){extra}, a tuple of arrays; got {what}")
        return dict(zip((*names, *optional), data, strict=False))
    return {names[0]: data}


def _is_column(value: Any) -> bool:
    return hasattr(value, "shape") and len(value.shape) >= 1


def _column(values: Any, name: str, flat: bool) -> Any:
    """One column as a NumPy array (n, …), or as a sparse matrix that is cut by rows."""
    if hasattr(values, "toarray") and hasattr(values, "tocsr"):
        return values.tocsr()
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        values = values.float().numpy() if values.dtype.itemsize == 2 and values.is_floating_point() else values.numpy()
    elif hasattr(values, "to_numpy"):
        values = values.to_numpy()
    if isinstance(values, np.ma.MaskedArray) and np.ma.getmaskarray(values).any():
        raise ValueError(f"data: column {name!r} has masked values; fill them, or leave their samples out by weights")
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise ValueError(f"data: column {name!r} is no array: {error}") from None
    if array.dtype.kind not in "biuf":
        raise TypeError(f"data: column {name!r} has the type {array.dtype}, expected numbers")
    if array.ndim == 0:
        raise ValueError(f"data: column {name!r} is the one number {array}, expected an array (n, …) of n samples")
    return array[:, None] if flat and array.ndim == 1 else array


def _dense(columns: Mapping[str, Any]) -> Iterator[Minibatch]:
    """The columns, in blocks of rows where one of them is sparse."""
    rows = next(iter(columns.values())).shape[0]
    widest = max((8 * column.shape[1] for column in columns.values() if hasattr(column, "toarray")), default=0)
    step = max(1, BLOCK_BYTES // widest) if widest else rows
    for start in range(0, rows, step):
        yield {name: _dense_column(column, start, start + step) for name, column in columns.items()}


def row_blocks(column: Any, rows: int) -> Iterator[NDArray[Any]]:
    """A column of `as_columns`, dense, so many rows at a time."""
    for start in range(0, column.shape[0], rows):
        yield _dense_column(column, start, start + rows)


def _dense_column(column: Any, start: int, stop: int) -> NDArray[Any]:
    part = column[start:stop]
    return np.asarray(part.toarray() if hasattr(part, "toarray") else part)


def _takes_a_number(function: Callable[..., Any]) -> bool:
    """Whether a function must be given one argument."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # some built-in functions tell nothing
        return False
    needed = [p for p in parameters if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if len(needed) > 1:
        raise TypeError(
            f"data: {function!r} needs {len(needed)} arguments; a function that gives minibatches is called with none, "
            "or with the number of the call"
        )
    return len(needed) == 1
