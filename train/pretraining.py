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
from typing import Any

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

    The weights of unit j of a hidden layer as wide as the inputs become the input of sample j. In the last layer, what
    unit j below gives to the outputs becomes the target of sample j: fields[1], one-hot where they are `classes`, or
    the input again where there are no targets. So a net with one hidden layer answers with the targets of the samples
    that are most like the input (theanets chooses inputs and targets independently, which says nothing about classes).
    Biases stay. See `reservoir` for which samples these are. Raises ValueError where all samples are 0.
    """
    layers = {name: layer for name, layer in net.layers.items() if isinstance(layer, Dense)}
    last, size = net.names[-1], net.specs[0].size
    hidden = {name: layer for name, layer in layers.items() if name != last and layer.weight.shape[1] == size}
    wanted = [layer.weight.shape[0] for layer in hidden.values()]
    if last in layers:
        wanted.append(layers[last].weight.shape[1])
    if not wanted:
        raise ValueError("sample: no layer is as wide as the inputs, and the last one has tied weights; nothing to set")
    inputs, targets = reservoir(data, fields[:2], max(wanted), classes=classes, key=rng.key(seed, "sample"))
    for layer in hidden.values():
        layer.weight.copy_(torch.from_numpy(inputs[: layer.weight.shape[0]]))
    if last in layers:
        weight = layers[last].weight
        weight.copy_(torch.from_numpy(targets[: weight.shape[1]].T.copy()))
    return [*hidden, last] if last in layers else [*hidden]


def reservoir(
    data: Dataset | MinibatchSource, fields: Sequence[str], count: int, *, classes: int | None = None, key: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Inputs (count, f) and targets (count, c) of `count` samples, flattened, each divided by its 2-norm.

    fields: inputs and targets; without targets the inputs serve twice. They are the first `count` samples of which
    neither is all 0 in a sweep shuffled with `key`: a uniform choice without repetition that needs no pass over the
    data, whatever their size. Of fewer samples, the rest are duplicates, chosen with replacement, plus normal noise
    with the deviation of each feature among the normalised samples, normalised again. classes: of integer labels, which
    become one-hot. Transforms of a source apply. Raises ValueError where all samples are 0.
    """
    pools: tuple[list[NDArray[np.float64]], list[NDArray[np.float64]]] = [], []
    with _shuffled(data, fields, key) as source:
        rows = len(source.dataset)
        while len(pools[0]) < count and source.nominal_time < rows:
            batch = source.next_minibatch(min(READ_AT_ONCE, rows - source.nominal_time))
            inputs = _flat(batch[fields[0]])
            targets = inputs
            if len(fields) > 1:
                labels = np.asarray(batch[fields[1]])
                targets = _flat(labels if classes is None else np.eye(classes)[labels.astype(np.int64)])
            for pair in zip(inputs, targets, strict=True):
                lengths = [float(np.sqrt((row * row).sum())) for row in pair]
                if all(lengths) and len(pools[0]) < count:
                    for rows_of, row, length in zip(pools, pair, lengths, strict=True):
                        rows_of.append(row / length)
    if not pools[0]:
        raise ValueError(f"all samples of {' and '.join(fields)} are 0: there is no direction that weights could take")
    found = len(pools[0])
    chosen = rng.integers(rng.key(key, "duplicates"), np.arange(count - found), found) if count > found else None
    done = []
    for number, rows_of in enumerate(pools):
        pool: NDArray[np.float64] = np.stack(rows_of)
        if chosen is not None:
            places = np.arange(len(chosen) * pool.shape[1]).reshape(len(chosen), pool.shape[1])
            more = pool[chosen] + pool.std(axis=0) * rng.normal(rng.key(key, "noise", number), places)
            pool = np.concatenate([pool, more / np.sqrt((more * more).sum(axis=1, keepdims=True))])
        done.append(pool)
    return done[0], done[1]


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


def _flat(values: Any) -> NDArray[np.float64]:
    array = np.asarray(values)
    return array.reshape(len(array), -1).astype(np.float64)


def _shuffled(data: Dataset | MinibatchSource, fields: Sequence[str], key: int) -> MinibatchSource:
    """A source over the same data, shuffled throughout with `key`."""
    if isinstance(data, Dataset):
        return MinibatchSource(data, seed=key, fields=fields)
    return MinibatchSource(data.dataset, seed=key, transforms=data.arguments["transforms"])
