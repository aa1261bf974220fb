"""A notebook as one HTML file that needs nothing else, and that file printed as a PDF.

nbconvert's own export loads its formulas' script from elsewhere and shows raw TeX without it.
Here TeX becomes MathML, which browsers draw by themselves and screen readers read. Figures keep
their alt texts. The input of a cell tagged `hide-input` is closed until somebody opens it, and so
is what stands below a heading tagged `fold`.
Headings make contents; tables and formulas that are wider than the page scroll in their own box.
The page's security policy lets a browser load nothing, whatever a cell has shown, and run nothing
but one script of this folder, by its digest: the player of a decoder, below a cell tagged `player`.
"""

import base64
import hashlib
import io
import os
import re
import shutil
import subprocess
import tempfile
from html import escape
from pathlib import Path
from xml.etree import ElementTree

import nbformat
from latex2mathml.converter import convert
from nbconvert.exporters import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode
from PIL import Image

from lab.player import text
from lab.publish import NotebookError
from lab.shipped import opened

TEMPLATES = Path(__file__).resolve().parent  # the folder of the template's folder
WEIGHTS = Path("data", "weights", "celeba32.npz")       # of the player, beside the notebook

# On Linux by name, on macOS and Windows by place.
BROWSERS = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable",
            "microsoft-edge", "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
            "/Applications/Chromium.app/Contents/MacOS/Chromium",
            "/Applications/Microsoft Edge.app/Contents/MacOS/Microsoft Edge",
            r"%ProgramFiles%\Google\Chrome\Application\chrome.exe",
            r"%LocalAppData%\Google\Chrome\Application\chrome.exe",
            r"%ProgramFiles(x86)%\Microsoft\Edge\Application\msedge.exe"]

# Without a sandbox, which neither root nor a container has: the page runs no script but its own.
HEADLESS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync"]


# ---- HTML

def mathml(tex: str, display: str) -> str:
    """`tex` as MathML, `display` "inline" or "block"; what would show its source is refused."""
    known = tex.replace("{aligned}", "{split}")  # the converter knows one of the two names for it
    known = re.sub(r"(\\math[a-z]+) +([A-Za-z])", r"\1{\2}", known)   # 𝔼 itself, not a variant of E
    drawn = convert(known, display=display)
    if left := re.search(r">(\\[^<]*|&)<", drawn):
        raise NotebookError(f"The formula {tex.strip()!r} cannot be exported because of "
                            f"{left[1]!r}: write it otherwise")
    drawn = drawn.replace("<mo stretchy=\"false\">&#x0007C;", '<mo lspace="0.1em" rspace="0.1em">|')
    return re.sub(r"(?<=</m[ifn]>)(?=<mi>[a-z]{2,}<)|(?<=[a-z]{2}</mi>)(?!<mo|</)",
                  '<mspace width="0.2em" />', drawn)                                    # a ln p


def in_pieces(drawn: str) -> str:
    """A formula cut before every sign of its outermost row, where a narrow page ends a line."""
    math = ElementTree.fromstring(re.sub(' xmlns=".*?"', "", drawn))
    pieces, depth = [[]], 0                             # the sign within brackets is no place
    for part in math[0]:
        mark = "".join(part.itertext())[:1]
        if part.tag != "mrow":                          # which opens and closes its own
            depth += (mark in "([{") - (mark in ")]}")
        if part.tag == "mo" and mark in "=+−" and depth == 0 and pieces[-1]:
            part.set("form", "infix")                   # so that it keeps its space at the left
            pieces.append([])
        pieces[-1].append(ElementTree.tostring(part, encoding="unicode"))
    return "<wbr>".join(f'<math displaystyle="true"><mrow>{"".join(piece)}</mrow></math>'
                    for piece in pieces)


class Renderer(IPythonRenderer):
    """Markdown to HTML with MathML for formulas and boxes that scroll; it notes the headings."""

    def __init__(self, folder: Path) -> None:
        super().__init__(escape=False, embed_images=True, path=str(folder))
        self.names: list[str] = []          # of all headings, as links reach them
        self.contents: list[str] = []       # an item for each heading of the first two levels
        self.part = ""                      # "extra" from a ruled line on, then "appendix"

    def heading(self, text: str, level: int, **attrs) -> str:
        """A heading under the name that Jupyter gives it; a second one is numbered."""
        shown = re.sub("<!--.*?-->", "", text)
        words = name = "-".join(re.sub("<.*?>", "", shown).split())
        n = 1
        while name in self.names:
            n += 1
            name = f"{words}-{n}"
        self.names.append(name)
        if level == 1 and shown == "Appendix":
            self.part = "appendix"
        if level <= 2:
            self.contents.append(f'<li class="level{level} {self.part}">'
                                 f'<a href="#{name}">{shown}</a></li>')
        return f'<h{level} id="{name}">{text}</h{level}>\n'

    def thematic_break(self) -> str:
        """The ruled line where the assignment ends."""
        self.part = "extra"
        return "<hr>\n"

    def table(self, text: str) -> str:
        return f'<div class="wide"><table>\n{text}</table></div>\n'

    def block_html(self, html: str) -> str:
        """HTML as it stands, with its images embedded; nbconvert would end a fold where its first
        block ends, and show what is folded."""
        return super().block_html(html) if "<img" in html else f"{html}\n"

    def block_math(self, body: str) -> str:
        return f'<div class="wide formula">{in_pieces(mathml(body, "block"))}</div>'

    def inline_math(self, body: str) -> str:
        return mathml(body, "inline")

    def latex_environment(self, name: str, body: str) -> str:
        return self.block_math(f"\\begin{{{name}}}{body}\\end{{{name}}}")


