"""The numbers in the optimizers' groups at a nominal time: rates, momenta, decays, from schedules and time constants.

A group of any optimizer, torch's too, may have these entries besides its own; `set_rates` acts on them before a step
that covers the nominal time [t0, t1), n = t1 - t0 samples:

    lr_scale                    the group's rate is so many times the schedule of its optimizer
    schedules                   {entry: schedule}: own schedules of any numeric entry; "lr" replaces the optimizer's
                                schedule, lr_scale included; "betas.0" is the first number of the entry "betas"
    momentum_time_constant      τ in samples: momentum = exp(-n/τ) (0 for τ = 0); with betas, the first of them
    variance_time_constant      τ in samples: variance_momentum = exp(-n/τ); with betas, the second of them. Each may
                                have a schedule of its own in `schedules`
    rate_per, gradients         what the rate is meant for, see below
    weight_decay_per_sample     weight_decay = this, times n where gradients are sums (CNTK's l2_regularization_weight)
    samples                     set to n, for optimizers that count samples

CNTK gives rates for sums: per sample, per K samples ("reference size") or per minibatch. With `rate_per` (a number of
samples, or "minibatch") and `gradients` ("mean" or "sum") the group's lr is rate · (n if gradients are means) / (K, or
n per minibatch). So lr·gradient is rate · Σ / K whatever n is, or rate · mean. The gradient is a sum if all terms have
denominator=None, a mean with denominator="count"; for plain SGD the two give the same step. A term with denominator=K
makes rate_per=K unnecessary. Adam and its kin divide by the gradient's size: only there the choice matters.

The rate without a schedule is what the group was made with; it is kept in the entry "initial_lr".
"""

import difflib
import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from minibatch.train.schedules.cntk import momentum_at
from minibatch.train.schedules.schedule import Schedule, ValuesByName, value_at, watched

#: Group entries that this module reads and no optimizer has as an option of its own.
ENTRIES = (
    "lr_scale",
    "schedules",
    "momentum_time_constant",
    "variance_time_constant",
    "rate_per",
    "gradients",
    "weight_decay_per_sample",
    "samples",
)
_TIME_CONSTANTS = (("momentum_time_constant", "momentum", 0), ("variance_time_constant", "variance_momentum", 1))


def set_rates(
    optimizers: Sequence[Optimizer],
    schedules: Sequence[Schedule | None],
    t0: int,
    t1: int,
    values: ValuesByName | None = None,
) -> tuple[float, ...]:
    """Set every group's numbers for the step [t0, t1) of nominal time; the rates, one per optimizer.

    schedules: one per optimizer, None where the rate stays. A schedule is called with t0; one with an attribute
    `watches` (the name of a term or metric) with t0 and the tuple of (nominal time, value) that `values` has for it, so
    that it stays a pure function. Without a schedule the rate of an optimizer is that of its first group.
    Raises ValueError, naming optimizer, group and entry, for rates < 0 and for numbers that are not finite.

    >>> import torch
    >>> from minibatch.train.schedules import Steps
    >>> weight, bias = torch.zeros(2, requires_grad=True), torch.zeros(1, requires_grad=True)
    >>> optimizer = torch.optim.SGD([{"params": [weight], "momentum_time_constant": 256 / 0.105}, {"params": [bias],
    ...                              "lr_scale": 2.0}], lr=1.0)
    >>> set_rates([optimizer], [Steps((0.1, 0.01), borders=(1000,))], 1024, 1280)
    (0.01,)
    >>> [(group["lr"], round(group["momentum"], 2)) for group in optimizer.param_groups]
    [(0.01, 0.9), (0.02, 0)]
    """
    rates = []
    for number, (optimizer, schedule) in enumerate(zip(optimizers, schedules, strict=True)):
        groups = optimizer.param_groups
        rate = None
        if schedule is not None:
            rate = _value_at(schedule, t0, values, "lr", f"optimizers[{number}]")
        for group in groups:
            if rate is not None:
                _put_rate(group, rate * group.get("lr_scale", 1.0))
            own = group.get("schedules")
            if own:
                _put_scheduled(group, own, t0, values, number)
            if "rate_per" in group:
                _put_per_samples(group, t1 - t0, scheduled=rate is not None or bool(own and "lr" in own))
            if "momentum_time_constant" in group or "variance_time_constant" in group:
                _put_momenta(group, t1 - t0)
            if "samples" in group:
                group["samples"] = t1 - t0
            if "weight_decay_per_sample" in group:
                times = t1 - t0 if group.get("gradients", "mean") == "sum" else 1
                group["weight_decay"] = group["weight_decay_per_sample"] * times
        if rate is None:
            first = groups[0]["lr"]
            rate = first if isinstance(first, float) else float(first)
        rates.append(rate)
    return tuple(rates)


