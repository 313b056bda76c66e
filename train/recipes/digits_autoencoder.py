"""A tied autoencoder of the digits, and what it is good for: a classifier that has only 100 labels.

    minibatch train digits_autoencoder --out runs/code
    minibatch train digits_few_labels --out runs/few
    minibatch train digits_few_labels --out runs/scratch --set pretrained=false

The data come with scikit-learn, no network is needed: see digits_data.py. After theanets' manual, "Training a Model":

`digits_autoencoder` learns to give its input back. The weights of the decoding layers are those of the encoding layers
transposed ("tied"); `input_noise` is the deviation of Gaussian noise on the input, which is to come back without it;
`hidden_l1` makes most hidden units be silent for any one digit. It draws reconstructions.png: digits as they were
seen, with noise, what came back, and below them the weights of some hidden units. active: the share of hidden units
that answer to a held-out digit.

`digits_few_labels` is a classifier that learns from 100 labelled rows, chosen by a key of the run's seed, while the
images of all 1,449 may be looked at. Before its first step theanets' trainer "pretrain" (train/pretraining.py) makes
tied autoencoders of its hidden layers, one more layer in each stage. With pretrained=false the same net begins with the
weights that any net has, and learns from the same labels in the same order. Its four hidden layers have logistic
units, as nets had when pretraining was found (Hinton and Salakhutdinov 2006, doi:10.1126/science.1127647): so deep,
they hardly learn without.

What that is worth, and what not: with four times as many updates, 5,000, which is what pretraining (3,750) and training
(1,250) take together, the net from scratch is as good (80,000 samples: 86 %, 160,000: 90 %, seeds 11 to 13);
and one layer of rectifiers gains nothing (`--set hidden=256 --set activation=relu --set learning_rate=0.05`: 89.1 %
pretrained, 88.9 % from scratch).

Expected: digits_autoencoder: squared error 0.018 per pixel, 4 % of the units active, in about 9 s on one core.
digits_few_labels: 89.4 % of the 348 held-out digits (seeds 1 to 5: 90.8, 89.1, 85.3, 90.5 and 91.1), from scratch
27.5 % (33.1, 27.9, 22.7, 26.7 and 27.0): 62 points more, least 58, most 64; in about 9 and 3 s.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import nn

from minibatch import Dataset, MinibatchSource, rng
from minibatch.errors import require
from minibatch.models.autoencoder import Autoencoder
from minibatch.models.feedforward import FeedForward
from minibatch.models.noise import GaussianNoise, attach_named
from minibatch.train import pretraining
from minibatch.train.config import Prepared, RunConfig
from minibatch.train.experiment.objectives import reconstruct
from minibatch.train.experiment.preparing import shadow
from minibatch.train.finished import Finished
from minibatch.train.losses import cross_entropy, on
from minibatch.train.metrics import Metric, accuracy
from minibatch.train.optimizers import optimizer
from minibatch.train.recipes.digits_data import prepare
from minibatch.train.regularizers import HiddenL1
from minibatch.train.schedules import Cosine
from minibatch.train.terms import Term
from minibatch.train.trainer import Trainer
from minibatch.views import subset


def digits_autoencoder(
    *,
    seed: int = 1,
    minibatch_size: int = 32,
    microbatch_size: int | None = None,
    max_samples: int = 150_000,
    hidden: Sequence[int] = (256,),
    input_noise: float = 0.3,
    hidden_l1: float = 1e-3,
    learning_rate: float = 2e-3,
) -> RunConfig:
    """The configuration of a tied autoencoder; sizes in samples. hidden: units of the encoding layers.

    >>> [name for name, _ in digits_autoencoder(hidden=(30, 20)).model(seed=1).named_parameters()]
    ['hid1.weight', 'hid1.bias', 'hid2.weight', 'hid2.bias', 'hid2_back.bias', 'hid1_back.bias']
    """
    return RunConfig(
        model=partial(make_autoencoder, hidden=tuple(hidden), input_noise=input_noise),
        inputs="image",
        terms=tuple(reconstruct(("image",))),
        optimizers=partial(adam, learning_rate=learning_rate),
        schedules=(Cosine(learning_rate, samples=max_samples),),
        regularizers=(HiddenL1(coefficient=hidden_l1, pattern=[f"hid{n}" for n in range(1, len(hidden) + 1)]),),
        data=prepare,
        seed=seed,
        minibatch_size=minibatch_size,
        microbatch_size=microbatch_size,
        max_samples=max_samples,
        validate_every=10_000,
        save_every=10_000,
        threads=1,
        device="auto",
        report=draw_reconstructions,
    )


def digits_few_labels(
    *,
    seed: int = 1,
    minibatch_size: int = 32,
    microbatch_size: int | None = None,
    max_samples: int = 40_000,
    labels: int = 100,
    hidden: Sequence[int] = (200, 150, 100, 50),
    activation: str = "logistic",
    pretrained: bool = True,
    pretraining_samples: int = 60_000,
    pretraining_noise: float = 0.5,
    input_noise: float = 0.3,
    learning_rate: float = 0.3,
) -> RunConfig:
    """A classifier that has 100 labels, after pretraining on all images or from scratch.

    Sizes are in samples; pretraining_samples: of each stage.

    >>> digits_few_labels(pretrained=False).start is None
    True
    """
    return RunConfig(
        model=partial(make_classifier, hidden=tuple(hidden), activation=activation, input_noise=input_noise),
        inputs="image",
        terms=(Term("class", on(cross_entropy, "label")),),
        metrics=(Metric("accuracy", on(accuracy, "label")),),
        optimizers=partial(nag, learning_rate=learning_rate),
        schedules=(Cosine(learning_rate, samples=max_samples),),
        data=prepare,
        source=partial(labelled, labels=labels),
        start=partial(pretrain, samples=pretraining_samples, input_noise=pretraining_noise) if pretrained else None,
        seed=seed,
        minibatch_size=minibatch_size,
        microbatch_size=microbatch_size,
        max_samples=max_samples,
        validate_every=2_000,
        save_every=5_000,
        threads=1,
        device="auto",
    )


def make_autoencoder(*, hidden: Sequence[int], input_noise: float, seed: int) -> nn.Module:
    """Encoding layers hid1, hid2, …, decoding layers …, hid2_back, hid1_back, the last of them linear."""
    decoding = [
        {"size": size, "name": f"hid{number}_back", "activation": "relu" if number > 1 else "linear"}
        for number, size in reversed(list(enumerate([64, *hidden[:-1]], 1)))
    ]
    net = Autoencoder((64, *hidden, *decoding), tied=True, seed=seed)
    attach_named(net, input_noise=input_noise)
    return net


def make_classifier(*, hidden: Sequence[int], activation: str, input_noise: float, seed: int) -> nn.Module:
    """The classifier: hid1, hid2, …, out."""
    net = FeedForward((64, *hidden, 10), activation=activation, seed=seed)
    attach_named(net, input_noise=input_noise)
    return net


def adam(model: nn.Module, *, learning_rate: float) -> torch.optim.Optimizer:
    """Adam with its usual averages."""
    return optimizer("adam", model, lr=learning_rate)


def nag(model: nn.Module, *, learning_rate: float) -> torch.optim.Optimizer:
    """Nesterov's accelerated gradient, momentum 0.9, with a little decay of the weights."""
    return optimizer("nag", model, lr=learning_rate, momentum=0.9, weight_decay=1e-4)


