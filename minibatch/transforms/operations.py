"""How transforms are named and applied, and what they all check."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from minibatch import ragged
from minibatch.arguments import checked_integer
from minibatch.errors import SchemaError
from minibatch.memory import Pool
from minibatch.ragged import Ragged
from minibatch.rng import Draws
from minibatch.sparse import Sparse

Fields = dict[str, Any]  # of n samples each: arrays (n, …), Ragged, Sparse
Transform = Callable[[Fields, Draws], Fields]
Operations = Sequence[tuple[str, Transform]]

POOL = Pool()
ROWS_IN_ERRORS = 8


def name_operations(transforms: Iterable[Transform]) -> list[tuple[str, Transform]]:
    """Each transform with the name its random numbers are keyed by: its own, and from the second of a kind on a number.

    >>> def noise(fields, draws): return fields
    >>> [name for name, _ in name_operations([noise, noise])]
    ['noise', 'noise.1']
    """
    if callable(transforms):
        raise TypeError(f"transforms must be a sequence of transforms, got one alone: write [{transforms!r}]")
    operations: list[tuple[str, Transform]] = []
    seen: dict[str, int] = {}
    for transform in transforms:
        if not callable(transform):
            raise TypeError(f"a transform is a callable (fields, draws) -> fields, got {transform!r}")
        name = getattr(transform, "__name__", None) or type(transform).__name__
        again = seen.get(name, 0)
        seen[name] = again + 1
        operations.append((f"{name}.{again}" if again else name, transform))
    return operations


def hull(operations: Operations) -> int:
    """How many nominal times belong together: the least common multiple of the operations' `neighbourhood`s, or 1.

    Samples are to be given to `apply` in whole aligned groups of that many nominal times.

    >>> from minibatch.transforms import MixUp, CutMix
    >>> hull(name_operations([MixUp(neighbourhood=64), CutMix(neighbourhood=96)]))
    192
    """
    sizes = [
        checked_integer(getattr(transform, "neighbourhood", 1), f"neighbourhood of transform {name}", least=1)
        for name, transform in operations
    ]
    return math.lcm(*sizes)


def apply(
    operations: Operations, fields: Fields, seed: int, times: NDArray[np.int64], rows: NDArray[np.int64]
) -> tuple[Fields, NDArray[np.int64], NDArray[np.int64]]:
    """(fields, times, rows) after all operations, in order, without the samples that one of them dropped.

    `times` and `rows`, int64 (n,), are the nominal time and the row of each sample. What an operation returns must have
    one value per sample in each field. Its errors get a note that names the operation, the first nominal time and some
    rows.

    >>> def odd_ones(fields, draws):
    ...     draws.drop(fields["x"] % 2 == 0)
    ...     return fields
    >>> apply([("odd_ones", odd_ones)], {"x": np.arange(4)}, 7, np.arange(100, 104), np.arange(4))
    ({'x': array([1, 3])}, array([101, 103]), array([1, 3]))
    """
    for name, transform in operations:
        # Copies: a transform may put them among the fields, where the next one may write into them.
        draws = Draws(seed, name, times.copy(), rows.copy())
        try:
            fields = transform(fields, draws)
        except Exception as error:
            error.add_note(f"raised in transform {name}, for {samples_in_words(times, rows)}")
            raise
        check_returned(name, fields, len(times))
        if draws.dropped.any():
            keep = ~draws.dropped
            fields = {field: ragged.take(values, keep) for field, values in fields.items()}
            times, rows = times[keep], rows[keep]
    return fields, times, rows


def samples_in_words(times: NDArray[np.int64], rows: NDArray[np.int64]) -> str:
    """Which samples, for an error: "3 samples from nominal time 6 (rows 5, 0, 2)"."""
    words = f"{len(times)} samples from nominal time {int(times[0]) if len(times) else None}"
    if not len(rows):
        return words
    some = ", ".join(str(row) for row in rows[:ROWS_IN_ERRORS].tolist())
    return f"{words} (rows {some}{', …' if len(rows) > ROWS_IN_ERRORS else ''})"


def check_returned(name: str, fields: Any, samples: int) -> None:
    """Raise the error that names transform `name` unless it returned one value per sample in each field."""
    if not isinstance(fields, dict):
        raise TypeError(f"transform {name} returned {type(fields).__name__}, expected the dict of fields")
    for field, values in fields.items():
        fits = isinstance(values, Ragged | Sparse) or (isinstance(values, np.ndarray) and values.ndim >= 1)
        if not fits or len(values) != samples:
            got = values.shape if isinstance(values, np.ndarray) else type(values).__name__
            if fits and not isinstance(values, np.ndarray):
                got = f"{got} of {len(values)}"
            raise SchemaError(f"transform {name} returned field {field!r} of shape {got} for {samples} samples")


def named(field: str, fields: Fields) -> NDArray[Any]:
    """The array of `field`, or the error that says which fields there are, or that it is no array."""
    if field not in fields:
        raise SchemaError(f"there is no field {field!r}: the minibatch has {list(fields)}")
    values = fields[field]
    if not isinstance(values, np.ndarray):
        raise SchemaError(
            f"field {field!r} is a {type(values).__name__}, expected an array with one shape for all samples: "
            "make one first, by .padded() or .dense()"
        )
    return values


def numbers_of(transform: Any, fields: Fields, dtypes: Sequence[DTypeLike]) -> NDArray[Any]:
    """The array of `transform.field`, C-contiguous, or the error that says which dtypes it may have."""
    values = named(transform.field, fields)
    if values.dtype not in [np.dtype(dtype) for dtype in dtypes]:
        expected = " or ".join(str(np.dtype(dtype)) for dtype in dtypes)
        raise SchemaError(
            f"{type(transform).__name__}: field {transform.field!r} has dtype {values.dtype}, expected {expected}; "
            "see Cast"
        )
    return np.ascontiguousarray(values)


def images_of(transform: Any, fields: Fields, dtypes: Sequence[DTypeLike] = ()) -> NDArray[Any]:
    """The images of `transform.field`, (n, height, width) or (n, height, width, channels), C-contiguous.

    Without `dtypes` any dtype but objects is fine.
    """
    images = numbers_of(transform, fields, dtypes) if dtypes else named(transform.field, fields)
    who = f"{type(transform).__name__}: field {transform.field!r}"
    if images.ndim not in (3, 4):
        raise SchemaError(f"{who} has shape {images.shape}, expected (n, height, width) or (…, channels)")
    if images.dtype.hasobject:
        raise SchemaError(f"{who} holds Python objects, expected images (n, height, width, …); see DecodeImage")
    return np.ascontiguousarray(images)


def with_channels(images: NDArray[Any]) -> NDArray[Any]:
    """Images (n, height, width, channels), one channel where there was no such axis; the same memory."""
    return images if images.ndim == 4 else images[..., None]


def room(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """An array not yet written, in recycled memory: fresh pages cost more than most transforms."""
    kind = np.dtype(dtype)
    return POOL.take(math.prod(shape) * kind.itemsize).view(kind).reshape(shape)


def checked_size(size: Any, what: str, least: int = 1) -> tuple[int, int]:
    """`size` as (height, width), one number for both; or the error that names `what`.

    >>> checked_size(32, "size"), checked_size((24, 32), "size")
    ((32, 32), (24, 32))
    """
    pair = tuple(size) if isinstance(size, tuple | list) else (size, size)
    if len(pair) != 2:
        raise ValueError(f"{what} must be one number or (height, width), got {size!r}")
    return checked_integer(pair[0], what, least=least), checked_integer(pair[1], what, least=least)


def checked_range(values: Any, what: str, least: float, most: float = math.inf) -> tuple[float, float]:
    """`values` as two numbers a ≤ b with least ≤ a and b ≤ most, or the error that names `what`."""
    if not isinstance(values, tuple | list) or len(values) != 2 or not least <= values[0] <= values[1] <= most:
        raise ValueError(f"{what} must be two ascending numbers in {least} … {most}, got {values!r}")
    return float(values[0]), float(values[1])


def checked_number(value: Any, what: str, least: float = 0.0, most: float = 1.0) -> float:
    """`value` as a float in least … most, or the error that names `what`."""
    if not isinstance(value, int | float | np.number) or not least <= value <= most:
        raise ValueError(f"{what} must be in {least:g} … {most:g}, got {value!r}")
    return float(value)
