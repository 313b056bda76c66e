"""What is wrong with data, losses, models and calls is said at once, by name; what only looks wrong works."""

import copy
import math
import pickle
import threading

import numpy as np
import pytest
import torch
from torch import nn

from minibatch import DatasetWriter, MinibatchSource
from minibatch.models.noise import Dropout, GaussianNoise
from minibatch.train import (
    EMA,
    ClipNorm,
    JointSource,
    NonFiniteError,
    Skip,
    Spikes,
    Term,
    Trainer,
    TrainingError,
    WeightL2,
    class_weight,
    cross_entropy,
    evaluate,
    every,
    mse,
    on,
    parameters_digest,
    read_ledger,
)
from tests.train.small import ROWS, TERMS, TwoHeads, fields, make_source, make_trainer, write

CLASS = on(cross_entropy, "label", output="logits")
FIT = on(mse, "target", output="values")
LOOSE = {"check_unreached": False}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write(tmp_path_factory.mktemp("bad input") / "data")


def trainer_of(data, source=None, **options):
    return make_trainer(make_source(data, **(source or {})), **options)


def stays(trainer):
    """What a refused step must leave as it was."""
    return parameters_digest(trainer.model), trainer.nominal_time, trainer.step


def until(trainer, row):
    """Train up to the step that has `row`."""
    while row not in trainer.source.at(trainer.nominal_time, 9):
        trainer.train_minibatch()
    return trainer


# Losses.


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda out, batch: out["logits"].mean(), r"returned float64 \(\), .* not their mean or sum"),
        (lambda out, batch: out["logits"].repeat(2, 1), r"returned float64 \(8, 3\), expected .*\(4,\) or \(4, …\)"),
        (lambda out, batch: out["logits"].long(), "losses are floating-point numbers"),
        (lambda out, batch: out["logits"].to(torch.complex64), r"returned complex64 \(4, 3\)"),
        (lambda out, batch: None, "returned NoneType"),
        (lambda out, batch: out["logits"].detach().numpy()[:, 0], r"its loss returned float64 \(4,\)"),
        (lambda out, batch: [0.0] * 4, "its loss returned"),
    ],
)
@pytest.mark.parametrize("options", [{}, {"promise": "bits", "leaf_size": 4}], ids=["math", "bits"])
def test_what_is_no_loss_is_refused_with_the_shapes_of_everything(data, loss, message, options):
    trainer = trainer_of(data, terms=Term("mine", loss), **LOOSE, **options)
    before = stays(trainer)
    with pytest.raises(ValueError, match=message) as caught:
        trainer.train_minibatch()
    said = f"{caught.value} {getattr(caught.value, '__notes__', '')}"
    assert all(part in said for part in ("'mine'", "logits: float64 (4, 3)", "x: float64 (4, 6)"))
    assert stays(trainer) == before


def test_values_on_another_device_are_no_crash_of_the_run(data):
    trainer = trainer_of(data, terms=Term("far", lambda out, batch: out["logits"].sum(1).to("meta")), **LOOSE)
    before = stays(trainer)
    with pytest.raises(Exception, match="meta"):
        trainer.train_minibatch()
    assert stays(trainer) == before


def test_a_label_out_of_range_is_named_and_nothing_has_happened(tmp_path):
    data = write(tmp_path / "data", label=np.where(np.arange(ROWS) == 5, 3, 0))
    trainer = trainer_of(data, folder=tmp_path / "run")
    until(trainer, 5)
    before = stays(trainer)
    with pytest.raises(ValueError, match=r"cross_entropy: labels \[3\] in samples \[\d\] of the batch; .*0 to 2"):
        trainer.train_minibatch()
    assert stays(trainer) == before
    trainer.close()
    weighted = Term("class", CLASS, weight=class_weight("label", [1, 2, 3]))
    trainer = until(trainer_of(data, terms=weighted, **LOOSE), 5)
    with pytest.raises(ValueError, match=r"'label' has labels from 0 to 3, class weights are given for 0 to 2"):
        trainer.train_minibatch()


# Weights, masks and terms without samples.


