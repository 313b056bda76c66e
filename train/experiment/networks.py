"""Classifier, Regressor and Autoencoder from layer sizes, trained with one call; and `Experiment`, which holds one."""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from minibatch import rng
from minibatch.errors import CheckpointError
from minibatch.models import autoencoder
from minibatch.models.feedforward import FeedForward, Layers
from minibatch.train import checkpoint, state
from minibatch.train.arrays import as_columns, row_blocks
from minibatch.train.config import described
from minibatch.train.experiment import objectives, opening
from minibatch.train.experiment.calls import Call, values_in_turn
from minibatch.train.experiment.objectives import Loss, Objective, loss_function
from minibatch.train.experiment.opening import Roles
from minibatch.train.experiment.preparing import Values
from minibatch.train.experiment.settings import settings_of
from minibatch.train.progress import announce as print_to_stderr
from minibatch.train.staging import Staging

DTYPES = {"float32": torch.float32, "float64": torch.float64}
AT_ONCE = 4096  # samples that predictions are made for at once


class Network:
    """A net of layers with all it needs to learn; see Classifier, Regressor and Autoencoder for what it learns.

    layers: sizes, (size, activation) pairs and mappings, see models/feedforward.py. activation: of the hidden layers.
    seed: of first weights, orders and noise. dtype: "float32" or "float64". loss: a name in losses/, or a function of
    outputs and targets. device: where to compute. save_progress: the folder that calls of `train` save into; what lies
    there already gives the net its weights, and each call goes on where it was. announce: is told what a person should
    know; by default it is printed to stderr.

    net: the module, in eval mode between calls. calls: how often `train` or `itertrain` was called.
    """

    kind: ClassVar[str] = "Network"
    usual_loss: ClassVar[str] = "mse"

    def __init__(
        self,
        layers: Layers,
        *,
        activation: str = "relu",
        seed: int = 0,
        dtype: str = "float32",
        loss: Loss | None = None,
        device: str | torch.device | None = None,
        save_progress: str | os.PathLike[str] | None = None,
        announce: Callable[[str], None] = print_to_stderr,
        **options: Any,
    ) -> None:
        if dtype not in DTYPES:
            raise ValueError(f"dtype={dtype!r}: expected one of {', '.join(DTYPES)}")
        self.seed = rng.checked_seed(seed)
        self.dtype = dtype
        self.loss: Loss = self.usual_loss if loss is None else loss
        self._loss = loss_function(self.loss)
        self.announce = announce
        self.net = self._build(layers, activation=activation, seed=rng.key(self.seed, "init"), **options)
        self.net.to(device=device, dtype=DTYPES[dtype]).eval()
        self.calls = 0
        self.save_progress = None if save_progress is None else os.fspath(save_progress)
        if self.save_progress is not None:
            saved = opening.newest_model(self.save_progress)
            if saved is not None:
                self._take(checkpoint.read(saved), saved)
                announce(f"the net begins with the weights in {saved}")

    def __repr__(self) -> str:
        sizes = ", ".join(str(spec.size) for spec in self.net.specs)
        return f"{self.kind}(({sizes}), seed={self.seed})"

    def train(self, train_data: Any, valid_data: Any = None, **options: Any) -> tuple[Values, Values]:
        """Train until patience is exhausted and keep the best weights: values of the last iteration and validation.

        train_data, valid_data: arrays, a data set or its folder, a MinibatchSource, or a function that gives
        minibatches; see arrays.py. options: see Settings; others go to the optimizer. Each call is a run of its own,
        with a new optimizer. Ctrl-C ends it as patience does, with the best weights so far.
        Raises ValueError for what does not fit, NonFiniteError where the loss is no number.
        """
        last: tuple[Values, Values] = ({}, {})
        for values in self.itertrain(train_data, valid_data, **options):
            last = values
        return last

    def itertrain(self, train_data: Any, valid_data: Any = None, **options: Any) -> Iterator[tuple[Values, Values]]:
        """As `train`, and gives (values of the iteration, values of the last validation) after each iteration.

        Values are {"loss", "err", …}: of the iteration, means over its samples while the weights changed; of the
        validation, means over all its samples. When the generator is closed, the net gets its best weights, too.
        """
        settings = settings_of({"save_progress": self.save_progress, **options})
        self.calls += 1
        roles = self._roles()
        if settings.algo == "pretrain":  # unsupervised
            roles = replace(roles, unlabelled=True)
        data = opening.open_data(train_data, valid_data, roles, settings, seed=self.seed)
        folder = opening.folder_of_call(settings.save_progress, self.calls)
        config = {"network": self.description(), "settings": described(settings)}
        call = Call(
            net=self.net,
            objective=self._objective(),
            classes=self._classes(),
            data=data,
            settings=settings,
            seed=rng.key(self.seed, "train", self.calls),
            folder=folder,
            config=config,
            announce=self.announce,
        )
        return values_in_turn(call, ended=partial(self.save, None if folder is None else folder / opening.MODEL))

    def outputs(self, x: Any) -> NDArray[np.floating[Any]]:
        """What the last layer gives for samples x (n, …): (n, c)."""
        return self._through(self.net, x)

    def predict(self, x: Any) -> NDArray[Any]:
        """The outputs (n, c) for samples x (n, …)."""
        return self.outputs(x)

    def description(self) -> dict[str, Any]:
        """What makes a network like this one again, for JSON; the weights apart."""
        return {
            "kind": self.kind,
            "layers": [described(vars(spec)) for spec in self.net.specs],
            "seed": self.seed,
            "dtype": self.dtype,
            "loss": described(self.loss),
            "calls": self.calls,
        }

    def save(self, path: str | os.PathLike[str] | None) -> None:
        """Write the network into the folder `path`, which may hold an older one: safetensors and JSON.

        Raises CheckpointError where it cannot be written; what was there before is untouched then.
        """
        if path is None:
            return
        content = checkpoint.Content(
            model=Staging().copied(state.model_tensors(self.net)),
            optimizer={},
            state={"format": checkpoint.FORMAT, "config": {"network": self.description()}},
        )
        checkpoint.write(Path(path), content)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, loss: Loss | None = None, **options: Any) -> Self:
        """The network that was saved in the folder `path`, by `save` or by save_progress.

        loss: needed where the network was made with a function of the user's. options: of the constructor.
        Raises CheckpointError for damaged files, and for a network of another kind.
        """
        where = opening.model_in(path)
        content = checkpoint.read(where)
        try:
            told = content.state["config"]["network"]
            layers = [_layer(number, spec) for number, spec in enumerate(told["layers"])]
        except (KeyError, TypeError):
            raise CheckpointError(f"{where} does not say which network it is of: it was written by a Trainer") from None
        if cls not in (Network, KINDS[told["kind"]]):
            raise CheckpointError(f"{where} holds a {told['kind']}, not a {cls.kind}")
        known = told["loss"] if ":" not in told["loss"] else loss
        if known is None:
            raise CheckpointError(f"{where} was trained with the function {told['loss']}: pass it as loss=")
        made = {"seed": told["seed"], "dtype": told["dtype"], "loss": loss or known, **options}
        network = KINDS[told["kind"]](layers, **made)
        network._take(content, where)
        network.calls = told["calls"]
        assert isinstance(network, cls)
        return network

    def _take(self, content: checkpoint.Content, where: Path) -> None:
        try:
            state.check_model(self.net, content.model)
        except CheckpointError as error:
            raise CheckpointError(f"{where} is of another net than {self!r}: {error}") from None
        self.net.load_state_dict(dict(content.model))

    def _build(self, layers: Layers, **options: Any) -> FeedForward:
        return FeedForward(layers, **options)

    def _roles(self) -> Roles:
        return Roles(names=("x", "target"), weight="weight", flat=True, check=self._check)

    def _check(self, targets: Any) -> None:
        wanted, shape = self.net.specs[-1].size, targets.shape
        if int(np.prod(shape[1:])) != wanted:
            raise ValueError(
                f"data: targets have the shape {shape}, expected (n, {wanted}), the size of the last layer"
            )

    def _objective(self) -> Objective:
        return partial(objectives.fit, loss=self._loss)

    def _classes(self) -> int | None:
        return None

    def _through(self, function: Callable[[Tensor], Tensor], x: Any) -> NDArray[Any]:
        """`function` of all samples, in eval mode, as one array."""
        parameter = next(self.net.parameters())
        self.net.eval()
        parts = []
        with torch.inference_mode():
            for block in row_blocks(as_columns({"x": x}, ["x"])["x"], AT_ONCE):
                parts.append(function(torch.from_numpy(np.ascontiguousarray(block)).to(parameter.device)).cpu())
        return np.asarray(torch.cat(parts).numpy())


