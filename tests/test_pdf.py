"""The PDF: what of a notebook becomes Markdown, and the pages that come of it."""

import base64
import io
import re
import sys
import zlib

import nbformat
import pytest
from nbformat import v4
from PIL import Image

from lab import pdf
from lab.__main__ import main
from lab.submission import NOTEBOOK


def picture(width, height, kind="PNG"):
    file = io.BytesIO()
    Image.new("RGB", (width, height)).save(file, kind)
    return file.getvalue()


def figure(alt, content, kind="image/png"):
    data = {kind: base64.b64encode(content).decode(), "text/plain": alt}
    return v4.new_output("display_data", data, metadata={kind: {"alt": alt, "width": 9}})


def shown(**data):
    return v4.new_output("display_data", {k.replace("_", "/"): v for k, v in data.items()})


def code(source, *outputs, tags=()):
    return v4.new_code_cell(source, outputs=list(outputs), metadata={"tags": list(tags)})


def pages(*cells):
    return pdf.Pages(v4.new_notebook(cells=list(cells)))


# ---- cells become Markdown


def test_prose_stays_as_it_is_and_the_input_stands_between_fences():
    made = pages(v4.new_markdown_cell("# A\n\n$x^2$"), code("x = 1\n"))
    assert made.text == ("# A `<heading-1>`{=typst}\n\n$x^2$\n\n```python\nx = 1\n```\n")
    assert made.figures == {}


def test_links_lead_to_headings_before_and_after_them():
    first = "# A: *one*, β\n\nsee [two](#Two), not [this](https://a.b/#Two)"
    made = pages(v4.new_markdown_cell(first), v4.new_markdown_cell("## Two\n\n[one](#A:-one,-β)"))
    assert "# A: *one*, β `<heading-1>`{=typst}\n" in made.text
    assert "[two](#heading-2), not [this](https://a.b/#Two)" in made.text
    assert made.text.endswith("## Two `<heading-2>`{=typst}\n\n[one](#heading-1)\n")


def test_hidden_input_is_left_out_and_its_output_is_not():
    made = pages(code("folded = 2", shown(text_markdown="| a |\n|---|"), tags=["hide-input"]))
    assert made.text == "| a |\n|---|\n"


def test_markdown_is_preferred_to_the_plain_text_beside_it():
    made = pages(code("", shown(text_markdown="**loud**", text_plain="quiet")))
    assert made.text == "**loud**\n"


def test_plain_lines_one_after_another_are_one_block_and_an_empty_one_is_none():
    lines = [shown(text_plain="one"), v4.new_output("stream", text="two\n"), shown(text_plain="")]
    assert pages(code("", *lines, shown(text_markdown="**after**"))).text == (
        "```\none\ntwo\n```\n\n**after**\n")


def test_figure_becomes_a_file_and_keeps_its_alt_text():
    content = picture(550, 100, "JPEG")
    made = pages(code("", figure('a "line" \\ of it', content, "image/jpeg")))
    assert made.figures == {"1.jpg": content}
    assert '#image("1.jpg", alt: "a \\"line\\" \\\\ of it", width: 50%)' in made.text
    assert made.text.startswith("```{=typst}\n") and "a line" not in made.text


@pytest.mark.parametrize(("size", "share"), [
    ((2 * pdf.WIDEST, 10), "100%"), ((pdf.WIDEST // 4, 10), "25%"), ((1000, 2600), "50%")])
def test_no_figure_is_wider_than_the_text_or_higher_than_a_page(size, share):
    assert f"width: {share})" in pages(code("", figure("a", picture(*size)))).text


def test_code_that_holds_a_fence_stands_between_longer_ones():
    text = '"""\n```\n"""'
    assert pdf.fenced(text) == f"````\n{text}\n````"


# ---- and the pages


@pytest.fixture
def typesetters():
    """pandoc and typst, where `make pdf` installed them."""
    for name in ("pypandoc", "typst"):
        pytest.importorskip(name, reason=f"{name} is not installed: make pdf")


def unpacked(path):
    """What a PDF holds, its compressed parts unpacked."""
    parts = re.findall(rb"stream\r?\n(.*?)\r?\nendstream", path.read_bytes(), re.DOTALL)
    found = [path.read_bytes()]
    for part in parts:
        try:
            found.append(zlib.decompress(part))
        except zlib.error:
            pass
    return b"\n".join(found)


def test_the_committed_notebook_becomes_pages_with_its_headings_and_alt_texts(typesetters,
                                                                              tmp_path):
    content = unpacked(pdf.typeset(NOTEBOOK, tmp_path / "pages.pdf"))
    assert len(re.findall(rb"/Type ?/Page\b", content)) > 5
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    figures = [kind for cell in cells for output in cell.get("outputs", [])
               for kind in output.get("data", {}) if kind.startswith("image/")]
    prose = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    assert re.findall(r"^# ([A-Za-z ]+)$", prose, re.MULTILINE)[-1].encode() in content
    assert content.count(b"/Alt") >= len(figures)


@pytest.mark.parametrize("tex", [r"\int\!\sqrt{q_a}", r"\tfrac12\ln\sigma^2", r"\hat x\odot z",
                                 r"\mathrm{KL}(q\,\|\,p)", r"\mathbb E_{q_\phi(z)}[f]\le\beta"])
def test_formulas_are_set(typesetters, tmp_path, tex):
    path = tmp_path / "formula.ipynb"
    nbformat.write(v4.new_notebook(cells=[v4.new_markdown_cell(f"# A\n\n$${tex}$$")]), path)
    assert pdf.typeset(path).stat().st_size > 1000


def test_without_the_packages_one_sentence_says_what_installs_them(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "pypandoc", None)
    assert main(["pdf"]) == 1
    error = capsys.readouterr().err
    assert "`make pdf`" in error and "pypandoc" in error and error.count("\n") == 1
