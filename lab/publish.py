"""The notebook as a file, executed, cleaned, checked and filled in, and README.

`python -m lab run`, `full`, `check` and so on call the functions of these names. `results` is what
figures/results.json holds: `findings`, a value by its name, `trainings` and `versions`.
"""

import ast
import copy
import json
import re
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import yaml
from nbformat import NotebookNode

from lab.files import Trouble, write_atomically
from lab.notebook import Lab, called
from lab.recipes import TRAININGS, check_settings
from lab.runs import RESULTS
from lab.show import number

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "MZ_VAE_Assignment.ipynb"
README = ROOT / "README.md"
QUICK = ROOT / "runs" / "quick"
FULL = ROOT / "runs" / "full"
LARGEST = 5_000_000  # bytes: code-hosting sites stop showing notebooks somewhere above
LONGEST = 12         # lines of a code cell: what is longer belongs into a module


class NotebookError(Trouble):
    """One sentence: what is wrong with a notebook, its parameters or its prose, and what to do."""

def relative(path: Path) -> str:
    """`path` as a reader types it in the repository."""
    return path.relative_to(ROOT).as_posix()


def read_notebook(path: Path) -> NotebookNode:
    """The notebook in the fourth format, valid."""
    nb = nbformat.read(path, as_version=4)
    nbformat.validate(nb)
    return nb


def write_notebook(path: Path, nb: NotebookNode) -> None:
    """Puts a valid notebook in the place of the one at `path`."""
    nbformat.validate(nb)
    write_atomically(path, f"{nbformat.writes(nb)}\n".encode())


def read_results() -> dict[str, Any]:
    """What the last full run found, trained and ran on, nothing before the first; how many
    trainings there are, and their hours, are findings, too."""
    results = {"findings": {}, "trainings": [], "versions": {}}
    if RESULTS.exists():
        results |= json.loads(RESULTS.read_text(encoding="utf-8"))
    minutes = [training["minutes"] for training in results["trainings"]]
    results["findings"] |= {"trainings.number": {"value": len(minutes)},
                            "trainings.hours": {"value": sum(minutes) / 60}}
    return results


# ---- parameters

def tags(cell: NotebookNode) -> list[str]:
    """The tags of a cell."""
    return cell.metadata.get("tags", [])


def tagged(nb: NotebookNode, tag: str) -> list[NotebookNode]:
    """The cells of `nb` that carry `tag`."""
    return [cell for cell in nb.cells if tag in tags(cell)]


def defaults(nb: NotebookNode) -> dict[str, Any]:
    """The parameters and their values, read from the one cell tagged `parameters`.

    papermill, given none such cell or two, goes on with values that nobody asked for.
    """
    cells = tagged(nb, "parameters")
    if len(cells) != 1:
        raise NotebookError(f"{len(cells)} cells are tagged `parameters`: tag exactly one")
    lines = [node for node in ast.parse(cells[0].source).body
             if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)]
    return {node.target.id: ast.literal_eval(node.value) for node in lines}


def read_parameters(path: Path) -> dict[str, Any]:
    """The parameters that a YAML file sets."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


# ---- execution

def execute(source: Path, output: Path, overrides: dict[str, Any] | None = None) -> float:
    """The seconds that the notebook `source` took, executed into `output`; what its cells print
    is printed here, too.

    Names and values that the notebook would not accept are refused before anything starts.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError

    check_settings(defaults(read_notebook(source)) | (overrides or {}))
    output.parent.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    try:
        papermill.execute_notebook(
            str(source), str(output), overrides or {}, cwd=str(ROOT), kernel_name="python3",
            stdout_file=sys.stdout,
            request_save_on_cell_execute=False,        # which writes the whole file twice a cell
            extra_arguments=["--log-level=CRITICAL"])  # of the kernel, not of its cells
    except papermill.PapermillExecutionError as error:
        print("\n".join(error.traceback), file=sys.stderr)
        raise NotebookError(f"Cell [{error.exec_count}] failed with {error.ename}: {error.evalue} "
                            f"(up to there: {output})") from error
    except DeadKernelError as error:
        raise NotebookError("The notebook's Python died, most likely for want of memory: "
                            "set TRAIN_LIMIT, or close other programs") from error
    return time.perf_counter() - start


