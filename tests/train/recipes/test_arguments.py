"""Options that make no sense are refused by name when a recipe is configured, not in the middle of a run."""

import pytest

from minibatch.train import recipes

REFUSED = [
    ("cifar10", "minibatch_size", 0, "at least 1"),
    ("cifar10", "max_samples", 2, "at least 3"),
    ("cifar10", "color_noise", float("nan"), ">= 0"),
    ("cifar10_fast", "label_smoothing", -1.0, ">= 0 and <= 1"),
    ("cifar10_fast", "bias_rate", 0.0, "> 0"),
    ("charlm", "temperature", float("nan"), "> 0"),
    ("charlm", "top_k", 0, "at least 1"),
    ("charlm", "texts", -1, "at least 0"),
    ("charlm", "characters", 0, "at least 1"),
    ("detection", "batch_size_multiplier", 0, "at least 1"),
    ("detection", "gamma", -1.0, ">= 0"),
    ("digits", "shift", -1, "at least 0"),
    ("imagenet", "minibatch_size", 0, "at least 1"),
    ("multitask", "missing", 2.0, ">= 0 and <= 1"),
]


@pytest.mark.parametrize(("recipe", "option", "value", "expected"), REFUSED)
def test_an_option_that_makes_no_sense_is_named(recipe, option, value, expected):
    with pytest.raises(ValueError, match=f"(?i){option if option != 'shift' else 'pixels'} must be .*{expected}"):
        recipes.configure(recipe, {option: value})
