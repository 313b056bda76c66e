"""Optimizers by name: what each name and preset stands for, and what is refused."""

import math

import pytest
import torch
from torch import nn

from minibatch.train import optimizers
from minibatch.train.groups import Rule
from minibatch.train.optimizers import optimizer, optimizer_names
from minibatch.train.rates import set_rates


def model():
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))


@pytest.mark.parametrize(
    ("name", "options", "kind"),
    [
        ("sgd", {}, torch.optim.SGD),
        ("SGD", {"momentum": 0.9}, torch.optim.SGD),
        ("momentum", {"momentum": 0.9}, torch.optim.SGD),
        ("sgd", {"velocity": "outside", "momentum": 0.9}, torch.optim.SGD),
        ("sgd", {"velocity": "inside"}, optimizers.Momentum),
        ("sgd", {"momentum": 0.9, "unit_gain": True}, optimizers.Momentum),
        ("nag", {"momentum": 0.9}, torch.optim.SGD),
        ("nag", {"momentum_time_constant": 1000.0}, torch.optim.SGD),
        ("nag", {"momentum": 0.9, "velocity": "inside"}, optimizers.Momentum),
        ("rprop", {}, torch.optim.Rprop),
        ("rprop", {"momentum": 0.5}, optimizers.RpropOnTop),
        ("rmsprop", {}, torch.optim.RMSprop),
        ("RMSProp", {"eps_inside": True}, optimizers.GravesRMSprop),
        ("rmsprop", {"halflife": 20.0}, optimizers.GravesRMSprop),
        ("rmsprop", {"halflife": 20.0, "eps_inside": False}, torch.optim.RMSprop),
        ("adagrad", {}, torch.optim.Adagrad),
        ("adagrad", {"eps_inside": True}, optimizers.InsideAdagrad),
        ("adadelta", {}, torch.optim.Adadelta),
        ("adadelta", {"momentum": 0.5}, optimizers.AdadeltaOnTop),
        ("esgd", {}, optimizers.ESGD),
        ("adam", {}, torch.optim.Adam),
        ("adam", {"momentum": 0.5}, optimizers.AdamOnTop),
        ("adamw", {}, torch.optim.AdamW),
        ("adamax", {}, torch.optim.Adamax),
        ("NAdam", {}, torch.optim.NAdam),
        ("Adafactor", {}, torch.optim.Adafactor),
        ("fsadagrad", {"lr": 0.1}, optimizers.FSAdagrad),
        ("sgd", {"preset": "convnet", "momentum": 0.9}, optimizers.Momentum),
        ("sgd", {"preset": "halcon", "momentum": 0.9, "weight_prior": 1e-4}, optimizers.Momentum),
        ("momentum", {"preset": "mindspore", "momentum": 0.9}, torch.optim.SGD),
        ("rprop", {"preset": "theanets"}, torch.optim.Rprop),
        ("adam", {"preset": "theanets"}, torch.optim.Adam),
        ("adam", {"preset": "cntk", "lr": 0.1}, optimizers.CntkAdam),
        ("rmsprop", {"preset": "cntk", "lr": 0.1}, optimizers.CntkRMSprop),
        ("adagrad", {"preset": "cntk", "lr": 0.1}, optimizers.InsideAdagrad),
        ("adadelta", {"preset": "cntk"}, torch.optim.Adadelta),
        ("nesterov", {"preset": "cntk", "lr": 0.1, "momentum_time_constant": 700.0}, optimizers.Momentum),
    ],
)
def test_a_name_gives_its_class_and_the_optimizer_steps(name, options, kind):
    net = model()
    made = optimizer(name, net, **options)
    assert type(made) is kind
    set_rates([made], [None], 0, 32)
    before = [p.detach().clone() for p in net.parameters()]
    net(torch.ones(5, 3)).square().sum().backward()
    if isinstance(made, optimizers.ESGD):
        made.take_curvature({p: torch.ones_like(p) for p in net.parameters()})
    made.step()
    assert all(not torch.equal(p, old) for p, old in zip(net.parameters(), before, strict=True) if p.grad.any())


