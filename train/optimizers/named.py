"""Optimizers by name: torch's own, those of this package where torch has none, and what each seed system meant by it.

| name | without a preset | "theanets" | "cntk" |
|---|---|---|---|
| sgd, momentum | torch SGD; `Momentum` for velocity="inside", unit_gain or l1 | lr inside | inside, unit gain |
| nag, nesterov | the same with nesterov | lr inside | inside, unit gain |
| rprop | torch Rprop | etas 0.99, 1.01, steps 0 … 100 | |
| rmsprop | torch RMSprop; `GravesRMSprop` for eps_inside=True or halflife | Graves, half-life 14 | `CntkRMSprop` |
| adagrad | torch Adagrad; `InsideAdagrad` for eps_inside=True | eps inside, 1e-8 | 1e-16, normalized |
| adadelta | torch Adadelta | lr 1, half-life 14, eps 1e-8 | rho 0.95, eps 1e-8 |
| esgd | `ESGD` of the paper | block, moving average, every step | |
| adam | torch Adam | half-lives 7 and 69 | `CntkAdam` |
| fsadagrad | `FSAdagrad` | | the same |
| adamw, adamax, nadam, … | the class of torch.optim | | |

"convnet" (cuda-convnet2) and "halcon" have sgd with the rate inside the velocity, and nag; "mindspore" is torch's: its
Momentum is sgd. "cntk" takes gradients for sums and rates per minibatch: see rates.py for what that means and for
rate_per; under it, terms have denominator=None, or pass gradients="mean".
"""

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from minibatch.train.groups import WORKED_OUT, Rule, groups
from minibatch.train.optimizers.adaptive import GravesRMSprop, InsideAdagrad
from minibatch.train.optimizers.cntk import CntkAdam, CntkRMSprop, FSAdagrad
from minibatch.train.optimizers.descent import ewma
from minibatch.train.optimizers.esgd import ESGD
from minibatch.train.optimizers.momentum import Momentum
from minibatch.train.optimizers.on_top import AdadeltaOnTop, AdamOnTop, RpropOnTop
from minibatch.train.rates import ENTRIES

Options = dict[str, Any]
Chosen = tuple[Callable[..., Optimizer], Options]

ALIASES = {"momentum": "sgd", "momentum_sgd": "sgd", "nesterov": "nag", "momentumsgd": "sgd"}
_INSIDE: Options = {"velocity": "inside"}
_CNTK: Options = {"gradients": "sum", "rate_per": "minibatch"}

#: Pairs of options that say the same of the optimizer: given together, one of them would be lost.
RIVALS = (
    *WORKED_OUT.items(),
    ("weight_decay", "weight_prior"),
    ("weight_prior", "weight_decay_per_sample"),
    ("variance_momentum", "variance_time_constant"),
    ("rho", "halflife"),
    ("alpha", "halflife"),
    ("betas", "beta1_halflife"),
    ("betas", "beta2_halflife"),
)

#: What a system's name of an algorithm stands for: options that hold unless others are given.
PRESETS: Mapping[str, Mapping[str, Options]] = {
    "theanets": {
        "sgd": {"lr": 1e-4, **_INSIDE},
        "nag": {"lr": 1e-4, **_INSIDE},
        "rprop": {"lr": 1e-4, "etas": (0.99, 1.01), "step_sizes": (0.0, 100.0)},
        "rmsprop": {"lr": 1e-4, "eps_inside": True, "halflife": 14.0, "eps": 1e-8},
        "adagrad": {"lr": 1e-4, "eps_inside": True, "eps": 1e-8},
        "adadelta": {"lr": 1.0, "halflife": 14.0, "eps": 1e-8},
        "esgd": {"lr": 1e-4, "curvature": "block", "average": "ewma", "halflife": 14.0, "period": 1, "eps": 1e-8},
        "adam": {"lr": 1e-4, "beta1_halflife": 7.0, "beta2_halflife": 69.0, "eps": 1e-8},
    },
    "convnet": {"sgd": _INSIDE, "nag": _INSIDE},
    "halcon": {"sgd": _INSIDE, "nag": _INSIDE},
    "mindspore": {},  # everything as in torch
    "cntk": {
        "sgd": {**_INSIDE, "unit_gain": True, **_CNTK},
        "nag": {**_INSIDE, "unit_gain": True, **_CNTK},
        "adagrad": {"eps_inside": True, "eps": 1e-16, "normalize": True, **_CNTK},
        "adadelta": {"lr": 1.0, "rho": 0.95, "eps": 1e-8, "gradients": "sum", "rate_per": 1},
        "rmsprop": {"cntk": True, **_CNTK},
        "fsadagrad": _CNTK,
        "adam": {"cntk": True, **_CNTK},
    },
}


