"""The recipe of `make demo` reaches what its docstring says."""

from minibatch.train.recipes.demo import demo
from minibatch.train.running import run_recipe


def test_it_reaches_97_percent_of_the_held_out_digits(tmp_path):
    outcome = run_recipe("demo", tmp_path, options={}, say=lambda text: None)
    assert outcome.validation["accuracy"] >= 0.97
    assert outcome.nominal_time == demo().max_samples
