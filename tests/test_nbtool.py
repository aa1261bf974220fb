"""The notebook tool, on small notebooks whose faults are planted."""

import base64

import nbformat
import nbtool
import offline_html
import pytest
from nbformat import v4

PIXEL = base64.b64encode(b"a picture").decode()
SETTINGS = "EPOCHS: int = 0\nTRAIN_LIMIT: int = 0\nDATA: str = \"auto\""


def code(source, *tags, outputs=(), count=None):
    metadata = {"tags": list(tags)} if tags else {}
    return v4.new_code_cell(source, metadata=metadata, outputs=list(outputs), execution_count=count)


def figure(alt="A line that rises.", kind="image/png"):
    return v4.new_output("display_data", {kind: PIXEL, "text/plain": alt}, metadata={kind: {"alt": alt}})


def printed(text, name="stdout"):
    return v4.new_output("stream", name=name, text=text)


def sound_cells():
    """An executed notebook without a fault: parameters, banner, figure."""
    return [v4.new_markdown_cell("# A toy\n\nInline $\\mu$."),
            code(SETTINGS, "parameters", count=1),
            code("banner()", "data-banner", outputs=[printed("CIFAR-10 from disk, CelebA from disk.")], count=2),
            code("show()", outputs=[figure()], count=3)]


@pytest.fixture
def write(tmp_path):
    """A function that writes cells to a notebook file and returns its path."""
    def write(cells, name="toy.ipynb", **metadata):
        metadata = {"kernelspec": nbtool.KERNEL, "language_info": {"name": "python"}} | metadata
        path = tmp_path / name
        nbformat.write(v4.new_notebook(cells=cells, metadata=metadata), path)
        return path
    return write


def test_sound_notebook_has_no_problems(write):
    assert list(nbtool.problems(write(sound_cells()))) == []


@pytest.mark.parametrize("spoil, fault", [
    (lambda cells: cells[3].update(execution_count=5), "in order"),
    (lambda cells: cells[3].update(execution_count=None), "in order"),
    (lambda cells: cells[1].metadata.update(tags=[]), "0 cells are tagged `parameters`"),
    (lambda cells: cells[3].metadata.update(tags=["parameters"]), "2 cells are tagged `parameters`"),
    (lambda cells: cells[1].update(source=SETTINGS.replace("LIMIT: int = 0", "LIMIT: int = 9")), "full run"),
    (lambda cells: cells[3].metadata.update(tags=["injected-parameters"]), "injected"),
    (lambda cells: cells[3].metadata.update(execution={"iopub.status.idle": "2026"}), "execution"),
    (lambda cells: cells[3].metadata.update(papermill={"duration": 1.0}), "papermill"),
    (lambda cells: cells[3].update(outputs=[figure(alt="")]), "no alt text"),
    (lambda cells: cells[3].update(outputs=[figure(alt="", kind="image/jpeg")]), "no alt text"),
    (lambda cells: cells[3].update(outputs=[printed("careful", "stderr")]), "stderr"),
    (lambda cells: cells[3].update(outputs=[printed("1%\r2%")]), "progress"),
    (lambda cells: cells[3].update(outputs=[printed("in /" + "home/someone")]), "one machine"),
    (lambda cells: cells[3].update(outputs=[printed("<Thing at 0x7f00aa11>")]), "one machine"),
    (lambda cells: cells[3].update(outputs=[v4.new_output("error", ename="KeyError", evalue="x", traceback=[])]),
     "KeyError"),
    (lambda cells: cells[3].update(outputs=[v4.new_output(
        "display_data", {"application/vnd.jupyter.widget-view+json": {}})]), "widget"),
    (lambda cells: cells[3].update(outputs=[v4.new_output("display_data", {"text/html": "<img src='data:,'>"})]),
     "without alt"),
    (lambda cells: cells[2].update(outputs=[printed("CIFAR-10 from disk, CelebA: the stand-in.")]), "stand-in"),
    (lambda cells: cells[2].update(outputs=[printed("CIFAR-10 from disk.")]), "does not name celeba"),
    (lambda cells: cells[2].metadata.update(tags=[]), "`data-banner`"),
])
def test_each_planted_fault_is_named(write, spoil, fault):
    cells = sound_cells()
    spoil(cells)
    (found,) = nbtool.problems(write(cells))
    assert fault in found


def test_notebook_that_is_too_large_is_named(write, monkeypatch):
    monkeypatch.setattr(nbtool, "LARGEST", 1000)
    assert "MB" in " ".join(nbtool.problems(write(sound_cells())))


def test_cleaned_executions_are_byte_identical(write):
    """What differs between two executions are times and how the kernel cut its text into pieces."""
    files = []
    for name, pieces in (("a.ipynb", ["10%\r", "20%\rdo", "ne\n"]), ("b.ipynb", ["done\n"])):
        cells = sound_cells()
        cells[3].outputs = [printed(piece) for piece in pieces]
        cells[3].metadata.update(papermill={"duration": name}, tags=[])
        for cell in cells:
            cell.id = f"cell-{cells.index(cell)}"
        path = write(cells, name, papermill={"duration": name}, language_info={"name": "python", "version": name})
        nbtool.clean(path)
        files.append(path.read_bytes())
        assert list(nbtool.problems(path)) == []
    assert files[0] == files[1]


