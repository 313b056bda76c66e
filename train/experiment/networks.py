"""Classifier, Regressor and Autoencoder from layer sizes, trained with one call; and `Experiment`, which holds one."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from minibatch import rng
from minibatch.errors import CheckpointError
from minibatch.models import autoencoder, feedforward
from minibatch.models.feedforward import FeedForward, Layers
from minibatch.train import checkpoint, losses, metrics, state
from minibatch.train.arrays import as_columns
from minibatch.train.batches import TensorBatch
from minibatch.train.config import described
from minibatch.train.experiment import opening
from minibatch.train.experiment.run import Place, Run, RunData, Values
from minibatch.train.experiment.settings import TRAINERS, Settings, settings_of
from minibatch.train.losses import on
from minibatch.train.progress import announce
from minibatch.train.terms import Term

DTYPES = {"float32": torch.float32, "float64": torch.float64}
PREDICTED_AT_ONCE = 4096
Loss = str | Callable[..., Tensor]


class Network:
    """A net of layers and how it is trained; see Classifier, Regressor and Autoencoder for what it learns.

    layers: sizes, (size, activation), mappings, see models/feedforward.py. activation: of hidden layers. seed: of first
    weights, orders and noise. dtype: "float32" or "float64". loss: a name or function of losses/, of outputs and
    targets. device: where to compute. save_progress: the folder that calls of `train` save into; if a model is saved
    there, the net begins with its weights, and the calls go on where they were.
    announce: called with what a person should know, by default it is printed to stderr.

    net: the module. calls: how often it has been trained.
    """

    columns: ClassVar[tuple[str, ...]] = ("x", "target")
    flat: ClassVar[tuple[str, ...]] = ("target", "weight")
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
        announce: Callable[[str], None] = announce,
        **options: Any,
    ) -> None:
        if dtype not in DTYPES:
            raise ValueError(f"dtype={dtype!r}: expected one of {', '.join(DTYPES)}")
        self.seed = rng.checked_seed(seed)
        self.dtype = dtype
        self.loss = self.usual_loss if loss is None else loss
        self._loss = _loss_function(self.loss)
        self.announce = announce
        self.net = self._build(layers, activation, rng.key(self.seed, "init"), **options)
        self.net.to(device=device, dtype=DTYPES[dtype]).eval()
        self.calls = 0
        self.save_progress = None if save_progress is None else os.fspath(save_progress)
        if self.save_progress is not None:
            saved = opening.newest_model(self.save_progress)
            if saved is not None:
                self._take(saved)
                announce(f"began with the weights saved in {saved}")

    # --- training ---------------------------------------------------------------------------------------------------

    def train(self, train_data: Any, valid_data: Any = None, **options: Any) -> tuple[Values, Values]:
        """Train until patience is exhausted, and keep the best weights: the values of the last iteration.

        train_data, valid_data: arrays, a data set or its folder, a MinibatchSource, or a function that gives
        minibatches; see arrays.py. options: see Settings; others go to the optimizer. Each call is a run of its own,
        with a new optimizer. Raises ValueError for what does not fit, NonFiniteError where the loss is no number.
        """
        last: tuple[Values, Values] = ({}, {})
        for values in self.itertrain(train_data, valid_data, **options):
            last = values
        return last

    def itertrain(self, train_data: Any, valid_data: Any = None, **options: Any) -> Iterator[tuple[Values, Values]]:
        """As `train`, but gives (values of the iteration, values of the last validation) after each iteration.

        Values are {"loss", "err", …}, means over the samples of the iteration as the weights changed, and over all
        validation samples with the weights as they were then. When the generator is closed the net has the weights of
        the best validation.
        """
        settings = settings_of({"save_progress": self.save_progress, **options})
        self.calls += 1
        call = self.calls
        return self._itertrain(train_data, valid_data, settings, call)

    def _itertrain(
        self, train_data: Any, valid_data: Any, settings: Settings, call: int
    ) -> Iterator[tuple[Values, Values]]:
        from minibatch.train import pretraining

        data = self._open(train_data, valid_data, settings)
        folder = opening.folder_of_call(settings.save_progress, call)
        stages = 0

        def stage(net: FeedForward, terms: Callable[[Sequence[str]], list[Term]], name: str) -> Iterator[Any]:
            nonlocal stages
            stages += 1
            key = rng.key(self.seed, f"train.{name}" if name else "train", call)
            place = Place(
                folder=folder / name if folder is not None and name else folder,
                config={"network": self.description(), "call": call, "settings": described(settings)},
            )
            algo = settings.subalgo if settings.algo in TRAINERS else settings.algo
            opened = data.at_seed(key)
            return Run(
                net, terms(data.fields), opened, settings, algo=algo, seed=key, place=place, announce=self.announce
            ).iterate()

        try:
            if settings.algo == "sample":
                pretraining.sample(
                    self.net, data, targets=self._sampled_targets(), seed=rng.key(self.seed, "sample", call)
                )
                values = stage_values(self, data, settings)
                yield values
            elif settings.algo == "layerwise":
                for name, net in pretraining.layerwise(self.net, seed=rng.key(self.seed, "layerwise", call)):
                    yield from stage(net, self._terms, name)
            elif settings.algo == "pretrain":
                for name, net in pretraining.pretrain(self.net):
                    yield from stage(net, reconstruction_terms, name)
            else:
                yield from stage(self.net, self._terms, "")
        finally:
            self.net.eval()
            if folder is not None and (folder.exists() or settings.algo == "sample"):
                self.save(folder / opening.MODEL)
