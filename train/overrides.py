"""Changes to a configuration by dotted path, as `--set terms.class.coefficient=0.5` gives them.

A path goes through frozen dataclasses by field, through tuples by number or by the name of an element, through mappings
by key, through `functools.partial` by argument; nothing is changed in place. What stands at its end is made by
`typed_values.converted` from the annotation of the field. Unknown names are refused with the nearest ones.

Why not tyro (1.0 of 2025 was tried on paper), jsonargparse or Hydra: they build a parser from static types before the
value exists. Here the value comes first (a recipe has returned it), its interesting parts hang in `Sequence[Term]` and
`Callable` fields whose static types say nothing of the fields below, and elements are found by name. What remains for a
library is turning a text into an annotated type, which is the smaller half.
"""

import dataclasses
import functools
import inspect
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from minibatch.train.named_calls import annotations_of, arguments_of, nearest
from minibatch.train.typed_values import converted, in_words

DEPTH = 4  # how far below a mistaken name the same name is looked for


def changed(value: Any, path: str, to: Any, *, hint: Any = Any, full: str | None = None) -> Any:
    """`value` with what stands at the dotted `path` replaced by `to`: a text as typed, or a value; both are checked.

    hint: the annotation of `value`. Raises ValueError naming the path: for a name that is not there, for a text that
    does not fit the annotation, and for what the changed value itself refuses.

    >>> from minibatch.train.schedules import Cosine, Warmup
    >>> changed((Warmup(samples=10, then=Cosine(0.1, samples=100)),), "0.then.rate", "0.05")[0].then.rate
    0.05
    """
    full = path if full is None else full
    if not path:
        return converted(to, hint, full)
    name, _, rest = path.partition(".")
    where = full[: len(full) - len(path)].rstrip(".")
    try:
        part, part_hint, rebuild = _part(value, name, hint)
    except LookupError as error:
        raise ValueError(f"{full}: {error}{_elsewhere(value, name, where)}") from None
    if rest and part is None:
        raise ValueError(
            f"{full}: {_joined(where, name)} is None here, so it has no parts; set it as a whole to "
            f"{in_words(part_hint)}, as in {_joined(where, name)}=Name(...)"
        )
    new = changed(part, rest, to, hint=part_hint, full=full)
    try:
        return rebuild(new)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{full}: {error}") from error


def all_changed(value: Any, changes: Mapping[str, Any]) -> Any:
    """`value` with every change {dotted path: to} made, in their order; the same errors as `changed`.

    What is refused only because another change is still to come is made after it: of two that are right together,
    either may come first.

    >>> from minibatch.train.schedules import Cosine
    >>> all_changed(Cosine(0.1, samples=10), {"rate": "0.2", "samples": "1e3"})
    Cosine(rate=0.2, samples=1000, last=0.0)
    """
    left = dict(changes)
    while left:
        refused: dict[str, ValueError] = {}
        for path, to in left.items():
            try:
                value = changed(value, path, to)
            except ValueError as error:
                refused[path] = error
        if len(refused) == len(left):
            raise next(iter(refused.values()))
        left = {path: left[path] for path in refused}
    return value


def named(value: Any, path: str) -> Any:
    """What stands at the dotted `path`; the same errors as `changed`.

    >>> named({"a": (1, 2)}, "a.1")
    2
    """
    for position, name in enumerate(names := path.split(".")):
        try:
            value, _, _ = _part(value, name, Any)
        except LookupError as error:
            raise ValueError(f"{path}: {error}{_elsewhere(value, name, '.'.join(names[:position]))}") from None
    return value


