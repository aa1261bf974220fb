"""The submission's notebook: its parameters, its committed outputs, and two executions of it that agree."""

import os
import re
import shutil
import subprocess
import sys

import nbformat
import nbtool
import offline_html
import pytest
from nbtool import NOTEBOOK, ROOT

from vae_helpers import check_settings

TESTS = ROOT / "tests"
SMALL = TESTS / "nbval.yaml"


@pytest.fixture(scope="module")
def notebook():
    return nbformat.read(NOTEBOOK, as_version=4)


# ---------------------------------------------------------------- parameters

def test_every_parameter_is_an_annotated_literal_with_a_word_on_it(notebook):
    """papermill shows users name, type, value and comment, but only of lines of this form."""
    (cell,) = nbtool.tagged(notebook, "parameters")
    lines = [line for line in cell.source.splitlines() if line.strip() and not line.startswith("#")]
    assert len(lines) == len(nbtool.defaults(notebook))
    assert all("# " in line for line in lines)


@pytest.mark.parametrize("name", ["quick.yaml", "nbval.yaml"])
def test_parameter_files_set_what_the_notebook_accepts(notebook, name):
    check_settings(nbtool.settings(notebook, nbtool.read_parameters(TESTS / name)))


def test_quick_run_writes_only_into_its_folder():
    quick = nbtool.read_parameters(TESTS / "quick.yaml")
    assert quick["RUNS"] == nbtool.QUICK.relative_to(ROOT).as_posix()
    assert quick["FIGURES"].startswith(quick["RUNS"] + "/")


@pytest.mark.parametrize("name, value", [
    ("EPOCHS", -1), ("EPOCHS", "abc"), ("EPOCHS", 1.5), ("CELEBA_EPOCHS", -2), ("TRAIN_LIMIT", -1), ("DATA", "foo"),
    ("DEVICE", "abacus"), ("PRECISION", "fp7"), ("SEED", "x"), ("EXTENSIONS", "true")])
def test_nonsense_values_are_refused_in_a_sentence(notebook, name, value):
    with pytest.raises(ValueError, match=f"(?i)\\b{name}\\b") as refusal:
        check_settings(nbtool.settings(notebook, {name: value}))
    assert "\n" not in str(refusal.value)


def test_notebook_refuses_a_name_that_papermill_only_warns_of(tmp_path):
    run = python("-m", "papermill", NOTEBOOK, tmp_path / "out.ipynb", "-p", "EPOCH", "1", cwd=tmp_path)
    assert run.returncode != 0
    assert re.search(r"ValueError.*\bEPOCH\b", run.stderr)


# ---------------------------------------------------------------- the committed file

def test_committed_notebook_is_a_clean_full_run():
    assert list(nbtool.problems(NOTEBOOK)) == []


def test_committed_notebook_exports_to_html_that_needs_no_network(notebook, tmp_path):
    html = offline_html.export(NOTEBOOK, tmp_path / "out.html").read_text(encoding="utf-8")
    assert "<script" not in html
    figures = [output for cell in notebook.cells for output in cell.get("outputs", [])
               if any(kind.startswith("image/") for kind in output.get("data", {}))]
    assert figures and html.count("alt=") >= len(figures)


# ---------------------------------------------------------------- executions

def python(*arguments, cwd):
    """Run this Python in `cwd` with the project importable, as a reader's shell would run it."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"}
    return subprocess.run([sys.executable, *map(str, arguments)], cwd=cwd, env=environment, text=True,
                          encoding="utf-8", capture_output=True)


def nbval(path, how):
    """Execute the notebook at `path` in its folder and compare with what is stored in it."""
    run = python("-m", "pytest", "--quiet", how, "--nbval-current-env", "--nbval-cell-timeout", "300",
                 "-p", "no:cacheprovider", "--rootdir", path.parent, path, cwd=path.parent)
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]


def test_committed_notebook_runs_with_todays_helpers_and_keeps_its_invariants(notebook, tmp_path):
    """Each cell runs, on small stand-in data; those tagged nbval-check-output give what is committed."""
    assert len(nbtool.tagged(notebook, "nbval-check-output")) >= 2
    copy = tmp_path / "copy.ipynb"
    prepared = python("-m", "papermill", NOTEBOOK, copy, "--prepare-only", "--parameters_file", SMALL, cwd=tmp_path)
    assert prepared.returncode == 0, prepared.stderr
    nbval(copy, "--nbval-lax")


def test_two_executions_agree(tmp_path, monkeypatch):
    """Each trains from nothing in a folder of its own; only times, devices and rates may differ."""
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    nbtool.execute(NOTEBOOK, first / "copy.ipynb", nbtool.read_parameters(SMALL), cwd=first)
    shutil.copy(first / "copy.ipynb", second)
    nbval(second / "copy.ipynb", "--nbval")