def optimizer(
    name: str,
    model: nn.Module | Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]],
    *rules: Rule,
    preset: str | None = None,
    **options: Any,
) -> Optimizer:
    """The optimizer called `name` (of the module's table, or any class of torch.optim; capitals do not matter).

    model: a module, whose trainable parameters are put into groups by `rules` and without decay of biases and gains
    (see groups.py; decay_vectors=True decays them too), or whatever torch's optimizers take. preset: "theanets",
    "convnet", "cntk", "halcon" or "mindspore": what that system calls by this name, with its defaults; options given
    win. options: those of the class, entries of rates.py for every group, and for some names
        velocity       "outside" (default) or "inside": where the learning rate is (sgd, nag)
        unit_gain      whether the gradient is multiplied by 1 - momentum (sgd, nag)
        momentum, nesterov  on top of rprop, adadelta and adam too
        halflife       in updates, for what torch calls alpha or rho (rmsprop, adadelta); beta1_halflife, beta2_halflife
        eps_inside     whether eps is inside the root (rmsprop, adagrad)
        weight_prior   HALCON's α: weight_decay on all but biases (preset "halcon")
    Of two options that say the same (RIVALS) only one may be given; it takes the place of the preset's other one.
    torch's classes are made with foreach=True unless foreach or fused is given, so that a device changes no bits.
    Raises ValueError with the nearest name for what is unknown.

    >>> model = nn.Linear(2, 1)
    >>> type(optimizer("adam", model, lr=0.01)).__module__
    'torch.optim.adam'
    >>> optimizer("rmsprop", model, preset="theanets").param_groups[0]["halflife"]
    14.0
    >>> optimizer("sgdd", model)
    Traceback (most recent call last):
        ...
    ValueError: there is no optimizer 'sgdd': did you mean 'sgd', 'esgd', 'asgd'? There are adadelta, ...
    """
    known = ALIASES.get(name.lower(), name.lower())
    if known not in optimizer_names():
        near = difflib.get_close_matches(known, optimizer_names(), n=3)
        hint = f": did you mean {', '.join(map(repr, near))}? There" if near else "; there"
        raise ValueError(f"there is no optimizer {name!r}{hint} are {', '.join(optimizer_names())}")
    _refuse_rivals(name, options)
    options = {**_preset(preset, known, options), **options}
    if preset == "halcon" and "weight_prior" in options:
        options["weight_decay"] = options.pop("weight_prior")
    if name.lower() in ALIASES or known == "nag" or options.get("nesterov"):
        _need_momentum("nesterov=True" if options.get("nesterov") else name, options, rules)
    group_entries = {entry: options.pop(entry) for entry in ENTRIES if entry in options}
    lent = _moves(rules, group_entries) and not options.get("momentum")
    if lent:
        options["momentum"] = 0.0  # so that a class with momentum is chosen
    elif not options.get("momentum", True):
        del options["momentum"]
    make, options = _CHOICES.get(known, _of_torch)(known, options)
    accepted = inspect.signature(make).parameters
    if lent and "momentum" not in accepted:
        options.pop("momentum", None)
    # torch refuses nesterov with momentum 0, and groups that have none are then left with what it was given instead.
    placeholder = make is torch.optim.SGD and options.get("nesterov") and not options.get("momentum")
    if "variance_time_constant" in accepted and "variance_time_constant" in group_entries:
        options["variance_time_constant"] = group_entries.pop("variance_time_constant")
    if isinstance(model, nn.Module):
        model = _grouped(model, rules, options, group_entries, accepted)
    elif rules:
        raise ValueError(f"optimizer({name!r}): rules need the model, for the names of its parameters; got {model!r}")
    elif group_entries or placeholder:
        model = [_with_entries(name, group, group_entries) for group in _as_groups(model)]
    _check_options(name, options, accepted)
    if placeholder:
        made = make([{"momentum": 0.0, **group} for group in _as_groups(model)], **{**options, "momentum": 0.5})
        made.defaults["momentum"] = 0.0
    else:
        made = make(model, **options)
    _check_entries(name, made)
    return made


@cache
def optimizer_names() -> tuple[str, ...]:
    """All names that `optimizer` knows, in lower case."""
    return tuple(sorted({*_CHOICES, *_torch_classes()}))


