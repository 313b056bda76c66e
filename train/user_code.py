"""Recipes that are not part of this package: `module:function`, or `path/to/file.py:function`; and errors in them.

A file is executed anew each time it is asked for, so that a resumed run follows what was changed in it; its digest goes
into the configuration. The folder of the file, and the working directory for modules, are searched last for imports.
"""

import importlib
import importlib.util
import inspect
import linecache
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

from minibatch.errors import MinibatchError
from minibatch.train.digest import file_digest
from minibatch.train.named_calls import nearest

LIBRARY = os.path.realpath(os.path.dirname(os.__file__)) + os.sep


def whole_path(file: str) -> Path:
    """The path of a recipe's file without links, `~` and `..`, so that it is found from anywhere."""
    return Path(file).expanduser().resolve()


def load(place: str) -> tuple[Callable[..., Any], str, str | None]:
    """The function at `place`, the place as it is to be saved (files by their whole path), and the digest of its file.

    Raises ValueError where there is no such file, module or function; what the code itself raises goes through, with a
    note of its file and line.

    >>> load("os.path:joins")
    Traceback (most recent call last):
    ValueError: os.path has no function 'joins'; did you mean join? ...
    """
    where, _, name = place.rpartition(":")
    if not where or not name.isidentifier():
        raise ValueError(f"{place!r}: expected module:function or path/to/file.py:function")
    if where.endswith(".py"):
        path = whole_path(where)
        if not path.is_file():
            raise ValueError(f"{place!r}: there is no file {path}")
        module, saved = _executed(path), f"{path}:{name}"
    else:
        module, saved = _imported(where, place), place
    function = getattr(module, name, None)
    if not callable(function):
        own = [
            n
            for n, value in vars(module).items()
            if inspect.isfunction(value) and value.__module__ == module.__name__ and not n.startswith("_")
        ]
        raise ValueError(f"{where} has no function {name!r}{nearest(name, own)}")
    file = getattr(module, "__file__", None)
    return function, saved, file_digest(file) if file and Path(file).is_file() else None


@contextmanager
def places_noted() -> Iterator[None]:
    """Inside, an exception that was raised in code outside this package gets a note with the file and line of it."""
    try:
        yield
    except Exception as error:
        place = place_of(error.__traceback__)
        if place is not None and place not in getattr(error, "__notes__", ()):
            error.add_note(place)
        raise


@contextmanager
def noted(text: str) -> Iterator[None]:
    """Inside, an exception gets the note `text`, "minibatch: " before it; not those of ours, which say all there is."""
    try:
        yield
    except (MinibatchError, ValueError, OSError):
        raise
    except Exception as error:
        error.add_note(f"minibatch: {text}")
        raise


def place_of(traceback: TracebackType | None) -> str | None:
    """Where the innermost code of the user's stands in a traceback: "raised at file.py:12, in loss: `…`", or None.

    Code of this package, of the standard library and of installed libraries is not the user's.
    """
    found = None
    while traceback is not None:
        frame, line = traceback.tb_frame, traceback.tb_lineno
        file = frame.f_code.co_filename
        if _is_users(file, frame.f_globals.get("__name__", "")):
            source = linecache.getline(file, line).strip()
            found = f"raised at {file}:{line}, in {frame.f_code.co_name}" + (f": `{source}`" if source else "")
        traceback = traceback.tb_next
    return found


def _is_users(file: str, module: str) -> bool:
    if file.startswith("<") or module.split(".")[0] == "minibatch":
        return False
    path = os.path.realpath(file)
    return "site-packages" not in path and not path.startswith(LIBRARY)


def _executed(path: Path) -> ModuleType:
    name = f"recipe_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path} cannot be loaded as Python")
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # for what the recipe imports from beside it
    module = importlib.util.module_from_spec(spec)
    before = sys.modules.get(name)
    sys.modules[name] = module  # where dataclasses look for annotations
    linecache.checkcache(str(path))
    try:
        with places_noted():
            # Not spec.loader.exec_module: its cached bytecode is told from the source by time and size alone.
            exec(compile(path.read_bytes(), str(path), "exec"), module.__dict__)
    except BaseException:
        if before is None:
            del sys.modules[name]
        else:
            sys.modules[name] = before
        raise
    return module


def _imported(name: str, place: str) -> ModuleType:
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        with places_noted():
            return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # the module is there; what it imports is not
        raise ValueError(f"{place!r}: there is no module {error.name!r} on Python's path or in {os.getcwd()}") from None
