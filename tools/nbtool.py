"""What the Makefile does with the notebook: run it, check it, clean it, export it.

python tools/nbtool.py run              execute it quickly, with tests/quick.yaml, into runs/quick/
python tools/nbtool.py full             execute it in place; a failure leaves the committed file as it was
python tools/nbtool.py clean [FILE...]  remove what an execution leaves behind besides the outputs
python tools/nbtool.py check [FILE...]  say what is wrong with an executed notebook that is to be committed
python tools/nbtool.py html             export it to one HTML file that opens without network
python tools/nbtool.py readme           write the results table of README.md from figures/results.json
"""

from __future__ import annotations

import argparse
import ast
import json
import logging
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import nbformat
import yaml
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "MZ_VAE_Assignment.ipynb"
README = ROOT / "README.md"
RESULTS = ROOT / "figures" / "results.json"
QUICK = ROOT / "runs" / "quick"
FULL = ROOT / "runs" / "full"
LARGEST = 8_000_000                       # bytes: code-hosting sites stop showing notebooks somewhere above


class NotebookError(Exception):
    """One sentence: what is wrong with a notebook or its parameters, and what to do."""


# ---------------------------------------------------------------- parameters

def tagged(nb: NotebookNode, tag: str) -> list[NotebookNode]:
    """The cells of `nb` that carry `tag`."""
    return [cell for cell in nb.cells if tag in cell.metadata.get("tags", [])]


def defaults(nb: NotebookNode) -> dict[str, Any]:
    """The parameters and their values, read from the one cell tagged `parameters`.

    papermill, given none such cell or two, goes on with values that nobody asked for.
    """
    cells = tagged(nb, "parameters")
    if len(cells) != 1:
        raise NotebookError(f"{len(cells)} cells are tagged `parameters`: tag exactly one.")
    lines = [node for node in ast.parse(cells[0].source).body
             if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)]
    return {node.target.id: ast.literal_eval(node.value) for node in lines}


def settings(nb: NotebookNode, overrides: dict[str, Any]) -> dict[str, Any]:
    """The parameters with `overrides` in place; a name that is no parameter is refused."""
    known = defaults(nb)
    unknown = [name for name in overrides if name not in known]
    if unknown:
        raise NotebookError(f"{', '.join(unknown)}: no such parameter; there are {', '.join(known)}.")
    return known | overrides


def read_parameters(path: Path) -> dict[str, Any]:
    """The parameters that a YAML file sets."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


# ---------------------------------------------------------------- execution

class Heard(logging.Filter):
    """Of what papermill logs, the text of the notebook: not the names of displayed objects, nor what a bar shows."""

    def __init__(self, bar: bool) -> None:
        super().__init__()
        self.unheard = ("<", "Input", "Output", "Working", "Ending Cell", *(["Executing"] if bar else []))

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = record.getMessage().rstrip(), ()
        return bool(record.msg) and not record.msg.startswith(self.unheard)


def execute(source: Path, output: Path, overrides: dict[str, Any] | None = None,
            cwd: Path = ROOT) -> float:
    """Execute `source` in `cwd` into `output` with progress on the terminal; the seconds that it took.

    Names and values that the notebook would not accept are refused before anything starts.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError
    from nbconvert.filters import strip_ansi
    from tqdm.contrib.logging import logging_redirect_tqdm

    from vae_helpers import check_settings

    overrides = overrides or {}
    check_settings(settings(nbformat.read(source, as_version=4), overrides))
    output.parent.mkdir(parents=True, exist_ok=True)
    bar = sys.stderr.isatty()
    logging.basicConfig(format="%(message)s")
    log = logging.getLogger("papermill")
    log.setLevel(logging.INFO)
    log.filters = [Heard(bar)]
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")    # else a starting kernel may warn
    start = time.perf_counter()
    try:
        with logging_redirect_tqdm():
            papermill.execute_notebook(
                str(source), str(output), overrides, cwd=str(cwd), kernel_name="python3", progress_bar=bar,
                log_output=True, extra_arguments=["--log-level=CRITICAL"])    # of the kernel, not of its cells
    except papermill.PapermillExecutionError as error:
        traceback = "\n".join(error.traceback)
        print(traceback if bar else strip_ansi(traceback), file=sys.stderr)
        raise NotebookError(f"Cell [{error.exec_count}] failed with {error.ename}: {error.evalue} "
                            f"(up to there: {output})") from error
    except DeadKernelError as error:
        raise NotebookError("The notebook's Python died, most likely for want of memory: "
                            "set TRAIN_LIMIT, or close other programs.") from error
    return time.perf_counter() - start


def run() -> None:
    """Execute the notebook quickly, from nothing, into runs/quick/."""
    shutil.rmtree(QUICK, ignore_errors=True)       # a run that loads what an earlier one trained would show little
    output = QUICK / NOTEBOOK.name
    seconds = execute(NOTEBOOK, output, read_parameters(ROOT / "tests" / "quick.yaml"))
    print(f"Executed in {seconds:.0f} s: {output.relative_to(ROOT)}, its figures beside it.")