def labelled(prepared: Prepared, seed: int, *, labels: int) -> MinibatchSource:
    """The source of the rows whose labels are known: `labels` of the training rows, chosen by a key of the seed."""
    dataset = Dataset.open(prepared.train)
    if not 1 <= labels <= len(dataset):
        raise ValueError(f"labels={labels}: expected 1 to {len(dataset)}, which is how many rows there are")
    words = rng.bits(rng.key(seed, "digits_few_labels.labelled"), np.arange(len(dataset)))
    return MinibatchSource(subset(dataset, np.sort(np.argsort(words)[:labels])), seed=seed)


def pretrain(model: nn.Module, prepared: Prepared, seed: int, *, samples: int, input_noise: float) -> None:
    """Train the hidden layers of `model` to give images back that come with noise, one more layer in each stage."""
    assert isinstance(model, FeedForward)
    for stage, net in pretraining.pretrain(model, seed=rng.key(seed, "pretrain")):
        autoencoder = shadow(net).train()  # of other modules with the same weights: the noise stays in it
        attach_named(autoencoder, input_noise=input_noise)
        with MinibatchSource(prepared.train, seed=rng.key(seed, stage), fields=["image"]) as source:
            trainer = Trainer(
                autoencoder,
                reconstruct(("image",)),
                adam(autoencoder, learning_rate=2e-3),
                source,
                64,
                inputs="image",
                schedules=Cosine(2e-3, samples=samples),
            )
            trainer.fit(max_samples=samples, progress=False)


def draw_reconstructions(finished: Finished) -> dict[str, float]:
    """Draw reconstructions.png; the share of hidden units that are not silent for a held-out digit."""
    require("matplotlib", "train", "reconstructions.png")
    from matplotlib.figure import Figure

    net, shown = finished.model, 12
    assert isinstance(net, Autoencoder)
    assert finished.prepared.valid is not None
    valid = Dataset.open(finished.prepared.valid)
    images = torch.from_numpy(valid.read(range(len(valid)))["image"])
    device = next(net.parameters()).device
    sigma = [module.sigma for module in net.modules() if isinstance(module, GaussianNoise)]
    noise = rng.normal(rng.key(finished.config.seed, "reconstructions"), np.arange(shown * 64)).reshape(shown, 8, 8)
    noisy = images[:shown] + sum(sigma) * torch.from_numpy(noise).float()
    given_back = net(noisy.to(device)).cpu().reshape(shown, 8, 8)
    weights = net.get_parameter("hid1.weight").detach().cpu()
    strongest = weights.norm(dim=1).argsort(descending=True, stable=True)[: 2 * shown]
    rows = [images[:shown], noisy, given_back, *weights[strongest].reshape(2, shown, 8, 8)]
    figure = Figure(figsize=(shown * 0.7, len(rows) * 0.75), layout="constrained")
    for line, (row, title) in enumerate(zip(rows, ["digit", "with noise", "given back", "weights", ""], strict=True)):
        for place, picture in enumerate(row.numpy()):
            axes = figure.add_subplot(len(rows), shown, line * shown + place + 1)
            axes.set(xticks=[], yticks=[])
            if line < 3:
                axes.imshow(picture, cmap="gray_r", vmin=0.0, vmax=1.0)
            else:
                most = float(np.abs(picture).max())
                axes.imshow(picture, cmap="RdBu_r", vmin=-most, vmax=most)
            if not place:
                axes.set_ylabel(title, rotation=0, ha="right", va="center")
    figure.savefig(finished.out / "reconstructions.png", dpi=120)
    return {"active": float((net.encode(images.to(device)) > 0.0).double().mean())}
