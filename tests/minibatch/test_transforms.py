"""Transforms inside a source: equal bits however the axis is cut, clear errors, and nothing lost after one."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minibatch.readahead
from minibatch import Dataset, DatasetWriter, MinibatchSource, SkipRows, Window, errors
from minibatch.rng import Draws
from minibatch.transforms import CutMix, GaussianNoise, HorizontalFlip, MixUp, name_operations
from tests.plain.source import PlainDraws

ROWS = 60


def content(rows: np.ndarray) -> dict[str, np.ndarray]:
    return {
        "row": rows.astype(np.int64),
        "image": (rows[:, None, None] * 12 + np.arange(12).reshape(3, 4)).astype(np.int32),
        "x": (rows[:, None] / 7 + np.arange(5)).astype(np.float32),
        "name": np.array([f"row {row}" for row in rows.tolist()], object),
    }


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    path: Path = tmp_path_factory.mktemp("data") / "images"
    with DatasetWriter(path, chunk_rows=7, shard_rows=21) as writer:
        writer.write(content(np.arange(ROWS)))
    return Dataset.open(path)


def shifted(fields: dict[str, Any], draws: Draws) -> dict[str, Any]:
    """A user's function: writes in place, adds a field and leaves one out."""
    fields["image"] += draws.integers(1000, (1, 1)).astype(np.int32)
    del fields["name"]
    return {**fields, "where": draws.uniform((2,)), "time": draws.times}


EVERYTHING = (
    HorizontalFlip(field="image"),
    GaussianNoise(field="x", sigma=0.5),
    HorizontalFlip(field="image", probability=0.9),
    shifted,
    GaussianNoise(field="where", sigma=2.0),
)


def plain_sample(row: int, time: int, seed: int) -> dict[str, np.ndarray]:
    """What EVERYTHING makes of one sample, from numbers drawn one by one."""
    fields = {name: values[0] for name, values in content(np.array([row])).items()}
    for name, probability in (("HorizontalFlip", 0.5), ("HorizontalFlip.1", 0.9)):
        if PlainDraws(seed, name, time).uniform() < probability:
            fields["image"] = np.array([line[::-1] for line in fields["image"].tolist()], np.int32)
    noise = np.array(PlainDraws(seed, "GaussianNoise", time).normals(5))
    fields["x"] = (fields["x"] + noise * 0.5).astype(np.float32)
    draws = PlainDraws(seed, "shifted", time)
    fields["image"] = fields["image"] + draws.integer(1000)
    fields["where"] = np.array([draws.uniform(), draws.uniform()])
    fields["where"] += np.array(PlainDraws(seed, "GaussianNoise.1", time).normals(2)) * 2.0
    fields["time"] = np.array(time)
    del fields["name"]
    return fields


