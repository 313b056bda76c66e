"""What differs between two ledger lines, or between two sets of named tensors: bit by bit, or beyond a tolerance."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from minibatch.train.ledger import LedgerLine, as_line, line_of
from minibatch.train.result import StepResult

Pair = tuple[Any, Any]
# What comes of floating-point sums, and differs by rounding between cuts into microbatches.
ROUNDED = ("numerator", "total_loss", "grad_norm", "regularizers")


def line_from(result: StepResult) -> LedgerLine:
    """A step as its line of the ledger would be read again: exact, JSON keeps all digits of a number.

    >>> line_from(StepResult(("class",), 1, (0, 4), 4)).t1
    4
    """
    return as_line(json.loads(line_of(result)))


def line_differences(one: LedgerLine, two: LedgerLine, *, relative: float = 0.0) -> dict[str, Pair]:
    """What differs between two lines: name → both values; empty if nothing does.

    relative: numerators, losses and norms may differ by this share of the larger of them; all else may not. NaN is
    equal to NaN.
    """
    mine, other = _flat(one), _flat(two)
    found = {}
    for name in dict.fromkeys([*mine, *other]):
        pair = (mine.get(name), other.get(name))
        rounded = name.endswith(ROUNDED) or name.startswith("regularizers.")
        if relative and (name == "clipped" or (rounded and relative_difference(*pair) <= relative)):
            continue
        if _bits(pair[0]) != _bits(pair[1]):
            found[name] = pair
    return found


def relative_difference(one: float | None, two: float | None) -> float:
    """|one - two| / max(|one|, |two|); 0 for equal numbers (two NaN are), infinite where one is missing or not finite.

    >>> relative_difference(1.0, 1.25), relative_difference(0.0, 0.0), relative_difference(math.nan, 1.0)
    (0.2, 0.0, inf)
    """
    if one is None or two is None:
        return 0.0 if one is two else math.inf
    if one == two or (one != one and two != two):
        return 0.0
    difference = abs(one - two)
    return difference / max(abs(one), abs(two)) if difference < math.inf else math.inf


@dataclass(frozen=True, kw_only=True)
class TensorDifference:
    """Two tensors of one name that differ: in how many elements of how many, by how much at most, and where that is.

    largest: of |a - b|; relative: largest / max |a|, |b| over the tensor. `problem` says it in words where shapes or
    dtypes differ or one is missing; the numbers are then those of nothing.
    """

    name: str
    shape: tuple[int, ...]
    elements: int = 0
    count: int = 0
    largest: float = math.nan
    relative: float = math.nan
    index: tuple[int, ...] = ()
    values: tuple[float, float] = (math.nan, math.nan)
    problem: str | None = None


def tensor_differences(one: Mapping[str, Tensor], two: Mapping[str, Tensor]) -> list[TensorDifference]:
    """The tensors that differ in any bit, in the order of `one`; those that only `two` has come last.

    >>> (found,) = tensor_differences({"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([1.0, 2.5])})
    >>> found.name, found.elements, found.largest, found.relative, found.index
    ('w', 1, 0.5, 0.2, (1,))
    """
    found = []
    for name in dict.fromkeys([*one, *two]):
        a, b = one.get(name), two.get(name)
        if a is None or b is None:
            there = a if a is not None else b
            assert there is not None
            only = "first" if b is None else "second"
            found.append(TensorDifference(name=name, shape=tuple(there.shape), problem=f"only in the {only} run"))
            continue
        a, b = a.detach().cpu(), b.detach().cpu()
        if a.shape != b.shape or a.dtype != b.dtype:
            sides = " against ".join(f"{str(t.dtype).removeprefix('torch.')} {tuple(t.shape)}" for t in (a, b))
            found.append(TensorDifference(name=name, shape=tuple(a.shape), problem=sides))
        elif not _same_bits(a, b):
            found.append(_compared(name, a, b))
    return found


def _compared(name: str, a: Tensor, b: Tensor) -> TensorDifference:
    wide_a, wide_b = a.double().reshape(-1), b.double().reshape(-1)
    differs = (_bytes(a) != _bytes(b)).view(a.numel(), -1).any(1)
    distance = torch.where(differs, (wide_a - wide_b).abs(), 0.0).nan_to_num(math.inf, posinf=math.inf)
    at = int(distance.argmax())
    largest = float(distance[at])
    scale = float(torch.maximum(wide_a.abs(), wide_b.abs()).nan_to_num(0.0, posinf=0.0).max())
    return TensorDifference(
        name=name,
        shape=tuple(a.shape),
        elements=int(differs.sum()),
        count=a.numel(),
        largest=largest,
        relative=largest / scale if scale else 0.0,
        index=tuple(int(i) for i in torch.unravel_index(torch.tensor(at), a.shape)) if a.ndim else (),
        values=(float(wide_a[at]), float(wide_b[at])),
    )


def _same_bits(a: Tensor, b: Tensor) -> bool:
    return torch.equal(_bytes(a), _bytes(b))


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def _flat(line: LedgerLine) -> dict[str, Any]:
    """The numbers of a line by dotted name."""
    flat: dict[str, Any] = {}
    for each in fields(line):
        value = getattr(line, each.name)
        if each.name == "terms":
            for name, (numerator, denominator) in value.items():
                flat[f"{name}.numerator"], flat[f"{name}.denominator"] = numerator, denominator
        elif each.name == "lr":
            flat |= {"lr" if len(value) == 1 else f"lr[{i}]": rate for i, rate in enumerate(value)}
        elif isinstance(value, Mapping):
            flat |= {f"{each.name}.{name}": item for name, item in value.items()}
        elif value is not None:
            flat[each.name] = value
    return flat


def _bits(value: Any) -> Any:
    """What tells a value from every other: floats by their bits, but all NaN alike."""
    return float(value).hex() if isinstance(value, float) else value