def full() -> None:
    """Execute the notebook with its own parameters and put the result, cleaned and checked, in its place."""
    output = FULL / NOTEBOOK.name
    seconds = execute(NOTEBOOK, output)
    clean(output)
    faults = list(problems(output))
    if faults:
        raise NotebookError(f"The new execution stays in {output.relative_to(ROOT)}, and the committed notebook "
                            "as it was, because of:\n" + "\n".join(faults))
    beside = NOTEBOOK.with_suffix(".new")
    shutil.copyfile(output, beside)
    os.replace(beside, NOTEBOOK)
    print(f"Executed in {seconds:.0f} s: {NOTEBOOK.name}")


# ---------------------------------------------------------------- the committed file

LANGUAGE = ("name", "file_extension", "mimetype", "pygments_lexer", "codemirror_mode", "nbconvert_exporter")
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
CELL_KEYS = ("tags", "alt")


def clean(path: Path) -> None:
    """Leave in the notebook its cells, outputs and counts: two executions of the same give the same file."""
    nb = nbformat.read(path, as_version=4)
    if tagged(nb, "injected-parameters"):
        raise NotebookError(f"{path.name} was executed with other parameters than its own: execute it without.")
    language = nb.metadata.get("language_info", {})
    nb.metadata = {"kernelspec": KERNEL,
                   "language_info": {"name": "python"} | {k: language[k] for k in LANGUAGE if k in language}}
    for cell in nb.cells:
        cell.metadata = {key: cell.metadata[key] for key in CELL_KEYS if cell.metadata.get(key)}
        if cell.cell_type == "code":
            cell.outputs = merge_streams(cell.outputs)
    nbformat.validate(nb)
    nbformat.write(nb, path)


def merge_streams(outputs: Sequence[NotebookNode]) -> list[NotebookNode]:
    r"""The outputs with neighbouring pieces of one stream joined, and what a \r wrote over gone."""
    merged: list[NotebookNode] = []
    for output in outputs:
        last = merged[-1] if merged else None
        if last and output.output_type == last.output_type == "stream" and output.name == last.name:
            last.text += output.text
        else:
            merged.append(output)
    for output in merged:
        if output.output_type == "stream":
            lines = output.text.split("\n")
            output.text = "\n".join(line.rstrip("\r").rsplit("\r", 1)[-1] for line in lines)
    return merged


def problems(path: Path) -> Iterator[str]:
    """What keeps an executed notebook from being committed, a sentence each."""
    nb = nbformat.read(path, as_version=4)
    nbformat.validate(nb)
    code = [cell for cell in nb.cells if cell.cell_type == "code" and cell.source.strip()]
    if [cell.execution_count for cell in code] != list(range(1, len(code) + 1)):
        yield "The code cells are not executed in order from a fresh kernel."
    yield from parameter_problems(nb)
    yield from metadata_problems(nb)
    for cell in code:
        for output in cell.outputs:
            for what in output_problems(output):
                yield f"Cell [{cell.execution_count}]: {what}"
    yield from banner_problems(nb)
    if path.stat().st_size > LARGEST:
        yield f"{path.name} has {path.stat().st_size / 1e6:.1f} MB, more than {LARGEST / 1e6:.0f}."


def parameter_problems(nb: NotebookNode) -> Iterator[str]:
    """Whether the run is one with its own, full parameters."""
    from vae_helpers import check_settings

    try:
        values = defaults(nb)
    except NotebookError as error:
        yield str(error)
    else:
        if not check_settings(values).full:
            yield "Its parameters are not those of a full run: set epochs and limit to 0."
    if tagged(nb, "injected-parameters"):
        yield "Other parameters than the notebook's own were injected."


def metadata_problems(nb: NotebookNode) -> Iterator[str]:
    """Whether times, paths or states of an editor are stored."""
    surplus = set(nb.metadata) - {"kernelspec", "language_info"}
    surplus |= {key for cell in nb.cells for key in cell.metadata if key not in CELL_KEYS}
    if surplus or "version" in nb.metadata.get("language_info", {}):
        yield f"Metadata that every execution changes are stored ({', '.join(sorted(surplus)) or 'version'}): clean it."


PATH_OF_A_MACHINE = re.compile(r"(?<![\w.])/(?:home|root|tmp|work|Users|private|var)/\w|\b[A-Z]:\\Users")
ADDRESS_OF_AN_OBJECT = re.compile(r" at 0x[0-9a-f]{6}")


