"""Page one, on models as they begin."""

from types import SimpleNamespace

import pytest
import torch
from tiny import assert_shows, short_lab

from lab.chapters import opening
from lab.recipes import RECIPES, Training
from lab.show import Figure
from vae_helpers import build


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    made = short_lab(tmp_path_factory.mktemp("opening"), 20)
    for name in ("fc", "conv", "improved", "celeba64"):
        made.runs[Training(name)] = SimpleNamespace(recipe=RECIPES[name], model=build(
            RECIPES[name]).eval(), chosen={"test_loss": 2000.0})
    return made


def test_page_one_needs_one_optional_training_for_its_bars(lab):
    assert_shows(opening.strip(lab), Figure)
    assert opening.bars(lab).column("not trained here") == ["fc-pca"]
    lab.runs[Training("fc-pca")] = lab.runs[Training("fc")]
    assert_shows(opening.bars(lab), Figure)
    assert set(lab.found) == {"cifar.mean_image", "cifar.test_floor"}


def test_the_way_between_two_faces_has_them_at_its_ends(lab):
    drawn = opening.rows(lab, columns=4)
    assert {len(images) for images in drawn.values()} == {4}
    way = drawn["from one real face\nto another"]
    torch.testing.assert_close(way[[0, -1]], lab.faces.test.images[[0, 3]] / 255)
