"""What is measured on held-out data: exact pairs (numerator, denominator), never means of means.

A `Metric` gives values per sample; over a whole data set, Σ w·m·value and Σ w·m are added in float64, so the result
does not depend on how the data set was cut into minibatches. Every per-sample loss is such a function, too. What is no
sum over samples (F1, AUROC, mean average precision) is `Collected` by a torchmetrics object, in nominal order.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

import torch
from torch import Tensor

from minibatch.train.batches import TensorBatch, shapes_of
from minibatch.train.losses.fields import Output, all_chosen
from minibatch.train.losses.shapes import Reduce, per_sample, same_shape
from minibatch.train.terms import Column

MOST_VALUES = 4096  # of one `Collected`; a confusion matrix of 1000 classes is no line of a log


@dataclass(frozen=True)
class Metric:
    """One measured value: per-sample values (n,) or (n, …) of outputs and batch, averaged with weights and mask.

    stream: which of several validation sets it is measured on, where a run has several sources.

    >>> Metric("error", lambda outputs, batch: (outputs.argmax(1) != batch["label"])).name
    'error'
    """

    name: str
    values: Callable[[Any, TensorBatch], Tensor]
    _: KW_ONLY
    weight: Column | None = None
    mask: Column | None = None
    stream: str | None = None


@dataclass(frozen=True)
class Collected:
    """A value of all samples together: `make()` is a new torchmetrics object (or collection) for every validation.

    It is updated with (outputs[output], batch[target]) of every minibatch in nominal order, and computed at the end.
    output: as in `on`; a tuple of them for an object that takes several. mask: a field or function, bool (n,) or per
    element: only what it keeps is handed over. fields: further arguments by name, {"indexes": "query"} for retrieval.
    arguments: a function (outputs, batch) that returns all positional arguments instead, for detection, say; with it
    neither output, target, mask nor fields are given. float64: floating-point sums of the object are float64. stream:
    as of `Metric`.

    Its results are pairs (value, 1.0) under its name; those of a vector are called name/0, name/1, …, those of a
    mapping name/key; what is NaN or was never updated has no value. Whether a result depends on how the data were cut
    into minibatches is the object's affair: counts and lists of samples do not.

    >>> import functools
    >>> from torchmetrics.classification import BinaryAUROC
    >>> collected = Collected("auroc", BinaryAUROC, target="label")
    >>> state = collected.begin(torch.device("cpu"))
    >>> batch = {"label": torch.tensor([0, 1, 1])}
    >>> collected.update(state, torch.tensor([0.1, 0.9, 0.2]), batch)
    >>> collected.pairs(state)
    {'auroc': (1.0, 1.0)}
    """

    name: str
    make: Callable[[], Any]
    _: KW_ONLY
    target: str | None = None
    output: Output = None
    mask: Column | None = None
    fields: Mapping[str, str] = field(default_factory=dict)
    arguments: Callable[[Any, TensorBatch], Sequence[Any]] | None = None
    float64: bool = True
    stream: str | None = None

    def __post_init__(self) -> None:
        if (self.target is None) == (self.arguments is None):
            raise ValueError(f"metric {self.name!r}: give either target=, a field, or arguments=, a function")
        if self.arguments is not None and (self.output is not None or self.mask is not None or self.fields):
            raise ValueError(f"metric {self.name!r}: arguments= gives all there is: leave output, mask and fields out")

    def begin(self, device: torch.device) -> Any:
        """A new object on `device`."""
        state = self.make()
        missing = [name for name in ("update", "compute") if not callable(getattr(state, name, None))]
        if missing:
            raise TypeError(
                f"metric {self.name!r}: make() returned {type(state).__name__}, without {' and '.join(missing)}: "
                "expected an object of torchmetrics, as from functools.partial(MulticlassF1Score, num_classes=10)"
            )
        if hasattr(state, "to"):
            state = state.to(device)
        if self.float64 and device.type != "mps" and hasattr(state, "set_dtype"):
            state.set_dtype(torch.float64)
        return state

    def update(self, state: Any, outputs: Any, batch: TensorBatch, keep: Tensor | None = None) -> None:
        """Hand the samples of one minibatch over; keep: bool (n, …), on the CPU, what of them counts."""
        if self.arguments is not None:
            state.update(*self.arguments(outputs, batch))
            return
        given = [*all_chosen(outputs, self.output), batch[str(self.target)]]
        named = {name: batch[column] for name, column in self.fields.items()}
        if keep is not None:
            # Indices, made on the CPU: a mask on a device would have to be waited for.
            places = keep.nonzero(as_tuple=True)
            given = [_kept(value, places) for value in given]
            named = {name: _kept(value, places) for name, value in named.items()}
        try:
            state.update(*given, **named)
        except Exception as error:
            error.add_note(f"minibatch: metric {self.name!r} was given {shapes_of(given)} {shapes_of(named)}")
            raise

    def pairs(self, state: Any) -> dict[str, tuple[float, float]]:
        """Its results, once all samples were handed over."""
        results: dict[str, tuple[float, float]] = {}
        _flatten(self.name, state.compute(), results)
        return results


Measured = Metric | Collected


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """1 where the largest logit is that of the label, else 0: float64 (n,), or (n, …) for logits (n, classes, …).

    >>> accuracy(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([1, 1]))
    tensor([1., 0.], dtype=torch.float64)
    """
    if logits.ndim < 2 or labels.shape != logits.shape[:1] + logits.shape[2:]:
        raise ValueError(
            f"accuracy needs logits (n, classes, …) and labels (n, …), got {shapes_of(logits)} and {shapes_of(labels)}"
        )
    return (logits.argmax(1) == labels).double()


def error(logits: Tensor, labels: Tensor) -> Tensor:
    """1 where the largest logit is not that of the label, else 0: float64 (n,).

    >>> error(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([1, 1]))
    tensor([0., 1.], dtype=torch.float64)
    """
    return 1.0 - accuracy(logits, labels)


def top_k(logits: Tensor, labels: Tensor, *, k: int) -> Tensor:
    """1 where the label is among the k largest logits, else 0: float64 (n,), or (n, …) for logits (n, classes, …).

    Of equal logits the one of the lower class counts as larger, on every device, and a NaN as the largest of all; a
    label that is no class, or whose own logit is NaN, is not among them. top_k with k=1 is `accuracy` but for NaN.

    >>> top_k(torch.tensor([[0.0, 2.0, 1.0]]), torch.tensor([2]), k=2)
    tensor([1.], dtype=torch.float64)
    """
    if logits.ndim < 2 or labels.shape != logits.shape[:1] + logits.shape[2:]:
        raise ValueError(
            f"top_k needs logits (n, classes, …) and labels (n, …), got {shapes_of(logits)} and {shapes_of(labels)}"
        )
    classes = logits.shape[1]
    if not 1 <= k <= classes:
        raise ValueError(f"top_k needs logits (n, classes) and 1 ≤ k ≤ classes, got {shapes_of(logits)} and k={k}")
    labels = labels.long().unsqueeze(1)
    own = logits.gather(1, labels.clamp(0, classes - 1))
    numbers = torch.arange(classes, device=logits.device).view(1, -1, *[1] * (logits.ndim - 2))
    # Negated comparisons, because every comparison with NaN is false.
    before = torch.where(numbers < labels, ~(logits < own), ~(logits <= own)) & (numbers != labels)
    inside = (before.sum(1) < k) & ~own.isnan().squeeze(1) & ((labels >= 0) & (labels < classes)).squeeze(1)
    return inside.double()


def top_k_error(logits: Tensor, labels: Tensor, *, k: int) -> Tensor:
    """1 where the label is not among the k largest logits, else 0: float64 (n,); see `top_k`.

    >>> top_k_error(torch.tensor([[0.0, 2.0, 1.0]]), torch.tensor([2]), k=1)
    tensor([1.], dtype=torch.float64)
    """
    return 1.0 - top_k(logits, labels, k=k)


def hamming(scores: Tensor, targets: Tensor, *, threshold: float = 0.0, reduce: Reduce = "mean") -> Tensor:
    """The share of a sample's labels on which (score > threshold) and the target differ: float64 (n,).

    scores, targets: (n, labels, …); targets bool, or 0 and 1. threshold: 0 for logits, 0.5 for probabilities.
    reduce="sum": how many labels differ (CNTK's hamming loss); the mean is what cuda-convnet2's `cost.bce` reports.

    >>> hamming(torch.tensor([[-1.0, 2.0, 3.0, -0.5]]), torch.tensor([[0, 1, 0, 0]]))
    tensor([0.2500], dtype=torch.float64)
    """
    same_shape("hamming", scores, targets)
    return per_sample(((scores > threshold) != (targets > 0.5)).double(), reduce)


def _kept(value: Any, places: tuple[Tensor, ...]) -> Any:
    if not isinstance(value, Tensor):
        raise TypeError(f"a mask chooses among the rows of tensors, got {shapes_of(value)}: use arguments=")
    return value[tuple(place.to(value.device, non_blocking=True) for place in places)]


def _flatten(name: str, value: Any, results: dict[str, tuple[float, float]]) -> None:
    """Numbers by name, of whatever an object of torchmetrics computes."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            _flatten(f"{name}/{key}", item, results)
    elif isinstance(value, Tensor) and value.ndim:
        if value.numel() + len(results) > MOST_VALUES:
            raise ValueError(f"metric {name!r} computed {shapes_of(value)}: that is more than {MOST_VALUES} values")
        for i, item in enumerate(value.cpu()):
            _flatten(f"{name}/{i}", item, results)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for i, item in enumerate(value):
            _flatten(f"{name}/{i}", item, results)
    else:
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise ValueError(f"metric {name!r} computed {shapes_of(value)}, expected numbers") from None
        results[name] = (number, 1.0) if number == number else (0.0, 0.0)
