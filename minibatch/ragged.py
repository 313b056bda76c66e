"""Sequences of varying length as one array: values end to end, and offsets that say where each one begins."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minibatch.arguments import checked_integer
from minibatch.kernels import lists
from minibatch.sparse import Sparse


@dataclass(frozen=True, slots=True, eq=False)
class Ragged:
    """n sequences: `values` end to end, `offsets` int64 (n + 1,); sequence i is values[offsets[i]:offsets[i + 1]].

    `values` is an array (total, *shape); for lists of lists a `Ragged` of total sequences, for sequences of sparse
    vectors a `Sparse`.

    >>> tokens = Ragged(values=np.array([1, 2, 3, 4, 5, 6]), offsets=np.array([0, 2, 2, 6]))
    >>> len(tokens), tokens[2].tolist()
    (3, [3, 4, 5, 6])
    >>> tokens.padded(value=-1)
    array([[ 1,  2, -1, -1],
           [-1, -1, -1, -1],
           [ 3,  4,  5,  6]])
    >>> tokens.mask().sum(1).tolist()
    [2, 0, 4]
    """

    values: Any
    offsets: NDArray[np.int64]

    def __post_init__(self) -> None:
        offsets = self.offsets
        if not isinstance(offsets, np.ndarray) or offsets.dtype != np.int64 or offsets.ndim != 1 or not len(offsets):
            raise TypeError(f"the offsets of a Ragged must be int64 (n + 1,), got {offsets!r:.60}")

    @staticmethod
    def of(sequences: Sequence[Any]) -> "Ragged":
        """The given arrays (length, *shape), of one dtype and one shape behind the length, as one Ragged.

        >>> Ragged.of([np.array([1, 2]), np.array([3])]).offsets.tolist()
        [0, 2, 3]
        """
        arrays = [np.asarray(sequence) for sequence in sequences]
        if not arrays:
            raise ValueError("no sequences: their dtype is not known; write Ragged(values, offsets)")
        offsets = np.zeros(len(arrays) + 1, np.int64)
        np.cumsum([len(array) for array in arrays], out=offsets[1:])
        return Ragged(np.concatenate(arrays), offsets)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the values."""
        return np.dtype(self.values.dtype)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """The length of each sequence: int64 (n,)."""
        return np.diff(self.offsets)

    @property
    def nbytes(self) -> int:
        """Bytes of values and offsets."""
        return int(self.values.nbytes + self.offsets.nbytes)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: Any) -> Any:
        """Sequence `index`, a view of the values; a slice of step 1 gives those sequences as a Ragged, sharing
        memory."""
        if isinstance(index, slice):
            marks = sliced(self.offsets, index)
            return Ragged(self.values[marks[0] : marks[-1]], marks - marks[0])
        at = place(index, len(self))
        return self.values[self.offsets[at] : self.offsets[at + 1]]

    def __iter__(self) -> Iterator[Any]:
        for i in range(len(self)):
            yield self[i]

    def __repr__(self) -> str:
        inner = self.values if not isinstance(self.values, np.ndarray) else f"{self.dtype} {self.values.shape[1:]}"
        return f"Ragged({len(self)} sequences, {len(self.values)} values of {inner})"

    def width(self, multiple_of: int = 1) -> int:
        """The length that `padded` gives every row: the longest, rounded up to a multiple of `multiple_of`."""
        multiple = checked_integer(multiple_of, "multiple_of", least=1)
        longest = int(np.subtract(self.offsets[1:], self.offsets[:-1]).max()) if len(self.offsets) > 1 else 0
        return -(-longest // multiple) * multiple

    def padded(self, value: Any = 0, multiple_of: int = 1) -> NDArray[Any]:
        """All sequences as one array (n, width, *shape), `value` behind their ends; see `width`.

        Lists of lists become (n, width, inner width). A value that the dtype cannot hold is a ValueError.
        """
        width = self.width(multiple_of)
        if isinstance(self.values, Ragged):
            inner = self.values.padded(value)
            return Ragged(inner, self.offsets).padded(value, multiple_of)
        if isinstance(self.values, Sparse):
            raise TypeError("sparse vectors have no padded form: pad what is computed from them, or .values.dense()")
        shape = self.values.shape[1:]
        if self.dtype == object:
            out = np.full((len(self), width), value, object)
            out[self.mask(multiple_of)] = self.values
            return out
        filler = np.full(shape, value, self.dtype)
        if not np.array_equal(filler, np.full(shape, value), equal_nan=self.dtype.kind == "f"):
            raise ValueError(f"the values are {self.dtype}, which cannot hold the padding {value!r}")
        out = np.empty((len(self), width, *shape), self.dtype)
        source = np.ascontiguousarray(self.values)
        lists.pad_rows(
            np.ascontiguousarray(self.offsets),
            np.uint64(source.ctypes.data),
            np.uint64(filler.ctypes.data),
            filler.nbytes,
            width,
            np.uint64(out.ctypes.data),
        )
        return out

    def mask(self, multiple_of: int = 1) -> NDArray[np.bool_]:
        """Where `padded` has values: bool (n, width)."""
        return np.asarray(np.arange(self.width(multiple_of)) < self.lengths[:, None])


def place(index: Any, count: int) -> int:
    """`index` counted from the front; IndexError if there is no such element."""
    at = int(index.__index__())
    if not -count <= at < count:
        raise IndexError(f"element {at} of {count}")
    return at % count


def sliced(offsets: NDArray[np.int64], index: slice) -> NDArray[np.int64]:
    """The offsets of the sequences in a slice, not yet counted from 0."""
    start, stop, step = index.indices(len(offsets) - 1)
    if step != 1:
        raise ValueError(f"sequences are sliced with step 1, got {index}")
    return offsets[start : max(start, stop) + 1]


def join(values: Sequence[Any]) -> Any:
    """Several arrays, Ragged or Sparse of one kind as one, in order; values are copied.

    >>> one, two = Ragged(np.arange(2), np.array([0, 2])), Ragged(np.arange(3), np.array([0, 0, 3]))
    >>> join([one, two]).lengths.tolist()
    [2, 0, 3]
    """
    first = values[0]
    if isinstance(first, Ragged):
        return Ragged(join([value.values for value in values]), join_offsets([value.offsets for value in values]))
    if isinstance(first, Sparse):
        indices = np.concatenate([value.indices for value in values])
        stored = np.concatenate([value.values for value in values])
        return Sparse(indices, stored, join_offsets([value.offsets for value in values]), first.width)
    return np.concatenate(values)


def join_offsets(parts: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """The offsets of sequences laid end to end, each part counted from 0."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(np.concatenate([np.diff(part) for part in parts]))])


def take(values: Any, places: NDArray[Any]) -> Any:
    """The rows at `places` (indices, or a mask) of an array, Ragged or Sparse; copied.

    >>> take(Ragged(np.arange(3), np.array([0, 2, 3])), np.array([1])).values.tolist()
    [2]
    """
    if isinstance(values, np.ndarray):
        return values[places]
    chosen = np.flatnonzero(places) if places.dtype == np.bool_ else places
    lengths = np.diff(values.offsets)[chosen]
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    inside = np.repeat(values.offsets[chosen] - offsets[:-1], lengths) + np.arange(offsets[-1])
    if isinstance(values, Sparse):
        return Sparse(values.indices[inside], values.values[inside], offsets, values.width)
    return Ragged(take(values.values, inside), offsets)
