"""The first page shows what lies in RUNS, and trains nothing."""

from types import SimpleNamespace

import matplotlib.pyplot as plt
import pytest
import torch
from tiny import assert_shows

from lab.chapters import exercises, opening, scale
from lab.recipes import RECIPES
from lab.session import Lab
from lab.show import Figure, Table
from vae_helpers import build

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    return Lab({"EPOCHS": 1, "TRAIN_LIMIT": 20, "DATA": "standin", "DEVICE": "cpu",
                "PRECISION": "fp32", "RUNS": str(tmp_path_factory.mktemp("opening"))})


def test_before_any_training_it_says_so_and_trains_nothing(lab):
    chapter = opening.Chapter(lab, scale.Chapter(lab))
    assert_shows(chapter.strip(), Table)
    assert_shows(chapter.bars(), Table)
    assert lab.runs == {} and chapter.finished("fc") is None
    lab.job("fc").train()
    assert chapter.finished("fc", "conv") is None
    assert list(chapter.finished("fc")) == ["fc"] == list(lab.runs)


def test_afterwards_it_shows_them(lab):
    chapter = opening.Chapter(lab, scale.Chapter(lab))
    chapter.finished = lambda *names: {name: SimpleNamespace(
        model=build(RECIPES[name]).eval(), chosen={"test_loss": 2000.0}) for name in names}
    assert_shows(chapter.strip(), Figure)
    assert_shows(chapter.bars(), Figure)


def test_bars_have_the_length_of_their_losses():
    losses = {"mean": 436.0, "fc": 187.0}
    figure = opening.plot_losses(losses, {"fc": "fc"})
    axes = figure.axes[0]
    assert [bar.get_width() for bar in axes.patches] == [436, 187]
    assert [text.get_text() for text in axes.texts] == [" 436", " 187"]
    plt.close(figure)


def test_images_are_drawn_at_the_size_asked_for():
    flat = torch.full((2, 3, 32, 32), 51, dtype=torch.uint8)
    drawn = opening.at_size(flat, 64)
    assert drawn.shape == (2, 3, 64, 64)
    torch.testing.assert_close(drawn, torch.full_like(drawn, 0.2))


# ---- exercises


def test_a_guess_stands_beside_the_true_value():
    row = exercises.answer("how many?", 30, 36, "directions").rows[0]
    assert (row["your guess"], row["true value"], row["off by"]) == (30, 36, -6)
    waits = exercises.answer("how many?", None, 36, "directions").rows[0]
    assert waits["true value"] is waits["off by"] is None


def test_exercises_have_the_answers_of_the_closed_form(lab):
    made = scale.Chapter(lab)
    ask, values = exercises.Chapter(lab, made), made.cifar.spectrum.eigenvalues
    kept = ask.directions(beta=4, guess=0).rows[0]["true value"]
    assert kept == (values > 2).sum()                   # sigma² = β / 2
    few, many = (ask.latent(size, 0).rows[0]["true value"] for size in (2, 16))
    assert few > many >= 0 == ask.latent(128, 0).rows[0]["true value"]


def test_permuting_the_test_images_alone_is_measured(lab):
    row = exercises.Chapter(lab, scale.Chapter(lab)).permuted("fc", guess=1.0).rows[0]
    assert row["off by"] == 1.0 - row["true value"]
