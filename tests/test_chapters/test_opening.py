"""Page one on models as they begin, and the exercises, whose answers the closed form knows."""

from types import SimpleNamespace

import pytest
import torch
from tiny import assert_shows

from lab.chapters import exercises, opening
from lab.chapters.scale import scale
from lab.notebook import Lab
from lab.recipes import RECIPES, Training
from lab.show import Figure, Table
from vae_helpers import build

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    made = Lab({"EPOCHS": 1, "TRAIN_LIMIT": 20, "DATA": "standin", "DEVICE": "cpu",
                "PRECISION": "fp32", "RUNS": str(tmp_path_factory.mktemp("opening"))})
    for name in ("fc", "conv", "improved", "celeba64"):
        made.runs[Training(name)] = SimpleNamespace(recipe=RECIPES[name], model=build(
            RECIPES[name]).eval(), chosen={"test_loss": 2000.0})
    return made


def test_page_one_needs_one_optional_training_for_its_bars(lab):
    assert_shows(opening.strip(lab), Figure)
    assert opening.bars(lab).column("not trained here") == ["fc-pca"]
    lab.runs[Training("fc-pca")] = lab.runs[Training("fc")]
    assert_shows(opening.bars(lab), Figure)
    assert set(lab.found) == {"cifar.mean_image", "cifar.linear_dof"}


def test_the_way_between_two_faces_has_them_at_its_ends(lab):
    drawn = opening.rows(lab, columns=4)
    assert {len(images) for images in drawn.values()} == {4}
    way = drawn["from one real face\nto another"]
    torch.testing.assert_close(way[[0, -1]], lab.faces.test.images[[0, 3]] / 255)


def test_a_guess_stands_beside_the_true_value_which_waits_for_it(lab):
    row = exercises.permuted(lab, "fc", guess=1.0).rows[0]
    assert row["off by"] == 1.0 - row["true value"]
    waits = exercises.permuted(lab, "fc")
    assert_shows(waits, Table)
    assert waits.rows[0]["true value"] is waits.rows[0]["off by"] is None


def test_exercises_have_the_answers_of_the_closed_form(lab):
    kept = exercises.directions(lab, beta=4, guess=0).rows[0]["true value"]
    assert kept == (scale(lab, "cifar").spectrum.eigenvalues > 2).sum()         # σ² = β / 2
    few, many = (exercises.latent(lab, size, 0).rows[0]["true value"] for size in (2, 16))
    assert few > many >= 0 == exercises.latent(lab, 128, 0).rows[0]["true value"]
