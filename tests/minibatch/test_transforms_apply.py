"""Operations applied to samples: names, hulls, rows, dropped samples, notes on errors, and what may be returned."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibatch import errors
from minibatch.ragged import Ragged
from minibatch.rng import Draws
from minibatch.sparse import Sparse
from minibatch.transforms import GaussianNoise, HorizontalFlip, MixUp, apply, hull, name_operations, named
from minibatch.transforms.operations import room
from tests.plain.source import PlainDraws

Fields = dict[str, Any]


def ragged(rows: np.ndarray) -> Ragged:
    return Ragged.of([np.arange(row % 3) + row for row in rows.tolist()] or [np.arange(0)])[: len(rows)]


def sparse(rows: np.ndarray) -> Sparse:
    counts = rows % 2 + 1
    offsets = np.concatenate([[0], np.cumsum(counts)])
    indices = np.concatenate([np.arange(count) for count in counts] or [np.arange(0)])
    return Sparse(indices, indices + 0.5, offsets, 4)


def everything(rows: np.ndarray) -> Fields:
    names = np.array([f"row {row}" for row in rows.tolist()], object)
    nested = Ragged(ragged(np.arange(2 * len(rows))), np.arange(len(rows) + 1) * 2)
    return {"x": rows * 10, "name": names, "list": ragged(rows), "sparse": sparse(rows), "nested": nested}


def lists(values: Any) -> list[Any]:
    """Each sample of a field as plain Python."""
    if isinstance(values, Sparse):
        return [[part.tolist() for part in values[i]] for i in range(len(values))]
    if isinstance(values, Ragged):
        return [lists(values[i]) for i in range(len(values))]
    return values.tolist()


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=8), st.integers(0, 2**64 - 1))
def test_dropped_samples_are_gone_from_every_field_and_the_others_are_as_without_them(drops, seed):
    first, second = (np.array([drop[i] for drop in drops], bool) for i in range(2))
    rows, times = np.arange(len(drops)) * 2, 100 + np.arange(len(drops)) * 3

    def some(fields: Fields, draws: Draws) -> Fields:
        draws.drop(first)
        return {**fields, "a": draws.uniform()}

    def others(fields: Fields, draws: Draws) -> Fields:
        assert np.array_equal(draws.times, times[~first])
        assert np.array_equal(draws.rows, rows[~first])
        assert all(len(values) == (~first).sum() for values in fields.values())
        draws.drop(second[~first])
        return {**fields, "b": draws.uniform()}

    found, kept, left = apply(name_operations([some, others]), everything(rows), seed, times, rows)
    keep = ~(first | second)
    assert kept.tolist() == times[keep].tolist()
    assert left.tolist() == rows[keep].tolist()
    for name, values in everything(rows).items():
        assert type(found[name]) is type(values)
        assert lists(found[name]) == [one for one, there in zip(lists(values), keep, strict=True) if there]
    assert found["a"].tolist() == [PlainDraws(seed, "some", t).uniform() for t in kept.tolist()]
    assert found["b"].tolist() == [PlainDraws(seed, "others", t).uniform() for t in kept.tolist()]


def test_a_sample_dropped_before_is_no_partner():
    times = np.arange(4)

    def second_one(fields: Fields, draws: Draws) -> Fields:
        draws.drop(draws.times == 1)
        return fields

    operations = name_operations([second_one, MixUp(field="x", neighbourhood=4, alpha=1.0)])
    fields = {"x": np.eye(4, dtype=np.float32), "label": np.arange(4)}
    found, *_ = apply(operations, fields, 3, times, times)
    assert (found["x"][:, 1] == 0).all()
    assert set(found["label_b"].tolist()) <= {0, 2, 3}


def test_what_a_transform_does_to_times_and_rows_reaches_nobody():
    times, rows = np.arange(3), np.arange(3) + 7

    def takes(fields: Fields, draws: Draws) -> Fields:
        return {**fields, "time": draws.times, "row": draws.rows}

    def spoils(fields: Fields, draws: Draws) -> Fields:
        fields["time"] += 50
        fields["row"] += 50
        draws.times[:] = 0
        return fields

    found, kept, left = apply(name_operations([takes, spoils]), {}, 1, times, rows)
    assert found["time"].tolist() == [50, 51, 52]
    assert kept.tolist() == times.tolist() == [0, 1, 2]
    assert left.tolist() == rows.tolist() == [7, 8, 9]


def test_no_operations_change_nothing():
    fields = everything(np.arange(3))
    found, kept, left = apply([], fields, 1, np.arange(3), np.arange(3))
    assert found == fields
    assert kept.tolist() == left.tolist() == [0, 1, 2]


def test_an_error_has_a_note_with_the_transform_the_time_and_some_rows():
    def fails(fields: Fields, draws: Draws) -> Fields:
        raise RuntimeError("broken")

    operations = name_operations([HorizontalFlip(), fails, fails])
    fields = {"image": np.zeros((10, 2, 2))}
    with pytest.raises(RuntimeError, match="broken") as caught:
        apply(operations, fields, 1, np.arange(70, 80), np.arange(10) * 3)
    assert caught.value.__notes__ == [
        "raised in transform fails, for 10 samples from nominal time 70 (rows 0, 3, 6, 9, 12, 15, 18, 21, …)"
    ]
    with pytest.raises(RuntimeError) as caught:
        apply([operations[2]], {}, 1, np.arange(0), np.arange(0))
    assert caught.value.__notes__ == ["raised in transform fails.1, for 0 samples from nominal time None"]


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (None, "transform wrong returned NoneType, expected the dict of fields"),
        ({"x": np.zeros((2, 5))}, r"returned field 'x' of shape \(2, 5\) for 3 samples"),
        ({"x": np.array(1.0)}, r"returned field 'x' of shape \(\) for 3 samples"),
        ({"x": [1, 2, 3]}, "returned field 'x' of shape list for 3 samples"),
        ({"x": np.float32(1)}, "returned field 'x' of shape float32 for 3 samples"),
        ({"x": Ragged.of([np.zeros(2)])}, "returned field 'x' of shape Ragged of 1 for 3 samples"),
        ({"x": sparse(np.arange(4))}, "returned field 'x' of shape Sparse of 4 for 3 samples"),
    ],
)
def test_what_is_returned_must_have_a_value_for_each_sample(returned, message):
    def wrong(fields: Fields, draws: Draws) -> Any:
        return returned

    with pytest.raises((TypeError, errors.SchemaError), match=message):
        apply(name_operations([wrong]), {"x": np.zeros(3)}, 1, np.arange(3), np.arange(3))


def test_the_hull_is_the_least_common_multiple_of_all_neighbourhoods():
    def plain(fields: Fields, draws: Draws) -> Fields:
        return fields

    def grouped(fields: Fields, draws: Draws) -> Fields:
        return fields

    grouped.neighbourhood = 10  # type: ignore[attr-defined]
    assert hull([]) == 1
    assert hull(name_operations([plain, HorizontalFlip()])) == 1
    assert hull(name_operations([plain, grouped, MixUp(neighbourhood=4), MixUp(neighbourhood=6)])) == 60
    grouped.neighbourhood = 0  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="neighbourhood of transform grouped must be at least 1, got 0"):
        hull(name_operations([grouped]))


def test_a_field_that_is_no_array_is_told_so():
    with pytest.raises(errors.SchemaError, match=r"field 'x' is a Ragged, expected an array .* \.padded\(\)"):
        named("x", {"x": ragged(np.arange(3))})
    with pytest.raises(errors.SchemaError, match=r"no field 'y': the minibatch has \['x'\]"):
        named("y", {"x": np.arange(3)})


def test_the_numbers_of_flips_and_noise_are_those_of_the_first_release():
    """Frozen: a run that is resumed with a new release sees the same augmentation."""
    times = np.array([0, 1, 2, 1000, 2**40])
    fields = {"image": np.array([[[1, 2]]] * 5), "x": np.zeros((5, 2))}
    operations = name_operations([HorizontalFlip(), GaussianNoise(field="x", sigma=1.0), HorizontalFlip()])
    found, *_ = apply(operations[:2], fields, 7, times, times)
    assert found["image"][:, 0, 0].tolist() == FROZEN_FLIPS
    assert found["x"].round(6).tolist() == FROZEN_NOISE
    noise = Draws(7, "GaussianNoise", times).normal((2,)) * 0.3
    values = (noise / 7).astype(np.float32)
    noisy = GaussianNoise(field="x", sigma=0.3)({"x": values}, Draws(7, "GaussianNoise", times))["x"]
    assert noisy.tobytes() == (values + noise).astype(np.float32).tobytes()


FROZEN_FLIPS = [2, 1, 2, 2, 1]
FROZEN_NOISE = [
    [0.714742, -0.255689],
    [0.136172, 1.244486],
    [0.877556, 1.141473],
    [-0.472572, -0.610597],
    [0.205263, -0.240132],
]


def test_memory_of_a_result_is_used_again_only_when_nobody_holds_it():
    held = room((2 << 20,), np.uint8)
    held[:] = 1
    part = held[5:9]
    del held
    for _ in range(5):
        room((2 << 20,), np.uint8)[:] = 2
    assert part.tolist() == [1, 1, 1, 1]