@cache
def _torch_classes() -> dict[str, type[Optimizer]]:
    found = vars(torch.optim).values()
    return {c.__name__.lower(): c for c in found if inspect.isclass(c) and issubclass(c, Optimizer) and c != Optimizer}


def _preset(preset: str | None, name: str, given: Options) -> Options:
    if preset is None:
        return {}
    if preset not in PRESETS:
        raise ValueError(f"preset={preset!r}: expected one of {', '.join(map(repr, PRESETS))}")
    names = PRESETS[preset]
    if names and name not in names:
        raise ValueError(f"preset={preset!r} has no optimizer {name!r}, only {', '.join(names)}; leave the preset out")
    if preset == "theanets" and name == "adadelta" and given.get("lr", 1.0) != 1.0:
        raise ValueError(f"preset='theanets': adadelta has no learning rate there, got lr={given['lr']}; leave it out")
    if preset == "cntk" and "lr" not in given and "lr" not in names[name]:
        raise ValueError(f"preset='cntk': {name} has no default for its learning rate; pass lr=")
    replaced = {other for pair in RIVALS for one, other in (pair, pair[::-1]) if given.get(one) is not None}
    return {option: value for option, value in names.get(name, {}).items() if option not in replaced}


def _refuse_rivals(name: str, given: Mapping[str, Any]) -> None:
    """Refuse options, or entries of a group, of which one would be lost."""
    schedules = given.get("schedules") or {}
    for one, other in RIVALS:
        if given.get(other) is None:
            continue
        if given.get(one) is not None:
            raise ValueError(
                f"optimizer({name!r}): {one}={given[one]!r} and {other}={given[other]!r} say the same; give one of them"
            )
        if one in schedules:
            raise ValueError(f"optimizer({name!r}): a schedule of {one} and {other}={given[other]!r}; give one of them")


def _need_momentum(what: str, options: Options, rules: tuple[Rule, ...]) -> None:
    given = [options, *(rule.entries for rule in rules)]
    constant = any(each.get("momentum_time_constant") for each in given)
    if not (options.get("momentum") or constant or _moves(rules, options)):
        raise ValueError(f"{what} is nothing without momentum: pass momentum= or momentum_time_constant=")


def _moves(rules: tuple[Rule, ...], entries: Options) -> bool:
    """Whether some group has momentum, or a schedule of it, though the options may have none."""
    own = [entries.get("schedules") or {}, *(rule.schedules for rule in rules)]
    return any(rule.momentum for rule in rules) or any("momentum" in schedules for schedules in own)


def _sgd(name: str, options: Options) -> Chosen:
    if name == "nag":
        options["nesterov"] = True
    if options.get("velocity", "outside") == "outside" and not options.get("unit_gain") and not options.get("l1"):
        for own in ("velocity", "unit_gain", "l1"):
            options.pop(own, None)
        return torch.optim.SGD, _explicit(torch.optim.SGD, options)
    return Momentum, {"velocity": "outside", **options}


def _rmsprop(name: str, options: Options) -> Chosen:
    if options.pop("cntk", False):
        return CntkRMSprop, options
    if options.pop("eps_inside", "halflife" in options):
        return GravesRMSprop, options
    if "halflife" in options:
        options["alpha"] = ewma(options.pop("halflife"))
    return torch.optim.RMSprop, _explicit(torch.optim.RMSprop, options)


def _adagrad(name: str, options: Options) -> Chosen:
    if options.pop("eps_inside", False):
        return InsideAdagrad, options
    return torch.optim.Adagrad, _explicit(torch.optim.Adagrad, options)


def _adadelta(name: str, options: Options) -> Chosen:
    if "halflife" in options:
        options["rho"] = ewma(options.pop("halflife"))
    return _on_top(AdadeltaOnTop, torch.optim.Adadelta, options)


def _adam(name: str, options: Options) -> Chosen:
    if options.pop("cntk", False):
        return CntkAdam, options
    halflives = [options.pop(entry, None) for entry in ("beta1_halflife", "beta2_halflife")]
    if any(halflives):
        betas = options.get("betas", (0.9, 0.999))
        options["betas"] = tuple(ewma(h) if h else beta for h, beta in zip(halflives, betas, strict=True))
    if name == "adam":
        return _on_top(AdamOnTop, torch.optim.Adam, options)
    return torch.optim.AdamW, _explicit(torch.optim.AdamW, options)


