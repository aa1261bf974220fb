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
from lab.publish import NOTEBOOK, NotebookError

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
    assert page.select("link, iframe, object, embed, [src]:not([src^='data:'])") == []
    assert len(page("script")) == 2 * len(page(class_="player"))    # its text, and what reads it
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
    boxed = [(math.get("display"), bool(math.find_parent(class_="wide"))) for math in page("math")]
    assert boxed == 2 * [("inline", False)] + 2 * [(None, True)] + [("inline", True)]
    assert len(page("mspace")) == 1 and len(page("mtr")) == 3       # ln p, but ln(p)
    for tex in "\\nosuchcommand x", "a & b":
        with pytest.raises(NotebookError, match="formula"):
            export.mathml(tex, "inline")


def test_letters_are_themselves_and_a_long_formula_may_end_its_line_before_a_sign(tmp_path):
    page = made(tmp_path, r"$$\ln p(x)=\mathbb E_{q(z|x+y)}\left[a+b\right]-\mathrm{KL}(a-b)+"
                r"(c+d)^2$$ $\mathcal N$")
    *pieces, alone = [math.text for math in page("math")]
    assert pieces == ["lnp(x)", "=𝔼q(z|x+y)[a+b]", "−KL(a−b)", "+(c+d)2"] and alone == "𝒩"
    assert len(page.select(".formula wbr")) == 3


def test_contents_set_apart_what_follows_the_ruled_line_and_the_appendix(tmp_path):
    page = made(tmp_path, "# Task\n\n---\n\nIt ends.\n\n# More\n\n## Of it", "# Appendix\n\n## A")
    assert len(page("hr")) == 1
    for nav in page("nav"):
        assert [item["class"] for item in nav("li")] == [
            ["level1"], ["level1", "extra"], ["level2", "extra"], ["level1", "appendix"],
            ["level2", "appendix"]]


def test_input_that_is_not_for_reading_is_folded_and_no_output_is(tmp_path):
    page = made(tmp_path, figure(), figure("hide-input"))
    [fold] = page.select("details.hidden-input")
    assert "source" in fold.text and "open" not in fold.attrs and not fold("img")
    assert len(fold.find_all_previous("img")) == 1 and page.title.text == "toy"
    assert page.main.text.count("source") == len(page("img", alt="a \"b\" <c>")) == 2


def folded(text):
    return v4.new_markdown_cell(text, metadata={"tags": ["fold"]})


def test_a_folded_heading_opens_what_stands_below_it_to_the_next_of_its_level(tmp_path):
    page = made(tmp_path, "# A\n\n### B", folded("## C"), "in C", folded("### D"), "in D", figure(),
                "#### E\n\nand D", "### F\n\nand C", "# G", folded("## H"), "in H")
    folds = {fold.summary.text.strip(): fold for fold in page.select("details.fold")}
    inside = {name: re.findall("(?:in|and) .", fold.text) for name, fold in folds.items()}
    assert inside == {"C": ["in C", "in D", "and D", "and C"], "D": ["in D", "and D"],
                      "H": ["in H"]}
    assert len(folds["D"]("img")) == 1 and not any("open" in fold.attrs for fold in folds.values())


def test_a_figure_is_enlarged_by_a_box_to_tick(tmp_path):
    page = made(tmp_path, figure())
    assert page.img.parent.name == "label" and page.img.parent.input["type"] == "checkbox"


def moving():
    """A cell that shows a red picture and then a blue one, five times as large."""
    red, blue = (Image.new("RGB", (9, 9), colour) for colour in ("red", "blue"))
    red.save(file := io.BytesIO(), "GIF", save_all=True, append_images=[blue], duration=20, loop=2)
    cell = code("image/gif", base64.b64encode(file.getvalue()).decode())
    cell.outputs[0].metadata["image/gif"]["width"] = 45
    return cell


def test_what_moves_has_its_alt_text_its_width_and_its_first_frame_as_a_still(tmp_path):
    page = made(tmp_path, moving())
    (image,), source = page("img"), page.select_one("picture > source")
    assert image["alt"] == "a \"b\" <c>" and image["width"] == "45"
    assert image["src"].startswith("data:image/gif") and "reduced-motion" in source["media"]
    still = Image.open(io.BytesIO(base64.b64decode(source["srcset"].partition(",")[2])))
    assert still.convert("RGB").getcolors() == [(81, (255, 0, 0))]


@needs_browser
@pytest.mark.parametrize(("options", "kind"), [([], "gif"),
                                               (["--force-prefers-reduced-motion"], "png")])
def test_it_stands_still_for_who_prefers_no_motion(tmp_path, options, kind):
    made(tmp_path, moving())
    (tmp_path / "frame.html").write_text("""<iframe src="page.html"></iframe><script>onload = () =>
        document.title = frames[0].document.images[0].currentSrc.slice(0, 14)</script>""")
    shown = export.browse(tmp_path / "frame.html", "--allow-file-access-from-files", "--dump-dom",
                          *options)
    assert f"<title>data:image/{kind}</title>" in shown.stdout


def test_a_worked_answer_stays_in_its_fold(tmp_path):
    page = made(tmp_path, "<details><summary>Answer</summary>\n\n```python\nz = mu\n```\n\n"
                "Since $z$.\n\n</details>", "After it.")
    (fold,) = page.select("main details")
    assert "z = mu" in fold.text and fold("math") and "After it." not in fold.text


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