def _value_at(schedule: Schedule, t: int, values: ValuesByName | None, entry: str, where: str) -> float:
    """What `schedule` gives at nominal time `t`, finite and, for a rate, ≥ 0; else ValueError."""
    name = watched(schedule)
    if name is not None and values and name not in values:
        raise ValueError(
            f"{where}: the schedule {schedule} of {entry!r} watches {name!r}, which no validation measures: "
            f"there are {', '.join(map(repr, values))}"
        )
    value = float(value_at(schedule, t, tuple(values[name]) if name is not None and values else ()))
    if not (-math.inf < value < math.inf) or (entry == "lr" and value < 0.0):
        expected = "a finite number ≥ 0" if entry == "lr" else "a finite number"
        raise ValueError(f"{where}: the schedule {schedule} gives {entry} {value} at nominal time {t}, not {expected}")
    return value


def entries_in_motion(group: Mapping[str, Any], scheduled: bool) -> set[str]:
    """The entries of a group that only say where the run stands, because `set_rates` sets them at every step.

    scheduled: whether the optimizer has a schedule of its rate. For comparing configurations: leave these out.

    >>> sorted(entries_in_motion({"lr": 0.1, "momentum": 0.9, "momentum_time_constant": 1e4}, scheduled=True))
    ['lr', 'momentum']
    """
    names = {name.partition(".")[0] for name in group.get("schedules") or ()}
    if scheduled or "rate_per" in group:
        names.add("lr")
    for constant, entry, _ in _TIME_CONSTANTS:
        if group.get(constant) is not None:
            names.add(entry if entry in group else "betas")
    if "weight_decay_per_sample" in group:
        names.add("weight_decay")
    if "samples" in group:
        names.add("samples")
    return names


def _put_rate(group: dict[str, Any], rate: float) -> None:
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate


def _put_scheduled(
    group: dict[str, Any], schedules: Mapping[str, Schedule], t: int, values: ValuesByName | None, number: int
) -> None:
    for entry, schedule in schedules.items():
        value = _value_at(schedule, t, values, entry, f"optimizers[{number}], own schedules of a group")
        if entry == "lr":
            _put_rate(group, value)
            continue
        name, _, index = entry.partition(".")
        present = group.get(name)
        if index and isinstance(present, tuple | list) and index.isdigit() and int(index) < len(present):
            group[name] = (*present[: int(index)], value, *present[int(index) + 1 :])
        elif isinstance(present, Tensor) and not index:
            present.fill_(value)
        elif isinstance(present, int | float) and not index:
            group[name] = value
        else:
            raise ValueError(f"optimizers[{number}]: a group has a schedule of {entry!r}, but {_no_such(entry, group)}")


def _put_per_samples(group: dict[str, Any], samples: int, *, scheduled: bool) -> None:
    per, gradients = group["rate_per"], group.get("gradients", "mean")
    if per is None:
        return
    if gradients not in ("mean", "sum"):
        raise ValueError(f"a group has gradients={gradients!r}: expected 'mean' or 'sum'")
    if per != "minibatch" and not (isinstance(per, int | float) and 0 < per < math.inf):
        raise ValueError(f"a group has rate_per={per!r}: expected a number of samples > 0, 'minibatch' or None")
    if scheduled:
        rate = group["lr"]
    else:
        rate = group.setdefault("initial_lr", float(group["lr"]))
    if per == "minibatch":
        _put_rate(group, rate if gradients == "mean" else rate / samples)
    else:
        _put_rate(group, rate * samples / per if gradients == "mean" else rate / per)


def _put_momenta(group: dict[str, Any], samples: int) -> None:
    for constant, entry, position in _TIME_CONSTANTS:
        tau = group.get(constant)
        if tau is None:
            continue
        if not (isinstance(tau, int | float) and 0.0 <= tau < math.inf):
            raise ValueError(f"a group has {constant}={tau!r}: expected a finite number of samples ≥ 0")
        value = momentum_at(tau, samples)
        if entry in group:
            group[entry] = value
        elif "betas" in group:
            betas = list(group["betas"])
            betas[position] = value
            group["betas"] = tuple(betas)
        else:
            raise ValueError(f"a group has {constant}, but {_no_such(entry, group)}")


def _no_such(entry: str, group: Mapping[str, Any]) -> str:
    names = [name for name, value in group.items() if isinstance(value, int | float | tuple | Tensor)]
    near = difflib.get_close_matches(entry, names, n=1)
    return f"no number {entry!r}{f' (did you mean {near[0]!r}?)' if near else ''}: it has {', '.join(names)}"
