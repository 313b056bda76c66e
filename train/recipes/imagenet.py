"""ImageNet as cuda-convnet2 trains on it: five convolutions, three dense layers, crops of 224 from JPEG files.

    minibatch convert ILSVRC2012 data/imagenet/train --subset train
    minibatch convert ILSVRC2012 data/imagenet/valid --subset val
    minibatch train imagenet --data data/imagenet --out runs/imagenet --progress convnet
    minibatch test runs/imagenet                             --test-only
    minibatch test runs/imagenet --multiview recipe          --multiview-test: ten views
    minibatch features runs/imagenet fc4096b features        --write-features

Any folder or tar with train/CLASS/… and val/CLASS/… does; of other than 1,000 classes: `--set classes=10`. The files
stay as they are (no --decode) and are decoded while training; pixels do, too. ILSVRC 2012: Russakovsky et al. 2015,
arXiv:1409.0575; for research only, by request. Network and rates: layers-imagenet-1gpu.cfg and
layer-params-imagenet-1gpu.cfg of cuda-convnet2, Krizhevsky 2014, arXiv:1404.5997; its rates fall three times, each time
by a factor of 6.3.

Images are resized to a shorter side of 256. Training sees random crops of 224 × 224, their mirror images, and
--color-noise 0.1; tests see the middle, or four corners and the middle, also mirrored. (cuda-convnet2 first cuts images
to their middle 256 × 256: here the crops of a longer image come from all of it.) The mean image and the directions of
the colours are those of 1,000 training images at even distances. A line of progress says epoch.batch, a batch being
3,072 images, then the negative logarithm of the probability, top-1 and top-5 error.

As a proof, on CIFAR-10 enlarged to 256, which two cores can do:

    minibatch convert cifar10-jpg.tar.gz data/enlarged/train --subset train
    minibatch convert cifar10-jpg.tar.gz data/enlarged/valid --subset test
    minibatch train imagenet --data data/enlarged --out runs/enlarged --progress convnet --set classes=10 \\
        --minibatch-size 32 --max-samples 6144 --set rates=0.01 --set bias_rates=0.02 --set log_every=16

Expected: cuda-convnet2's document ends at logprob 1.864, top-1 error 42.5 %, top-5 error 19.8 %, and in ten views at
1.734, 40.4 % and 18.2 %; not trained here, for want of the data. The proof, on 5,000 and 300 of the images, falls to
logprob 2.02 (chance is 2.30), top-1 error 78 %, top-5 error 20 % (seed 7), in 6 min on one core.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from torch import nn
from torch.optim import Optimizer

from minibatch import Dataset, MinibatchSource
from minibatch.arguments import checked_integer, checked_number
from minibatch.models.alexnet import AlexNet
from minibatch.rng import Draws
from minibatch.train.config import Prepared, RunConfig
from minibatch.train.groups import Rule
from minibatch.train.losses import cross_entropy, on
from minibatch.train.metrics import error, top_k_error
from minibatch.train.multiview import MultiView, views_named
from minibatch.train.presets import preset
from minibatch.train.recipes.converted import converted
from minibatch.train.recipes.pixel_statistics import noisy_source, subtract_mean
from minibatch.train.schedules import Schedule, from_convnet
from minibatch.train.terms import Term
from minibatch.transforms import CenterCrop, DecodeImage, Fields, HorizontalFlip, RandomCrop, Resize, Transform

SWEEP = 1_281_167
DATA_BATCH = 3_072  # images to a line of progress, as in the document; a test every 201
MEASURED = 1_000  # images, for the mean image and the colours
CONVNET = preset("convnet")


def imagenet(
    *,
    seed: int = 7,
    minibatch_size: int = 128,
    microbatch_size: int | None = None,
    max_samples: int = 90 * SWEEP,
    classes: int = 1000,
    size: int = 224,
    shorter_side: int = 256,
    widths: tuple[int, int, int, int, int] = (64, 192, 384, 256, 256),
    hidden: int = 4096,
    rates: str = "dexp[base=0.01;tgtFactor=250;numSteps=4]",
    bias_rates: str = "dexp[base=0.02;tgtFactor=10;numSteps=2]",
    color_noise: float = 0.1,
    threads: int | None = 2,
) -> RunConfig:
    """The configuration of a run on images in folders, one for each of `classes`; sizes in samples.

    Images are decoded and resized to `shorter_side`; the network sees crops of `size` × `size` (--inner-size), 36 at
    least. widths, hidden: of the network. rates, bias_rates: epsW and epsB of all layers. color_noise: 0 for none.

    >>> config = imagenet(max_samples=400)
    >>> [round(config.schedules[0](t), 6) for t in (0, 100, 200, 300)]
    [0.01, 0.001587, 0.000252, 4e-05]
    """
    checked_integer(minibatch_size, "minibatch_size", least=1)  # by their names here, before anything divides by them
    checked_number(color_noise, "color_noise", least=0)
    whole = Shown(shorter_side=shorter_side, crop=CenterCrop(size=shorter_side))
    crops = Shown(shorter_side=shorter_side, crop=RandomCrop(size=size), flip=HorizontalFlip())
    return RunConfig(
        model=partial(AlexNet, size=size, classes=classes, widths=widths, hidden=hidden),
        inputs="image",
        terms=(
            CONVNET.term("logprob", on(cross_entropy, "label")),
            Term("top1", on(error, "label"), coefficient=0.0),
            Term("top5", on(top_k_error, "label", k=min(5, classes)), coefficient=0.0),
        ),
        optimizers=partial(momentum, biases=from_convnet(bias_rates, max_samples)),
        schedules=(from_convnet(rates, max_samples),),
        data=partial(of_so_many_classes, classes=classes),
        start=partial(subtract_mean, size=size, most=MEASURED, decode=(whole,)),
        source=partial(
            noisy_source, transforms=(crops,), color_noise=color_noise, size=size, most=MEASURED, decode=(whole,)
        ),
        validation_source=partial(held_out, transforms=(whole,)),
        multiview=MultiView(views=views_named("corners", size=size, field="image"), inputs="image"),
        device="auto",
        seed=seed,
        minibatch_size=minibatch_size,
        microbatch_size=microbatch_size,
        max_samples=max_samples,
        validate_every=min(201 * DATA_BATCH, max(1, max_samples // 2)),
        save_every=201 * DATA_BATCH,
        log_every=max(1, DATA_BATCH // minibatch_size),
        threads=threads,
    )


def momentum(model: nn.Module, *, biases: Schedule) -> Optimizer:
    """momW, momB and wc of the parameter file: momentum 0.9, decay of all weights; biases have their own schedule."""
    return CONVNET.optimizer(model, 0.01, Rule("*.bias", schedules={"lr": biases}), mom=0.9, wc=0.0005)


@dataclass(frozen=True, kw_only=True)
class Shown:
    """Images of the field `image`, encoded ones of any size or uint8 (n, h, w, 3), resized, cropped and mirrored.

    The pixels and the random numbers are the same in both cases.
    """

    shorter_side: int
    crop: RandomCrop | CenterCrop
    flip: HorizontalFlip | None = None

    def __call__(self, fields: Fields, draws: Draws) -> Fields:
        images = fields["image"]
        if isinstance(images, np.ndarray) and images.dtype == np.uint8:
            fields = Resize(shorter_side=self.shorter_side, method="smooth")(fields, draws)
            fields = self.crop(fields, draws)
            return fields if self.flip is None else self.flip(fields, draws)
        return DecodeImage(shorter_side=self.shorter_side, crop=self.crop, flip=self.flip)(fields, draws)


def held_out(prepared: Prepared, seed: int, *, transforms: Sequence[Transform]) -> MinibatchSource:
    """The validation data as whole images of one size, in their own order."""
    assert prepared.valid is not None
    return MinibatchSource(prepared.valid, shuffle=None, transforms=transforms)


def of_so_many_classes(folder: Path, *, classes: int) -> Prepared:
    """The data sets in `folder`, if the classes noted in them are as many as the network has."""
    prepared = converted("imagenet", folder)
    noted = json.loads(Dataset.open(prepared.train).fields["label"].metadata.get("classes", "null"))
    if noted is not None and len(noted) != classes:
        raise ValueError(
            f"{prepared.train} has images of {len(noted):,} classes and the network is for {classes:,}: pass "
            f"--set classes={len(noted)}"
        )
    return prepared
