"""Pascal VOC: images with boxes in a folder or tar that holds Annotations/*.xml, JPEGImages/ and ImageSets/Main/*.txt.

Fields: `image`, the encoded bytes; `size`, its height and width in pixels, int64 (2,); `boxes`, a list of float32 (4,):
xmin, ymin, xmax, ymax; `labels`, a list of int64, one per box; `difficult`, a list of bool; `file`, the image's name.

Boxes are half-open and count pixels from 0: pixel column x lies in [x, x + 1). VOC counts from 1 and includes both
corners, so xmin and ymin become one less and xmax and ymax stay: its box 1 … 640 of an image that is 640 wide becomes
[0, 640). A label is the place of the class among the sorted names of all classes in all annotations, of whatever
subset, so that it means the same in each; the schema notes the names beside it.

`--subset trainval` takes the images that ImageSets/Main/trainval.txt names (in a list of two columns, those whose
second is not -1); without it every annotation is taken. Rows come sorted by name. The image of Annotations/NAME.xml is
JPEGImages/NAME.jpg, or what the annotation calls `filename`. Bad records are: what is no XML of this kind, boxes that
are empty or not inside the image, annotations and images that are not there, images that cannot be read.

The layout is that of the development kit: Everingham et al. 2010, "The Pascal Visual Object Classes (VOC) Challenge".
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from xml.etree import ElementTree

import numpy as np

from minibatch.errors import require
from minibatch.ragged import Ragged
from minibatch.tools import sources
from minibatch.tools.sources import BadRecord, Options, Piece
from minibatch.tools.sources.files import Files, open_files
from minibatch.tools.sources.images import checked, counted, is_image, opened, shortened
from minibatch.tools.sources.webdataset import first_names

ANNOTATIONS, IMAGES, LISTS = "Annotations", "JPEGImages", "ImageSets/Main"
CORNERS = ("xmin", "ymin", "xmax", "ymax")
LOOKED_AT = 64


def recognises(text: str) -> bool:
    """Whether `text` is a folder, or a tar among whose first files is an annotation."""
    return os.path.isdir(text) or any(is_annotation(name) for name in first_names(text, LOOKED_AT))


def open_source(text: str, options: Options) -> VocSource:
    """The annotated images of the folder or tar `text`; all annotations are read, no image yet."""
    require("PIL", "convert", "reading images")
    files = open_files(text)
    found = [name for name in files.names if is_annotation(name)]
    roots = sorted({str(PurePosixPath(name).parents[1]) for name in found})
    if len(roots) != 1:
        what = f"the data sets {', '.join(roots)}: name one of these folders" if roots else f"no {ANNOTATIONS}/*.xml"
        raise ValueError(f"{text!r} holds {what}")
    root = PurePosixPath(roots[0])
    annotations = {
        PurePosixPath(name).stem: parsed(content) for name, content in zip(found, files.contents(found), strict=True)
    }
    names = sorted(annotations) if options.subset is None else listed(files, root, options.subset, text)
    images = {name: name for name in files.names if is_image(name) and PurePosixPath(name).parent == root / IMAGES}
    by_stem = {PurePosixPath(name).stem: name for name in images}
    taken: list[tuple[str, Annotation]] = []
    problems: list[BadRecord] = []
    for name in names:
        where = str(root / ANNOTATIONS / f"{name}.xml")
        annotation = annotations.get(name, "there is no such annotation")
        if isinstance(annotation, str):
            problems.append(BadRecord(text, where, annotation))
            continue
        image = by_stem.get(name) or images.get(str(root / IMAGES / annotation.file))
        if image is None:
            problems.append(BadRecord(text, where, f"there is no image '{root / IMAGES / name}.jpg'"))
        else:
            taken.append((image, annotation))
    known = [annotation for annotation in annotations.values() if not isinstance(annotation, str)]
    return VocSource(
        path=text,
        files=files,
        taken=sorted(taken, key=lambda one: PurePosixPath(one[0]).parts),
        problems=problems,
        classes=sorted({name for annotation in known for name in annotation.names}),
        subsets=[] if options.subset else [PurePosixPath(name).stem for name in lists_in(files, root)],
        bad=options.bad,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Annotation:
    """What one XML file says. boxes: xmin, ymin, xmax, ymax, half-open, from 0; size: height and width, or None."""

    file: str
    size: tuple[int, int] | None
    boxes: Sequence[tuple[float, ...]]
    names: Sequence[str]
    difficult: Sequence[bool]


@dataclasses.dataclass(frozen=True, kw_only=True)
class VocSource:
    """Images of a folder or tar, each with its annotation."""

    path: str
    files: Files
    taken: Sequence[tuple[str, Annotation]]
    problems: Sequence[BadRecord]
    classes: Sequence[str]
    subsets: Sequence[str]
    bad: Callable[[BadRecord], None]

    @property
    def rows(self) -> int:
        return len(self.taken)

    @property
    def metadata(self) -> Mapping[str, Mapping[str, str]]:
        return {"labels": {"classes": json.dumps(list(self.classes), ensure_ascii=False)}}

    def describe(self) -> str:
        boxes = sum(len(annotation.names) for _, annotation in self.taken)
        classes = f"{counted(len(self.classes), 'class', 'classes')} ({', '.join(shortened(self.classes))})"
        hint = f"; --subset takes one of {', '.join(self.subsets)}" if self.subsets else ""
        return f"{counted(self.rows, 'image')} with {counted(boxes, 'box', 'boxes')} of {classes}{hint}"

    def batches(self) -> Iterator[Piece]:
        for unit in self.units():
            yield from unit.batches()

    def units(self) -> Iterator[VocUnit]:
        """Runs of images with their annotations; first what is wrong with annotations is reported."""
        for problem in self.problems:
            self.bad(problem)
        start = 0
        for files in self.files.parts([name for name, _ in self.taken], sources.PIECE_BYTES):
            stop = start + len(files.names)
            annotations = [annotation for _, annotation in self.taken[start:stop]]
            yield VocUnit(path=self.path, files=files, annotations=annotations, classes=self.classes, bad=self.bad)
            start = stop


@dataclasses.dataclass(frozen=True, kw_only=True)
class VocUnit:
    """A run of images and their annotations, in the same order."""

    path: str
    files: Files
    annotations: Sequence[Annotation]
    classes: Sequence[str]
    bad: Callable[[BadRecord], None]

    def batches(self) -> Iterator[Piece]:
        rows: list[tuple[str, bytes, tuple[int, int], Annotation]] = []
        filled = 0
        names = self.files.names
        for name, annotation, content in zip(names, self.annotations, self.files.contents(names), strict=True):
            try:
                height, width = opened(checked(content, "the file"), "the file").size[::-1]
                refuse_misfit(annotation, height, width)
            except ValueError as error:
                self.bad(BadRecord(self.path, name, str(error)))
                continue
            rows.append((name, content, (height, width), annotation))
            filled += len(content)
            if filled >= sources.PIECE_BYTES:
                yield self.piece(rows)
                rows, filled = [], 0
        if rows:
            yield self.piece(rows)

    def piece(self, rows: Sequence[tuple[str, bytes, tuple[int, int], Annotation]]) -> Piece:
        names, contents, sizes, annotations = map(list, zip(*rows, strict=True))
        place = {name: label for label, name in enumerate(self.classes)}
        offsets = np.zeros(len(rows) + 1, np.int64)
        np.cumsum([len(annotation.names) for annotation in annotations], out=offsets[1:])
        boxes = [box for annotation in annotations for box in annotation.boxes]
        labels = [place[name] for annotation in annotations for name in annotation.names]
        difficult = [one for annotation in annotations for one in annotation.difficult]
        return {
            "image": contents,
            "size": np.array(sizes, np.int64),
            "boxes": Ragged(np.array(boxes, np.float32).reshape(-1, 4), offsets),
            "labels": Ragged(np.array(labels, np.int64), offsets),
            "difficult": Ragged(np.array(difficult, np.bool_), offsets),
            "file": names,
        }


def is_annotation(name: str) -> bool:
    """Whether `name` is that of an XML file in a folder Annotations.

    >>> is_annotation("VOC2012/Annotations/2007_000027.xml"), is_annotation("Annotations/._1.xml")
    (True, False)
    """
    path = PurePosixPath(name)
    return path.suffix == ".xml" and path.parent.name == ANNOTATIONS and not path.name.startswith(".")


def lists_in(files: Files, root: PurePosixPath) -> list[str]:
    """The files in ImageSets/Main, each of which lists a subset."""
    return [n for n in files.names if PurePosixPath(n).parent == root / LISTS and PurePosixPath(n).suffix == ".txt"]


def listed(files: Files, root: PurePosixPath, subset: str, where: str) -> list[str]:
    """The names of images in the list of a subset, each once; ValueError with all subsets if there is none."""
    path = str(root / LISTS / f"{subset}.txt")
    there = lists_in(files, root)
    if path not in there:
        known = ", ".join(PurePosixPath(name).stem for name in there) or "none"
        raise ValueError(f"{where!r} holds no list {path!r} for --subset {subset}; its lists are {known}")
    names: dict[str, None] = {}
    for number, line in enumerate(next(iter(files.contents([path]))).decode(errors="replace").splitlines(), 1):
        name, *rest = line.split() or [""]
        if len(rest) > 1 or (rest and rest[0] not in ("-1", "0", "1")):
            raise ValueError(f"{where!r}: line {number} of {path!r} is {line!r}, expected NAME, or NAME and -1, 0 or 1")
        if name and rest != ["-1"]:
            names[name] = None
    return list(names)


def parsed(content: bytes) -> Annotation | str:
    """What an annotation says, or what is wrong with it.

    >>> xml = "<name>cat</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>1</xmax><ymax>9</ymax></bndbox>"
    >>> parsed(f"<annotation><object>{xml}</object></annotation>".encode()).boxes
    [(0.0, 1.0, 1.0, 9.0)]
    >>> parsed(b"<a>")
    'it is no XML: no element found: line 1, column 3'
    """
    try:
        tree = ElementTree.fromstring(content)
    except (ElementTree.ParseError, LookupError, ValueError) as error:  # the last two of unknown encodings
        return f"it is no XML: {error}"
    try:
        if tree.tag != "annotation":
            return f"it is no annotation, but XML of another kind: <{tree.tag}>"
        size = [pixels(tree, f"size/{side}") for side in ("height", "width")]
        objects = tree.findall("object")
        corners = [[number(each, f"bndbox/{corner}") for corner in CORNERS] for each in objects]
        return Annotation(
            file=(tree.findtext("filename") or "").strip(),
            size=(size[0], size[1]) if all(size) else None,
            boxes=[(box[0] - 1, box[1] - 1, box[2], box[3]) for box in corners],
            names=[text(each, "name") for each in objects],
            difficult=[number(each, "difficult", "0") != 0 for each in objects],
        )
    except ValueError as error:
        return str(error)


def text(element: ElementTree.Element, path: str, default: str = "") -> str:
    """The text at `path` within an element."""
    found = (element.findtext(path) or default).strip()
    if not found:
        raise ValueError(f"<{element.tag}> has no <{path}>")
    return found


def number(element: ElementTree.Element, path: str, default: str = "") -> float:
    """The finite number at `path` within an element."""
    found = text(element, path, default)
    try:
        value = math.nan if "_" in found or not found.isascii() else float(found)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"<{path}> of <{element.tag}> is {found!r}, expected a number")
    return value


def pixels(element: ElementTree.Element, path: str) -> int:
    """The whole number of pixels at `path` within an element, 0 where it is not there."""
    value = number(element, path, "0")
    if value != round(value) or not 0 <= value < 2**31:
        raise ValueError(f"<{path}> of <{element.tag}> is {text(element, path)!r}, expected a whole number of pixels")
    return int(value)


def refuse_misfit(annotation: Annotation, height: int, width: int) -> None:
    """Raise ValueError unless the boxes lie in an image of this size, and the annotation says the same size."""
    if annotation.size not in (None, (height, width)):
        raise ValueError(f"the file has {height} × {width} pixels, its annotation says {annotation.size}")
    for count, (left, top, right, bottom) in enumerate(annotation.boxes, 1):
        if not (0 <= left < right <= width and 0 <= top < bottom <= height):
            raise ValueError(
                f"box {count} of its annotation, x {left + 1:g} … {right:g}, y {top + 1:g} … {bottom:g}, is empty or "
                f"not inside the image: expected 1 … {width} and 1 … {height}, as Pascal VOC counts pixels from 1"
            )
