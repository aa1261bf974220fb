"""Numbers in prose and README's tables, written from the findings of the last full run.

`results` is what figures/results.json holds: `findings`, a value by its name, `trainings` and
`versions`. Text goes in and text comes out; no file is touched here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from lab.files import Trouble
from lab.show import number


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

# What a row is called, what the original submission claims, the findings in it, and a note.
ABOVE = "CIFAR-10, test loss above the floor: "
ROWS = [
    ("CIFAR-10, convolutional: training loss / KL", "1824 / 40",
     [("conv.loss", ".0f"), ("conv.kl", ".1f")], "same recipe"),
    ("CIFAR-10, fully connected: training loss / KL", "1867 / 18",
     [("fc.loss", ".0f"), ("fc.kl", ".1f")], "same recipe"),
    ("CIFAR-10, improved: training loss / KL", None,
     [("improved.loss", ".0f"), ("improved.kl", ".1f")], "same loss and epochs"),
    (ABOVE + "mean image", None, [("cifar.mean_image", ".0f")], "no model"),
    (ABOVE + "PCA through a sigmoid", None, [("pca.above_floor", ".0f")], "linear, untrained"),
    (ABOVE + "convolutional", None, [("conv.above_floor", ".0f")], ""),
    (ABOVE + "fully connected", None, [("fc.above_floor", ".0f")], ""),
    (ABOVE + "convolutional, one cycle of the rate", None, [("conv_cycle.above_floor", ".0f")], ""),
    (ABOVE + "fully connected, started from PCA", None, [("fc_pca.above_floor", ".0f")],
     "the same network"),
    (ABOVE + "improved", None, [("improved.above_floor", ".0f")], ""),
    (ABOVE + "its network after one epoch: `sprint`", None, [("sprint.above_floor", ".0f")], ""),
    ("CelebA: training loss / KL", "6290 / 121",
     [("celeba64.loss", ".0f"), ("celeba64.kl", ".1f")], "theirs: number of faces not said"),
    ("Interpolation: mean squared frame difference", "0.000615",
     [("task2.smoothness", ".6f")], "definition assumed"),
    *((f"The sweep, p{i}: held-out loss, convolutional / fully connected", claimed,
       [(f"sweep.p{i}_conv.loss", ".1f"), (f"sweep.p{i}_fc.loss", ".1f")],
       f"theirs stopped after {stops} epochs")
      for i, claimed, stops in ((1, "74.7 / 80.7", "18 and 40"), (2, "74.9 / 78.2", "21 and 33"),
                                (3, "75.4 / 82.6", "15 and 23"))),
    ("Faces at 128×128, KL at β = 1 / 4 / 10", None,
     [(f"betas.rate_{beta}", ".0f") for beta in (1, 4, 10)], "after five epochs each"),
    ("the same, predicted by a linear model", None,
     [(f"betas.predicted_test_rate_{beta}", ".0f") for beta in (1, 4, 10)], "before any training"),
    ("Blur of reconstructions in pixels, σ² = ½ / learned", None,
     [("blur.px_kept_2", ".1f"), ("blur.px_kept_learned", ".1f")], "one number")]

# The trainings that README shows; results.json and `python -m lab list` have all.
SHOWN = ("conv", "fc", "fc-pca", "improved", "sprint", "small", "celeba64", "p2-conv", "p2-fc",
         "celeba128", "sigma-learned")


def table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: int = 0) -> list[str]:
    """The lines of a Markdown table; columns from `numbers` on, if above 0, hold numbers."""
    rule = ["---:" if numbers and i >= numbers else "---" for i in range(len(head))]
    return ["| " + " | ".join(line) + " |" for line in (head, rule, *rows)]


def render_results(results: dict[str, Any]) -> str:
    """What was claimed and what was measured, then how long it took, as Markdown."""
    if not results["findings"]:
        return "No full run yet: `make full`, then `python -m lab readme`, write this table."
    rows = []
    for label, claimed, parts, note in ROWS:
        there = all(name in results["findings"] for name, _ in parts)
        measured = " / ".join(written(results, *part) for part in parts)
        rows.append([label, claimed or "–", measured if there else "not trained here", note])
    lines = table(["Result", "Claimed", "Measured", "Note"], rows)
    return "\n".join([*lines, *render_trainings(results)])


def render_trainings(results: dict[str, Any]) -> list[str]:
    """How long each training takes at the pace of its median epoch, and on what."""
    if not (trainings := results["trainings"]):
        return []
    head = ["Training", "Images", "Epochs", "Seed", "Images/s, median epoch", "Minutes at it"]
    rows = [[t["training"], f"{t['images']:,}", f"{t['epochs']}", f"{t['seed']}",
             f"{t['images_per_second']:,.0f}", f"{t['minutes']:.1f}"]
            for t in trainings if t["training"] in SHOWN]
    hours = sum(t["minutes"] for t in trainings) / 60
    where = " and ".join(dict.fromkeys(f"{t['device']}, {t['precision']}" for t in trainings))
    torch = results["versions"].get("torch", "")
    return ["", *table(head, rows, numbers=1), "", f"All {len(trainings)} trainings take "
            f"{hours:.1f} hours at that pace; trained on {where}; PyTorch {torch}."]


def with_results(readme: str, results: dict[str, Any]) -> str:
    """The README's text with the tables in their section, and the numbers at marks, made anew."""
    before, _, rest = with_numbers(readme, results).partition(SECTION[0])
    _, found, after = rest.partition(SECTION[1])
    if not found:
        raise NotebookError(f"README.md has no {SECTION[0]} … {SECTION[1]} to put the results into")
    return f"{before}{SECTION[0]}\n{render_results(results)}\n{SECTION[1]}{after}"
