"""Sequences of varying length as one array: values end to end, and offsets that say where each one begins."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from minibatch.kernels import gather


@dataclass(frozen=True, slots=True, eq=False)
class Ragged:
    """n sequences: `values` (total, *shape) end to end, `offsets` int64 (n + 1,); sequence i is
    values[offsets[i]:offsets[i+1]].

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

    values: NDArray[Any]
    offsets: NDArray[np.int64]

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the values."""
        return self.values.dtype

    @property
    def lengths(self) -> NDArray[np.int64]:
        """The length of each sequence: int64 (n,)."""
        return np.diff(self.offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, index: int | np.integer[Any]) -> NDArray[Any]: ...

    @overload
    def __getitem__(self, index: slice) -> "Ragged": ...

    def __getitem__(self, index: int | np.integer[Any] | slice) -> "NDArray[Any] | Ragged":
        """Sequence `index`, a view (length, *shape); a slice of step 1 gives those sequences, sharing memory."""
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step != 1:
                raise ValueError(f"sequences are sliced with step 1, got {index}")
            stop = max(start, stop)
            marks = self.offsets[start : stop + 1]
            return Ragged(self.values[marks[0] : marks[-1]], marks - marks[0])
        at = int(index)
        if not -len(self) <= at < len(self):
            raise IndexError(f"sequence {at} of {len(self)}")
        at %= len(self)
        return self.values[self.offsets[at] : self.offsets[at + 1]]

    def __iter__(self) -> Iterator[NDArray[Any]]:
        for i in range(len(self)):
            yield self[i]

    def __repr__(self) -> str:
        return f"Ragged({len(self)} sequences, {len(self.values)} values of {self.dtype} {self.values.shape[1:]})"

    def width(self, multiple_of: int = 1) -> int:
        """The length that `padded` gives every row: the longest, rounded up to a multiple of `multiple_of`."""
        if isinstance(multiple_of, bool) or not isinstance(multiple_of, int | np.integer) or multiple_of < 1:
            raise ValueError(f"multiple_of must be a positive integer, got {multiple_of!r}")
        longest = int(self.lengths.max(initial=0))
        return -(-longest // int(multiple_of)) * int(multiple_of)

    def padded(self, value: Any = 0, multiple_of: int = 1) -> NDArray[Any]:
        """All sequences as one array (n, width, *shape), `value` behind their ends; see `width`."""
        width = self.width(multiple_of)
        out = np.empty((len(self), width, *self.values.shape[1:]), self.dtype)
        filler = np.full(self.values.shape[1:], value, self.dtype)
        source = np.ascontiguousarray(self.values)
        gather.pad_rows(
            self.offsets,
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


def join_ragged(parts: list[Ragged]) -> Ragged:
    """Several as one, in order; values are copied.

    >>> one, two = Ragged(np.arange(2), np.array([0, 2])), Ragged(np.arange(3), np.array([0, 0, 3]))
    >>> join_ragged([one, two]).lengths.tolist()
    [2, 0, 3]
    """
    lengths = np.concatenate([part.lengths for part in parts])
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    return Ragged(np.concatenate([part.values for part in parts]), offsets)
