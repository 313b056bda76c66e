"""Spikes: found before the weights are touched, left out by nominal time, and equal wherever they are decided."""

import json
import statistics

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minibatch.train import Term, Trainer, mse, parameters_digest
from minibatch.train.errors import SpikeError
from minibatch.train.loop import FitResult
from minibatch.train.skips import Skip, from_documents, kept
from minibatch.train.spikes import Detector, Spikes
from tests.train.small import TwoHeads, fields, make_source, make_trainer, write

POLICY = {"warmup": 4, "window": 8, "factor": 8.0}
BAD = 30  # the row whose target is far off


def plain_judge(policy, values):
    """The twin: plain lists, medians of the standard library."""
    remembered, verdicts = [], []
    for number, value in enumerate(values):
        recent = remembered[-policy.window :]
        if not recent:
            remembered.append(value)
            verdicts.append(False)
            continue
        median = statistics.median_low(recent)
        deviation = 1.4826 * statistics.median_low([abs(x - median) for x in recent])
        limit = median + policy.factor * max(deviation, policy.least * abs(median))
        spike = number >= policy.warmup and value > limit
        remembered.append(median if spike else value)
        verdicts.append(spike)
    return verdicts


@given(st.lists(st.floats(0, 100), max_size=60), st.integers(3, 12), st.integers(1, 6))
def test_verdicts_are_those_of_plain_lists(values, window, warmup):
    policy = Spikes(window=window, warmup=warmup, factor=3.0)
    for on_host in (True, False):
        check_verdicts(Detector(policy, torch.device("cpu"), on_host=on_host), policy, values)


def check_verdicts(detector, policy, values):
    assert [bool(detector.judge(torch.tensor(value, dtype=torch.float64))) for value in values] == plain_judge(
        policy, values
    )


@given(st.lists(st.floats(0, 100), min_size=1, max_size=40), st.integers(0, 40))
def test_a_restored_detector_goes_on_as_if_never_saved(values, at):
    policy = Spikes(**POLICY)
    whole, first = (Detector(policy, torch.device("cpu")) for _ in range(2))
    expected = [bool(whole.judge(torch.tensor(value))) for value in values]
    got = [bool(first.judge(torch.tensor(value))) for value in values[:at]]
    second = Detector(policy, torch.device("cpu"))
    second.restore(**first.state())
    assert got + [bool(second.judge(torch.tensor(value))) for value in values[at:]] == expected


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    target = fields()["target"]
    target[BAD] = 1e4
    return write(tmp_path_factory.mktemp("spikes") / "data", target=target)


