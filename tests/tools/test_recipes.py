"""`minibatch recipes`: all of them, with their data; and the documentation of one."""

import json

from minibatch.train.recipes import RECIPES
from tests.tools.samples import run


def test_all_recipes_are_listed_with_their_data():
    result = run("recipes")
    assert result.exit_code == 0, result.output
    for name in RECIPES:
        assert f"\n{name} " in f"\n{result.stdout}"
    for text in ("tinyshakespeare", "by hand only", "downloads them", "in scikit-learn"):
        assert text in " ".join(result.stdout.split())
    entries = {each["recipe"]: each for each in json.loads(run("recipes", "--json").stdout)}
    assert set(entries) == set(RECIPES)
    assert entries["cifar10_fast"]["data"] == ["cifar10"]
    assert entries["lenet"]["fetch"] == ["mnist", "fashion-mnist"]
    assert all(each["what"] and each["from"] for each in entries.values())


def test_one_recipe_is_documented_with_its_data():
    shown = run("recipes", "lenet").stdout
    assert shown.startswith("LeNet-5 as MindSpore's tutorial trains it")
    assert "    minibatch train lenet --out runs/lenet" in shown
    assert "--data fetch downloads MNIST" in shown
    assert "The data:" not in run("recipes", "demo").stdout
    assert json.loads(run("recipes", "lenet", "--json").stdout)["recipe"] == "lenet"


def test_an_unknown_name_is_an_error_with_the_nearest():
    result = run("recipes", "lenett")
    assert result.exit_code == 1
    assert "did you mean lenet?" in result.stderr


def test_a_recipe_of_ones_own_is_documented(tmp_path):
    (tmp_path / "mine.py").write_text(
        '"""All of mine."""\n'
        "from minibatch.train.recipes.digits import digits\n"
        "def first():\n    '''Digits, quickly.'''\n    return digits(max_samples=32)\n"
        "def second():\n    return digits(max_samples=64)\n"
    )
    for name, text in (("first", "Digits, quickly."), ("second", "All of mine.")):
        result = run("recipes", f"{tmp_path}/mine.py:{name}")
        assert (result.exit_code, result.stdout) == (0, f"{text}\n")
    assert json.loads(run("recipes", f"{tmp_path}/mine.py:first", "--json").stdout)["what"] == "Digits, quickly"
