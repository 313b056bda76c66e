"""Trainers that are no optimizers, from theanets: weights that are samples of the data, and layers trained in turn.

    sample       no gradient: hidden weights are samples of the inputs, those of the last layer samples of the targets
    layerwise    greedy and supervised: nets of the first hidden layer, of two, …, each with an output layer of its own,
                 at last the whole net (Bengio et al. 2007, Greedy layer-wise training of deep networks)
    pretrain     unsupervised: an autoencoder of the hidden layers with tied decoders, itself trained layerwise; the
                 encoding layers are those of the net (Hinton and Salakhutdinov 2006, doi:10.1126/science.1127647)

The last two say which nets to train, one after the other; they share their layers with the net, so that nothing has to
be copied back. All of it is a function of (net, data, seed).
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from minibatch import Dataset, MinibatchSource, rng
from minibatch.models import feedforward
from minibatch.models.feedforward import Dense, FeedForward, LayerSpec, Tied

READ_AT_ONCE = 256
TAP = "lwout"  # theanets' name of the output layer that only a stage has

Stages = Iterator[tuple[str, FeedForward]]


@torch.no_grad()
def sample(
    net: FeedForward, data: Dataset | MinibatchSource, fields: Sequence[str], *, classes: int | None, seed: int
) -> list[str]:
    """Set weights of `net` to samples of the data, each of 2-norm 1; the names of the layers that were set.

    The weights of each unit of a hidden layer as wide as the inputs become one sample of the inputs; in the last layer,
    what each unit below gives to the outputs becomes one sample of the targets: fields[1], one-hot where they are
    `classes`, or the inputs again where there are none. Samples differ from layer to layer; see `reservoir`.
    Biases stay. Raises ValueError where all samples are 0.
    """
    inputs, last = net.specs[0].size, net.names[-1]
    done = []
    for name, layer in net.layers.items():
        if not isinstance(layer, Dense):
            continue
        units, below = layer.weight.shape
        key = rng.key(seed, f"sample.{name}")
        if name == last:
            target = fields[1] if len(fields) > 1 else fields[0]
            rows = reservoir(data, target, below, classes=classes if len(fields) > 1 else None, key=key)
            layer.weight.copy_(torch.from_numpy(rows.T.copy()))
        elif below == inputs:
            layer.weight.copy_(torch.from_numpy(reservoir(data, fields[0], units, key=key)))
        else:
            continue
        done.append(name)
    return done


def reservoir(
    data: Dataset | MinibatchSource, field: str, count: int, *, key: int, classes: int | None = None
) -> NDArray[np.float64]:
    """`count` samples (count, f) of a field, flattened, each divided by its 2-norm: a uniform choice without repetition.

    They are the first `count` samples that are not all 0 of a sweep shuffled with `key`: a choice that needs no pass
    over the data, whatever their size. Of fewer samples than `count`, the rest are duplicates (chosen with replacement)
    plus normal noise with the deviation of each feature among the normalised samples, normalised again. classes: of
    integer labels, which become one-hot. Transforms of a source apply. Raises ValueError where all samples are 0.
    """
    found: list[NDArray[np.float64]] = []
    with _shuffled(data, field, key) as source:
        rows = len(source.dataset)
        while len(found) < count and source.nominal_time < rows:
            batch = source.next_minibatch(min(READ_AT_ONCE, rows - source.nominal_time))
            values = np.asarray(batch[field])
            if classes is not None:
                values = np.eye(classes)[values.astype(np.int64)]
            for row in values.reshape(len(values), -1).astype(np.float64):
                norm = float(np.sqrt((row * row).sum()))
                if norm > 0.0 and len(found) < count:
                    found.append(row / norm)
    if not found:
        raise ValueError(f"all samples of field {field!r} are 0: there is no direction that a weight could take")
    pool = np.stack(found)
    missing = count - len(pool)
    if missing <= 0:
        return pool
    deviation = pool.std(axis=0)
    chosen = pool[rng.integers(rng.key(key, "duplicates"), np.arange(missing), len(pool))]
    places = np.arange(missing * pool.shape[1]).reshape(missing, pool.shape[1])
    noisy = chosen + deviation * rng.normal(rng.key(key, "noise"), places)
    return np.concatenate([pool, noisy / np.sqrt((noisy * noisy).sum(axis=1, keepdims=True))])


def layerwise(net: FeedForward, *, seed: int) -> Stages:
    """The nets to train one after the other, by the names of the stages; the last is all of `net`.

    Stage i has the first i hidden layers and a new last layer, which gets its first weights from `seed`. Of an
    autoencoder with tied decoders it has the outermost i pairs. The layers are those of `net`: training a stage trains
    them.

    >>> [(name, list(stage.layers)) for name, stage in layerwise(FeedForward((4, 3, 2, 1)), seed=7)]
    [('layerwise-1', ['in', 'hid1', 'lwout']), ('layerwise-2', ['in', 'hid1', 'hid2', 'out'])]
    """
    layers = net.layers
    names = list(layers)
    pairs = _mirrored_pairs(net)
    stages = pairs or len(net.hidden) or 1
    for stage in range(1, stages):
        chosen = names[: stage + 1]
        if pairs:
            yield f"layerwise-{stage}", FeedForward.of({name: layers[name] for name in [*chosen, *names[-stage:]]})
            continue
        tap = _tap(net, below=net.specs[stage].size, seed=rng.key(seed, "tap", stage))
        yield f"layerwise-{stage}", FeedForward.of({**{name: layers[name] for name in chosen}, TAP: tap})
    yield f"layerwise-{stages}", net


def pretrain(net: FeedForward, *, seed: int) -> Stages:
    """The stages of an autoencoder whose encoding layers are all layers of `net` but the last.

    The decoding layers use the weights of the encoding ones transposed, have biases of their own, and are dropped when
    the stages are through. Raises ValueError for a net that has no hidden layer, or one with tied weights.

    >>> [(name, list(stage.layers)) for name, stage in pretrain(FeedForward((4, 3, 2, 1)), seed=7)]
    [('pretrain-1', ['in', 'hid1', 'hid1_back']), ('pretrain-2', ['in', 'hid1', 'hid2', 'hid2_back', 'hid1_back'])]
    """
    layers = net.layers
    encoders = {name: layers[name] for name in net.hidden}
    tied = [name for name, layer in encoders.items() if not isinstance(layer, Dense)]
    if not encoders or tied:
        what = f"the layers {', '.join(tied)} use the weights of others" if tied else "this net has no hidden layer"
        raise ValueError(f"pretrain: {what}; train an autoencoder with algo='layerwise'")
    decoders = {}
    for name, layer in reversed(encoders.items()):
        assert isinstance(layer, Dense)
        first = name == net.hidden[0]
        spec = LayerSpec(
            name=f"{name}_back",
            size=layer.weight.shape[1],
            activation="linear" if first else layer.spec.activation,
            tied=name,
        )
        decoders[spec.name] = Tied(layer, spec).to(layer.weight)
    shadow = FeedForward.of({net.names[0]: layers[net.names[0]], **encoders, **decoders})
    for stage, inner in layerwise(shadow, seed=seed):
        yield stage.replace("layerwise", "pretrain"), inner


def _mirrored_pairs(net: FeedForward) -> int:
    """How many pairs of encoding and decoding layers a net consists of whose decoders are all tied; 0 for others."""
    layers = list(net.layers.values())[1:]
    half = len(layers) // 2
    mirrored = len(layers) % 2 == 0 and all(
        isinstance(outer, Tied) and outer.partner is inner
        for inner, outer in zip(layers[:half], reversed(layers[half:]), strict=True)
    )
    return half if mirrored else 0


def _tap(net: FeedForward, *, below: int, seed: int) -> Dense:
    """A new last layer like that of `net`, on a layer of `below` units."""
    last = net.get_submodule(net.names[-1])
    assert isinstance(last, Dense | Tied)
    tap = Dense(below, LayerSpec(name=TAP, size=last.spec.size, activation=last.spec.activation))
    tap.activation = last.activation
    feedforward.fill(tap, seed=seed)
    weight: Tensor = next(net.parameters())
    return tap.to(weight)


def _shuffled(data: Dataset | MinibatchSource, field: str, key: int) -> MinibatchSource:
    """A source over the same data, shuffled throughout with `key`."""
    if isinstance(data, Dataset):
        return MinibatchSource(data, seed=key, fields=[field])
    return MinibatchSource(data.dataset, seed=key, transforms=data.arguments["transforms"], max_sweeps=1)
