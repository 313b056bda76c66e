"""Autoencoders from a list of layer sizes: the outputs are the inputs again, after a narrower (or sparser) code.

With `tied=True` every layer of the second half uses the weights of its mirror image transposed (Vincent et al. 2010,
Stacked Denoising Autoencoders, JMLR 11, section 2.2), so that only biases are its own.
"""

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from minibatch.models.feedforward import FeedForward, Layers, LayerSpec, layer_specs


class Autoencoder(FeedForward):
    """Reconstructions (n, f) of samples (n, …) with f numbers each; the middle layer is the code.

    layers: as of a FeedForward, the last as wide as the first; with `tied`, sizes are equal from both ends, as in
    (784, 256, 64, 256, 784), and their number is odd. Single layers may be tied as ("tied", "hid1").

    >>> import torch
    >>> net = Autoencoder((6, 4, 2, 4, 6), tied=True, seed=1)
    >>> net(torch.ones(3, 6)).shape, net.encode(torch.ones(3, 6)).shape
    (torch.Size([3, 6]), torch.Size([3, 2]))
    >>> [name for name, _ in net.named_parameters()]
    ['hid1.weight', 'hid1.bias', 'hid2.weight', 'hid2.bias', 'hid3.bias', 'out.bias']
    """

    def __init__(
        self,
        layers: Layers,
        *,
        tied: bool = False,
        activation: str = "relu",
        output: str = "linear",
        seed: int = 0,
    ) -> None:
        specs = layer_specs(layers, activation=activation, output=output)
        if specs[-1].size != specs[0].size:
            raise ValueError(
                f"an autoencoder gives what it takes: its last layer must have {specs[0].size} units as the first has, "
                f"not {specs[-1].size}"
            )
        super().__init__(_mirrored(specs) if tied else specs, activation=activation, output=output, seed=seed)

    @property
    def code(self) -> str:
        """The name of the layer in the middle."""
        return self.names[len(self.names) // 2]

    def encode(self, x: Tensor, layer: str | None = None) -> Tensor:
        """What `layer` (by default the middle one) gives for samples (n, …): (n, u)."""
        modules = self.layers
        for name in self.names[: self._place(layer) + 1]:
            x = modules[name](x)
        return x

    def decode(self, code: Tensor, layer: str | None = None) -> Tensor:
        """The reconstructions (n, f) of what `layer` (by default the middle one) gave, codes (n, u).

        >>> import torch
        >>> net, x = Autoencoder((6, 3, 6), seed=1), torch.ones(2, 6)
        >>> bool((net.decode(net.encode(x)) == net(x)).all())
        True
        """
        modules = self.layers
        for name in self.names[self._place(layer) + 1 :]:
            code = modules[name](code)
        return code

    def _place(self, layer: str | None) -> int:
        name = self.code if layer is None else layer
        if name not in self.names:
            raise ValueError(f"layer={name!r} is no layer of this net; it has {', '.join(self.names)}")
        return self.names.index(name)


def _mirrored(specs: Sequence[LayerSpec]) -> list[LayerSpec]:
    """The layers with the second half tied to the first: layer L - i to layer i + 1."""
    sizes = [spec.size for spec in specs]
    if len(sizes) % 2 == 0 or sizes != sizes[::-1]:
        raise ValueError(
            f"tied=True needs layers whose sizes are equal from both ends, an odd number of them, as in "
            f"(784, 256, 64, 256, 784); got {tuple(sizes)}"
        )
    half = len(specs) // 2
    tied = [replace(specs[half + i], tied=specs[half + 1 - i].name) for i in range(1, half + 1)]
    return [*specs[: half + 1], *tied]
