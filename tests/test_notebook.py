"""The submission's notebook: parameters, committed outputs, its form, two executions that agree."""

import ast
import re
import statistics
from urllib.parse import unquote

import nbformat
import pytest
from conftest import python

from lab import submission
from lab.export import export
from lab.recipes import check_settings
from lab.submission import NOTEBOOK, ROOT

TESTS = ROOT / "tests"


@pytest.fixture(scope="module")
def notebook():
    return nbformat.read(NOTEBOOK, as_version=4)


def code_of(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]


# ---- parameters


def test_every_parameter_is_an_annotated_literal_with_a_word_on_it(notebook):
    """papermill shows users name, type, value and comment, but only of lines of this form."""
    (cell,) = submission.tagged(notebook, "parameters")
    lines = [line for line in cell.source.splitlines() if line.strip() and line[0] != "#"]
    assert len(lines) == len(submission.defaults(notebook))
    assert all("# " in line for line in lines)


@pytest.mark.parametrize("name", ["quick.yaml", "nbval.yaml"])
def test_parameter_files_set_what_the_notebook_accepts_and_train_everything(notebook, name):
    given = submission.read_parameters(TESTS / name)
    assert check_settings(submission.settings(notebook, given)).extensions


def test_quick_run_writes_only_into_its_folder():
    quick = submission.read_parameters(TESTS / "quick.yaml")
    assert quick["RUNS"] == submission.QUICK.relative_to(ROOT).as_posix()
    assert quick["FIGURES"].startswith(quick["RUNS"] + "/")


def test_notebook_refuses_a_name_that_papermill_only_warns_of(tmp_path):
    run = python("-m", "papermill", NOTEBOOK, tmp_path / "out.ipynb", "-p", "EPOCH", "1",
                 cwd=tmp_path)
    assert run.returncode != 0
    assert re.search(r"Refused.*\bEPOCH\b", run.stderr)


# ---- the committed file


def test_committed_notebook_is_a_clean_full_run():
    assert list(submission.problems(NOTEBOOK)) == []


def test_numbers_in_the_prose_are_those_of_the_results(notebook):
    assert list(submission.stale_numbers(notebook, submission.read_results())) == []


def test_no_cell_builds_a_sentence_or_hides_what_it_computes(notebook):
    for cell in code_of(notebook):
        tree = ast.parse(cell.source)
        assert not any(isinstance(node, ast.JoinedStr) for node in ast.walk(tree)), cell.source
        assert "display(" not in cell.source and "print(" not in cell.source


def test_cells_are_short_and_prose_is_plenty(notebook):
    lengths = [len(cell.source.splitlines()) for cell in code_of(notebook)]
    prose = [cell for cell in notebook.cells if cell.cell_type == "markdown"]
    assert max(lengths[1:]) <= 8 and statistics.median(lengths) <= 2        # but for parameters
    assert len(prose) >= 0.6 * len(lengths)


def test_the_essay_is_an_essay_and_the_appendix_is_short(notebook):
    appendix = next(i for i, cell in enumerate(notebook.cells)
                    if cell.source.startswith("# Appendix"))
    essay = [cell for cell in code_of(notebook) if cell in notebook.cells[:appendix]]
    assert len(essay) <= 60 and len(code_of(notebook)) <= 75


def test_every_item_of_the_assignment_begins_with_its_answer(notebook):
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    items = re.split(r"^#+ (?=(?:Q[1-4]\.|Task [123]:))", prose, flags=re.MULTILINE)[1:]
    assert len(items) == 7
    for item in items:
        first = re.search(r"^### (.+)$", item, re.MULTILINE)
        assert first and first[1] == "Answer", item[:40]


def test_links_within_the_notebook_reach_a_heading(notebook, tmp_path):
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    heads = {head.replace(" ", "-") for head in re.findall(r"^#+ (.+)$", prose, re.MULTILINE)}
    links = set(re.findall(r"\]\(#([^)]+)\)", prose))
    assert links and links <= heads
    html = export(NOTEBOOK, tmp_path / "out.html").read_text(encoding="utf-8")
    there = set(re.findall(r'\bid="([^"]+)"', html))
    assert {unquote(link) for link in re.findall(r'href="#([^"]+)"', html)} <= there


def test_every_figure_is_followed_or_led_by_prose(notebook):
    kinds = [cell.cell_type for cell in notebook.cells]
    for i, cell in enumerate(notebook.cells):
        shown = [kind for output in cell.get("outputs", []) for kind in output.get("data", {})]
        if any(kind.startswith("image/") for kind in shown):
            assert "markdown" in (kinds[i - 1], kinds[i + 1]), cell.source


def test_committed_notebook_exports_to_html_that_needs_no_network(notebook, tmp_path):
    html = export(NOTEBOOK, tmp_path / "out.html").read_text(encoding="utf-8")
    assert "<script" not in html
    figures = [output for cell in notebook.cells for output in cell.get("outputs", [])
               if any(kind.startswith("image/") for kind in output.get("data", {}))]
    hidden = submission.tagged(notebook, "hide-input")
    assert figures and html.count("alt=") >= len(figures)
    assert hidden and html.count("<details") >= len(hidden)


# ---- executions


@pytest.fixture
def executed(executions):
    """The notebook executed with today's code on few drawn images, from nothing."""
    made, _, path = executions
    assert made.returncode == 0, made.stderr[-6000:]
    return path


def shown_by(notebook, tag):
    """Of every cell with the tag, what it shows in words, by its source."""
    return {cell.source: [submission.output_text(output) for output in cell.outputs]
            for cell in submission.tagged(notebook, tag)}


def test_what_needs_no_training_shows_what_is_committed(notebook, executed):
    known = shown_by(notebook, "nbval-check-output")
    assert len(known) >= 2
    assert shown_by(nbformat.read(executed, as_version=4), "nbval-check-output") == known


def test_another_execution_shows_the_same(executions):
    """It loads what the first has trained; only times, devices and rates may differ."""
    _, again, _ = executions
    assert again and again.returncode == 0, again and again.stdout[-6000:] + again.stderr[-2000:]