def test_clean_refuses_an_execution_with_other_parameters(write):
    path = write([*sound_cells(), code("EPOCHS = 1", "injected-parameters")])
    with pytest.raises(nbtool.NotebookError, match="other parameters"):
        nbtool.clean(path)


def test_unknown_parameter_is_refused_before_anything_starts(write, tmp_path):
    with pytest.raises(nbtool.NotebookError, match="EPOCH: no such parameter"):
        nbtool.execute(write(sound_cells()), tmp_path / "out.ipynb", {"EPOCH": 1})
    assert not (tmp_path / "out.ipynb").exists()


@pytest.fixture
def submission(write, tmp_path, monkeypatch):
    """A function that puts cells in the submission's place; the file's path."""
    def put(cells):
        path = write(cells, "submission.ipynb")
        for name, value in (("ROOT", tmp_path), ("NOTEBOOK", path), ("FULL", tmp_path / "runs" / "full")):
            monkeypatch.setattr(nbtool, name, value)
        return path
    return put


def test_full_run_replaces_the_notebook_by_its_clean_execution(submission):
    banner = "print('CIFAR-10 from disk, CelebA from disk.')"
    path = submission([code(SETTINGS, "parameters"), code(banner, "data-banner"), code("print(1 + 1)")])
    nbtool.full()
    assert nbformat.read(path, as_version=4).cells[2].outputs[0].text == "2\n"
    assert list(nbtool.problems(path)) == []


def test_full_run_that_fails_leaves_the_notebook_as_it_was(submission):
    path = submission([code(SETTINGS, "parameters"), code("print('before')"), code("1 / 0")])
    before = path.read_bytes()
    with pytest.raises(nbtool.NotebookError, match="ZeroDivisionError"):
        nbtool.full()
    assert path.read_bytes() == before


def test_full_run_without_the_real_sets_leaves_the_notebook_as_it_was(submission, monkeypatch):
    cells = sound_cells()
    path = submission(cells)
    before = path.read_bytes()
    cells[2].outputs = [printed("CIFAR-10: the stand-in; CelebA: the stand-in.")]

    def execute(source, output):
        output.parent.mkdir(parents=True)
        nbformat.write(v4.new_notebook(cells=cells), output)
        return 1.0
    monkeypatch.setattr(nbtool, "execute", execute)
    with pytest.raises(nbtool.NotebookError, match="stand-in"):
        nbtool.full()
    assert path.read_bytes() == before


RESULT = {"result": "conv | test loss", "claimed": "1824", "measured": "1825.1 ± 0.4", "note": "", "run": "ab12",
          "device": "2 CPU cores", "trained_here": True}


def test_results_become_a_table_between_the_marks():
    readme = f"before\n{nbtool.MARKS[0]}\nold\n{nbtool.MARKS[1]}\nafter\n"
    rows = [RESULT, RESULT | {"result": "floor", "claimed": None, "run": None, "device": ""}]
    made = nbtool.with_results(readme, {"rows": rows})
    assert "| conv \\| test loss | 1824 | 1825.1 ± 0.4 |  |" in made
    assert "| floor | – |" in made and "Trained on 2 CPU cores." in made
    assert made.startswith("before\n") and made.endswith("after\n") and "old" not in made
    assert nbtool.with_results(made, {"rows": rows}) == made


def test_readme_without_marks_is_refused():
    with pytest.raises(nbtool.NotebookError, match="README"):
        nbtool.with_results("nothing", {"rows": []})


def test_html_needs_no_network_and_keeps_formulas_and_alt_texts(write):
    tex = "$$\\begin{aligned} a &= b \\\\ c &= \\tfrac12 d \\end{aligned}$$"
    cells = [v4.new_markdown_cell(f"# Title of it\n\n{tex}\n\n| a |\n|---|\n| $x^2$ |"),
             code("show()", outputs=[figure("a \"line\" <1>"), figure("a photograph", "image/jpeg")], count=1)]
    html = offline_html.export(write(cells)).read_text(encoding="utf-8")
    assert offline_html.loaded_from_elsewhere(html) == []
    assert "<script" not in html and "$" not in html.split("<main")[1] and html.count("<math") == 2
    assert "a \"line\" &lt;1&gt;" in html and "alt=\"a photograph\"" in html
    assert "<title>Title of it</title>" in html


@pytest.mark.parametrize("tex", ["\\nosuchcommand x", "a & b"])
def test_formula_that_would_show_its_source_is_refused(tex):
    with pytest.raises(ValueError, match="cannot be exported"):
        offline_html.mathml(tex, "inline")


@pytest.mark.parametrize("html", [
    "<script src='https://host.example/a.js'></script>", "<link rel=stylesheet href=//host.example/a.css>",
    "<img alt='a' src=\"figures/1.png\">", "@import 'a.css';", "url(font.woff2)", "import('https://host.example')"])
def test_what_a_browser_would_fetch_is_found(html):
    assert offline_html.loaded_from_elsewhere(html)


def test_links_and_embedded_data_are_not_fetched():
    html = "<a href='https://host.example'>paper</a><img src=\"data:image/png;base64,AA\"> url(data:font,a) url(#b)"
    assert offline_html.loaded_from_elsewhere(html) == []