def with_still(output: NotebookNode) -> str:
    """A picture that moves as HTML, which nbconvert has none for; who prefers no motion gets its
    first frame, which Chromium also prints."""
    moving, about = output.data["image/gif"], output.metadata["image/gif"]
    file = io.BytesIO()
    Image.open(io.BytesIO(base64.b64decode(moving))).save(file, "PNG", optimize=True)
    still = base64.b64encode(file.getvalue()).decode()
    return (f'<picture><source media="(prefers-reduced-motion: reduce)" '
            f'srcset="data:image/png;base64,{still}"><img src="data:image/gif;base64,{moving}" '
            f'alt="{escape(about["alt"])}" width="{about["width"]}"></picture>')


def mark_folds(nb: NotebookNode) -> None:
    """Says of each cell whether it `opens` a fold and how many it `closes`, and of the notebook how
    many are left: a fold ends at a heading that is no lower than its own, as in Jupyter."""
    open_levels: list[int] = []
    for cell in nb.cells:
        marks = re.findall(r"^(#+) ", cell.source, re.MULTILINE)
        level = min(map(len, marks)) if marks and cell.cell_type == "markdown" else 7
        ended = [each for each in open_levels if each >= level]
        del open_levels[len(open_levels) - len(ended):]
        cell.metadata["closes"] = len(ended)
        if "fold" in cell.metadata.get("tags", []):
            cell.metadata["opens"] = True
            open_levels.append(level)
    nb.metadata["closes"] = len(open_levels)


def export(notebook: Path, target: Path | None = None) -> Path:
    """The HTML file that was written, `target` or a file beside `notebook`."""
    nb = nbformat.read(notebook, as_version=4)
    for output in (output for cell in nb.cells for output in cell.get("outputs", [])):
        if "image/gif" in output.get("data", {}):
            output.data["text/html"] = with_still(output)
    mark_folds(nb)
    renderer = Renderer(notebook.parent)
    exporter = HTMLExporter(
        template_name="offline", extra_template_basedirs=[str(TEMPLATES)], embed_images=True,
        filters={"markdown2html": MarkdownWithMath(renderer).render})
    title = re.search(r"^# (.+)$", "\n".join(cell.source for cell in nb.cells), re.MULTILINE)
    name = title[1] if title else notebook.stem
    html, _ = exporter.from_notebook_node(nb, {"metadata": {"name": name}})
    html = html.replace("<!--contents-->", "".join(renderer.contents))  # known after the text
    html = with_player(html, notebook.parent / WEIGHTS)
    target = target or notebook.with_suffix(".html")
    target.write_text(html, encoding="utf-8", newline="\n")
    return target


def with_player(html: str, weights: Path) -> str:
    """The page with the player at its mark, and leave for that one script in its policy; the page
    as it is where it has no mark, or where there is no such file."""
    mark, policy = "<!--player-->", "style-src 'unsafe-inline'"
    if mark not in html or not weights.exists():
        return html
    figure, script = ((TEMPLATES / "offline" / name).read_text(encoding="utf-8")
                      for name in ("player.html", "player.js"))
    _, parts = opened(weights)
    figure = figure.replace("{{ decoders }}", text(parts)).replace("{{ script }}", script)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    html = html.replace(policy, f"{policy}; script-src 'sha256-{digest}'", 1)
    return html.replace(mark, figure, 1)


# ---- PDF

def browser() -> str | None:
    """The program of a browser that prints without a window, if one is installed."""
    found = (shutil.which(os.path.expandvars(name)) for name in BROWSERS)
    return next(filter(None, found), None)


def browse(page: Path, *options: str) -> subprocess.CompletedProcess:
    """What the browser says of a page that it opens in no window, for what `options` ask."""
    if not (program := browser()):
        raise NotebookError("No Chrome, Chromium or Edge is here to print the page: install one, "
                            "or open what `make html` makes in any browser and print that")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        return subprocess.run(
            [program, *HEADLESS, f"--user-data-dir={profile}", *options, page.resolve().as_uri()],
            capture_output=True, encoding="utf-8", errors="replace", timeout=300)


def print_pdf(notebook: Path, target: Path | None = None) -> Path:
    """The PDF that a browser has printed of the exported page, `target` or beside `notebook`."""
    target = (target or notebook.with_suffix(".pdf")).resolve()
    target.unlink(missing_ok=True)
    page = export(notebook, target.with_suffix(".html"))
    made = browse(page, "--no-pdf-header-footer", f"--print-to-pdf={target}")
    if not target.exists():
        raise NotebookError(f"{browser()} printed nothing: open {page.name} in any browser and "
                            f"print that ({made.stderr.strip()[-200:]})")
    return target