def run() -> None:
    """Executes the notebook quickly, from nothing, into runs/quick/."""
    shutil.rmtree(QUICK, ignore_errors=True)  # what an earlier run trained would be loaded
    output = QUICK / NOTEBOOK.name
    seconds = execute(NOTEBOOK, output, read_parameters(ROOT / "tests" / "quick.yaml"))
    [banner] = tagged(read_notebook(output), "data-banner")
    said = output_text(banner.outputs[-1]).strip().split("\n")[0].replace("*", "")
    print(f"Executed in {seconds:.0f} s: {relative(output)}. {said}")


def full() -> None:
    """Executes the notebook with its own parameters; filled, clean and sound it takes its place."""
    output, nb = FULL / NOTEBOOK.name, read_notebook(NOTEBOOK)
    filled(nb, read_results())  # refuses a wrong mark before hours of training
    train_all(defaults(nb))
    seconds = execute(NOTEBOOK, output)
    clean(output)
    fill(output)
    if faults := list(problems(output)):
        raise NotebookError(f"The new execution stays in {relative(output)}, and the committed "
                            "notebook as it was, because of:\n" + "\n".join(faults))
    write_atomically(NOTEBOOK, output.read_bytes())
    print(f"Executed in {seconds:.0f} s: {NOTEBOOK.name}")


def train_all(parameters: dict[str, Any]) -> None:
    """Trains what is not there of every training, with the notebook's parameters."""
    lab = Lab(parameters)
    for each in lab.shown_sets:
        if not each.real:
            raise NotebookError(f"a full run takes real images: {each.source}")
    for i, training in enumerate(TRAININGS, 1):
        print(f"{i} of {len(TRAININGS)}: {called(training)}", flush=True)
        lab.job(training).train()


REFRESHED = ("parameters", "setup", "nbval-check-output")  # need neither data nor training


def refresh(path: Path) -> None:
    """Executes the cells tagged `nbval-check-output` anew, after the setup, for their outputs."""
    import nbclient
    from nbclient.exceptions import CellExecutionError

    nb = read_notebook(path)
    cells = [cell for cell in nb.cells if not set(REFRESHED).isdisjoint(tags(cell))]
    small = nbformat.v4.new_notebook(cells=copy.deepcopy(cells))
    try:
        nbclient.execute(small, cwd=str(ROOT), kernel_name="python3")
    except CellExecutionError as error:
        raise NotebookError(f"{path.name} is as it was, because a cell failed with {error.ename}: "
                            f"{error.evalue}") from error
    for cell, fresh in zip(cells, cleaned(small).cells, strict=True):
        if "nbval-check-output" in tags(cell):
            cell.outputs = fresh.outputs
            for output in cell.outputs:
                if "execution_count" in output:
                    output.execution_count = cell.execution_count
    write_notebook(path, nb)


# ---- the committed file

KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
# How Jupyter keeps that an input is closed, and what stands below a heading.
HIDDEN = {"hide-input": {"jupyter": {"source_hidden": True}},
          "fold": {"jp-MarkdownHeadingCollapsed": True}}


def clean(path: Path) -> None:
    """Leaves cells, outputs and counts: two executions of one notebook give the same file."""
    nb = read_notebook(path)
    if tagged(nb, "injected-parameters"):
        raise NotebookError(f"{path.name} was executed with other parameters than its own: "
                            "execute it without")
    write_notebook(path, cleaned(nb))