class Classifier(Network):
    """Learns the class of each sample: integer labels (n,) from 0 on, of as many classes as the last layer has units.

    The loss is cross entropy by default, and the last layer gives logits: it has no activation ("softmax" says the
    same). Data are (inputs, labels), or (inputs, labels, weights (n,)). Values have "acc", the share of right answers.

    >>> import numpy as np
    >>> x = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    >>> xor = Classifier((2, 16, 2), seed=1)
    >>> train, valid = xor.train((x, [0, 1, 1, 0]), algo="adam", learning_rate=0.1, batch_size=4, max_iterations=50)
    >>> xor.classify(x).tolist(), valid["acc"]
    ([0, 1, 1, 0], 1.0)
    """

    kind = "Classifier"
    usual_loss = "cross_entropy"

    def predict(self, x: Any) -> NDArray[np.int64]:
        """The most probable class of each sample: int64 (n,)."""
        return np.asarray(self.outputs(x).argmax(1))

    def classify(self, x: Any) -> NDArray[np.int64]:
        """The most probable class of each sample: int64 (n,)."""
        return self.predict(x)

    def predict_proba(self, x: Any) -> NDArray[np.floating[Any]]:
        """The probabilities of all classes: (n, classes), rows add up to 1."""
        return self._through(lambda block: torch.softmax(self.net(block), 1), x)

    def score(self, x: Any, labels: Any, weights: Any = None) -> float:
        """The share of samples (or of their weights) whose class is the label."""
        right = self.predict(x) == np.asarray(as_columns({"label": labels}, ["label"])["label"])
        return float(np.average(right, weights=weights))

    def _build(self, layers: Layers, **options: Any) -> FeedForward:
        net = FeedForward(layers, **options)
        last = net.get_submodule(net.names[-1])
        if net.specs[-1].activation == "softmax":  # it is part of the loss, where it cannot overflow
            last.activation = torch.nn.Identity()
        elif net.specs[-1].activation != "linear":
            raise ValueError(
                f"the last layer of a Classifier gives logits, which need no activation; got "
                f"{net.specs[-1].activation!r}"
            )
        return net

    def _roles(self) -> Roles:
        return Roles(names=("x", "label"), weight="weight", check=self._check)

    def _check(self, labels: Any) -> None:
        classes = self.net.specs[-1].size
        if labels.ndim != 1 or labels.dtype.kind not in "biu":
            raise ValueError(f"data: labels are {labels.dtype} {labels.shape}, expected integers (n,)")
        if labels.min() < 0 or labels.max() >= classes:
            bad = np.flatnonzero((labels < 0) | (labels >= classes))
            raise ValueError(
                f"data: label {labels[bad[0]]} of sample {bad[0]} is out of range, the last layer has units for the "
                f"classes 0 … {classes - 1}"
            )

    def _objective(self) -> Objective:
        return partial(objectives.classify, loss=self._loss)

    def _classes(self) -> int | None:
        return self.net.specs[-1].size


