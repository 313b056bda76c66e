"""Reader of order.txt: every line asks something of hashing or of an order, and says the answer for ever.

python -m tests.golden.order            compare the package with order.txt; exit code 1 and the lines that differ
python -m tests.golden.order --fill     answer the lines that end in `=` from the plain twins
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from minibatch import rng
from minibatch.order import VERSION, Order, Window, make_order
from tests.golden.reading import Golden, GoldenFile
from tests.plain import order as plain_order
from tests.plain import rng as plain_rng

FILE = Path(__file__).with_suffix(".txt")


# --- answers of the package ---------------------------------------------------------------------------------------


def package_answer(golden: Golden) -> tuple[str, ...]:
    """What `minibatch` says to one line; floats as hexadecimal, so that every bit is in them."""
    arguments = golden.arguments
    if golden.kind == "key":
        return (str(rng.key(int(arguments[0]), arguments[1], *map(int, arguments[2:]))),)
    if golden.kind == "draws":
        draws = rng.Draws(int(arguments[0]), arguments[1], np.array([int(arguments[2])]))
        words = [*draws.bits((2,))[0].tolist(), *draws.bits((int(arguments[3]) - 2,))[0].tolist()]
        return tuple(map(str, words))
    if golden.kind in ("bits", "uniform", "integers", "normal"):
        key, start, count, *bound = map(int, arguments)
        indices = np.arange(start, start + count)
        if golden.kind == "bits":
            return tuple(str(word) for word in rng.bits(key, indices).tolist())
        if golden.kind == "integers":
            return tuple(str(number) for number in rng.integers(key, indices, *bound).tolist())
        numbers = (rng.uniform if golden.kind == "uniform" else rng.normal)(key, indices)
        return tuple(number.hex() for number in numbers.tolist())
    order, (start, count) = package_order(golden)
    rows = order.rows_at(start, count).tolist()
    size = order.rows
    times = [order.time_of(row, t // size) for t, row in enumerate(rows, start=start)]
    assert times == list(range(start, start + count)), f"time_of does not invert rows_at at {golden}"
    return tuple(map(str, rows))


def package_order(golden: Golden) -> tuple[Order, list[int]]:
    if golden.kind == "windowed":
        rows, chunk_rows, window_chunks, seed, *span = map(int, golden.arguments)
        return make_order(Window(rows=window_chunks * chunk_rows), rows=rows, chunk_rows=chunk_rows, seed=seed), span
    rows, seed, *span = map(int, golden.arguments)
    shuffle = {"full": "full", "sequential": None}[golden.kind]
    return make_order(shuffle, rows=rows, chunk_rows=64, seed=seed), span


# --- answers of the twins -----------------------------------------------------------------------------------------


def plain_answer(golden: Golden) -> tuple[str, ...]:
    """What the plain twins say to one line."""
    arguments = golden.arguments
    if golden.kind == "key":
        return (str(plain_rng.key(int(arguments[0]), arguments[1], *map(int, arguments[2:]))),)
    if golden.kind == "draws":
        stream = plain_rng.key(int(arguments[0]), f"transform.{arguments[1]}", int(arguments[2]))
        return tuple(str(plain_rng.draw(stream, i)) for i in range(int(arguments[3])))
    numbers = [int(argument) for argument in arguments]
    if golden.kind in ("bits", "uniform", "integers", "normal"):
        key, start, count, *bound = numbers
        if golden.kind == "bits":
            return tuple(str(plain_rng.draw(key, i)) for i in range(start, start + count))
        if golden.kind == "integers":
            return tuple(str(plain_rng.integer(key, i, *bound)) for i in range(start, start + count))
        number = plain_rng.uniform if golden.kind == "uniform" else plain_rng.normal
        return tuple(number(key, i).hex() for i in range(start, start + count))
    return tuple(map(str, plain_order.at(plain(golden.kind, numbers), *numbers[-2:])))


def plain(kind: str, numbers: Sequence[int]) -> plain_order.Order:
    if kind == "windowed":
        rows, chunk_rows, window_chunks, seed = numbers[:4]
        return plain_order.Windowed(rows=rows, chunk_rows=chunk_rows, window_chunks=window_chunks, seed=seed)
    if kind == "full":
        return plain_order.Full(rows=numbers[0], seed=numbers[1])
    assert kind == "sequential", f"order.txt asks for {kind!r}, which nobody can answer"
    return plain_order.Sequential(rows=numbers[0])


# --- comparing and filling ----------------------------------------------------------------------------------------


def agrees(golden: Golden, answer: tuple[str, ...]) -> bool:
    """Whether an answer is the frozen one: exactly, but for normal numbers, whose last bits are the C library's."""
    if golden.kind != "normal":
        return answer == golden.answer
    found, expected = ([float.fromhex(word) for word in words] for words in (answer, golden.answer))
    return len(found) == len(expected) and np.allclose(found, expected, rtol=1e-12, atol=1e-15)


GOLDEN = GoldenFile(path=FILE, version=VERSION, package_answer=package_answer, plain_answer=plain_answer, agrees=agrees)


def read_golden() -> tuple[int, list[Golden]]:
    """The order version and all lines of order.txt."""
    return GOLDEN.read()


def differences(answer: Callable[[Golden], tuple[str, ...]]) -> list[str]:
    """One sentence for every line of order.txt that is answered differently."""
    return GOLDEN.differences(answer)


def fill(path: Path = FILE) -> int:
    """Answer what is asked and not answered yet; returns how many lines changed."""
    return replace(GOLDEN, path=path, version=plain_order.VERSION).fill()


def main() -> int:
    """The command line of this file."""
    return GOLDEN.main()


if __name__ == "__main__":
    sys.exit(main())
