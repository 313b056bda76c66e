"""Parameter groups by patterns: who gets what, in which order rules count, what is frozen, and the table of it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from minibatch.train.groups import Rule, groups, parameter_table


def model():
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def by_name(net, found):
    owner = {id(p): group for group in found for p in group["params"]}
    return {name: owner.get(id(p)) for name, p in net.named_parameters()}


def test_decay_is_for_parameters_of_two_or_more_axes():
    net = model()
    decay = {name: group["weight_decay"] for name, group in by_name(net, groups(net, weight_decay=0.1)).items()}
    assert decay == {
        "0.weight": 0.1, "0.bias": 0.0, "1.weight": 0.0, "1.bias": 0.0, "2.weight": 0.1, "2.bias": 0.0,
    }  # fmt: skip
    assert [group["weight_decay"] for group in groups(net, weight_decay=0.1, decay_vectors=True)] == [0.1]


def test_decay_given_to_the_optimizer_leaves_vectors_alone_too():
    net = model()
    made = torch.optim.AdamW(groups(net), weight_decay=0.1)
    assert {group["params"][0].ndim: group["weight_decay"] for group in made.param_groups} == {2: 0.1, 1: 0.0}


def test_a_rule_with_decay_spares_vectors_unless_it_says_so():
    net = model()
    found = by_name(net, groups(net, Rule("0.*", weight_decay=0.3)))
    assert found["0.weight"]["weight_decay"] == 0.3
    assert found["0.bias"]["weight_decay"] == 0.0
    assert by_name(net, groups(net, Rule("0.*", weight_decay=0.3, vectors=True)))["0.bias"]["weight_decay"] == 0.3


def test_later_rules_win_entry_by_entry():
    net = model()
    rules = Rule("*", rate=2.0, momentum=0.5), Rule("0.*", rate=3.0), Rule("*.bias", momentum=0.9)
    found = by_name(net, groups(net, *rules, lr=0.1))
    assert [(found[n]["lr_scale"], found[n]["momentum"]) for n in ("0.weight", "0.bias", "2.weight", "2.bias")] == [
        (3.0, 0.5), (3.0, 0.9), (2.0, 0.5), (2.0, 0.9),
    ]  # fmt: skip
    assert found["0.weight"]["lr"] == pytest.approx(0.3)


def test_frozen_parameters_are_in_no_group_and_get_no_gradient():
    net = model()
    found = groups(net, Rule("0.*", freeze=True), Rule("1.*", rate=0.0), Rule("0.bias", freeze=False), lr=0.1)
    assert [name for name, group in by_name(net, found).items() if group] == ["0.bias", "2.weight", "2.bias"]
    assert [p.requires_grad for p in net.parameters()] == [False, True, False, False, True, True]


def test_own_schedules_are_joined_and_decay_spares_vectors():
    net = model()
    first, second = (lambda t: 1.0), (lambda t: 2.0)
    found = by_name(net, groups(net, Rule("*", schedules={"weight_decay": first, "lr": first}),
                                Rule("2.*", schedules={"lr": second}), lr=0.1))  # fmt: skip
    assert found["2.weight"]["schedules"] == {"weight_decay": first, "lr": second}
    assert found["0.bias"]["schedules"] == {"lr": first}


def test_decay_by_schedule_or_per_sample_for_all_spares_vectors_too():
    net = model()
    found = by_name(net, groups(net, schedules={"weight_decay": abs}, weight_decay_per_sample=0.1))
    assert found["0.weight"] | {"params": 0} == {
        "params": 0, "schedules": {"weight_decay": abs}, "weight_decay_per_sample": 0.1,
    }  # fmt: skip
    assert found["0.bias"] | {"params": 0} == {"params": 0, "weight_decay": 0.0, "weight_decay_per_sample": 0.0}


def test_groups_share_nothing_that_one_could_change_for_all():
    net = model()
    found = groups(net, schedules={"lr": abs}, weight_decay=0.1)
    found[0]["schedules"]["momentum"] = abs
    assert found[1]["schedules"] == {"lr": abs}


def test_names_and_parameters_can_be_given_in_place_of_a_model():
    net = model()
    pairs = [(f"encoder.{name}", p) for name, p in net[0].named_parameters()]
    found = groups(pairs, Rule("encoder.bias", rate=2.0), lr=1.0)
    assert [len(group["params"]) for group in found] == [1, 1]


@settings(max_examples=60, deadline=None)
@given(
    rules=st.lists(
        st.builds(
            Rule,
            st.sampled_from(["*", "0.*", "*.bias", "2.weight", "1.*"]),
            rate=st.sampled_from([None, 0.5, 2.0]),
            weight_decay=st.sampled_from([None, 0.0, 0.1]),
            momentum=st.sampled_from([None, 0.3]),
            vectors=st.booleans(),
        ),
        max_size=4,
    ),
    decay=st.sampled_from([0.0, 0.2]),
    vectors=st.booleans(),
)
def test_every_parameter_gets_what_going_through_the_rules_one_by_one_gives(rules, decay, vectors):
    net = model()
    found = groups(net, *rules, decay_vectors=vectors, lr=0.1, weight_decay=decay)
    assert sorted(id(p) for g in found for p in g["params"]) == sorted(map(id, net.parameters()))
    for name, group in by_name(net, found).items():
        matrix = net.get_parameter(name).ndim > 1
        expected = {"lr": 0.1, "weight_decay": decay if matrix or vectors else 0.0}
        for rule in rules:
            if rule.matches(name):
                if rule.rate is not None:
                    expected |= {"lr": 0.1 * rule.rate, "lr_scale": rule.rate}
                if rule.weight_decay is not None and (matrix or rule.vectors):
                    expected["weight_decay"] = rule.weight_decay
                if rule.momentum is not None:
                    expected["momentum"] = rule.momentum
        assert {k: v for k, v in group.items() if k != "params"} == expected
    keys = [repr(sorted((k, v) for k, v in group.items() if k != "params")) for group in found]
    assert len(set(keys)) == len(keys)  # equal parameters share a group


@pytest.mark.parametrize(("name", "constant"), [("momentum", "momentum_time_constant"),
                                                ("weight_decay", "weight_decay_per_sample")])  # fmt: skip
def test_of_a_number_its_schedule_and_what_it_is_worked_out_from_the_last_one_given_holds(name, constant):
    ways = {
        "number": (Rule("0.weight", **{name: 0.25}), {name: 0.25}),
        "schedule": (Rule("0.weight", schedules={name: abs}), {"schedules": {name: abs}}),
        "constant": (Rule("0.weight", entries={constant: 100.0}), {constant: 100.0}),
    }
    net = model()
    for first, (before, _) in ways.items():
        for last, (rule, expected) in ways.items():
            found = by_name(net, groups(net, before, rule, decay_vectors=True))["0.weight"]
            ours = {key: value for key, value in found.items() if key in (name, constant, "schedules")}
            if last != "number":
                ours.pop(name, None)  # beside a schedule or a constant it is only what the group begins with
            assert ours == expected, (first, last)
    for one, (_, theirs) in ways.items():
        if one != "number":
            found = by_name(net, groups(net, ways["number"][0], decay_vectors=True, **theirs))
            assert {key: value for key, value in found["0.weight"].items() if key != "params"} == {name: 0.25}
            assert theirs.items() <= found["2.weight"].items()


@pytest.mark.parametrize(
    ("rules", "options", "message"),
    [
        ([Rule("*", schedules={"lr": abs}), Rule("*.bias", rate=2.0)], {"lr": 0.1}, r"'\*.bias' scales the rate, for"),
        ([Rule("0.wieght")], {}, "the rule for '0.wieght' matches none of the 6 parameters: .*0.weight"),
        ([Rule("0.*", rate=2.0)], {}, "scales the rate: give groups the rate without a schedule, as lr="),
        ([Rule("*", freeze=True)], {}, "none of the 6 parameters is trainable"),
    ],
)
def test_rules_that_cannot_be_meant_are_refused(rules, options, message):
    with pytest.raises(ValueError, match=message):
        groups(model(), *rules, **options)


@pytest.mark.parametrize(
    "options",
    [{"rate": -1.0}, {"weight_decay": float("nan")}, {"momentum": "much"}, {"rate": 2.0, "schedules": {"lr": abs}},
     {"entries": {"momentum": 0.5}}, {"momentum": 0.5, "schedules": {"momentum": abs}},
     {"momentum": 0.5, "entries": {"momentum_time_constant": 9.0}},
     {"weight_decay": 0.5, "entries": {"weight_decay_per_sample": 9.0}},
     {"schedules": {"weight_decay": abs}, "entries": {"weight_decay_per_sample": 9.0}}],
)  # fmt: skip
def test_impossible_rules_are_refused(options):
    with pytest.raises(ValueError, match=r"Rule\('a\*'\)"):
        Rule("a*", **options)


def test_the_table_says_which_parameter_got_what():
    net = model()
    net[1].requires_grad_(False)
    left = torch.optim.SGD(groups(net[0], Rule("bias", rate=2.0), lr=0.1), momentum=0.9)
    lines = parameter_table(net, left).splitlines()
    assert lines[0].split() == ["parameter", "shape", "lr", "lr_scale", "momentum", "weight_decay"]
    assert lines[2].split() == ["0.bias", "4", "0.2", "2.0", "0.9", "0.0"]
    assert lines[3].split() == ["1.weight", "4", "frozen"]
    assert lines[5].split() == ["2.weight", "2×4", "no", "optimizer"]
    both = parameter_table(net, [left, torch.optim.Adam(net[2].parameters(), lr=0.5)])
    assert "no optimizer" not in both
    assert "betas" in both
