"""Numbers in prose and README's tables, written from the findings of the last full run.

`results` is what figures/results.json holds: `findings`, a value by its name, `trainings` and
`versions`. Text goes in and text comes out; no file is touched here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from lab.files import Trouble
from lab.show import Table, number


class NotebookError(Trouble):
    """One sentence: what is wrong with a notebook, its parameters or its prose, and what to do."""


# ---- numbers in prose

NUMBER = r"[-−+]?\d[\d,]*(?:\.\d+)?(?:e[-−+]?\d+)?"
MARK = re.compile(rf"(?<![\w.])(?P<number>{NUMBER}|–)(?P<percent> ?%)?(?P<bold>\*\*)?"
                  r"<!--(?P<name>[\w.-]+) (?P<spec>[^\s<>-]+)-->")
SECTION = ("<!-- results -->", "<!-- /results -->")


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
    others = re.findall(r"<!--.*?(?:-->|\Z)", MARK.sub("", text), re.DOTALL)
    if wrong := [comment for comment in others if comment not in SECTION]:
        raise NotebookError(f"{wrong[0]} is no mark: write 153<!--name .0f-->, directly after "
                            "the number")
    return MARK.sub(write_number, text)


def stale_in(text: str, results: dict[str, Any]) -> Iterator[str]:
    """Which numbers of a text differ from the results or are not in them."""
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


# ---- README

# What a row is called, what an earlier submission claims, the findings in it, and a note.
ROWS = [
    ("CIFAR-10, convolutional: training loss / KL", "1824 / 40",
     [("conv.loss", ".0f"), ("conv.kl", ".0f")], "same recipe"),
    ("CIFAR-10, fully connected: training loss / KL", "1867 / 18",
     [("fc.loss", ".0f"), ("fc.kl", ".0f")], "same recipe"),
    ("The same on test images, above the floor: convolutional / fully connected", None,
     [("conv.above_floor", ".0f"), ("fc.above_floor", ".0f")], "nats; 0 is a perfect image"),
    ("PCA / fully connected from PCA / the improvement", None,
     [("pca.above_floor", ".0f"), ("fc_pca.above_floor", ".0f"), ("improved.above_floor", ".0f")],
     "PCA is not trained"),
    ("CelebA: training loss / KL", "6290 / 121",
     [("celeba64.loss", ".0f"), ("celeba64.kl", ".0f")], "claimed without the number of faces"),
    ("Interpolation: mean squared frame difference", "0.000615",
     [("task2.smoothness", ".6f")], "definition assumed"),
    ("Setting p2: held-out loss, convolutional / fully connected", "74.9 / 78.2",
     [("sweep.p2_conv.loss", ".1f"), ("sweep.p2_fc.loss", ".1f")], "squared error"),
    ("Blur of reconstructions in pixels, σ² = ½ / learned", None,
     [("blur.px_kept_2", ".1f"), ("blur.px_kept_learned", ".1f")], "one number changed")]


def render_results(results: dict[str, Any]) -> str:
    """What was claimed and what was measured, then how long it took, as Markdown."""
    if not results["findings"]:
        return "No full run yet: `make full`, then `python -m lab readme`, write this table."
    rows = []
    for label, claimed, parts, note in ROWS:
        there = all(name in results["findings"] for name, _ in parts)
        measured = " / ".join(written(results, *part) for part in parts)
        rows.append({"Result": label, "Claimed": claimed or "–",
                     "Measured": measured if there else "not trained here", "Note": note})
    return f"{Table(rows)._repr_markdown_()}\n\n{hours_of(results)}"


def hours_of(results: dict[str, Any]) -> str:
    """How long all trainings take at the pace of their median epochs, and on what."""
    trainings = results["trainings"]
    hours = sum(t["minutes"] for t in trainings) / 60
    where = " and ".join(dict.fromkeys(f"{t['device']}, {t['precision']}" for t in trainings))
    return (f"All {len(trainings)} trainings together take {hours:.1f} hours ({where}; "
            f"PyTorch {results['versions'].get('torch')}).")


def with_results(readme: str, results: dict[str, Any]) -> str:
    """The README's text with the tables in their section, and the numbers at marks, made anew."""
    before, _, rest = with_numbers(readme, results).partition(SECTION[0])
    _, found, after = rest.partition(SECTION[1])
    if not found:
        raise NotebookError(f"README.md has no {SECTION[0]} … {SECTION[1]} to put the results into")
    return f"{before}{SECTION[0]}\n{render_results(results)}\n{SECTION[1]}{after}"
