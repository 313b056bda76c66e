"""The table of the recipes' data agrees with what the recipes document, and `converted` says what it says."""

import importlib
import re
from pathlib import Path

import pytest

from minibatch import DatasetWriter
from minibatch.train.config import Prepared
from minibatch.train.recipes import RECIPES, origins
from minibatch.train.recipes.converted import converted

COMMAND = re.compile(r"minibatch convert (\S+) data/(\S+)/(train|valid)(.*)")


def documented(name):
    """The conversions that the docstring of a recipe shows: (folder, part, options), its $VARIABLES filled in."""
    text = importlib.import_module(f"minibatch.train.recipes.{RECIPES[name]}").__doc__
    for variable, value in re.findall(r'^ +(\w+)="([^"]*)"$', text, re.MULTILINE):
        text = text.replace(f"${variable}", value)
    return [(folder, part, options.split()) for _, folder, part, options in COMMAND.findall(text)]


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_the_commands_of_the_docstring_are_those_of_the_table(name):
    used = origins.used_by(name)
    forms = [form for one in used.values() for form in one.forms]
    if forms:
        assert documented(name), "a recipe that needs converted data shows the commands"
    for _, part, options in documented(name):
        known = [form.part(part).options.split() for form in forms]
        assert options in known, f"{options} is none of {known}"


def test_a_data_set_is_named_alike_everywhere():
    for used in origins.USED.values():
        for name, one in used.items():
            assert origins.DATA_SETS[name] is one
            assert one.forms or not one.downloads
            assert all((one.page, one.licence, one.cite, one.by_hand))
    assert origins.used_by("nothing") == {}
    assert origins.ways("nothing") == []


def written(path):
    with DatasetWriter(path) as writer:
        writer.write({"x": [1.0, 2.0]})


def test_what_is_missing_is_named_with_the_commands(tmp_path):
    with pytest.raises(ValueError, match=r"the recipe multilabel needs .* and train and valid are not there") as caught:
        converted("multilabel", tmp_path)
    assert "- minibatch convert BCCD_Dataset data/bccd/train --subset trainval" in caught.value.__notes__
    written(tmp_path / "train")
    with pytest.raises(ValueError, match="and valid is not there"):
        converted("multilabel", tmp_path)
    with pytest.raises(ValueError, match=r"and valid is not there$"):
        converted("of my own", tmp_path)
    written(tmp_path / "valid")
    assert converted("multilabel", tmp_path) == Prepared(train=tmp_path / "train", valid=tmp_path / "valid")


def test_other_data_are_made_only_where_there_are_none(tmp_path):
    made = Prepared(train=Path("elsewhere"))
    assert converted("lenet", tmp_path, otherwise=lambda folder: made) is made
    written(tmp_path / "valid")
    with pytest.raises(ValueError, match="and train is not there"):
        converted("lenet", tmp_path, otherwise=lambda folder: made)
