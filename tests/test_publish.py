"""The submission's files, on small notebooks whose faults are planted."""

import base64
import json

import nbformat
import pytest
from nbformat import v4

from lab import publish
from lab.notebook import Lab
from lab.publish import NotebookError
from lab.recipes import Training

PIXEL = base64.b64encode(b"a picture").decode()
SETTINGS = "EPOCHS: int = 0\nTRAIN_LIMIT: int = 0\nDATA: str = \"auto\""
BANNER = "CIFAR-10 from disk, CelebA from disk."


def code(source, *tags, outputs=(), count=None):
    metadata = {"tags": list(tags)} if tags else {}
    return v4.new_code_cell(source, metadata=metadata, outputs=list(outputs), execution_count=count)


def figure(alt="A line that rises.", kind="image/png"):
    data = {kind: PIXEL, "text/plain": alt}
    return v4.new_output("display_data", data, metadata={kind: {"alt": alt}})


def printed(text, name="stdout"):
    return v4.new_output("stream", name=name, text=text)


def sound_cells():
    """An executed notebook without a fault: parameters, banner, figure."""
    return [v4.new_markdown_cell("# A toy\n\nInline $\\mu$."),
            code(SETTINGS, "parameters", count=1),
            code("banner()", "data-banner", outputs=[printed(BANNER)], count=2),
            code("show()", outputs=[figure()], count=3)]


@pytest.fixture
def write(tmp_path, monkeypatch):
    """A function that writes cells to a notebook file and returns its path; results lie beside."""
    monkeypatch.setattr(publish, "RESULTS", tmp_path / "results.json")

    def write(cells, name="toy.ipynb", **metadata):
        whole = {"kernelspec": publish.KERNEL, "language_info": {"name": "python"}} | metadata
        path = tmp_path / name
        nbformat.write(v4.new_notebook(cells=cells, metadata=whole), path)
        return path
    return write


def read(path):
    return nbformat.read(path, as_version=4).cells


# ---- what keeps a notebook from being committed

def test_sound_notebook_has_no_problems(write):
    path = write(sound_cells())
    assert list(publish.problems(path)) == []
    publish.check(path)


def error(name):
    return v4.new_output("error", ename=name, evalue="x", traceback=[])


@pytest.mark.parametrize("cell, change, word", [
    (3, dict(execution_count=5), "in order"), (3, dict(execution_count=None), "in order"),
    (3, dict(metadata={"tags": ["parameters"]}), "2 cells are tagged `parameters`"),
    (3, dict(metadata={"tags": ["injected-parameters"]}), "injected"),
    (3, dict(metadata={"tags": ["hide-input"]}), "clean it"),
    (3, dict(metadata={"jupyter": {"source_hidden": True}}), "clean it"),
    (3, dict(metadata={"execution": {"iopub.status.idle": "2026"}}), "clean it"),
    (3, dict(outputs=[printed("1%\r2%")]), "clean it"),
    (3, dict(outputs=[figure(alt="", kind="image/jpeg")]), "alt text"),
    (3, dict(outputs=[printed("careful", "stderr")]), "stderr"),
    (3, dict(outputs=[printed("in /" + "home/someone")]), "one machine"),
    (3, dict(outputs=[printed("<Thing at 0x7f00aa11>")]), "one machine"),
    (3, dict(outputs=[error("KeyError")]), "KeyError"),
    (3, dict(source="a = 1\n\n" * 13), "13 lines"),
    (1, dict(metadata={}), "`parameters`"),
    (1, dict(source=SETTINGS.replace("LIMIT: int = 0", "LIMIT: int = 9")), "full run"),
    (1, dict(source=SETTINGS.replace("EPOCHS: int = 0", "EPOCHS: int = -1")), "EPOCHS"),
    (2, dict(outputs=[printed("CIFAR-10, CelebA: stand-in.")]), "stand-in"),
    (2, dict(outputs=[printed("CIFAR-10 from disk.")]), "celeba"),
    (2, dict(metadata={}), "`data-banner`"),
    (0, dict(source="# A\n\n**9**<!--a.b .0f--> nats"), "a.b"),
    (0, dict(source="# A\n\nnone<!--a.b .0f-->"), "<!--a.b .0f-->")])
def test_each_planted_fault_is_named_alone(write, cell, change, word):
    cells = sound_cells()
    cells[cell].update(nbformat.from_dict(change))
    path = write(cells)
    (found,) = publish.problems(path)
    assert word in found
    with pytest.raises(NotebookError, match="toy.ipynb"):
        publish.check(path)


def test_parameters_may_be_many_lines_but_a_notebook_not_too_large(write, monkeypatch):
    cells = sound_cells()
    cells[1].source = SETTINGS + "\n# more" * 13
    path = write(cells)
    assert list(publish.problems(path)) == []
    monkeypatch.setattr(publish, "LARGEST", 1000)
    assert "MB" in " ".join(publish.problems(path))


