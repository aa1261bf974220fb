"""A notebook as one HTML file that needs nothing else, and that file printed as a PDF.

nbconvert's own export loads its formulas' script from elsewhere and shows raw TeX without it.
Here TeX becomes MathML, which browsers draw by themselves and screen readers read. Figures keep
their alt texts, and the input of a cell tagged `hide-input` is closed until somebody opens it.
Headings make contents; tables and formulas that are wider than the page scroll in their own box.
The page's security policy lets a browser load nothing and run nothing, whatever a cell has shown.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import nbformat
from latex2mathml.converter import convert
from nbconvert.exporters import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

from lab.prose import NotebookError

TEMPLATES = Path(__file__).resolve().parent  # the folder of the template's folder

# On Linux by name, on macOS and Windows by place.
BROWSERS = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable",
            "microsoft-edge", "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
            "/Applications/Chromium.app/Contents/MacOS/Chromium",
            "/Applications/Microsoft Edge.app/Contents/MacOS/Microsoft Edge",
            r"%ProgramFiles%\Google\Chrome\Application\chrome.exe",
            r"%LocalAppData%\Google\Chrome\Application\chrome.exe",
            r"%ProgramFiles(x86)%\Microsoft\Edge\Application\msedge.exe"]

# Without a sandbox, which neither root nor a container has: the page runs no script.
HEADLESS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync"]


# ---- HTML

def mathml(tex: str, display: str) -> str:
    """`tex` as MathML, `display` "inline" or "block"; what would show its source is refused."""
    known = tex.replace("{aligned}", "{split}")  # the converter knows one of the two names for it
    drawn = convert(known, display=display)
    if left := re.search(r">(\\[^<]*|&)<", drawn):
        raise NotebookError(f"The formula {tex.strip()!r} cannot be exported because of "
                            f"{left[1]!r}: write it otherwise")
    return re.sub(r"(<mi>[a-z]{2,}</mi>)(?!<mo|</)", r'\1<mspace width="0.167em" />', drawn)  # ln p


class Renderer(IPythonRenderer):
    """Markdown to HTML with MathML for formulas and boxes that scroll; it notes the headings."""

    def __init__(self, folder: Path) -> None:
        super().__init__(escape=False, embed_images=True, path=str(folder))
        self.names: list[str] = []          # of all headings, as links reach them
        self.contents: list[str] = []       # an item for each heading of the first two levels

    def heading(self, text: str, level: int, **attrs) -> str:
        """A heading under the name that Jupyter gives it; a second one is numbered."""
        shown = re.sub("<!--.*?-->", "", text)
        words = name = "-".join(re.sub("<.*?>", "", shown).split())
        n = 1
        while name in self.names:
            n += 1
            name = f"{words}-{n}"
        self.names.append(name)
        if level <= 2:
            self.contents.append(f'<li class="level{level}"><a href="#{name}">{shown}</a></li>')
        return f'<h{level} id="{name}">{text}</h{level}>\n'

    def table(self, text: str) -> str:
        return f'<div class="wide"><table>\n{text}</table></div>\n'

    def block_math(self, body: str) -> str:
        return f'<div class="wide">{mathml(body, "block")}</div>'

    def inline_math(self, body: str) -> str:
        return mathml(body, "inline")

    def latex_environment(self, name: str, body: str) -> str:
        return self.block_math(f"\\begin{{{name}}}{body}\\end{{{name}}}")


def export(notebook: Path, target: Path | None = None) -> Path:
    """The HTML file that was written, `target` or a file beside `notebook`."""
    nb = nbformat.read(notebook, as_version=4)
    renderer = Renderer(notebook.parent)
    exporter = HTMLExporter(
        template_name="offline", extra_template_basedirs=[str(TEMPLATES)], embed_images=True,
        filters={"markdown2html": MarkdownWithMath(renderer).render})
    title = re.search(r"^# (.+)$", "\n".join(cell.source for cell in nb.cells), re.MULTILINE)
    name = title[1] if title else notebook.stem
    html, _ = exporter.from_notebook_node(nb, {"metadata": {"name": name}})
    html = html.replace("<!--contents-->", "".join(renderer.contents))  # known after the text
    target = target or notebook.with_suffix(".html")
    target.write_text(html, encoding="utf-8", newline="\n")
    return target


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