@pytest.mark.parametrize("bad", [math.inf, math.nan, -1.0])
def test_weights_that_are_no_numbers_are_refused_with_their_rows(tmp_path, bad):
    data = write(tmp_path / "data", uniform=np.where(np.arange(ROWS) == 7, bad, 1.0))
    trainer = trainer_of(data, terms=Term("class", CLASS, weight="uniform"), **LOOSE)
    until(trainer, 7)
    before = stays(trainer)
    with pytest.raises(ValueError, match=r"term 'class': weight field 'uniform' .*in rows \[7\] of the data set"):
        trainer.train_minibatch()
    assert stays(trainer) == before


@pytest.mark.parametrize("options", [{}, {"promise": "bits", "leaf_size": 4}, {"averaging": EMA(halflife=9)}])
def test_weights_that_are_all_zero_teach_nothing_and_are_no_error(data, options):
    """Not even the regularizers; time goes on, and the term is reported as absent."""
    decay = [WeightL2(coefficient=0.1)]
    trainer = trainer_of(data, terms=Term("class", CLASS, weight="nothing"), regularizers=decay, **LOOSE, **options)
    before = parameters_digest(trainer.model)
    results = [trainer.train_minibatch() for _ in range(3)]
    assert parameters_digest(trainer.model) == before
    assert [result["class"] for result in results] == [None] * 3
    assert [result["total_loss"] for result in results] == [0.0] * 3
    assert not any(result.updated for result in results)
    assert trainer.nominal_time == 27


def test_a_term_that_never_has_samples_is_absent_and_the_others_learn_as_without_it(data):
    never = Term("never", FIT, mask=lambda batch: torch.zeros(batch.num_samples, dtype=torch.bool))
    both, alone = (trainer_of(data, terms=terms, **LOOSE) for terms in ((TERMS[0], never), TERMS[0]))
    for _ in range(5):
        result = both.train_minibatch()
        alone.train_minibatch()
        assert result.absent == ("never",)
        assert result["total_loss"] == result["class"]
    assert parameters_digest(both.model) == parameters_digest(alone.model)


def test_a_nan_under_a_mask_is_never_looked_at(tmp_path):
    target = fields()["target"]
    target[::4] = np.nan  # where has_target is false
    dirty, clean = write(tmp_path / "dirty", target=target), write(tmp_path / "clean")
    for options in ({}, {"promise": "bits", "leaf_size": 4}):
        digests = set()
        for data in (dirty, clean):
            safe = Term(
                "fit",
                lambda out, batch: (out["values"] - batch["target"].nan_to_num()).square().sum(1),
                mask="has_target",
            )
            trainer = trainer_of(data, terms=safe, **LOOSE, **options)
            for _ in range(8):
                trainer.train_minibatch()
            digests.add(parameters_digest(trainer.model))
        assert len(digests) == 1


def test_regularizers_need_a_term(data):
    with pytest.raises(TypeError, match=r"terms=\(\): expected a Term, or a sequence of at least one"):
        trainer_of(data, terms=(), regularizers=[WeightL2(coefficient=0.1)])
    # What stands for one: a loss of 0 for every sample.
    nothing = Term("nothing", lambda out, batch: 0.0 * out["values"].sum(1))
    trainer = trainer_of(
        data, terms=nothing, regularizers=[WeightL2(coefficient=0.1)], schedules=None, clip_grad_norm=None, **LOOSE
    )
    weights = [p.norm().item() for p in trainer.model.parameters() if p.ndim == 2]
    for _ in range(5):
        trainer.train_minibatch()
    assert all(
        p.norm().item() < w
        for p, w in zip((p for p in trainer.model.parameters() if p.ndim == 2), weights, strict=True)
    )


@pytest.mark.parametrize("coefficient", [1e300, 1e-300, 0.0, -1.0])
@pytest.mark.parametrize("promise", ["math", "bits"])
def test_coefficients_of_any_size_give_numbers_or_a_clear_end(data, coefficient, promise):
    trainer = trainer_of(
        data, terms=Term("class", CLASS, coefficient=coefficient), promise=promise, leaf_size=4, **LOOSE
    )
    before = parameters_digest(trainer.model)
    if coefficient == 1e300:
        message = "must be below 262,144" if promise == "bits" else "norm of the gradient inf"
        with pytest.raises(NonFiniteError, match=message):
            trainer.train_minibatch()
        assert parameters_digest(trainer.model) == before
    else:
        for _ in range(3):
            assert math.isfinite(trainer.train_minibatch().grad_norm)
        assert all(p.isfinite().all() for p in trainer.model.parameters())