def test_every_class_of_torch_has_its_name():
    classes = [n for n, c in vars(torch.optim).items() if isinstance(c, type) and issubclass(c, torch.optim.Optimizer)]
    assert {n.lower() for n in classes} - {"optimizer"} <= set(optimizer_names())
    assert len(classes) > 10


def test_foreach_is_explicit_so_that_the_device_does_not_choose():
    assert optimizer("adam", model()).param_groups[0]["foreach"] is True
    assert optimizer("sgd", model(), foreach=False).param_groups[0]["foreach"] is False
    fused = optimizer("adamw", model(), fused=True).param_groups[0]
    assert fused["fused"] is True
    assert not fused["foreach"]


def test_presets_have_the_defaults_of_their_systems():
    adam = optimizer("adam", model(), preset="theanets").param_groups[0]
    assert [round(beta, 4) for beta in adam["betas"]] == [0.9057, 0.99]
    assert adam["lr"] == 1e-4
    rprop = optimizer("rprop", model(), preset="theanets").param_groups[0]
    assert (rprop["etas"], rprop["step_sizes"]) == ((0.99, 1.01), (0.0, 100.0))
    adadelta = optimizer("adadelta", model(), preset="theanets").param_groups[0]
    assert (round(adadelta["rho"], 4), adadelta["eps"], adadelta["lr"]) == (0.9517, 1e-8, 1.0)
    esgd = optimizer("esgd", model(), preset="theanets")
    assert esgd.block_diagonal
    assert esgd.curvature_due(13)
    assert optimizer("esgd", model()).period == 20
    cntk = optimizer("sgd", model(), preset="cntk", lr=0.1).param_groups[0]
    assert (cntk["unit_gain"], cntk["rate_per"], cntk["gradients"]) == (True, "minibatch", "sum")
    given = optimizer("adam", model(), preset="theanets", lr=0.5, beta2_halflife=10.0).param_groups[0]
    assert given["lr"] == 0.5
    assert given["betas"][1] == pytest.approx(math.exp(-math.log(2) / 10))


def test_halcons_weight_prior_pulls_on_all_but_biases():
    net = model()
    made = optimizer("sgd", net, preset="halcon", lr=0.1, momentum=0.9, weight_prior=0.5)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
    made.step()
    for name, p in net.named_parameters():
        factor = 0.95 if p.ndim == 2 else 1.0  # the gradient of α/2·w² is α·w
        torch.testing.assert_close(p.detach(), before[name] * factor)


def test_decay_of_a_model_leaves_biases_and_gains_alone_also_where_it_is_the_class_default():
    net = model()
    decays = {p: g["weight_decay"] for g in optimizer("adamw", net).param_groups for p in g["params"]}
    assert {p.ndim: decay for p, decay in decays.items()} == {2: 0.01, 1: 0.0}
    everything = optimizer("adamw", net, decay_vectors=True)
    assert [group["weight_decay"] for group in everything.param_groups] == [0.01]
    as_in_torch = optimizer("adamw", net.parameters())
    assert [group["weight_decay"] for group in as_in_torch.param_groups] == [0.01]
    assert len(optimizer("sgd", net, lr=0.1).param_groups) == 1  # nothing decays: one group is enough


def test_rules_and_entries_reach_the_groups():
    net = model()
    made = optimizer(
        "sgd", net, Rule("*.bias", rate=2.0), Rule("0.*", momentum=0.5),
        lr=0.1, momentum=0.9, velocity="inside", momentum_time_constant=None, schedules={"momentum": lambda t: 0.3},
    )  # fmt: skip
    found = {
        name: g for g in made.param_groups for name, p in net.named_parameters() if any(p is q for q in g["params"])
    }
    assert (found["0.bias"]["lr"], found["0.bias"]["lr_scale"], found["0.bias"]["momentum"]) == (0.2, 2.0, 0.5)
    assert (found["2.weight"]["lr"], found["2.weight"]["momentum"]) == (0.1, 0.9)
    set_rates([made], [None], 0, 8)
    assert (found["0.bias"]["momentum"], found["2.weight"]["momentum"]) == (0.5, 0.3)  # the rule wins over the schedule