@given(
    st.integers(0, 2**64 - 1),
    st.sampled_from(["full", Window(rows=14), None]),
    st.lists(st.tuples(st.integers(1, 70), st.integers(1, 4), st.booleans()), min_size=1, max_size=6),
    st.integers(0, 200),
    st.sampled_from([64, 1000, 8 << 20]),
)
def test_every_sample_is_what_its_nominal_time_makes_of_it(dataset, seed, shuffle, steps, start, block_bytes):
    """Any k, any parts, after any restore, over holes: each sample equals its twin; one time, equal bits."""
    skip = [(20, 24), SkipRows([13])]
    bits: dict[int, bytes] = {}

    def opened() -> MinibatchSource:
        return MinibatchSource(dataset, seed, shuffle, transforms=EVERYTHING, skip=skip)

    ranks = [opened() for _ in range(4)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(minibatch.readahead, "BLOCK_BYTES", block_bytes)
        for k, n, restored in [*steps, (30, 3, True), (1, 1, False)]:
            for i, rank in enumerate(ranks):
                if restored:
                    ranks[i] = opened()
                    ranks[i].restore_from_checkpoint(rank.get_checkpoint_state())
                batch = ranks[i].next_minibatch(k, n, i % n)
                assert batch.fields == ("row", "image", "x", "where", "time")
                for j in range(len(batch)):
                    time = int(batch.times[j])
                    found = b"".join(batch[name][j].tobytes() for name in batch.fields)
                    assert bits.setdefault(time, found) == found
                    expected = plain_sample(int(batch.rows[j]), time, seed)
                    for name in ("row", "image", "time"):
                        assert np.array_equal(batch[name][j], expected[name])
                    for name, error in (("x", 1e-6), ("where", 1e-12)):  # a logarithm's last bit is the C library's
                        assert np.allclose(batch[name][j], expected[name], rtol=error, atol=error)
                        assert batch[name].dtype == expected[name].dtype


def test_equal_bits_for_any_cut_restore_and_number_of_ranks(dataset):
    whole = MinibatchSource(dataset, 3, transforms=EVERYTHING).next_minibatch(150)
    for k, n in [(1, 1), (7, 1), (50, 3), (64, 5), (3, 4)]:
        for t in range(0, 150, k):
            for i in range(n):
                source = MinibatchSource(dataset, 3, transforms=EVERYTHING, max_samples=150)
                source.seek(t)
                batch = source.next_minibatch(k, n, i)
                for name in batch.fields:
                    assert batch[name].dtype == whole[name].dtype
                    assert np.array_equal(batch[name], whole[name][batch.times])


def test_two_of_a_kind_draw_differently_and_an_operation_keeps_its_numbers_in_company(dataset):
    def flips(*transforms: Any) -> np.ndarray:
        batch = MinibatchSource(dataset, 3, transforms=transforms).next_minibatch(ROWS)
        return batch["image"][:, 0, 0] > batch["image"][:, 0, 1]

    one, two = HorizontalFlip(), HorizontalFlip()
    first, both = flips(one), flips(one, two)
    second = first ^ both
    assert first.any()
    assert not first.all()
    assert not np.array_equal(first, second)
    noisy = flips(GaussianNoise(field="x", sigma=1.0), one)
    assert np.array_equal(noisy, first), "an operation of another kind beside it changes nothing"


def test_seeds_and_sweeps_draw_differently(dataset):
    def noise(seed: int, sweep: int) -> bytes:
        source = MinibatchSource(dataset, seed, None, transforms=[GaussianNoise(field="x", sigma=1.0)])
        source.seek(sweep * ROWS)
        return source.next_minibatch(ROWS)["x"].tobytes()

    assert len({noise(seed, sweep) for seed in range(3) for sweep in range(3)}) == 9


def test_names_are_those_of_functions_and_classes_and_number_the_second_of_a_kind():
    names = [name for name, _ in name_operations([shifted, HorizontalFlip(), shifted, HorizontalFlip(), shifted])]
    assert names == ["shifted", "HorizontalFlip", "shifted.1", "HorizontalFlip.1", "shifted.2"]


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_flips_that_are_certain(dataset, probability):
    flip = HorizontalFlip(probability=probability)
    batch = MinibatchSource(dataset, 3, transforms=[flip]).next_minibatch(ROWS)
    images = content(batch.rows)["image"]
    assert np.array_equal(batch["image"], images[:, :, ::-1] if probability else images)
    given = images.copy()
    flip({"image": given}, Draws(1, "flip", np.arange(ROWS)))
    assert np.array_equal(given, images), "what it was given is as it was"


@pytest.mark.parametrize(
    ("dtype", "sigma"), [(np.float16, 0.1), (np.float32, 0.0), (np.float32, 3.0), (np.float64, 1e-3)]
)
def test_noise_keeps_the_dtype_and_has_its_deviation(dtype, sigma):
    values = np.full((4000, 2), 5, dtype)
    noisy = GaussianNoise(field="x", sigma=sigma)({"x": values}, Draws(1, "noise", np.arange(4000)))["x"]
    assert noisy.dtype == dtype
    assert abs(noisy.astype(np.float64).std() - sigma) <= 0.05 * sigma
    assert (values == 5).all(), "what it was given is as it was"


@pytest.mark.parametrize("probability", [-0.1, 1.5, float("nan")])
def test_an_impossible_probability_is_refused(probability):
    with pytest.raises(ValueError, match="must be in 0 … 1, got"):
        HorizontalFlip(probability=probability)


@pytest.mark.parametrize("sigma", [-1.0, float("nan"), float("inf")])
def test_an_impossible_deviation_is_refused(sigma):
    with pytest.raises(ValueError, match="must be finite and at least 0, got"):
        GaussianNoise(field="x", sigma=sigma)


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (HorizontalFlip(field="picture"), r"no field 'picture': the minibatch has \['row', 'image', 'x', 'name'\]"),
        (
            HorizontalFlip(field="x"),
            r"field 'x' has shape \(10, 5\) and dtype float32, expected numbers \(n, height, width",
        ),
        (GaussianNoise(field="image", sigma=1.0), "field 'image' has dtype int32, expected floating point"),
    ],
)
def test_a_field_that_does_not_fit_a_transform_is_a_clear_error(dataset, transform, message):
    with pytest.raises(errors.SchemaError, match=message) as caught:
        MinibatchSource(dataset, transforms=[transform]).next_minibatch(10)
    assert "for 10 samples from nominal time 0" in caught.value.__notes__[0]


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (lambda fields: None, "transform wrong returned NoneType, expected the dict of fields"),
        (lambda fields: fields["x"], "transform wrong returned ndarray"),
        (lambda fields: [fields], "transform wrong returned list"),
        (lambda fields: {**fields, "x": fields["x"][1:]}, r"returned field 'x' of shape \(9, 5\) for 10 samples"),
        (lambda fields: {**fields, "x": fields["x"].mean()}, "returned field 'x' of shape float32 for 10 samples"),
        (lambda fields: {**fields, "x": np.array(1.0)}, r"returned field 'x' of shape \(\) for 10 samples"),
        (lambda fields: {**fields, "x": fields["x"].tolist()}, "returned field 'x' of shape list for 10 samples"),
    ],
)
def test_a_transform_that_returns_something_else_is_named_and_nothing_moves(dataset, returned, message):
    def wrong(fields: dict[str, Any], draws: Draws) -> Any:
        return returned(fields)

    source = MinibatchSource(dataset, transforms=[wrong])
    with pytest.raises((TypeError, errors.SchemaError), match=message):
        source.next_minibatch(10)
    assert source.nominal_time == 0


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize("block_bytes", [64, 1000, 8 << 20])
def test_after_an_error_in_a_transform_time_stands_and_reading_goes_on_unharmed(dataset, error, block_bytes):
    """It wrote into the samples before it failed, also while reading ahead; the next try must not see that."""
    failing = [True]

    def sound(fields: dict[str, Any], draws: Draws) -> dict[str, Any]:
        fields["x"] *= 2
        fields["image"] += 5
        return fields

    def fragile(fields: dict[str, Any], draws: Draws) -> dict[str, Any]:
        sound(fields, draws)
        if failing[0] and (draws.times == 45).any():
            raise error("broken")
        return fields

    expected = MinibatchSource(dataset, 3, transforms=[sound, HorizontalFlip()])
    source = MinibatchSource(dataset, 3, transforms=[fragile, HorizontalFlip()])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(minibatch.readahead, "BLOCK_BYTES", block_bytes)
        for step in range(20):
            if step == 6:  # times 42 … 48
                for _ in range(3):
                    with pytest.raises(error, match="broken"):
                        source.next_minibatch(7)
                    assert source.nominal_time == 42
                failing[0] = False
            found, wanted = source.next_minibatch(7), expected.next_minibatch(7)
            assert all(np.array_equal(found[name], wanted[name]) for name in wanted.fields)


