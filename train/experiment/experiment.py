"""Experiment: theanets' way of saying which network to train."""

import os
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

from minibatch.models.feedforward import Layers
from minibatch.train.experiment.networks import Network
from minibatch.train.experiment.preparing import Values

N = TypeVar("N", bound=Network)


class Experiment(Generic[N]):
    """Holds the `network` that it makes of a kind, Classifier, Regressor or Autoencoder, and layers.

    Everything else that the network can do is also found here, as in `experiment.predict(x)`.

    >>> from minibatch.train.experiment import Classifier
    >>> exp = Experiment(Classifier, layers=(4, 3, 2), seed=1)
    >>> _ = exp.train(([[0.0, 1.0, 2.0, 3.0]], [1]), algorithm="nag", learning_rate=0.01, momentum=0.9, max_updates=2)
    >>> exp.network, exp.predict([[0.0, 1.0, 2.0, 3.0]]).shape
    (Classifier((4, 3, 2), seed=1), (1,))
    """

    def __init__(self, network: type[N], layers: Layers, **options: Any) -> None:
        self.network: N = network(layers, **options)

    def train(self, train_data: Any, valid_data: Any = None, **options: Any) -> tuple[Values, Values]:
        """See Network.train."""
        return self.network.train(train_data, valid_data, **options)

    def itertrain(self, train_data: Any, valid_data: Any = None, **options: Any) -> Iterator[tuple[Values, Values]]:
        """See Network.itertrain."""
        return self.network.itertrain(train_data, valid_data, **options)

    def save(self, path: str | os.PathLike[str]) -> None:
        """See Network.save."""
        self.network.save(path)

    def load(self, path: str | os.PathLike[str], **options: Any) -> N:
        """Take the network that was saved in the folder `path` in place of the present one; see Network.load."""
        self.network = type(self.network).load(path, **options)
        return self.network

    def __getattr__(self, name: str) -> Any:
        if name == "network" or name.startswith("__"):  # while a copy is made there is no network yet
            raise AttributeError(name)
        return getattr(self.network, name)
