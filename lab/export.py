"""Export a notebook to one HTML file that needs nothing else: no network and no script.

nbconvert's own export loads its formulas' script from elsewhere and shows raw TeX without it.
Here TeX becomes MathML, which browsers draw by themselves and screen readers read. Figures keep
their alt texts, and the input of a cell tagged `hide-input` is closed until somebody opens it.
"""

from __future__ import annotations

import re
from pathlib import Path

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


class OfflineRenderer(IPythonRenderer):
    """Markdown to HTML with MathML for formulas."""

    def block_math(self, body: str) -> str:
        return mathml(body, "block")

    def inline_math(self, body: str) -> str:
        return mathml(body, "inline")

    def latex_environment(self, name: str, body: str) -> str:
        return mathml(f"\\begin{{{name}}}{body}\\end{{{name}}}", "block")


class OfflineExporter(HTMLExporter):
    """nbconvert's exporter with the template in lab/offline/ and the renderer above."""

    def __init__(self, **options) -> None:
        super().__init__(template_name="offline", extra_template_basedirs=[str(TEMPLATES)],
                         embed_images=True, **options)

    @pass_context
    def markdown2html(self, context, source: str) -> str:
        path = context.get("resources", {}).get("metadata", {}).get("path", "")
        attachments = context.get("cell", {}).get("attachments", {})
        renderer = OfflineRenderer(escape=False, embed_images=True, path=path,
                                   attachments=attachments)
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
