"""Functions and classes by name, for values written as `Name(...)`: where they are, which arguments they take."""

import dataclasses
import difflib
import functools
import importlib
import inspect
import sys
import types
import typing
from collections.abc import Callable, Iterable, Iterator
from typing import Any

# Where a Name in `Name(...)` is looked for, first found first taken; files that are not there are left out.
NAMES = (
    "minibatch.train.schedules",
    "minibatch.train.every",
    "minibatch.train.regularizers",
    "minibatch.train.clipping",
    "minibatch.train.averaging",
    "minibatch.train.spikes",
    "minibatch.train.optimizers",
    "minibatch.train.losses",
    "minibatch.train.metrics",
    "minibatch.train.terms",
    "minibatch.transforms",
)


def found_by_name(name: str, hint: Any) -> Callable[..., Any] | None:
    """The class or function of that name in `NAMES`, or `file.Name` for that of one file of them; if several have the
    name, the one that `hint` asks for."""
    file, _, last = name.rpartition(".")
    several = []
    for module in _modules():
        if not file or module.__name__.endswith(f".{file}"):
            one = vars(module).get(last)
            if callable(one) and not last.startswith("_"):
                several.append(one)
    classes = classes_in(hint)
    return next((found for found in several if found in classes), several[0] if several else None)


def known_values() -> list[str]:
    """The names of the frozen values in `NAMES`: schedules, regularizers, transforms and so on."""
    names = {
        name
        for module in _modules()
        for name, value in vars(module).items()
        if name[:1].isupper() and dataclasses.is_dataclass(value) and not inspect.isabstract(value)
    }
    return sorted(names)


def imported(place: str, where: str) -> Any:
    """What stands at "module:name"."""
    module, _, name = place.partition(":")
    try:
        found: Any = sys.modules.get(module) or importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{where}: there is no {place}: {error}") from None
    return found


def arguments_of(function: Callable[..., Any]) -> tuple[dict[str, tuple[Any, Any]], bool]:
    """Of every argument that can be given by name: (annotation, default); and whether any other name is taken too.

    Without an annotation the type of the default counts.

    >>> def recipe(*, rate: float = 0.1, layers=3): ...
    >>> arguments_of(recipe)[0]
    {'rate': (<class 'float'>, 0.1), 'layers': (<class 'int'>, 3)}
    """
    try:
        parameters = [*inspect.signature(function).parameters.values()]
    except (TypeError, ValueError):  # functions written in C need not have one
        return {}, True
    hints = annotations_of(function)
    found = {}
    for parameter in parameters:
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            default = parameter.default
            plain = type(default) if isinstance(default, bool | int | float | str) else Any
            found[parameter.name] = (hints.get(parameter.name, plain), default)
    return found, any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)


def annotations_of(target: Any) -> dict[str, Any]:
    """The annotations of a function, or of the fields of a class, evaluated; what cannot be evaluated is left out."""
    while isinstance(target, functools.partial):
        target = target.func
    if not isinstance(target, type) and not inspect.isroutine(target):
        target = type(target).__call__
    found: dict[str, Any] = {}
    for one in (target, getattr(target, "__init__", None)) if isinstance(target, type) else (target,):
        try:
            found = {**typing.get_type_hints(one), **found}
        except Exception:  # an annotation that only type checkers can see
            plain = getattr(one, "__annotations__", {})
            found = {**{name: hint for name, hint in plain.items() if not isinstance(hint, str)}, **found}
    found.pop("return", None)
    return found


def nearest(name: str, known: Iterable[Any], *, title: str = "it has") -> str:
    """The end of an error about the unknown `name`: the nearest names, and all of them.

    >>> nearest("rat", ["rate", "samples"])
    '; did you mean rate? It has rate, samples'
    """
    names = [str(one) for one in known]
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    hint = f"; did you mean {' or '.join(close)}? {title[:1].upper()}{title[1:]}" if close else f"; {title}"
    return f"{hint} {', '.join(names) if names else 'none'}"


def classes_in(hint: Any) -> set[Any]:
    """The classes that an annotation names, inside unions and collections too."""
    inner = [kind for one in typing.get_args(hint) if one is not ... for kind in classes_in(one)]
    return {hint, *inner} if isinstance(hint, type) else {*inner}


def _modules() -> Iterator[types.ModuleType]:
    for name in NAMES:
        try:
            yield importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name:
                raise