# Rates and sizes.


def test_a_learning_rate_of_0_works_in_silence(data):
    """Warm-ups begin there, and a frozen phase is one: no warning, and weights that stay in every bit."""
    trainer = trainer_of(data, lr=0.0, schedules=None, averaging=EMA(halflife=5))
    before = parameters_digest(trainer.model)
    for _ in range(3):
        assert trainer.train_minibatch().updated
    assert parameters_digest(trainer.model) == before


@pytest.mark.parametrize("bad", [math.nan, math.inf, -0.1])
def test_a_schedule_that_goes_wrong_stops_before_its_step(data, bad):
    trainer = trainer_of(data, schedules=lambda t: 0.1 if t < 18 else bad)
    trainer.train_minibatch(), trainer.train_minibatch()
    before = stays(trainer)
    with pytest.raises(ValueError, match=r"optimizers\[0\]: the schedule .* gives lr .* at nominal time 18"):
        trainer.train_minibatch()
    assert stays(trainer) == before


@pytest.mark.parametrize("bad", [3.5, math.nan, math.inf, 0, -4, "8", None])
def test_a_schedule_of_sizes_that_goes_wrong_stops_before_its_step(data, bad):
    sizes = {0: 4}
    trainer = trainer_of(data, minibatch_size=lambda t: sizes.get(t, bad))
    trainer.train_minibatch()
    before = stays(trainer)
    for call in (trainer.train_minibatch, lambda: trainer.train_at_most(2)):
        with pytest.raises((TypeError, ValueError), match="nominal time 4"):
            call()
    assert stays(trainer) == before
    sizes[4] = 6
    assert trainer.train_minibatch().interval == (4, 10)


def test_minibatches_may_be_larger_than_the_data_set(data):
    for options in ({}, {"microbatch_size": 7}, {"promise": "bits", "leaf_size": 16, "microbatch_size": None}):
        result = trainer_of(data, minibatch_size=5 * ROWS + 3, **options).train_minibatch()
        assert (result.num_samples, result.interval) == (5 * ROWS + 3, (0, 5 * ROWS + 3))
    with pytest.raises(ValueError, match="at most 1024 leaves: choose a larger leaf_size"):
        trainer_of(data, minibatch_size=3000, promise="bits", leaf_size=2, microbatch_size=None).train_minibatch()


def test_a_source_that_ends_gives_one_short_step_and_then_none_for_ever(data, tmp_path):
    with trainer_of(data, {"max_samples": 20}, folder=tmp_path / "run") as trainer:
        results = list(trainer.itertrain())
        assert [result.interval for result in results] == [(0, 9), (9, 18), (18, 20)]
        after = stays(trainer)
        for _ in range(3):
            result = trainer.train_minibatch()
            assert not result
            assert result.updated is False
        assert stays(trainer) == after
        assert trainer.fit(max_samples=100).stopped == "the axis has ended"
        trainer.save_checkpoint()
    assert len(read_ledger(tmp_path / "run")) == 3
    with trainer_of(data, {"max_samples": 20}, folder=tmp_path / "run") as trainer:
        trainer.restore_from_checkpoint()
        assert not trainer.train_minibatch()
    with trainer_of(data, {"max_samples": 40}, folder=tmp_path / "run") as trainer:  # more of it is there now
        assert any("max_samples: 20 → 40" in change for change in trainer.restore_from_checkpoint().changes)
        assert trainer.train_minibatch().interval == (20, 29)