class Regressor(Network):
    """Learns the targets (n, c) of samples, or (n,) where c is 1; the loss is the mean squared error by default.

    Data are (inputs, targets), or (inputs, targets, weights), with weights per sample (n,) or per element (n, c).

    >>> import numpy as np
    >>> x = np.linspace(-1, 1, 64)[:, None]
    >>> line = Regressor((1, 1), seed=1)
    >>> _ = line.train((x, 3 * x + 1), algo="sgd", learning_rate=0.2, max_iterations=60)
    >>> line.score(x, 3 * x + 1) > 0.99
    True
    """

    kind = "Regressor"

    def score(self, x: Any, targets: Any, weights: Any = None) -> float:
        """R², the share of the targets' variance that is explained, over all elements; 1 is perfect.

        weights: per sample (n,).
        """
        wanted = as_columns({"target": targets}, ["target"], flat=["target"])["target"]
        return explained(self.outputs(x), wanted.reshape(len(wanted), -1), weights)


class Autoencoder(Network):
    """Learns to give its inputs again, from a code in between; the loss is the mean squared error by default.

    tied: decoding layers use the weights of their mirror images, see models/autoencoder.py. Data are inputs alone.

    >>> import numpy as np
    >>> x = np.outer(np.linspace(-1, 1, 100), [1.0, -2.0, 0.5])
    >>> net = Autoencoder((3, (1, "linear"), 3), seed=1)
    >>> _ = net.train(x, algo="adam", learning_rate=0.05, max_iterations=100)
    >>> net.encode(x).shape, net.score(x) > 0.95
    ((100, 1), True)
    """

    kind = "Autoencoder"

    def encode(self, x: Any, layer: str | None = None) -> NDArray[np.floating[Any]]:
        """What `layer` (by default the one in the middle) gives for samples x (n, …): (n, u)."""
        return self._through(lambda block: self._net.encode(block, layer), x)

    def decode(self, codes: Any, layer: str | None = None) -> NDArray[np.floating[Any]]:
        """The reconstructions (n, f) of codes (n, u) that `layer` gave."""
        dtype = DTYPES[self.dtype]
        return self._through(lambda block: self._net.decode(block.to(dtype), layer), codes)

    def score(self, x: Any, weights: Any = None) -> float:
        """R², the share of the inputs' variance that is reconstructed. weights: per sample (n,)."""
        wanted = np.concatenate([*row_blocks(as_columns({"x": x}, ["x"])["x"], AT_ONCE)])
        return explained(self.outputs(x), wanted.reshape(len(wanted), -1), weights)

    @property
    def _net(self) -> autoencoder.Autoencoder:
        assert isinstance(self.net, autoencoder.Autoencoder)
        return self.net

    def _build(self, layers: Layers, **options: Any) -> FeedForward:
        return autoencoder.Autoencoder(layers, **options)

    def _roles(self) -> Roles:
        return Roles(names=("x",))

    def _objective(self) -> Objective:
        return partial(objectives.reconstruct, loss=self._loss)


KINDS: dict[str, type[Network]] = {one.kind: one for one in (Classifier, Regressor, Autoencoder)}
N = TypeVar("N", bound=Network)


def explained(outputs: NDArray[Any], targets: NDArray[Any], weights: Any = None) -> float:
    """R² = 1 - Σ w (y - ŷ)² / Σ w (y - ȳ)², over all elements, with one mean per column; in float64.

    >>> explained(np.array([[1.0], [2.0]]), np.array([[1.0], [2.0]]))
    1.0
    """
    y = targets.astype(np.float64)
    w = np.ones((len(y), 1)) if weights is None else np.asarray(weights, np.float64).reshape(len(y), 1)
    mean = (w * y).sum(0) / w.sum()
    spread = float((w * (y - mean) ** 2).sum())
    if spread == 0.0:
        raise ValueError("R² is not defined: the targets do not vary")
    return 1.0 - float((w * (y - outputs) ** 2).sum()) / spread


def _layer(number: int, spec: Mapping[str, Any]) -> dict[str, Any]:
    names = ("size", "name") if number == 0 else tuple(spec)
    return {name: spec[name] for name in names if spec[name] is not None}
