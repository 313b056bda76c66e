"""The numbers of a step: schedules, time constants, CNTK's rates for sums, and what each may not be."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minibatch.train.optimizers import CntkAdam, FSAdagrad, optimizer
from minibatch.train.rates import entries_in_motion, set_rates
from minibatch.train.schedules import cntk_list, momentum_at


def weights(count=2):
    return [torch.nn.Parameter(torch.zeros(1, dtype=torch.float64)) for _ in range(count)]


def sgd(*groups, **options):
    return torch.optim.SGD([{"params": [p], **group} for p, group in zip(weights(len(groups)), groups, strict=True)],
                           **{"lr": 0.5, **options})  # fmt: skip


def test_without_schedules_nothing_changes_and_the_first_rate_is_given():
    made = sgd({"lr": 0.25}, {"lr": 0.125, "lr_scale": 3.0}, momentum=0.9)
    before = [dict(group) for group in made.param_groups]
    assert set_rates([made], [None], 0, 32) == (0.25,)
    assert [dict(group) for group in made.param_groups] == before


def test_a_schedule_is_called_with_the_beginning_of_the_step_and_scaled():
    asked = []
    made = sgd({}, {"lr_scale": 3.0}, {"schedules": {"lr": lambda t: t / 1000}, "lr_scale": 5.0})
    assert set_rates([made, sgd({})], [lambda t: asked.append(t) or 0.1, None], 64, 96) == (0.1, 0.5)
    assert asked == [64]
    assert [group["lr"] for group in made.param_groups] == [0.1, pytest.approx(0.3), 0.064]


def test_rates_that_are_tensors_are_filled_in_place():
    made = torch.optim.Adam(weights(), lr=torch.tensor(0.5))
    rate = made.param_groups[0]["lr"]
    set_rates([made], [lambda t: 0.25], 0, 8)
    assert made.param_groups[0]["lr"] is rate
    assert rate.item() == 0.25


def test_any_number_of_a_group_can_have_a_schedule():
    made = torch.optim.AdamW(weights(), lr=0.5, weight_decay=0.1)
    made.param_groups[0]["schedules"] = {"weight_decay": lambda t: 1e-4 * t, "betas.0": lambda t: 0.5, "eps": abs}
    set_rates([made], [None], 100, 132)
    group = made.param_groups[0]
    assert (group["weight_decay"], group["betas"], group["eps"], group["lr"]) == (0.01, (0.5, 0.999), 100, 0.5)


def test_what_watches_a_value_is_called_with_its_history():
    class Watching:
        watches = "accuracy"

        def __call__(self, t, values):
            return 0.1 * 0.5 ** len(values)

    made = sgd({}, {"schedules": {"momentum": Watching()}})
    assert set_rates([made], [Watching()], 64, 96) == (0.1,)
    values = {"accuracy": ((0, 0.5), (32, 0.6)), "loss": ((0, 1.0), (32, 0.5))}
    assert set_rates([made], [Watching()], 64, 96, values) == (0.025,)
    assert made.param_groups[1]["momentum"] == 0.025
    with pytest.raises(ValueError, match="watches 'accuracy', which no validation measures: there are 'loss'"):
        set_rates([made], [Watching()], 64, 96, {"loss": ()})


@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf])
def test_rates_that_no_step_can_have_are_refused_with_their_time(value):
    with pytest.raises(ValueError, match=r"optimizers\[1\]: the schedule .* gives lr .* at nominal time 64, not a"):
        set_rates([sgd({}), sgd({})], [None, lambda t: value], 64, 96)


def test_entries_that_a_group_has_not_are_refused_with_the_nearest():
    with pytest.raises(ValueError, match=r"schedule of 'momentun', but no number 'momentun' \(did you mean 'momentum'"):
        set_rates([sgd({"schedules": {"momentun": abs}})], [None], 0, 8)
    with pytest.raises(ValueError, match=r"schedule of 'betas.2'"):
        set_rates([torch.optim.Adam([{"params": weights(), "schedules": {"betas.2": abs}}])], [None], 0, 8)
    with pytest.raises(ValueError, match=r"momentum_time_constant, but no number 'momentum'"):
        set_rates([torch.optim.Adagrad([{"params": weights(), "momentum_time_constant": 1.0}])], [None], 0, 8)


@settings(max_examples=50, deadline=None)
@given(tau=st.floats(1.0, 1e7), cuts=st.lists(st.integers(1, 500), min_size=1, max_size=8))
def test_momentum_as_time_constant_decays_equally_however_time_is_cut(tau, cuts):
    made = sgd({"momentum_time_constant": tau})
    left, t = 1.0, 0
    for samples in cuts:
        set_rates([made], [None], t, t + samples)
        left *= made.param_groups[0]["momentum"]
        t += samples
    assert left == pytest.approx(math.exp(-t / tau), rel=1e-12)


def test_a_time_constant_is_cntks_conversion_of_momentum_and_becomes_a_beta_where_there_are_betas():
    made = sgd({"momentum_time_constant": -256 / math.log(0.9)})
    set_rates([made], [None], 0, 256)
    assert made.param_groups[0]["momentum"] == pytest.approx(0.9, rel=1e-14)
    adam = torch.optim.Adam([{"params": weights(), "momentum_time_constant": 0.0, "variance_time_constant": 720000}])
    set_rates([adam], [None], 0, 32)
    assert adam.param_groups[0]["betas"] == (0.0, math.exp(-32 / 720000))
    for impossible in (-1, math.inf, math.nan, "long"):
        with pytest.raises(ValueError, match=f"momentum_time_constant={impossible!r}"):
            set_rates([sgd({"momentum_time_constant": impossible})], [None], 0, 8)


def test_a_time_constant_may_have_a_schedule_of_its_own():
    longer = cntk_list([500, 1100], epoch_size=1000)
    made = sgd({"momentum_time_constant": longer(0), "schedules": {"momentum_time_constant": longer}})
    for t0, tau in ((936, 500), (1000, 1100)):
        set_rates([made], [None], t0, t0 + 64)
        assert made.param_groups[0]["momentum"] == momentum_at(tau, 64)


def test_cntks_optimizers_are_told_samples_and_variance_momentum():
    adam, fsadagrad = CntkAdam(weights(), lr=0.1), FSAdagrad(weights(), lr=0.1, variance_time_constant=100.0)
    set_rates([adam, fsadagrad], [None, None], 100, 132)
    assert adam.param_groups[0]["variance_momentum"] == math.exp(-32 / 720000)
    assert fsadagrad.param_groups[0]["variance_momentum"] == math.exp(-0.32)
    assert fsadagrad.param_groups[0]["samples"] == 32


def moved(steps, samples, gradients="sum", **options):
    """How far a weight has gone after each step, the gradient of each sample being 1."""
    p = weights(1)
    made = optimizer(options.pop("name", "sgd"), p, preset="cntk", gradients=gradients, **options)
    seen = []
    for step in range(steps):
        set_rates([made], [None], step * samples, (step + 1) * samples)
        p[0].grad = torch.full_like(p[0], float(samples) if gradients == "sum" else 1.0)
        made.step()
        seen.append(p[0].item())
    return seen


@pytest.mark.parametrize("gradients", ["sum", "mean"])
@pytest.mark.parametrize(
    ("rate_per", "changes"),
    [
        ("minibatch", {1: 1.0, 4: 1.0, 8: 1.0}),
        (1, {1: 1.0, 4: 4.0, 8: 8.0}),
        (2, {1: 0.5, 2: 1.0, 4: 2.0, 8: 4.0}),
    ],
)
def test_rates_per_minibatch_sample_and_reference_size_are_those_observed_of_cntk(rate_per, changes, gradients):
    for samples, change in changes.items():
        assert moved(1, samples, gradients, lr=1.0, rate_per=rate_per) == [-change]


@pytest.mark.parametrize(
    ("name", "unit_gain", "values"),
    [
        ("sgd", True, [-0.5, -1.25, -2.125]),
        ("sgd", False, [-1.0, -2.5, -4.25]),
        ("nag", True, [-0.75, -1.625, -2.5625]),
        ("nag", False, [-1.5, -3.25, -5.125]),
    ],
)
def test_momentum_and_unit_gain_are_those_observed_of_cntk(name, unit_gain, values):
    assert moved(3, 1, name=name, lr=1.0, momentum=0.5, unit_gain=unit_gain) == pytest.approx(values, rel=1e-15)


def test_adams_steps_are_those_observed_of_cntk():
    assert moved(1, 16, name="adam", lr=0.1, momentum=0.9) == pytest.approx([-0.00625], rel=1e-5)
    assert moved(1, 16, name="adam", lr=0.1, momentum=0.9, gradients="mean") == pytest.approx([-0.1], rel=1e-4)
    assert moved(1, 16, name="adam", lr=0.1, momentum=0.9, unit_gain=False) == pytest.approx([-0.0625], rel=1e-5)


def test_a_rate_for_sums_does_not_shrink_from_step_to_step_without_a_schedule():
    made = sgd({"rate_per": "minibatch", "gradients": "sum"})
    for samples in (4, 8, 4):
        set_rates([made], [None], 0, samples)
        assert made.param_groups[0]["lr"] == 0.5 / samples
    assert set_rates([made], [lambda t: 2.0], 0, 4) == (2.0,)
    assert made.param_groups[0]["lr"] == 0.5


def test_decay_per_sample_counts_samples_only_where_gradients_are_sums():
    made = sgd({"weight_decay_per_sample": 0.5, "gradients": "sum"}, {"weight_decay_per_sample": 0.5})
    set_rates([made], [None], 0, 8)
    assert [group["weight_decay"] for group in made.param_groups] == [4.0, 0.5]


@pytest.mark.parametrize(
    ("entries", "message"),
    [({"rate_per": 0}, "rate_per=0"), ({"rate_per": "sweep"}, "rate_per='sweep'"),
     ({"rate_per": 1, "gradients": "mode"}, "gradients='mode'")],
)  # fmt: skip
def test_sizes_that_a_rate_cannot_be_for_are_refused(entries, message):
    with pytest.raises(ValueError, match=message):
        set_rates([sgd(entries)], [None], 0, 8)


def test_entries_in_motion_are_those_that_a_step_sets():
    made = sgd({"momentum_time_constant": 100.0, "schedules": {"weight_decay": abs}}, {"rate_per": 4}, {})
    before = [dict(group) for group in made.param_groups]
    set_rates([made], [None], 3, 8)
    for group, old in zip(made.param_groups, before, strict=True):
        changed = {name for name in old if group[name] is not old[name] and group[name] != old[name]}
        assert changed == entries_in_motion(group, scheduled=False)
    assert entries_in_motion({"lr": 1.0}, scheduled=True) == {"lr"}
    adam = {"betas": (0.9, 0.99), "variance_time_constant": 7.0, "schedules": {"betas.0": abs}, "samples": 3}
    assert entries_in_motion(adam, scheduled=False) == {"betas", "samples"}