# ---- cleaning

def test_cleaned_executions_are_byte_identical(write):
    """What differs between two executions are times and how the kernel cut its text into pieces."""
    files = []
    for name, pieces in (("a.ipynb", ["10%\r", "20%\rdo", "ne\n"]), ("b.ipynb", ["done\n"])):
        cells = sound_cells()
        cells[3].outputs = [printed(piece) for piece in pieces]
        cells[3].metadata.update(papermill={"duration": name}, tags=[])
        for i, cell in enumerate(cells):
            cell.id = f"cell-{i}"
        language = {"name": "python", "version": name}
        path = write(cells, name, papermill={"duration": name}, language_info=language)
        publish.clean(path)
        files.append(path.read_bytes())
        assert list(publish.problems(path)) == []
    assert files[0] == files[1]


def test_clean_hides_the_tagged_alone_and_drops_a_live_line_that_ended_on_nothing():
    cells = sound_cells()
    cells[2].metadata.update(jupyter={"source_hidden": True, "outputs_hidden": False})
    cells[3].metadata.update(tags=["hide-input"])
    cells.append(v4.new_markdown_cell("## Details", metadata={"tags": ["fold"]}))
    blank, shown = (v4.new_output("display_data", {"text/plain": text}) for text in ("", "two"))
    cells[3].outputs = [printed("one\n"), blank, printed("line\n"), shown]
    made = publish.cleaned(v4.new_notebook(cells=cells))
    assert set(made.cells[2].metadata) == {"tags"} and made.cells[3].outputs == [
        printed("one\nline\n"), shown]
    assert made.cells[3].metadata.jupyter == {"source_hidden": True}
    assert made.cells[-1].metadata["jp-MarkdownHeadingCollapsed"]
    assert made == publish.cleaned(made)


def test_clean_refuses_an_execution_with_other_parameters(write):
    path = write([*sound_cells(), code("EPOCHS = 1", "injected-parameters")])
    with pytest.raises(NotebookError, match="toy.ipynb"):
        publish.clean(path)


# ---- executing


@pytest.fixture
def put(write, tmp_path, monkeypatch):
    """A function that puts cells in the submission's place; the file's path."""
    def put(cells):
        path = write(cells, "submission.ipynb")
        monkeypatch.setattr(publish, "ROOT", tmp_path)
        monkeypatch.setattr(publish, "NOTEBOOK", path)
        monkeypatch.setattr(publish, "FULL", tmp_path / "runs" / "full")
        monkeypatch.setattr(publish, "train_all", lambda parameters: None)
        return path
    return put


WRITES = "import json\nfound = {'a.b': {'value': 153.4}}\n" \
         "json.dump({'findings': found}, open('results.json', 'w'))"


def test_full_run_replaces_the_notebook_by_its_clean_execution_with_its_numbers(put):
    path = put([v4.new_markdown_cell("**9**<!--a.b .0f--> nats"), code(SETTINGS, "parameters"),
                code(f"print({BANNER!r})", "data-banner"), code(WRITES), code("print(1 + 1)")])
    publish.full()
    assert read(path)[4].outputs[0].text == "2\n"
    assert read(path)[0].source == "**153**<!--a.b .0f--> nats"
    assert list(publish.problems(path)) == []


@pytest.mark.parametrize("cells, why", [
    ([code(SETTINGS, "parameters"), code("print('before')"), code("1 / 0")], "ZeroDivisionError"),
    ([code(SETTINGS, "parameters"), code("print('stand-ins')", "data-banner")], "stand-in")])
def test_full_run_that_fails_or_has_problems_leaves_the_notebook_as_it_was(put, cells, why):
    path = put(cells)
    before = path.read_bytes()
    with pytest.raises(NotebookError, match=why):
        publish.full()
    assert path.read_bytes() == before


def test_a_full_run_first_trains_all_that_is_missing_and_takes_no_drawings(tmp_path, monkeypatch):
    parameters = {"EPOCHS": 1, "TRAIN_LIMIT": 40, "DATA": "standin", "DEVICE": "cpu",
                  "RUNS": str(tmp_path)}
    wanted = [Training("p2-fc"), Training("p2-fc", 1)]
    monkeypatch.setattr(publish, "TRAININGS", wanted)
    with pytest.raises(NotebookError, match="takes real images: .* drawn"):
        publish.train_all(parameters)
    monkeypatch.setattr(Lab, "shown_sets", [])
    publish.train_all(parameters)
    assert all(Lab(parameters).job(training).finished for training in wanted)


def test_full_run_refuses_a_malformed_mark_before_anything_starts(put):
    put([v4.new_markdown_cell("9 nats<!--a.b .0f-->"), code(SETTINGS, "parameters")])
    with pytest.raises(NotebookError, match="a.b"):
        publish.full()
    assert not publish.FULL.exists()


