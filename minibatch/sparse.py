"""Sparse vectors of one width: the indices and values of what is not zero, and offsets that say where a row begins."""

import operator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Sparse:
    """n rows of `width` numbers each, of which row i has values[offsets[i]:offsets[i + 1]] at those `indices`.

    `indices` is an integer array and `values` any array, both (stored,); `offsets` is int64 (n + 1,), from 0 to stored.
    An index that occurs twice in a row counts as the sum, as in SciPy and PyTorch.

    >>> words = Sparse(np.array([0, 3, 1]), np.array([1.0, 2.0, 5.0]), np.array([0, 2, 3]), 4)
    >>> words.dense().tolist()
    [[1.0, 0.0, 0.0, 2.0], [0.0, 5.0, 0.0, 0.0]]
    >>> [part.tolist() for part in words[1]]
    [[1], [5.0]]
    """

    indices: NDArray[Any]
    values: NDArray[Any]
    offsets: NDArray[np.int64]
    width: int

    def __post_init__(self) -> None:
        for name in ("indices", "values"):
            part = getattr(self, name)
            if not isinstance(part, np.ndarray) or part.ndim != 1:
                raise TypeError(f"the {name} of a Sparse must be an array (stored,), got {part!r:.60}")
        if len(self.indices) != len(self.values) or self.indices.dtype.kind not in "iu":
            raise TypeError(
                f"a Sparse has one integer index per value, got {len(self.indices)} of {self.indices.dtype} for "
                f"{len(self.values)} values"
            )
        refuse_offsets(self.offsets, len(self.values), "Sparse")

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the values."""
        return self.values.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of indices, values and offsets."""
        return self.indices.nbytes + self.values.nbytes + self.offsets.nbytes

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: Any) -> Any:
        """(indices, values) of row `index`, views; a slice of step 1 gives those rows as a Sparse, sharing memory."""
        if isinstance(index, slice):
            marks = sliced(self.offsets, index)
            part = slice(marks[0], marks[-1])
            return Sparse(self.indices[part], self.values[part], marks - marks[0], self.width)
        at = place(index, len(self))
        part = slice(self.offsets[at], self.offsets[at + 1])
        return self.indices[part], self.values[part]

    def __repr__(self) -> str:
        return f"Sparse({len(self)} rows of {self.width}, {len(self.values)} stored values of {self.dtype})"

    def dense(self) -> NDArray[Any]:
        """All numbers, zeros too: (n, width). An index outside of the width is a ValueError."""
        outside = (self.indices < 0) | (self.indices >= self.width)
        if outside.any():
            bad = int(np.argmax(outside))
            row = int(np.searchsorted(self.offsets, bad, side="right")) - 1
            raise ValueError(f"row {row} has the index {self.indices[bad]}, expected 0 … {self.width - 1}")
        out = np.zeros((len(self), self.width), self.dtype)
        places = np.repeat(np.arange(len(self)) * self.width, np.diff(self.offsets)) + self.indices.astype(np.int64)
        np.add.at(out.reshape(-1), places, self.values)  # of bools, `or`
        return out

    def csr(self) -> tuple[NDArray[np.int64], NDArray[Any], NDArray[Any]]:
        """Offsets, indices and values: what `scipy.sparse.csr_array((values, indices, offsets))` is made of.

        As a tensor: `minibatch.torch.to_tensors` makes a `torch.sparse_csr_tensor` of it.
        """
        return self.offsets, self.indices, self.values


def refuse_offsets(offsets: Any, count: int, of: str) -> None:
    """Raise unless `offsets` can be those of `count` things: int64 (n + 1,), from 0 to `count`.

    That they ascend in between is not looked at: it would cost as much as some of what is done with them.
    """
    if not isinstance(offsets, np.ndarray) or offsets.dtype != np.int64 or offsets.ndim != 1 or not len(offsets):
        raise TypeError(f"the offsets of a {of} must be int64 (n + 1,), got {offsets!r:.60}")
    if offsets[0] != 0 or offsets[-1] != count:
        raise ValueError(f"the offsets of a {of} go from {offsets[0]} to {offsets[-1]}, expected 0 to {count}")


def place(index: Any, count: int) -> int:
    """`index` counted from the front; IndexError if there is no such element."""
    at = operator.index(index)
    if not -count <= at < count:
        raise IndexError(f"element {at} of {count}")
    return at % count


def sliced(offsets: NDArray[np.int64], index: slice) -> NDArray[np.int64]:
    """The offsets of the rows in a slice, not yet counted from 0."""
    start, stop, step = index.indices(len(offsets) - 1)
    if step != 1:
        raise ValueError(f"rows of varying size are sliced with step 1, got step {step}")
    return offsets[start : max(start, stop) + 1]
