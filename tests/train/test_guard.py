"""Nothing that is not finite reaches weights, buffers or optimizer; it is written down, and stops the run."""

import math

import pytest
import torch
from torch import nn

from minibatch.train import EMA, NonFiniteError, Term, Trainer, cross_entropy, mse, on, parameters_digest, read_ledger
from minibatch.train.digest import tensors_digest
from minibatch.train.errors import SpikeError
from minibatch.train.guard import Buffers, Found, watch_for
from minibatch.train.precision import Precision
from minibatch.train.spikes import Detector, Spikes
from minibatch.train.state import optimizer_tensors
from tests.train.small import TwoHeads, fields, make_source, make_trainer, write

BAD_ROW, BAD_STEP = 30, 4  # row 30 in its own order is in the fourth step of 9 samples


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A data set with one sample that is not a number."""
    x = fields()["x"].copy()
    x[BAD_ROW, 2] = math.nan
    return write(tmp_path_factory.mktemp("guard") / "data", x=x)


def everything(trainer):
    """A digest of weights, buffers and optimizer state."""
    state = optimizer_tensors(trainer.optimizers, trainer.owned)
    return parameters_digest(trainer.model), tensors_digest(state)


@pytest.mark.parametrize("microbatch_size", [None, 2, 9])
def test_a_sample_that_is_not_a_number_stops_the_run_before_the_weights_are_touched(data, tmp_path, microbatch_size):
    with make_source(data, shuffle=None) as source:
        trainer = make_trainer(source, microbatch_size=microbatch_size, folder=tmp_path)
        for _ in range(BAD_STEP - 1):
            trainer.train_minibatch()
        before = everything(trainer)
        with pytest.raises(NonFiniteError, match=r"step 4, nominal time \[27, 36\).*rows \[30\].*on_nonfinite='skip'"):
            trainer.train_minibatch()
        assert everything(trainer) == before
        lines = read_ledger(tmp_path)  # written although no log point was near
        assert [line.finite for line in lines] == [True, True, True, False]
        assert math.isnan(lines[-1].total_loss)
        assert math.isnan(lines[-1].terms["class"][0])
        assert (trainer.step, trainer.nominal_time) == (4, 36)
        trainer.close()


def test_skipping_leaves_the_step_out_and_goes_on(data, tmp_path):
    with make_source(data, shuffle=None) as source:
        trainer = make_trainer(source, on_nonfinite="skip", folder=tmp_path)
        results = [trainer.train_minibatch() for _ in range(6)]
        trainer.close()
        assert [result.finite for result in results] == [True, True, True, False, True, True]
        assert [result.updated for result in results] == [True, True, True, False, True, True]
        ends = everything(trainer)
    with make_source(data, shuffle=None) as source:
        trainer = make_trainer(source)
        for step in range(1, 7):
            if step == BAD_STEP:
                source.seek(36)
                trainer.step += 1
            else:
                trainer.train_minibatch()
        assert everything(trainer) == ends
    assert [line.finite for line in read_ledger(tmp_path)].count(False) == 1


def test_a_gradient_that_is_not_finite_is_noticed_where_the_loss_is(data):
    class Root(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.zeros(6, dtype=torch.float64))

        def forward(self, x):
            return x @ self.w

    with make_source(data, shuffle=None) as source:
        model = Root()
        term = Term("root", lambda out, batch: out.abs().sqrt())  # finite at 0, with an infinite slope
        trainer = Trainer(model, term, torch.optim.SGD(model.parameters(), lr=0.1), source, 5, inputs="x")
        with pytest.raises(NonFiniteError, match=r"norm of the gradient nan"):
            trainer.train_minibatch()
        assert not model.w.any()


@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_statistics_of_normalisation_layers_are_put_back(data, policy):
    class Normed(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.heads = nn.BatchNorm1d(6, dtype=torch.float64), TwoHeads().double()

        def forward(self, x):
            return self.heads(self.norm(x))

    with make_source(data, shuffle=None) as source:
        model = Normed()
        term = Term("class", on(cross_entropy, "label", output="logits"))
        trainer = Trainer(
            model, term, torch.optim.SGD(model.parameters(), lr=0.1), source, 9, inputs="x", check_unreached=False,
            on_nonfinite=policy,
        )  # fmt: skip
        for _ in range(BAD_STEP - 1):
            trainer.train_minibatch()
        before = parameters_digest(model)
        if policy == "stop":
            with pytest.raises(NonFiniteError):
                trainer.train_minibatch()
        else:
            assert not trainer.train_minibatch().finite
        assert parameters_digest(model) == before
        assert torch.isfinite(model.norm.running_mean).all()


def test_statistics_are_put_back_after_an_error_in_a_loss(data):
    model = nn.Sequential(nn.BatchNorm1d(6, dtype=torch.float64), TwoHeads().double())
    broken = Term("broken", lambda out, batch: out["logits"].mean())
    with make_source(data, shuffle=None) as source:
        trainer = Trainer(model, broken, torch.optim.SGD(model.parameters(), lr=0.1), source, 9, inputs="x")
        before = parameters_digest(model)
        with pytest.raises(ValueError, match="not their mean"):
            trainer.train_minibatch()
        assert parameters_digest(model) == before


def on_device(source, policy, folder):
    """A trainer that takes its decisions on the device, as on a GPU: fused optimizers obey the flag on the CPU, too."""
    model = TwoHeads(dropout=0.3).double()
    return Trainer(
        model,
        [Term("class", on(cross_entropy, "label", output="logits"))],
        torch.optim.Adam(model.parameters(), lr=0.02, fused=True),
        source,
        9,
        4,
        "x",
        on_nonfinite=policy,
        folder=folder,
        log_every=5,
        check_unreached=False,
        clip_grad_norm=0.5,
        announce=lambda text: None,
    )


def decide_on_device(trainer, watch="device"):
    trainer.steps.update.watch = watch
    if watch != "host" and trainer.detector is not None:  # its values are tensors there
        detector = Detector(trainer.detector.policy, torch.device("cpu"), on_host=False)
        trainer.detector = trainer.steps.detector = trainer.steps.update.spikes = detector
    return trainer


def test_decisions_on_the_device_stop_the_run_at_the_log_point_with_the_weights_before_the_bad_step(data, tmp_path):
    with make_source(data, shuffle=None) as source:
        trainer = decide_on_device(on_device(source, "stop", tmp_path))
        for step in range(1, BAD_STEP + 1):
            result = trainer.train_minibatch()
            assert isinstance(result.numerators[0], torch.Tensor)  # nobody has waited for it
            if step == BAD_STEP - 1:
                expected = everything(trainer)
        assert everything(trainer) == expected
        with pytest.raises(NonFiniteError, match=r"step 4, nominal time \[27, 36\)"):
            trainer.train_minibatch()  # the fifth step: a log point
        assert everything(trainer) == expected
        assert (trainer.step, trainer.nominal_time) == (4, 36)
        assert [line.finite for line in read_ledger(tmp_path)] == [True, True, True, False]
        # it can go on from there
        assert trainer.train_minibatch().finite
        trainer.close()


@pytest.mark.parametrize("watch", ["device", "wait"])
def test_decisions_on_the_device_are_those_of_the_host(data, tmp_path, watch):
    ends = []
    for kind in ("host", watch):
        with make_source(data, shuffle=None) as source:
            trainer = on_device(source, "skip", tmp_path / kind)
            if kind != "host":
                decide_on_device(trainer, watch)
            results = [trainer.train_minibatch() for _ in range(7)]
            trainer.close()
            ends.append((everything(trainer), [result.finite for result in results]))
    ours, theirs = (read_ledger(tmp_path / kind) for kind in ("host", watch))
    assert ends[0][1] == ends[1][1] == [True, True, True, False, True, True, True]
    for mine, other in zip(ours, theirs, strict=True):
        if mine.finite:
            assert other.total_loss == pytest.approx(mine.total_loss, rel=1e-12)
            assert other.grad_norm == pytest.approx(mine.grad_norm, rel=1e-12)
    # clipping by a tensor rounds once more than by a number: equal to rounding only


def test_where_decisions_are_taken():
    plain_numbers, scaled = Precision(None, torch.device("cpu")), Precision("fp16", torch.device("cuda"))
    parameters = [torch.zeros(1, requires_grad=True)]
    plain, fused = torch.optim.Adam(parameters), torch.optim.AdamW(parameters, fused=True)
    none, norm = Buffers(nn.Linear(1, 1)), Buffers(nn.BatchNorm1d(3))
    gpu = torch.device("cuda")
    assert watch_for(torch.device("cpu"), [fused], none, plain_numbers) == "host"
    assert watch_for(gpu, [fused], none, plain_numbers) == "device"
    assert watch_for(gpu, [plain], none, plain_numbers) == "wait"
    assert watch_for(gpu, [fused, plain], none, plain_numbers) == "wait"
    assert watch_for(gpu, [fused], norm, plain_numbers) == "wait"
    assert watch_for(gpu, [fused], none, scaled) == "wait"
    assert watch_for(gpu, [torch.optim.SGD(parameters, lr=0.1, fused=True)], none, plain_numbers) == "wait"


def test_a_stop_lasts_and_a_skip_does_not():
    for policy, expected in (("stop", [0.0, 1.0, 1.0]), ("skip", [0.0, 1.0, 0.0])):
        optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)], fused=True)
        found = Found(policy, [optimizer], torch.device("cpu"))
        seen = []
        for finite in (True, False, True):
            found.set(torch.tensor(finite))
            seen.append(optimizer.found_inf.item())
        assert seen == expected


def test_weights_of_zero_keep_bad_samples_out(data):
    with make_source(data, shuffle=None) as source:
        model = TwoHeads().double()

        def loss(out, batch):
            # the forward pass of the bad row must not spread: its gradient is cut off here
            clean = torch.nan_to_num(batch["x"])
            values = cross_entropy(model(clean)["logits"], batch["label"])
            return torch.where(batch["x"].isnan().any(1), math.nan, values)

        term = Term("class", loss, weight=lambda batch: (~batch["x"].isnan().any(1)).double())
        trainer = Trainer(
            model, term, torch.optim.SGD(model.parameters(), lr=0.1), source, 9, inputs="x", check_unreached=False
        )
        results = [trainer.train_minibatch() for _ in range(5)]
    assert all(result.finite for result in results)
    assert results[3].denominators == (8.0,)


def test_policies_are_named():
    with pytest.raises(ValueError, match="'stop' or 'skip'"):
        make_trainer(None, on_nonfinite="ignore")


def test_a_first_step_that_is_not_finite_is_told_as_such_or_skipped(data):
    """Without a backward pass nothing can be said of parameters that no term reaches."""
    with make_source(data, shuffle=None) as source:
        source.seek(BAD_ROW)
        with pytest.raises(NonFiniteError, match=r"step 1, .*rows \[30\]"):
            make_trainer(source).train_minibatch()
        source.seek(BAD_ROW)
        trainer = make_trainer(source, on_nonfinite="skip")
        assert not trainer.train_minibatch().finite
        assert trainer.train_minibatch().finite


@pytest.fixture(scope="module")
def jumping(tmp_path_factory):
    """A data set with one target that is far off."""
    target = fields()["target"].copy()
    target[BAD_ROW] = 1e4
    return write(tmp_path_factory.mktemp("jumping") / "data", target=target)


def leaving_out_spikes(source, *, most=100, **options):
    """A trainer that leaves spikes out, with an optimizer that can decide on the device."""
    model = TwoHeads().double()
    defaults = {
        "spikes": Spikes(action="skip", warmup=4, window=8, factor=8.0, most=most),
        "check_unreached": False,
        "log_every": 30,
        "announce": lambda text: None,
    }
    return Trainer(
        model,
        Term("fit", on(mse, "target", output="values")),
        torch.optim.Adam(model.parameters(), lr=0.02, fused=True),
        source,
        9,
        inputs="x",
        **{**defaults, **options},
    )


def test_a_spike_that_is_left_out_on_the_device_does_not_end_the_updates(jumping):
    """Bad steps end the run here (on_nonfinite="stop"); spikes do not, and the two must not be taken for each other."""
    seen = []
    for watch in ("host", "device"):
        with make_source(jumping) as source:
            trainer = decide_on_device(leaving_out_spikes(source), watch)
            digests = [everything(trainer)[0]]
            results = []
            for _ in range(30):
                results.append(trainer.train_minibatch())
                digests.append(everything(trainer)[0])
            spikes = [result.step for result in results if result.spike]
            still = [step for step in range(1, 31) if digests[step] == digests[step - 1]]
            assert len(spikes) > 2
            assert still == spikes
            seen.append((spikes, digests[-1], trainer.streams.skips))
    assert seen[0] == seen[1]


def test_going_back_to_a_checkpoint_ends_what_a_bad_step_has_ended_on_the_device(data, tmp_path):
    with make_source(data, shuffle=None) as source, on_device(source, "stop", None) as trainer:
        decide_on_device(trainer).save_checkpoint(tmp_path / "first")
        expected = None
        for attempt in range(2):
            for step in range(1, BAD_STEP + 1):
                trainer.train_minibatch()  # no log point: nobody has seen that the fourth is bad
                if step == BAD_STEP - 1:
                    assert expected in (None, everything(trainer)), attempt
                    expected = everything(trainer)
            trainer.restore_from_checkpoint(tmp_path / "first")


def test_a_bad_step_counts_as_no_update_once_its_values_are_fetched(data):
    with make_source(data, shuffle=None) as source, on_device(source, "skip", None) as trainer:
        decide_on_device(trainer)
        results = [trainer.train_minibatch() for _ in range(5)]  # the fifth is a log point
    assert [result.updated for result in results] == [True, True, True, False, True]


def test_an_optimizer_derived_from_adam_is_waited_for():
    """Its own code runs in bad steps, too: it obeys no flag."""

    class Decayed(torch.optim.Adam):
        def step(self, closure=None):
            super().step(closure)
            with torch.no_grad():
                for group in self.param_groups:
                    for parameter in group["params"]:
                        parameter.mul_(0.999)

    optimizer = Decayed([torch.zeros(1, requires_grad=True)], fused=True)
    plain = Precision(None, torch.device("cpu"))
    assert watch_for(torch.device("cuda"), [optimizer], Buffers(nn.Linear(1, 1)), plain) == "wait"


def test_after_too_many_spikes_on_the_device_weights_and_position_belong_together(jumping):
    """The steps after the spike that was one too many have changed the weights: the run stands behind them."""
    with make_source(jumping) as source:
        whole = decide_on_device(leaving_out_spikes(source))
        for _ in range(30):
            whole.train_minibatch()
    with make_source(jumping) as source:
        trainer = decide_on_device(leaving_out_spikes(source, most=1))
        for _ in range(29):
            trainer.train_minibatch()
        with pytest.raises(SpikeError, match=r"after 1 others were left out\. .*the run stands after step 30"):
            trainer.train_minibatch()
        assert (trainer.step, trainer.nominal_time) == (30, 270)
        assert everything(trainer) == everything(whole)
        assert trainer.streams.skips == whole.streams.skips
        assert trainer.detector.state() == whole.detector.state()


def test_steps_after_the_end_on_the_device_move_neither_averages_nor_the_memory_of_spikes(data):
    seen = []
    for watch in ("host", "device"):
        with make_source(data, shuffle=None) as source:
            trainer = leaving_out_spikes(
                source, averaging=EMA(halflife=30), spikes=Spikes(of="grad_norm", warmup=2, window=3), log_every=10
            )
            decide_on_device(trainer, watch)
            with pytest.raises(NonFiniteError, match="step 4"):
                trainer.fit(max_samples=90)
            remembered = trainer.detector.state()
            seen.append((everything(trainer)[0], tensors_digest(trainer.averaging.tensors()), trainer.nominal_time,
                         remembered["count"], pytest.approx(remembered["values"], rel=1e-12)))  # fmt: skip
            values = remembered["values"]
    assert seen[0][:4] == seen[1][:4]
    assert values == seen[0][4]


def test_nothing_is_validated_where_the_run_has_ended_unseen_on_the_device(data, tmp_path):
    good = write(tmp_path / "good")
    with make_source(data, shuffle=None) as source:
        trainer = decide_on_device(leaving_out_spikes(source, spikes=None, validation=good))
        for _ in range(BAD_STEP + 2):
            trainer.train_minibatch()
        with pytest.raises(NonFiniteError, match="step 4"):
            trainer.validate()
        assert trainer.history == []
        assert trainer.nominal_time == 9 * BAD_STEP
