"""Lists and packed sequences in training: padded with masks, exact under microbatches, measured row by row."""

import numpy as np
import pytest
import torch
from torch import nn

from minibatch import DatasetWriter, MinibatchSource
from minibatch.models.noise import Dropout
from minibatch.train import Metric, Term, Trainer, cross_entropy, evaluate, on, parameters_digest
from minibatch.train.batches import TensorBatch

ROWS, WORDS, TAGS = 41, 12, 4


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lists") / "data"
    draw = np.random.default_rng(3)
    words = [draw.integers(1, WORDS, size=draw.integers(1, 9)) for _ in range(ROWS)]
    with DatasetWriter(folder, chunk_rows=7) as writer:
        writer.write({"words": words, "tags": [w % TAGS for w in words], "topic": np.arange(ROWS) % 3})
    return folder


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(WORDS, 6, _weight=torch.sin(torch.arange(WORDS * 6.0)).view(WORDS, 6))
        self.drop = Dropout(0.2)
        self.tag, self.topic = nn.Linear(6, TAGS), nn.Linear(6, 3)
        with torch.no_grad():
            for number, parameter in enumerate(self.parameters()):
                parameter.copy_(torch.cos(torch.arange(parameter.numel()) * 0.7 + number).view(parameter.shape))

    def forward(self, words, mask):
        hidden = self.drop(torch.tanh(self.embed(words)))
        summed = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return {"tags": self.tag(hidden).movedim(-1, 1), "topic": self.topic(summed)}


TERMS = (
    Term("tags", on(cross_entropy, "tags", output="tags"), mask="words_mask"),
    Term("topic", on(cross_entropy, "topic", output="topic"), coefficient=0.3),
)


def train(data, *, steps=6, dtype=torch.float64, **options):
    with MinibatchSource(data, seed=5, sequences="rows") as source:
        model = Tagger().to(dtype)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        trainer = Trainer(model, TERMS, optimizer, source, 10, inputs=("words", "words_mask"), **options)
        results = [trainer.train_minibatch() for _ in range(steps)]
    return model, results


def test_lists_come_padded_with_masks_and_lengths(data):
    with MinibatchSource(data, seed=5, sequences="rows") as source:
        batch = source.next_minibatch(10)
        tensors = TensorBatch(batch)
        longest = int(batch["words"].lengths.max())
        assert tensors["words"].shape == (10, longest)
        assert tensors["words_lengths"].tolist() == batch["words"].lengths.tolist()
        assert tensors["words_mask"].sum(1).tolist() == batch["words"].lengths.tolist()
        assert not tensors["words"][~tensors["words_mask"]].any()
        part = tensors.part(3, 6)
        assert torch.equal(part["words"], tensors["words"][3:6])
        assert torch.equal(part["words_mask"], tensors["words_mask"][3:6])
        assert {"words", "words_mask", "words_lengths", "topic"} <= set(tensors)
        with pytest.raises(KeyError, match="words_mask"):
            tensors["topic_mask"]


def test_microbatches_of_lists_change_rounding_only(data):
    expected, whole = train(data)
    for size in (1, 4, 7):
        model, results = train(data, microbatch_size=size)
        for a, b in zip(results, whole, strict=True):
            assert a["tags"] == pytest.approx(b["tags"], rel=1e-12)
        for a, b in zip(model.parameters(), expected.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-13)


def test_the_mean_over_tokens_is_that_of_the_whole_minibatch(data):
    with MinibatchSource(data, seed=5, sequences="rows") as source:
        batch = source.next_minibatch(10)
    model = Tagger().double().eval()
    losses = []
    for words, tags in zip(batch["words"], batch["tags"], strict=True):
        logits = model(torch.tensor(words)[None], torch.ones(1, len(words)))["tags"]
        losses += cross_entropy(logits, torch.tensor(tags)[None]).flatten().tolist()
    with MinibatchSource(data, seed=5, sequences="rows") as source:
        trained = Tagger().double().eval()
        trainer = Trainer(trained, TERMS, torch.optim.SGD(trained.parameters(), lr=0.1), source, 10, 3,
                          inputs=("words", "words_mask"))  # fmt: skip
        assert trainer.train_minibatch()["tags"] == pytest.approx(np.mean(losses), rel=1e-12)


