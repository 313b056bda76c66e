"""Presets: every convention of five systems, against numbers worked out by hand and update rules written plainly."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn

from minibatch.train import Term, Trainer, cross_entropy, huber, mse, on
from minibatch.train.clipping import ClipElement, ClipNorm, ClipPerSample, ClipTensorNorm
from minibatch.train.config import described
from minibatch.train.groups import Rule
from minibatch.train.presets import SYSTEMS, Preset, preset
from minibatch.train.schedules import Constant, Steps, from_convnet

# Three samples where four were asked for; loss = w · x of each, so that the gradient is Σ weight · x / D.
X, WEIGHTS, SIZE = [1.0, 2.0, 6.0], [1.0, 3.0, 0.5], 4
LN2 = math.log(2.0)


def plain_loss(outputs, batch):
    return outputs[:, 0]


def one_weight():
    model = nn.Linear(1, 1, bias=False).double()
    nn.init.ones_(model.weight)
    return model


def step_of(term, *, microbatch_size=None):
    """Gradient and value of one step of `term` on the three samples, the fourth missing."""
    model = one_weight()
    trainer = Trainer(
        model, term, torch.optim.SGD(model.parameters(), lr=1.0), None, SIZE, microbatch_size, inputs="x", seed=1
    )
    result = trainer.train_minibatch(
        {"x": torch.tensor(X, dtype=torch.float64)[:, None], "weight": torch.tensor(WEIGHTS, dtype=torch.float64)}
    )
    return 1.0 - model.weight.item(), result["term"]


@pytest.mark.parametrize("microbatch_size", [None, 2, 1])
@pytest.mark.parametrize(
    ("system", "weighted", "plain"),
    [
        ("theanets", (1 * 1 + 3 * 2 + 0.5 * 6) / (1 + 3 + 0.5), (1 + 2 + 6) / 3),
        ("convnet", (1 * 1 + 3 * 2 + 0.5 * 6) / 4, (1 + 2 + 6) / 4),
        ("cntk", 1 * 1 + 3 * 2 + 0.5 * 6, 1 + 2 + 6),
        ("halcon", (1 * 1 + 3 * 2 + 0.5 * 6) / 3, (1 + 2 + 6) / 3),
        ("mindspore", (1 * 1 + 3 * 2 + 0.5 * 6) / 3, (1 + 2 + 6) / 3),
    ],
)
def test_denominators_are_those_of_the_system(system, weighted, plain, microbatch_size):
    """A short, weighted minibatch tells all policies but count from each other."""
    term = preset(system).term("term", plain_loss, weight="weight")
    assert step_of(term, microbatch_size=microbatch_size) == pytest.approx((weighted, weighted), rel=1e-14)
    term = preset(system).term("term", plain_loss)
    assert step_of(term, microbatch_size=microbatch_size) == pytest.approx((plain, plain), rel=1e-14)


@pytest.mark.parametrize(
    ("denominator", "expected"),
    [("weights", 10 / 4.5), ("count", 10 / 3), ("nominal", 10 / 4), (8, 10 / 8), (None, 10)],
)
def test_a_denominator_that_is_given_wins(denominator, expected):
    for system in SYSTEMS:
        term = preset(system).term("term", plain_loss, weight="weight", denominator=denominator)
        assert step_of(term)[0] == pytest.approx(expected, rel=1e-14)
    changed = preset("theanets", denominator=denominator).term("term", plain_loss, weight="weight")
    assert step_of(changed)[0] == pytest.approx(expected, rel=1e-14)


class Given(nn.Module):
    """Outputs that are in the batch, times a parameter of 1, so that there is something to train."""

    def __init__(self):
        super().__init__()
        self.one = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, outputs):
        return outputs * self.one


def value_of(terms, fields, *, regularizers=(), size=SIZE):
    model = Given()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    trainer = Trainer(model, terms, optimizer, None, size, inputs="outputs", seed=1, regularizers=regularizers)
    return trainer.train_minibatch(fields)


def test_halcon_sums_huber_with_its_beta_and_averages_class_weighted_cross_entropy():
    halcon = preset("halcon")
    outputs = torch.tensor([[0.05, 1.0], [0.22, -0.109], [0.0, 0.0]], dtype=torch.float64)
    boxes = {"outputs": outputs, "box": torch.zeros(3, 2).double()}
    by_hand = 0.5 * 0.05**2 / 0.11 + (1 - 0.055) + (0.22 - 0.055) + 0.5 * 0.109**2 / 0.11
    assert value_of(halcon.term("box", on(huber, "box")), boxes)["box"] == pytest.approx(by_hand, rel=1e-12)

    # Logits of 0: every sample costs log 2; the class weights 1 and 3 become ¼ and ¾.
    classes = {"outputs": torch.zeros(3, 2).double(), "label": torch.tensor([0, 1, 1])}
    by_hand = (0.25 + 0.75 + 0.75) * LN2 / 3
    in_the_loss = halcon.term("class", on(cross_entropy, "label", class_weights=[1.0, 3.0]))
    in_the_term = halcon.term("class", on(cross_entropy, "label"), weight=halcon.class_weight("label", [1.0, 3.0]))
    for term in (in_the_loss, in_the_term):
        assert value_of(term, classes)["class"] == pytest.approx(by_hand, rel=1e-12)
    as_given = halcon.term("class", on(cross_entropy, "label", class_weights=[1.0, 3.0], normalize=False))
    assert value_of(as_given, classes)["class"] == pytest.approx((1 + 3 + 3) * LN2 / 3, rel=1e-12)


def test_theanets_weights_are_those_of_elements_and_its_cross_entropy_is_clipped():
    theanets = preset("theanets")
    fields = {
        "outputs": torch.tensor([[1.0, 2.0], [3.0, 0.0]], dtype=torch.float64),
        "target": torch.zeros(2, 2).double(),
        "weight": torch.tensor([[1.0, 0.5], [0.0, 2.0]], dtype=torch.float64),
    }
    term = theanets.term("fit", on(mse, "target"), weight="weight")
    assert value_of(term, fields)["fit"] == pytest.approx((1 * 1 + 0.5 * 4) / 3.5, rel=1e-14)
    sure = {"outputs": torch.tensor([[0.0, 50.0]], dtype=torch.float64), "label": torch.tensor([0])}
    assert value_of(theanets.term("class", on(cross_entropy, "label")), sure)["class"] == pytest.approx(-math.log(1e-8))


def test_cntk_sums_squared_errors_over_elements_and_samples():
    fields = {
        "outputs": torch.tensor([[1.0, 2.0], [3.0, 0.0]], dtype=torch.float64),
        "target": torch.zeros(2, 2).double(),
    }
    assert value_of(preset("cntk").term("fit", on(mse, "target")), fields)["fit"] == 14.0


def test_a_function_of_the_users_has_no_options_of_the_system_whatever_its_name_is():
    def mse(outputs, targets):
        return (outputs - targets).square().sum(1)

    term = preset("theanets").term("fit", on(mse, "target"))
    assert dict(term.loss.options) == {}
    assert preset("halcon").term("fit", on(mse, "target")).denominator == "count"


# --- update rules ---------------------------------------------------------------------------------------------------

STEPS, ROWS = 6, 8
INPUTS = np.array([[[math.sin(3 * s + i), math.cos(s * i)] for i in range(ROWS)] for s in range(STEPS)])
TARGETS = np.array([[math.sin(s - i) for i in range(ROWS)] for s in range(STEPS)])
RATE = Steps((0.05, 0.005), borders=(3 * ROWS,))  # a tenfold drop tells the conventions of momentum apart


def trained(system, term, optimizer_of, **options):
    """Weights (2,) and bias after a few steps of a linear model with squared errors."""
    model = nn.Linear(2, 1).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.5, -0.25]]))
        model.bias.fill_(0.1)
    trainer = Trainer(model, term, optimizer_of(model), None, ROWS, 3, inputs="x", seed=1, schedules=RATE, **options)
    results = [
        trainer.train_minibatch({"x": torch.tensor(x), "y": torch.tensor(y)[:, None]})
        for x, y in zip(INPUTS, TARGETS, strict=True)
    ]
    return [*model.weight[0].tolist(), model.bias.item()], results


def errors(outputs, batch):
    return (outputs[:, 0] - batch["y"][:, 0]).square()


def followed(update):
    """The same with `update(p, mean gradient, rate, step)`, p = (w1, w2, bias), in NumPy."""
    p = np.array([0.5, -0.25, 0.1])
    for step, (x, y) in enumerate(zip(INPUTS, TARGETS, strict=True)):
        difference = x @ p[:2] + p[2] - y
        gradient = np.array([*(2 * difference @ x / ROWS), 2 * difference.mean()])
        p = update(p, gradient, RATE(step * ROWS), step)
    return p


def test_convnet_puts_the_rate_inside_the_velocity_decays_weights_and_doubles_the_rate_of_biases():
    convnet = preset("convnet")
    increments = np.zeros(3)

    def update(w, g, eps, step):
        epsilons, decay = np.array([eps, eps, 2 * eps]), np.array([0.1, 0.1, 0.0])
        increments[:] = 0.9 * increments + epsilons * -g - epsilons * decay * w
        return w + increments

    found, _ = trained(
        "convnet",
        convnet.term("fit", errors),
        lambda model: convnet.optimizer(model, 0.05, Rule("bias", rate=2.0), mom=0.9, wc=0.1),
    )
    assert found == pytest.approx(followed(update), rel=1e-12)


def test_halcon_adds_half_a_square_to_the_total_loss():
    halcon, prior = preset("halcon"), 0.2
    velocity, totals = np.zeros(3), []

    def update(w, g, rate, step):
        totals.append(0.5 * prior * (w[:2] @ w[:2]))
        velocity[:] = 0.9 * velocity - rate * (g + prior * np.array([w[0], w[1], 0.0]))
        return w + velocity

    found, results = trained(
        "halcon",
        halcon.term("fit", errors),
        lambda model: halcon.optimizer(model, 0.05, momentum=0.9),
        regularizers=halcon.regularizers(weight_prior=prior),
    )
    assert found == pytest.approx(followed(update), rel=1e-12)
    assert [r["total_loss"] - r["fit"] for r in results] == pytest.approx(totals, rel=1e-12)
    by_optimizer, _ = trained(
        "halcon",
        halcon.term("fit", errors),
        lambda model: halcon.optimizer(model, 0.05, momentum=0.9, weight_prior=prior),
    )
    assert by_optimizer == pytest.approx(found, rel=1e-12)


def test_mindspore_keeps_the_rate_outside_and_decays_biases_too():
    mindspore = preset("mindspore")
    velocity = np.zeros(3)

    def update(w, g, rate, step):
        velocity[:] = 0.9 * velocity + g + 0.1 * w
        return w - rate * velocity

    found, _ = trained(
        "mindspore",
        mindspore.term("fit", errors),
        lambda model: mindspore.optimizer(model, 0.05, momentum=0.9, weight_decay=0.1),
    )
    assert found == pytest.approx(followed(update), rel=1e-12)


def test_mindspore_leaves_gains_of_norms_out_of_decay():
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
    made = preset("mindspore").optimizer(model, 0.1, momentum=0.9, weight_decay=0.5)
    decay = {id(p): group["weight_decay"] for group in made.param_groups for p in group["params"]}
    found = {name: decay[id(p)] for name, p in model.named_parameters()}
    assert found == {
        "0.weight": 0.5,
        "0.bias": 0.5,
        "1.weight": 0.0,
        "1.bias": 0.0,
        "2.weight": 0.5,
        "2.bias": 0.5,
    }


def test_cntk_has_unit_gain_on_sums_with_rates_per_minibatch_or_per_sample():
    cntk = preset("cntk")
    velocity = np.zeros(3)

    def update(w, g, rate, step):
        velocity[:] = 0.9 * velocity + rate * 0.1 * g
        return w - velocity

    per_minibatch, _ = trained(
        "cntk", cntk.term("fit", errors), lambda model: cntk.optimizer(model, 0.05, momentum=0.9)
    )
    assert per_minibatch == pytest.approx(followed(update), rel=1e-12)

    velocity[:] = 0

    def on_sums(w, g, rate, step):
        momentum = math.exp(-ROWS / 100)
        # the sum of the gradient, and the decay per sample times the samples, at a rate per sample
        velocity[:] = momentum * velocity + rate * (1 - momentum) * (g * ROWS + 0.01 * ROWS * w)
        return w - velocity

    per_sample, _ = trained(
        "cntk",
        cntk.term("fit", errors),
        lambda model: cntk.optimizer(
            model, 0.05, rate_per=1, momentum_time_constant=100.0, l2_regularization_weight=0.01
        ),
    )
    assert per_sample == pytest.approx(followed(on_sums), rel=1e-12)


def test_theanets_is_rmsprop_with_the_mean_of_squares_in_the_loss():
    theanets = preset("theanets")
    gamma = math.exp(-LN2 / 14)
    mean, square, velocity = np.zeros(3), np.zeros(3), np.zeros(3)

    def update(w, g, rate, step):
        g = g + 2 * 0.3 * np.array([w[0], w[1], 0.0]) / 2  # the mean of w² over the two weights
        mean[:] = gamma * mean + (1 - gamma) * g
        square[:] = gamma * square + (1 - gamma) * g * g
        velocity[:] = 0.5 * velocity - rate * g / np.sqrt(square - mean**2 + 1e-8)
        return w + velocity

    found, _ = trained(
        "theanets",
        theanets.term("fit", errors),
        lambda model: theanets.optimizer(model, momentum=0.5),
        regularizers=theanets.regularizers(weight_l2=0.3),
    )
    assert found == pytest.approx(followed(update), rel=1e-9)


def test_the_optimizers_of_a_system_are_those_of_the_table():
    made = preset("theanets").optimizer(one_weight(), algorithm="adam")
    assert made.defaults["betas"] == pytest.approx((math.exp(-LN2 / 7), math.exp(-LN2 / 69)))
    assert preset("theanets").optimizer(one_weight()).param_groups[0]["lr"] == 1e-4
    assert preset("theanets").optimizer(one_weight(), rms_halflife=5.0).param_groups[0]["halflife"] == 5.0
    assert preset("cntk").optimizer(one_weight(), 0.1, algorithm="adam", momentum=0.9).param_groups[0]["unit_gain"]
    outside = preset("convnet").optimizer(one_weight(), 0.1, momentum=0.9, velocity="outside")
    assert isinstance(outside, torch.optim.SGD)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: preset("cuda-convnet2"), "did you mean 'convnet'"),
        (lambda: preset("caffe"), "expected one of 'theanets', 'convnet', 'cntk', 'halcon', 'mindspore'"),
        (lambda: preset("cntk", denominator="rows"), "denominator='rows'"),
        (lambda: preset("cntk", denominators={"mse": -1}), "denominator=-1"),
        (lambda: preset("cntk", dropout="sometimes"), "dropout='sometimes', expected one of train, test, never"),
        (lambda: preset("cntk", clipping="hard"), "clipping='hard', expected one of"),
        (lambda: preset("cntk", optimizers="caffe"), "optimizers='caffe', expected one of"),
        (lambda: preset("cntk", penalties={"l3": {"kind": "WeightL3"}}), "the penalty 'l3'"),
        (lambda: preset("convnet").optimizer(one_weight()), "'convnet' has no default learning rate"),
        (lambda: preset("convnet").optimizer(one_weight(), 0.1, wc=0.1, weight_decay=0.2), "are the same"),
        (lambda: preset("convnet").optimizer(one_weight(), 0.1, lr=0.1), "learning_rate=0.1 and lr=0.1"),
        (lambda: preset("convnet").optimizer(one_weight(), 0.1, algorithm="adam"), "has no optimizer 'adam'"),
        (lambda: preset("convnet").regularizers(weight_l2=0.1), "has no regularizer 'weight_l2'; it has wball"),
        (lambda: preset("cntk").regularizers(weight_l2=0.1), "it has weight_decay= of the optimizer"),
        (lambda: preset("halcon").clip(1.0), "'halcon' has no gradient clipping"),
        (lambda: preset("cntk").clip(1.0, elements=2.0), "only 'theanets' clips by elements"),
        (lambda: preset("theanets").clip(1.0, truncate=True), "only 'cntk' has the choice"),
        (lambda: preset("convnet").schedule("exp[base=1;tgtFactor=2]"), "needs max_samples=, in samples"),
        (lambda: preset("convnet").schedule(0.1, epoch_size=5), "schedules do not depend on epoch_size, which is 5"),
        (lambda: preset("halcon").schedule([0.1, 0.2]), "'halcon' has only constant rates"),
    ],
)
def test_what_a_system_does_not_have_is_refused_with_what_to_do(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_fields_that_do_not_exist_are_refused():
    with pytest.raises(TypeError, match="momentun"):
        preset("halcon", momentun=0.9)


def test_clipping_takes_the_form_of_the_system():
    assert preset("theanets").clip() == preset("halcon").clip() == ()
    assert preset("theanets").clip(5.0) == (ClipTensorNorm(5.0),)
    assert preset("theanets").clip(5.0, elements=1.0) == (ClipElement(1.0),)
    assert preset("cntk").clip(5.0) == (ClipPerSample(5.0, truncate=True),)
    assert preset("cntk").clip(5.0, truncate=False) == (ClipPerSample(5.0, truncate=False),)
    assert preset("mindspore").clip(5.0) == (ClipNorm(5.0),)


def test_schedules_are_read_as_the_system_writes_them():
    text = "dexp[base=0.01;tgtFactor=250;numSteps=4]"
    assert preset("convnet").schedule(text, max_samples=1000) == from_convnet(text, 1000)
    assert preset("cntk").schedule([0.1, 0.01], epoch_size=1000) == Steps((0.1, 0.01), borders=(1000,))
    steps = preset("mindspore").schedule([0.1, 0.2, 0.2, 0.3], minibatch_size=32)
    assert [steps(32 * step) for step in range(6)] == [0.1, 0.2, 0.2, 0.3, 0.3, 0.3]
    for system in SYSTEMS:
        assert preset(system).schedule(0.1) == Constant(0.1)


def test_regularizers_are_reduced_as_the_system_does():
    theanets = preset("theanets")
    assert [type(one).__name__ for one in theanets.regularizers(weight_l2=1e-4, weight_l1=1e-5)] == [
        "WeightL2",
        "WeightL1",
    ]
    (hidden,) = theanets.regularizers("layers.0", hidden_l1=0.1)
    assert (type(hidden).__name__, hidden.pattern, hidden.reduce) == ("HiddenL1", "layers.0", "mean")
    assert preset("theanets", reduce="mean_of_means").regularizers(weight_l2=1.0)[0].reduce == "mean_of_means"
    assert theanets.regularizers(weight_l2=1.0, options={"reduce": "sum"})[0].reduce == "sum"
    assert theanets.regularizers("encoder", contractive=0.1)[0].form == "theanets"
    assert preset("convnet").regularizers(wball=3.0)[0].coefficient == 3.0


def test_dropout_and_stopping_are_those_of_the_system():
    assert [preset(system).make_dropout(0.5).rescale for system in SYSTEMS] == [
        "never",
        "train",
        "train",
        "train",
        "train",
    ]
    assert preset("theanets").make_dropout(0.5, rescale="train").rescale == "train"
    assert preset("theanets").fit_options()["patience"] == 5
    assert preset("theanets").fit_options(patience=2, max_samples=10)["patience"] == 2
    assert preset("convnet").fit_options(max_samples=10) == {"max_samples": 10}
    assert [preset(system).batch_size for system in SYSTEMS] == [32, 128, None, None, None]


def test_fit_takes_what_fit_options_gives(tmp_path):
    from tests.train.small import make_source, make_trainer, write

    data = write(tmp_path / "data")
    with make_source(data) as source:
        trainer = make_trainer(source)
        trainer.validation = data
        trainer.fit(**preset("theanets").fit_options(max_samples=60, patience=0))


def test_a_table_says_every_convention():
    for system in SYSTEMS:
        text = preset(system).describe()
        assert text.startswith(f"preset {system}\n")
        for title in ("terms are divided by", "gradient clipping", "dropout", "schedules", "usual optimizer"):
            assert title in text
    changed = preset("halcon", dropout="test", batch_size=9).describe()
    for part in ("scaled by 1 - p in eval", "9"):
        assert part in changed


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Preset) if field.name != "system"])
def test_no_field_is_without_effect_on_the_table(field):
    """What a preset holds is at least shown, whichever of the five has it; other tests show that it acts."""
    different = {
        "denominator": 5,
        "denominators": {"mse": 5},
        "losses": {"mse": {"reduce": "sum"}},
        "normalize_class_weights": True,
        "reduce": "mean_of_means",
        "penalties": {"prior": {"kind": "WeightPrior"}},
        "algorithm": "nag",
        "optimizers": "halcon",
        "spelling": {"eta": "lr"},
        "needs_rate": False,
        "decay": "all but norms",
        "clipping": "global",
        "rates": "steps",
        "dropout": "test",
        "batch_size": 77,
        "stopping": {"patience": 77},
    }
    base = preset("cntk", penalties={"weight_l2": {"kind": "WeightL2"}})
    assert dataclasses.replace(base, **{field: different[field]}).describe() != base.describe()


def test_presets_go_into_a_configuration():
    for system in SYSTEMS:
        assert described(preset(system))["system"] == system
    assert Term("fit", on(mse, "y"), denominator=None) == preset("mindspore").term(
        "fit", on(mse, "y"), denominator=None
    )
