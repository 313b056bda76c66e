"""The options of `minibatch convert` that formats take, and how a conversion is described by them."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import os
import typing
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
import xxhash

from minibatch.tools import sources
from minibatch.tools.sources import Options, Source
from minibatch.tools.sources.files import folder_names
from minibatch.tools.sources.patterns import matched

OPTIONS = tuple(field for field in dataclasses.fields(Options) if field.name != "bad")


def taking_options(function: Callable[..., None]) -> Callable[..., None]:
    """`function` as a command that has a flag for each field of `Options` in the place of its argument `options`."""

    @functools.wraps(function)
    def command(**given: Any) -> None:
        values = {field.name: given.pop(field.name) for field in OPTIONS}
        repeated = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
        function(**given, options=Options(**{**values, **repeated}))

    signature = inspect.signature(function, eval_str=True)
    types = typing.get_type_hints(Options)
    added = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=[] if isinstance(field.default, tuple) else field.default,
            annotation=Annotated[
                list[str] if isinstance(field.default, tuple) else types[field.name],
                typer.Option(
                    flag_of(field.name),
                    help=field.metadata.get("help"),
                    show_default=False,
                    rich_help_panel="Options of single formats",
                ),
            ],
        )
        for field in OPTIONS
    ]
    kept = [parameter for name, parameter in signature.parameters.items() if name != "options"]
    command.__signature__ = signature.replace(parameters=[*kept, *added])  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in [*kept, *added]}
    return command


def flag_of(name: str) -> str:
    """
    >>> flag_of("first_index")
    '--first-index'
    """
    return "--" + name.replace("_", "-")


def origin_of(source: str, options: Options, limit: int | None) -> str:
    """What the manifest says the data were made from: the name without the path, which would differ between machines.

    >>> origin_of("/home/me/photos.tar", Options(subset="test", type=("label=uint8",)), 10)
    'photos.tar --subset test --type label=uint8 --limit 10'
    """
    words = [os.path.basename(os.path.abspath(source))]
    for name, value in [*given_options(options).items(), *([("limit", limit)] if limit is not None else [])]:
        for each in value if isinstance(value, tuple) else [value]:
            words.append(flag_of(name) if each is True else f"{flag_of(name)} {each}")
    return " ".join(words)


def given_options(options: Options) -> dict[str, Any]:
    """The options that are not what they are by default."""
    values = {field.name: getattr(options, field.name) for field in OPTIONS}
    return {field.name: values[field.name] for field in OPTIONS if values[field.name] != field.default}


def identity_of(text: str, source: Source, options: Options) -> dict[str, Any]:
    """What a conversion that was stopped must have in common with one that goes on with its shards.

    Names, sizes and times of all files that are read, and everything that decides which rows come of them.

    >>> identity_of("sklearn:iris", sources.open_source("sklearn:iris"), Options())["options"]
    {}
    """
    inputs = getattr(source, "inputs", None)
    paths = [text] if os.path.exists(text) else matched(text, ()) if any(mark in text for mark in "*?[{") else []
    paths += [] if inputs is None else map(str, inputs())
    return {
        "source": os.path.basename(os.path.abspath(text)),
        "files": files_text(paths),
        "options": given_options(options),
        "piece_bytes": sources.PIECE_BYTES,
        "description": source.describe(),
    }


def files_text(paths: Iterable[str]) -> str:
    """How many files there are, how many bytes they have, and a digest of their names, sizes and times."""
    digest, files, size = xxhash.xxh3_128(), 0, 0
    for path in paths:
        names = folder_names(path) if os.path.isdir(path) else [""]
        for name in names:
            try:
                status = os.stat(Path(path, name))
            except FileNotFoundError:  # whoever reads it says more of it
                continue
            digest.update(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode(errors="surrogateescape"))
            files, size = files + 1, size + status.st_size
    return f"{files:,} file{'s' * (files != 1)} of {size:,} bytes (names, sizes, times: {digest.hexdigest()[:12]})"
