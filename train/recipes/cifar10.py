"""CIFAR-10, cuda-convnet2's network of 11 % error: two convolutions, two locally connected layers, rates that fall.

    minibatch convert cifar10-jpg.tar.gz data/cifar10/train --subset train --decode
    minibatch convert cifar10-jpg.tar.gz data/cifar10/valid --subset test --decode
    minibatch train cifar10 --data data/cifar10 --out runs/cifar10 --progress convnet                    (on a GPU)
    minibatch train cifar10 --data data/cifar10 --out runs/short --max-samples 500000 --set shares=8,1,1
    minibatch test runs/cifar10                             --test-only
    minibatch test runs/cifar10 --multiview recipe          --multiview-test: a grid of 3 × 3 crops
    minibatch features runs/cifar10 fc10 features/fc10      --write-features

Data: Krizhevsky 2009, "Learning Multiple Layers of Features from Tiny Images": 60,000 photographs of 32 × 32 pixels in
10 classes, 10,000 of them held out. Network and rates: layers-cifar10-11pct.cfg and layer-params-cifar10-11pct.cfg of
cuda-convnet2. Training sees random crops of 24 × 24 pixels and their mirror images, tests the middle; the mean image of
the middles of 10,000 training images is subtracted by the network, which carries it. The document has --color-noise
0.1 for ImageNet alone; here it is used, too, unless color_noise=0.

The parameter file is used three times: as it is, with all rates divided by 10, and by 100, for 500, 10 and 10 epochs;
`rates` and `shares` say so. One run does it all; by hand, as the file's head tells it, one watches the held-out error,
presses Ctrl-C and goes on with other rates:

    minibatch train cifar10 --data data/cifar10 --out runs/byhand --set rates=0.001
    minibatch train cifar10 --data data/cifar10 --out runs/byhand --resume --set rates=0.0001 \\
        --max-samples 20000000

The weight decay of the convolutions is 0, of the locally connected layers 0.004 and of the last one 0.01; biases have
twice the rate; the learning rate is inside the velocity, and the last, short minibatch of a run counts for less, as in
cuda-convnet2 (preset "convnet"). There the first 350 epochs were without the fifth of the data on which they watched
the error.

The second command, 10 epochs instead of 520, is for two cores. When a run is finished, it is tested in nine views, and
the filters of the first layer are drawn to filters.png, as by shownet.py --show-filters.

Expected: 11 % of errors with nine views after 520 epochs, by cuda-convnet2's own account (not trained to the end here).
Of the short form 29.1 % of errors in the middle and 26.9 % in nine views (seeds 1, 2 and 3: 28.8, 29.3 and 29.2; 26.4,
27.0 and 27.3), in 7 min on one core.
"""

from collections.abc import Mapping, Sequence
from functools import partial

from torch import nn
from torch.optim import Optimizer

from minibatch.arguments import checked_integer, checked_number
from minibatch.models.convnet import ConvNet
from minibatch.train.config import RunConfig
from minibatch.train.finished import Finished
from minibatch.train.groups import Rule
from minibatch.train.losses import cross_entropy, on
from minibatch.train.metrics import error
from minibatch.train.multiview import MultiView, views_named
from minibatch.train.presets import preset
from minibatch.train.recipes.converted import converted
from minibatch.train.recipes.filters import draw_filters
from minibatch.train.recipes.pixel_statistics import noisy_source, subtract_mean
from minibatch.train.schedules import Schedule, Then, from_convnet
from minibatch.train.terms import Term
from minibatch.train.validation import evaluate
from minibatch.transforms import HorizontalFlip, RandomCrop

SWEEP = 50_000
DATA_BATCH = 3_072  # images to a line of progress, as in the document; a test every 16
MEASURED = 10_000  # images, for the mean image and the colours
CONVNET = preset("convnet")


