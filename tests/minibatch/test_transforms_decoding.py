"""DecodeImage: what the libraries decode, cropped as its plain twin says, equal for any threads; broken images."""

import importlib.util
import itertools
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minibatch import errors, rng
from minibatch.ragged import Ragged
from minibatch.rng import Draws
from minibatch.transforms import (
    CenterCrop,
    DecodeImage,
    HorizontalFlip,
    RandomCrop,
    RandomResizedCrop,
    apply,
    decoding,
    name_operations,
)
from tests.plain import transforms as plain
from tests.plain.source import PlainDraws

cv2 = pytest.importorskip("cv2")
simplejpeg = pytest.importorskip("simplejpeg")


def picture(height: int, width: int, salt: int = 0) -> np.ndarray:
    """A smooth picture with some noise, uint8 (height, width, 3)."""
    coarse = rng.uniform(rng.key(7, "test.picture", salt), np.arange(48)).reshape(4, 4, 3)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR) * 200
    noise = rng.uniform(rng.key(8, "test.picture", salt), np.arange(smooth.size)).reshape(smooth.shape) * 40
    return np.asarray(smooth + noise).astype(np.uint8)


def encoded(image: np.ndarray, ending: str = ".jpg") -> bytes:
    if ending == ".jpg":
        return bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(image), quality=90))
    options = [cv2.IMWRITE_WEBP_QUALITY, 101] if ending == ".webp" else []
    return bytes(cv2.imencode(ending, image[:, :, ::-1] if image.ndim == 3 else image, options)[1].tobytes())


def objects(values: list[Any]) -> np.ndarray:
    out = np.empty(len(values), object)
    out[:] = values
    return out


def decode(transform: DecodeImage, images: list[Any], seed: int = 7, first: int = 0) -> np.ndarray:
    times = np.arange(first, first + len(images))
    return apply([("DecodeImage", transform)], {"image": objects(images)}, seed, times, times)[0]["image"]


@pytest.mark.parametrize("ending", [".jpg", ".png", ".bmp", ".webp", ".tiff"])
@pytest.mark.parametrize("channels", ["rgb", "gray"])
def test_images_of_any_format_are_what_their_library_decodes(ending, channels):
    images = [picture(17, 23, salt) for salt in range(3)]
    data = [encoded(image, ending) for image in images]
    found = decode(DecodeImage(channels=channels), data)
    if ending == ".jpg":
        wanted = np.stack([simplejpeg.decode_jpeg(each, channels) for each in data])
    elif channels == "rgb":
        wanted = np.stack(images)
    else:
        wanted = np.stack([cv2.imdecode(np.frombuffer(each, np.uint8), cv2.IMREAD_GRAYSCALE) for each in data])
    assert np.array_equal(found, wanted if channels == "rgb" else wanted.reshape(3, 17, 23))
    assert found.dtype == np.uint8


def test_formats_may_be_mixed_and_grey_images_become_three_channels():
    image = picture(8, 9)
    grey = np.ascontiguousarray(image[:, :, :1])
    data = [encoded(image, ".png"), bytes(simplejpeg.encode_jpeg(grey, colorspace="gray")), encoded(grey, ".png")]
    found = decode(DecodeImage(), data)
    assert np.array_equal(found[0], image)
    assert np.array_equal(found[2], np.repeat(grey, 3, 2))
    assert np.array_equal(found[1][:, :, 0], found[1][:, :, 2])


def test_deep_and_transparent_images_are_cut_to_eight_bits_and_three_channels():
    image = picture(8, 9)
    deep = bytes(cv2.imencode(".png", image[:, :, ::-1].astype(np.uint16) * 257)[1].tobytes())
    clear = bytes(cv2.imencode(".png", np.dstack([image[:, :, ::-1], image[:, :, :1]]))[1].tobytes())
    assert np.array_equal(decode(DecodeImage(), [deep, clear]), np.stack([image, image]))


