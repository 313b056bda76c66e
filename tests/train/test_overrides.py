"""Changes by dotted path: through dataclasses, tuples, mappings, partials; typed, or refused with the nearest name."""

from dataclasses import dataclass, field
from functools import partial

import pytest

from minibatch.train.overrides import all_changed, changed, named
from minibatch.train.regularizers import WeightL2
from minibatch.train.schedules import Constant, Cosine
from tests.train.tiny_recipe import Net, make_model, tiny


@pytest.mark.parametrize(
    ("path", "text", "value"),
    [
        ("log_every", "7", 7),
        ("terms.class.coefficient", "0.5", 0.5),
        ("terms.0.coefficient", "0.5", 0.5),
        ("terms.-1.denominator", "count", "count"),
        ("terms.class.denominator", "3", 3.0),
        ("terms.class.loss.options.label_smoothing", "0", 0),
        ("schedules.0.then.rate", "0.01", 0.01),
        ("schedules.0", "Constant(0.25)", Constant(0.25)),
        ("schedules.0", "none", None),
        ("model.dropout", "0.4", 0.4),
        ("model.net.width", "8", 8),
        ("optimizers.momentum", "0.5", 0.5),
        ("clip_grad_norm", "none", None),
        ("save_every", "Minutes(5)", None),
        ("inputs", "y", "y"),
        ("threads", "none", None),
    ],
)
def test_what_stands_at_a_path_is_replaced_and_nothing_else(path, text, value):
    config = tiny()
    new = changed(config, path, text)
    if value is not None or text == "none":
        assert named(new, path) == value
    assert config == tiny() or named(config, path) == named(tiny(), path), "the first one is as it was"
    first = path.partition(".")[0]
    for name in config.__dataclass_fields__:
        if name != first and name not in ("model", "optimizers", "terms", "metrics"):
            assert getattr(new, name) == getattr(config, name)


@pytest.mark.parametrize(
    ("path", "text", "message"),
    [
        ("log_evry", "7", "RunConfig has no field 'log_evry'; did you mean log_every"),
        ("terms.clas.coefficient", "1", "no 'clas' among 1 elements; did you mean class"),
        ("terms.1.coefficient", "1", "there is no element 1 among 1"),
        ("terms.class.coeficient", "1", "Term has no field 'coeficient'; did you mean coefficient"),
        ("schedules.0.rate", "1", r"There is schedules.0.then.rate"),
        ("model.drop", "1", "make_model has no argument 'drop'; did you mean dropout"),
        ("model.net.widths", "1", "Net has no field 'widths'; did you mean width"),
        ("seed.x", "1", "3 of type int has no parts"),
        ("data.x", "1", "of a functools.partial the arguments can be set by name"),
        ("clip_grad_norm.x", "1", "clip_grad_norm is None here, so it has no parts"),
        ("microbatch_size.x", "1", "set it as a whole to an integer or none"),
        ("terms.class.loss.options.smoothing", "1", "no entry 'smoothing'; did you mean label_smoothing"),
        ("log_every", "often", "log_every: expected an integer, got 'often'"),
        ("log_every", "0", "log_every: log_every must be at least 1, got 0"),
        ("promise", "maths", "expected 'math'"),
        ("terms.class.coefficient", "nan", "terms.class.coefficient: term 'class': coefficient=nan"),
        ("model.net.activation", "gelu", "expected 'relu' or 'tanh', got 'gelu'"),
        ("schedules.0.samples", "ten", "schedules.0.samples: expected an integer"),
    ],
)
def test_unknown_names_and_wrong_values_are_refused_by_path(path, text, message):
    with pytest.raises(ValueError, match=message):
        changed(tiny(), path, text)


def test_arguments_given_by_position_can_be_changed_too():
    made = changed(partial(divmod_of, 7, by=2), "value", "9")
    assert made() == divmod(9, 2)
    assert changed(partial(divmod_of, 7), "by", "3")() == divmod(7, 3)


def divmod_of(value: int, by: int = 2) -> tuple[int, int]:
    return divmod(value, by)


def test_fields_that_are_not_arguments_cannot_be_set():
    @dataclass(frozen=True)
    class Derived:
        a: int
        b: int = field(init=False, default=3)

    with pytest.raises(ValueError, match="no field 'b'"):
        changed(Derived(1), "b", "4")


def test_lists_stay_lists_and_mappings_take_the_type_of_their_values():
    assert changed({"a": [1, 2]}, "a.1", "5", hint=dict[str, list[int]]) == {"a": [1, 5]}
    with pytest.raises(ValueError, match=r"a.1: expected an integer, got 'x'"):
        changed({"a": [1, 2]}, "a.1", "x", hint=dict[str, list[int]])


def test_values_of_their_own_are_checked_like_texts():
    assert changed(tiny(), "schedules.0", Cosine(1.0, samples=3)).schedules == (Cosine(1.0, samples=3),)
    with pytest.raises(ValueError, match=r"expected an integer, got 1\.5"):
        changed(tiny(), "log_every", 1.5)
    model = make_model(net=changed(Net(), "width", 2), widths=(), dropout=0.0, seed=1)
    assert next(model.parameters()).shape == (2, 6)


def test_changes_that_are_right_together_may_come_in_any_order():
    before = changed(tiny(), "validate_every", "none")
    for order in (("patience", "validate_every"), ("validate_every", "patience")):
        after = all_changed(before, {name: {"patience": "3", "validate_every": "9"}[name] for name in order})
        assert (after.patience, after.validate_every) == (3, 9)
    with pytest.raises(ValueError, match="patience: patience= needs validations"):
        all_changed(before, {"log_every": "3", "patience": "3"})


def test_one_value_stands_for_a_list_of_it():
    one = WeightL2(coefficient=0.1)
    config = all_changed(tiny(), {"regularizers": "WeightL2(coefficient=0.1)", "schedules": "Constant(0.25)"})
    assert (config.regularizers, config.schedules) == ((one,), (Constant(0.25),))
    assert changed(tiny(), "regularizers", one).regularizers == (one,)
    with pytest.raises(ValueError, match=r"regularizers: expected values .*, got Constant"):
        changed(tiny(), "regularizers", "Constant(0.25)")
