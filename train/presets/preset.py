"""What a system does differently, as one frozen value, with which terms, optimizers and the rest are made its way."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args, get_type_hints

from torch import Tensor, nn
from torch.optim import Optimizer

from minibatch.models.noise import Dropout
from minibatch.train import losses, regularizers
from minibatch.train.clipping import Clip, ClipElement, ClipNorm, ClipPerSample, ClipTensorNorm
from minibatch.train.groups import Rule
from minibatch.train.losses import ClassWeight, Compared, class_weight
from minibatch.train.optimizers import optimizer
from minibatch.train.optimizers.named import PRESETS
from minibatch.train.presets.penalties import penalty
from minibatch.train.regularizers import Regularizer
from minibatch.train.schedules import Constant, Schedule, Steps, cntk_list, from_convnet
from minibatch.train.schedules.schedule import checked_samples
from minibatch.train.terms import Term

Denominator = str | float | None
NORMS = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, nn.LayerNorm, nn.GroupNorm),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
)
_UNSET: Any = object()


@dataclass(frozen=True, kw_only=True)
class Preset:
    """The conventions of one system. Its methods make terms, optimizers and so on; arguments given to them always win.

    system: its name. denominator: what a term is divided by, and denominators: by the name of the loss function where
    that differs. losses: options of loss functions by their name. normalize_class_weights: whether class weights are
    divided by their sum over the classes.
    reduce: of regularizers. penalties: those it has, by its name for them, see penalties.py.
    algorithm: its usual optimizer; optimizers: the name of its options in the table of optimizers, see named.py;
    spelling: its names for options of optimizers; needs_rate: whether it has no default learning rate.
    decay: which parameters an optimizer's weight decay is for: "matrices", "all", or "all but norms".
    clipping: its form of gradient clipping, None if it has none. rates: how it writes schedules: "constant", "run"
    (over the progress of a run), "epochs" (lists with an epoch size) or "steps" (a value per step).
    dropout: what makes up for dropped elements, see noise.Dropout. batch_size: its default, None if it has none;
    for `experiment`, a Trainer is told. stopping: options of `Trainer.fit` for early stopping.

    >>> from minibatch.train.presets import preset
    >>> halcon = preset("halcon")
    >>> halcon.denominator, halcon.denominators["huber"], halcon.losses["huber"]
    ('count', None, {'beta': 0.11, 'reduce': 'sum'})
    """

    system: str
    denominator: Denominator
    denominators: Mapping[str, Denominator] = field(default_factory=dict)
    losses: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    normalize_class_weights: bool = False
    reduce: Literal["sum", "mean", "mean_of_means"] = "sum"
    penalties: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    algorithm: str = "sgd"
    optimizers: str
    spelling: Mapping[str, str] = field(default_factory=dict)
    needs_rate: bool = True
    decay: Literal["matrices", "all", "all but norms"] = "matrices"
    clipping: Literal["per tensor", "per sample", "global"] | None = None
    rates: Literal["constant", "run", "epochs", "steps"] = "constant"
    dropout: Literal["train", "test", "never"] = "train"
    batch_size: int | None = None
    stopping: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Wrong words are refused here, not where they are used."""
        for name, kind in get_type_hints(type(self)).items():
            words = [word for part in (kind, *get_args(kind)) for word in get_args(part) if isinstance(word, str)]
            value = getattr(self, name)
            if words and value is not None and value not in words:
                raise ValueError(f"preset {self.system!r}: {name}={value!r}, expected one of {', '.join(words)}")
        for denominator in (self.denominator, *self.denominators.values()):
            Term(self.system, _no_loss, denominator=denominator)
        if self.optimizers not in PRESETS:
            raise ValueError(
                f"preset {self.system!r}: optimizers={self.optimizers!r}, expected one of {', '.join(PRESETS)}"
            )
        for name, described in self.penalties.items():
            if not hasattr(regularizers, described.get("kind", "")):
                raise ValueError(f"preset {self.system!r}: the penalty {name!r} is {described!r}, without a known kind")

    def term(self, name: str, loss: Any, *, denominator: Denominator = _UNSET, **options: Any) -> Term:
        """`Term(name, loss, …)` with the denominator and the loss's options of the system.

        loss: as for a term; options for the function inside `on(function, …)` are set unless they are given there.
        options: all others of `Term`.

        >>> from minibatch.train.losses import huber, on
        >>> from minibatch.train.presets import preset
        >>> term = preset("halcon").term("box", on(huber, "box"))
        >>> term.denominator, term.loss.options
        (None, {'beta': 0.11, 'reduce': 'sum'})
        """
        function = _name_of(loss)
        if isinstance(loss, Compared):
            loss = replace(loss, options={**self.losses.get(function, {}), **loss.options})
        if denominator is _UNSET:
            denominator = self.denominators.get(function, self.denominator)
        return Term(name, loss, denominator=denominator, **options)

    def class_weight(self, target: str, weights: Sequence[float], *, normalize: bool | None = None) -> ClassWeight:
        """For `term(weight=…)`: the weight of every sample by its class, normalised as the system does.

        >>> from minibatch.train.presets import preset
        >>> preset("halcon").class_weight("label", [1.0, 3.0]).weights
        (0.25, 0.75)
        """
        chosen = self.normalize_class_weights if normalize is None else normalize
        return class_weight(target, weights, normalize=chosen)

    def optimizer(
        self,
        model: nn.Module,
        learning_rate: float | None = None,
        *rules: Rule,
        algorithm: str | None = None,
        **options: Any,
    ) -> Optimizer:
        """The optimizer that the system calls `algorithm` (by default its usual one), with its options; see named.py.

        learning_rate: needed where the system has no default. rules: for parameters by name, see groups.py; they come
        after those of the preset and win. options: of the optimizer, also under the names the system has for them.

        >>> from minibatch.train.presets import preset
        >>> made = preset("convnet").optimizer(nn.Linear(2, 1), 0.01, Rule("bias", rate=2.0), mom=0.9, wc=0.0005)
        >>> [(group["lr"], group["momentum"], group["weight_decay"]) for group in made.param_groups]
        [(0.01, 0.9, 0.0005), (0.02, 0.9, 0.0)]
        """
        for theirs, ours in self.spelling.items():
            if theirs in options:
                if ours in options:
                    raise ValueError(f"preset {self.system!r}: {theirs}= and {ours}= are the same; give one of them")
                options[ours] = options.pop(theirs)
        if learning_rate is not None:
            if "lr" in options:
                raise ValueError(f"preset {self.system!r}: learning_rate={learning_rate} and lr={options['lr']}")
            options["lr"] = learning_rate
        chosen = self.algorithm if algorithm is None else algorithm
        if self.needs_rate and "lr" not in options and chosen.lower() != "adadelta":
            raise ValueError(f"preset {self.system!r} has no default learning rate: pass learning_rate=")
        if self.decay != "matrices":
            options.setdefault("decay_vectors", True)
        if self.decay == "all but norms" and options.get("weight_decay"):
            rules = (*_norms_without_decay(model), *rules)
        return optimizer(chosen, model, *rules, preset=self.optimizers, **options)

    def regularizers(
        self,
        pattern: str | Sequence[str] = "*",
        *,
        options: Mapping[str, Any] | None = None,
        **coefficients: Any,
    ) -> tuple[Regularizer, ...]:
        """The system's regularizers by its own names for them: for `Trainer(regularizers=…)`.

        pattern: of the names of parameters, or of the modules whose activations count. options: of the regularizers,
        in place of the system's. coefficients: a number, or a function of nominal time, each.
        Raises ValueError, with what to do instead, for what the system does not have.

        >>> from minibatch.train.presets import preset
        >>> preset("theanets").regularizers(weight_l2=1e-4)[0].reduce
        'mean'
        >>> preset("halcon").regularizers(weight_prior=0.0005)[0].factor
        0.5
        """
        for name in coefficients:
            if name not in self.penalties:
                has = ", ".join([*self.penalties, "weight_decay= of the optimizer"])
                raise ValueError(f"preset {self.system!r} has no regularizer {name!r}; it has {has}")
        given = options or {}
        return tuple(
            penalty(self.penalties[name], coefficient, pattern, self.reduce, given)
            for name, coefficient in coefficients.items()
        )

    def clip(
        self, limit: float | None = None, *, elements: float | None = None, truncate: bool | None = None
    ) -> tuple[Clip, ...]:
        """The system's gradient clipping at `limit`, for `Trainer(clip=…)`; () without limits.

        theanets: limit is its max_gradient_norm, per tensor; elements its max_gradient_elem, which goes before the
        norm. CNTK: limit is gradient_clipping_threshold_per_sample, truncate its gradient_clipping_with_truncation.
        Raises ValueError for options that the system does not have.

        >>> from minibatch.train.presets import preset
        >>> preset("theanets").clip(5.0), preset("theanets").clip(5.0, elements=0.1)
        ((ClipTensorNorm(limit=5.0),), (ClipElement(limit=0.1),))
        """
        if elements is not None and self.clipping != "per tensor":
            raise ValueError(f"preset {self.system!r}: elements={elements}: only 'theanets' clips by elements")
        if truncate is not None and self.clipping != "per sample":
            raise ValueError(f"preset {self.system!r}: truncate={truncate}: only 'cntk' has the choice")
        if elements is not None:
            return (ClipElement(elements),)
        if limit is None:
            return ()
        if self.clipping == "per tensor":
            return (ClipTensorNorm(limit),)
        if self.clipping == "per sample":
            return (ClipPerSample(limit, truncate=True if truncate is None else truncate),)
        if self.clipping == "global":
            return (ClipNorm(limit),)
        raise ValueError(
            f"preset {self.system!r} has no gradient clipping; pass Trainer(clip=ClipNorm({limit})) to have it all the "
            "same"
        )

    def schedule(
        self,
        value: Any,
        *,
        max_samples: int | None = None,
        epoch_size: int | None = None,
        minibatch_size: int | None = None,
    ) -> Schedule:
        """The schedule that the system writes as `value`; a number is constant everywhere.

        convnet: a string of its layer-params, over max_samples. cntk: a list, in units of epoch_size samples.
        mindspore: one value per step of minibatch_size samples, the last one for ever. theanets and halcon change rates
        from outside, between calls. Raises ValueError if what is needed is missing, or given for nothing.

        >>> from minibatch.train.presets import preset
        >>> preset("mindspore").schedule([0.1, 0.1, 0.01], minibatch_size=32)
        Steps(rates=(0.1, 0.01), borders=(64,))
        """
        given = {"max_samples": max_samples, "epoch_size": epoch_size, "minibatch_size": minibatch_size}
        unit = {"run": "max_samples", "epochs": "epoch_size", "steps": "minibatch_size"}.get(self.rates)
        for name, size in given.items():
            if size is not None and name != unit:
                raise ValueError(f"preset {self.system!r}: schedules do not depend on {name}, which is {size}")
        if isinstance(value, int | float):
            return Constant(value)
        if unit is None:
            raise ValueError(
                f"preset {self.system!r} has only constant rates, got {value!r}: write Steps(rates, borders), or "
                "another of the schedules"
            )
        size = given[unit]
        if size is None:
            raise ValueError(f"preset {self.system!r}: the schedule {value!r} needs {unit}=, in samples")
        if self.rates == "run":
            return from_convnet(value, size)
        return cntk_list(value, size) if self.rates == "epochs" else _per_step(value, size)

    def make_dropout(self, p: float, *, rescale: Literal["train", "test", "never"] | None = None) -> Dropout:
        """A keyed dropout layer that drops with probability `p` and rescales as the system does.

        >>> from minibatch.train.presets import preset
        >>> preset("theanets").make_dropout(0.3).rescale
        'never'
        """
        return Dropout(p, rescale=self.dropout if rescale is None else rescale)

    def fit_options(self, **options: Any) -> dict[str, Any]:
        """Options for `Trainer.fit`: the system's early stopping, and whatever is given.

        >>> from minibatch.train.presets import preset
        >>> preset("theanets").fit_options(patience=3)["patience"], preset("cntk").fit_options()
        (3, {})
        """
        return {**self.stopping, **options}

    def describe(self) -> str:
        """A table of what the system does, one convention a line; for people."""
        from minibatch.train.presets.table import table

        return table(self)