def test_momentum_of_one_rule_puts_velocity_on_top():
    made = optimizer("adam", model(), Rule("0.*", momentum=0.5))
    assert type(made) is optimizers.AdamOnTop
    assert sorted(group["momentum"] for group in made.param_groups) == [0.0, 0.5]


def test_groups_and_parameters_are_taken_as_torch_takes_them():
    net = model()
    made = optimizer("sgd", [{"params": [net[0].weight], "lr": 0.5}, {"params": [net[0].bias]}], lr=0.1, rate_per=4)
    assert [(g["lr"], g["rate_per"]) for g in made.param_groups] == [(0.5, 4), (0.1, 4)]
    named = optimizer("adam", net.named_parameters(), momentum_time_constant=100.0)
    assert named.param_groups[0]["momentum_time_constant"] == 100.0


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("adamm", {}, "no optimizer 'adamm': did you mean 'adam'"),
        ("optimizer", {}, "no optimizer 'optimizer'"),
        ("adam", {"learning_rte": 0.1}, "no option 'learning_rte'"),
        ("adam", {"weight_decy": 0.1}, "did you mean 'weight_decay'"),
        ("sgd", {"momentum_time_constnt": 0.1}, "did you mean 'momentum_time_constant'"),
        ("nag", {}, "nag is nothing without momentum"),
        ("momentum", {}, "momentum is nothing without momentum"),
        ("adam", {"preset": "keras"}, "preset='keras': expected one of 'theanets'"),
        ("adam", {"preset": "convnet"}, "preset='convnet' has no optimizer 'adam', only sgd, nag"),
        ("adadelta", {"preset": "theanets", "lr": 0.1}, "adadelta has no learning rate there"),
        ("sgd", {"preset": "cntk"}, "sgd has no default for its learning rate"),
        ("sgd", {"nesterov": True}, "nesterov=True is nothing without momentum"),
        ("sgd", {"nesterov": True, "momentum": 0.0}, "nesterov=True is nothing without momentum"),
        ("sgd", {"nesterov": True, "velocity": "inside"}, "nesterov=True is nothing without momentum"),
        ("adam", {"nesterov": True}, "nesterov=True is nothing without momentum"),
        ("rprop", {"nesterov": True}, "nesterov=True is nothing without momentum"),
        ("adadelta", {"rho": 0.5, "halflife": 14.0}, "rho=0.5 and halflife=14.0 say the same"),
        ("rmsprop", {"alpha": 0.5, "halflife": 14.0, "eps_inside": False}, "alpha=0.5 and halflife=14.0 say the same"),
        ("adam", {"betas": (0.5, 0.5), "beta1_halflife": 7.0}, "betas=.* and beta1_halflife=7.0 say the same"),
        ("adamw", {"betas": (0.5, 0.5), "beta2_halflife": 7.0}, "betas=.* and beta2_halflife=7.0 say the same"),
        (
            "sgd",
            {"preset": "halcon", "weight_prior": 1e-3, "weight_decay": 2e-3},
            "weight_decay=0.002 and weight_prior",
        ),
        ("sgd", {"momentum": 0.9, "momentum_time_constant": 100.0}, "momentum=0.9 and momentum_time_constant=100.0"),
        ("sgd", {"weight_decay": 0.1, "weight_decay_per_sample": 0.1}, "weight_decay=0.1 and weight_decay_per_sample"),
        (
            "sgd",
            {"schedules": {"momentum": abs}, "momentum_time_constant": 1.0},
            "a schedule of momentum and momentum_t",
        ),
    ],
)
def test_what_is_unknown_is_refused_with_the_nearest_name(name, options, message):
    with pytest.raises(ValueError, match=message):
        optimizer(name, model(), **options)


def test_options_that_are_given_win_over_those_of_the_preset_that_say_the_same():
    adam = optimizer("adam", model(), preset="theanets", betas=(0.5, 0.25))
    assert adam.param_groups[0]["betas"] == (0.5, 0.25)
    assert optimizer("adadelta", model(), preset="theanets", rho=0.5).param_groups[0]["rho"] == 0.5
    half = optimizer("adadelta", model(), preset="cntk", halflife=1.0)
    assert half.param_groups[0]["rho"] == pytest.approx(0.5)


