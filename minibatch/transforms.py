"""Changes to a minibatch on its way out of the source, each draw keyed to nominal time.

A transform is any callable `(fields, draws) -> fields`: a dict of arrays (n, …) in, a dict of arrays (n, …) out, and
`draws` (`minibatch.rng.Draws`) for random numbers, which are functions of (seed, operation, nominal time of the
sample). So augmentation does not depend on minibatch size, partitions, threads or restarts, as long as a transform
treats each sample by itself. It may write into the arrays it is given.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minibatch.errors import SchemaError
from minibatch.rng import Draws

Fields = dict[str, NDArray[Any]]
Transform = Callable[[Fields, Draws], Fields]


@dataclass(frozen=True, kw_only=True)
class HorizontalFlip:
    """Mirror each image of `field`, (n, height, width, …), from left to right with probability `probability`.

    >>> flip = HorizontalFlip(field="image", probability=1.0)
    >>> flip({"image": np.array([[[1, 2, 3]]])}, Draws(0, "flip", np.zeros(1, np.int64)))["image"].tolist()
    [[[3, 2, 1]]]
    """

    field: str = "image"
    probability: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise ValueError(f"HorizontalFlip(probability=…) must be in 0 … 1, got {self.probability!r}")

    def __call__(self, fields: Fields, draws: Draws) -> Fields:
        images = named(self.field, fields)
        if images.ndim < 3:
            raise SchemaError(
                f"HorizontalFlip: field {self.field!r} has shape {images.shape}, expected (n, height, width, …)"
            )
        flipped = draws.uniform() < self.probability
        out = images.copy()
        out[flipped] = images[flipped, :, ::-1]
        return {**fields, self.field: out}


@dataclass(frozen=True, kw_only=True)
class GaussianNoise:
    """Add normal noise of standard deviation `sigma` to each element of the floating-point field `field`.

    >>> draws = Draws(0, "noise", np.arange(2))
    >>> noisy = GaussianNoise(field="x", sigma=0.1)({"x": np.zeros((2, 3), np.float32)}, draws)
    >>> noisy["x"].dtype
    dtype('float32')
    """

    field: str
    sigma: float

    def __post_init__(self) -> None:
        if not 0 <= self.sigma < math.inf:
            raise ValueError(f"GaussianNoise(sigma=…) must be finite and at least 0, got {self.sigma!r}")

    def __call__(self, fields: Fields, draws: Draws) -> Fields:
        values = named(self.field, fields)
        if values.dtype.kind != "f":
            raise SchemaError(f"GaussianNoise: field {self.field!r} has dtype {values.dtype}, expected floating point")
        noise = draws.normal(values.shape[1:]) * self.sigma
        return {**fields, self.field: (values + noise).astype(values.dtype)}


def named(field: str, fields: Fields) -> NDArray[Any]:
    """The array of `field`, or the error that says which fields there are."""
    if field not in fields:
        raise SchemaError(f"there is no field {field!r}: the minibatch has {list(fields)}")
    return fields[field]


def name_operations(transforms: Iterable[Transform]) -> list[tuple[str, Transform]]:
    """Each transform with the name its random numbers are keyed by: its own, and from the second of a kind on a number.

    >>> [name for name, _ in name_operations([HorizontalFlip(), HorizontalFlip()])]
    ['HorizontalFlip', 'HorizontalFlip.1']
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


def apply(operations: list[tuple[str, Transform]], fields: Fields, seed: int, times: NDArray[np.int64]) -> Fields:
    """`fields` after all operations, in order; what they return must still have one row per sample."""
    first = int(times[0]) if len(times) else None
    for name, transform in operations:
        try:
            fields = transform(fields, Draws(seed, name, times))
        except Exception as error:
            error.add_note(f"raised in transform {name}, for {len(times)} samples from nominal time {first}")
            raise
        if not isinstance(fields, dict):
            raise TypeError(f"transform {name} returned {type(fields).__name__}, expected the dict of fields")
        for field, values in fields.items():
            if not isinstance(values, np.ndarray) or values.ndim < 1 or len(values) != len(times):
                got = values.shape if isinstance(values, np.ndarray) else type(values).__name__
                raise SchemaError(f"transform {name} returned field {field!r} of shape {got} for {len(times)} samples")
    return fields
