"""What is shown and what is kept of it: tables, figures with alt text, findings, progress."""

from __future__ import annotations

import base64
import contextlib
import inspect
import io
import math
import platform
import sys
import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image, ImageFile

from lab.files import write_atomically, write_json
from vae_helpers import as_pixels, tile

# ---- tables


class Table:
    """Rows of numbers, names and gaps (None), shown with one format for each column."""

    def __init__(self, rows: list[dict], formats: dict[str, str] | None = None, caption: str = ""):
        self.rows, self.formats, self.caption = rows, formats or {}, caption

    def column(self, name: str) -> list:
        return [row[name] for row in self.rows]

    def cells(self) -> list[list[str]]:
        """The heads, then every row, as they are shown."""
        heads = list(self.rows[0]) if self.rows else []
        return [heads] + [[self._cell(row[head], head) for head in heads] for row in self.rows]

    def _cell(self, value, head: str) -> str:
        if value is None:
            return ""
        if isinstance(value, tuple):                    # several numbers of one kind
            return ", ".join(self._cell(v, head) for v in value)
        return number(value, self.formats.get(head, "")) if is_number(value) else str(value)

    def _repr_markdown_(self) -> str:
        if not self.rows:
            return self.caption
        heads, *rows = self.cells()
        right = [any(map(is_number, values)) and all(v is None or is_number(v) for v in values)
                 for values in map(self.column, heads)]
        lines = [heads, ["---:" if r else "---" for r in right], *rows]
        table = "\n".join("| " + " | ".join(c.replace("|", "\\|") for c in line) + " |"
                          for line in lines)
        return f"{self.caption}\n\n{table}" if self.caption else table

    def __repr__(self):
        cells = self.cells()
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip()
                 for line in cells if line]
        return "\n".join(filter(None, [self.caption, *lines]))


def is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def finite(value) -> float | None:
    """The number, or None where there is none."""
    value = value.item() if isinstance(value, (torch.Tensor, np.generic)) else value
    return value if is_number(value) and math.isfinite(value) else None


def number(value: float, spec: str = "") -> str:
    """A number in words of a table: `spec` as in format(), a real minus, a space before %."""
    spec = spec or ("," if isinstance(value, int) else ".3g")
    return format(value, spec).replace("-", "−").replace("%", " %")


# ---- findings


class Findings(Mapping):
    """Named numbers of this run, each with its unit and the run that it came from."""

    def __init__(self):
        self.kept: dict[str, dict] = {}

    def keep(self, name: str, value, unit: str = "", run=None, note: str = "") -> float | None:
        """Keeps a finite number under a name, and hands it on; None, and nothing is kept, where
        there is no such number."""
        value = finite(value)
        if value is not None:
            self.kept[name] = {"value": value, "unit": unit, "run": getattr(run, "hash", None),
                               "note": note}
        return value

    def __getitem__(self, name: str) -> float:
        return self.kept[name]["value"]

    def __iter__(self) -> Iterator[str]:
        return iter(self.kept)

    def __len__(self) -> int:
        return len(self.kept)

    def write(self, path: Path, trainings: list[dict]) -> None:
        """results.json: the findings, the trainings behind them, and the versions."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"findings": self.kept, "trainings": trainings, "versions": {
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
        with room_for(image):
            image.save(file, "JPEG", quality=92, subsampling=0, optimize=True)
    else:
        image.quantize(256, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path.with_name(f"{path.name}.{'jpg' if picture else 'png'}"),
                     lambda out: out.write(file.getvalue()))
    return Figure(file.getvalue(), "image/jpeg" if picture else "image/png", alt, image.width)


@contextlib.contextmanager
def room_for(image: Image.Image) -> Iterator[None]:
    """Lets Pillow optimise a JPEG of noise, which takes more than a byte a pixel."""
    before = ImageFile.MAXBLOCK
    ImageFile.MAXBLOCK = max(before, 3 * image.width * image.height)
    try:
        yield
    finally:
        ImageFile.MAXBLOCK = before


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
    if "IPython" not in sys.modules:
        return False
    shell = sys.modules["IPython"].get_ipython()
    return shell is not None and hasattr(shell, "kernel")


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
            self._live("", end="\r")
            print(text, flush=True)

    def aside(self, text: str) -> None:
        """A line that stays in a terminal; in Jupyter, what is stored must not depend on it."""
        if self.handle:
            self._live(text)
        else:
            self.line(text)

    def done(self) -> None:
        if self.handle:
            from IPython.display import Pretty
            self.handle.update(Pretty(self.rest))
        else:
            self._live("", end="\r")

    def _live(self, text: str, end: str = "") -> None:
        if self.handle:
            from IPython.display import Pretty
            if text:
                self.handle.update(Pretty(text))
        elif sys.stdout.isatty():
            print("\r\033[K" + text, end=end, flush=True)