def test_bits_hold_for_lists(data):
    assert parameters_digest(train(data, dtype=torch.float32, promise="bits", leaf_size=2)[0]) == parameters_digest(
        train(data, dtype=torch.float32, promise="bits", leaf_size=2, microbatch_size=5)[0]
    )


def test_validation_of_lists_is_read_row_by_row(data):
    model = Tagger().double()
    metrics = [Metric("rows", lambda outputs, batch: torch.ones(len(batch["topic"])), mask=None)]
    values = [
        evaluate(model, data, inputs=("words", "words_mask"), terms=TERMS, metrics=metrics, minibatch_size=size)
        for size in (5, 41, 1000)
    ]
    assert {value.samples for value in values} == {ROWS}
    assert values[0]["tags"] == pytest.approx(values[1]["tags"], rel=1e-12)
    assert values[0].pairs["tags"][1] == values[2].pairs["tags"][1]


class Successor(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.out = nn.Embedding(WORDS, 6), nn.Linear(6, WORDS)
        with torch.no_grad():
            for number, parameter in enumerate(self.parameters()):
                parameter.copy_(torch.cos(torch.arange(parameter.numel()) * 0.3 + number).view(parameter.shape))

    def forward(self, words):
        return self.out(torch.tanh(self.embed(words))).movedim(-1, 1)


def same_sequence(batch):
    ids = batch["segment_ids"]
    following = torch.zeros_like(batch["token_mask"])
    following[:, :-1] = (ids[:, 1:] == ids[:, :-1]) & (ids[:, :-1] > 0)
    return following


def next_word(outputs, batch):
    return cross_entropy(outputs, torch.roll(batch["words"], -1, 1))


def train_packed(data, *, steps=5, dtype=torch.float64, **options):
    with MinibatchSource(data, seed=5, sequences="packed", block=8, fields=["words"]) as source:
        model = Successor().to(dtype)
        term = Term("next", next_word, mask=same_sequence)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        trainer = Trainer(model, term, optimizer, source, 48, inputs="words", **options)
        results = [trainer.train_minibatch() for _ in range(steps)]
        return model, results, trainer


def test_packed_sequences_are_rows_of_tokens(data):
    with MinibatchSource(data, seed=5, sequences="packed", block=8) as source:
        source.seek(16)
        batch = source.next_minibatch(24)
        tensors = TensorBatch(batch)
        assert tensors.num_samples == 3
        assert tensors["words"].shape == tensors["segment_ids"].shape == tensors["token_mask"].shape == (3, 8)
        assert tensors.times.tolist() == [16, 24, 32]
        assert tensors.places.tolist() == [2, 3, 4]
        assert set(tensors.rows.tolist()) <= set(batch.rows.tolist())
        assert torch.equal(tensors.part(1, 3)["positions"], tensors["positions"][1:])


def test_packed_sequences_train_exactly_in_microbatches_of_rows(data):
    expected, whole, _ = train_packed(data)
    assert whole[0].interval == (0, 48)
    assert whole[0].num_samples == 48
    for size in (1, 4):
        model, results, _ = train_packed(data, microbatch_size=size)
        assert [r["next"] for r in results] == pytest.approx([r["next"] for r in whole], rel=1e-12)
        for a, b in zip(model.parameters(), expected.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-13)


def test_leaves_of_packed_sequences_are_groups_of_rows(data):
    one, _, trainer = train_packed(data, promise="bits", leaf_size=2, dtype=torch.float32)
    other, _, _ = train_packed(data, promise="bits", leaf_size=2, dtype=torch.float32, microbatch_size=3)
    assert trainer.streams.leaf_size == 2
    assert parameters_digest(one) == parameters_digest(other)


def test_a_validation_source_that_counts_tokens_needs_an_end(data):
    term = Term("next", next_word, mask=same_sequence)
    model = Successor().double()
    with (
        MinibatchSource(data, sequences="packed", block=8, fields=["words"]) as source,
        pytest.raises(ValueError, match="max_sweeps=1"),
    ):
        evaluate(model, source, inputs="words", terms=[term])
    with MinibatchSource(data, sequences="packed", block=8, fields=["words"], max_sweeps=1, shuffle=None) as source:
        small = evaluate(model, source, inputs="words", terms=[term], minibatch_size=8)
        large = evaluate(model, source, inputs="words", terms=[term], minibatch_size=80)
        assert small["next"] == pytest.approx(large["next"], rel=1e-12)
        assert small.samples == large.samples