def test_refresh_replaces_the_outputs_of_tagged_cells_alone(write):
    old = v4.new_output("execute_result", {"text/plain": "old"}, execution_count=4)
    path = write([code("size = 3", "parameters", count=1), code("import math", "setup", count=2),
                  code("1 / 0", outputs=[printed("hours of training")], count=3),
                  code("math.factorial(size)", "nbval-check-output", outputs=[old], count=4)])
    before = read(path)
    publish.refresh(path)
    after = read(path)
    assert after[:3] == before[:3]
    assert after[3].outputs[0].data["text/plain"] == "6"
    assert after[3].execution_count == after[3].outputs[0].execution_count == 4
    assert after[3].metadata == before[3].metadata


def test_refresh_that_fails_leaves_the_notebook_as_it_was(write):
    path = write([code("1 / 0", "nbval-check-output", outputs=[printed("old")], count=1)])
    before = path.read_bytes()
    with pytest.raises(NotebookError, match="ZeroDivisionError"):
        publish.refresh(path)
    assert path.read_bytes() == before


# ---- numbers in prose

def results(**values):
    """Results with the findings of these values; `a_b` is named a.b."""
    found = {name.replace("_", ".", 1): {"value": value} for name, value in values.items()}
    return {"findings": found, "trainings": [], "versions": {}}


@pytest.mark.parametrize("text, value, filled", [
    ("**9**<!--a.b .0f--> nats", 153.4, "**153**<!--a.b .0f--> nats"),
    ("(12.3<!--a.b ,.1f-->)", 1823.04, "(1,823.0<!--a.b ,.1f-->)"),
    ("by −3.1<!--a.b .1f-->", 2.24, "by 2.2<!--a.b .1f-->"),
    ("by -3.1<!--a.b +.1f-->", -2.24, "by −2.2<!--a.b +.1f-->"),
    ("10-20<!--a.b .0f-->", 30, "10-30<!--a.b .0f-->"),
    ("**65 %**<!--a.b .0%--> of it", 0.382, "**38 %**<!--a.b .0%--> of it"),
    ("65<!--a.b .0%--> of it", 0.382, "38 %<!--a.b .0%--> of it"),
    ("65 %<!--a.b .0f--> of it", 38.2, "38 %<!--a.b .0f--> of it"),
    ("1e−05<!--a.b .2g-->", 0.000012, "1.2e−05<!--a.b .2g-->"),
    ("**–**<!--a.b .6f-->", 0.000615, "**0.000615**<!--a.b .6f-->")])
def test_number_before_a_mark_is_written_anew(text, value, filled):
    assert publish.with_numbers(text, results(a_b=value)) == filled
    assert publish.with_numbers(filled, results(a_b=value)) == filled


def test_each_number_has_its_own_mark_is_named_where_stale_and_a_dash_where_not_found():
    text = "**1**<!--a.b .0f--> and 2<!--c.d .0f--> are 3, and 1.0<!--a.b .1f-->, 9<!--e.f .0f-->"
    found = results(a_b=1, c_d=8)
    assert publish.with_numbers(text, found) == (
        "**1**<!--a.b .0f--> and 8<!--c.d .0f--> are 3, and 1.0<!--a.b .1f-->, –<!--e.f .0f-->")
    cells = [v4.new_markdown_cell(text), code("2 # <!--a.b-->")]
    stale, absent = publish.stale_numbers(v4.new_notebook(cells=cells), found)
    assert "c.d" in stale and "e.f" in absent


@pytest.mark.parametrize("text", [
    "none<!--a.b .0f-->", "9 <!--a.b .0f-->", "9<!-- a.b .0f -->", "9<!--a.b-->", "9<!--a.b .0f",
    "9<!--a.b s-->"])
def test_malformed_mark_is_refused_by_name(text):
    with pytest.raises(NotebookError, match="a.b"):
        publish.with_numbers(text, results(a_b=1.5))


def test_fill_writes_prose_and_leaves_code(write):
    path = write([v4.new_markdown_cell("2<!--a.b .0f-->"), code("x = '2<!--a.b .0f-->'")])
    publish.RESULTS.write_text(json.dumps(results(a_b=5)), encoding="utf-8")
    publish.fill(path)
    assert [cell.source for cell in read(path)] == ["5<!--a.b .0f-->", "x = '2<!--a.b .0f-->'"]


def test_how_many_trainings_there_are_and_their_hours_are_findings(write):
    publish.RESULTS.write_text(json.dumps({"trainings": [{"minutes": 10.88}, {"minutes": 60}]}))
    text = "0<!--trainings.number .0f--> trainings take 0<!--trainings.hours .1f--> hours"
    assert publish.with_numbers(text, publish.read_results()) == (
        "2<!--trainings.number .0f--> trainings take 1.2<!--trainings.hours .1f--> hours")