def _no_loss(outputs: Any, batch: Any) -> Tensor:
    raise AssertionError("only for checking denominators")


def _name_of(loss: Any) -> str:
    """Of one of the functions in losses/, which alone have the options of a system; "" for others."""
    function = getattr(loss, "function", None) if isinstance(loss, Compared) else None
    name = getattr(function, "__name__", "")
    return name if function is not None and getattr(losses, name, None) is function else ""


def _norms_without_decay(model: nn.Module) -> list[Rule]:
    """A rule for every normalisation layer of `model`: MindSpore's decay leaves out "beta" and "gamma"."""
    found = [
        name
        for name, module in model.named_modules()
        if isinstance(module, NORMS) and next(module.parameters(), None) is not None
    ]
    return [Rule(f"{name}.*" if name else "*", weight_decay=0.0, vectors=True) for name in found]


def _per_step(values: Sequence[float], minibatch_size: int) -> Schedule:
    """`values[i]` in step i, the last one for ever; equal neighbours are one piece."""
    size = checked_samples(minibatch_size, "minibatch_size", least=1)
    rates, borders = [values[0]], []
    for step, value in enumerate(values):
        if value != rates[-1]:
            rates.append(value)
            borders.append(step * size)
    return Steps(rates, borders) if borders else Constant(rates[0])
