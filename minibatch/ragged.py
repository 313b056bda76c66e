"""Sequences of varying length as one array: values end to end, and offsets that say where each one begins."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minibatch.arguments import checked_integer
from minibatch.kernels import lists
from minibatch.sparse import Sparse, place, refuse_offsets, sliced


@dataclass(frozen=True, slots=True, eq=False)
class Ragged:
    """n sequences: `values` end to end and `offsets`; sequence i is values[offsets[i]:offsets[i + 1]].

    `values` is an array (total, *shape); for lists of lists a `Ragged` of total sequences, for sequences of sparse
    vectors a `Sparse`. `offsets` is int64 (n + 1,), ascending from 0 to total.

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
        values = self.values
        if not isinstance(values, np.ndarray | Ragged | Sparse) or (isinstance(values, np.ndarray) and not values.ndim):
            raise TypeError(f"the values of a Ragged must be an array, a Ragged or a Sparse, got {values!r:.60}")
        refuse_offsets(self.offsets, len(values), "Ragged")

    @staticmethod
    def of(sequences: Sequence[Any]) -> "Ragged":
        """The given arrays (length, *shape), of one dtype and one shape behind the length, as one Ragged.

        >>> Ragged.of([np.array([1, 2]), np.array([3])]).offsets.tolist()
        [0, 2, 3]
        """
        arrays = [np.asarray(sequence) for sequence in sequences]
        # An empty Python list tells no dtype.
        told = [
            i for i, array in enumerate(arrays) if isinstance(sequences[i], np.ndarray) or array.ndim != 1 or len(array)
        ]
        if not told:
            raise ValueError("no sequence tells the dtype of its elements: write Ragged(values, offsets)")
        first = arrays[told[0]]
        for i in told:
            if not arrays[i].ndim or (arrays[i].dtype, arrays[i].shape[1:]) != (first.dtype, first.shape[1:]):
                raise ValueError(
                    f"sequence {i} is {arrays[i].dtype} of shape {arrays[i].shape}, sequence {told[0]} is "
                    f"{first.dtype} of shape {first.shape}: they may differ in their lengths only"
                )
        offsets = np.zeros(len(arrays) + 1, np.int64)
        np.cumsum([len(array) for array in arrays], out=offsets[1:])
        return Ragged(np.concatenate([arrays[i] for i in told]), offsets)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the values."""
        dtype: np.dtype[Any] = self.values.dtype
        return dtype

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
        lengths = self.lengths
        if lengths.min(initial=0) < 0:  # kernels believe offsets
            row = int(np.argmin(lengths))
            raise ValueError(
                f"the offsets of a Ragged must ascend, got {self.offsets[row : row + 2].tolist()} at {row}"
            )
        return -(-int(lengths.max(initial=0)) // multiple) * multiple

    def padded(self, value: Any = 0, multiple_of: int = 1) -> NDArray[Any]:
        """All sequences as one array (n, width, *shape), `value` behind their ends; see `width`.

        Lists of lists become (n, width, inner width). A value that the dtype cannot hold is a ValueError.
        """
        width = self.width(multiple_of)
        if isinstance(self.values, Ragged):
            return Ragged(self.values.padded(value), self.offsets).padded(value, multiple_of)
        if isinstance(self.values, Sparse):
            raise TypeError("sparse vectors have no padded form: pad what is computed from them, or .values.dense()")
        shape = self.values.shape[1:]
        if self.dtype == object:
            texts = np.full((len(self), width, *shape), value, object)
            texts[self._inside(width)] = self.values
            return texts
        filler = filled(shape, value, self.dtype)
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
        """Where `padded` has values: bool (n, width); of lists of lists bool (n, width, inner width)."""
        if isinstance(self.values, Ragged):
            return np.asarray(Ragged(self.values.mask(), self.offsets).padded(False, multiple_of))
        return self._inside(self.width(multiple_of))

    def _inside(self, width: int) -> NDArray[np.bool_]:
        return np.asarray(np.arange(width) < self.lengths[:, None])


def filled(shape: tuple[int, ...], value: Any, dtype: np.dtype[Any]) -> NDArray[Any]:
    """An array full of `value`, which floats may round but nothing else."""
    try:
        with np.errstate(invalid="ignore"):  # compared below
            out = np.full(shape, value, dtype)
        if dtype.kind == "f" or np.array_equal(out, np.full(shape, value)):
            return out
    except (TypeError, ValueError, OverflowError):
        pass
    raise ValueError(f"the values are {dtype}, which cannot hold the padding {value!r}")


def join(values: Sequence[Any]) -> Any:
    """Several arrays, Ragged or Sparse of one kind as one, in order; values are copied.

    >>> one, two = Ragged(np.arange(2), np.array([0, 2])), Ragged(np.arange(3), np.array([0, 0, 3]))
    >>> join([one, two]).lengths.tolist()
    [2, 0, 3]
    """
    kinds = {type(value) for value in values}
    if len(kinds) != 1 or not kinds <= {np.ndarray, Ragged, Sparse}:
        raise TypeError(f"arrays, Ragged or Sparse can be joined, one kind at a time, got {[*map(type, values)]!r:.80}")
    first = values[0]
    if isinstance(first, Ragged):
        return Ragged(join([value.values for value in values]), join_offsets([value.offsets for value in values]))
    if isinstance(first, Sparse):
        widths = {value.width for value in values}
        if len(widths) > 1:
            raise ValueError(f"sparse vectors of different widths cannot be joined: {sorted(widths)}")
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
    if places.dtype == np.bool_ and len(places) != len(values):
        raise IndexError(f"a mask of {len(places)} for {len(values)} rows")
    chosen = np.flatnonzero(places) if places.dtype == np.bool_ else places
    lengths = np.diff(values.offsets)[chosen]
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    inside = np.repeat(values.offsets[:-1][chosen] - offsets[:-1], lengths) + np.arange(offsets[-1])
    if isinstance(values, Sparse):
        return Sparse(values.indices[inside], values.values[inside], offsets, values.width)
    return Ragged(take(values.values, inside), offsets)
