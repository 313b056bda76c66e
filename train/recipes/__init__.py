"""Recipes: each a Python function that returns the complete configuration of a run, found here by name.

A recipe takes keyword arguments only, all with defaults, and puts them into the configuration as `options`: so that a
saved run says how to make it again.
"""

import difflib
import inspect
from collections.abc import Callable
from importlib import import_module
from typing import Any

from minibatch.train.config import RunConfig

Recipe = Callable[..., RunConfig]

# name: the file here that has a function of this name
RECIPES = {"digits": "digits"}


def find(name: str) -> Recipe:
    """The recipe called `name`; ValueError with the nearest names if there is none.

    >>> find("digist")
    Traceback (most recent call last):
    ValueError: there is no recipe 'digist'; did you mean digits? All recipes: digits
    """
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=3, cutoff=0.5)
        hint = f"; did you mean {' or '.join(near)}?" if near else ";"
        raise ValueError(f"there is no recipe {name!r}{hint} All recipes: {', '.join(sorted(RECIPES))}")
    recipe: Recipe = getattr(import_module(f"{__name__}.{RECIPES[name]}"), name)
    return recipe


def configure(name: str, options: dict[str, Any]) -> RunConfig:
    """The configuration that recipe `name` makes of `options`; ValueError with the nearest names for unknown ones.

    >>> configure("digits", {"seed": 3}).seed
    3
    """
    recipe = find(name)
    known = inspect.signature(recipe).parameters
    for option in options:
        if option not in known:
            near = difflib.get_close_matches(option, known, n=3, cutoff=0.5)
            hint = f"; did you mean {' or '.join(near)}?" if near else ";"
            raise ValueError(f"the recipe {name} has no option {option!r}{hint} It has {', '.join(known)}")
    return recipe(**options)
