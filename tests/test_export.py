"""The exported page: what it shows, that it loads and runs nothing else, and how it prints."""

import base64
import io
import json
import re
import sys
from urllib.parse import unquote

import nbformat
import pytest
from bs4 import BeautifulSoup
from nbformat import v4
from PIL import Image

from lab import export
from lab.prose import NotebookError
from lab.publish import NOTEBOOK

needs_browser = pytest.mark.skipif(not export.browser() or sys.platform != "linux",
                                   reason="there is no Chrome, Chromium or Edge on Linux here")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the committed notebook is exported to page.html."""
    return export.export(NOTEBOOK, tmp_path_factory.mktemp("page") / "page.html").parent


def parsed(folder):
    return BeautifulSoup((folder / "page.html").read_text(encoding="utf-8"), "html.parser")


def made(folder, *cells):
    """The page of toy.ipynb, a notebook with these cells; a text is one of Markdown."""
    cells = [v4.new_markdown_cell(cell) if isinstance(cell, str) else cell for cell in cells]
    nbformat.write(v4.new_notebook(cells=cells), folder / "toy.ipynb")
    export.export(folder / "toy.ipynb", folder / "page.html")
    return parsed(folder)


def code(kind, content, *tags):
    output = v4.new_output("display_data", {kind: content}, metadata={kind: {"alt": "a \"b\" <c>"}})
    return v4.new_code_cell("source", outputs=[output], metadata={"tags": tags})


def figure(*tags):
    """A cell that shows what takes more than half of a printed page."""
    Image.new("RGB", (700, 560)).save(file := io.BytesIO(), "PNG")
    return code("image/png", base64.b64encode(file.getvalue()).decode(), *tags)


def test_the_committed_page_is_complete_and_needs_nothing_else(folder):
    page = parsed(folder)
    outputs = [out for cell in nbformat.read(NOTEBOOK, 4).cells for out in cell.get("outputs", [])]
    alts = [kind["alt"] for out in outputs for kind in out.get("metadata", {}).values()]
    assert len(alts) > 20 and [image["alt"] for image in page("img")] == alts
    assert page.select("script, link, iframe, object, embed, [src]:not([src^='data:'])") == []
    assert set(re.findall(r"url\([\"']?(\w*)|@(import)", str(page.head))) <= {("data", "")}
    assert "default-src 'none'" in page.select_one("meta[http-equiv]")["content"]
    names = [tag["id"] for tag in page.select("[id]")]
    links = {unquote(link["href"][1:]) for link in page.select("a[href^='#']")}
    assert len(links) > 20 and links <= set(names) and len(names) == len(set(names))


def test_contents_list_two_levels_and_a_second_heading_of_a_name_is_numbered(tmp_path):
    page = made(tmp_path, "# A title\n\n## Why $\\beta$?\n\n### Answer",
                "## *How* 9<!--a.b .0f-->\n\n### Answer\n\n# A title")
    names = [heading["id"] for heading in page(re.compile("h[1-3]"))]
    assert names == ["A-title", "Why-β?", "Answer", "How-9", "Answer-2", "A-title-2"]
    for nav in page("nav"):
        assert [f"#{n}" for n in names if "Answer" not in n] == [a["href"] for a in nav("a")]
        assert "a.b" not in str(nav) and len(nav.select(".level2")) == 2
    assert page.title.text == "A title" and len(page("nav")) == 2


def test_formulas_are_mathml_and_tables_and_wide_formulas_scroll_in_boxes(tmp_path):
    page = made(tmp_path, "$\\ln p$, $\\ln(p)$\n\n$$\\begin{aligned}a&=b\\\\c&=d\\end{aligned}$$"
                "\n\n\\begin{align}x&=1\\end{align}\n\n|a|b|\n|-|-:|\n|$x$|2|")
    boxed = [(math["display"], bool(math.find_parent(class_="wide"))) for math in page("math")]
    assert boxed == 2 * [("inline", False)] + 2 * [("block", True)] + [("inline", True)]
    assert len(page("mspace")) == 1 and len(page("mtr")) == 3       # ln p, but ln(p)
    for tex in "\\nosuchcommand x", "a & b":
        with pytest.raises(NotebookError, match="formula"):
            export.mathml(tex, "inline")


def test_input_that_is_not_for_reading_is_folded_and_no_output_is(tmp_path):
    page = made(tmp_path, figure(), figure("hide-input"))
    [fold] = page.select("details.hidden-input")
    assert "source" in fold.text and "open" not in fold.attrs and not fold("img")
    assert len(fold.find_all_previous("img")) == 1 and page.title.text == "toy"
    assert page.main.text.count("source") == len(page("img", alt="a \"b\" <c>")) == 2


FRAMES = """<iframe src="page.html" width="400"></iframe><iframe src="page.html" width="1280">
</iframe><script>onload = () => document.title = JSON.stringify(Array.from(frames,
  ({document: page}) => [page.title, page.body.scrollWidth - page.body.clientWidth,
    [...page.querySelectorAll("nav")].filter(nav => nav.offsetParent).length,
    [...page.images].filter(image => !image.naturalWidth).length]))</script>"""


@needs_browser
@pytest.mark.parametrize("planted", [False, True])
def test_the_page_fits_a_telephone_and_a_desk_and_runs_nothing(folder, tmp_path, planted):
    """Where a cell has shown a script and a link to an image, the console says they are refused."""
    if planted:
        folder, script = tmp_path, "document.title = 'run'"
        Image.new("RGB", (9, 9)).save(folder / "a.png")
        made(folder, "# A", code("application/javascript", script),
             code("text/html", f"<script>{script}</script><img src='a.png'>"))
    (folder / "frames.html").write_text(FRAMES, encoding="utf-8")
    shown = export.browse(folder / "frames.html", "--allow-file-access-from-files", "--dump-dom",
                          "--enable-logging=stderr")
    seen = [parsed(folder).title.text, 0, 1, planted]   # too wide, contents, images not drawn
    assert json.loads(re.search("<title>(.*?)</title>", shown.stdout)[1]) == [seen, seen]
    assert ("CONSOLE" in shown.stderr) == planted


@needs_browser
def test_no_figure_is_cut_in_two_and_alt_texts_are_printed(tmp_path):
    made(tmp_path, figure(), figure(), figure())
    content = export.print_pdf(tmp_path / "toy.ipynb").read_bytes()
    assert len(re.findall(rb"/Type ?/Page\b", content)) == 3 == content.count(b"/Alt")


def test_without_a_browser_one_sentence_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(export.shutil, "which", lambda name: None)
    with pytest.raises(NotebookError, match="^No Chrome.* install one, or .* print that$"):
        export.browse(tmp_path)