def cifar10(
    *,
    seed: int = 7,
    minibatch_size: int = 128,
    microbatch_size: int | None = None,
    max_samples: int = 520 * SWEEP,
    rates: tuple[str, ...] = ("0.001", "0.0001", "0.00001"),
    shares: tuple[float, ...] = (500, 10, 10),
    color_noise: float = 0.1,
    threads: int | None = 2,
) -> RunConfig:
    """The configuration of a run on CIFAR-10; sizes in samples.

    rates: epsW of one layer-params file after the other, each a number or a schedule as it is written there, such as
    "dexp[base=0.001;tgtFactor=100;numSteps=3]". shares: how long each of them is used, in any unit. Biases have twice
    the rate. color_noise: 0 for none.

    >>> config = cifar10(max_samples=5200)
    >>> [config.schedules[0](t) for t in (0, 4999, 5000, 5100)]
    [0.001, 0.001, 0.0001, 1e-05]
    """
    checked_integer(minibatch_size, "minibatch_size", least=1)  # by their names here, before anything divides by them
    checked_integer(max_samples, "max_samples", least=len(rates))
    checked_number(color_noise, "color_noise", least=0)
    return RunConfig(
        model=partial(ConvNet, size=24, classes=10),
        inputs="image",
        terms=(
            CONVNET.term("logprob", on(cross_entropy, "label")),
            Term("top1", on(error, "label"), coefficient=0.0),
        ),
        optimizers=momentum,
        schedules=(one_after_the_other(rates, shares, max_samples),),
        data=partial(converted, "cifar10"),
        start=partial(subtract_mean, size=24, most=MEASURED),
        source=partial(
            noisy_source,
            transforms=(RandomCrop(size=24), HorizontalFlip()),
            color_noise=color_noise,
            size=24,
            most=MEASURED,
        ),
        multiview=MultiView(views=views_named("grid", size=24, field="image"), inputs="image"),
        device="auto",
        seed=seed,
        minibatch_size=minibatch_size,
        microbatch_size=microbatch_size,
        max_samples=max_samples,
        validate_every=16 * DATA_BATCH,
        save_every=16 * DATA_BATCH,
        log_every=max(1, DATA_BATCH // minibatch_size),
        threads=threads,
        report=report,
    )


def momentum(model: nn.Module) -> Optimizer:
    """momW, momB and wc of the parameter file: momentum 0.9, decay of the upper weights, biases at twice the rate."""
    return CONVNET.optimizer(
        model,
        0.001,
        Rule("*.bias", rate=2.0),
        Rule("local*.weight", weight_decay=0.004),
        Rule("fc10.weight", weight_decay=0.01),
        mom=0.9,
    )


def one_after_the_other(rates: Sequence[str], shares: Sequence[float], max_samples: int) -> Schedule:
    """The schedule of `rates`, each for its share of a run of `max_samples`."""
    if not rates or len(shares) < len(rates) or min(shares[: len(rates)]) <= 0:
        raise ValueError(f"rates={rates} and shares={shares}: expected at least one rate, and a share above 0 of each")
    ends = [sum(shares[: place + 1]) for place in range(len(rates))]
    borders = [0, *(round(max_samples * end / ends[-1]) for end in ends)]
    parts = [from_convnet(rate, borders[i + 1] - borders[i]) for i, rate in enumerate(rates)]
    return parts[0] if len(parts) == 1 else Then(parts, borders=borders[1:-1])


def report(finished: Finished) -> Mapping[str, float]:
    """The test in nine views, and the filters of the first layer as filters.png."""
    config = finished.config
    assert config.multiview is not None
    assert finished.prepared.valid is not None
    views = evaluate(
        finished.model, finished.prepared.valid, inputs=config.multiview, terms=config.terms, minibatch_size=500
    )
    draw_filters(finished.out / "filters.png", finished.model.get_parameter("conv1.weight"))
    return {f"nine views {name}": value for name, value in views.items() if value is not None}
