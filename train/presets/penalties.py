"""Regularizers by the names that the systems have for them."""

from collections.abc import Mapping, Sequence
from typing import Any

from minibatch.train import regularizers
from minibatch.train.regularizers import Regularizer

# A prior is a sum by its formula, and a bound on norms adds nothing to the objective.
WITHOUT_REDUCE = frozenset({"WeightPrior", "MaxNorm"})


def penalty(
    described: Mapping[str, Any], coefficient: Any, pattern: str | Sequence[str], reduce: str, given: Mapping[str, Any]
) -> Regularizer:
    """The regularizer that a system means: `described` has its "kind", a class of minibatch.train.regularizers, and
    options that differ from the system's usual ones; `given` win over both.

    >>> penalty({"kind": "WeightL1"}, 0.1, "*", "mean", {"proximal": True})
    WeightL1(coefficient=0.1, pattern='*', name='', least_axes=2, reduce='mean', proximal=True)
    """
    kind, options = described["kind"], {name: value for name, value in described.items() if name != "kind"}
    made: type[Regularizer] = getattr(regularizers, kind)
    if kind not in WITHOUT_REDUCE:
        options.setdefault("reduce", reduce)
    return made(**{**options, **given, "coefficient": coefficient, "pattern": pattern})
