"""The submission's notebook: parameters, committed outputs, its form, two executions that agree."""

import base64
import json
import re
from urllib.parse import unquote

import nbformat
import pytest
from conftest import pictures, python

from lab import publish
from lab.chapters.ledger import CLAIMS
from lab.export import export
from lab.publish import NOTEBOOK, ROOT
from lab.recipes import check_settings

TESTS = ROOT / "tests"


@pytest.fixture(scope="module")
def notebook():
    return nbformat.read(NOTEBOOK, as_version=4)


def code_of(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]


# ---- parameters


def test_every_parameter_is_an_annotated_literal_with_a_word_on_it(notebook):
    """papermill shows users name, type, value and comment, but only of lines of this form."""
    (cell,) = publish.tagged(notebook, "parameters")
    lines = [line for line in cell.source.splitlines() if line.strip() and line[0] != "#"]
    assert len(lines) == len(publish.defaults(notebook))
    assert all("# " in line for line in lines)


@pytest.mark.parametrize("name", ["quick.yaml", "nbval.yaml"])
def test_parameter_files_set_what_the_notebook_accepts_and_train_everything(notebook, name):
    given = publish.read_parameters(TESTS / name)
    assert check_settings(publish.defaults(notebook) | given).extensions


def test_quick_run_writes_only_into_its_folder():
    quick = publish.read_parameters(TESTS / "quick.yaml")
    assert quick["RUNS"] == publish.QUICK.relative_to(ROOT).as_posix()
    assert quick["FIGURES"].startswith(quick["RUNS"] + "/")


def test_notebook_refuses_a_name_that_papermill_only_warns_of(tmp_path):
    run = python("-m", "papermill", NOTEBOOK, tmp_path / "out.ipynb", "-p", "EPOCH", "1",
                 cwd=tmp_path)
    assert run.returncode != 0
    assert re.search(r"Refused.*\bEPOCH\b", run.stderr)


# ---- the committed file


def test_committed_notebook_is_a_clean_full_run():
    assert list(publish.problems(NOTEBOOK)) == []


def test_numbers_in_the_prose_are_those_of_the_results(notebook):
    assert list(publish.stale_numbers(notebook, publish.read_results())) == []


def test_every_item_of_the_assignment_begins_with_its_answer(notebook):
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    items = re.split(r"^#+ (?=(?:Q[1-4]\.|Task [123]:))", prose, flags=re.MULTILINE)[1:]
    assert len(items) == 7
    for item in items:
        first = re.search(r"^### (.+)$", item, re.MULTILINE)
        assert first and first[1] == "Answer", item[:40]


def test_what_moves_is_small_and_its_bytes_are_not_compared(notebook):
    """nbval compares all kinds of pictures but two."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if moving := output.get("data", {}).get("image/gif"):
                assert len(base64.b64decode(moving)) <= 400_000
                assert "nbval-ignore-output" in publish.tags(cell)


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


# ---- executions


@pytest.fixture
def executed(executions):
    """The notebook executed with today's code on few drawn images, from nothing."""
    made, _, path, *_ = executions
    assert made.returncode == 0, made.stderr[-6000:]
    return nbformat.read(path, as_version=4)


def shown_by(notebook, tag):
    """Of every cell with the tag, what it shows in words, by its source."""
    return {cell.source: [publish.output_text(output) for output in cell.outputs]
            for cell in publish.tagged(notebook, tag)}


def test_what_needs_no_training_shows_what_is_committed(notebook, executed):
    known = shown_by(notebook, "nbval-check-output")
    assert len(known) >= 2
    assert shown_by(executed, "nbval-check-output") == known


def test_another_execution_shows_the_same_and_leaves_the_same_files(executions):
    """It loads what the first has trained; only times, devices and rates may differ."""
    _, again, _, before, after = executions
    assert again and again.returncode == 0, again and again.stdout[-6000:] + again.stderr[-2000:]
    assert {n: data for n, data in before.items() if n != "results.json"} == {
        n: data for n, data in after.items() if n != "results.json"}
    first, second = (json.loads(each["results.json"])["findings"] for each in (before, after))
    assert {name: kept["value"] for name, kept in first.items()} == {
        name: kept["value"] for name, kept in second.items()}


def test_an_execution_shows_every_epoch_and_nothing_that_may_not_be_committed(executed):
    text = "\n".join(publish.output_text(out) for c in code_of(executed) for out in c.outputs)
    assert len(re.findall(r"^epoch  1/1 ", text, re.MULTILINE)) == 4     # of one epoch each
    faults = [fault for cell in code_of(executed) for fault in publish.code_problems(cell)]
    assert faults + [f for c in code_of(executed) for out in c.outputs
                     for f in publish.output_problems(out)] == []


def test_the_files_of_an_execution_are_the_figures_that_it_shows(executions, executed):
    *_, before, _ = executions
    assert sorted(pictures(executed)) == sorted(
        data for name, data in before.items() if name != "results.json")


# What further seeds find, whose sentence is written when they are trained on real images.
AWAITED = {"priors.gain_sd"}


def test_a_finding_is_kept_because_it_is_read(notebook, executions):
    """By a mark of the prose or of README, or by a claim."""
    *_, before, _ = executions
    texts = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    texts.append(publish.README.read_text(encoding="utf-8"))
    read = {mark["name"] for text in texts for mark in publish.MARK.finditer(text)}
    read |= {name for claim in CLAIMS for name in claim.names}
    assert not AWAITED & (read - {name for claim in CLAIMS for name in claim.names})
    assert set(json.loads(before["results.json"])["findings"]) <= read | AWAITED
