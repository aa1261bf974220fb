"""What is shown and what is kept of it: tables, figures with alt text, findings, progress."""

import base64
import inspect
import io
import math
import platform
import re
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image

from lab.files import write_atomically, write_json
from vae_helpers import as_pixels, tile

ROUNDS = 3              # of a picture that moves, before it stops
FRAME = 100             # milliseconds
COLOURS = 128           # of the 256 that a GIF may have: fewer are smaller, and hardly seen

# ---- tables


class Table:
    """Rows of numbers, names and gaps (None), shown with one format for each column; a column of
    nothing but gaps is not shown.

    A long one can be folded: `fold` names what a click opens.
    """

    def __init__(self, rows: list[dict], formats: dict[str, str] | None = None, caption: str = "",
                 fold: str = ""):
        self.rows, self.formats, self.caption, self.fold = rows, formats or {}, caption, fold

    def column(self, name: str) -> list:
        return [row[name] for row in self.rows]

    def _cell(self, value, head: str) -> str:
        if value is None:
            return ""
        if isinstance(value, tuple):                    # several numbers of one kind
            return ", ".join(self._cell(v, head) for v in value)
        return number(value, self.formats.get(head, "")) if is_number(value) else str(value)

    def _texts(self) -> tuple[list[list[str]], list[bool]]:
        """The shown heads and rows, and which columns stand right."""
        heads = [head for head in self.rows[0]
                 if any(value is not None for value in self.column(head))]
        rows = [[self._cell(row[head], head) for head in heads] for row in self.rows]
        right = [any(map(is_number, values)) and all(v is None or is_number(v) for v in values)
                 for values in map(self.column, heads)]
        return [heads, *rows], right

    def _repr_markdown_(self) -> str:
        if not self.rows:
            return self.caption
        (heads, *rows), right = self._texts()
        lines = [heads, ["---:" if r else "---" for r in right], *rows]
        table = "\n".join("| " + " | ".join(c.replace("|", "\\|") for c in line) + " |"
                          for line in lines)
        table = f"{self.caption}\n\n{table}" if self.caption else table
        return (f"<details><summary>{self.fold}</summary>\n\n{table}\n\n</details>" if self.fold
                else table)

    def __str__(self) -> str:
        """For a terminal: columns below each other, long heads in several lines."""
        if not self.rows:
            return self.caption
        (heads, *rows), right = self._texts()
        folded = [textwrap.wrap(head, 10) for head in heads]
        high = max(map(len, folded))
        above = zip(*([""] * (high - len(parts)) + parts for parts in folded), strict=True)
        lines = [*above, *rows]
        wide = [max(map(len, column)) for column in zip(*lines, strict=True)]
        sides = [str.rjust if r else str.ljust for r in right]
        text = ["  ".join(side(cell, w) for side, cell, w in zip(sides, line, wide, strict=True))
                for line in lines]
        caption = [textwrap.fill(line, 96) for line in self.caption.splitlines()]
        return "\n".join(line.rstrip() for line in (*caption, *text))

    __repr__ = _repr_markdown_


def is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def finite(value) -> float | None:
    """The number, or None where there is none."""
    value = value.item() if isinstance(value, (torch.Tensor, np.generic)) else value
    return value if is_number(value) and math.isfinite(value) else None


def number(value: float, spec: str = "") -> str:
    """A number in words of a table: `spec` as in format(), a real minus, a space before %."""
    spec = spec or ("," if isinstance(value, int) else ".3g")
    text = re.sub(r"^-(?=[0.]+%?$)", "", format(value, spec))       # no zero below zero
    return text.replace("-", "−").replace("%", " %")


# ---- findings


class Findings(dict):
    """Named numbers of this run; `about` says of each its unit and the run that it came from."""

    def __init__(self):
        super().__init__()
        self.about: dict[str, dict] = {}

    def keep(self, name: str, value, unit: str = "", run=None, note: str = "") -> float | None:
        """Keeps a finite number under a name, and hands it on; None, and nothing is kept, where
        there is no such number."""
        value = finite(value)
        if value is not None:
            self[name] = value
            self.about[name] = {"unit": unit, "run": getattr(run, "hash", None), "note": note}
        return value

    def write(self, path: Path, trainings: list[dict]) -> None:
        """results.json: the findings, the trainings behind them, and the versions."""
        found = {name: {"value": value} | self.about[name] for name, value in self.items()}
        write_json(path, {"findings": found, "trainings": trainings, "versions": {
            "python": platform.python_version(), "torch": torch.__version__,
            "numpy": np.__version__}})


# ---- figures


class Figure:
    """A drawn figure, its file's content and its alt text; it shows itself."""

    def __init__(self, data: bytes, kind: str, alt: str, width: int):
        self.data, self.kind, self.alt, self.width = data, kind, alt, width

    def _repr_mimebundle_(self, include=None, exclude=None):
        data = {self.kind: base64.b64encode(self.data).decode(), "text/plain": self.alt}
        return data, {self.kind: {"alt": self.alt, "width": self.width}}

    def __repr__(self):
        return self.alt


