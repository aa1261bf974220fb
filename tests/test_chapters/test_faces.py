"""Task 3: closed forms, planted attributes, planted copies, and everything once on few faces."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from tiny import LINEAR, assert_shows, generator, planted, short_lab

from lab.chapters import faces as ask
from lab.chapters import scale
from lab.notebook import Lab
from lab.recipes import RECIPES, Training
from lab.show import Figure, Table
from vae_helpers import build


def test_fewer_dimensions_cost_what_their_directions_were_worth():
    """A direction kept costs ½ ln(λ/σ²) + ½ nats, one left out λ/2σ²; only kept ones count."""
    known = planted(9.0, 4.0, 1.0, 0.5, 0.1)
    worth = [(x - 1 - math.log(x)) / 2 for x in (1 / 0.25, 0.5 / 0.25)]
    assert ask.cost_of_fewer(known, 0.25, 2, 4) == pytest.approx(sum(worth))
    assert ask.cost_of_fewer(known, 0.25, 4, 5) == 0


def test_saturated_values_are_counted_where_they_were_planted():
    images = torch.full((2, 3, 4, 4), 100, dtype=torch.uint8)
    images[:, 0, 0] = torch.tensor([[0, 2, 3, 252], [253, 255, 1, 128]])        # two, and three
    for kind in (images, images / 255):
        assert ask.numbers_of(kind)["saturated"] == pytest.approx(5 / 96)


# ---- the chapter on few faces, with PCA in the place of trainings


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    lab = short_lab(tmp_path_factory.mktemp("runs"), 120)
    model = scale.pca_model(RECIPES["celeba64"], scale.scale(lab, "celeba64"))
    losses = {("celeba64", 0): 6300.0, ("celeba64", 1): 6302.0, ("celeba64-d128", 0): 6297.0,
              ("celeba64-d128", 1): 6303.0}
    for (name, seed), loss in losses.items():
        chosen = {"loss": loss, "kl": 50.0, "test_loss": loss, "test_kl": 50.0}
        lab.runs[Training(name, seed)] = SimpleNamespace(model=model, recipe=RECIPES[name],
                                                         hash=f"{name} {seed}", chosen=chosen)
    return lab


@pytest.mark.parametrize("name, kind", [
    ("losses", Table), ("readings", Table), ("densities", Table), ("neighbours", Figure),
    ("memory", Table)])
def test_everything_shows_itself(lab, name, kind):
    assert_shows(getattr(ask, name)(lab), kind)


def test_a_linear_decoder_spreads_a_quarter_at_a_quarter(lab, monkeypatch):
    """x_hat = ½ + B z / 20 with orthonormal columns B, so that decodings stay inside [0, 1]."""
    model = build(LINEAR.but(side=64)).eval()
    with torch.no_grad():
        basis = torch.linalg.qr(torch.randn(model.recipe.pixels, 3, generator=generator())).Q
        model.decoder[0].weight.copy_(basis / 20)
        model.decoder[0].bias.fill_(0.5)
    monkeypatch.setattr(lab, "kept", {key: value for key, value in lab.kept.items()
                                      if "measured" not in key})
    monkeypatch.setitem(lab.runs, Training("celeba64"), SimpleNamespace(model=model, hash="lin"))
    assert ask.spread(lab, 0.25) == pytest.approx(0.25, rel=1e-3)
    assert ask.spread(lab, 3.0) == pytest.approx(3, rel=1e-3)
    ask.keep_scales(lab)
    assert lab.found["faces.spread.s025"] == pytest.approx(0.25, rel=1e-3)
    assert lab.found["faces.saturated.s3"] == 0 < lab.found["faces.saturated.real"]
    assert "spread × 0.25" in ask.in_numbers(lab, 0.25)


def test_an_attribute_that_is_a_direction_is_read_along_it(lab, monkeypatch):
    """It is planted along two dimensions: a direction of both reads it better than one of them."""
    def codes_of(part):
        has = getattr(lab.faces, part).labels[:, lab.faces.test.label_names.index("Smiling")]
        codes = torch.randn(len(has), 6, generator=generator(len(has)))
        codes[:, 2:4] += 1.5 * has.bool()[:, None]
        return codes, torch.zeros_like(codes)

    monkeypatch.setattr(lab, "codes", lambda run, part="test": codes_of(part))
    row = next(row for row in ask.readings(lab).rows if row["attribute"] == "Smiling")
    assert row["AUC, its direction"] > row["AUC, best dimension"] + 0.02 > 0.8
    assert lab.found["auc.smiling"] == row["AUC, its direction"]


def test_an_attribute_that_all_faces_have_is_none(lab, monkeypatch):
    constant = replace(lab.faces.train, labels=torch.ones_like(lab.faces.train.labels))
    monkeypatch.setattr(Lab, "faces", SimpleNamespace(train=constant, test=lab.faces.test))
    assert ask.having(lab) == {} and set(ask.having(lab, "test")) <= set(ask.SHOWN)


def test_a_remembered_face_would_stand_out(lab):
    """PCA keeps the faces that it was computed from, and of few faces knows no others."""
    ask.memory(lab)
    assert lab.found["memory.control_pixels"] < lab.found["memory.reconstructed_pixels"]


def test_latent_sizes_are_compared_over_seeds(lab):
    ask.keep_latent_size(lab)
    assert lab.found["faces.d128_costs"] == pytest.approx(-1)
    assert lab.found["faces.d128_error"] == pytest.approx(math.sqrt(1 + 9))    # of two and of two


def test_what_other_chapters_quote_is_kept(lab):
    ask.losses(lab), ask.keep_crop(lab), ask.keep_correlation(lab)
    known, found = scale.scale(lab, "celeba64"), lab.found
    assert found["celeba64.training_above_floor"] == pytest.approx(6300 - known.floor)
    assert found["faces.crop_costs"] + ask.CLAIMED_LOSS - known.floor == pytest.approx(
        found["faces.claimed_above_whole"])
    assert 0 < found["faces.dims_correlation"] < 1
