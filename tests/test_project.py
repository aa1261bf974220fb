"""What the repository promises: its files, its commands, its results and its figures."""

import re
import shutil
from subprocess import run

import nbformat
import pytest
from conftest import pictures
from packaging.requirements import Requirement

from lab import publish
from lab.__main__ import main
from lab.publish import NOTEBOOK, README, ROOT

OURS = re.compile(r"[.]|(lab|data|figures|tests)/|MZ_VAE_Assignment.ipynb|vae_helpers.py|README.md|"
                  r"(requirements|constraints).txt|pyproject.toml|Makefile|LICENSE")
MACHINE = r"(^|[^[:alnum:]_.])/(home|root|tmp|work|Users|private|var)/[[:alnum:]_]|[A-Z]:\\Users"
INDEX = r"pypi[.]|pythonhosted[.]|index[-_]url"


def text_of(name):
    return (ROOT / name).read_text(encoding="utf-8")


def git(folder, *arguments):
    return run(["git", *arguments], cwd=folder, capture_output=True, text=True).stdout.splitlines()


def misplaced(folder):
    """Tracked files that belong elsewhere, and those that name a machine or a package index."""
    foreign = [name for name in git(folder, "ls-files") if not OURS.match(name)]
    return foreign + git(folder, "grep", "-lIE", "-e", MACHINE, "-e", INDEX)


@pytest.mark.skipif(not (ROOT / ".git").exists() or not shutil.which("git"), reason="no checkout")
def test_tracked_files_belong_here_and_those_of_a_visitor_are_no_concern(tmp_path):
    assert misplaced(ROOT) == []
    git(tmp_path, "init")
    (tmp_path / "log").write_text("made in /" + "home/me")
    assert misplaced(tmp_path) == []
    git(tmp_path, "add", "log")
    assert misplaced(tmp_path) == ["log", "log"]        # for its place, and for what it says


def test_requirements_admit_the_versions_of_the_committed_run():
    pinned = dict(re.findall(r"^([\w.-]+)==(\S+)$", text_of("constraints.txt"), re.MULTILINE))
    for line in re.findall(r"^[^#\s][^#\n]*", text_of("requirements.txt"), re.MULTILINE):
        wanted = Requirement(line)
        assert wanted.specifier and wanted.specifier.contains(pinned[wanted.name]), line


def test_readme_explains_every_command_and_parameter_that_there_is():
    readme = README.read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):.*## ", text_of("Makefile"), re.MULTILINE))
    assert {"run", "test"} <= targets == set(re.findall(r"`make ([a-z]+)", readme))
    for name in set(re.findall(r"-m lab ([a-z-]+)", readme)):
        with pytest.raises(SystemExit, match="^0$"):
            main([name, "--help"])
    assert all(f"`{name}`" in readme for name in publish.defaults(nbformat.read(NOTEBOOK, 4)))


def test_readme_and_figures_show_what_the_notebook_shows():
    readme = README.read_text(encoding="utf-8")
    results = publish.read_results()
    assert publish.with_numbers(readme, results) == readme
    assert f"PyTorch {results['versions']['torch']})" in readme
    assert all((ROOT / name).is_file() for name in re.findall(r"!\[.+?\]\((.+?)\)", readme))
    shown = pictures(nbformat.read(NOTEBOOK, 4))
    assert sorted(shown) == sorted(p.read_bytes() for p in (ROOT / "figures").glob("*.[gjp]*[fg]"))
