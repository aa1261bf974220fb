"""What the repository promises about itself."""

import ast
import json
import os
import re
import shutil
import statistics
import subprocess
import sys

import nbformat
import pytest

from lab import submission
from lab.chapters.ledger import CLAIMS
from lab.show import is_number
from lab.submission import NOTEBOOK, README, RESULTS, ROOT

SOURCES = [ROOT / "vae_helpers.py", *sorted((ROOT / "lab").rglob("*.py"))]


def git(*arguments):
    """The lines that git prints about this checkout."""
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        pytest.skip("not a git checkout")
    run = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True,
                         encoding="utf-8", check=True)
    return run.stdout.splitlines()


def listed():
    return [ROOT / line for line in git("ls-files", "--cached", "--others", "--exclude-standard")]


def test_no_file_names_a_path_of_a_machine():
    texts = [path for path in listed() if path.is_file() and b"\0" not in path.read_bytes()]
    guilty = {path.relative_to(ROOT).as_posix(): found[0] for path in texts
              if (found := submission.PATH_OF_A_MACHINE.search(path.read_text(encoding="utf-8")))}
    assert guilty == {}


def test_the_top_holds_the_submission_and_nothing_else():
    tops = {path.relative_to(ROOT).parts[0] for path in listed() if path.exists()}
    assert {name for name in tops if not name.startswith(".")} == {
        "MZ_VAE_Assignment.ipynb", "vae_helpers.py", "lab", "data", "figures", "tests",
        "requirements.txt", "constraints.txt", "README.md", "Makefile", "pyproject.toml", "LICENSE"}


def test_no_data_run_or_cache_is_tracked():
    assert git("ls-files", "--cached", "--ignored", "--exclude-standard") == []


# ---- the house


def functions_of(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef):
            yield node.name, node.end_lineno - node.lineno + 1


def test_functions_are_short_and_files_are_read_in_one_sitting():
    lengths = [n for path in SOURCES for _, n in functions_of(path)]
    long = {f"{path.name}: {name}": n for path in SOURCES for name, n in functions_of(path)
            if n > 40}
    assert long == {} and statistics.median(lengths) <= 12
    lines = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    assert {name: n for name, n in lines.items() if n > 560} == {}


def test_arrows_run_one_way():
    """vae_helpers imports nothing of ours, and nothing below the chapters imports them."""
    def imports(path):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                yield node.module
            elif isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)

    ours = ("lab", "data", "vae_helpers")
    assert not [name for name in imports(ROOT / "vae_helpers.py") if name.split(".")[0] in ours]
    for path in SOURCES:
        below = "chapters" not in path.parts
        assert not below or not any(name.startswith("lab.chapters") for name in imports(path)), path
    for path in (ROOT / "data").glob("*.py"):
        assert not [name for name in imports(path) if name.split(".")[0] in ("lab", "vae_helpers")]


def test_importing_the_module_of_the_models_runs_and_needs_nothing_of_ours(tmp_path):
    shutil.copy(ROOT / "vae_helpers.py", tmp_path)
    run = subprocess.run([sys.executable, "-c", "import vae_helpers"], cwd=tmp_path,
                         capture_output=True, text=True, env=os.environ | {"PYTHONPATH": ""})
    assert (run.returncode, run.stdout) == (0, "")


# ---- results, README, figures


def test_results_are_numbers_with_a_unit():
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    assert results.keys() == {"findings", "trainings", "versions"}
    for name, finding in results["findings"].items():
        assert is_number(finding["value"]) and finding.keys() == {"value", "unit", "run", "note"}
        assert re.fullmatch(r"[a-z0-9_]+(\.[a-z0-9_]+)+", name), name


def test_what_claims_ask_for_is_in_the_results_or_its_training_is_missing():
    results = json.loads(RESULTS.read_text(encoding="utf-8"))["findings"]
    absent = {name for claim in CLAIMS for name in claim.names} - results.keys()
    assert absent <= {"conv.long_settled_above_floor"}


def test_readme_shows_the_results_of_the_last_full_run():
    readme = README.read_text(encoding="utf-8")
    assert submission.with_results(readme, submission.read_results()) == readme


def test_readme_shows_figures_that_are_there():
    shown = re.findall(r"!\[.+?\]\((.+?)\)", README.read_text(encoding="utf-8"))
    assert shown and all((ROOT / name).is_file() for name in shown)


def test_figures_are_those_of_the_notebook_and_no_others():
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    shown = [kind for cell in cells for output in cell.get("outputs", [])
             for kind in output.get("data", {}) if kind.startswith("image/")]
    kept = sorted(path for path in (ROOT / "figures").iterdir() if path.suffix != ".json")
    assert [int(path.name[:2]) for path in kept] == list(range(1, len(shown) + 1))
    assert [f"image/{path.suffix[1:].replace('jpg', 'jpeg')}" for path in kept] == shown


def test_readme_explains_every_target_and_parameter():
    readme = README.read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^([a-z]+):.*## ", makefile, re.MULTILINE)
    names = submission.defaults(nbformat.read(NOTEBOOK, as_version=4))
    missing = [f"make {target}" for target in targets if f"make {target}" not in readme]
    missing += [name for name in names if f"`{name}`" not in readme]
    assert missing == []


@pytest.mark.skipif(os.name == "nt" or not shutil.which("make"), reason="there is no make")
def test_unsuitable_python_is_refused_in_a_sentence_before_anything_is_installed(tmp_path):
    folder = tmp_path / "with space"
    folder.mkdir()
    for name in ("Makefile", "requirements.txt"):
        shutil.copy(ROOT / name, folder)
    run = subprocess.run(["make", "run", "PYTHON=no-such-python"], cwd=folder, capture_output=True,
                         text=True)
    sentence, *rest = run.stderr.splitlines()
    assert run.returncode != 0 and all(line.startswith("make") for line in rest)
    assert all(version in sentence for version in ("3.10", "3.11", "3.12"))
    assert not (folder / ".venv").exists()