def _part(value: Any, name: str, hint: Any) -> tuple[Any, Any, Callable[[Any], Any]]:
    """The part of `value` called `name`, its annotation, and the function that makes the whole of a changed part.

    Raises LookupError (text: what is wrong) where there is none.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: f for f in dataclasses.fields(value) if f.init}
        if name not in fields:
            raise LookupError(f"{type(value).__name__} has no field {name!r}{nearest(name, fields)}")
        hints = annotations_of(type(value))
        return getattr(value, name), hints.get(name, Any), lambda new: dataclasses.replace(value, **{name: new})
    if isinstance(value, functools.partial):
        return _argument(value, name)
    if isinstance(value, Mapping):
        if name not in value:
            raise LookupError(f"there is no entry {name!r}{nearest(name, value, title='there are')}")
        kinds = typing.get_args(hint)
        return value[name], kinds[1] if len(kinds) == 2 else Any, lambda new: {**value, name: new}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        number = _number(value, name)
        make = tuple if isinstance(value, tuple) else list
        return value[number], _element(hint, number), lambda new: make([*value[:number], new, *value[number + 1 :]])
    advice = ""
    if callable(value) and not isinstance(value, type):
        advice = "; of a functools.partial the arguments can be set by name"
    if value is None:
        raise LookupError(f"it is none, so it has no parts, and no {name!r}: set it as a whole")
    raise LookupError(f"{value!r} of type {type(value).__name__} has no parts, so no {name!r}{advice}")


def _argument(value: "functools.partial[Any]", name: str) -> tuple[Any, Any, Callable[[Any], Any]]:
    """An argument of a partial: one that was given, or one that has a default."""
    known, _ = arguments_of(value.func)
    positions = [*known][: len(value.args)]
    hint, default = known.get(name, (Any, inspect.Parameter.empty))
    if name in positions:
        at = positions.index(name)
        given = value.args
        return (
            given[at],
            hint,
            lambda new: functools.partial(value.func, *given[:at], new, *given[at + 1 :], **value.keywords),
        )
    if name in value.keywords:
        part = value.keywords[name]
    elif name in known:
        part = None if default is inspect.Parameter.empty else default
    else:
        title = getattr(value.func, "__name__", value.func)
        raise LookupError(f"{title} has no argument {name!r}{nearest(name, known, title='it takes')}")
    return part, hint, lambda new: functools.partial(value.func, *value.args, **{**value.keywords, name: new})


def _number(value: Sequence[Any], name: str) -> int:
    """Which element of a sequence is meant: by number, or by its `name`."""
    names = [one for one in (getattr(element, "name", None) for element in value) if isinstance(one, str)]
    if name in names:
        return names.index(name)
    try:
        number = int(name)
    except ValueError:
        raise LookupError(
            f"there is no {name!r} among {len(value)} elements"
            + (
                nearest(name, names, title="their names are")
                if names
                else f"; give a number from 0 to {len(value) - 1}"
            )
        ) from None
    if not -len(value) <= number < len(value):
        raise LookupError(f"there is no element {number} among {len(value)}")
    return number % len(value)


def _element(hint: Any, number: int) -> Any:
    """The annotation of an element of a sequence annotated with `hint`."""
    for one in typing.get_args(hint) if _is_union(hint) else (hint,):
        kinds = typing.get_args(one)
        if typing.get_origin(one) is tuple and not (len(kinds) == 2 and kinds[1] is ...):
            return kinds[number] if number < len(kinds) else Any
        if kinds and isinstance(typing.get_origin(one), type) and issubclass(typing.get_origin(one), Sequence):
            return kinds[0]
    return Any


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (typing.Union, types.UnionType)


def _elsewhere(value: Any, name: str, where: str) -> str:
    """Paths below `value` that end with `name`, for the error about a path that is one or two names short."""
    found = [_joined(where, path) for path in _paths(value, DEPTH) if path.rpartition(".")[2] == name]
    return f". There is {' and '.join(found[:3])}" if found else ""


def _paths(value: Any, depth: int) -> Iterator[str]:
    if depth == 0:
        return
    names: list[str] = []
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [f.name for f in dataclasses.fields(value) if f.init]
    elif isinstance(value, functools.partial):
        names = [*arguments_of(value.func)[0]]
    elif isinstance(value, Mapping):
        names = [name for name in value if isinstance(name, str)]
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        names = [str(getattr(element, "name", number)) for number, element in enumerate(value)]
    for name in names:
        yield name
        try:
            part, _, _ = _part(value, name, Any)
        except LookupError:
            continue
        for inner in _paths(part, depth - 1):
            yield f"{name}.{inner}"


def _joined(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name