@pytest.mark.parametrize("how", ["holes of the source", "skips of the run"])
def test_steps_that_are_all_holes_change_nothing_but_the_time(data, how, tmp_path):
    source, options = (
        ({"skip": [(9, 30)]}, {}) if how == "holes of the source" else ({}, {"skips": [Skip(start=9, stop=30)]})
    )
    trainer = trainer_of(data, source, folder=tmp_path / "run", **options)
    trainer.train_minibatch()
    before = parameters_digest(trainer.model)
    two = [trainer.train_minibatch(), trainer.train_minibatch()]
    assert parameters_digest(trainer.model) == before
    assert [result.absent for result in two] == [("class", "fit")] * 2
    part = trainer.train_minibatch()
    assert part.interval == (27, 36)
    with make_source(data) as plain:
        weights = fields()["zero"][plain.at(30, 6)]
    assert part.denominators[0] == pytest.approx(weights.sum(), rel=1e-14)
    trainer.close()
    # and without a sample of some leaf
    bits = trainer_of(data, source, promise="bits", leaf_size=4, **options)
    for _ in range(4):
        bits.train_minibatch()


# Models.


class Plain(nn.Module):
    def __init__(self, **more):
        super().__init__()
        self.logits, self.values = nn.Linear(6, 3), nn.Linear(6, 2)
        with torch.no_grad():
            for number, parameter in enumerate(self.parameters()):
                parameter.copy_(torch.sin(torch.arange(parameter.numel()) + number).view(parameter.shape))
        for name, value in more.items():
            setattr(self, name, value)

    def forward(self, x):
        x = x.to(self.logits.weight.dtype)
        return {"logits": self.logits(x), "values": self.values(x)}


def plain_trainer(data, model, optimizer=None, **options):
    adam = torch.optim.Adam(model.parameters(), lr=0.01) if optimizer is None else optimizer
    return Trainer(model, options.pop("terms", TERMS), adam, make_source(data), 9, inputs="x", **options)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_parameters_of_every_width_keep_their_bits(data, tmp_path, dtype):
    digests = []
    for order in (None, lambda cuts: cuts[::-1]):
        trainer = plain_trainer(
            data, Plain().to(dtype), promise="bits", leaf_size=2, averaging=EMA(halflife=20),
            regularizers=[WeightL2(coefficient=0.01)], clip_grad_norm=1.0,
        )  # fmt: skip
        if order is not None:
            trainer.gradient.order = order
            trainer.restore_from_checkpoint(tmp_path / "c")
        else:
            trainer.save_checkpoint(tmp_path / "c")
        for _ in range(6):
            trainer.train_minibatch()
        digests.append(parameters_digest(trainer.model))
    assert digests[0] == digests[1]


def test_tied_weights_have_one_gradient_and_frozen_ones_none(data):
    model = Plain(again=nn.Linear(6, 3), still=nn.Linear(6, 6).requires_grad_(False))
    model.again.weight = model.logits.weight
    other = Plain()
    other.load_state_dict({k: v for k, v in model.state_dict().items() if k.split(".")[0] in ("logits", "values")})
    twice = Term("twice", lambda out, batch: CLASS(out, batch) + CLASS({"logits": tied(model, batch)}, batch))

    def tied(model, batch):
        return nn.functional.linear(batch["x"].float(), model.again.weight, model.logits.bias)

    trainer = plain_trainer(data, model, promise="bits", leaf_size=4, terms=twice, **LOOSE)
    double = plain_trainer(data, other, terms=Term("twice", CLASS, coefficient=2.0), **LOOSE)
    still = model.still.weight.clone()
    for _ in range(3):
        trainer.train_minibatch(), double.train_minibatch()
        torch.testing.assert_close(model.logits.weight, other.logits.weight, rtol=1e-5, atol=1e-6)
    assert torch.equal(model.still.weight, still)
    assert model.still.weight.grad is None
    assert model.again.weight is model.logits.weight


def test_a_model_with_nothing_to_train_is_refused(data):
    with pytest.raises(ValueError, match="the model has no trainable parameter"):
        plain_trainer(data, Plain().requires_grad_(False))


def test_a_step_that_reaches_no_parameter_is_a_step(data):
    watched = Term("watched", lambda out, batch: out["logits"].detach().sum(1))
    trainer = plain_trainer(data, Plain(), terms=watched, clip_grad_norm=1.0, **LOOSE)
    before = parameters_digest(trainer.model)
    result = trainer.train_minibatch()
    assert result.grad_norm == 0.0
    assert result.finite
    assert math.isfinite(result["watched"])
    assert parameters_digest(trainer.model) == before


