"""What the repository promises about itself."""

import os
import re
import shutil
import subprocess
import sys

import nbformat
import nbtool
import pytest
from nbtool import README, ROOT


def git(*arguments):
    """The lines that git prints about this checkout."""
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        pytest.skip("not a git checkout")
    run = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, encoding="utf-8", check=True)
    return run.stdout.splitlines()


def test_no_file_names_a_path_of_a_machine():
    paths = [ROOT / line for line in git("ls-files", "--cached", "--others", "--exclude-standard")]
    texts = [path for path in paths if path.is_file() and b"\0" not in path.read_bytes()]
    guilty = {path.relative_to(ROOT).as_posix(): found[0] for path in texts
              if (found := nbtool.PATH_OF_A_MACHINE.search(path.read_text(encoding="utf-8")))}
    assert guilty == {}


def test_no_data_run_or_cache_is_tracked():
    assert git("ls-files", "--cached", "--ignored", "--exclude-standard") == []


def test_readme_shows_the_results_of_the_last_full_run():
    readme = README.read_text(encoding="utf-8")
    assert nbtool.with_results(readme, nbtool.read_results()) == readme


def test_readme_shows_figures_that_are_there():
    shown = re.findall(r"!\[.+?\]\((.+?)\)", README.read_text(encoding="utf-8"))
    assert shown and all((ROOT / name).is_file() for name in shown)


def test_figures_are_those_of_the_notebook_and_no_others():
    shown = [kind for cell in nbformat.read(nbtool.NOTEBOOK, as_version=4).cells for output in cell.get("outputs", [])
             for kind in output.get("data", {}) if kind.startswith("image/")]
    kept = sorted(path for path in (ROOT / "figures").iterdir() if path.suffix != ".json")
    assert [int(path.name[:2]) for path in kept] == list(range(1, len(shown) + 1))
    assert [f"image/{path.suffix[1:].replace('jpg', 'jpeg')}" for path in kept] == shown


def test_readme_explains_every_target_and_parameter():
    readme = README.read_text(encoding="utf-8")
    targets = re.findall(r"^([a-z]+):.*## ", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    names = nbtool.defaults(nbformat.read(nbtool.NOTEBOOK, as_version=4))
    missing = [f"make {target}" for target in targets if f"make {target}" not in readme]
    missing += [name for name in names if f"`{name}`" not in readme]
    assert missing == []


def test_trials_without_their_images_are_refused_in_a_sentence(tmp_path):
    run = subprocess.run([sys.executable, ROOT / "tools" / "trials.py", "--data-root", "nowhere"], cwd=tmp_path,
                         capture_output=True, text=True, encoding="utf-8")
    assert run.returncode == 1 and run.stderr.startswith("error: CIFAR-10 is not in nowhere")
    assert len(run.stderr.splitlines()) == 1


@pytest.mark.skipif(os.name == "nt" or not shutil.which("make"), reason="without make there is nothing to refuse")
def test_unsuitable_python_is_refused_in_a_sentence_before_anything_is_installed(tmp_path):
    folder = tmp_path / "with space"
    folder.mkdir()
    for name in ("Makefile", "requirements.txt"):
        shutil.copy(ROOT / name, folder)
    run = subprocess.run(["make", "run", "PYTHON=no-such-python"], cwd=folder, capture_output=True, text=True)
    sentence, *rest = run.stderr.splitlines()
    assert run.returncode != 0 and all(line.startswith("make") for line in rest)
    assert all(version in sentence for version in ("3.10", "3.11", "3.12"))
    assert not (folder / ".venv").exists()
