"""Transfer: a network that has learned eight classes learns two others from 50 images each (CNTK, "Build your own image
classifier using Transfer Learning").

    minibatch convert cifar10-jpg.tar.gz data/cifar10/train --subset train --decode
    minibatch convert cifar10-jpg.tar.gz data/cifar10/valid --subset test --decode
    minibatch train transfer_base --data data/cifar10 --out runs/transfer_base
    minibatch train transfer --data data/cifar10 --out runs/frozen
    minibatch train transfer --data data/cifar10 --out runs/unfrozen --set frozen=false
    minibatch train transfer --data data/cifar10 --out runs/scratch --set base=none

Data: CIFAR-10, as in the recipe `cifar10_fast`, whose network is the body. The base run never sees an image of the two
classes that are left out; which 50 of each are then learned from is a function of the seed. The network is cut behind
the layer `cut` and gets a new head there. The body stays as it is, or, with frozen=false, learns on at a tenth of the
rate; either way its batch normalisation keeps the statistics of the base run. From scratch, the whole network is
trained on the same 100 images as `cifar10_fast` trains it, for as many updates or twice as many. Rates and lengths were
tried for the transfer with seed 1, on the same held-out images; for scratch the length alone.

Another body: `--set backbone=timm:resnet18` for both runs, and `--set cut=layer3`; any name of `timm` that takes such
small images, where it is installed.

Expected: cats from dogs, 2,000 held-out images, after one base run of 87.6 % in eight classes (128,000 samples): 66.0 %
with a frozen body (seeds 1, 2 and 3: 66.0, 66.3 and 65.7), 68.0 % with one that learns on (69.3, 67.5 and 67.3), from
scratch 59.8 % (62.0, 58.0 and 59.6), or 60.1 % with `--set max_samples=20000` (62.9, 58.6 and 58.9). So transfer gives
6 and 8 points more, 3 and 6 where it is least. The base takes 2 min on one core, a transfer 3 to 15 s.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from minibatch import Dataset, MinibatchSource, rng
from minibatch.errors import require
from minibatch.models.cut import NewHead
from minibatch.models.fast_convnet import MEAN, STD, FastConvNet
from minibatch.rng import Draws
from minibatch.train.batches import Inputs, TensorBatch
from minibatch.train.config import Prepared, RunConfig
from minibatch.train.groups import Rule, groups
from minibatch.train.recipes.cifar10_fast import cifar10_fast, nesterov, whitened
from minibatch.train.schedules import OneCycle
from minibatch.train.start_from import start_from
from minibatch.transforms import Fields, Transform, named
from minibatch.views import subset

FAST = "fast"
SIDE = 32  # pixels of an image's side


def transfer_base(
    *,
    seed: int = 1,
    left_out: tuple[str, ...] = ("cat", "dog"),
    backbone: str = FAST,
    widths: tuple[int, ...] = (32, 64, 128),
    max_samples: int = 128_000,
    threads: int | None = 2,
) -> RunConfig:
    """The base run of `transfer`: the network of `cifar10_fast` on the classes that are not `left_out`.

    >>> transfer_base(left_out=("bird",)).model(seed=1).head.out_features
    9
    """
    config = cifar10_fast(seed=seed, widths=widths, max_samples=max_samples, threads=threads)
    others = OfClasses(classes=left_out, others=True)
    train = replace(others, transforms=config.transforms)
    fast = backbone == FAST
    return replace(
        config,
        model=partial(network, backbone=backbone, widths=widths, classes=10 - len(left_out)),
        inputs=inputs_of(backbone),
        optimizers=config.optimizers
        if fast
        else partial(nesterov, learning_rate=0.1, weight_decay=5e-4, bias_rate=1.0),
        schedules=config.schedules if fast else (triangle(0.1, max_samples),),
        source=train,
        validation_source=replace(others, part="valid"),
        start=partial(whitened, source=train) if fast else None,
    )


def transfer(
    *,
    seed: int = 1,
    base: str | None = "runs/transfer_base",
    base_digest: str | None = None,
    classes: tuple[str, ...] = ("cat", "dog"),
    images: int = 50,
    cut: str = "stage3",
    frozen: bool = True,
    learning_rate: float = 0.05,
    backbone: str = FAST,
    widths: tuple[int, ...] = (32, 64, 128),
    max_samples: int = 10_000,
    threads: int | None = 1,
) -> RunConfig:
    """The configuration of a run on `images` of each of the `classes`, from the weights of the run `base` or, without
    one, from scratch.

    base_digest: that the base run's weights must have, see `StartFrom`; by default whatever they are at the beginning.

    >>> config = transfer(base="runs/transfer_base", frozen=False)
    >>> [name for name, _ in config.model(seed=1).named_children()]
    ['body', 'head']
    """
    config = cifar10_fast(seed=seed, widths=widths, minibatch_size=50, max_samples=max_samples, threads=threads)
    train = OfClasses(classes=classes, per_class=images, transforms=config.transforms)
    config = replace(
        config,
        model=partial(network, backbone=backbone, widths=widths, classes=len(classes)),
        inputs=inputs_of(backbone),
        source=train,
        validation_source=OfClasses(classes=classes, part="valid"),
        validate_every=max(1, max_samples // 4),
        start=partial(whitened, source=train) if backbone == FAST else None,
    )
    if base is None:
        return config
    return replace(
        config,
        model=partial(with_new_head, backbone=backbone, widths=widths, cut=cut, classes=len(classes)),
        optimizers=partial(head_first, learning_rate=learning_rate, body_rate=0.0 if frozen else 0.1),
        schedules=(triangle(learning_rate, max_samples),),
        batch_norm="frozen",
        start=start_from(base, into="body", digest=base_digest),
    )


def triangle(rate: float, samples: int) -> OneCycle:
    """Up to `rate` within a fifth of the run, then down to 0."""
    return OneCycle(rate, samples=samples, rise=samples // 5, first=0.0, last=0.0, shape="linear")


def network(*, backbone: str, widths: Sequence[int], classes: int, seed: int) -> nn.Module:
    """The network called `backbone`, with random first weights: "fast", or "timm:NAME" for a model of that library."""
    if backbone == FAST:
        return FastConvNet(widths=widths, classes=classes, seed=seed)
    library, _, name = backbone.partition(":")
    if library != "timm" or not name:
        raise ValueError(f"backbone={backbone!r}: expected 'fast', or 'timm:' and the name of a model: timm:resnet18")
    require("timm", "vision", f"backbone={backbone!r}")
    timm = import_module("timm")
    model: nn.Module = timm.create_model(name, pretrained=False, num_classes=classes)
    return model


def with_new_head(*, backbone: str, widths: Sequence[int], cut: str, classes: int, seed: int) -> nn.Module:
    """The network `backbone` up to its layer `cut`, and a new head for `classes` behind it."""
    model = network(backbone=backbone, widths=widths, classes=classes, seed=seed)
    image = torch.zeros(1, SIDE, SIDE, 3)
    sample = image if backbone == FAST else normalized(image)
    return NewHead(model, after=cut, outputs=classes, sample=sample, seed=rng.key(seed, "transfer.head"))


def inputs_of(backbone: str) -> Inputs:
    """What a network is called with: ours with bytes, those of timm with what `normalized` makes of them."""
    return "image" if backbone == FAST else as_timm_wants


def as_timm_wants(model: nn.Module, batch: TensorBatch) -> Any:
    """The outputs of a model for float32 (n, 3, h, w)."""
    return model(normalized(batch["image"]))


def normalized(images: Tensor) -> Tensor:
    """Images (n, h, w, 3) from 0 to 255 as float32 (n, 3, h, w), about mean 0 and deviation 1 in every colour."""
    mean, std = (torch.tensor(values).to(images.device, non_blocking=True) for values in (MEAN, STD))
    return ((images.float() / 255.0 - mean) / std).permute(0, 3, 1, 2)


def head_first(model: nn.Module, *, learning_rate: float, body_rate: float) -> torch.optim.Optimizer:
    """Gradient descent with Nesterov momentum; the body at `body_rate` times the rate: 0 leaves it as it is."""
    found = groups(model, Rule("body.*", rate=body_rate), lr=learning_rate, weight_decay=1e-3)
    return torch.optim.SGD(found, lr=learning_rate, momentum=0.9, nesterov=True, foreach=True)


@dataclass(frozen=True, kw_only=True)
class OfClasses:
    """For `RunConfig.source` and `validation_source`: the rows of some classes, their labels counted from 0 on.

    classes: names that the field `label` notes, or numbers; labels are then counted in this order. others: all classes
    but these, in their own order. per_class: so many rows of each, chosen by a key of the run's seed; None for all.
    part: "train", in the run's order and with `transforms`, or "valid", in the data set's.
    """

    classes: Sequence[str]
    others: bool = False
    per_class: int | None = None
    part: Literal["train", "valid"] = "train"
    transforms: Sequence[Transform] = ()

    def __call__(self, prepared: Prepared, seed: int) -> MinibatchSource:
        folder = prepared.train if self.part == "train" else prepared.valid
        assert folder is not None
        dataset = Dataset.open(folder)
        labels = dataset.read(np.arange(len(dataset)), ["label"])["label"]
        wanted = self.numbers(dataset, labels)
        rows = [chosen(np.flatnonzero(labels == number), self.per_class, seed) for number in wanted]
        return MinibatchSource(
            subset(dataset, np.sort(np.concatenate(rows))),
            seed=seed,
            shuffle="full" if self.part == "train" else None,
            transforms=(*self.transforms, Recount(labels=tuple(wanted))),
        )

    def numbers(self, dataset: Dataset, labels: NDArray[np.int64]) -> list[int]:
        """The labels of the classes in the data set; ValueError for a class of which it has no row."""
        names = json.loads(dataset.fields["label"].metadata.get("classes", "[]"))
        there = np.unique(labels).tolist()
        found = [names.index(name) if name in names else int(name) if name.isdecimal() else -1 for name in self.classes]
        for name, number in zip(self.classes, found, strict=True):
            if number not in there:
                known = ", ".join(names) or ", ".join(map(str, there))
                raise ValueError(f"{dataset.name} has no row of the class {name!r}; its classes are {known}")
        return [number for number in there if number not in found] if self.others else found


def chosen(rows: NDArray[np.int64], count: int | None, seed: int) -> NDArray[np.int64]:
    """`count` of `rows`, those whose random numbers are least; ValueError where there are fewer."""
    if count is None:
        return rows
    if not 1 <= count <= len(rows):
        raise ValueError(f"images={count} of each class: expected 1 to {len(rows)}, for so many are there of one")
    return rows[np.argsort(rng.uniform(rng.key(seed, "transfer.images"), rows), kind="stable")[:count]]


@dataclass(frozen=True, kw_only=True)
class Recount:
    """Each label by its place among `labels`, which has them all.

    >>> Recount(labels=(3, 5))({"label": np.array([5, 3, 5])}, Draws(7, "Recount", np.arange(3)))["label"].tolist()
    [1, 0, 1]
    """

    labels: tuple[int, ...]
    field: str = "label"

    def __call__(self, fields: Fields, draws: Draws) -> Fields:
        return {**fields, self.field: (named(self.field, fields)[:, None] == np.array(self.labels)).argmax(1)}
