"""What the HTML export makes of headings, tables and formulas: ways to reach and to read them."""

import re
from html.parser import HTMLParser

import nbformat
import pytest
from nbformat import v4

from lab import export

PROSE = ["# The title\n\n## Q1. Why $\\beta$?\n\n### Answer\n\nIt is so.",
         "## Q2. How 9<!--a.b .0f--> of them?\n\n### Answer\n\n| a | b |\n|---|---:|\n| 1 | 2 |",
         "# Limits\n\n## Q1. Why $\\beta$?\n\n| a | b | c | d | e |\n|---|---|---|---|---|\n"]


class Page(HTMLParser):
    """The tags of a page in their order, each with its attributes."""

    def __init__(self, html):
        super().__init__()
        self.tags = []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def named(self, *names):
        return [attributes for tag, attributes in self.tags if tag in names]


@pytest.fixture
def exported(tmp_path):
    """A function that exports Markdown cells; the page."""
    def exported(*texts):
        path = tmp_path / "toy.ipynb"
        cells = [v4.new_markdown_cell(text) for text in texts]
        nbformat.write(v4.new_notebook(cells=cells), path)
        return export.export(path).read_text(encoding="utf-8")
    return exported


def test_contents_link_to_the_first_two_levels_and_every_name_is_taken_once(exported):
    html = exported(*PROSE)
    page = Page(html)
    names = [heading["id"] for heading in page.named("h1", "h2", "h3")]
    assert names == ["The-title", "Q1.-Why-β?", "Answer", "Q2.-How-9-of-them?", "Answer-2",
                     "Limits", "Q1.-Why-β?-2"]
    links = [link["href"] for link in page.named("a") if link.get("class") != "skip"]
    shown = ["#The-title", "#Q1.-Why-β?", "#Q2.-How-9-of-them?", "#Limits", "#Q1.-Why-β?-2"]
    assert links == shown * 2                       # above the text, and beside it
    assert "<!--" not in html.partition("<main")[0].partition("<body")[2]


def test_second_level_lies_within_the_first(exported):
    contents = exported(*PROSE).partition('class="contents side"')[2].partition("</nav>")[0]
    assert re.sub(r"<(?!/?[ul]).*?>|[^<>]*(?=<)", "", contents.partition("</strong>")[2]) == (
        "<ul><li><ul><li></li><li></li></ul></li><li><ul><li></li></ul></li></ul>")


def test_page_has_landmarks_and_a_way_past_the_contents(exported):
    page = Page(exported(*PROSE))
    assert [nav["aria-label"] for nav in page.named("nav")] == ["Contents", "Contents"]
    [main] = page.named("main")
    [skip] = [link for link in page.named("a") if link.get("class") == "skip"]
    assert skip["href"] == f"#{main['id']}"
    order = [tag for tag, _ in page.tags]
    assert order.index("body") < order.index("a") < order.index("nav") < order.index("main")


def test_contents_above_the_text_are_folded(exported):
    folds = Page(exported(*PROSE)).named("details")
    assert folds == [{}]


def test_a_single_heading_needs_no_contents(exported):
    assert Page(exported("# The title\n\n### Small")).named("nav") == []


def test_heads_of_columns_say_so_and_numbers_stay_at_the_right(exported):
    page = Page(exported(*PROSE))
    assert {head.get("scope") for head in page.named("th")} == {"col"}
    assert page.named("td")[:2] == [{}, {"style": "text-align:right"}]


def test_tables_and_formulas_stand_in_boxes_and_the_keyboard_reaches_wide_ones(exported):
    page = Page(exported(*PROSE, "$$x=1$$", "\\begin{align}x=1\\end{align}"))
    boxes = [attributes for attributes in page.named("div") if attributes.get("class") == "wide"]
    assert len(boxes) == 4
    assert [box.get("tabindex") for box in boxes] == [None, "0", None, None]
    assert [box.get("aria-label") for box in boxes] == [None, "Table", None, None]


def test_no_cell_is_a_stop_of_the_tab_key(exported):
    assert 'tabindex="0"' not in exported("# A\n\ntext")
