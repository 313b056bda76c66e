"""Records what modules give out while the model runs, for the regularizers of activations."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from minibatch import rng
from minibatch.models.noise.keys import in_backward
from minibatch.models.outputs import first_tensor, modules_matching, sample_axis, with_first_tensor
from minibatch.train.batches import TensorBatch, shapes_of
from minibatch.train.regularizers.activations import ActivationRegularizer, Recorded
from minibatch.train.regularizers.coefficients import Regularizer, of_kind
from minibatch.train.terms import Term

MODEL = ""  # the name that named_modules gives to the model itself


class Recorder:
    """Runs those of `regularizers` that are for activations: hooks on modules of `model` while `recording`.

    seed: of the random numbers of regularizers that draw. Nothing is kept of a pass but its activations, until the next
    one begins; outside of `recording` the model is as it was, without hooks.

    Raises ValueError for patterns that fit no module, and for names that two regularizers have.

    >>> from minibatch.train.regularizers import HiddenL1
    >>> model = nn.Sequential(nn.Identity(), nn.Linear(2, 1))
    >>> recorder = Recorder(model, [HiddenL1(coefficient=0.1, pattern="0")])
    >>> with recorder.recording(torch.arange(2)):
    ...     outputs = model(torch.tensor([[1.0, -2.0], [0.5, 0.0]]))
    >>> recorder.values("hidden_l1")
    tensor([3.0000, 0.5000])
    """

    def __init__(self, model: nn.Module, regularizers: Sequence[Regularizer], *, seed: int = 0) -> None:
        self.model = model
        self.regularizers = of_kind(regularizers, ActivationRegularizer)
        self.seed = rng.checked_seed(seed)
        self._matched: dict[str, dict[str, nn.Module]] = {}
        self._starts: dict[str, str] = {}
        for name, one in self.regularizers.items():
            try:
                self._matched[name] = modules_matching(model, one.pattern)
                if one.needs_start:
                    self._starts[name] = self._start_of(one)
            except ValueError as error:
                raise ValueError(f"regularizer {name!r}: {error}") from None
        modules = {key: module for matched in self._matched.values() for key, module in matched.items()}
        self._modules = modules
        self._activations: dict[str, list[tuple[Tensor, int]]] = {}
        self._started: dict[str, list[Tensor]] = {}
        self._times: Tensor | None = None
        self._with_gradients = True

    def __bool__(self) -> bool:
        """Whether there is anything to record."""
        return bool(self.regularizers)

    def terms(self) -> tuple[Term, ...]:
        """The regularizers as terms of the objective: values per sample, divided by the samples of the step."""
        return tuple(
            Term(name, RecordedLoss(self, name), denominator="count", coefficient=one.coefficient, stream=one.stream)
            for name, one in self.regularizers.items()
        )

    def around(self, batch: TensorBatch) -> Any:
        """A context to run the model on `batch` in."""
        return self.recording(batch.times_tensor())

    @contextmanager
    def recording(self, times: Tensor) -> Iterator[None]:
        """A context in which the model is run once, on the samples of nominal `times`: int64 (n,), on its device.

        The losses and the backward pass may lie inside or behind it.
        """
        self.clear()
        self._times = times
        self._with_gradients = torch.is_grad_enabled()
        handles = []
        try:
            for start in dict.fromkeys(self._starts.values()):
                if start == MODEL:
                    handles.append(self.model.register_forward_pre_hook(self._take_input, with_kwargs=True))
                else:
                    handles.append(self.model.get_submodule(start).register_forward_hook(self._starting(start)))
            for name, module in self._modules.items():
                handles.append(module.register_forward_hook(self._recording(name)))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def values(self, name: str) -> Tensor:
        """The regularizer called `name` for each sample of the pass, without its coefficient: floating (n,).

        Raises ValueError for modules that were not called, and for activations whose axis of samples does not fit.
        """
        regularizer = self.regularizers[name]
        if self._times is None:
            raise ValueError(
                f"regularizer {name!r} has no pass: run the model inside `with recorder.recording(times):`"
            )
        n = len(self._times)
        activations = {
            module: [self._samples_first(name, module, call, axis, n) for call, axis in self._calls_of(name, module)]
            for module in self._matched[name]
        }
        starts: list[Tensor] = []
        if name in self._starts:
            starts = self._started.get(self._starts[name], [])
            if not starts:
                raise ValueError(
                    f"regularizer {name!r} takes derivatives with respect to "
                    f"{self._title(self._starts[name])}, which was not called in this forward pass: name a module that "
                    "is called, by of="
                )
            if any(len(start) != n for start in starts):
                raise ValueError(
                    f"regularizer {name!r} needs {n} samples along the first axis of "
                    f"{self._title(self._starts[name])}, got {shapes_of(starts)}"
                )
        return regularizer.values(
            Recorded(activations=activations, starts=starts, times=self._times, key_of=self._key_of)
        )

    def clear(self) -> None:
        """Let go of the activations of the last pass."""
        self._activations, self._started, self._times = {}, {}, None

    def _key_of(self, name: str) -> int:
        return rng.key(self.seed, f"regularizer.{name}")

    def _start_of(self, regularizer: ActivationRegularizer) -> str:
        of: str | None = getattr(regularizer, "of", None)
        if of is None:
            return MODEL
        try:
            self.model.get_submodule(of)
        except AttributeError:
            names = ", ".join(name for name, _ in self.model.named_modules() if name)
            raise ValueError(f"of={of!r} is no module of the model; there are {names}") from None
        return of

    def _calls_of(self, name: str, module: str) -> list[tuple[Tensor, int]]:
        calls = self._activations.get(module)
        if not calls:
            raise ValueError(
                f"regularizer {name!r} is for the output of module {module!r}, which was not called in this forward "
                "pass (only parts of it, perhaps, or its weights by a function): choose modules that are called"
            )
        return calls

    def _samples_first(self, name: str, module: str, activation: Tensor, axis: int, n: int) -> Tensor:
        given = self.regularizers[name].sample_axis
        axis = axis if given is None else given
        if not (-activation.ndim <= axis < activation.ndim) or activation.shape[axis] != n:
            raise ValueError(
                f"regularizer {name!r}: module {module!r} gave {shapes_of(activation)}, and axis {axis} of it should "
                f"be the {n} samples: set sample_axis= of the regularizer, or choose other modules"
            )
        return activation if axis == 0 else activation.movedim(axis, 0)

    def _title(self, start: str) -> str:
        return "the model" if start == MODEL else f"module {start!r}"

    def _take_input(self, model: nn.Module, args: Any, kwargs: Any) -> Any:
        """Hook in front of the model: derivatives can be taken for its first floating argument."""
        if in_backward():
            return None
        tensor = first_tensor((args, kwargs))
        if tensor is None:
            raise TypeError(
                f"a contractive regularizer needs a floating input, but the model was called with {shapes_of(args)}: "
                "name the module whose output is floating (an embedding, a conversion) by of="
            )
        start = self._leaf(tensor)
        self._started.setdefault(MODEL, []).append(start)
        return None if start is tensor else with_first_tensor((args, kwargs), tensor, start)

    def _starting(self, name: str) -> Callable[[nn.Module, Any, Any], Any]:
        def hook(module: nn.Module, args: Any, output: Any) -> Any:
            if in_backward():
                return None
            tensor = first_tensor(output)
            if tensor is None:
                raise TypeError(f"of={name!r}: the module gave {shapes_of(output)}, expected a floating tensor")
            start = self._leaf(tensor)
            axis = sample_axis(module, start)
            self._started.setdefault(name, []).append(start)
            if axis != 0:
                raise ValueError(f"of={name!r}: the module has time first, expected samples first (batch_first=True)")
            return None if start is tensor else with_first_tensor(output, tensor, start)

        return hook

    def _recording(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if in_backward():
                return  # a recomputation
            tensor = first_tensor(output)
            if tensor is None:
                raise TypeError(
                    f"module {name!r} gave {shapes_of(output)}, and regularizers of activations need a floating "
                    "tensor; for packed sequences name the module behind them"
                )
            if self._with_gradients and not torch.is_grad_enabled():
                raise RuntimeError(
                    f"module {name!r} was run without gradients, so that regularizers of its output would change "
                    "nothing: use checkpoint(…, use_reentrant=False), or leave torch.no_grad()"
                )
            self._activations.setdefault(name, []).append((tensor, sample_axis(module, tensor)))

        return hook

    def _leaf(self, tensor: Tensor) -> Tensor:
        """`tensor`, or where it has no graph one of the same memory that derivatives can be taken for."""
        if tensor.requires_grad or not self._with_gradients:
            return tensor
        return tensor.detach().requires_grad_()


@dataclass(frozen=True)
class RecordedLoss:
    """The loss function of a regularizer as a term: reads what `recorder` has recorded, and no outputs."""

    recorder: Recorder
    name: str

    def __call__(self, outputs: Any, batch: TensorBatch) -> Tensor:
        return self.recorder.values(self.name)