def output_problems(output: NotebookNode) -> Iterator[str]:
    """What one stored output shows that a reader should not see, or shows without saying it in words."""
    text = output_text(output)
    if output.output_type == "error":
        yield f"it ended with {output.ename}: {output.evalue}"
    if output.get("name") == "stderr":
        yield f"it wrote to stderr: {text.strip()[:60]!r}"
    if "\r" in text:
        yield "a progress line is stored in pieces: clean it."
    if found := PATH_OF_A_MACHINE.search(text) or ADDRESS_OF_AN_OBJECT.search(text):
        yield f"it shows what belongs to one machine: {text[found.start():found.start() + 40]!r}"
    for kind in output.get("data", {}):
        if "widget" in kind:
            yield "it holds a widget, which is dead in a stored notebook."
        if kind.startswith("image/") and not output.metadata.get(kind, {}).get("alt", "").strip():
            yield "its figure has no alt text."
    if re.search(r"<img(?![^>]*\balt=\"[^\"]+\")", output.get("data", {}).get("text/html", "")):
        yield "its HTML holds an image without alt text."


def output_text(output: NotebookNode) -> str:
    """All that an output says in words."""
    texts = [value for kind, value in output.get("data", {}).items() if kind.startswith("text/")]
    return "\n".join([output.get("text", ""), *texts])


def banner_problems(nb: NotebookNode) -> Iterator[str]:
    """Whether the cell tagged `data-banner` says that the real sets were used."""
    cells = tagged(nb, "data-banner")
    if len(cells) != 1:
        yield f"{len(cells)} cells are tagged `data-banner`: tag the one that says where the images came from."
        return
    text = "\n".join(output_text(output) for output in cells[0].get("outputs", [])).lower().replace("-", "")
    if absent := [name for name in ("cifar10", "celeba") if name not in text]:
        yield f"The data banner does not name {' and '.join(absent)}."
    if "standin" in text:
        yield "The data banner says that a stand-in was used."


# ---------------------------------------------------------------- README

MARKS = ("<!-- results -->", "<!-- /results -->")


def read_results() -> dict[str, Any]:
    """The results that the last full run wrote; no rows before the first."""
    return json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {"rows": []}


def render_results(results: dict[str, Any]) -> str:
    """The results as a Markdown table, a row each, with the devices that they were trained on under it."""
    rows = results["rows"]
    if not rows:
        return "No full run yet: `make full`, then `tools/nbtool.py readme`, write this table."
    lines = [[row["result"], row["claimed"] or "–", row["measured"], row["note"]] for row in rows]
    cells = [["Result", "Claimed", "Measured", "Note"], ["---"] * 4, *lines]
    table = ["| " + " | ".join(str(c).replace("|", "\\|") for c in line) + " |" for line in cells]
    devices = dict.fromkeys(row["device"] for row in rows if row["run"])
    return "\n".join([*table, "", f"Trained on {' and '.join(devices) or 'nothing'}.", *render_times(results)])


def render_times(results: dict[str, Any]) -> list[str]:
    """How long each training takes at the pace of its median epoch, as lines of a Markdown table."""
    times = results.get("times", [])
    head = ["", "| Training | Images | Epochs | Images/s, median epoch | Minutes at that pace |",
            "| --- | ---: | ---: | ---: | ---: |"]
    lines = []
    for t in times:
        minutes = t["images"] * t["epochs"] / t["images_per_second"] / 60
        lines.append(f"| `{t['training']}` | {t['images']:,} | {t['epochs']} | {t['images_per_second']:,.0f} "
                     f"| {minutes:.1f} |")
    return head * bool(lines) + lines


def with_results(readme: str, results: dict[str, Any]) -> str:
    """The README's text with the table between its marks made anew."""
    before, _, rest = readme.partition(MARKS[0])
    _, found, after = rest.partition(MARKS[1])
    if not found:
        raise NotebookError(f"README.md has no {MARKS[0]} … {MARKS[1]} to put the results between.")
    return f"{before}{MARKS[0]}\n{render_results(results)}\n{MARKS[1]}{after}"


# ---------------------------------------------------------------- command line

def main(arguments: Sequence[str] | None = None) -> None:
    """Do what the command line asks; what goes wrong ends it with a sentence and exit status 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("command", choices=("run", "full", "clean", "check", "html", "readme"))
    parser.add_argument("files", nargs="*", type=Path, help="for clean and check; else the notebook")
    asked = parser.parse_args(arguments)
    files = asked.files or [NOTEBOOK]
    if asked.command == "run":
        run()
    elif asked.command == "full":
        full()
    elif asked.command == "clean":
        for path in files:
            clean(path)
    elif asked.command == "check":
        faults = [f"{path.name}: {fault}" for path in files for fault in problems(path)]
        if faults:
            raise NotebookError("\n".join(faults))
    elif asked.command == "html":
        from offline_html import export

        print(export(NOTEBOOK).relative_to(ROOT))
    else:
        text = with_results(README.read_text(encoding="utf-8"), read_results())
        README.write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")        # a terminal that cannot show a sigma shows a question mark
    try:
        main()
    except (NotebookError, ValueError) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("Stopped.")
