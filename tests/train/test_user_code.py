"""Recipes outside the package: found by file or module, read anew, digested, and named in errors."""

import shutil
import sys
from pathlib import Path

import pytest

from minibatch.train import recipes, user_code
from tests.train import tiny_recipe

HERE = Path(tiny_recipe.__file__)


@pytest.fixture
def file(tmp_path, monkeypatch):
    """A copy of the tiny recipe in a folder of its own; what importing it adds to Python's path is taken back."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    return Path(shutil.copy(HERE, tmp_path / "mine.py"))


def test_a_file_is_found_from_anywhere_and_read_anew_each_time(file, monkeypatch):
    monkeypatch.chdir(file.parent)
    function, saved, digest = user_code.load("mine.py:tiny")
    assert saved == f"{file}:tiny"
    assert function().recipe == ""
    assert user_code.load(f"{file}:tiny")[2] == digest
    file.write_text(file.read_text().replace("rate: float = 0.05", "rate: float = 0.25"))
    changed, _, other = user_code.load("mine.py:tiny")
    assert other != digest
    assert recipes.configure("mine.py:tiny", {}).options["rate"] == 0.25
    assert changed.__module__ == "recipe_mine"


def test_a_module_is_found_in_the_working_directory(file, monkeypatch):
    name = "recipe_of_this_test"
    file.rename(file.with_name(f"{name}.py"))
    monkeypatch.chdir(file.parent)
    try:
        function, saved, digest = user_code.load(f"{name}:tiny")
        assert (saved, function.__module__) == (f"{name}:tiny", name)
        assert digest is not None
    finally:
        sys.modules.pop(name, None)


def test_what_lies_beside_the_file_can_be_imported(file):
    (file.parent / "beside_the_recipe.py").write_text("from tests.train.tiny_recipe import tiny as other\n")
    file.write_text(
        "from beside_the_recipe import other\n\n\ndef mine(*, seed: int = 8):\n    return other(seed=seed)\n"
    )
    try:
        assert recipes.configure(f"{file}:mine", {}).seed == 8
    finally:
        sys.modules.pop("beside_the_recipe", None)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("{file}:tinny", r"mine.py has no function 'tinny'; did you mean tiny\? It has tiny, make_model"),
        ("{folder}/other.py:tiny", "there is no file"),
        ("nowhere_at_all:tiny", "there is no module 'nowhere_at_all' on Python's path or in"),
        ("{file}:", "expected module:function or path/to/file.py:function"),
        (":tiny", "expected module:function or path/to/file.py:function"),
    ],
)
def test_what_is_not_there_is_told_by_name(file, place, message):
    with pytest.raises(ValueError, match=message):
        user_code.load(place.format(file=file, folder=file.parent))


def test_an_error_in_the_recipe_says_where_in_the_file_it_was_raised(file):
    lines = file.read_text().splitlines()
    at = next(number for number, line in enumerate(lines) if "return RunConfig(" in line)
    lines[at] = "    1 / 0; " + lines[at].strip()
    file.write_text("\n".join(lines))
    with pytest.raises(ZeroDivisionError) as caught:
        recipes.configure(f"{file}:tiny", {})
    (note,) = caught.value.__notes__
    assert note.startswith(f"raised at {file}:{at + 1}, in tiny: `1 / 0; return RunConfig(")


def test_an_error_while_the_file_is_read_says_where_and_leaves_nothing_behind(file):
    file.write_text("import json\n\njson.loads('{')\n")
    before = dict(sys.modules)
    with pytest.raises(ValueError, match="Expecting property name") as caught:
        user_code.load(f"{file}:tiny")
    assert caught.value.__notes__ == [f"raised at {file}:3, in <module>: `json.loads('{{')`"]
    assert sys.modules == before
    file.write_text("def broken(:\n")
    with pytest.raises(SyntaxError):
        user_code.load(f"{file}:broken")


def test_a_module_that_is_missing_inside_the_recipe_is_its_own_error(file):
    file.write_text("import nothing_of_this_name\n")
    with pytest.raises(ModuleNotFoundError, match="nothing_of_this_name") as caught:
        user_code.load(f"{file}:tiny")
    assert f"{file}:1" in caught.value.__notes__[0]


def test_the_innermost_line_outside_the_package_is_named():
    def line_of_the_user():
        recipes.find("digist")

    with pytest.raises(ValueError, match="no recipe") as caught, user_code.places_noted():
        line_of_the_user()
    (note,) = caught.value.__notes__
    assert note.endswith('in line_of_the_user: `recipes.find("digist")`')
    with pytest.raises(ValueError, match="no recipe") as caught:
        recipes.configure("digist", {})
    assert not getattr(caught.value, "__notes__", ()), "nothing of the user's was running"


def test_a_recipe_must_return_a_configuration(file):
    file.write_text("def number(*, seed: int = 1):\n    return seed\n")
    with pytest.raises(TypeError, match="returned int, expected a RunConfig"):
        recipes.configure(f"{file}:number", {})
