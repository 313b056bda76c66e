"""Reader of mixture.txt: what mixtures and orders grouped by length show at some times, and is the answer for ever.

python -m tests.golden.mixture            compare the package with mixture.txt; exit code 1 and what differs
python -m tests.golden.mixture --fill     answer the lines that end in `=` from the plain twins
"""

import sys
from pathlib import Path
from typing import Any

from minibatch.length_groups import VERSION as GROUPS_VERSION
from minibatch.length_groups import LengthGroups, make_grouped_order
from minibatch.mixture import VERSION as MIXTURE_VERSION
from minibatch.mixture import Mixture
from minibatch.order import Window, make_order
from tests.golden.reading import Golden, GoldenFile
from tests.plain import length_groups as plain_groups
from tests.plain import mixture as plain_mixture
from tests.plain import order as plain_order

assert MIXTURE_VERSION == GROUPS_VERSION, "mixture.txt has one version for both: give each a file of its own"


def shuffle_of(kind: str) -> Any:
    """`full`, `sequential`, or `4x3` for windows of four chunks of three rows."""
    if kind in ("full", "sequential"):
        return "full" if kind == "full" else None
    chunks, chunk_rows = map(int, kind.split("x"))
    return Window(rows=chunks * chunk_rows, chunk_rows=chunk_rows)


def plain_base(kind: str, rows: int, seed: int) -> Any:
    """The twin of the order that `shuffle_of` gives."""
    if kind in ("full", "sequential"):
        return plain_order.Full(rows=rows, seed=seed) if kind == "full" else plain_order.Sequential(rows=rows)
    chunks, chunk_rows = map(int, kind.split("x"))
    chunk_rows = min(chunk_rows, rows)
    return plain_order.Windowed(rows=rows, chunk_rows=chunk_rows, window_chunks=chunks, seed=seed)


def stages_of(sources: list[list[str]], begins: str) -> list[tuple[int, dict[str, int]]]:
    """The stages of a mixture: weights stand with the sources, one a stage, divided by `/`."""
    times = [0, *map(int, begins.split("/"))] if begins != "-" else [0]
    return [
        (time, {name: int(weights.split("/")[i]) for name, _, _, _, weights in sources}) for i, time in enumerate(times)
    ]


def package_answer(golden: Golden) -> tuple[str, ...]:
    """What `minibatch` says to one line."""
    if golden.kind == "mixture":
        seed, described, begins, start, count = golden.arguments
        sources = [source.split(":") for source in described.split(",")]
        kinds = {name: (int(rows), shuffle_of(kind)) for name, rows, kind, _, _ in sources}
        stages = stages_of(sources, begins)
        caps = {name: int(sweeps) for name, _, _, sweeps, _ in sources if sweeps != "-"}
        mixture = Mixture(dict.fromkeys(kinds), weights=stages[0][1], stages=stages[1:], max_sweeps=caps)
        order = mixture.order(
            lambda name, own: make_order(kinds[name][1], rows=kinds[name][0], chunk_rows=1, seed=own), seed=int(seed)
        )
        shown = order.rows_at(int(start), int(count))
        sources = order.source_of(shown)
        return tuple(f"{mixture.names[i]}{row - order.bases[i]}" for i, row in zip(sources, shown, strict=True))
    assert golden.kind == "groups", f"mixture.txt asks for {golden.kind!r}, which nobody can answer"
    base = golden.arguments[0]
    rows, window, group, modulus, seed, start, count = map(int, golden.arguments[1:])
    order = make_grouped_order(
        LengthGroups(rows=window, group=group, base=shuffle_of(base)),
        rows=rows, chunk_rows=1, seed=seed, lengths=lambda wanted: wanted * 7919 % modulus,
    )  # fmt: skip
    shown = order.rows_at(start, count).tolist()
    times = [order.time_of(row, time // rows) for time, row in enumerate(shown, start)]
    assert times == list(range(start, start + count)), f"time_of does not invert rows_at at {golden}"
    return tuple(map(str, shown))


def plain_answer(golden: Golden) -> tuple[str, ...]:
    """What the plain twins say to one line."""
    if golden.kind == "mixture":
        seed, described, begins, start, count = golden.arguments
        sources = [source.split(":") for source in described.split(",")]
        mixture = plain_mixture.Mixture(
            orders={
                name: plain_base(kind, int(rows), plain_mixture.source_seed(int(seed), name))
                for name, rows, kind, _, _ in sources
            },
            stages=stages_of(sources, begins),
            seed=int(seed),
            max_sweeps={name: int(sweeps) for name, _, _, sweeps, _ in sources if sweeps != "-"},
        )
        return tuple(f"{name}{row}" for name, _, row in mixture.samples(int(start), int(count)))
    base = golden.arguments[0]
    rows, window, group, modulus, seed, start, count = map(int, golden.arguments[1:])
    order = plain_groups.Grouped(
        base=plain_base(base, rows, seed),
        seed=seed,
        window_rows=min(window, rows),
        group=min(group, window, rows),
        length=lambda row: row * 7919 % modulus,
    )
    return tuple(str(order.row(time % rows, time // rows)) for time in range(start, start + count))


GOLDEN = GoldenFile(
    path=Path(__file__).with_suffix(".txt"),
    version=MIXTURE_VERSION,
    package_answer=package_answer,
    plain_answer=plain_answer,
)

if __name__ == "__main__":
    sys.exit(GOLDEN.main())