def test_nesterov_gives_momentum_only_to_groups_that_have_it():
    net = model()
    made = optimizer("sgd", net, Rule("0.*", momentum=0.5), lr=0.1, nesterov=True)
    assert type(made) is torch.optim.SGD
    found = {id(p): group["momentum"] for group in made.param_groups for p in group["params"]}
    assert {name: found[id(p)] for name, p in net.named_parameters()} == {
        name: 0.5 if name.startswith("0.") else 0.0 for name, _ in net.named_parameters()
    }
    for given in ({"schedules": {"momentum": lambda t: 0.3}}, {"momentum_time_constant": -32 / math.log(0.3)}):
        for parameters in (net, net.parameters()):
            moving = optimizer("sgd", parameters, lr=0.1, nesterov=True, **given)
            assert moving.param_groups[0]["momentum"] == 0.0
            set_rates([moving], [None], 0, 32)
            assert [group["momentum"] for group in moving.param_groups] == [pytest.approx(0.3)]


def test_a_schedule_of_momentum_needs_no_momentum_besides():
    made = optimizer("adam", model(), momentum=0.0, schedules={"momentum": lambda t: 0.3})
    set_rates([made], [None], 0, 32)
    assert [group["momentum"] for group in made.param_groups] == [0.3]


def test_rules_win_over_what_is_worked_out_for_all_groups():
    net = model()
    made = optimizer(
        "sgd", net, Rule("*.bias", weight_decay=0.0, vectors=True), Rule("2.*", momentum=0.5),
        preset="cntk", lr=0.1, momentum_time_constant=-64 / math.log(0.9), weight_decay_per_sample=1e-3,
        decay_vectors=True,
    )  # fmt: skip
    set_rates([made], [None], 0, 64)
    found = {id(p): (g["momentum"], g["weight_decay"]) for g in made.param_groups for p in g["params"]}
    momenta, decays = ({name: found[id(p)][i] for name, p in net.named_parameters()} for i in (0, 1))
    assert decays == {n: 0.0 if n.endswith("bias") else pytest.approx(0.064) for n in decays}
    assert momenta == {n: 0.5 if n.startswith("2.") else pytest.approx(0.9) for n in momenta}


def test_a_group_of_the_users_wins_over_what_is_worked_out_for_all():
    weight, bias = model()[0].parameters()
    made = optimizer(
        "sgd", [{"params": [weight], "momentum": 0.5}, {"params": [bias]}], lr=0.1, momentum_time_constant=100.0
    )
    set_rates([made], [None], 0, 64)
    assert [group["momentum"] for group in made.param_groups] == [0.5, math.exp(-0.64)]
    with pytest.raises(ValueError, match=r"momentum=0\.5 and momentum_time_constant"):
        optimizer("sgd", [{"params": [weight], "momentum": 0.5, "momentum_time_constant": 1.0}], lr=0.1, rate_per=1)


def test_rules_without_names_and_entries_that_nobody_reads_are_refused():
    net = model()
    with pytest.raises(ValueError, match="rules need the model"):
        optimizer("sgd", net.parameters(), Rule("*.bias", rate=2.0))
    with pytest.raises(ValueError, match="entry 'nestrov', which SGD does not know: did you mean 'nesterov'"):
        optimizer("sgd", net, Rule("*.bias", entries={"nestrov": True}), lr=0.1)
    with pytest.raises(ValueError, match="entry 'momentum', which Adamax does not know"):
        optimizer("adamax", net, Rule("*.bias", momentum=0.5), lr=0.1)


@pytest.mark.parametrize(("name", "rate"), [("adadelta", 1.0), ("rprop", 0.01), ("adam", 0.001)])
def test_a_rule_multiplies_the_rate_of_the_class_also_with_momentum_on_top(name, rate):
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    made = optimizer(name, model, Rule("0.*", rate=2.0), momentum=0.9)
    assert [group["lr"] for group in made.param_groups] == [2 * rate, rate]
