"""A text, or a value from JSON, as what an annotation asks for: `--set` and `config.json` write values this way.

    bool            true false yes no on off 1 0            tuple, Sequence  0.1,0.01  or (0.1, 0.01)  or [0.1, 0.01]
    int             128, 100_000, 1e5                                        one Name(...) stands for a list of it
    float           0.1, 1e-4, inf                          Mapping          {"a": 1}
    None            none, null                              Literal          one of its values
    Path, str       the text as it is
    anything else   Name(0.1, samples=1000): a class or function of `named_calls.NAMES`, its arguments written the same
                    way, or module:Name(...) for any other; functions also as Name or module:name alone

A value that is not a text is checked against the same annotations, and JSON's lists become tuples where those are asked
for. Wrong ones raise ValueError saying where, what was given and what is expected.
"""

import ast
import enum
import functools
import inspect
import operator
import os
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any, Literal

import torch

from minibatch.train.named_calls import arguments_of, classes_in, found_by_name, imported, known_values, nearest

TRUE, FALSE, NOTHING = ("true", "yes", "on", "1"), ("false", "no", "off", "0"), ("none", "null")
QUALIFIED = re.compile(r"([A-Za-z_][\w.]*):([A-Za-z_][\w.]*\(.*\))", re.DOTALL)
REFERENCE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
CLOSING = {"(": ")", "[": "]", "{": "}"}


def converted(value: Any, hint: Any, where: str) -> Any:
    """`value`, a text or a value of its own, as the annotation `hint` asks for; ValueError naming `where` otherwise.

    >>> converted("0.1, 0.01", tuple[float, ...], "rates"), converted("none", int | None, "size")
    ((0.1, 0.01), None)
    >>> converted("Cosine(0.1, samples=100)", Any, "schedules.0")
    Cosine(rate=0.1, samples=100, last=0.0)
    >>> converted("fast", int, "minibatch_size")
    Traceback (most recent call last):
    ValueError: minibatch_size: expected an integer, got 'fast'
    """
    origin, kinds = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return converted(value, kinds[0], where)
    if isinstance(value, str) and hint is not str and hint is not Path:
        value = _called(value, hint, where)
    elif isinstance(value, Mapping) and ("kind" in value or "call" in value):
        value = _rebuilt(value, where)
    if hint is Any or hint is object or hint is inspect.Parameter.empty or isinstance(hint, typing.TypeVar | str):
        return _guessed(value, where) if isinstance(value, str) else value
    if origin in (typing.Union, types.UnionType):
        return _one_of(value, kinds, hint, where)
    if hint is None or hint is type(None):
        if value is None or (isinstance(value, str) and value.strip().lower() in NOTHING):
            return None
    elif origin is Literal:
        for kind in kinds:
            if (value == kind and type(value) is type(kind)) or (isinstance(value, str) and value.strip() == str(kind)):
                return kind
    elif hint in SCALARS:
        found = SCALARS[hint](value)
        if found is not None:
            return found
    elif isinstance(hint, type) and issubclass(hint, enum.Enum):
        if isinstance(value, hint):
            return value
        if isinstance(value, str) and value.strip() in hint.__members__:
            return hint[value.strip()]
    else:
        return _structured(value, hint, where)
    raise wrong(value, hint, where)


def wrong(value: Any, hint: Any, where: str) -> ValueError:
    """The error for a value that is not what `hint` asks for."""
    return ValueError(f"{where}: expected {in_words(hint)}, got {value!r}")


def in_words(hint: Any) -> str:
    """An annotation for an error message.

    >>> in_words(int | None), in_words(tuple[float, ...]), in_words(Literal["stop", "skip"])
    ('an integer or none', 'numbers separated by commas', "'stop' or 'skip'")
    """
    origin, kinds = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(in_words(kind) for kind in kinds)
    if origin is Literal:
        return " or ".join(repr(kind) for kind in kinds)
    if origin is typing.Annotated:
        return in_words(kinds[0])
    if _is(origin, tuple) and kinds and kinds[-1] is not ...:
        return f"({', '.join(in_words(kind) for kind in kinds)})"
    if _is(origin, Sequence) or _is(origin, AbstractSet):
        one = in_words(kinds[0]) if kinds else "anything"
        plural = {"an integer": "integers", "a number": "numbers", "a text": "texts"}
        return f"{plural.get(one, f'values ({one})')} separated by commas"
    if _is(origin, Mapping) or _is(hint, Mapping):
        return 'a mapping such as {"name": 1}'
    if origin is Callable or hint is Callable:
        return "a function (its name, module:name, or Name(...))"
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return " or ".join(hint.__members__)
    return WORDS.get(hint, getattr(hint, "__name__", str(hint)))


