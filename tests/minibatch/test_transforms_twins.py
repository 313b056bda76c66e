"""Every transform against its plain twin, and equal bits however nominal time is cut, over holes, in any company."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minibatch import rng
from minibatch.transforms import (
    Cast,
    CenterCrop,
    ColorJitter,
    ColorNoise,
    CutMix,
    Cutout,
    Dropout,
    GaussianNoise,
    HorizontalFlip,
    LabelSmoothing,
    MixUp,
    MultiCrop,
    Normalize,
    OneHot,
    RandomCrop,
    RandomErasing,
    RandomResizedCrop,
    Resize,
    apply,
    hull,
    name_operations,
)
from tests.plain import transforms as plain
from tests.plain.source import PlainDraws

pytestmark = pytest.mark.kernels

CLASSES = 4
seeds = st.integers(0, 2**64 - 1)
sides = st.integers(1, 7)
methods = st.sampled_from(["nearest", "bilinear", "area", "smooth"])
unit = st.floats(0, 1)
# Shape of an image, and its dtype.
pictures = st.tuples(
    st.tuples(sides, sides, st.sampled_from([None, 1, 2, 3, 4])).map(lambda s: s if s[2] else s[:2]),
    st.sampled_from([np.uint8, np.float32]),
)


def pixels(shape: tuple[int, ...], dtype: Any, salt: int = 0) -> np.ndarray:
    """Values without a pattern: bytes, or floats of either sign."""
    words = rng.bits(rng.key(7, "test.pixels", salt), np.arange(np.prod(shape, dtype=int))).reshape(shape)
    if np.dtype(dtype).kind == "f":
        return (words.astype(np.float64) / 2**63 - 1).astype(dtype)
    return (words >> np.uint64(40)).astype(dtype)


def sizes(height: int, width: int) -> st.SearchStrategy[Any]:
    """A crop that fits into an image of that size."""
    return st.tuples(st.integers(1, height), st.integers(1, width)) | st.integers(1, min(height, width))


@st.composite
def random_crops(draw: Any, shape: tuple[int, ...], dtype: Any) -> RandomCrop:
    mode = draw(st.sampled_from(["zero", "edge", "reflect"]))
    most = [side - 1 if mode == "reflect" else 9 for side in shape[:2]]
    padding = draw(st.tuples(*(st.integers(0, m) for m in most)) | st.integers(0, min(most)))
    above, beside = plain.pair(padding)
    return RandomCrop(size=draw(sizes(shape[0] + 2 * above, shape[1] + 2 * beside)), padding=padding, padding_mode=mode)


@st.composite
def resizes(draw: Any, shape: tuple[int, ...], dtype: Any) -> Resize:
    if draw(st.booleans()):
        return Resize(shorter_side=draw(st.integers(1, 9)), method=draw(methods))
    return Resize(size=draw(st.tuples(st.integers(1, 11), st.integers(1, 11))), method=draw(methods))


@st.composite
def resized_crops(draw: Any, shape: tuple[int, ...], dtype: Any) -> RandomResizedCrop:
    scale = tuple(sorted(draw(st.tuples(unit, unit))))
    ratio = tuple(sorted(draw(st.tuples(st.floats(0.1, 8), st.floats(0.1, 8)))))
    return RandomResizedCrop(
        size=draw(st.tuples(st.integers(1, 9), st.integers(1, 9))), scale=scale, ratio=ratio, method=draw(methods)
    )


@st.composite
def normalisations(draw: Any, shape: tuple[int, ...], dtype: Any) -> Normalize:
    channels = shape[2] if len(shape) == 3 else 1
    kinds = [(), (channels,), shape]
    mean, std = (pixels(draw(st.sampled_from(kinds)), np.float64, salt) for salt in (1, 2))
    return Normalize(
        mean=mean * 99,
        std=np.abs(std) + 0.1,
        unit=draw(st.sampled_from([1, 255.0])),
        channels_first=draw(st.booleans()),
    )


@st.composite
def color_noises(draw: Any, shape: tuple[int, ...], dtype: Any) -> ColorNoise:
    channels = shape[2] if len(shape) == 3 else 1
    directions = draw(st.integers(1, 3))
    return ColorNoise(
        vectors=pixels((directions, channels), np.float64, 3),
        amounts=pixels((directions,), np.float64, 4) * 50,
        scale=draw(st.sampled_from([0.0, 0.1, 2.0])),
        form=draw(st.sampled_from(["alexnet", "cuda-convnet2"])),
        center=draw(st.sampled_from([0.0, 120.0, tuple(pixels((channels,), np.float64, 5) * 9)])),
    )


@st.composite
def erasings(draw: Any, shape: tuple[int, ...], dtype: Any) -> RandomErasing:
    fills = st.sampled_from([0.0, 7.0, "noise"])
    scale = tuple(sorted(draw(st.tuples(unit, unit))))
    return RandomErasing(probability=draw(st.sampled_from([0.5, 1.0])), scale=scale, fill=draw(fills))


def fills(shape: tuple[int, ...]) -> st.SearchStrategy[Any]:
    channels = shape[2] if len(shape) == 3 else 1
    return st.sampled_from([0.0, 200.0, tuple(range(channels))])


def jitters(shape: tuple[int, ...], dtype: Any) -> st.SearchStrategy[Any]:
    change = st.sampled_from([0.0, 0.4, 1.5])
    return st.builds(ColorJitter, brightness=change, contrast=change, saturation=change)


# For images of some shape and dtype: the transforms to try. Random crops and the like keep all bits; those that draw
# normal numbers are compared with a tolerance, because a logarithm's last bit is the C library's.
IMAGES: dict[str, Any] = {
    "HorizontalFlip": lambda shape, dtype: st.builds(HorizontalFlip, probability=st.sampled_from([0.0, 0.5, 1.0])),
    "CenterCrop": lambda shape, dtype: st.builds(CenterCrop, size=sizes(*shape[:2])),
    "RandomCrop": random_crops,
    "MultiCrop": lambda shape, dtype: st.builds(
        MultiCrop, size=sizes(*shape[:2]), views=st.sampled_from(["corners", "grid"]), flips=st.booleans()
    ),
    "Resize": resizes,
    "RandomResizedCrop": resized_crops,
    "Normalize": normalisations,
    "ColorNoise": color_noises,
    "ColorJitter": jitters,
    "Cutout": lambda shape, dtype: st.builds(
        Cutout, size=st.tuples(st.integers(1, 9), st.integers(1, 9)), count=st.integers(1, 3), fill=fills(shape)
    ),
    "RandomErasing": erasings,
    "Cast": lambda shape, dtype: st.builds(
        Cast,
        field=st.just("image"),
        dtype=st.sampled_from(["uint8", "int16", "int64", "float16", "float32", "float64"]),
        scale=st.sampled_from([1.0, 1 / 255, -3.7]),
        shift=st.sampled_from([0.0, 0.5, 1e4]),
    ),
}
TOLERANT = {ColorNoise, RandomErasing, GaussianNoise}


@st.composite
def moments(draw: Any) -> np.ndarray:
    """Nominal times of some samples: ascending, anywhere on the axis, with holes."""
    start = draw(st.sampled_from([0, 5, 2**40]))
    steps = draw(st.lists(st.integers(1, 3), min_size=1, max_size=6))
    return start + np.cumsum(steps)


def applied(transform: Any, fields: dict[str, Any], seed: int, times: np.ndarray) -> dict[str, Any]:
    return apply(name_operations([transform]), fields, seed, times, times % 5)[0]


def check_against_twin(transform: Any, fields: dict[str, np.ndarray], seed: int, times: np.ndarray, draw: Any) -> None:
    """Equal to the twin, sample by sample; equal bits for any other set of samples; nothing written into."""
    before = {name: values.copy() for name, values in fields.items()}
    whole = applied(transform, fields, seed, times)
    assert all(np.array_equal(fields[name], before[name]) for name in fields), "what it was given is as it was"
    for i, time in enumerate(times.tolist()):
        one = {name: values[i] for name, values in fields.items()}
        expected = plain.sample(transform, one, PlainDraws(seed, type(transform).__name__, time))
        for name, values in whole.items():
            wanted = np.asarray(expected[name])
            assert (values[i].shape, values.dtype) == (wanted.shape, wanted.dtype)
            if type(transform) in TOLERANT and wanted.dtype.kind == "f":
                assert np.allclose(values[i], wanted, rtol=1e-6, atol=1e-6 * max(1.0, float(np.abs(wanted).max())))
            else:
                assert np.array_equal(values[i], wanted), (transform, name, time)
    chosen = np.array(draw(st.lists(st.booleans(), min_size=len(times), max_size=len(times))))
    for part in (chosen, ~chosen, np.arange(len(times)) < 1):
        some = applied(transform, {name: values[part] for name, values in fields.items()}, seed, times[part])
        for name, values in whole.items():
            assert (some[name].dtype, some[name].shape) == (values.dtype, values[part].shape)
            assert some[name].tobytes() == values[part].tobytes(), (transform, name)


@pytest.mark.parametrize("kind", IMAGES)
@given(st.data())
def test_an_image_transform_is_its_twin_whatever_the_company(kind, data):
    shape, dtype = data.draw(pictures)
    if kind == "ColorJitter" and len(shape) == 3:
        shape = (*shape[:2], data.draw(st.sampled_from([1, 3])))
    transform = data.draw(IMAGES[kind](shape, dtype))
    times = data.draw(moments())
    fields = {"image": pixels((len(times), *shape), dtype), "label": np.arange(len(times))}
    check_against_twin(transform, fields, data.draw(seeds), times, data.draw)


@given(
    st.data(),
    st.sampled_from([np.int32, np.float64, np.float16, np.uint16]),
    st.sampled_from([HorizontalFlip(), CenterCrop(size=2), RandomCrop(size=3, padding=1), MultiCrop(size=1)]),
)
def test_pixels_of_any_type_can_be_moved(data, dtype, transform):
    times = data.draw(moments())
    channels = data.draw(st.sampled_from([(), (2,), (5,)]))
    fields = {"image": pixels((len(times), 3, 4, *channels), dtype)}
    check_against_twin(transform, fields, data.draw(seeds), times, data.draw)


@given(st.data(), st.sampled_from([(), (5,), (2, 3)]), st.sampled_from([np.float16, np.float32, np.float64]))
def test_noise_and_dropout_are_their_twins(data, shape, dtype):
    times = data.draw(moments())
    fields = {"x": pixels((len(times), *shape), dtype)}
    kinds = [GaussianNoise(field="x", sigma=data.draw(st.sampled_from([0.0, 0.3])))]
    if dtype != np.float16:
        probability = data.draw(st.sampled_from([0.0, 0.25, 0.9]))
        kinds.append(Dropout(field="x", probability=probability, scale=data.draw(st.booleans())))
        kinds.append(Dropout(field="x", probability=1.0, scale=False))
    for transform in kinds:
        check_against_twin(transform, fields, data.draw(seeds), times, data.draw)


@given(st.data(), st.sampled_from([np.int64, np.uint8, np.int32]))
def test_labels_become_vectors_as_in_the_twin(data, dtype):
    times = data.draw(moments())
    label = np.array(data.draw(st.lists(st.integers(0, 3), min_size=len(times), max_size=len(times))), dtype)
    kind = data.draw(st.sampled_from(["float32", "float64", "int8"]))
    check_against_twin(OneHot(classes=CLASSES, dtype=kind), {"label": label}, 1, times, data.draw)
    smoothing = LabelSmoothing(classes=CLASSES, epsilon=data.draw(st.sampled_from([0.0, 0.1, 1.0])))
    check_against_twin(smoothing, {"label": label}, 1, times, data.draw)
    check_against_twin(smoothing, {"label": pixels((len(times), CLASSES), np.float32)}, 1, times, data.draw)


@given(st.data(), st.sampled_from(["int8", "uint8", "int64", "uint64", "float32"]))
def test_a_cast_cuts_and_rounds_as_its_twin(data, dtype):
    times = np.arange(3)
    floats = st.floats(allow_nan=False, width=64)
    numbers = data.draw(st.lists(floats, min_size=3, max_size=3))
    with np.errstate(over="ignore"):
        check_against_twin(Cast(field="x", dtype=dtype), {"x": np.array(numbers)}, 1, times, data.draw)
    whole = data.draw(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=3, max_size=3))
    check_against_twin(Cast(field="x", dtype=dtype), {"x": np.array(whole)}, 1, times, data.draw)


@st.composite
def mixings(draw: Any, shape: tuple[int, ...]) -> Any:
    kind = CutMix if len(shape) > 1 and draw(st.booleans()) else MixUp
    classes = draw(st.sampled_from([None, CLASSES]))
    return kind(
        alpha=draw(st.sampled_from([0.05, 0.2, 1.0, 3.0])),
        neighbourhood=draw(st.integers(1, 7)),
        classes=classes,
        probability=draw(st.sampled_from([0.5, 1.0])),
        label="label" if classes else draw(st.sampled_from(["label", None])),
    )


@given(st.data(), seeds, st.booleans(), st.sampled_from([0, 3, 2**40]))
def test_mixing_is_its_twin_and_equal_bits_however_whole_neighbourhoods_are_cut(data, seed, vectors, first):
    shape, dtype = data.draw(pictures | st.tuples(st.sampled_from([(), (5,)]), st.just(np.float32)))
    transform = data.draw(mixings(shape))
    size = transform.neighbourhood
    groups = data.draw(st.integers(1, 4))
    times = np.arange(first * size, (first + groups) * size)
    times = times[
        np.array(
            data.draw(st.lists(st.sampled_from([True, True, False]), min_size=len(times), max_size=len(times))), bool
        )
    ]
    label = pixels((len(times), CLASSES), np.float32) if vectors else times % CLASSES
    fields = {"image": pixels((len(times), *shape), dtype), "label": label}
    before = {name: values.copy() for name, values in fields.items()}
    whole = applied(transform, fields, seed, times)
    assert all(np.array_equal(fields[name], before[name]) for name in fields), "what it was given is as it was"

    samples = {t: {name: values[i] for name, values in fields.items()} for i, t in enumerate(times.tolist())}
    twins = plain.mixed(transform, samples, type(transform).__name__, seed)
    for i, time in enumerate(times.tolist()):
        assert set(whole) == set(twins[time])
        for name, wanted in twins[time].items():
            assert (whole[name][i].shape, whole[name].dtype) == (np.shape(wanted), np.asarray(wanted).dtype)
            assert np.allclose(whole[name][i], wanted, rtol=1e-6, atol=1e-4), (transform, name, time)

    for cut in data.draw(st.lists(st.integers(0, groups), max_size=3)):
        left = times < (first + cut) * size
        for part in (left, ~left):
            some = applied(transform, {name: values[part] for name, values in fields.items()}, seed, times[part])
            for name, values in whole.items():
                assert some[name].dtype == values.dtype
                assert some[name].tobytes() == values[part].tobytes(), (transform, name)


@given(st.data(), seeds, st.integers(1, 4), st.integers(1, 4))
@settings(max_examples=25)
def test_a_chain_gives_equal_bits_for_any_cut_at_multiples_of_its_hull(data, seed, one, two):
    operations = name_operations(
        [
            RandomCrop(size=4, padding=1),
            HorizontalFlip(),
            MixUp(alpha=1.0, neighbourhood=one, classes=CLASSES),
            Cutout(size=2),
            CutMix(neighbourhood=two, classes=CLASSES, probability=0.5),
            LabelSmoothing(classes=CLASSES),
            Normalize(mean=100.0, std=50.0, channels_first=True),
        ]
    )
    size = hull(operations)
    assert size == np.lcm(one, two)
    times = np.arange(3 * size, 7 * size)
    fields = {"image": pixels((len(times), 5, 5, 3), np.uint8), "label": times % CLASSES}
    whole, kept, rows = apply(operations, fields, seed, times, times * 3)
    assert np.array_equal(kept, times)
    assert np.array_equal(rows, times * 3)
    for cut in (3, 4, 5, 6, 7):
        for part in (times < cut * size, times >= cut * size):
            some, *_ = apply(operations, {n: v[part] for n, v in fields.items()}, seed, times[part], rows[part])
            assert all(some[name].tobytes() == whole[name][part].tobytes() for name in whole)
