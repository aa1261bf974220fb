"""The sweep over the decoder's variance: likelihoods and linear models that are known."""

import math

import pytest
import torch
from tiny import TINY, assert_shows, grey, put_linear, short_lab

from lab import linear
from lab.chapters import blur
from lab.density import closed_nats, learned_sigma2
from lab.recipes import RECIPES
from lab.show import Figure
from lab.training import evaluate
from vae_helpers import Recipe, as_pixels, build


@pytest.mark.parametrize("sigma", [0.5, None])
def test_nats_as_a_density_are_the_loss_that_evaluation_reports(sigma):
    images, model = grey(30, 8), build(TINY.but(reconstruction="gaussian", sigma=sigma)).eval()
    nats = blur.nats_of(model, images, seed=3)[blur.DENSITY]
    loss = evaluate(model, images, seed=3).loss(1.0).double()
    width = images[0].numel() * math.log(255)               # the width of a level
    torch.testing.assert_close(nats, loss + width, rtol=1e-5, atol=1e-2)


def test_the_variance_is_the_recipes_or_the_learned_one():
    assert blur.sigma2_of(build(TINY.but(reconstruction="gaussian", sigma=0.5))) == 0.25
    model = build(TINY.but(reconstruction="gaussian"))
    with torch.no_grad():
        model.log_sigma.fill_(math.log(0.07))
    assert blur.sigma2_of(model) == pytest.approx(0.07 ** 2, rel=1e-5)


def test_a_linear_model_on_its_own_images_is_the_closed_form():
    """KL exactly, bits up to the noise of one draw."""
    images = grey(2000)
    known = linear.spectrum(images, top=48)
    sigma2 = learned_sigma2(known, 5)
    plain = Recipe("plain", network="fc", widths=(), norm=False, link="identity", side=4, latent=5,
                   reconstruction="gaussian", sigma=sigma2 ** 0.5)
    model = put_linear(build(plain), linear.linear_vae_parameters(known, sigma2, 5))
    nats = blur.nats_of(model, images, seed=0)
    rate = linear.linear_optimum(known, sigma2, 5).rate
    assert nats["KL"].mean().item() == pytest.approx(rate, rel=1e-5)
    closed = closed_nats(known, sigma2, 5)
    assert nats[blur.DENSITY].mean().item() == pytest.approx(closed, rel=1e-3)


def test_all_components_give_an_image_back_and_none_the_mean():
    images = grey()
    known = linear.spectrum(images, top=48)
    torch.testing.assert_close(blur.through_components(known, images, 48), as_pixels(images),
                               rtol=0, atol=1e-5)
    assert torch.allclose(blur.through_components(known, images, 0).flatten(1), known.mean.float())


def test_everything_shows_itself_on_few_images(tmp_path, monkeypatch):
    for name in (*blur.TRAININGS, "small-ae"):
        monkeypatch.setitem(RECIPES, name, RECIPES[name].but(widths=(4, 8, 8)))
    lab = short_lab(tmp_path, 160, EXTENSIONS=True)
    assert_shows(blur.pictures(lab), Figure)
    rows = {row["distribution"]: row for row in blur.sigmas(lab).rows}
    assert len(rows) == 10
    linear_half, half = rows["linear VAE, σ² = ½"], rows["VAE, σ² = ½"]
    assert linear_half[blur.DENSITY] > 8 > half[blur.KEPT]      # [0, 1] is narrow for σ² = ½
    assert lab.found["blur.density_2"] == half[blur.DENSITY] > half[blur.KEPT]
    components = rows["128 principal components"]
    assert components[blur.SSIM] > half[blur.SSIM] and components[blur.DENSITY] is None
