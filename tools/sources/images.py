"""Images in a folder or tar, `[subset/]class/…/file.jpg`: fields `image` (the encoded bytes), `label` and `file`.

`label` is the place of the class among all class names in sorted order, those of every subset, so that it means the
same in each; the schema notes the names beside it. `file` is the name within the folder or tar. A single folder around
everything is passed over. Images come sorted by name, that is by class.

With `decode`, `image` is the pixels, uint8 (height, width, 3), decoded by Pillow: grey, palette and transparent images
become RGB (transparency is dropped), the first frame of a moving one counts, an orientation noted in the file is not
applied. Without it each image's header is read, and one that may be cut short is decoded to be sure.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from minibatch.errors import require
from minibatch.tools.sources import PIECE_BYTES, BadRecord, Options, Piece, refuse
from minibatch.tools.sources.files import Files, by_parts, open_files

# Of files that are decoded together: some pieces then, and enough that giving them to a worker costs nothing.
UNIT_BYTES = 2 * 2**20
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pnm"})
# Top folders with only these names are subsets without being asked for.
SUBSETS = frozenset({"train", "training", "test", "testing", "val", "valid", "validation", "dev", "eval", "holdout"})
# What Pillow decodes to RGB without losing precision; the others hold 16 or 32 bits per value, or no colours at all.
EIGHT_BIT = frozenset({"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr"})


def open_source(text: str, options: Options) -> ImageSource:
    """The images of the folder or tar `text`, one subset of them where there are several."""
    require("PIL", "convert", "reading images")
    files = open_files(text)
    images = [name for name in files.names if is_image(name)]
    if not images:
        raise ValueError(
            f"{text!r} holds no images, {len(files.names):,} other files; images are {', '.join(sorted(SUFFIXES))}"
        )
    return ImageSource(
        path=text, files=files, layout=lay_out(images, options.subset, text), decode=options.decode, bad=options.bad
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """Which images are taken, the class of each, and the names of all classes."""

    names: Sequence[str]
    labels: Sequence[int]
    classes: Sequence[str]
    hint: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageSource:
    """Images of a folder or tar and their classes."""

    path: str
    files: Files
    layout: Layout
    decode: bool
    bad: Callable[[BadRecord], None]

    @property
    def rows(self) -> int:
        return len(self.layout.names)

    @property
    def metadata(self) -> Mapping[str, Mapping[str, str]]:
        return {"label": {"classes": json.dumps(list(self.layout.classes), ensure_ascii=False)}}

    def describe(self) -> str:
        others = [name for name in self.files.names if not is_image(name)]
        left_out = (
            f"; left out {counted(len(others), 'other file')}: {', '.join(shortened(others, 3))}" if others else ""
        )
        classes = (
            f"{counted(len(self.layout.classes), 'class', 'classes')} ({', '.join(shortened(self.layout.classes))})"
        )
        return f"{counted(self.rows, 'image')} in {classes}{left_out}{self.layout.hint}"

    def batches(self) -> Iterator[Piece]:
        for unit in self.units():
            yield from unit.batches()

    def units(self) -> Iterator[ImageUnit]:
        """Runs of images: the reading of them, and with `decode` what costs most, can be shared among processes."""
        first, start = None, 0
        for files in self.files.parts(self.layout.names, UNIT_BYTES if self.decode else PIECE_BYTES):
            stop = start + len(files.names)
            if self.decode and first is None:
                first = self._first_shape(files)
            yield ImageUnit(
                path=self.path,
                files=files,
                labels=self.layout.labels[start:stop],
                decode=self.decode,
                first=first,
                bad=self.bad,
            )
            start = stop

    def _first_shape(self, files: Files) -> tuple[str, tuple[int, int]] | None:
        """The first of `files` that is an image, and its height and width."""
        for name, content in zip(files.names, files.contents(files.names), strict=True):
            with contextlib.suppress(ValueError):  # it is refused, or passed over, when its turn comes
                return name, opened(content, name).size[::-1]
        return None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageUnit:
    """A run of images and their labels; if they are decoded, `first` is the one (name, (height, width)) to be like."""

    path: str
    files: Files
    labels: Sequence[int]
    decode: bool
    first: tuple[str, tuple[int, int]] | None
    bad: Callable[[BadRecord], None]

    def batches(self) -> Iterator[Piece]:
        taken: list[tuple[Any, int, str]] = []
        size = 0
        names = self.files.names
        for name, label, content in zip(names, self.labels, self.files.contents(names), strict=True):
            try:
                image = self._checked(name, content)
            except ValueError as error:
                if self.bad is refuse:
                    raise
                reason = str(error).removeprefix(f"{self.path!r}: ").removeprefix(f"{name!r} ")
                self.bad(BadRecord(self.path, name, reason))
                continue
            taken.append((image, label, name))
            size += memoryview(image).nbytes
            if size >= PIECE_BYTES:
                yield self._piece(taken)
                taken, size = [], 0
        if taken:
            yield self._piece(taken)

    def _checked(self, name: str, content: bytes) -> Any:
        image = (decoded if self.decode else checked)(content, f"{self.path!r}: {name!r}")
        if self.decode and self.first is not None:
            refuse_other_shape(self.path, self.first, (name, image.shape[:2]))
        return image

    def _piece(self, taken: list[tuple[Any, int, str]]) -> Piece:
        images, labels, names = (list(part) for part in zip(*taken, strict=True))
        return {
            "image": np.stack(images) if self.decode else images,
            "label": np.array(labels, np.int64),
            "file": names,
        }


def is_image(name: str) -> bool:
    """Whether `name` is that of an image which is not hidden.

    >>> is_image("cat/1.JPG"), is_image("cat/._1.jpg"), is_image("README.md")
    (True, False, False)
    """
    path = PurePosixPath(name)
    return path.suffix.lower() in SUFFIXES and not any(part.startswith((".", "__MACOSX")) for part in path.parts)


def lay_out(names: Sequence[str], subset: str | None, where: str) -> Layout:
    """The images `names` by class; raises ValueError where one lies in no class, or where a subset must be chosen.

    >>> lay_out(["train/cat/1.jpg", "train/dog/2.jpg", "test/dog/3.jpg"], "test", "pets")
    Layout(names=['test/dog/3.jpg'], labels=[1], classes=['cat', 'dog'], hint='')
    """
    parts = [by_parts(name) for name in names]
    depth = wrapping_folders(parts, subset)
    tops = collections.Counter(folders[depth] for folders in parts if len(folders) > depth + 1)
    divided = all(top.lower() in SUBSETS for top in tops) and all(len(folders) >= depth + 3 for folders in parts)
    if subset is None and divided and len(tops) > 1:
        raise ValueError(f"{where!r} holds the subsets {listed(tops)}: choose one, such as --subset {min(tops)}")
    if subset is not None and subset not in tops:
        raise ValueError(f"{where!r} holds no subset {subset!r}; its top folders are {listed(tops) or 'none'}")
    if subset is not None or divided:
        chosen = [folders for folders in parts if subset in (None, folders[depth])]
        of_class = depth + 1
    else:
        chosen, of_class = parts, depth
    for folders in chosen:
        if len(folders) <= of_class + 1:
            raise ValueError(
                f"{where!r}: the image {'/'.join(folders)!r} lies in no class: expected [subset/]class/…/file; "
                f"the top folders, one of which --subset chooses, are {listed(tops) or 'none'}"
            )
    classes = sorted({folders[of_class] for folders in parts if len(folders) > of_class + 1})
    place = {name: label for label, name in enumerate(classes)}
    return Layout(
        names=["/".join(folders) for folders in chosen],
        labels=[place[folders[of_class]] for folders in chosen],
        classes=classes,
        hint=hint_of_subsets([folders[depth:] for folders in parts]) if of_class == depth else "",
    )


def wrapping_folders(parts: Sequence[tuple[str, ...]], subset: str | None) -> int:
    """How many folders lie around everything: shared by all images, with folders inside, and no subset themselves."""
    depth = 0
    while all(len(folders) >= depth + 3 and folders[depth] == parts[0][depth] for folders in parts):
        if parts[0][depth] == subset or parts[0][depth].lower() in SUBSETS:
            break
        depth += 1
    return depth


def hint_of_subsets(parts: Sequence[tuple[str, ...]]) -> str:
    """A word to the user if the classes (the first of `parts`) look like subsets: the same folders inside each."""
    inside: dict[str, set[str]] = collections.defaultdict(set)
    for folders in parts:
        inside[folders[0]].add(folders[1] if len(folders) > 2 else "")
    first, *others = inside.values()
    if others and "" not in first and all(folders == first for folders in others):
        held = ", ".join(shortened(sorted(first)))
        return f"; each class holds the folders {held}: if these are the classes, choose one of those with --subset"
    return ""


def listed(tops: Mapping[str, int]) -> str:
    """The folders and how many images each holds, the first ten."""
    return ", ".join(shortened([f"{top} ({counted(count, 'image')})" for top, count in sorted(tops.items())], 10))


def counted(count: int, one: str, many: str | None = None) -> str:
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def shortened(names: Sequence[str], most: int = 5) -> list[str]:
    return [*names[:most], "…"] if len(names) > most else list(names)


def opened(content: bytes, where: str) -> Any:
    """The image that `content` encodes, its header read."""
    from PIL import Image

    try:
        return Image.open(io.BytesIO(content))
    except Exception as error:  # decoders of damaged bytes raise whatever they stumble over
        raise broken(where, error) from error


def checked(content: bytes, where: str) -> Any:
    """`content` itself, once its header could be read and its end is there."""
    image = opened(content, where)
    # Decoding photographs takes far longer than copying them, and a JPEG that is cut short lacks its end marker.
    if image.format != "JPEG" or b"\xff\xd9" not in content[-1024:]:
        loaded(image, where)
    return content


def decoded(content: bytes, where: str) -> Any:
    """The pixels: uint8 (height, width, 3)."""
    image = opened(content, where)
    if image.mode not in EIGHT_BIT:
        raise ValueError(
            f"{where} has pixels of mode {image.mode!r}, not 8 bits of grey or colour: convert it or leave --decode out"
        )
    loaded(image, where)
    return np.asarray(image.convert("RGB"))


def loaded(image: Any, where: str) -> None:
    """Decode all of `image`."""
    try:
        image.load()
    except Exception as error:  # as in `opened`
        raise broken(where, error) from error


def broken(where: str, error: Exception) -> ValueError:
    reason = re.sub(r" <_io\.[^>]*>", "", str(error))  # which differs from run to run
    return ValueError(f"{where} is no readable image: {reason}; replace or remove it")


def refuse_other_shape(path: str, first: tuple[str, tuple[int, int]], other: tuple[str, tuple[int, int]]) -> None:
    """Raise ValueError unless both images (name, (height, width)) have one height and width."""
    if first[1] != other[1]:
        one, two = (f"{name!r} has {height} × {width}" for name, (height, width) in (first, other))
        raise ValueError(
            f"{path!r}: --decode needs one height × width, but {one} and {two}: resize them, or leave --decode out"
        )
