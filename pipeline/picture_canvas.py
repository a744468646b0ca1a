"""A drawing surface with the fonts and colours of the picture. The font is Pillow's own, none of the system."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Literal

from PIL import Image, ImageDraw, ImageFont

Rgb = tuple[int, int, int]

BACKGROUND: Rgb = (14, 17, 22)
PANEL: Rgb = (27, 32, 40)
LINE: Rgb = (72, 80, 92)
TEXT: Rgb = (236, 239, 244)
MUTED: Rgb = (166, 174, 186)
AMBER: Rgb = (240, 196, 84)
SMALLEST = 10  # pixels; smaller letters cannot be read


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels; right and bottom are outside."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def width(self) -> int:
        """In pixels."""
        return self.right - self.left

    @property
    def height(self) -> int:
        """In pixels."""
        return self.bottom - self.top

    def inset(self, margin: int) -> Box:
        """The box without a margin."""
        return Box(self.left + margin, self.top + margin, self.right - margin, self.bottom - margin)

    def grid(self, rows: int, columns: int, gap: int) -> Iterator[Box]:
        """Equal cells, row by row."""
        width, height = (self.width + gap) // columns, (self.height + gap) // rows
        for cell in range(rows * columns):
            left, top = self.left + cell % columns * width, self.top + cell // columns * height
            yield Box(left, top, left + width - gap, top + height - gap)


@cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """Pillow's built-in typeface at a size in pixels."""
    loaded = ImageFont.load_default(size)
    if not isinstance(loaded, ImageFont.FreeTypeFont):
        raise RuntimeError("Pillow was built without FreeType")
    return loaded


@dataclass(frozen=True)
class Word:
    """A line of text and the place that it takes; `size` in pixels."""

    text: str
    size: int
    box: Box


@dataclass(frozen=True)
class Canvas:
    """An RGB image, and every line of text that was written on it."""

    image: Image.Image
    draw: ImageDraw.ImageDraw = field(init=False)
    words: list[Word] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "draw", ImageDraw.Draw(self.image))

    def text(
        self,
        at: tuple[int, int],
        text: str,
        size: int = 18,
        colour: Rgb = TEXT,
        anchor: str = "ls",
        weight: Literal["regular", "bold"] = "regular",
        width: int | None = None,
    ) -> None:
        """Write a line, smaller if wider than `width`; `anchor` as in Pillow, "ls" is left and baseline."""
        while width is not None and size > SMALLEST and font(size).getlength(text) > width:
            size -= 1
        stroke = 0.5 if weight == "bold" else 0
        self.draw.text(at, text, fill=colour, font=font(size), anchor=anchor, stroke_width=stroke)
        left, top, right, bottom = self.draw.textbbox(at, text, font=font(size), anchor=anchor)
        self.words.append(Word(text, size, Box(int(left), int(top), int(right), int(bottom))))

    def mark(self, at: tuple[int, int], letter: str, anchor: str) -> None:
        """A side mark that is read on light and on dark ground."""
        self.draw.text(at, letter, fill=TEXT, font=font(20), anchor=anchor, stroke_width=2, stroke_fill=BACKGROUND)

    def panel(self, box: Box, colour: Rgb = PANEL) -> None:
        """A filled rectangle with round corners."""
        self.draw.rounded_rectangle((box.left, box.top, box.right - 1, box.bottom - 1), 8, fill=colour)


def wrap(text: str, size: int, width: int) -> list[str]:
    """`text` in lines of at most `width` pixels; a word that is longer is cut."""
    lines: list[str] = []
    for word in text.split():
        while font(size).getlength(word) > width:
            word = word[:-1]
        joined = f"{lines[-1]} {word}" if lines else word
        if lines and font(size).getlength(joined) <= width:
            lines[-1] = joined
        else:
            lines.append(word)
    return lines
