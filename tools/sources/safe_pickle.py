"""Pickles of numbers, text, arrays and plain containers, read without running anything that a file asks for.

Unpickling calls whatever a file names. Here a file may name only what NumPy names when it stores arrays and scalars,
and gets functions of this module for it, which take plain values and check them; any other name is refused. Each name
gives a new function, because a pickle can set attributes of what it has got.

Pickles of Python 2 come with texts as bytes; `plain` turns keys and lists of names into str.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from typing import IO, Any

import numpy as np

# Bytes of values of one type; not of objects, which would be built from whatever the file says.
DTYPE = re.compile(r"[<>=|]?([biufSU])(\d+)|\?")


class UnsafePickleError(pickle.UnpicklingError):
    """A pickle names something that is not needed to store arrays and plain containers."""


def load(file: IO[bytes], where: str) -> Any:
    """What the pickle in `file` holds, and nothing of it run; raises ValueError that begins with `where`.

    >>> import io
    >>> load(io.BytesIO(pickle.dumps({"labels": [1, 2], "data": np.arange(3)})), "a batch")["data"]
    array([0, 1, 2])
    >>> load(io.BytesIO(pickle.dumps(print)), "a batch")
    Traceback (most recent call last):
    ValueError: a batch asks for 'builtins.print', which no array and no container needs: it is not read
    """
    try:
        return finished(Restricted(file, encoding="bytes").load(), {})
    except UnsafePickleError as error:
        raise ValueError(f"{where} asks for {error}, which no array and no container needs: it is not read") from None
    except Exception as error:  # a damaged pickle raises whatever it stumbles over
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"{where} cannot be read as a pickle, about byte {file.tell():,}: {reason}") from error


class Restricted(pickle.Unpickler):
    """An unpickler that knows no names but those of `ALLOWED`."""

    def find_class(self, module: str, name: str) -> Any:
        allowed = ALLOWED.get((module, name))
        if allowed is None:
            raise UnsafePickleError(repr(f"{module}.{name}"))
        return (lambda *arguments: allowed(*arguments)) if callable(allowed) else allowed

    def persistent_load(self, pid: Any) -> Any:
        raise UnsafePickleError(f"{pid!r:.60}, which lies outside the file")


class PickledDtype:
    """A dtype on its way: NumPy stores its code first and its byte order as the state that follows."""

    def __init__(self, code: Any, *flags: Any) -> None:
        self.code, self.order = text_of(code), "="

    def __setstate__(self, state: Any) -> None:
        _, order, subdtype, names, fields = state[:5]
        if (subdtype, names, fields) != (None, None, None):
            raise UnsafePickleError("an array of structured values")
        self.order = text_of(order)

    def dtype(self) -> np.dtype[Any]:
        """The dtype, if it is one of plain values."""
        found = DTYPE.fullmatch(self.code) if isinstance(self.code, str) else None
        if found is None or (found[2] and int(found[2]) > 2**20) or self.order not in ("<", ">", "=", "|"):
            raise UnsafePickleError(f"an array of dtype {self.code!r:.40}")
        dtype: np.dtype[Any] = np.dtype(self.order + self.code.lstrip("<>=|"))
        return dtype


class PickledArray:
    """An array on its way: NumPy stores an empty one first and everything about it as the state that follows."""

    def __init__(self, *arguments: Any) -> None:
        self.array = np.zeros(0)

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran_order, values = state
        self.array = array_of(values, dtype, shape, "F" if fortran_order else "C")


def array_of(values: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray[Any, Any]:
    """The array over `values`, which must be as many bytes as `shape` and `dtype` need."""
    values = values.encode("latin1") if isinstance(values, str) else values
    if not isinstance(values, bytes | bytearray) or not isinstance(dtype, PickledDtype) or order not in ("C", "F"):
        raise UnsafePickleError(f"an array of {type(values).__name__}")
    return np.frombuffer(values, dtype.dtype()).reshape(tuple(shape), order=order)


def scalar_of(dtype: Any, value: Any) -> Any:
    """A NumPy scalar, as a Python number."""
    return array_of(value, dtype, (), "C")[()].item()


def encoded(text: Any, encoding: Any) -> bytes:
    """What pickles of protocol 2 that Python 3 wrote have for bytes."""
    if text_of(encoding) != "latin1" or not isinstance(text, str):
        raise UnsafePickleError(f"text in the encoding {encoding!r:.40}")
    return text.encode("latin1")


def no_bytes() -> bytes:
    """What protocols before 3 call for bytes without any."""
    return b""


class Name:
    """Stands for numpy.ndarray, which files name and which is never called."""


# NumPy's modules have moved: numpy.core until 1.x, numpy._core since 2.0.
ALLOWED: dict[tuple[str, str], Callable[..., Any] | Name] = {
    ("numpy", "ndarray"): Name(),
    ("numpy", "dtype"): PickledDtype,
    **{
        (f"numpy.{core}.{module}", name): function
        for core in ("core", "_core")
        for module, name, function in (
            ("multiarray", "_reconstruct", PickledArray),
            ("multiarray", "scalar", scalar_of),
            ("numeric", "_frombuffer", array_of),
        )
    },
    ("_codecs", "encode"): encoded,
    ("collections", "OrderedDict"): dict,
    ("builtins", "set"): set,
    ("__builtin__", "set"): set,
    ("__builtin__", "bytes"): no_bytes,
}


def finished(value: Any, done: dict[int, Any]) -> Any:
    """`value` with the arrays in its containers finished; `done` keeps what has been looked at (containers may share).

    Raises UnsafePickleError for what is no value, such as a name that was not called.
    """
    if isinstance(value, PickledArray):
        return value.array
    if value is None or isinstance(value, bool | int | float | complex | str | bytes | bytearray | np.ndarray):
        return value
    if id(value) in done:
        return done[id(value)]
    done[id(value)] = value
    if isinstance(value, list):
        value[:] = [finished(each, done) for each in value]
    elif isinstance(value, dict):
        for key in value:
            value[key] = finished(value[key], done)
    elif isinstance(value, tuple):
        done[id(value)] = tuple([finished(each, done) for each in value])
    elif not isinstance(value, set | frozenset):
        raise UnsafePickleError(f"a {type(value).__name__}")
    return done[id(value)]


# The keys of CIFAR's and cuda-convnet2's batches under which names stand.
NAMES = frozenset({"label_names", "fine_label_names", "coarse_label_names", "filenames", "batch_label"})


def plain(value: Any) -> Any:
    """A dict with its keys, and the names in it, as text: what Python 2 called str.

    >>> plain({b"label_names": [b"cat", b"dog"], b"data": b"\\xff\\xd8"})
    {'label_names': ['cat', 'dog'], 'data': b'\\xff\\xd8'}
    """
    if not isinstance(value, dict):
        return value
    return {text_of(key): names_of(entry) if text_of(key) in NAMES else entry for key, entry in value.items()}


def text_of(value: Any) -> Any:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def names_of(value: Any) -> Any:
    return [text_of(each) for each in value] if isinstance(value, list | tuple) else text_of(value)
