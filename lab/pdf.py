"""A notebook as a PDF, for hand-in systems that take nothing else: `make pdf`.

Cells and outputs become Markdown, pandoc makes it typst's source, and typst sets the pages. Both
come as wheels, and only `make pdf` installs them: lab/requirements-pdf.txt.
"""

from __future__ import annotations

import base64
import io
import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from PIL import Image

from lab.export import anchor, title
from lab.prose import NotebookError

READER = "commonmark+pipe_tables+tex_math_dollars+raw_attribute+strikeout+autolink_bare_uris"
WIDEST = 1100  # pixels of a figure that is as wide as the text; a narrower one keeps its letters
TALLEST = 1.3  # of the text's width: what is left of a page below a heading and a sentence
KINDS = {"image/png": "png", "image/jpeg": "jpg"}

# The text is 174 mm wide, so that 100 columns of code fit in 7.8 points.
HEAD = r"""
#set document(title: TITLE)
#set page(paper: "a4", margin: (x: 18mm, top: 18mm, bottom: 20mm), numbering: "1")
#set text(size: 10pt, lang: "en")
#set par(justify: false, leading: 0.62em, spacing: 1em)
#show heading.where(level: 1): set text(size: 17pt)
#show heading.where(level: 2): set text(size: 13pt)
#show heading.where(level: 3): set text(size: 11pt)
#show heading: set block(above: 1.5em, below: 0.8em)
#show raw.where(block: true): set text(size: 7.8pt)
#show raw.where(block: true): it => block(fill: luma(246), inset: 5pt, width: 100%, it)
#show figure: set block(breakable: true)
#show figure.where(kind: table): it => layout(page => {   // no page ends within a short table
  let tall = measure(width: page.width, it.body).height > 75mm
  block(width: 100%, breakable: tall, align(left, it.body))
})
#show table: set text(size: 8pt)
#show table: set align(start)
#show table: set par(leading: 0.45em)
#show table.cell.where(y: 0): strong
#set table(inset: (x: 4pt, y: 3pt), stroke: none,
  fill: (_, y) => if y > 0 and calc.even(y) { luma(246) })
#show link: set text(fill: rgb("1a4f7f"))
#let horizontalrule = line(length: 100%)
"""


# ---- Markdown

class Pages:
    """A notebook as Markdown for pandoc, and the files of its figures by their names."""

    def __init__(self, nb: NotebookNode) -> None:
        self.figures: dict[str, bytes] = {}
        self.labels: dict[str, str] = {}        # of headings, by the names that Jupyter gives them
        text = "\n\n".join(part for cell in nb.cells for part in self.parts(cell)) + "\n"
        self.text = re.sub(r"\]\(#([^)\s]+)\)",
                           lambda link: f"](#{self.labels.get(link[1], link[1])})", text)

    def parts(self, cell: NotebookNode) -> Iterator[str]:
        """The input where it is for reading, and what the outputs show."""
        if cell.cell_type == "markdown":
            yield re.sub(r"^#{1,6} +(.+?) *$", self.heading, cell.source, flags=re.MULTILINE)
        elif cell.cell_type == "code":
            if cell.source.strip() and "hide-input" not in cell.metadata.get("tags", []):
                yield fenced(cell.source, "python")
            plain = []
            for output in cell.outputs:
                data = output.get("data", {})
                if kind := next((kind for kind in KINDS if kind in data), None):
                    yield from drain(plain)
                    alt = output.metadata.get(kind, {}).get("alt") or cell.metadata.get("alt", "")
                    yield self.figure(base64.b64decode(data[kind]), KINDS[kind], alt)
                elif rich := data.get("text/markdown") or data.get("text/latex"):
                    yield from drain(plain)
                    yield rich
                else:
                    plain.append(output.get("text") or data.get("text/plain", ""))
            yield from drain(plain)

    def heading(self, found: re.Match) -> str:
        """A heading with a label that typst allows, for links to reach."""
        name = anchor(re.sub("[*_`]", "", found[1]), set(self.labels))
        self.labels[name] = f"heading-{len(self.labels) + 1}"
        return f"{found[0].rstrip()} `<{self.labels[name]}>`{{=typst}}"

    def figure(self, content: bytes, ending: str, alt: str) -> str:
        """A figure with its alt text, no wider than the text and no higher than a page."""
        name = f"{len(self.figures) + 1}.{ending}"
        self.figures[name] = content
        width, height = Image.open(io.BytesIO(content)).size
        share = min(1, width / WIDEST, TALLEST * width / height)
        said = json.dumps(alt, ensure_ascii=False)
        return fenced(f'#image("{name}", alt: {said}, width: {share:.0%})', "{=typst}")


def fenced(text: str, language: str = "") -> str:
    """A block of code, between fences that the text does not hold itself."""
    longest = max(map(len, re.findall(r"`{3,}", text)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def drain(plain: list[str]) -> Iterator[str]:
    """The plain lines that have gathered, as one block of code; none are left."""
    if text := "\n".join(part.rstrip() for part in plain if part.strip()):
        yield fenced(text)
    plain.clear()


# ---- pages

def typesetters():
    """pandoc and typst, or a sentence on how to get them."""
    try:
        import pypandoc
        import typst
    except ImportError as error:
        raise NotebookError(f"{error.name} is not installed, and a PDF needs it: `make pdf` "
                            "installs what is missing") from error
    return pypandoc, typst


def typst_source(text: str, name: str) -> str:
    """Markdown as the source of a document with the title `name`."""
    pandoc, _ = typesetters()
    body = pandoc.convert_text(text, "typst", format=READER, extra_args=["--wrap=none"])
    body = body.replace("#h(-1em)", "#h(-0.167em)")  # as wide as TeX's \! is
    return HEAD.replace("TITLE", json.dumps(name, ensure_ascii=False)) + body


def typeset(notebook: Path, target: Path | None = None) -> Path:
    """The PDF that was written, `target` or a file beside `notebook`."""
    _, typst = typesetters()
    nb = nbformat.read(notebook, as_version=4)
    pages = Pages(nb)
    target = target or notebook.with_suffix(".pdf")
    with tempfile.TemporaryDirectory() as folder:
        for name, content in pages.figures.items():
            Path(folder, name).write_bytes(content)
        source = Path(folder, "pages.typ")
        source.write_text(typst_source(pages.text, title(nb, notebook.stem)), encoding="utf-8")
        typst.compile(str(source), output=str(target))
    return target
