"""Parameter groups by patterns of qualified names: rates, decay, momentum, own schedules, and what is frozen.

Rules are applied to every parameter in the order they are given; where several match, the later one wins, entry by
entry; of a number, its schedule and what it is worked out from (see WORKED_OUT), the last one given holds. Weight
decay leaves out parameters with fewer than two axes (biases, gains of norms), unless it is asked for.

>>> from torch import nn, optim
>>> model = nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3), nn.Linear(3, 2))
>>> found = groups(model, Rule("0.*", freeze=True), Rule("*.bias", rate=2.0), lr=0.1, weight_decay=1e-4)
>>> optimizer = optim.SGD(found, momentum=0.9)
>>> print(parameter_table(model, optimizer))
parameter  shape  lr      lr_scale  momentum  weight_decay
0.weight   3×4    frozen
0.bias     3      frozen
1.weight   3      0.1     -         0.9       0.0
1.bias     3      0.2     2.0       0.9       0.0
2.weight   2×3    0.1     -         0.9       0.0001
2.bias     2      0.2     2.0       0.9       0.0
"""

import difflib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from minibatch.train.schedules.schedule import Schedule

Named = nn.Module | Iterable[tuple[str, Tensor]]

# Entries of rates.py that work out a number of a group at every step: beside them the number itself would be lost.
WORKED_OUT = {"momentum": "momentum_time_constant", "weight_decay": "weight_decay_per_sample"}


@dataclass(frozen=True)
class Rule:
    """What parameters whose qualified name matches the shell pattern `pattern` get; None leaves an entry as it was.

    rate: the group's learning rate is so many times the optimizer's; 0 freezes (cuda-convnet2's eps = 0).
    weight_decay: of those with two or more axes; with `vectors`, of all that match. For HALCON's weight_prior α, whose
    penalty is α/2·Σ w², weight_decay is α. momentum: of optimizers that have one. freeze: True takes the parameters out
    of training (requires_grad False), False back in. schedules: own schedules of group entries in samples of nominal
    time, see rates.py. entries: any other entries of the group.

    >>> Rule("layers.*.bias", rate=2.0).matches("layers.0.bias")
    True
    """

    pattern: str
    _: KW_ONLY
    rate: float | None = None
    weight_decay: float | None = None
    momentum: float | None = None
    freeze: bool | None = None
    schedules: Mapping[str, Schedule] = field(default_factory=dict)
    entries: Mapping[str, Any] = field(default_factory=dict)
    vectors: bool = False

    def __post_init__(self) -> None:
        for name in ("rate", "weight_decay", "momentum"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int | float) and 0.0 <= value < math.inf):
                raise ValueError(f"Rule({self.pattern!r}): {name}={value!r}, expected a finite number ≥ 0, or None")
        if self.rate is not None and "lr" in self.schedules:
            raise ValueError(f"Rule({self.pattern!r}): rate={self.rate} and a schedule of its own for lr; give one")
        for name, constant in WORKED_OUT.items():
            ways = {f"{name}=": getattr(self, name) is not None, f"a schedule of {name}": name in self.schedules,
                    f"the entry {constant}": self.entries.get(constant) is not None}  # fmt: skip
            if len(given := [way for way, there in ways.items() if there]) > 1:
                raise ValueError(f"Rule({self.pattern!r}): {' and '.join(given)}; give one of them")
        taken = {"params", "lr_scale", "weight_decay", "momentum", "schedules"} & set(self.entries)
        if taken:
            raise ValueError(
                f"Rule({self.pattern!r}): entries has {', '.join(sorted(taken))}: use the rule's own options"
            )

    def matches(self, name: str) -> bool:
        return fnmatchcase(name, self.pattern)


def groups(model: Named, *rules: Rule, decay_vectors: bool = False, **defaults: Any) -> list[dict[str, Any]]:
    """Groups for any torch optimizer over the trainable parameters of `model`, one for each set of equal entries.

    model: a module, or pairs of name and parameter, as `named_parameters()` gives them. defaults: entries of every
    group, as lr and weight_decay; decay_vectors: whether weight_decay counts for biases and gains too. Rules that
    freeze change `requires_grad` of the parameters. Groups and parameters keep the model's order.
    Raises ValueError for a rule that matches no parameter, for one with a rate where no `lr` is given, and if nothing
    is left to train.

    >>> found = groups(nn.Linear(3, 2), weight_decay=0.1)
    >>> [(group["weight_decay"], [tuple(p.shape) for p in group["params"]]) for group in found]
    [(0.1, [(2, 3)]), (0.0, [(2,)])]
    """
    named = list(model.named_parameters() if isinstance(model, nn.Module) else model)
    names = [name for name, _ in named]
    for rule in rules:
        if not any(map(rule.matches, names)):
            near = difflib.get_close_matches(rule.pattern, names, n=3, cutoff=0.3)
            some = ", ".join(near or names[:10]) + (" …" if len(names) > len(near or names[:10]) else "")
            raise ValueError(f"{_title(rule)} matches none of the {len(names)} parameters: {some}")
        if rule.rate is not None and rule.rate != 0.0 and "lr" not in defaults:
            raise ValueError(f"{_title(rule)} scales the rate: give groups the rate without a schedule, as lr=")
    result: dict[str, dict[str, Any]] = {}
    for name, parameter in named:
        mine = [rule for rule in rules if rule.matches(name)]
        freeze = [rule.freeze for rule in mine if rule.freeze is not None][-1:]
        if freeze:
            parameter.requires_grad_(not freeze[0])
        if [rule.rate for rule in mine if rule.rate is not None][-1:] == [0.0]:
            parameter.requires_grad_(False)
        if not parameter.requires_grad:
            continue
        entries = _entries(parameter, mine, decay_vectors, defaults)
        key = _key(entries)
        result.setdefault(key, {"params": [], **entries})["params"].append(parameter)
    if not result:
        raise ValueError(f"none of the {len(names)} parameters is trainable: all are frozen")
    return list(result.values())