def cleaned(nb: NotebookNode) -> NotebookNode:
    """A copy without times and states of an editor, nor a live line that has ended on nothing; the
    pieces of a stream are joined, and what a carriage return wrote over is gone."""
    from nbconvert.preprocessors import CoalesceStreamsPreprocessor

    nb = copy.deepcopy(nb)
    for cell in nb.cells:
        if cell.cell_type == "code":                # before the pieces on both sides are joined
            cell.outputs = [out for out in cell.outputs if out.get("data") != {"text/plain": ""}]
    nb, _ = CoalesceStreamsPreprocessor().preprocess(nb, {})
    language = nb.metadata.get("language_info", {"name": "python"})
    language.pop("version", None)
    nb.metadata = {"kernelspec": KERNEL, "language_info": language}
    for cell in nb.cells:
        kept = {key: cell.metadata[key] for key in ("tags", "alt") if cell.metadata.get(key)}
        for tag in HIDDEN.keys() & tags(cell):
            kept |= HIDDEN[tag]
        cell.metadata = kept
    return nb


def problems(path: Path) -> Iterator[str]:
    """What keeps an executed notebook from being committed, a sentence each."""
    nb = read_notebook(path)
    code = [cell for cell in nb.cells if cell.cell_type == "code" and cell.source.strip()]
    if [cell.execution_count for cell in code] != list(range(1, len(code) + 1)):
        yield "The code cells are not executed in order from a fresh kernel"
    if nb != cleaned(nb):
        yield "It holds times, states of an editor, or progress lines in pieces: clean it"
    yield from parameter_problems(nb)
    for cell in code:
        found = [*code_problems(cell), *(f for out in cell.outputs for f in output_problems(out))]
        yield from (f"Cell [{cell.execution_count}]: {fault}" for fault in found)
    yield from banner_problems(nb)
    yield from stale_numbers(nb, read_results())
    if path.stat().st_size > LARGEST:
        yield f"{path.name} has {path.stat().st_size / 1e6:.1f} MB, more than {LARGEST / 1e6:.0f}"


def check(path: Path) -> None:
    """Refuses a notebook with problems, all of them named."""
    if faults := [f"{path.name}: {fault}" for fault in problems(path)]:
        raise NotebookError("\n".join(faults))


def parameter_problems(nb: NotebookNode) -> Iterator[str]:
    """Whether the run is one with its own, full parameters."""
    try:
        if not check_settings(defaults(nb)).full:
            yield "Its parameters are not those of a full run: set epochs, limit and seed to 0"
    except Trouble as error:
        yield str(error)
    if tagged(nb, "injected-parameters"):
        yield "Other parameters than the notebook's own were injected"


def code_problems(cell: NotebookNode) -> Iterator[str]:
    """Whether a cell is too long to read beside its picture."""
    lines = sum(map(bool, map(str.strip, cell.source.split("\n"))))
    if lines > LONGEST and {"parameters", "setup"}.isdisjoint(tags(cell)):
        yield f"it has {lines} lines: leave {LONGEST} and move the rest into a chapter"


PATH_OF_A_MACHINE = re.compile(
    r"(?<![\w.])/(?:home|root|tmp|work|Users|private|var)/\w|\b[A-Z]:\\Users")
ADDRESS_OF_AN_OBJECT = re.compile(r" at 0x[0-9a-f]{6}")


def output_problems(output: NotebookNode) -> Iterator[str]:
    """What a stored output shows that a reader should not see, or shows without saying it."""
    text, data = output_text(output), output.get("data", {})
    if output.output_type == "error":
        yield f"it ended with {output.ename}: {output.evalue}"
    if output.get("name") == "stderr":
        yield f"it wrote to stderr: {text.strip()[:60]!r}"
    if found := PATH_OF_A_MACHINE.search(text) or ADDRESS_OF_AN_OBJECT.search(text):
        shown = text[found.start():found.start() + 40]
        yield f"it shows what belongs to one machine: {shown!r}"
    for kind in data:
        if kind.startswith("image/") and not output.metadata.get(kind, {}).get("alt", "").strip():
            yield "its figure has no alt text"


