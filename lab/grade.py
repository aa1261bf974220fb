"""One screen for whoever grades this: each item's answer, a number of it, a figure, a cell.

It reads the committed notebook and figures/results.json with nothing but Python itself, so that
`python -m lab.grade` works before anything is installed; `python -m lab grade` is the same.
"""

from __future__ import annotations

import json
import re
import sys
import textwrap
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "MZ_VAE_Assignment.ipynb"
FIGURES = ROOT / "figures"
WIDTH = 100

# What the assignment asks, the finding that is shown of each, and what that number is.
ITEMS = [
    ("Q1", "q1.mixture", "from mean and covariance of all codes to the prior's"),
    ("Q2", "q2.ratio_baseline", "times as many draws without it, with a baseline"),
    ("Q3", "q3.noise", "that the noise costs"),
    ("Q4", "q4.dof", "degrees of freedom"),
    ("Task 1", "conv.above_floor", "above the floor, convolution"),
    ("Task 2", "improved_paths.doubling", "when steps double; 2 is smooth"),
    ("Task 3", "faces.spread.s025", "of the full spread, at ¼ scale")]


class Piece(NamedTuple):
    """A heading with its level, a text below it, or a code cell with its number and figures."""

    kind: str
    text: str = ""
    level: int = 0
    cell: int | None = None
    figures: tuple[int, ...] = ()


# ---- the notebook's pieces

def pieces(cells: Iterable[dict]) -> Iterator[Piece]:
    """The notebook from top to bottom; figures are numbered as their files are."""
    count = 0
    for cell in cells:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            yield from prose_pieces(source)
        elif cell["cell_type"] == "code":
            shown = sum(kind.startswith("image/") for output in cell["outputs"]
                        for kind in output.get("data", {}))
            figures = tuple(range(count + 1, count + 1 + shown))
            count += shown
            if cell["outputs"]:
                yield Piece("code", cell=cell.get("execution_count"), figures=figures)


def prose_pieces(source: str) -> Iterator[Piece]:
    """Headings, and the texts between them; a # within a listing is no heading."""
    bare = re.sub(r"^(`{3,}).*?^\1`*[ ]*$", "", source, flags=re.DOTALL | re.MULTILINE)
    before, *rest = re.split(r"^(#+) +(.*)$", bare, flags=re.MULTILINE)
    yield Piece("text", before)
    for marks, heading, text in zip(rest[::3], rest[1::3], rest[2::3], strict=True):
        yield Piece("heading", heading.strip(), len(marks))
        yield Piece("text", text)


def chapter(found: list[Piece], name: str) -> list[Piece]:
    """The pieces below the first heading that starts with `name`, up to one of its own rank."""
    starts = [i for i, piece in enumerate(found)
              if piece.kind == "heading" and re.match(rf"{name}\b", piece.text)]
    if not starts:
        return []
    first = starts[0]
    ends = (i for i in range(first + 1, len(found))
            if found[i].kind == "heading" and found[i].level <= found[first].level)
    return found[first:next(ends, len(found))]


# ---- what is said of a chapter

def answer(found: list[Piece]) -> str:
    """The first bold sentence below the heading Answer, or what is missing of it."""
    if not found:
        return "no chapter of this name"
    headings = [i for i, piece in enumerate(found) if piece.kind == "heading"]
    for i in headings[1:]:
        if found[i].text == "Answer":
            end = next((j for j in headings if j > i), len(found))
            return sentence(" ".join(piece.text for piece in found[i + 1:end]))
    return "no answer in this chapter"


def sentence(text: str) -> str:
    """The first bold sentence of a text; a bold number or word is none."""
    bare = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    for bold in re.finditer(r"\*\*(.+?)\*\*(\.?)", bare, re.DOTALL):
        said = plain(bold[1]) + bold[2]
        if re.fullmatch(r"\D.* .*[.!?]", said):
            return said
    return "no bold sentence in this answer"


def plain(text: str) -> str:
    """Markdown and TeX as a terminal shows them."""
    text = re.sub(r"\$(.+?)\$", lambda tex: untexed(tex[1]), text)
    return " ".join(re.sub(r"[*`]", "", text).split())


SIGNS = {"odot": "⊙", "sim": "~", "le": "≤", "ge": "≥", "to": "→", "times": "×", "cdot": "·",
         "approx": "≈", "infty": "∞", "ln": "ln ", "tfrac12": "½", "|": "‖",
         **dict.fromkeys(["mathcal", "mathbb", "mathrm", "text", "left", "right", ",", "!"], "")}


def untexed(tex: str) -> str:
    """A short formula with letters and signs for the commands that it uses."""
    def sign(command: re.Match[str]) -> str:
        name = command[1]
        try:
            greek = f"GREEK SMALL LETTER {name.removeprefix('var').upper()}"
            return SIGNS[name] if name in SIGNS else unicodedata.lookup(greek)
        except KeyError:
            return name
    return re.sub(r"[{}]", "", re.sub(r"\\(tfrac12|[A-Za-z]+|[|,!])\s*", sign, tex))


def measured(findings: dict[str, dict], name: str, words: str) -> str:
    """A finding with its unit, its meaning and its name."""
    if name not in findings:
        return f"{name} is not among the results"
    value, unit = findings[name]["value"], findings[name]["unit"]
    spec = "d" if isinstance(value, int) else "#.3g" if abs(value) < 1000 else ",.0f"
    shown = format(value, spec).rstrip(".").replace("-", "−")
    return " ".join(filter(None, [shown, unit, words, f"({name})"]))


def place(found: list[Piece], figures: Path) -> tuple[str, str]:
    """The file of a chapter's first figure and the cell to look at; a dash where there is none."""
    code = [piece for piece in found if piece.kind == "code"]
    drawn = [piece for piece in code if piece.figures]
    look = (drawn or code or [Piece("code")])[0]
    files = sorted(figures.glob(f"{look.figures[0]:02d}-*")) if look.figures else []
    return (files[0].name if files else "–"), ("–" if look.cell is None else f"[{look.cell}]")


def screen(cells: list[dict], findings: dict[str, dict], figures: Path = FIGURES) -> str:
    """The whole: for each item its answer, and below it number, figure and cell."""
    found = list(pieces(cells))
    lines = []
    for name, key, words in ITEMS:
        here = chapter(found, name)
        lines += textwrap.wrap(answer(here), WIDTH, initial_indent=f"{name:8s}",
                               subsequent_indent=" " * 8)
        file, cell = place(here, figures)
        told = "; ".join([measured(findings, key, words), file, f"cell\N{NO-BREAK SPACE}{cell}"])
        lines += textwrap.wrap(told, WIDTH, initial_indent=" " * 8, subsequent_indent=" " * 10)
    return "\n".join(lines).replace("\N{NO-BREAK SPACE}", " ")


def grade() -> None:
    """Prints the screen of the committed notebook."""
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    results = FIGURES / "results.json"
    findings = json.loads(results.read_text(encoding="utf-8"))["findings"] if results.exists() \
        else {}
    print(screen(cells, findings))
    print(f"\nAnswers, cells: {NOTEBOOK.name}. Numbers: figures/results.json. Figures: figures/.")


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="replace")            # a terminal without σ shows a question mark
    grade()