def parameter_table(model: Named, optimizers: Optimizer | Sequence[Optimizer] | Sequence[Mapping[str, Any]]) -> str:
    """Which parameter got what: a line for each, with the entries in which groups differ or that matter most.

    optimizers: one, several, or groups. "frozen" is what no gradient reaches, "no optimizer" what nobody updates.
    """
    if isinstance(optimizers, Optimizer):
        found: list[Mapping[str, Any]] = list(optimizers.param_groups)
    else:
        found = []
        for one in optimizers:
            found += one.param_groups if isinstance(one, Optimizer) else [one]
    entries = [{k: v for k, v in group.items() if k not in ("params", "param_names", "initial_lr")} for group in found]
    names = sorted({name for each in entries for name in each})
    usual = ("lr", "lr_scale", "momentum", "weight_decay", "schedules")
    columns = [n for n in names if n in usual or len({repr(each.get(n)) for each in entries}) > 1]
    columns.sort(key=lambda name: (usual.index(name) if name in usual else len(usual), name))
    of = {id(p): each for each, group in zip(entries, found, strict=True) for p in group["params"]}
    lines = [["parameter", "shape", *columns]]
    for name, parameter in model.named_parameters() if isinstance(model, nn.Module) else model:
        mine = of.get(id(parameter))
        line = [name, "×".join(map(str, parameter.shape)) or "()"]
        if not parameter.requires_grad:
            line.append("frozen")
        elif mine is None:
            line.append("no optimizer")
        else:
            line += [_shown(mine[column]) if column in mine else "-" for column in columns]
        lines.append(line)
    widths = [max(len(line[i]) if i < len(line) else 0 for line in lines) for i in range(len(lines[0]))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=False)).rstrip() for line in lines)


def _entries(
    parameter: Tensor, rules: Sequence[Rule], decay_vectors: bool, defaults: Mapping[str, Any]
) -> dict[str, Any]:
    """The entries of the group of one parameter."""
    matrix = parameter.ndim >= 2
    entries = dict(defaults)
    schedules: dict[str, Schedule] = dict(entries.pop("schedules", None) or {})
    if not matrix and not decay_vectors:
        for name in ("weight_decay", "weight_decay_per_sample"):
            if name == "weight_decay" or name in entries:
                entries[name] = 0.0
        schedules.pop("weight_decay", None)
    for rule in rules:
        entries.update(rule.entries)
        if rule.rate is not None:
            if "lr" in schedules:
                raise ValueError(f"{_title(rule)} scales the rate, for which there is a schedule of the group's own")
            entries["lr_scale"] = rule.rate
        numbers, own = {"momentum": rule.momentum, "weight_decay": rule.weight_decay}, dict(rule.schedules)
        if not (matrix or rule.vectors):
            numbers.pop("weight_decay")
            own.pop("weight_decay", None)
        for name, constant in WORKED_OUT.items():
            number = numbers.get(name)
            if number is not None:
                entries[name] = number
            if number is not None or rule.entries.get(constant) is not None:
                schedules.pop(name, None)
            if number is not None or name in own:
                entries.pop(constant, None)
                schedules.pop(constant, None)
        schedules |= own
    if schedules:
        entries["schedules"] = schedules
    if "lr_scale" in entries and "lr" in entries:
        entries["lr"] = entries["lr"] * entries["lr_scale"]
    return entries


def _key(entries: Mapping[str, Any]) -> str:
    """Equal for equal entries: objects without a value of their own are told apart by what they are."""
    return repr(sorted(entries.items(), key=lambda item: item[0]))


def _title(rule: Rule) -> str:
    return f"the rule for {rule.pattern!r}"


def _shown(value: Any) -> str:
    if isinstance(value, Tensor):
        value = value.tolist()
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {inner}" for name, inner in value.items())
    return f"{value:.6g}" if isinstance(value, float) and value != round(value, 6) else json.dumps(value, default=str)
