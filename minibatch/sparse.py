"""Sparse vectors of one width: the indices and values of what is not zero, and offsets that say where a row begins."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Sparse:
    """n rows of `width` numbers each, of which row i has values[offsets[i]:offsets[i + 1]] at those `indices`.

    `indices` is an integer array and `values` any array, both (stored,); `offsets` is int64 (n + 1,). An index that
    occurs twice in a row counts as the sum, as in SciPy and PyTorch.

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
        if self.offsets.dtype != np.int64 or self.offsets.ndim != 1 or not len(self.offsets):
            raise TypeError(f"the offsets of a Sparse must be int64 (n + 1,), got {self.offsets!r:.60}")
        if self.indices.shape != self.values.shape or self.indices.dtype.kind not in "iu":
            raise TypeError(
                f"a Sparse has one integer index per value, got {self.indices.dtype} {self.indices.shape} for "
                f"{self.values.dtype} {self.values.shape}"
            )

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
            start, stop, step = index.indices(len(self))
            if step != 1:
                raise ValueError(f"sparse rows are sliced with step 1, got {index}")
            marks = self.offsets[start : max(start, stop) + 1]
            part = slice(marks[0], marks[-1])
            return Sparse(self.indices[part], self.values[part], marks - marks[0], self.width)
        at = int(index.__index__())
        if not -len(self) <= at < len(self):
            raise IndexError(f"row {at} of {len(self)}")
        at %= len(self)
        part = slice(self.offsets[at], self.offsets[at + 1])
        return self.indices[part], self.values[part]

    def __repr__(self) -> str:
        return f"Sparse({len(self)} rows of {self.width}, {len(self.values)} stored values of {self.dtype})"

    def dense(self) -> NDArray[Any]:
        """All numbers, zeros too: (n, width)."""
        out = np.zeros((len(self), self.width), self.dtype)
        rows = np.repeat(np.arange(len(self)), np.diff(self.offsets))
        if self.dtype == np.bool_:
            out[rows, self.indices] |= self.values
        else:
            np.add.at(out, (rows, self.indices), self.values)
        return out

    def csr(self) -> tuple[NDArray[np.int64], NDArray[Any], NDArray[Any]]:
        """Offsets, indices and values: what `scipy.sparse.csr_array((values, indices, offsets))` is made of.

        As a tensor: `minibatch.torch.to_tensors` makes a `torch.sparse_csr_tensor` of it.
        """
        return self.offsets, self.indices, self.values
