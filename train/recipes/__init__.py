"""Recipes: each a Python function that returns the complete configuration of a run, found here by name.

A recipe takes keyword arguments only, all with defaults: its options. `configure` calls it with some of them, changes
what else is to be changed in the configuration it returns, and writes into it how it was made, so that a saved run says
how to make it again. A recipe of your own is named `module:function` or `path/to/file.py:function`.

Numbers under "Expected" are of the last weights, but in `charlm`, which keeps those of its best validation. A recipe's
options were chosen by runs measured on the same held-out data, which are the test data of their source where it has
some: so the numbers may be a little better than those on data that nobody has looked at.
"""

from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from inspect import Parameter
from typing import Any, Protocol

from minibatch.train import overrides, typed_values, user_code
from minibatch.train.config import RunConfig, described
from minibatch.train.named_calls import arguments_of, nearest


class Recipe(Protocol):
    """A function of keyword arguments with defaults that returns a configuration."""

    def __call__(self, **options: Any) -> RunConfig: ...


# name: the file here that has a function of this name
RECIPES = {
    "autoencoder": "autoencoder",
    "charlm": "charlm",
    "cifar10": "cifar10",
    "cifar10_fast": "cifar10_fast",
    "demo": "demo",
    "detection": "detection",
    "digits": "digits",
    "digits_autoencoder": "digits_autoencoder",
    "digits_few_labels": "digits_autoencoder",
    "g2p": "g2p",
    "imagenet": "imagenet",
    "joint": "joint",
    "lenet": "lenet",
    "multilabel": "multilabel",
    "multitask": "multitask",
    "step_by_step": "step_by_step",
    "transfer": "transfer",
    "transfer_base": "transfer",
    "weighted": "weighted",
}


def find(name: str) -> Recipe:
    """The recipe called `name`; ValueError with the nearest names if there is none.

    >>> find("digist")
    Traceback (most recent call last):
    ValueError: there is no recipe 'digist'; did you mean digits? All recipes: ...
    """
    return _found(name)[0]


def same(one: str, other: str) -> bool:
    """Whether two names of recipes mean the same function: files by their whole path.

    >>> same("digits", "digits"), same("a.py:f", "./a.py:f"), same("a.py:f", "a.py:g")
    (True, True, False)
    """
    return _whole(one) == _whole(other)


def configure(name: str, changes: Mapping[str, Any]) -> RunConfig:
    """The configuration that recipe `name` makes, with `changes`: options of the recipe, or dotted paths.

    A first name that is an option of the recipe goes to the recipe (`learning_rate`, or `network.depth` inside an
    option), any other into the configuration that it returns (`log_every`, `terms.class.coefficient`); values are
    texts, or values of their own, checked against annotations: see `overrides`. The result has `recipe`, all `options`
    and the changes as `set`. Raises ValueError with the nearest names for what is not there.

    >>> config = configure("demo", {"seed": 3, "schedules.0.then.last": "0.01"})
    >>> config.seed, config.schedules[0].then.last, config.set
    (3, 0.01, {'seed': 3, 'schedules.0.then.last': 0.01})
    """
    recipe, saved_name, digest = _found(name)
    known, others = arguments_of(recipe)
    options = {option: default for option, (_, default) in known.items() if default is not Parameter.empty}
    later = {}
    for path, value in changes.items():
        first, _, rest = path.partition(".")
        if first in known:
            hint = known[first][0]
            if not rest:
                options[first] = typed_values.converted(value, hint, f"option {first} of the recipe {name}")
            elif first in options:
                options[first] = overrides.changed(options[first], rest, value, hint=hint, full=path)
            else:
                raise ValueError(f"{path}: the recipe {name} has no default for {first}, so set it as a whole first")
        elif others and not rest and first not in RunConfig.__dataclass_fields__:
            options[first] = typed_values.converted(value, Any, first)
        else:
            later[path] = value
    fields = [field for field in RunConfig.__dataclass_fields__ if field not in MADE_HERE]
    for path in later:
        first = path.partition(".")[0]
        if first not in fields:
            near = nearest(first, [*known, *(field for field in fields if field not in known)])
            raise ValueError(f"the recipe {name} has no option {path!r}{near}")
    with user_code.places_noted():
        config = recipe(**options)
    if not isinstance(config, RunConfig):
        raise TypeError(f"the recipe {name} returned {type(config).__name__}, expected a RunConfig")
    plain: dict[str, Any] = {path: described(value) for path, value in changes.items() if path not in later}
    config = overrides.all_changed(config, later)
    assert isinstance(config, RunConfig)
    for path, value in later.items():
        plain[path] = _written(overrides.named(config, path), value)
    for path in plain:
        if path in options:
            plain[path] = _written(options[path], changes[path])
    return replace(
        config, recipe=saved_name, recipe_digest=digest, options=options, set={path: plain[path] for path in changes}
    )


# Fields of the configuration that `configure` fills in.
MADE_HERE = ("recipe", "recipe_digest", "options", "set")


def _found(name: str) -> tuple[Recipe, str, str | None]:
    """The function of a recipe, its name as it is saved, and the digest of its file unless that is ours."""
    if name in RECIPES:
        recipe: Recipe = getattr(import_module(f"{__name__}.{RECIPES[name]}"), name)
        return recipe, name, None
    if ":" in name:
        return user_code.load(name)
    near = nearest(name, sorted(RECIPES), title="all recipes:")
    raise ValueError(f"there is no recipe {name!r}{near.replace('; all', '; All')}")


def _whole(name: str) -> str:
    file, colon, function = name.rpartition(":")
    return f"{user_code.whole_path(file)}{colon}{function}" if file.endswith(".py") else name


def _written(value: Any, given: Any) -> Any:
    """A change for config.json: what it became where that is plain, else the text that was given."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return given if isinstance(given, str) else described(value)
