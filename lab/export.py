"""Export a notebook to one HTML file that needs nothing else: no network and no script.

nbconvert's own export loads its formulas' script from elsewhere and shows raw TeX without it.
Here TeX becomes MathML, which browsers draw by themselves and screen readers read. Figures keep
their alt texts, and the input of a cell tagged `hide-input` is closed until somebody opens it.
Headings make contents, tables and formulas that are wider than the page scroll in their own box.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import nbformat
from jinja2 import pass_context
from latex2mathml.converter import convert
from nbconvert.exporters import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

TEMPLATES = Path(__file__).resolve().parent  # the folder of the template's folder


def mathml(tex: str, display: str) -> str:
    """`tex` as MathML, `display` "inline" or "block"; what would show its source is refused."""
    known = tex.replace("{aligned}", "{split}")  # the converter knows one of the two names for it
    drawn = convert(known, display=display)
    if left := re.search(r">(\\[^<]*|&)<", drawn):
        raise ValueError(f"The formula {tex.strip()!r} cannot be exported because of {left[1]!r}: "
                         "write it otherwise")
    return re.sub(r"<mo>(?=[a-z]{2,}<)", '<mo rspace="0.167em">', drawn)  # log p, not logp


# ---- contents

class Heading(NamedTuple):
    """A heading's level, the name that links reach it by, and its HTML."""

    level: int
    anchor: str
    text: str


def anchor(html: str, taken: set[str]) -> str:
    """The name that Jupyter gives a heading, its words joined by hyphens; none of `taken`."""
    words = re.sub(r"<!--.*?-->|<[^>]+>", "", html).replace('"', "").split()
    name = words = "-".join(words) or "heading"
    n = 1
    while name in taken:
        n += 1
        name = f"{words}-{n}"
    return name


def listed(headings: list[Heading]) -> str:
    """The headings of the first two levels as a list of links, the second within the first."""
    parts: list[list[str]] = []
    for level, name, text in headings:
        link = f'<a href="#{name}">{re.sub("<!--.*?-->", "", text)}</a>'
        if level == 1 or level == 2 and not parts:
            parts.append([link])
        elif level == 2:
            parts[-1].append(link)
    return nest([first + (nest(below) if below else "") for first, *below in parts])


def nest(items: list[str]) -> str:
    return f"<ul>{''.join(f'<li>{item}</li>' for item in items)}</ul>"


def contents(headings: list[Heading]) -> str:
    """What stands before the text: a link past the contents, and these, folded and at the side.

    One of the two is shown, as the page's width decides. A single heading needs no contents.
    """
    skip = '<a class="skip" href="#text">Skip to the text</a>\n'
    if sum(heading.level <= 2 for heading in headings) < 2:
        return f'{skip}<div class="page">'
    links = listed(headings)
    return (f'{skip}<nav class="contents top" aria-label="Contents"><details>'
            f"<summary>Contents</summary>{links}</details></nav>\n"
            '<div class="page with-contents">\n<nav class="contents side" aria-label="Contents">'
            f"<strong>Contents</strong>{links}</nav>")


# ---- the exporter

FOCUSED = 4  # columns from which a table may need the keyboard to scroll


class OfflineRenderer(IPythonRenderer):
    """Markdown to HTML with MathML for formulas, and boxes that scroll; it notes the headings."""

    def __init__(self, headings: list[Heading], **options) -> None:
        super().__init__(**options)
        self.headings = headings

    def heading(self, text: str, level: int, **attrs) -> str:
        name = anchor(text, {heading.anchor for heading in self.headings})
        self.headings.append(Heading(level, name, text))
        return f'<h{level} id="{name}">{text}</h{level}>\n'

    def table(self, text: str) -> str:
        reached = ' tabindex="0" role="region" aria-label="Table"' * (text.count("<th") > FOCUSED)
        return f'<div class="wide"{reached}><table>\n{text}</table></div>\n'

    def table_cell(self, text: str, align: str | None = None, head: bool = False) -> str:
        name, scope = ("th", ' scope="col"') if head else ("td", "")
        style = f' style="text-align:{align}"' * bool(align)
        return f"  <{name}{scope}{style}>{text}</{name}>\n"

    def block_math(self, body: str) -> str:
        return f'<div class="wide">{mathml(body, "block")}</div>'

    def inline_math(self, body: str) -> str:
        return mathml(body, "inline")

    def latex_environment(self, name: str, body: str) -> str:
        return self.block_math(f"\\begin{{{name}}}{body}\\end{{{name}}}")


class OfflineExporter(HTMLExporter):
    """nbconvert's exporter with the template in lab/offline/ and the renderer above."""

    def __init__(self, **options) -> None:
        super().__init__(template_name="offline", extra_template_basedirs=[str(TEMPLATES)],
                         embed_images=True, **options)
        self.headings: list[Heading] = []

    def from_notebook_node(self, nb, resources=None, **options):
        self.headings = []
        html, resources = super().from_notebook_node(nb, resources, **options)
        return html.replace("<!--contents-->", contents(self.headings), 1), resources

    @pass_context
    def markdown2html(self, context, source: str) -> str:
        path = context.get("resources", {}).get("metadata", {}).get("path", "")
        attachments = context.get("cell", {}).get("attachments", {})
        renderer = OfflineRenderer(self.headings, escape=False, embed_images=True,
                                   path=path, attachments=attachments)
        return MarkdownWithMath(renderer=renderer).render(source)


FROM_ELSEWHERE = re.compile(
    r"<(?:script|link|img|iframe|source|video|object|embed)\b[^>]*?"
    r"""\b(?:src|href|data)\s*=\s*["']?(?!data:|\#)[^\s"'>]+"""
    r"""|@import\b[^;]+|\burl\(\s*["']?(?!data:|\#)[^)"']+|\bimport\(["'][^)]+""")


def loaded_from_elsewhere(html: str) -> list[str]:
    """Whatever a browser would have to fetch to show `html`."""
    return [found[0][:80] for found in FROM_ELSEWHERE.finditer(html)]


def title(nb: nbformat.NotebookNode, otherwise: str) -> str:
    """The first heading of the notebook."""
    prose = "\n".join(cell.source for cell in nb.cells if cell.cell_type == "markdown")
    found = re.search(r"^# (.+)$", prose, re.MULTILINE)
    return found[1] if found else otherwise


def export(notebook: Path, target: Path | None = None) -> Path:
    """The HTML file that was written, `target` or a file beside `notebook`."""
    nb = nbformat.read(notebook, as_version=4)
    metadata = {"name": title(nb, notebook.stem), "path": str(notebook.parent)}
    html, _ = OfflineExporter().from_notebook_node(nb, {"metadata": metadata})
    if needed := loaded_from_elsewhere(html):
        raise ValueError(f"The HTML would need what is not in it: {'; '.join(needed)}")
    target = target or notebook.with_suffix(".html")
    target.write_text(html, encoding="utf-8", newline="\n")
    return target
