"""Images of a data set: in the terminal as half-block characters, and as a contact sheet with captions."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.color import Color
from rich.console import Console
from rich.style import Style
from rich.text import Text

from minibatch.columns import BITS, BYTES, FIXED, Field
from minibatch.errors import SchemaError, require
from minibatch.tools.show_values import class_name, classes_of, scalar_text

Pixels = NDArray[np.uint8]  # (height, width, 3)
LEAST_SIDE = 6  # smaller arrays are matrices rather than images
CELL_COLUMNS = 24  # of an image in the terminal: three of them fit 80 columns
SHEET_SIDES = (48, 160)  # of an image on the sheet, in pixels
CAPTION = 16  # pixels beneath an image
MARGIN = 6
ENCODED = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"BM", b"RIFF", b"II*\0", b"MM\0*")  # how image files begin
LABELS = ("label", "class", "target", "category", "y", "name", "title", "caption", "text")


def is_image(field: Field, value: Any) -> bool:
    """Whether rows of `field`, of which `value` is one, are images: arrays of such a shape, or encoded ones."""
    if field.layout == BYTES:
        return isinstance(value, bytes) and value.startswith(ENCODED)
    return field.layout in (FIXED, BITS) and field.dtype.kind in "buif" and axes_of(field.shape) is not None


def axes_of(shape: Sequence[int]) -> tuple[int, int] | None:
    """Which axes of an image are height and width; None if this is no shape of an image.

    >>> axes_of((28, 28)), axes_of((32, 32, 3)), axes_of((3, 64, 48)), axes_of((1000, 2))
    ((0, 1), (0, 1), (1, 2), None)
    """
    if len(shape) == 2 and min(shape) >= LEAST_SIDE:
        return 0, 1
    if len(shape) == 3:
        if shape[2] in (1, 3, 4) and min(shape[:2]) >= LEAST_SIDE:
            return 0, 1
        if shape[0] in (1, 3, 4) and min(shape[1:]) >= LEAST_SIDE:
            return 1, 2
    return None


def pixels_of(value: Any) -> Pixels:
    """An image, encoded or as an array, as uint8 (height, width, 3).

    Integers are taken as they are if they are in 0 … 255, floating-point numbers in 0 … 1 as shades; others are
    stretched from their least to their most.
    """
    if isinstance(value, bytes):
        require("PIL", "convert", "showing encoded images")
        from PIL import Image

        try:
            with Image.open(io.BytesIO(value)) as image:
                return np.asarray(image.convert("RGB"))
        except (OSError, ValueError, SyntaxError) as error:
            raise SchemaError(f"{len(value)} bytes that begin as an image cannot be decoded: {error}") from None
    axes = axes_of(value.shape)
    assert axes is not None
    image = value if value.ndim == 3 else value[:, :, None]
    if axes == (1, 2):
        image = image.transpose(1, 2, 0)
    if image.shape[2] == 4:
        image = image[:, :, :3]
    return np.ascontiguousarray(np.broadcast_to(shades(image), (*image.shape[:2], 3)))


def shades(values: NDArray[Any]) -> Pixels:
    """Numbers as shades 0 … 255."""
    if values.dtype == np.uint8:
        return values
    numbers = np.nan_to_num(values.astype(np.float64), posinf=0, neginf=0)
    least, most = float(numbers.min(initial=0)), float(numbers.max(initial=0))
    if values.dtype.kind == "b" or (values.dtype.kind == "f" and least >= 0 and most <= 1):
        numbers = numbers * 255
    elif least < 0 or most > 255 or values.dtype.kind == "f":
        least = float(numbers.min())
        numbers = (numbers - least) * (255 / max(most - least, 1e-300))
    return np.asarray(np.clip(np.rint(numbers), 0, 255).astype(np.uint8))


def resized(pixels: Pixels, height: int, width: int) -> Pixels:
    """`pixels` at another size: the mean of what falls into each new pixel, or the nearest where it grows."""
    rows, columns = pixels.shape[:2]
    if height >= rows and width >= columns:
        larger: Pixels = pixels[np.arange(height) * rows // height][:, np.arange(width) * columns // width]
        return larger
    tops = np.minimum(np.arange(height) * rows // height, rows - 1)
    lefts = np.minimum(np.arange(width) * columns // width, columns - 1)
    sums = np.add.reduceat(np.add.reduceat(pixels.astype(np.uint32), tops, 0), lefts, 1)
    area = np.diff([*tops, rows])[:, None] * np.diff([*lefts, columns])[None, :]
    smaller: Pixels = (sums // np.maximum(1, area)[:, :, None]).astype(np.uint8)
    return smaller


def fitted(pixels: Pixels, least: int, most: int) -> Pixels:
    """`pixels` with its longer side between `least` (grown by whole factors only) and `most`."""
    longer = max(pixels.shape[:2])
    factor = most / longer if longer > most else float(-(-least // longer))
    height, width = (max(1, round(side * factor)) for side in pixels.shape[:2])
    return resized(pixels, height, width)


def can_draw(console: Console) -> bool:
    """Whether the terminal has the colours and characters that images need."""
    return (
        console.is_terminal
        and console.color_system in ("256", "truecolor")
        and console.encoding.lower().startswith("utf")
    )


def draw(console: Console, images: Sequence[Pixels], captions: Sequence[str]) -> None:
    """Images side by side, two pixels a character, with their captions beneath; as many as the screen is wide."""
    small = [fitted(pixels, 1, CELL_COLUMNS) for pixels in images][: max(1, console.width // (CELL_COLUMNS + 2))]
    height = max(pixels.shape[0] for pixels in small)
    for top in range(0, height, 2):
        line = Text(no_wrap=True)
        for pixels in small:
            for column in range(CELL_COLUMNS):
                line.append(*half_block(pixels, top, column))
            line.append("  ")
        line.rstrip()
        console.print(line)
    names = (caption[:CELL_COLUMNS].ljust(CELL_COLUMNS + 2) for caption in captions[: len(small)])
    console.print(Text("".join(names).rstrip()), no_wrap=True)


def half_block(pixels: Pixels, top: int, column: int) -> tuple[str, Style]:
    """Pixels (top, column) and the one beneath as one character; outside of the image nothing."""
    rows, columns = pixels.shape[:2]
    if top >= rows or column >= columns:
        return " ", Style()
    upper = Color.from_rgb(*pixels[top, column].tolist())
    if top + 1 >= rows:
        return "▀", Style(color=upper)
    return "▀", Style(color=upper, bgcolor=Color.from_rgb(*pixels[top + 1, column].tolist()))


def caption_field(fields: dict[str, Field]) -> str | None:
    """The field whose values name an image: one that notes classes, or is called so, or the first integer."""
    scalars = [name for name, field in fields.items() if not field.shape and field.depth == 0]
    classed = [name for name in scalars if classes_of(fields[name])]
    called = [name for known in LABELS for name in scalars if name.lower() == known]
    integers = [name for name in scalars if fields[name].dtype.kind in "iu"]
    texts = [name for name in scalars if fields[name].is_text]
    return next(iter([*classed, *called, *integers, *texts]), None)


def caption_of(value: Any, field: Field | None) -> str:
    """What stands beneath an image: the name of its class, or the value."""
    if field is None:
        return ""
    named = class_name(int(value), field).strip(" ()") if field.dtype.kind in "iu" else ""
    return named or scalar_text(value)


def contact_sheet(images: Sequence[Pixels], captions: Sequence[str], columns: int | None = None) -> Any:
    """A grid of images, each with its caption beneath, as a PIL image; about as wide as high if `columns` is None."""
    require("PIL", "convert", "drawing a contact sheet")
    from PIL import Image, ImageDraw

    tiles = [fitted(pixels, *SHEET_SIDES) for pixels in images]
    cell_height = max(tile.shape[0] for tile in tiles) + CAPTION + MARGIN
    font = caption_font()
    widest = max((font.getlength(caption) for caption in captions), default=0)
    cell_width = max(max(tile.shape[1] for tile in tiles), min(int(widest) + 1, 2 * SHEET_SIDES[0])) + MARGIN
    columns = columns or max(1, round((len(tiles) * cell_height / cell_width) ** 0.5))
    rows = -(-len(tiles) // columns)
    sheet = Image.new("RGB", (columns * cell_width + MARGIN, rows * cell_height + MARGIN), "white")
    ink = ImageDraw.Draw(sheet)
    for number, (tile, caption) in enumerate(zip(tiles, captions, strict=True)):
        left = MARGIN + number % columns * cell_width
        top = MARGIN + number // columns * cell_height
        sheet.paste(Image.fromarray(tile), (left, top))
        while caption and font.getlength(caption) > cell_width - 2:
            caption = caption[:-2] + "…" if caption[-1] == "…" else caption[:-1] + "…"
        ink.text((left, top + tile.shape[0] + 1), caption, "black", font)
    return sheet


def caption_font() -> Any:
    """A font with the letters of most languages, if the system or Matplotlib has one; else Pillow's own, with few."""
    import importlib.util

    from PIL import ImageFont

    names = ["DejaVuSans.ttf", "NotoSans-Regular.ttf", "Arial.ttf"]
    matplotlib = importlib.util.find_spec("matplotlib")
    if matplotlib is not None and matplotlib.origin is not None:
        names.append(str(Path(matplotlib.origin).parent / "mpl-data/fonts/ttf/DejaVuSans.ttf"))
    for name in names:
        try:
            return ImageFont.truetype(name, 11)
        except OSError:
            continue
    return ImageFont.load_default(size=11)


def write_sheet(path: Path, images: Sequence[Pixels], captions: Sequence[str]) -> None:
    """Write the contact sheet as PNG, or as what the name of the file says."""
    try:
        contact_sheet(images, captions).save(path)
    except ValueError as error:
        raise ValueError(f"{path}: {error}; name the file .png") from None