def _structured(value: Any, hint: Any, where: str) -> Any:
    """Collections, functions and classes."""
    origin, kinds = typing.get_origin(hint) or hint, typing.get_args(hint)
    if _is(origin, Mapping):
        found = _literal(value) if isinstance(value, str) else value
        if not isinstance(found, Mapping):
            raise wrong(value, hint, where)
        keys, values = kinds if len(kinds) == 2 else (Any, Any)
        return {converted(key, keys, where): converted(v, values, f"{where}.{key}") for key, v in found.items()}
    if _is(origin, Sequence) or _is(origin, AbstractSet):
        return _collection(value, hint, origin, kinds, where)
    if isinstance(value, str) and value.strip().lower() not in NOTHING:
        value = _referred(value.strip(), hint, where)
    if origin is Callable:
        if callable(value):
            return value
    elif not isinstance(origin, type) or getattr(origin, "_is_protocol", False) or isinstance(value, origin):
        return value
    raise wrong(value, hint, where)


def _collection(value: Any, hint: Any, origin: Any, kinds: tuple[Any, ...], where: str) -> Any:
    if isinstance(value, str):
        items = _pieces(value)
    elif isinstance(value, Sequence | AbstractSet) and not isinstance(value, bytes):
        items = [*value]
    elif value is None or isinstance(value, bool | int | float | bytes | Mapping) or not kinds or kinds[-1] is Any:
        raise wrong(value, hint, where)
    else:  # one Name(...) stands for a list of it
        try:
            items = [converted(value, kinds[0], where)]
        except ValueError:
            raise wrong(value, hint, where) from None
    if _is(origin, tuple) and kinds and kinds[-1] is not ...:
        if len(items) != len(kinds):
            raise ValueError(f"{where}: expected {len(kinds)} values {in_words(hint)}, got {len(items)}: {value!r}")
        return tuple(converted(v, k, f"{where}.{i}") for i, (v, k) in enumerate(zip(items, kinds, strict=True)))
    kind = kinds[0] if kinds else Any
    made = [converted(item, kind, f"{where}.{number}") for number, item in enumerate(items)]
    return origin(made) if origin in (list, set, frozenset) else tuple(made)


def _one_of(value: Any, kinds: tuple[Any, ...], hint: Any, where: str) -> Any:
    """The first kind of a union that fits: a value that is already of a kind stays; a text is a number or none before
    it is a text, and a plain word is a text before it is a list of one or the name of a function."""
    if not isinstance(value, str) and type(value) in kinds:
        return value
    text = value.strip() if isinstance(value, str) else ""
    reference = REFERENCE.fullmatch(text) is not None

    def late(kind: Any) -> int:
        if kind is str:
            return 3 if reference or set(text) & set(",()[]{}") else 1
        if typing.get_origin(kind) is Callable or kind is Callable:
            return 0 if reference else 2
        return 0 if kind in SCALARS or kind in (None, type(None)) or typing.get_origin(kind) is Literal else 2

    for kind in sorted(kinds, key=late):
        try:
            return converted(value, kind, where)
        except ValueError:
            continue
    raise wrong(value, hint, where)


def _called(text: str, hint: Any, where: str) -> Any:
    """What `Name(...)` or `module:Name(...)` makes, if `text` is that; any other text as it is."""
    qualified = QUALIFIED.fullmatch(text.strip())
    call = _parsed(qualified[2] if qualified else text)
    if not isinstance(call, ast.Call):
        return text
    name = ast.unparse(call.func)
    function = imported(f"{qualified[1]}:{name}", where) if qualified else found_by_name(name, hint)
    if function is None:
        if str in classes_in(hint) or not re.fullmatch(r"[\w.]+", name):
            return text
        raise ValueError(f"{where}: there is no {name!r} to call{nearest(name, known_values(), title='there are')}")
    hints, others = arguments_of(function)
    arguments = []
    for number, argument in enumerate(call.args):
        hint = [*hints.values()][number][0] if number < len(hints) else Any
        arguments.append(converted(_unquoted(argument), hint, f"{where}: {name}, argument {number + 1}"))
    keywords = {}
    for keyword in call.keywords:
        if keyword.arg is None or (keyword.arg not in hints and not others):
            given = keyword.arg or "**"
            raise ValueError(f"{where}: {name} takes no {given!r}{nearest(given, hints, title='it takes')}")
        hint = hints.get(keyword.arg, (Any, None))[0]
        keywords[keyword.arg] = converted(_unquoted(keyword.value), hint, f"{where}: {name}({keyword.arg}=)")
    try:
        return function(*arguments, **keywords)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {text.strip()}: {error}") from error