def keep_figure(figure, path: Path, alt: str, picture: bool = False) -> Figure:
    """A matplotlib figure drawn, closed, and kept as `path`.png or, a picture, as `path`.jpg."""
    for axes in figure.axes:
        title = axes.get_title(loc="left") or axes.get_title()
        axes.set_title("")
        axes.set_title(title, loc="left", fontsize=11, weight="bold")
    drawn, file = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, dpi=figure.dpi, facecolor="white")
    plt.close(figure)
    image = Image.open(drawn).convert("RGB")
    if picture:
        image.save(file, "JPEG", quality=85, subsampling=0, optimize=True, progressive=True)
    else:
        image.quantize(256, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
    ending = "jpg" if picture else "png"
    write_atomically(path.with_name(f"{path.name}.{ending}"), file.getvalue())
    return Figure(file.getvalue(), "image/jpeg" if picture else "image/png", alt, image.width)


def keep_moving(frames: torch.Tensor, path: Path, alt: str, zoom: int = 1) -> Figure:
    """Frames (n, k, 3, H, W) of k images side by side, one after the other, kept as `path`.gif.

    They stop after three rounds. The browser shows them four times as large, for few bytes.
    """
    sheets = [tile(images, len(images), zoom) for images in frames]
    palette = Image.fromarray(np.vstack(sheets)).quantize(COLOURS)   # one, or colours would flicker
    first, *rest = (Image.fromarray(sheet).quantize(palette=palette, dither=Image.Dither.NONE)
                    for sheet in sheets)
    file = io.BytesIO()
    first.save(file, "GIF", save_all=True, append_images=rest, duration=FRAME,
               loop=ROUNDS - 1)                     # a GIF counts the rounds after the first
    write_atomically(path.with_name(f"{path.name}.gif"), file.getvalue())
    return Figure(file.getvalue(), "image/gif", alt, 4 * first.width)


def labelled_rows(rows: dict[str, torch.Tensor], title: str, columns: Sequence[str] = (),
                  *, zoom: int = 2, label: int = 110, blocks: int = 1):
    """Rows of as many images each, their names at the left and columns' names above, as pixels.

    The images of each row stand in `blocks` of as many, with room between them.
    """
    dpi, pad, top = 100, 14, 60 if columns else 38
    parts = zip(*(as_pixels(images).chunk(blocks) for images in rows.values()), strict=True)
    sheets = [tile(torch.cat(part), len(part[0]), zoom) for part in parts]
    white = np.full((len(sheets[0]), 8 * zoom, 3), 255, dtype=np.uint8)
    sheet = np.hstack([piece for one in sheets for piece in (white, one)][1:])
    h, w = sheet.shape[:2]
    width, height = label + w + 2 * pad, top + h + pad
    figure = plt.figure(figsize=(width / dpi, height / dpi), dpi=dpi)
    figure.text(pad / width, 1 - 10 / height, title, va="top", fontsize=11, weight="bold")
    axes = figure.add_axes([(label + pad) / width, pad / height, w / width, h / height])
    axes.imshow(sheet, interpolation="none")
    axes.axis("off")
    down, across = (h + 2 * zoom) / len(rows), (w + 2 * zoom) / max(len(columns), 1)
    for i, name in enumerate(rows):
        figure.text(pad / width, 1 - (top + (i + 0.5) * down - zoom) / height, name, va="center",
                    fontsize=9)
    for i, name in enumerate(columns):
        figure.text((label + pad + (i + 0.5) * across - zoom) / width, 1 - (top - 4) / height,
                    name, va="bottom", ha="center", fontsize=9)
    return figure


# ---- source


class Source:
    """The source text of functions and classes, so that what is read is what ran."""

    def __init__(self, *objects):
        self.texts = [textwrap.dedent(inspect.getsource(o)).rstrip() for o in objects]

    def _repr_markdown_(self) -> str:
        return "\n\n".join(f"```python\n{text}\n```" for text in self.texts)

    def __repr__(self):
        return "\n\n".join(self.texts)


# ---- progress


def in_notebook() -> bool:
    """Whether a Jupyter kernel runs this."""
    ipython = sys.modules.get("IPython")            # a plain Python need not import it
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")


class Progress:
    """A live line, at most once a second, and a log that stays.

    In Jupyter the live line is one display that ends on the text it began with, which is none
    without a log, so that what is stored does not depend on speed; in a terminal it is
    overwritten, and elsewhere not shown.
    """

    def __init__(self, head: str, log: bool = True):
        self.log, self.shown, self.handle = log, 0.0, None
        self.rest = head if log else ""                 # what the live line in Jupyter ends on
        if in_notebook():
            from IPython.display import Pretty, display
            self.handle = display(Pretty(self.rest), display_id=True)
        else:
            print(head, flush=True)

    def tick(self, text: str) -> None:
        """Shows the text for the time being."""
        if time.monotonic() - self.shown >= 1:
            self.shown = time.monotonic()
            self._live(text)

    def files(self, done: int, total: int, what: str) -> None:
        """What `data.load` and the judge report while they take long."""
        self.tick(f"{what}: {done:,} of {total:,}")

    def line(self, text: str) -> None:
        """A line that stays."""
        if self.log:
            self._live("")
            print(text, flush=True)

    def aside(self, text: str) -> None:
        """A line that stays in a terminal; in Jupyter, what is stored must not depend on it."""
        if self.handle:
            self._live(text)
        else:
            self.line(text)

    def done(self) -> None:
        self._live("")

    def _live(self, text: str) -> None:
        """Puts a text in the live line's place; none leaves what it is to end on."""
        if self.handle:
            from IPython.display import Pretty
            self.handle.update(Pretty(text or self.rest))
        elif sys.stdout.isatty():
            print("\r\033[K" + text, end="", flush=True)