def test_parameters_that_came_after_the_optimizer_or_the_trainer_are_noticed(data, tmp_path):
    model = Plain()
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    model.later = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"later\.weight is trainable but owned by no optimizer"):
        plain_trainer(data, model, sgd)
    model = Plain()
    trainer = plain_trainer(data, model)
    trainer.train_minibatch()
    model.later = nn.Parameter(torch.zeros(3))
    trainer.optimizers[0].add_param_group({"params": [model.later]})
    with pytest.raises(TrainingError, match="make the Trainer after the last add_param_group"):
        trainer.train_minibatch()


def test_complex_parameters_train_but_not_by_bits(data):
    class Complex(Plain):
        def forward(self, x):
            outputs = super().forward(x)
            return {**outputs, "logits": outputs["logits"] * self.turn.abs() + (self.turn * 1j).real}

    def start(**options):
        model = Complex(turn=nn.Parameter(torch.ones(3, dtype=torch.complex64)))
        return plain_trainer(data, model, torch.optim.SGD(model.parameters(), lr=0.1), **options)

    trainer = start()
    trainer.train_minibatch()
    assert trainer.model.turn.imag.any()
    with pytest.raises(ValueError, match=r"promise='bits' adds real gradients, turn has one of torch\.complex64"):
        start(promise="bits").train_minibatch()


def test_lbfgs_and_what_is_no_optimizer_are_refused(data):
    model = Plain()
    with pytest.raises(TypeError, match="LBFGS calls the loss several times"):
        plain_trainer(data, model, torch.optim.LBFGS(model.parameters()))
    with pytest.raises(TypeError, match=r"optimizers\[0\] is str"):
        plain_trainer(data, model, "adam")
    with pytest.raises(ValueError, match="optimizers is empty"):
        plain_trainer(data, model, [])


def test_a_leaf_of_one_sample_without_a_variance_is_explained(data):
    class Normed(Plain):
        def forward(self, x):
            return super().forward(self.norm(x.float()))

    trainer = plain_trainer(data, Normed(norm=nn.BatchNorm1d(6)), batch_norm="leaf", leaf_size=4)
    with pytest.raises(ValueError, match="more than 1 value per channel") as caught:
        trainer.train_minibatch()
    assert "a leaf of one sample has no variance" in "".join(caught.value.__notes__)
    norm = trainer.model.norm
    assert (norm.momentum, norm.num_batches_tracked, norm.running_mean.any()) == (0.1, 0, False)


# Sequences.

WORDS, BLOCK = 12, 8


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts") / "data"
    draw = np.random.default_rng(3)
    words = [draw.integers(1, WORDS, size=draw.integers(1, 9)) for _ in range(41)]
    with DatasetWriter(folder, chunk_rows=7) as writer:
        writer.write({"words": words, "tags": [w % 4 for w in words]})
    return folder


class Tagger(nn.Module):
    def __init__(self, sparse=False):
        super().__init__()
        table = torch.sin(torch.arange(6.0 * WORDS)).view(WORDS, 6)
        self.embed = nn.Embedding(WORDS, 6, _weight=table, sparse=sparse)
        self.drop, self.blur = Dropout(0.2), GaussianNoise(0.1)
        self.tag = nn.Linear(6, 4)
        with torch.no_grad():
            for number, parameter in enumerate(self.tag.parameters()):
                parameter.copy_(torch.cos(torch.arange(parameter.numel()) * 0.7 + number).view(parameter.shape))

    def forward(self, words):
        return {"tags": self.tag(self.blur(self.drop(torch.tanh(self.embed(words))))).movedim(-1, 1)}


def tags(mask, **options):
    return Term("tags", on(cross_entropy, "tags", output="tags"), mask=mask, **options)


def tagging(texts, sequences="packed", *, sparse=False, optimizer=None, size=32, source=None, **options):
    model = Tagger(sparse).double()
    block = {"block": BLOCK} if sequences == "packed" else {}
    axis = MinibatchSource(texts, seed=5, sequences=sequences, **block, **(source or {}))
    made = torch.optim.SGD(model.parameters(), lr=0.5) if optimizer is None else optimizer(model)
    mask = "token_mask" if sequences == "packed" else "words_mask"
    return Trainer(model, tags(mask), made, axis, size, inputs="words", **options)


