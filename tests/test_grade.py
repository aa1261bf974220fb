"""The screen for a grader: what a small notebook holds comes out, and what it lacks is said."""

import json
import os
import subprocess
import sys

import pytest
from nbformat import v4

from lab import grade
from lab.__main__ import main
from lab.submission import ROOT

PICTURE = v4.new_output("display_data", {"image/png": "AA==", "text/plain": "a picture"})
LINE = v4.new_output("stream", text="a line")


def code(count, *outputs):
    return v4.new_code_cell("show()", execution_count=count, outputs=list(outputs))


def prose(text):
    return v4.new_markdown_cell(text)


CELLS = [
    prose("# A title\n\n### Answer\n\n**This answers none of the questions.**"),
    code(1, PICTURE),
    prose("# Theory\n\n## Q1. Why?\n\n**This stands above the answer.**\n\n### Answer\n\n"
          "By **12**<!--a.b .0f--> nats. **Because** of this: **it holds\n*the codes* "
          "3<!--c.d .0f--> nats near.** **And more.**\n\n### Derivation\n\n"
          "**This one is derived.**"),
    code(2), code(3, LINE), code(4, PICTURE, PICTURE),
    prose("## Q2. How?\n\n### Answer\n\n**Noise $z=\\mu+\\sigma\\odot\\varepsilon$, "
          "$\\varepsilon\\sim\\mathcal N(0,I)$, is an input**."),
    code(5, LINE), code(6, PICTURE),
    prose("## Q3. Why?\n\n### Derivation\n\n**No heading says that this answers.**"),
    prose("## Q4. What?\n\n### Answer\n\n**14**. **Near the centre** there is a face."),
    prose("# Task 1: it\n\n```\n# Task 2: not a heading\n```\n\n### Answer\n\n- **It learns.**"),
    code(7, PICTURE),
    prose("# Task 10\n\n### Answer\n\n**Another task is meant.**")]
FINDINGS = {name: {"value": value, "unit": unit} for name, value, unit in [
    ("q1.mixture", 1.6539, "nats"), ("q2.ratio_baseline", 29.36, ""), ("q3.noise", -16.3, "nats"),
    ("q4.dof", 35, "degrees"), ("conv.above_floor", 15338.4, "nats")]}


@pytest.fixture
def rows(tmp_path):
    """The screen of the small notebook, the lines of each item joined, by its name."""
    for name in ("01-title.png", "02-codes.png", "03-more.jpg", "04-noise.jpg"):
        (tmp_path / name).touch()
    found, last = {}, ""
    for line in grade.screen(CELLS, FINDINGS, tmp_path).splitlines():
        last = line[:8].strip() or last
        found[last] = found.get(last, "") + " " + line[8:].strip()
    return found


def test_every_item_of_the_assignment_has_its_row(rows):
    assert list(rows) == ["Q1", "Q2", "Q3", "Q4", "Task 1", "Task 2", "Task 3"]


def test_answer_is_the_first_bold_sentence_below_its_heading(rows):
    assert rows["Q1"].startswith(" it holds the codes 3 nats near. 1.65")
    assert rows["Task 1"].startswith(" It learns. ")


def test_formulas_are_shown_as_signs(rows):
    assert rows["Q2"].startswith(" Noise z=μ+σ⊙ε, ε~N(0,I), is an input. ")


def test_chapter_without_an_answer_says_so(rows):
    assert "no answer in this chapter" in rows["Q3"]
    assert "no bold sentence in this answer" in rows["Q4"]
    assert "no chapter of this name" in rows["Task 2"]


@pytest.mark.parametrize(("item", "number"), [
    ("Q1", "1.65 nats"), ("Q2", "29.4 "), ("Q3", "−16.3 nats"), ("Q4", "35 degrees"),
    ("Task 1", "15,338 nats")])
def test_number_stands_with_its_unit_and_its_name(rows, item, number):
    key = {name: key for name, key, _ in grade.ITEMS}[item]
    assert f" {number}" in rows[item] and f"({key})" in rows[item]


def test_number_that_is_missing_is_named(rows):
    assert "improved_paths.doubling is not among the results" in rows["Task 2"]


def test_figure_is_the_first_of_the_chapter_and_its_cell_is_shown(rows):
    assert "; 02-codes.png; cell [4]" in rows["Q1"]
    assert "; 04-noise.jpg; cell [6]" in rows["Q2"]
    assert rows["Task 1"].endswith("; –; cell [7]")               # its file is not there
    assert rows["Q3"].endswith("; –; cell –")


def test_screen_of_the_committed_notebook_fits_and_misses_nothing(capsys):
    assert main(["grade"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 28 and max(map(len, lines)) <= grade.WIDTH
    text = " ".join(" ".join(lines).split())
    assert all(f"({key})" in text for _, key, _ in grade.ITEMS)
    assert not [missing for missing in ("no answer", "no bold", "no chapter", "is not among")
                if missing in text]


def test_nothing_needs_to_be_installed_for_it():
    run = subprocess.run([sys.executable, "-S", "-m", "lab.grade"], cwd=ROOT, text=True,
                         env=os.environ | {"PYTHONUTF8": "1", "PYTHONPATH": ""},
                         capture_output=True, encoding="utf-8")
    assert (run.returncode, run.stderr) == (0, "") and run.stdout.startswith("Q1")


def test_keys_are_findings_of_the_last_full_run():
    found = json.loads((grade.FIGURES / "results.json").read_text(encoding="utf-8"))["findings"]
    assert {key for _, key, _ in grade.ITEMS} <= found.keys()
