"""A source of sequences and its plain twin, led along the same walk: reads of any size and part, jumps, restarts."""

import copy
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from hypothesis import strategies as st

import minibatch.readahead
import minibatch.sequences
from minibatch import Batch, MinibatchSource, Ragged, SkipRows
from tests.plain.sequences import Packed, Truncated, Walk, Whole
from tests.sequence_data import LENGTHS, ORDERS, Laid, assert_equal, lay, shifted

Step = tuple[Any, ...]


def steps() -> st.SearchStrategy[list[Step]]:
    """What a caller may do, in multiples of a unit; equal reads in a row, so that reading ahead sets in."""
    sizes = st.integers(1, 12) | st.sampled_from([1, 25, 60])
    times = st.integers(0, 60) | st.sampled_from([150, 250])
    part = st.integers(1, 5).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n - 1)))
    step = st.one_of(
        st.tuples(st.just("read"), sizes, st.just((1, 0)), st.integers(1, 5)),
        st.tuples(st.just("read"), sizes, part, st.integers(1, 5)),
        st.tuples(st.just("seek"), times),
        st.tuples(st.sampled_from(["restore", "pickle", "deepcopy", "close and open"])),
        st.tuples(st.just("at"), times, st.integers(0, 9)),
    )
    return st.lists(step, min_size=1, max_size=8).map(lambda found: [*found, ("read", 3, (1, 0), 2)])


def limits(unit: int = 1) -> st.SearchStrategy[dict[str, int]]:
    some = st.sampled_from([0, 1, 2, 5, 17, 40])
    return st.one_of(
        st.just({}),
        st.builds(lambda most: {"max_samples": most * unit}, some),
        st.builds(lambda sweeps: {"max_sweeps": sweeps}, st.integers(0, 3)),
        st.builds(lambda most, sweeps: {"max_samples": most * unit, "max_sweeps": sweeps}, some, st.integers(1, 3)),
    )


holes = st.tuples(
    st.lists(st.tuples(st.integers(0, 50), st.integers(0, 9)).map(lambda x: (x[0], x[0] + x[1])), max_size=2),
    st.frozensets(st.integers(0, 9), max_size=2),
) | st.just(([], frozenset()))

cases = st.fixed_dictionaries(
    {
        "name": st.sampled_from(list(LENGTHS)),
        "kind": st.sampled_from(list(ORDERS)),
        "seed": st.integers(0, 5),
        "holes": holes,
        "transforms": st.sampled_from([(), (), (shifted,)]),
        "threads": st.sampled_from([1, 2]),
        "block_bytes": st.sampled_from([1, 200, 4 << 20]),
        "at_once": st.sampled_from([(1, 2), (2, 5), (256, 1 << 14)]),
    }
)


def walk(
    root: Path,
    case: dict[str, Any],
    limit: dict[str, int],
    walked: list[Step],
    sequences: str,
    make: Callable[..., Walk],
    unit: int = 1,
    by: str = "longest",
    **options: Any,
) -> None:
    """Lead a source and its twin along the steps `walked`, comparing everything that both tell."""
    laid = lay(root, case["name"], case["kind"], case["seed"], by)
    if laid.sweep is None:
        limit = {name: value for name, value in limit.items() if name != "max_sweeps"}
    skip, skip_rows = case["holes"]
    skip_rows = frozenset(row for row in skip_rows if row < len(laid.behind))
    axis = laid.axis(by, **limit, skip=skip, skip_rows=skip_rows)
    arguments = {
        "seed": case["seed"],
        "shuffle": laid.shuffle,
        "sequences": sequences,
        "skip": [*skip, SkipRows(skip_rows)],
        "transforms": case["transforms"],
        "threads": case["threads"],
        "length_field": None if by == "longest" else by,
        **limit,
        **options,
    }
    first, at_once = case["at_once"]
    with (
        mock.patch.object(minibatch.readahead, "BLOCK_BYTES", case["block_bytes"]),
        mock.patch.object(minibatch.sequences, "FIRST", first),
        mock.patch.object(minibatch.sequences, "AT_ONCE", at_once),
    ):
        source, twin = MinibatchSource(laid.data, **arguments), make(axis=axis)
        for step in walked:
            source = take(step, source, twin, laid, arguments, unit)
        source.close()


def take(
    step: Step, source: MinibatchSource, twin: Walk, laid: Laid, arguments: dict[str, Any], unit: int
) -> MinibatchSource:
    """One step of a walk; the source to go on with."""
    if step[0] == "read":
        _, size, (n, i), times = step
        seed = arguments["seed"] if arguments["transforms"] else None
        for _ in range(times):
            batch, expected = source.next_minibatch(size * unit, n, i), twin.next(size * unit, n, i)
            assert_equal(batch, expected, laid, seed)
    elif step[0] == "seek":
        source.seek(step[1] * unit)
        twin.seek(step[1] * unit)
    elif step[0] in ("restore", "close and open"):
        state = json.loads(json.dumps(source.get_checkpoint_state()))
        if step[0] == "close and open":
            source.close()
            source = MinibatchSource(laid.data, **arguments)
        else:
            source.next_minibatch(3 * unit)
        source.restore_from_checkpoint(state)
        assert source.get_checkpoint_state() == state
    elif step[0] in ("pickle", "deepcopy"):
        other = pickle.loads(pickle.dumps(source)) if step[0] == "pickle" else copy.deepcopy(source)
        assert other.get_checkpoint_state() == source.get_checkpoint_state()
        source.close()
        source = other
    elif step[0] == "at" and not isinstance(twin, Truncated):
        assert source.at(step[1], step[2]).tolist() == rows_at(twin, step[1], step[2])
    assert source.nominal_time == twin.time
    return source


def rows_at(twin: Whole | Packed, time: int, count: int) -> list[int]:
    """The rows whose elements stand at some nominal times, whatever the limits."""
    axis, found, place, begin = twin.axis, [], 0, 0
    while begin < time + count and place != axis.laid:
        found += [axis.row(place)] * max(0, min(begin + axis.size(place), time + count) - max(begin, time))
        begin += axis.size(place)
        place += 1
    return found


def from_everywhere(make: Callable[[], MinibatchSource], unit: int, reads: int) -> int:
    """From each of so many positions, a fresh source goes on as one that only sought the same time; how many there
    were before the end."""
    source, positions = make(), 0
    while positions < reads and source.next_minibatch(unit):
        state = source.get_checkpoint_state()
        restored, sought = make(), make()
        restored.restore_from_checkpoint(json.loads(json.dumps(state)))
        sought.seek(state["nominal_time"])
        going_on = copy.deepcopy(source)
        for size in (unit, 5 * unit, 2 * unit, 11 * unit):
            same = [each.next_minibatch(size) for each in (going_on, restored, sought)]
            assert len({(b.nominal_time, b.nominal_end, b.sweeps_ended, b.num_samples) for b in same}) == 1
            assert same[0].rows.tolist() == same[1].rows.tolist() == same[2].rows.tolist()
            assert same[0].times.tolist() == same[1].times.tolist() == same[2].times.tolist()
            assert all(np.array_equal(shown(same[0], name), shown(b, name)) for b in same for name in b.fields)
        assert going_on.get_checkpoint_state() == restored.get_checkpoint_state() == sought.get_checkpoint_state()
        for each in (going_on, restored, sought):
            each.close()
        positions += 1
    source.close()
    return positions


def shown(batch: Batch, name: str) -> Any:
    """The values of a field as one array."""
    values = batch[name]
    return values.values if isinstance(values, Ragged) else values