def output_text(output: NotebookNode) -> str:
    """All that an output says in words."""
    data = output.get("data", {})
    texts = [value for kind, value in data.items() if kind.startswith("text/")]
    return "\n".join([output.get("text", ""), *texts])


def banner_problems(nb: NotebookNode) -> Iterator[str]:
    """Whether the cell tagged `data-banner` says that the real sets were used."""
    cells = tagged(nb, "data-banner")
    text = "\n".join(output_text(output) for cell in cells for output in cell.get("outputs", []))
    text = text.lower().replace("-", "")
    if absent := [name for name in ("cifar10", "celeba") if name not in text]:
        yield f"The cell tagged `data-banner` does not name {' and '.join(absent)}"
    if "standin" in text:
        yield "The data banner says that a stand-in was used"


# ---- numbers in prose

NUMBER = r"[-−+]?\d[\d,]*(?:\.\d+)?(?:e[-−+]?\d+)?"
MARK = re.compile(rf"(?<![\w.])(?P<number>{NUMBER}|–)(?P<percent> ?%)?(?P<bold>\*\*)?"
                  r"<!--(?P<name>[\w.-]+) (?P<spec>[^\s<>-]+)-->")


def written(results: dict[str, Any], name: str, spec: str) -> str:
    """A finding as prose writes it: "1,823", "−0.4", "65 %"; an en dash if it is not there."""
    if name not in results["findings"]:
        return "–"
    value = results["findings"][name]["value"]
    try:
        text = number(value, spec)
    except (TypeError, ValueError):
        text = ""
    if not re.fullmatch(rf"{NUMBER}(?: %)?", text):
        raise NotebookError(f"{name} {spec}: {value!r} cannot be written like that, so give "
                            "a format of numbers such as .0f")
    return text


def with_numbers(text: str, results: dict[str, Any]) -> str:
    """The prose with the number before each mark, as in `**153**<!--conv.kl .0f-->`, made anew."""
    def write_number(mark: re.Match[str]) -> str:
        percent = "" if "%" in mark["spec"] else mark["percent"] or ""
        fresh = written(results, mark["name"], mark["spec"]) + percent + (mark["bold"] or "")
        return f"{fresh}<!--{mark['name']} {mark['spec']}-->"
    if wrong := re.search(r"<!--.*?(?:-->|\Z)", MARK.sub("", text), re.DOTALL):
        raise NotebookError(f"{wrong[0]} is no mark: write 153<!--name .0f-->, directly after "
                            "the number")
    return MARK.sub(write_number, text)


def stale_numbers(nb: NotebookNode, results: dict[str, Any]) -> Iterator[str]:
    """Which numbers of the notebook's prose differ from the results or are not in them."""
    text = "\n\n".join(cell.source for cell in nb.cells if cell.cell_type == "markdown")
    try:
        fresh = with_numbers(text, results)
    except NotebookError as error:
        yield str(error)
        return
    for old, new in zip(MARK.finditer(text), MARK.finditer(fresh), strict=True):
        if old["name"] not in results["findings"]:
            yield f"The prose speaks of {old['name']}, which is none of the findings"
        elif old[0] != new[0]:
            yield f"The prose says {old[0]}, the results {new[0]}: fill it in"


def filled(nb: NotebookNode, results: dict[str, Any]) -> NotebookNode:
    """The notebook, the numbers of its prose made anew by the marks after them."""
    for cell in nb.cells:
        if cell.cell_type == "markdown":
            cell.source = with_numbers(cell.source, results)
    return nb


def fill(path: Path) -> None:
    """Writes the numbers of the notebook's prose anew."""
    write_notebook(path, filled(read_notebook(path), read_results()))


def readme() -> None:
    """Writes the numbers of README.md anew."""
    write_atomically(README, with_numbers(README.read_text(encoding="utf-8"),
                                          read_results()).encode())