@pytest.mark.parametrize("sequences", ["packed", "whole", "rows"])
@pytest.mark.parametrize("skips", [(), (Skip(start=20, stop=60),)], ids=["", "skips"])
def test_sequences_of_every_kind_are_exact_under_microbatches_with_noise(texts, sequences, skips):
    size = {"packed": 32, "whole": 30, "rows": 11}[sequences]
    found = []
    for options in (
        {}, {"microbatch_size": 1}, {"microbatch_size": 3}, {"promise": "bits", "leaf_size": 2},
        {"promise": "bits", "leaf_size": 2, "microbatch_size": 3},
    ):  # fmt: skip
        trainer = tagging(texts, sequences, size=size, skips=skips, **options)
        if "microbatch_size" in options and "promise" in options:
            trainer.gradient.order = lambda cuts: cuts[::-1]
        results = [trainer.train_minibatch() for _ in range(6)]
        found.append((trainer, results))
    for trainer, results in found[1:]:
        for one, other in zip(results, found[0][1], strict=True):
            assert one["tags"] == (None if other["tags"] is None else pytest.approx(other["tags"], rel=1e-12))
        for one, other in zip(trainer.model.parameters(), found[0][0].model.parameters(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-12)
    assert parameters_digest(found[3][0].model) == parameters_digest(found[4][0].model)


def test_skipped_rows_of_packed_sequences_do_not_move_the_leaves(texts):
    def cuts(**options):
        trainer = tagging(texts, promise="bits", leaf_size=2, **options)
        trainer.train_minibatch()
        return trainer.streams.parts(trainer.streams.take(32), 32, None)[0].cuts

    assert cuts() == [(0, 2), (2, 4)]
    assert cuts(skips=[Skip(start=40, stop=48)]) == [(0, 1), (1, 3)]  # the second of four rows is gone


def test_lists_and_packed_sources_are_measured_alike(texts):
    model = Tagger().double()
    found = [
        evaluate(model, texts, inputs="words", terms=[tags("words_mask")], minibatch_size=7),
        evaluate(
            model, MinibatchSource(texts, sequences="packed", block=BLOCK, max_sweeps=1), inputs="words",
            terms=[tags("token_mask")], minibatch_size=16,
        ),
        evaluate(
            model, MinibatchSource(texts, sequences="whole", max_sweeps=1), inputs="words",
            terms=[tags("words_mask")], minibatch_size=16,
        ),
    ]  # fmt: skip
    assert len({result.pairs["tags"][1] for result in found}) == 1
    for result in found[1:]:
        assert result["tags"] == pytest.approx(found[0]["tags"], rel=1e-13)


@pytest.mark.parametrize("sequences", ["packed", "whole", "rows"])
def test_a_sweep_of_sequences_is_all_of_their_elements(texts, sequences):
    size = {"packed": 32, "whole": 30, "rows": 11}[sequences]
    trainer = tagging(texts, sequences, size=size, validation=texts if sequences != "packed" else None)
    ended = trainer.fit(max_sweeps=1, validate_every=None if sequences == "packed" else every.Sweeps())
    elements = 41 if sequences == "rows" else int(sum(MinibatchSource(texts).dataset.lengths(np.arange(41), ["words"])))
    last = -(-elements // BLOCK) * BLOCK if sequences == "packed" else elements  # packed ones come in whole blocks
    assert (ended.stopped, ended.nominal_time) == ("max_sweeps", last)
    assert [validation.nominal_time for validation in trainer.history] == ([] if sequences == "packed" else [elements])


@pytest.mark.parametrize("options", [{}, {"microbatch_size": 1}, {"promise": "bits", "leaf_size": 2}])
def test_a_run_of_packed_sequences_may_end_and_be_measured_at_any_size(texts, options):
    measured = MinibatchSource(texts, sequences="packed", block=BLOCK, max_sweeps=1)
    trainer = tagging(texts, validation=measured, **options)
    assert trainer.fit(max_samples=100, validate_every=50).nominal_time == 104
    assert [validation.nominal_time for validation in trainer.history] == [64, 104]


@pytest.mark.parametrize("microbatch", [4, 9, 40])
def test_under_bits_validations_do_not_depend_on_the_microbatch(data, microbatch):
    """Early stopping and reacting schedules decide by them."""
    trainers = [
        trainer_of(data, promise="bits", leaf_size=4, microbatch_size=size, validation=data)
        for size in (None, microbatch)
    ]
    for trainer in trainers:
        trainer.fit(max_samples=45, validate_every=9)
    assert trainers[0].history == trainers[1].history


def test_minibatches_that_are_no_multiple_of_a_block_are_refused_and_nothing_happened(texts):
    trainer = tagging(texts, size=12)
    with pytest.raises(ValueError, match="multiples of block=8, got 12: ask for 8 or 16"):
        trainer.train_minibatch()
    assert trainer.train_at_most(16).interval == (0, 16)


@pytest.mark.parametrize("options", [{}, {"microbatch_size": 1}, {"clip_grad_norm": 0.05, "microbatch_size": 2}])
def test_sparse_embeddings_learn_what_dense_ones_do(texts, options):
    sparse, dense = tagging(texts, sparse=True, **options), tagging(texts, **options)
    for _ in range(5):
        one, other = sparse.train_minibatch(), dense.train_minibatch()
        assert one.grad_norm == pytest.approx(other.grad_norm, rel=1e-12)
    for one, other in zip(sparse.model.parameters(), dense.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-13)


def test_sparse_embeddings_resume_and_are_refused_where_they_cannot_be(texts, tmp_path):
    def start():
        def optimizers(model):
            rest = list(model.tag.parameters())
            return [torch.optim.SparseAdam([model.embed.weight], lr=0.1), torch.optim.Adam(rest, lr=0.1)]

        return tagging(texts, sparse=True, optimizer=optimizers, averaging=EMA(halflife=50))

    trainer = start()
    for _ in range(3):
        trainer.train_minibatch()
    trainer.save_checkpoint(tmp_path / "c")
    other = start()
    other.restore_from_checkpoint(tmp_path / "c")
    for one in (trainer, other):
        one.train_minibatch(), one.train_minibatch()
    assert parameters_digest(trainer.model) == parameters_digest(other.model)
    with pytest.raises(ValueError, match=r"needs dense gradients, embed\.weight has a sparse one"):
        tagging(texts, sparse=True, promise="bits").train_minibatch()
    with pytest.raises(ValueError, match="whose gradient is sparse"):
        tagging(texts, sparse=True, regularizers=[WeightL2(coefficient=0.1)]).train_minibatch()


def test_packed_sequences_and_rows_are_trained_jointly_and_exactly(texts, data):
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.text, self.row = Tagger(), Plain()

    def start(ratio=8, **options):
        model = Both().double()
        sources = {
            "text": MinibatchSource(texts, seed=1, sequences="packed", block=BLOCK),
            "rows": MinibatchSource(data, seed=2),
        }
        return Trainer(
            model,
            [tags("token_mask", stream="text"), *(Term(n, on, stream="rows") for n, on in [("c", CLASS), ("f", FIT)])],
            torch.optim.Adam(model.parameters(), lr=0.01), JointSource(sources, {"text": ratio, "rows": 1}), 36,
            inputs={"text": lambda m, b: m.text(b["words"]), "rows": lambda m, b: m.row(b["x"])}, **options,
        )  # fmt: skip

    found = []
    for options in ({}, {"microbatch_size": 1}, {"promise": "bits", "leaf_size": 2}):
        trainer = start(**options)
        found.append([trainer.train_minibatch()["total_loss"] for _ in range(5)])
        assert trainer.source.sources["text"].nominal_time == 160
    for others in found[1:]:
        assert others == pytest.approx(found[0], rel=1e-11)
    odd = start(ratio=1)
    with pytest.raises(ValueError, match="multiples of block=8, got 18"):
        odd.train_minibatch()
    assert odd.nominal_time == 0
    assert odd.train_at_most(16).interval == (0, 16)


# Calls from outside.


def test_two_threads_never_mix_their_steps(data, tmp_path):
    with trainer_of(data, folder=tmp_path / "run", log_every=7) as trainer:
        refused, done = [], []
        begun = threading.Barrier(2)

        def work():
            begun.wait()
            for _ in range(60):
                try:
                    done.append(trainer.train_minibatch().interval)
                except TrainingError as error:
                    refused.append(str(error))

        threads = [threading.Thread(target=work) for _ in range(2)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
    assert sorted(done) == [(9 * n, 9 * n + 9) for n in range(len(done))]
    assert len(done) + len(refused) == 120
    assert all("one thread at a time" in message for message in refused)
    assert [line.step for line in read_ledger(tmp_path / "run")] == list(range(1, len(done) + 1))
    expected = trainer_of(data)
    for _ in done:
        expected.train_minibatch()
    assert parameters_digest(trainer.model) == parameters_digest(expected.model)


@pytest.mark.parametrize("options", [{}, {"promise": "bits", "leaf_size": 4, "microbatch_size": None}])
def test_after_ctrl_c_anywhere_in_the_passes_the_run_goes_on_as_if_never(data, options):
    options = {"averaging": EMA(halflife=30), "regularizers": [WeightL2(coefficient=0.01)], **options}
    expected = trainer_of(data, **options)
    for _ in range(6):
        expected.train_minibatch()
    trainer = trainer_of(data, **options)
    layers = [module for module in trainer.model.modules() if not list(module.children())]
    interrupted = 0
    for layer in layers:
        for backward in (False, True):
            left = [2]

            def stop(*_, left=left):
                left[0] -= 1
                if not left[0]:
                    raise KeyboardInterrupt

            def later(layer, inputs, output, stop=stop):
                if output.requires_grad:
                    output.register_hook(stop)

            handle = layer.register_forward_hook(later if backward else stop)
            try:
                trainer.train_minibatch()
            except KeyboardInterrupt:
                interrupted += 1
            handle.remove()
            if trainer.step == 6:
                break
        if trainer.step == 6:
            break
    while trainer.step < 6:
        trainer.train_minibatch()
    assert interrupted >= 8
    assert parameters_digest(trainer.model) == parameters_digest(expected.model)


def test_samples_given_by_hand_may_go_past_the_end_of_the_axis(data):
    trainer = trainer_of(data, {"max_samples": 20})
    trainer.train_minibatch(), trainer.train_minibatch()
    given = {name: values[:9] for name, values in fields().items()}
    assert trainer.train_minibatch(given).interval == (18, 27)
    assert not trainer.train_minibatch()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "expected a Batch"),
        ([1, 2], "expected a Batch"),
        ({"x": np.zeros((3, 6)), "label": np.zeros(2, int)}, "one number of samples"),
    ],
)
def test_what_is_no_minibatch_is_refused_and_the_run_goes_on(data, given, message):
    trainer = trainer_of(data)
    with pytest.raises((TypeError, ValueError), match=message):
        trainer.train_minibatch(given)
    assert trainer.train_minibatch().interval == (0, 9)


def test_values_of_a_run_can_be_copied_and_pickled(data):
    result = trainer_of(data).train_minibatch()
    for value in (TERMS[0], EMA(halflife=3), Skip(start=1, stop=2), Spikes(), WeightL2(coefficient=0.1), ClipNorm(1.0)):
        assert copy.deepcopy(value) == pickle.loads(pickle.dumps(value)) == value
    for other in (copy.deepcopy(result), pickle.loads(pickle.dumps(result))):
        assert dict(other) == dict(result)
        assert (other.step, other.interval, other.grad_norm) == (result.step, result.interval, result.grad_norm)


def test_a_model_that_is_copied_keeps_working_beside_the_run(data):
    trainer = trainer_of(data, dropout=0.5)
    trainer.train_minibatch()
    other = copy.deepcopy(trainer.model).eval()
    x = torch.from_numpy(fields()["x"])
    expected = TwoHeads(dropout=0.5).double().eval()
    expected.load_state_dict(other.state_dict())
    assert torch.equal(other(x)["logits"], expected(x)["logits"])
    before = other(x)["logits"].clone()
    trainer.train_minibatch()
    assert torch.equal(other(x)["logits"], before)