def _rprop(name: str, options: Options) -> Chosen:
    return _on_top(RpropOnTop, torch.optim.Rprop, options)


def _on_top(with_velocity: Callable[..., Optimizer], plain: Callable[..., Optimizer], options: Options) -> Chosen:
    """torch's class, or the one with velocity on top if there is momentum."""
    explicit = _explicit(plain, options)
    if "momentum" in options:
        # Said here, because the signature of the class with velocity does not tell what a rule's rate is a multiple of.
        return with_velocity, {"lr": inspect.signature(plain).parameters["lr"].default, **explicit}
    return plain, {name: value for name, value in explicit.items() if name != "nesterov"}


def _esgd(name: str, options: Options) -> Chosen:
    return ESGD, options


def _fsadagrad(name: str, options: Options) -> Chosen:
    return FSAdagrad, options


def _of_torch(name: str, options: Options) -> Chosen:
    made = _torch_classes()[name]
    return made, _explicit(made, options)


_CHOICES: Mapping[str, Callable[[str, Options], Chosen]] = {
    "sgd": _sgd,
    "nag": _sgd,
    "rprop": _rprop,
    "rmsprop": _rmsprop,
    "adagrad": _adagrad,
    "adadelta": _adadelta,
    "esgd": _esgd,
    "adam": _adam,
    "adamw": _adam,
    "fsadagrad": _fsadagrad,
}


def _explicit(make: Callable[..., Optimizer], options: Options) -> Options:
    """The options with foreach=True, where the class has it and nothing else was chosen."""
    parameters = inspect.signature(make).parameters
    if "foreach" in parameters and not any(options.get(choice) for choice in ("fused", "differentiable")):
        return {"foreach": True, **options}
    return options


def _grouped(
    model: nn.Module, rules: tuple[Rule, ...], options: Options, entries: Options, accepted: Mapping[str, Any]
) -> list[dict[str, Any]]:
    decay_vectors = options.pop("decay_vectors", False)
    decay = options.get("weight_decay")
    if decay is None and "weight_decay" in accepted:
        decay = accepted["weight_decay"].default
    defaults = {**entries}
    scheduled = "weight_decay" in (entries.get("schedules") or {}) or "weight_decay_per_sample" in entries
    if decay:
        defaults["weight_decay"] = decay
    elif not scheduled:
        decay_vectors = True  # nothing decays: no reason to part vectors from matrices
    if any(rule.rate is not None for rule in rules):
        defaults["lr"] = options.get("lr", accepted["lr"].default if "lr" in accepted else 1e-3)
    return groups(model, *rules, decay_vectors=decay_vectors, **defaults)


def _as_groups(parameters: Iterable[Any]) -> list[dict[str, Any]]:
    listed = list(parameters)
    return listed if listed and isinstance(listed[0], dict) else [{"params": listed}]


def _with_entries(name: str, group: Mapping[str, Any], entries: Options) -> dict[str, Any]:
    """A group of the user's with the entries that are for every group, but for those that it says in another way."""
    _refuse_rivals(name, group)
    replaced = {other for one, other in RIVALS if group.get(one) is not None}
    return {**{entry: value for entry, value in entries.items() if entry not in replaced}, **group}


def _check_entries(name: str, made: Optimizer) -> None:
    """Refuse what torch would carry along in silence: group entries that neither the optimizer nor rates.py reads."""
    known = {"params", "param_names", "initial_lr", *ENTRIES, *made.defaults}
    for group in made.param_groups:
        for entry in group:
            if entry not in known:
                near = difflib.get_close_matches(entry, sorted(known), n=1)
                raise ValueError(
                    f"optimizer({name!r}): a group has the entry {entry!r}, which {type(made).__name__} does not know"
                    + (f": did you mean {near[0]!r}? It" if near else "; it")
                    + f" knows {', '.join(sorted(known))}"
                )


def _check_options(name: str, options: Options, accepted: Mapping[str, inspect.Parameter]) -> None:
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in accepted.values()):
        return
    for option in options:
        if option not in accepted:
            known = [entry for entry in accepted if entry not in ("self", "params")]
            near = difflib.get_close_matches(option, [*known, *ENTRIES], n=1)
            raise ValueError(
                f"optimizer({name!r}) has no option {option!r}"
                + (f": did you mean {near[0]!r}? It" if near else "; it")
                + f" has {', '.join(known)}; and for every group {', '.join(ENTRIES)}"
            )
