"""Text, character by character: a small GPT on tiny Shakespeare, in packed rows that are cut anew in every sweep.

    minibatch convert tinyshakespeare.txt data/charlm/train --text-as characters --row-tokens 1000 --subset first:90%
    minibatch convert tinyshakespeare.txt data/charlm/valid --text-as characters --row-tokens 1000000 --subset last:10%
    minibatch train charlm --data data/charlm --out runs/charlm
    minibatch train charlm --data data/charlm --out runs/charlm --set size=base              on a GPU

The data: 1.1 MB of Shakespeare's plays, public domain (Karpathy 2015, "The Unreasonable Effectiveness of Recurrent
Neural Networks"), of 65 different characters.

Training rows are stretches of 1,000 characters. They are shuffled, laid end to end and cut into blocks; as 1,000 is no
multiple of a block, the cuts fall elsewhere in every sweep, as those of random windows would. Where two stretches meet
in a block, attention does not look across. The text held out is one row in fixed blocks: each of its characters but the
first is predicted once, and those at the beginning of a block without what stands before it, as in training.

The nominal time of a run, and so all of its numbers, counts characters. At the end the net has the weights of its best
validation, and samples.txt what it makes up. The default is for two cores; on processors with products of bfloat16
(AVX512-BF16, AMX) `--set precision=bf16` is about twice as fast.

Expected: 1.54 nats (2.22 bits) per held-out character (seeds 1, 2 and 3: 1.538, 1.543 and 1.540), in
about 7 min on one core. "base" is meant for a GPU, and was not run for want of one.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from minibatch import Dataset, MinibatchSource, rng
from minibatch.arguments import checked_integer, checked_number
from minibatch.models.gpt import GPT
from minibatch.train.batches import TensorBatch
from minibatch.train.config import Prepared, RunConfig
from minibatch.train.finished import Finished
from minibatch.train.groups import groups
from minibatch.train.losses import cross_entropy
from minibatch.train.metrics import Metric
from minibatch.train.precision import PrecisionName
from minibatch.train.recipes.converted import converted
from minibatch.train.schedules import Cosine, Warmup
from minibatch.train.terms import Term
from minibatch.transforms.tokens import NextToken

FIELD, NO_NEXT = "text", -1


@dataclass(frozen=True, kw_only=True)
class Size:
    """What belongs together: the net, its blocks of characters, how many of them make a step, and for how long."""

    layers: int
    heads: int
    width: int
    block: int
    blocks: int
    dropout: float
    learning_rate: float
    characters: int
    precision: PrecisionName | None


# "base" is the net of nanoGPT's shakespeare_char on a GPU, "small" its form for a CPU with a block twice as long.
SIZES = {
    "small": Size(
        layers=4, heads=4, width=128, block=128, blocks=16, dropout=0.0, learning_rate=3e-3, characters=6_000_000,
        precision=None,
    ),
    "base": Size(
        layers=6, heads=6, width=384, block=256, blocks=64, dropout=0.2, learning_rate=1e-3, characters=60_000_000,
        precision="bf16",
    ),
}  # fmt: skip


def charlm(
    *,
    size: Literal["small", "base"] = "small",
    vocabulary: int = 65,
    seed: int = 7,
    minibatch_size: int | None = None,
    microbatch_size: int | None = None,
    max_samples: int | None = None,
    learning_rate: float | None = None,
    dropout: float | None = None,
    texts: int = 4,
    characters: int = 500,
    temperature: float = 0.8,
    top_k: int | None = None,
    threads: int | None = 2,
) -> RunConfig:
    """The configuration of a run; sizes in characters, None for those of `size`.

    vocabulary: how many different characters the text has. texts, characters, temperature, top_k: how many texts are
    written to samples.txt when the run is finished, how long, and how they are drawn, see `drawn`.

    >>> config = charlm()
    >>> config.minibatch_size, sum(parameter.numel() for parameter in config.model(seed=1).parameters())
    (2048, 795904)
    """
    chosen = SIZES[size]
    rate = chosen.learning_rate if learning_rate is None else learning_rate
    end = checked_integer(chosen.characters if max_samples is None else max_samples, "max_samples", least=1)
    checked_integer(texts, "texts", least=0)  # of the report: said now, not when the run is finished
    checked_integer(characters, "characters", least=1)
    checked_number(temperature, "temperature", above=0)
    if top_k is not None:
        checked_integer(top_k, "top_k", least=1)
    return RunConfig(
        model=partial(
            GPT,
            vocabulary=vocabulary,
            layers=chosen.layers,
            heads=chosen.heads,
            width=chosen.width,
            dropout=chosen.dropout if dropout is None else dropout,
        ),
        inputs=next_characters,
        terms=(Term("nats", nats, mask=is_known),),
        metrics=(Metric("bits", bits, mask=is_known),),
        optimizers=partial(adamw, learning_rate=rate),
        schedules=(Warmup(samples=end // 20, then=Cosine(rate, samples=end, last=0.05 * rate)),),
        clip_grad_norm=1.0,
        data=partial(prepared, vocabulary=vocabulary),
        source=partial(packed, block=chosen.block),
        validation_source=partial(held_out, block=chosen.block),
        validation_size=64 * chosen.block,
        precision=chosen.precision,
        report=partial(
            report,
            block=chosen.block,
            texts=texts,
            characters=characters,
            temperature=temperature,
            top_k=top_k,
        ),
        device="auto",
        seed=seed,
        minibatch_size=chosen.blocks * chosen.block if minibatch_size is None else minibatch_size,
        microbatch_size=microbatch_size,
        max_samples=end,
        validate_every=max(1, end // 10),
        save_every=max(1, end // 10),
        watch="nats",
        restore_best=True,
        threads=threads,
    )


def adamw(model: nn.Module, *, learning_rate: float) -> torch.optim.Optimizer:
    """AdamW that lets matrices decay, and no gains of norms."""
    return torch.optim.AdamW(groups(model, lr=learning_rate, weight_decay=0.1), betas=(0.9, 0.99), fused=True)


def prepared(folder: Path, *, vocabulary: int) -> Prepared:
    """The data sets in `folder`; ValueError if their text has more characters than `vocabulary`."""
    found = converted("charlm", folder)
    count = len(letters(found.train))
    if count > vocabulary:
        raise ValueError(
            f"{found.train} has {count} different characters, the net knows {vocabulary}: --set vocabulary={count}"
        )
    return found


def letters(path: Path) -> list[str]:
    """The characters that the numbers in the field `text` stand for, as `minibatch convert` has noted them."""
    field = Dataset.open(path).fields.get(FIELD)
    if field is None or "vocabulary" not in field.metadata:
        raise ValueError(f"{path} has no field {FIELD!r} with a vocabulary: convert the text with --text-as characters")
    found: list[str] = json.loads(field.metadata["vocabulary"])
    return found


def packed(prepared: Prepared, seed: int, *, block: int) -> MinibatchSource:
    """The training text: shuffled stretches end to end, in blocks, each character with the one behind it."""
    return MinibatchSource(
        prepared.train, seed=seed, sequences="packed", block=block, transforms=(next_in_text(),), fields=[FIELD]
    )


def held_out(prepared: Prepared, seed: int, *, block: int) -> MinibatchSource:
    """The text that is measured on, once, in its own order."""
    assert prepared.valid is not None
    return MinibatchSource(
        prepared.valid,
        shuffle=None,
        sequences="packed",
        block=block,
        transforms=(next_in_text(),),
        fields=[FIELD],
        max_sweeps=1,
    )


def next_in_text() -> NextToken:
    """Makes the field `next` of `text`."""
    return NextToken(field=FIELD, missing=NO_NEXT)


def next_characters(model: nn.Module, batch: TensorBatch) -> Tensor:
    """Logits of the next characters: (n, block, vocabulary)."""
    logits: Tensor = model(batch[FIELD], batch["segment_ids"])
    return logits


def nats(logits: Tensor, batch: TensorBatch) -> Tensor:
    """-log p of each next character, 0 where none is known: (n, block)."""
    n, block, vocabulary = logits.shape
    labels = batch["next"].reshape(n * block)
    return cross_entropy(logits.reshape(n * block, vocabulary), labels, missing=NO_NEXT).view(n, block)


def bits(logits: Tensor, batch: TensorBatch) -> Tensor:
    """As `nats`, in bits."""
    return nats(logits, batch) / math.log(2.0)


def is_known(batch: TensorBatch) -> Tensor:
    """Where the next character is known and is one of the text, not padding: bool (n, block)."""
    known: Tensor = batch["token_mask"] & (batch["next"] != NO_NEXT)
    return known


def report(
    finished: Finished, *, block: int, texts: int, characters: int, temperature: float, top_k: int | None
) -> dict[str, float]:
    """Write what the model makes up to samples.txt: `texts` texts, each beginning behind an end of line."""
    known = letters(finished.prepared.train)
    begin = known.index("\n") if "\n" in known else 0
    keys = [rng.key(finished.config.seed, "charlm.samples", number) for number in range(texts)]
    numbers = written(
        finished.model, keys, begin=begin, length=characters, block=block, temperature=temperature, top_k=top_k
    )
    parts = [
        "".join(known[number] if number < len(known) else "\N{REPLACEMENT CHARACTER}" for number in text)
        for text in numbers
    ]
    (finished.out / "samples.txt").write_text(f"\n\n{'-' * 80}\n\n".join(parts) + "\n", encoding="utf-8")
    return {}


def written(
    model: nn.Module,
    keys: Sequence[int],
    *,
    begin: int,
    length: int,
    block: int,
    temperature: float,
    top_k: int | None,
) -> list[list[int]]:
    """A text of `length` characters for each key, drawn one after the other behind `begin`.

    Each character is drawn by a number of its key and place, so that a text does not depend on the others.
    """
    device = next(model.parameters()).device
    tokens = torch.full((len(keys), 1 + length), begin, dtype=torch.int64, device=device)
    numbers = np.stack([rng.uniform(key, np.arange(length)) for key in keys], 1) if keys else np.empty((length, 0))
    for place in range(length if keys else 0):
        logits = model(tokens[:, max(0, place + 1 - block) : place + 1])[:, -1]
        chosen = drawn(logits.double().cpu().numpy(), numbers[place], temperature=temperature, top_k=top_k)
        tokens[:, place + 1] = torch.as_tensor(chosen, device=device)
    texts: list[list[int]] = tokens[:, 1:].tolist()
    return texts


def drawn(
    logits: NDArray[np.float64], uniform: NDArray[np.float64], *, temperature: float = 1.0, top_k: int | None = None
) -> NDArray[np.int64]:
    """One class per row of logits (n, classes): softmax(logits / temperature) inverted at `uniform`, in [0, 1): (n,).

    temperature: below 1 the likely become likelier; 0 takes the largest logit. top_k: only that many of the largest
    are drawn from (Fan, Lewis and Dauphin 2018, arXiv:1805.04833, section 5.4). Of equal logits the first counts.

    >>> drawn(np.log([[0.5, 0.3, 0.2]] * 3), np.array([0.1, 0.6, 0.9])).tolist()
    [0, 1, 2]
    >>> drawn(np.log([[0.5, 0.3, 0.2]]), np.array([0.9]), top_k=1).tolist()
    [0]
    """
    if not 0.0 <= temperature < math.inf or (top_k is not None and top_k < 1):
        raise ValueError(f"temperature={temperature}, top_k={top_k}: expected a finite number ≥ 0, and at least 1")
    order = np.argsort(-logits, axis=1, kind="stable")[:, : 1 if temperature == 0.0 else top_k]
    kept = np.take_along_axis(logits, order, 1)
    likely = np.exp((kept - kept[:, :1]) / (temperature or 1.0))
    sums = likely.cumsum(1)
    # The first place whose sum is beyond the number; rounding must not lead behind the last one.
    place = (sums <= uniform[:, None] * sums[:, -1:]).sum(1).clip(max=order.shape[1] - 1)
    return np.take_along_axis(order, place[:, None], 1)[:, 0]
