"""Recipes called with changes: options of the recipe, paths in what it returns, and both written down."""

import dataclasses

import pytest

from minibatch.train import recipes
from minibatch.train.config import RunConfig, described
from minibatch.train.recipes import configure
from minibatch.train.schedules import Constant
from tests.train import tiny_recipe

TINY = "tests.train.tiny_recipe:tiny"


def test_options_go_to_the_recipe_and_paths_into_its_configuration():
    config = configure(TINY, {"rate": "0.5", "net.width": "8", "widths": "4,3", "log_every": "7", "model.dropout": "0"})
    assert config.options == {
        "seed": 3, "rate": 0.5, "net": tiny_recipe.Net(width=8), "widths": (4, 3), "note": None, "minibatch_size": 9,
        "max_samples": 106,
    }  # fmt: skip
    assert config.optimizers.keywords == {"rate": 0.5}
    assert config.schedules[0].then.rate == 0.5, "what the recipe makes of its option"
    assert config.model.keywords == {"net": tiny_recipe.Net(width=8), "widths": (4, 3), "dropout": 0.0}
    assert config.log_every == 7
    assert config.set == {
        "rate": 0.5, "net.width": "8", "widths": "4,3", "log_every": 7, "model.dropout": 0.0,
    }  # fmt: skip
    assert config.recipe == TINY
    assert config.recipe_digest is not None


def test_changes_may_be_values_of_their_own():
    config = configure(
        TINY, {"rate": 0.5, "widths": [4], "schedules.0": Constant(0.5), "net": tiny_recipe.Net(width=2)}
    )
    assert config.options["widths"] == (4,)
    assert config.schedules == (Constant(0.5),)
    assert described(config.set)["schedules.0"]["kind"].endswith(":Constant")


def test_a_configuration_is_made_again_of_what_it_says():
    config = configure(TINY, {"net": "tests.train.tiny_recipe:Net(width=3)", "schedules.0": "Constant(0.25)"})
    document = described(config)
    again = configure(document["recipe"], {**document["options"], "schedules.0": document["set"]["schedules.0"]})
    assert described(dataclasses.replace(again, set=config.set)) == document


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rat": "1"}, r"recipe .*tiny has no option 'rat'; did you mean rate"),
        ({"log_evry": "1"}, "has no option 'log_evry'; did you mean log_every"),
        ({"rate": "fast"}, "option rate of the recipe .*: expected a number, got 'fast'"),
        ({"net.widht": "1"}, "net.widht: Net has no field 'widht'; did you mean width"),
        ({"net": "wide"}, "expected Net"),
        ({"note.x": "1"}, "note.x: it is none, so it has no parts"),
        ({"widths": "1,x"}, "widths.*: expected an integer, got 'x'"),
        ({"recipe": "x"}, "has no option 'recipe'"),
        ({"options.rate": "1"}, "has no option 'options.rate'"),
        ({"minibatch_size": "0"}, "minibatch_size must be at least 1, got 0"),
        ({"log_every": "0"}, "log_every must be at least 1, got 0"),
    ],
)
def test_what_is_not_there_or_does_not_fit_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        configure(TINY, changes)


def test_a_field_that_is_an_option_too_is_set_by_the_recipe():
    config = configure("demo", {"max_samples": "5000"})
    assert config.max_samples == 5000
    assert config.schedules[0].then.samples == 5000


def test_two_names_of_one_recipe_are_the_same(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert recipes.same("a.py:f", f"{tmp_path}/b/../a.py:f")
    assert not recipes.same("a.py:f", "b.py:f")
    assert not recipes.same("digits", "digits.py:digits")


def test_every_field_of_the_configuration_says_its_type():
    from minibatch.train.named_calls import annotations_of

    assert set(annotations_of(RunConfig)) == {field.name for field in dataclasses.fields(RunConfig)}