@given(
    st.integers(0, 2**64 - 1),
    st.lists(st.tuples(st.integers(1, 40), st.integers(1, 3)), min_size=1, max_size=5),
    st.integers(0, 130),
    st.integers(1, 6),
    st.integers(1, 6),
)
def test_mixing_sees_whole_neighbourhoods_whatever_is_asked_for(dataset, seed, steps, start, one, two):
    """Any k, any parts, any start, over holes: equal bits."""
    chain = [
        CutMix(field="image", label="row", neighbourhood=one, classes=ROWS),
        MixUp(field="x", label=None, neighbourhood=two, alpha=1.0),
    ]

    def opened() -> MinibatchSource:
        return MinibatchSource(dataset, seed, transforms=chain, skip=[(20, 24), SkipRows([13, 14])])

    everything = opened().next_minibatch(400)
    place = {time: i for i, time in enumerate(everything.times.tolist())}
    for i in range(3):
        source = opened()
        source.seek(start)
        for k, n in steps:
            batch = source.next_minibatch(k, n, i % n)
            chosen = [place[time] for time in batch.times.tolist()]
            assert batch.fields == everything.fields
            for name in ("row", "image", "x", "lambda"):
                assert batch[name].tobytes() == everything[name][chosen].tobytes()


def test_a_dropped_sample_is_a_hole_in_every_cut(dataset):
    """By its row: the sample is missing, all others are as they are without the drop, and time counts on."""

    def without_every_third(fields: dict[str, Any], draws: Draws) -> dict[str, Any]:
        draws.drop(draws.rows % 3 == 0)
        return fields

    whole = MinibatchSource(dataset, 3, transforms=[GaussianNoise(field="x", sigma=1.0)]).next_minibatch(150)
    kept = whole.rows % 3 != 0
    for k, n in [(150, 1), (7, 1), (50, 3), (1, 1)]:
        parts: list[list[Any]] = [[] for _ in range(n)]
        for i in range(n):
            operations = [without_every_third, GaussianNoise(field="x", sigma=1.0)]
            source = MinibatchSource(dataset, 3, transforms=operations, max_samples=150)
            for batch in source.minibatches(k, n, i):
                assert (batch.rows % 3 != 0).all()
                assert len(batch) == len(batch.times) == len(batch["x"]) == len(batch["name"])
                parts[i] += [batch]
            assert source.nominal_time == 150
        batches = [batch for step in zip(*parts, strict=True) for batch in step]
        assert np.concatenate([batch.times for batch in batches]).tolist() == whole.times[kept].tolist()
        assert np.array_equal(np.concatenate([batch["x"] for batch in batches]), whole["x"][kept])


def test_writing_in_place_changes_neither_the_next_minibatch_nor_a_second_reading(dataset):
    source = MinibatchSource(dataset, 3, transforms=[shifted])
    first = [source.next_minibatch(7)["image"].copy() for _ in range(20)]
    source.seek(0)
    assert all(np.array_equal(source.next_minibatch(7)["image"], image) for image in first)


def test_an_empty_part_and_the_end_go_through_transforms_too(dataset):
    source = MinibatchSource(dataset, 3, transforms=EVERYTHING, max_samples=4)
    for batch in (source.next_minibatch(2, 3, 2), source.next_minibatch(2, 4, 3), source.next_minibatch(2)):
        assert batch.fields == ("row", "image", "x", "where", "time")
        assert (batch["where"].shape, batch["where"].dtype) == ((0, 2), np.float64)
        assert (batch["image"].shape, batch["image"].dtype) == ((0, 3, 4), np.int32)
