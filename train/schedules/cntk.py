"""CNTK's schedules and units: lists over samples, rates per sample, momentum as a time constant.

CNTK sums the gradient over the samples of a minibatch. A rate per sample multiplies that sum (term denominator None),
so that every sample counts the same at any minibatch size; a rate per minibatch multiplies the mean (denominator
"count"). For unit-gain momentum, with velocity v = μ v + (1 - μ) · gradient, and a minibatch size B:

    rate per sample = η / (B · (1 - μ))      from the usual rate η on the mean gradient with classical momentum μ
    time constant τ = -B / ln μ              in samples: after τ samples a gradient counts 1/e
    μ = exp(-B / τ)

A group with the entry "momentum_time_constant" has τ, and rates.py works out μ for the samples of every step; where τ
is a schedule, it is the group's own schedule of that entry.

Source: CNTK, "SGD block" and `momentum_as_time_constant_schedule` of its Python interface.
"""

import math
from collections.abc import Sequence

from minibatch.train.schedules.curves import Constant, Steps
from minibatch.train.schedules.schedule import checked_number, checked_samples

Listed = Sequence[float] | Sequence[tuple[int, float]]


def cntk_list(values: float | Listed, epoch_size: int | None = None) -> Constant | Steps:
    """The schedule of CNTK's lists: values, or pairs (count, value), each for count · epoch_size samples.

    The last value lasts for ever, whatever its count (so 0 is allowed there). epoch_size: the unit in samples; CNTK's
    own default is a whole sweep, here to be given as `len(dataset)`; 1 counts in samples. A single number needs none.

    >>> rate = cntk_list([0.1, 0.01], epoch_size=1000)
    >>> rate(999), rate(1000), rate(10**9)
    (0.1, 0.01, 0.01)
    >>> rate = cntk_list([(999, 0.99), (888, 0.88), (0, 0.77)], epoch_size=1)
    >>> rate(998), rate(999), rate(999 + 887), rate(999 + 888)
    (0.99, 0.88, 0.88, 0.77)
    """
    if not isinstance(values, Sequence):
        return Constant(values)
    if not values:
        raise ValueError("cntk_list: the list is empty; expected values, or pairs (count, value)")
    pairs = [pair for pair in values if isinstance(pair, Sequence)]
    if pairs and (len(pairs) != len(values) or any(len(pair) != 2 for pair in pairs)):
        raise ValueError(f"cntk_list: {list(values)!r} mixes values and pairs; expected all values, or all pairs")
    counts, rates = ([pair[0] for pair in pairs], [pair[1] for pair in pairs]) if pairs else ([1] * len(values), values)
    if len(rates) == 1:
        return Constant(rates[0])  # type: ignore[arg-type]
    if epoch_size is None:
        raise ValueError(
            "cntk_list: a list needs epoch_size, its unit in samples: len(dataset) for CNTK's default, one sweep; or 1 "
            "where counts are samples"
        )
    unit = checked_samples(epoch_size, "cntk_list: epoch_size", least=1)
    borders, end = [], 0
    for place, count in enumerate(counts[:-1]):
        end += checked_samples(count, f"cntk_list: count {place}", least=1) * unit
        borders.append(end)
    checked_samples(counts[-1], "cntk_list: the last count")
    return Steps(rates, borders)  # type: ignore[arg-type]


def rate_per_sample(rate: float, minibatch_size: int, *, momentum: float = 0.0, unit_gain: bool = True) -> float:
    """η / (B (1 - μ)), or η / B if not unit gain: the rate on sums of gradients that does what `rate` does on means.

    >>> rate_per_sample(0.1, 100, momentum=0.9)
    0.01
    """
    size = checked_samples(minibatch_size, "rate_per_sample: minibatch_size", least=1)
    rate = checked_number(rate, "rate_per_sample: rate")
    return float(rate / (size * _gain(momentum, unit_gain)))


def rate_per_minibatch(rate: float, minibatch_size: int, *, momentum: float = 0.0, unit_gain: bool = True) -> float:
    """lr · B (1 - μ), or lr · B if not unit gain: what `rate_per_sample` has made of a rate, undone.

    >>> rate_per_minibatch(0.01, 100, momentum=0.9)
    0.1
    """
    size = checked_samples(minibatch_size, "rate_per_minibatch: minibatch_size", least=1)
    rate = checked_number(rate, "rate_per_minibatch: rate")
    return float(rate * size * _gain(momentum, unit_gain))


def time_constant(momentum: float, minibatch_size: int) -> float:
    """τ = -B / ln μ, in samples; 0 for momentum 0.

    >>> round(time_constant(0.9, 64), 3)
    607.438
    """
    size = checked_samples(minibatch_size, "time_constant: minibatch_size", least=1)
    momentum = _checked_momentum(momentum)
    return -size / math.log(momentum) if momentum else 0.0


def momentum_at(time_constant: float, minibatch_size: int) -> float:
    """μ = exp(-B / τ): the momentum of a step of `minibatch_size` samples; 0 for a time constant of 0.

    >>> round(momentum_at(607.438, 64), 6), round(momentum_at(607.438, 128), 6)
    (0.9, 0.81)
    """
    size = checked_samples(minibatch_size, "momentum_at: minibatch_size", least=1)
    tau = checked_number(time_constant, "momentum_at: time_constant", least=0)
    return math.exp(-size / tau) if tau else 0.0


def _gain(momentum: float, unit_gain: bool) -> float:
    return 1.0 - _checked_momentum(momentum) if unit_gain else 1.0


def _checked_momentum(momentum: float) -> float:
    momentum = checked_number(momentum, "momentum", least=0)
    if momentum >= 1:
        raise ValueError(f"momentum must be < 1, got {momentum!r}")
    return float(momentum)