def bad_steps(source, size, sweeps):
    times = [source.when(BAD, sweep) for sweep in range(sweeps)]
    return [time // size for time in times]


def run(data, *, steps=20, on_host=True, **options):
    with make_source(data) as source:
        trainer = make_trainer(source, **{"on_nonfinite": "stop", **options})
        if not on_host:
            trainer.steps.update.watch = "wait"
        results = [trainer.train_minibatch() for _ in range(steps)]
        trainer.look()
        return trainer, results


@pytest.mark.parametrize("on_host", [True, False])
@pytest.mark.parametrize("of", ["loss", "grad_norm"])
def test_a_spike_is_left_out_and_written_down(data, of, on_host):
    trainer, results = run(data, spikes=Spikes(action="skip", of=of, **{**POLICY, "factor": 100.0}), on_host=on_host)
    with make_source(data) as source:
        expected = [step for step in bad_steps(source, 9, 4) if 4 <= step < 20]
    assert expected
    assert [result.step - 1 for result in results if result.spike] == expected
    assert [(skip.start, skip.stop) for skip in trainer.streams.skips] == [(9 * s, 9 * s + 9) for s in expected]


def test_a_run_given_the_same_skips_from_the_beginning_ends_equal(data):
    trainer, _ = run(data, spikes=Spikes(action="skip", **POLICY))
    other, results = run(data, skips=[Skip(start=s.start, stop=s.stop) for s in trainer.streams.skips])
    assert parameters_digest(trainer.model) == parameters_digest(other.model)
    assert [r["fit"] for r in results if r.absent] == [None] * len(trainer.streams.skips)


def test_a_skip_leaves_out_its_samples_for_any_minibatch_size(data):
    """In a step that a skip cuts, the others count as if these were not there."""
    with make_source(data) as source:
        trainer = make_trainer(source, skips=[Skip(start=3, stop=7)])
        result = trainer.train_minibatch()
        with make_source(data, skip=[(3, 7)]) as holes:
            other = make_trainer(holes)
            assert other.train_minibatch()["total_loss"] == pytest.approx(result["total_loss"], rel=1e-12)
        assert result.denominators[1] <= 5


def test_stop_raises_and_leaves_the_weights_as_before(data):
    with make_source(data) as source:
        step = next(step for step in bad_steps(source, 9, 3) if step >= 4)
        trainer = make_trainer(source, spikes=Spikes(action="stop", **POLICY))
        for _ in range(step):
            trainer.train_minibatch()
        before = parameters_digest(trainer.model)
        with pytest.raises(SpikeError, match=rf"step {step + 1}, nominal time \[{9 * step}, {9 * step + 9}\).*a spike"):
            trainer.train_minibatch()
        assert parameters_digest(trainer.model) == before


@pytest.mark.parametrize("on_host", [True, False])
def test_a_rollback_goes_back_to_a_checkpoint_and_on_without_the_interval(data, tmp_path, on_host):
    with make_source(data) as source:
        step = next(step for step in bad_steps(source, 9, 3) if step >= 4)
        policy = Spikes(action="rollback", rollback_steps=2, **POLICY)
        with make_trainer(source, spikes=policy, folder=tmp_path / "run", ledger=True) as trainer:
            if not on_host:
                trainer.steps.update.watch = "wait"
            ended = trainer.fit(max_samples=9 * 20, save_every=9)
            assert isinstance(ended, FitResult)
            assert ended.nominal_time == 180
            first = trainer.streams.skips[0]
            assert (first.start, first.stop) == (9 * (step - 2), 9 * step + 9)
            digest, left_out = parameters_digest(trainer.model), list(trainer.streams.skips)
    written = from_documents(json.loads((tmp_path / "run" / "skips.json").read_text()))
    assert written == left_out
    other, _ = run(data, skips=left_out, on_host=on_host)
    assert parameters_digest(other.model) == digest


def test_too_many_spikes_stop_the_run(data):
    with pytest.raises(SpikeError, match="after 1 others were left out"):
        run(data, steps=60, spikes=Spikes(action="skip", most=1, **POLICY))


def test_a_rollback_needs_a_folder_and_an_early_checkpoint(data, tmp_path):
    policy = Spikes(action="rollback", **POLICY)
    with make_source(data) as source, pytest.raises(ValueError, match="pass folder="):
        make_trainer(source, spikes=policy)
    with (
        make_source(data) as source,
        make_trainer(source, spikes=policy, folder=tmp_path / "run") as trainer,
        pytest.raises(SpikeError, match="no checkpoint at or before"),
    ):
        trainer.fit(max_samples=9 * 30)


def test_a_resume_knows_what_was_left_out(data, tmp_path):
    digests = []
    for resume in (False, True):
        with make_source(data) as source:
            trainer = make_trainer(source, spikes=Spikes(action="skip", **POLICY))
            if resume:
                trainer.restore_from_checkpoint(tmp_path / "saved")
            for step in range(12, 24) if resume else range(24):
                if step == 12 and not resume:
                    trainer.save_checkpoint(tmp_path / "saved")
                trainer.train_minibatch()
            digests.append((parameters_digest(trainer.model), trainer.streams.skips))
    assert digests[0] == digests[1]


def test_values_that_are_no_policy_are_refused():
    for wrong in ({"of": "lr"}, {"action": "pray"}, {"factor": 0.0}, {"window": 2}, {"rollback_steps": 3}):
        with pytest.raises(ValueError, match="Spikes"):
            Spikes(**wrong)
    with pytest.raises(ValueError, match="no interval"):
        Skip(start=5, stop=5)


def test_kept_is_none_where_nothing_is_left_out():
    assert kept(np.arange(5), [Skip(start=10, stop=12)]) is None
    assert not kept(np.arange(5), [Skip(start=0, stop=12)]).any()


def test_terms_over_skipped_steps_are_absent(data):
    trainer, results = run(data, steps=2, skips=[Skip(start=0, stop=9)])
    assert results[0].absent == ("class", "fit")
    assert not results[0].updated
    assert isinstance(trainer.terms[0], Term)


@pytest.mark.parametrize("watch", ["wait", "device"])
def test_a_first_step_that_is_not_finite_leaves_judgement_as_it_is_on_any_device(data, watch):
    """It counts as a step on the host, too: else its window would begin one step later than elsewhere."""

    def loss(outputs, batch):
        values = mse(outputs["values"], batch["target"])
        return values * float("nan") if batch.times[0] == 0 else values

    found = []
    for kind in ("host", watch):
        with make_source(data) as source:
            model = TwoHeads().double()
            trainer = Trainer(
                model, Term("fit", loss), torch.optim.Adam(model.parameters(), lr=0.001, fused=True), source, 9,
                inputs="x", check_unreached=False, on_nonfinite="skip", announce=lambda text: None,
                spikes=Spikes(action="skip", **POLICY),
            )  # fmt: skip
            trainer.steps.update.watch = kind
            if kind != "host":  # where its values are tensors
                detector = Detector(trainer.detector.policy, torch.device("cpu"), on_host=False)
                trainer.detector = trainer.steps.detector = trainer.steps.update.spikes = detector
            results = [trainer.train_minibatch() for _ in range(18)]
            assert [result.finite for result in results] == [False] + [True] * 17
            found.append([result.step for result in results if result.spike])
            found[-1] += [trainer.detector.state()["count"], *trainer.detector.state()["values"]]
    assert found[0] == pytest.approx(found[1], rel=1e-9)
    assert found[0][:4] == [5, 10, 16, 18]


@pytest.mark.parametrize("on_host", [True, False])
def test_steps_that_are_not_finite_never_hide_a_spike(on_host):
    for bad in (float("nan"), float("inf")):
        detector = Detector(Spikes(window=100, warmup=3), torch.device("cpu"), on_host=on_host)
        verdicts = [bool(detector.judge(torch.tensor(value))) for value in [bad, *[1.0] * 60, 1e6]]
        assert verdicts == [False] * 61 + [True]