def _unquoted(node: ast.expr) -> str:
    """The text of an argument; of a quoted one, what is inside."""
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ast.unparse(node)


def _referred(text: str, hint: Any, where: str) -> Any:
    """What a Name, or module:name, stands for."""
    if REFERENCE.fullmatch(text):
        return imported(text, where)
    found = found_by_name(text, hint)
    if found is None:
        raise wrong(text, hint, where)
    return found


def _rebuilt(document: Mapping[str, Any], where: str) -> Any:
    """The value that `config.described` wrote as {"kind": …} or {"call": …}."""
    place = document.get("kind", document.get("call"))
    if not isinstance(place, str) or not REFERENCE.fullmatch(place):
        return document
    function = imported(place, where)
    hints, _ = arguments_of(function)
    arguments = [converted(value, Any, where) for value in document.get("args", ())]
    keywords = {
        name: converted(value, hints.get(name, (Any, None))[0], f"{where}.{name}")
        for name, value in document.items()
        if name not in ("kind", "call", "args")
    }
    make = function if "kind" in document else functools.partial(function)
    return make(*arguments, **keywords) if "kind" in document else functools.partial(function, *arguments, **keywords)


def _guessed(text: str, where: str) -> Any:
    """A text without an annotation: a Python literal, none, true or false, or the text."""
    for scalar in (_bool_word, _int, _float):
        if (found := scalar(text)) is not None:
            return found
    if text.strip().lower() in NOTHING:
        return None
    literal = _literal(text)
    return text if literal is None else literal


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError):
        return None


def _parsed(text: str) -> ast.expr | None:
    try:
        return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError):
        return None


def _pieces(text: str) -> list[str]:
    """The items of a list: split at commas that stand in no bracket and no quotes, which are then taken off.

    >>> _pieces("[Cosine(0.1, samples=3), none]"), _pieces("'a,b', c"), _pieces("()")
    (['Cosine(0.1, samples=3)', 'none'], ['a,b', 'c'], [])
    """
    text = text.strip()
    if text and text[0] in "([" and text[-1] == CLOSING[text[0]] and _closes(text) == len(text) - 1:
        text = text[1:-1]
    pieces, piece, depth, quote = [], "", 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter in "([{":
            depth += 1
        elif letter in ")]}":
            depth -= 1
        if letter == "," and not depth and not quote:
            pieces.append(piece)
            piece = ""
        else:
            piece += letter
    pieces = [one.strip() for one in [*pieces, piece]]
    if pieces and not pieces[-1]:
        pieces.pop()  # a comma at the end, or nothing at all
    return [one[1:-1] if len(one) > 1 and one[0] in "'\"" and one[-1] == one[0] else one for one in pieces]


def _closes(text: str) -> int:
    """Where the bracket that opens `text` closes."""
    depth = 0
    for at, letter in enumerate(text):
        depth += (letter in "([{") - (letter in ")]}")
        if not depth:
            return at
    return -1


def _bool_word(value: Any) -> bool | None:
    """Only words: a 1 without an annotation is a number."""
    word = value.strip().lower() if isinstance(value, str) else ""
    return word in TRUE if word in (*TRUE[:-1], *FALSE[:-1]) else None


def _bool(value: Any) -> bool | None:
    if isinstance(value, str):
        word = value.strip().lower()
        return word in TRUE if word in (*TRUE, *FALSE) else None
    return value if isinstance(value, bool) else None


def _int(value: Any) -> int | None:
    if isinstance(value, bool):
        return None
    try:
        return int(value.strip()) if isinstance(value, str) else operator.index(value)
    except (TypeError, ValueError):
        number = _float(value) if isinstance(value, str) else None
        return int(number) if number is not None and number.is_integer() else None


def _float(value: Any) -> float | None:
    if isinstance(value, bool) or value is None:
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _str(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _path(value: Any) -> Path | None:
    return Path(value) if isinstance(value, str | os.PathLike) else None


def _dtype(value: Any) -> torch.dtype | None:
    if isinstance(value, str):
        value = getattr(torch, value.strip().removeprefix("torch."), None)
    return value if isinstance(value, torch.dtype) else None


def _is(origin: Any, kind: Any) -> bool:
    return isinstance(origin, type) and origin not in (str, bytes) and issubclass(origin, kind)


SCALARS: dict[Any, Callable[[Any], Any]] = {
    bool: _bool,
    int: _int,
    float: _float,
    str: _str,
    Path: _path,
    torch.dtype: _dtype,
}
WORDS: dict[Any, str] = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "a text",
    Path: "a path",
    torch.dtype: "a dtype of torch, such as float32",
    None: "none",
    type(None): "none",
    Any: "anything",
}