def test_a_jpeg_in_the_four_colours_of_print_goes_through_opencv():
    from io import BytesIO

    from PIL import Image

    file = BytesIO()
    Image.fromarray(picture(16, 16)).convert("CMYK").save(file, "JPEG", quality=95)
    assert simplejpeg.decode_jpeg_header(file.getvalue())[2] in ("CMYK", "YCCK")
    found = decode(DecodeImage(), [file.getvalue()])[0]
    wanted = cv2.imdecode(np.frombuffer(file.getvalue(), np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]
    assert np.array_equal(found, wanted)


def twin(transform: DecodeImage, image: np.ndarray, seed: int, time: int) -> np.ndarray:
    """Crop, flip and size of a decoded image, step by step."""
    draws = PlainDraws(seed, "DecodeImage", time)
    if transform.size is not None or transform.shorter_side is not None:
        image = plain.resize(transform, image, draws)
    if transform.crop is not None:
        image = plain.TWINS[type(transform.crop)](transform.crop, image, draws)
    return image if transform.flip is None else plain.flip(transform.flip, image, draws)


FORMS = [
    DecodeImage(crop=RandomCrop(size=(6, 5)), flip=HorizontalFlip()),
    DecodeImage(crop=RandomCrop(size=(9, 12), padding=(2, 3), padding_mode="reflect"), flip=HorizontalFlip()),
    DecodeImage(crop=CenterCrop(size=7)),
    DecodeImage(crop=RandomResizedCrop(size=(8, 6)), flip=HorizontalFlip(), channels="gray"),
    DecodeImage(crop=RandomResizedCrop(size=5, method="smooth")),
    DecodeImage(size=(5, 6), flip=HorizontalFlip()),
    DecodeImage(size=6, method="area", channels="gray"),
    DecodeImage(shorter_side=9, crop=RandomCrop(size=8), flip=HorizontalFlip(probability=1.0)),
    DecodeImage(shorter_side=20, method="bilinear", crop=CenterCrop(size=(15, 20))),
]
SHAPES = [(8, 9), (10, 9), (11, 14), (8, 15)]
DATA = [encoded(picture(*shape, salt), ending) for salt, shape in enumerate(SHAPES) for ending in (".jpg", ".png")]


@pytest.mark.parametrize("form", FORMS)
@given(
    st.integers(0, 2**64 - 1),
    st.sampled_from([0, 2**40]),
    st.lists(st.sampled_from(range(len(DATA))), min_size=1, max_size=7),
    st.integers(1, 4),
    st.integers(0, 7),
)
@settings(max_examples=25)
def test_sizes_crops_and_flips_while_decoding_are_the_twins_for_any_threads_and_cut(
    form, seed, first, chosen, threads, cut
):
    images = [DATA[i] for i in chosen]
    operation = DecodeImage(**{**vars_of(form), "threads": threads})
    found = decode(operation, images, seed, first)
    whole = [decode(DecodeImage(channels=form.channels), [image])[0] for image in images]
    for i, image in enumerate(whole):
        assert np.array_equal(found[i], twin(form, image, seed, first + i)), (form, i)
    parts = [part for part in ((0, cut), (cut, len(images))) if images[slice(*part)]]
    pieces = [decode(form, images[lo:hi], seed, first + lo) for lo, hi in parts]
    assert np.concatenate(pieces).tobytes() == found.tobytes()


def vars_of(form: DecodeImage) -> dict[str, Any]:
    return {name: getattr(form, name) for name in form.__dataclass_fields__}


@pytest.mark.parametrize(("shape", "wanted", "factor"), [((64, 48), 12, 4), ((64, 48), 13, 2), ((65, 200), 8, 8)])
def test_reduced_decodes_a_jpeg_at_the_smallest_size_that_is_large_enough(shape, wanted, factor):
    data = encoded(picture(*shape))
    height, width = -(-shape[0] // factor), -(-shape[1] // factor)
    small = simplejpeg.decode_jpeg(data, min_height=height, min_width=width, min_factor=factor)
    assert small.shape == (height, width, 3)
    found = decode(DecodeImage(shorter_side=wanted, crop=CenterCrop(size=wanted), reduced=True), [data])[0]
    resized = plain.resize(DecodeImage(shorter_side=wanted), small, None)
    assert np.array_equal(found, plain.center_crop(CenterCrop(size=wanted), resized, None))


def test_lists_of_bytes_as_numbers_are_images_too():
    images = [encoded(picture(8, 9, salt)) for salt in range(3)]
    ragged = Ragged.of([np.frombuffer(image, np.uint8) for image in images])
    draws = Draws(7, "DecodeImage", np.arange(3))
    assert np.array_equal(DecodeImage()({"image": ragged}, draws)["image"], decode(DecodeImage(), images))
    views = [memoryview(images[0]), bytearray(images[1]), images[2]]
    assert np.array_equal(decode(DecodeImage(), views), decode(DecodeImage(), images))


def broken_images() -> dict[str, Any]:
    jpeg, png = encoded(picture(16, 16)), encoded(picture(16, 16), ".png")
    flipped = bytearray(png)
    flipped[len(png) // 2] ^= 255
    huge = bytearray(jpeg)
    at = jpeg.index(b"\xff\xc0") + 5
    huge[at : at + 4] = b"\xff\xf0\xff\xf0"
    return {
        "empty": b"",
        "text": b"no image at all",
        "jpeg cut off": jpeg[: len(jpeg) // 2],
        "jpeg begun": jpeg[:20],
        "jpeg of 4 billion pixels": bytes(huge),
        "png cut off": png[: len(png) // 2],
        "png damaged": bytes(flipped),
        "string": "text",
        "nothing": None,
        "numbers": np.zeros(5),
        "too small": encoded(picture(3, 16)),
    }


@pytest.mark.parametrize("kind", broken_images())
def test_a_broken_image_is_an_error_with_its_row_or_a_hole(kind):
    bad, good = broken_images()[kind], [encoded(picture(16, 16, salt)) for salt in range(3)]
    fields = {"image": objects([*good[:2], bad, good[2], bad]), "x": np.arange(5)}
    times, rows = np.arange(100, 105), np.array([7, 1, 42, 3, 5])
    for threads in (1, 3):
        strictly = DecodeImage(crop=RandomCrop(size=8), threads=threads)
        with pytest.raises(errors.DatasetError, match=r"field 'image', row 42 \(nominal time 102\): ") as caught:
            apply(name_operations([strictly]), fields, 1, times, rows)
        assert 'broken="hole"' in str(caught.value)
        assert "rows 7, 1, 42" in caught.value.__notes__[0]
        leniently = DecodeImage(crop=RandomCrop(size=8), threads=threads, broken="hole")
        found, kept, left = apply(name_operations([leniently]), fields, 1, times, rows)
        assert kept.tolist() == [100, 101, 103]
        assert left.tolist() == [7, 1, 3]
        assert found["x"].tolist() == [0, 1, 3]
        alone = [
            apply(name_operations([strictly]), {"image": objects([image])}, 1, np.array([time]), np.array([0]))[0]
            for image, time in zip(good, kept, strict=True)
        ]
        assert np.array_equal(found["image"], np.concatenate([one["image"] for one in alone]))


def test_a_minibatch_of_broken_images_alone_is_all_holes():
    for form in (DecodeImage(broken="hole"), DecodeImage(broken="hole", size=4)):
        times = np.arange(3)
        found, kept, _ = apply(name_operations([form]), {"image": objects([b"", b"x", b"y"])}, 1, times, times)
        assert len(kept) == len(found["image"]) == 0


def test_an_empty_minibatch_has_the_shape_that_is_known():
    assert decode(DecodeImage(crop=CenterCrop(size=(4, 5))), []).shape == (0, 4, 5, 3)
    assert decode(DecodeImage(size=6, channels="gray"), []).shape == (0, 6, 6)


def test_a_jpeg_that_is_cut_off_can_be_accepted_as_far_as_it_goes():
    data = encoded(picture(64, 64))
    found = decode(DecodeImage(strict=False), [data[: len(data) * 2 // 3]])[0]
    whole = decode(DecodeImage(), [data])[0]
    assert np.array_equal(found[:16], whole[:16])
    assert not np.array_equal(found, whole)


@pytest.mark.parametrize("form", [DecodeImage(), DecodeImage(shorter_side=8)])
def test_images_of_differing_sizes_need_a_size(form):
    images = [encoded(picture(16, 16)), encoded(picture(16, 20)), encoded(picture(16, 20))]
    with pytest.raises(errors.SchemaError, match=r"images differ in size: row 1 \(nominal time 1\) is .*×.*give size="):
        decode(form, images)


def test_what_a_transform_was_given_is_as_it_was():
    images = objects([encoded(picture(9, 9)), encoded(picture(9, 9, 1))])
    fields = {"image": images, "x": np.arange(2)}
    before = list(images)
    out = DecodeImage()(fields, Draws(1, "d", np.arange(2)))
    assert list(fields["image"]) == before
    assert out["x"] is fields["x"]


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
@pytest.mark.parametrize("threads", [1, 4])
def test_another_error_in_a_thread_is_raised_in_the_caller(monkeypatch, error, threads):
    real, count = decoding.decoded, itertools.count()

    def fails(*arguments: Any) -> Any:
        if next(count) == 3:
            raise error("stop")
        return real(*arguments)

    monkeypatch.setattr(decoding, "decoded", fails)
    with pytest.raises(error, match="stop"):
        decode(DecodeImage(crop=CenterCrop(size=4), threads=threads), [DATA[0]] * 20)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": "bgr"}, r"channels=…\) must be one of \('rgb', 'gray'\), got 'bgr'"),
        ({"broken": "skip"}, r"broken=…\) must be one of"),
        ({"threads": 0}, "threads=….* must be at least 1, got 0"),
        ({"size": 0}, "must be at least 1, got 0"),
        ({"size": 4, "shorter_side": 5}, "size=… or shorter_side=…"),
        ({"size": 4, "method": "cubic"}, "must be one of"),
        ({"reduced": True}, "needs size=… or shorter_side=…"),
        ({"crop": 224}, "takes a RandomCrop, CenterCrop or RandomResizedCrop, got 224"),
        ({"flip": 0.5}, "takes a HorizontalFlip, got 0.5"),
    ],
)
def test_impossible_arguments_are_refused(options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        DecodeImage(**options)


@pytest.mark.parametrize(
    "values", [np.zeros((2, 3), np.uint8), np.zeros(2), Ragged.of([np.zeros(3), np.zeros(2)]), np.zeros((2, 2), object)]
)
def test_a_field_that_is_not_encoded_images_is_an_error(values):
    with pytest.raises(errors.SchemaError, match=r"'image' is .*, expected a field of bytes"):
        DecodeImage()({"image": values}, Draws(1, "d", np.arange(2)))
    with pytest.raises(errors.SchemaError, match="no field 'photo'"):
        DecodeImage(field="photo")({"image": values}, Draws(1, "d", np.arange(2)))


def test_without_its_libraries_the_message_has_the_command(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(errors.MissingExtraError, match=r"pip install .*\[images\]"):
        DecodeImage()


def test_it_can_be_pickled_also_after_use():
    form = DecodeImage(crop=RandomCrop(size=4), flip=HorizontalFlip())
    first = decode(form, DATA[:3])
    again = pickle.loads(pickle.dumps(form))
    assert again == form
    assert np.array_equal(decode(again, DATA[:3]), first)
