"""Weight regularizers: values and gradients equal to the plain formulas, exact for any cut, by name."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minibatch.train.config import described
from minibatch.train.regularizers import MaxNorm, Regularization, WeightL1, WeightL2, WeightPrior
from minibatch.train.regularizers.coefficients import named
from minibatch.train.schedules import Exponential
from tests.plain import regularizers as plain

REDUCE = ["sum", "mean", "mean_of_means"]


def parameters(*, dtype=torch.float64) -> dict[str, torch.nn.Parameter]:
    draw = np.random.default_rng(3)
    shapes = {"a.weight": (3, 4), "a.bias": (3,), "b.weight": (2, 3, 2), "b.gain": (2,), "c.weight": (1, 5)}
    made = {name: draw.normal(size=shape) for name, shape in shapes.items()}
    made["a.weight"][0, 0] = 0.0
    return {name: torch.nn.Parameter(torch.tensor(values, dtype=dtype)) for name, values in made.items()}


def weights_of(given: dict[str, torch.nn.Parameter], *names: str) -> list[np.ndarray]:
    return [given[name].detach().numpy().astype(np.float64) for name in names]


@pytest.mark.parametrize("reduce", REDUCE)
@pytest.mark.parametrize(("kind", "power", "factor"), [(WeightL2, 2, 1.0), (WeightPrior, 2, 0.5), (WeightL1, 1, 1.0)])
def test_values_and_gradients_are_those_of_the_plain_formulas(kind, power, factor, reduce):
    given = parameters()
    before = {name: torch.full_like(p, 0.25) for name, p in given.items()}
    for name, p in given.items():
        p.grad = before[name].clone()
    regularization = Regularization([kind(coefficient=0.3, reduce=reduce)], given)
    value = regularization.add_gradients(0)
    names = ["a.weight", "b.weight", "c.weight"]
    expected = 0.3 * factor * plain.penalty(weights_of(given, *names), power, reduce)
    assert value == pytest.approx(expected, rel=1e-15)
    assert regularization.values == {kind.default_name: value}
    slopes = plain.penalty_gradient(weights_of(given, *names), power, reduce)
    for name, slope in zip(names, slopes, strict=True):
        np.testing.assert_allclose((given[name].grad - 0.25).numpy(), 0.3 * factor * slope, rtol=0, atol=1e-15)
    for name in ("a.bias", "b.gain"):
        assert torch.equal(given[name].grad, before[name])


def test_the_three_reductions_of_a_case_that_fits_on_a_napkin():
    given = {
        "a": torch.nn.Parameter(torch.tensor([[1.0, 2.0]])),
        "b": torch.nn.Parameter(torch.tensor([[3.0], [-3.0], [0.0], [0.0]])),
    }
    for reduce, l2, l1 in (("sum", 5 + 18, 3 + 6), ("mean", 2.5 + 4.5, 1.5 + 1.5), ("mean_of_means", 3.5, 1.5)):
        regularization = Regularization(
            [WeightL2(coefficient=1.0, reduce=reduce), WeightL1(coefficient=1.0, reduce=reduce)], given
        )
        assert regularization.add_gradients(0) == pytest.approx(l2 + l1, rel=1e-15)
        assert regularization.values == pytest.approx({"weight_l2": l2, "weight_l1": l1}, rel=1e-15)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([WeightL2, WeightL1, WeightPrior]),
            st.floats(0, 3),
            st.sampled_from(["*", "a.*", "?.weight", ("b.*", "c.*")]),
            st.sampled_from(REDUCE),
            st.sampled_from([1, 2, 3]),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_several_regularizers_add_up(chosen):
    given = parameters()
    regularizers, expected, value = [], {name: np.zeros(p.shape) for name, p in given.items()}, 0.0
    for number, (kind, coefficient, pattern, reduce, axes) in enumerate(chosen):
        one = kind(
            coefficient=coefficient, pattern=pattern, reduce=reduce, least_axes=axes, name=f"regularizer {number}"
        )
        names = [name for name, p in given.items() if p.ndim >= axes and one.matches(name)]
        if not names:
            continue
        regularizers.append(one)
        scale = coefficient * kind.factor
        value += scale * plain.penalty(weights_of(given, *names), kind.power, reduce)
        slopes = plain.penalty_gradient(weights_of(given, *names), kind.power, reduce)
        for name, slope in zip(names, slopes, strict=True):
            expected[name] += scale * slope
    if not regularizers:
        return
    regularization = Regularization(regularizers, given)
    assert regularization.add_gradients(7) == pytest.approx(value, rel=1e-13)
    assert list(regularization.values) == [one.name for one in regularizers]
    for name, p in given.items():
        found = np.zeros(p.shape) if p.grad is None else p.grad.numpy()
        np.testing.assert_allclose(found, expected[name], rtol=0, atol=1e-13)


def test_values_are_summed_in_float64_whatever_the_weights_are():
    weight = torch.nn.Parameter(torch.full((3000, 1000), 0.1))
    exact = float(np.float32(0.1)) ** 2 * 3_000_000
    regularization = Regularization([WeightL2(coefficient=1.0), WeightL1(coefficient=1.0)], {"w": weight})
    regularization.add_gradients(0)
    assert regularization.values["weight_l2"] == pytest.approx(exact, rel=1e-10)
    assert regularization.values["weight_l1"] == pytest.approx(float(np.float32(0.1)) * 3_000_000, rel=1e-10)


def test_a_scheduled_coefficient_is_that_at_the_beginning_of_the_step():
    given = parameters()
    schedule = Exponential(0.8, factor=0.5, samples=100)
    regularizers = [WeightL2(coefficient=schedule, pattern="a.*"), WeightL1(coefficient=0.1)]
    regularization = Regularization(regularizers, given)
    squares = plain.penalty(weights_of(given, "a.weight"), 2, "sum")
    for time, coefficient in ((0, 0.8), (100, 0.4), (200, 0.2), (100, 0.4)):
        for p in given.values():
            p.grad = None
        regularization.add_gradients(time)
        assert regularization.values["weight_l2"] == pytest.approx(coefficient * squares, rel=1e-14)
        w = given["a.weight"].detach()
        torch.testing.assert_close(given["a.weight"].grad, 2 * coefficient * w + 0.1 * w.sign(), rtol=0, atol=1e-15)
    with pytest.raises(TypeError, match="WeightL2 has a scheduled coefficient"):
        regularization.add_gradients()


def test_away_from_the_host_values_are_tensors_that_nobody_waits_for():
    given = parameters()
    schedule = Exponential(0.8, factor=0.5, samples=100)
    regularization = Regularization([WeightL2(coefficient=schedule), WeightL1(coefficient=0.1)], given)
    expected = [(regularization.add_gradients(time), regularization.values) for time in (0, 100, 100)]
    for part in regularization._parts:
        part.on_host = False
    for time, (total, values) in zip((0, 100, 100), expected, strict=True):
        ours = regularization.add_gradients(time)
        assert isinstance(ours, torch.Tensor)
        assert ours.item() == pytest.approx(total, rel=1e-14)
        assert {name: value.item() for name, value in regularization.values.items()} == pytest.approx(values)


def test_a_coefficient_of_zero_makes_no_gradient():
    given = parameters()
    Regularization([WeightL2(coefficient=lambda t: 0.0)], given).add_gradients(0)
    assert all(p.grad is None for p in given.values())


def test_frozen_weights_count_and_do_not_move():
    given = parameters()
    given["a.weight"].requires_grad_(False)
    regularization = Regularization([WeightL2(coefficient=1.0, pattern="a.*")], given)
    squares = plain.penalty(weights_of(given, "a.weight"), 2, "sum")
    assert regularization.add_gradients(0) == pytest.approx(squares)
    assert given["a.weight"].grad is None


def test_the_prior_is_the_weight_decay_of_sgd():
    ours, theirs = parameters(), parameters()
    pattern = ["a.weight"]
    for p in (*ours.values(), *theirs.values()):
        p.grad = torch.ones_like(p)
    Regularization([WeightPrior(coefficient=0.3, pattern=pattern)], ours).add_gradients(0)
    torch.optim.SGD([ours["a.weight"]], lr=0.1).step()
    torch.optim.SGD([theirs["a.weight"]], lr=0.1, weight_decay=0.3).step()
    torch.testing.assert_close(ours["a.weight"], theirs["a.weight"], rtol=0, atol=1e-16)


@pytest.mark.parametrize("tensor_rate", [False, True])
def test_the_proximal_form_is_cntks_soft_threshold_by_the_rate_of_the_group(tensor_rate):
    given = parameters()
    rates = {"a.weight": 0.5, "b.weight": 2.0, "c.weight": 0.25}
    groups = [
        {"params": [given[name]], "lr": torch.tensor(rate) if tensor_rate else rate} for name, rate in rates.items()
    ]
    optimizer = torch.optim.Adam(groups, capturable=False, foreach=False)
    regularizers = [
        WeightL1(coefficient=lambda t: 0.1 if t < 10 else 0.4, proximal=True),
        WeightL1(coefficient=0.2, pattern="b.*", proximal=True, reduce="mean", name="mean"),
    ]
    regularization = Regularization(regularizers, given)
    assert regularization.acts_after_update
    values = regularization.add_gradients(10)
    assert all(p.grad is None for p in given.values())
    assert values == pytest.approx(
        0.4 * plain.penalty(weights_of(given, *rates), 1, "sum")
        + 0.2 * plain.penalty(weights_of(given, "b.weight"), 1, "mean")
    )
    expected = {}
    for name, rate in rates.items():
        threshold = rate * (0.4 + (0.2 / given[name].numel() if name == "b.weight" else 0.0))
        expected[name] = plain.soft_threshold(weights_of(given, name)[0], threshold)
    regularization.after_update(10, [optimizer])
    for name, values in expected.items():
        np.testing.assert_allclose(given[name].detach().numpy(), values, rtol=0, atol=1e-7 if tensor_rate else 1e-15)
        assert (given[name] == 0).any() == (values == 0).any()
    # the groups of a restored optimizer are other dictionaries
    optimizer.load_state_dict(optimizer.state_dict())
    for group in optimizer.param_groups:
        group["lr"] = 0.0 if not tensor_rate else torch.tensor(0.0)
    before = {name: given[name].detach().clone() for name in rates}
    regularization.after_update(10, [optimizer])
    assert all(torch.equal(given[name], before[name]) for name in rates)


def test_soft_thresholds_reach_exact_zeros_where_gradients_oscillate():
    weight = torch.nn.Parameter(torch.tensor([[0.05, -1.0]]))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    regularization = Regularization([WeightL1(coefficient=1.0, proximal=True)], {"w": weight})
    for step in range(5):
        regularization.after_update(step, [optimizer])
    assert weight[0, 0] == 0.0
    assert weight[0, 1].item() == pytest.approx(-0.5, abs=1e-6)


@pytest.mark.parametrize("axis", [0, 1])
def test_the_norm_bound_scales_only_units_that_are_too_long(axis):
    given = parameters()
    expected = [plain.max_norm(w, 1.2, axis) for w in weights_of(given, "a.weight", "b.weight")]
    regularization = Regularization([MaxNorm(coefficient=1.2, pattern=["a.*", "b.*"], axis=axis)], given)
    assert not regularization
    assert regularization.acts_after_update
    assert regularization.add_gradients(0) == 0.0
    regularization.after_update(0, [])
    for name, values in zip(("a.weight", "b.weight"), expected, strict=True):
        np.testing.assert_allclose(given[name].detach().numpy(), values, rtol=1e-14)
        assert not np.array_equal(values, parameters()[name].detach().numpy())
    zero = torch.nn.Parameter(torch.zeros(2, 2))
    Regularization([MaxNorm(coefficient=lambda t: 1.0)], {"z": zero}).after_update(3, [])
    assert zero.tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_a_step_that_the_device_skips_leaves_weights_alone():
    given = parameters()
    optimizer = torch.optim.SGD(given.values(), lr=1.0)
    regularization = Regularization([MaxNorm(coefficient=0.1), WeightL1(coefficient=0.1, proximal=True)], given)
    before = {name: p.detach().clone() for name, p in given.items()}
    regularization.after_update(0, [optimizer], finite=torch.tensor(False))
    assert all(torch.equal(p, before[name]) for name, p in given.items())
    regularization.after_update(0, [optimizer], finite=torch.tensor(True))
    assert not torch.equal(given["a.weight"], before["a.weight"])


def test_sparse_gradients_are_refused():
    embedding = torch.nn.Embedding(5, 2, sparse=True)
    embedding(torch.tensor([1])).sum().backward()
    regularization = Regularization([WeightL2(coefficient=1.0)], dict(embedding.named_parameters()))
    with pytest.raises(ValueError, match=r"sparse=True.*pattern="):
        regularization.add_gradients(0)


@pytest.mark.parametrize("kind", [WeightL2, WeightL1, WeightPrior])
@pytest.mark.parametrize("coefficient", [-1.0, math.nan, math.inf])
def test_wrong_coefficients_are_refused(kind, coefficient):
    with pytest.raises(ValueError, match=f"{kind.__name__}: coefficient="):
        kind(coefficient=coefficient)
    scheduled = Regularization([kind(coefficient=lambda t: coefficient)], parameters())
    with pytest.raises(ValueError, match="at nominal time 7"):
        scheduled.add_gradients(7)


def test_wrong_arguments_say_what_was_expected():
    with pytest.raises(ValueError, match="'sum', 'mean', 'mean_of_means'"):
        WeightL2(coefficient=1.0, reduce="average")
    with pytest.raises(ValueError, match="the largest norm, a number > 0"):
        MaxNorm(coefficient=0.0)
    with pytest.raises(ValueError, match=r"matches no parameter of two or more axes; there are a.weight, b.weight"):
        Regularization([WeightL2(coefficient=1.0, pattern="a.bias")], parameters())
    with pytest.raises(ValueError, match=r"matches no parameter; there are a.weight, a.bias"):
        Regularization([WeightL2(coefficient=1.0, pattern="d", least_axes=1)], parameters())
    with pytest.raises(TypeError, match="got str"):
        Regularization(["weight_l2"], parameters())


def test_names_are_told_apart_by_pattern_and_must_differ():
    twice = [WeightL2(coefficient=1.0), WeightL2(coefficient=1.0, pattern="a.*"), WeightL1(coefficient=1.0)]
    assert list(named(twice)) == ["weight_l2[*]", "weight_l2[a.*]", "weight_l1"]
    assert list(Regularization(twice, parameters()).values) == []
    for clash in (
        [WeightL2(coefficient=1.0), WeightL2(coefficient=2.0)],
        [WeightL2(coefficient=1.0, name="x"), WeightL1(coefficient=2.0, name="x")],
    ):
        with pytest.raises(ValueError, match="different names"):
            named(clash)
    with pytest.raises(ValueError, match="class"):
        named([WeightL2(coefficient=1.0, name="class")], taken=["class"])


def test_a_regularizer_is_described_by_all_its_fields():
    assert described(WeightL1(coefficient=Exponential(0.1, factor=0.5, samples=10), proximal=True)) == {
        "kind": "minibatch.train.regularizers.weights:WeightL1",
        "coefficient": described(Exponential(0.1, factor=0.5, samples=10)),
        "pattern": "*",
        "name": "",
        "least_axes": 2,
        "reduce": "sum",
        "proximal": True,
    }
