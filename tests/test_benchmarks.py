"""Benchmarks run on the smallest settings, and what they print has the right form."""

import re
import sys
from pathlib import Path

import pytest
import torch
from tiny import IMAGES, TINY

from vae_helpers import build

sys.path.append(str(Path(__file__).parent / "benchmarks"))

import growth  # noqa: E402
import speed  # noqa: E402


def test_students_loop_and_ours_train_the_same_model():
    recipe, images = TINY.but(network="fc", widths=(32,), norm=False, lr=1e-2), IMAGES.images
    for made in (speed.student, lambda *given: speed.ours(*given, "fp32")):
        torch.manual_seed(0)                    # a student's noise and order are the global ones
        turn, before = made(model := build(recipe), images), speed.loss_of(model, images)
        assert min(turn() for _ in range(20)) > 0
        assert before - 10 < speed.loss_of(model, images) < before - 3


@pytest.mark.parametrize("options, rows", [("conv sprint", 4), ("improved --products", 3)])
def test_each_contender_gets_a_rate_and_its_ratio_to_the_first(options, rows, capsys):
    speed.main(["--images", "4", "--turns", "1", "--only", *options.split()])
    found = re.findall(r"([\d.,]+) +([\d.]+)  \([\d.]+, [\d.]+\)$", capsys.readouterr().out, re.M)
    assert len(found) >= rows and found[0][1] == "1.00"


def test_row_of_growth_has_a_process_of_its_own_whose_memory_holds_the_model():
    row = growth.alone(70, 32, 2)               # with Adam's two moments:
    assert row["peak above start, MB"] > 16 * row["parameters"] / 1e6 and row["images/s"] > 0
