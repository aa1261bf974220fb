"""The sweep over the decoder's variance: draws, likelihoods and linear models that are known."""

from __future__ import annotations

import math

import pytest
import torch
from tiny import TINY, assert_shows, grey

from lab import density, latent
from lab import linear as pca
from lab.chapters import blur as ask
from lab.chapters import scale
from lab.session import Lab
from lab.show import Figure, Table, finite
from lab.training import evaluate
from vae_helpers import as_pixels, build

pytestmark = pytest.mark.usefixtures("one_thread")

GIVEN = TINY.but(reconstruction="gaussian", sigma=0.5)
LEARNED = TINY.but(reconstruction="gaussian")


# ---- a model as a distribution


@pytest.mark.parametrize("recipe", [GIVEN, LEARNED], ids=["given", "learned"])
def test_a_reading_as_a_density_is_the_loss_that_evaluation_reports(recipe):
    images, model = grey(30, 8), build(recipe).eval()
    nats = ask.read(model, images, seed=3, batch=7).nats(images, "density")
    loss = evaluate(model, images, seed=3, batch=7).loss(1.0).double()
    width = images[0].numel() * math.log(255)               # the width of a level
    torch.testing.assert_close(nats, loss + width, rtol=1e-5, atol=1e-2)


def test_the_variance_is_the_recipes_or_the_learned_one():
    assert ask.sigma2_of(build(GIVEN)) == pytest.approx(0.25)
    model = build(LEARNED)
    with torch.no_grad():
        model.log_sigma.fill_(math.log(0.07))
    assert ask.sigma2_of(model) == pytest.approx(0.07 ** 2, rel=1e-5)


def test_a_linear_model_read_on_its_own_images_is_the_closed_form():
    """KL and degrees of freedom exactly, squared error and bits up to the noise of one draw."""
    images = grey(2000)
    known = pca.spectrum(images, top=48)
    sigma2 = density.learned_sigma2(known, 5)
    best = pca.linear_optimum(known, sigma2, 5)
    model = pca.linear_vae_parameters(known, sigma2, 5)
    reading = ask.read_linear(model, sigma2, images, seed=0)
    assert reading.kl.sum(1).mean().item() == pytest.approx(best.rate, rel=1e-6)
    assert latent.degrees_of_freedom(reading.logvar) == pytest.approx(best.dof)
    assert reading.error(images) == pytest.approx(best.distortion / 48, rel=0.01)
    assert reading.error(images) == pytest.approx(sigma2, rel=0.01)
    nats = reading.nats(images, "density").mean().item()
    assert nats == pytest.approx(ask.closed_nats(known, sigma2, 5), rel=1e-3)


def test_all_components_give_an_image_back_and_none_the_mean():
    images = grey()
    known = pca.spectrum(images, top=48)
    torch.testing.assert_close(ask.through_components(known, images, 48), as_pixels(images),
                               rtol=0, atol=1e-5)
    assert torch.allclose(ask.through_components(known, images, 0).flatten(1), known.mean.float())


# ---- the chapter, on few images


class Judged:
    """Measures nothing but that it was asked."""

    def measure(self, images):
        assert images.dtype == torch.float32 and images.ndim == 4
        return {"sharpness": None, "kid": math.nan,
                "blur": 1.5, "recall": 0.5, "coverage": 0.5}


def made(folder, extensions):
    lab = Lab({"EPOCHS": 1, "TRAIN_LIMIT": 160, "DATA": "standin", "DEVICE": "cpu",
               "PRECISION": "fp32", "RUNS": str(folder), "EXTENSIONS": extensions})
    return ask.Chapter(lab, scale.Chapter(lab), Judged())


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return made(tmp_path_factory.mktemp("blur"), True)


@pytest.fixture(scope="module")
def absent(tmp_path_factory):
    return made(tmp_path_factory.mktemp("absent"), False)


TABLES, FIGURES = ("sigmas", "looks"), ("pictures",)


@pytest.mark.parametrize("name", TABLES + FIGURES)
def test_everything_shows_itself_on_few_images(trained, name):
    assert_shows(getattr(trained, name)(), Table if name in TABLES else Figure)
    assert all(finite(value) is not None for value in trained.lab.found.values())


@pytest.mark.parametrize("name", TABLES + FIGURES)
def test_without_trainings_everything_shows_what_is_missing(absent, name):
    shown = getattr(absent, name)()
    assert isinstance(shown, Table)
    words = shown._repr_markdown_()
    assert words.count("not trained here") == 4
    assert not any(key.startswith(("blur.bits_", "blur.kept_learned")) for key in absent.lab.found)


def test_distributions_that_need_no_training_stand_in_the_table(absent):
    rows = {row["distribution"]: row for row in absent.sigmas().rows}
    assert rows["uniform"]["bits, 256 levels"] == 8
    linear = rows["linear VAE, σ² = ½"]
    assert linear["bits, exact"] == pytest.approx(linear["bits, as a density"], abs=0.02)
    assert linear["bits, as a density"] > 8 > linear["bits, kept to [0, 1]"]
    # the tails cost nothing; drawn pictures hardly reach them
    assert linear["bits, 256 levels"] < linear["bits, as a density"] + 1e-4
    best = rows["linear VAE, σ² = the best"]
    assert best["σ²"] == pytest.approx(density.learned_sigma2(absent.scale.cifar.spectrum, 128))


def test_a_full_covariance_of_few_images_flatters_itself(trained):
    trained.sigmas()
    found = trained.lab.found
    assert found["blur.full_covariance_fitted"] < found["blur.full_covariance_bits"]


def test_samples_are_as_many_of_each_and_within_range(trained):
    assert list(trained.samples) == ["2", "8", "32", "learned", "full", "real"]
    for images in trained.samples.values():
        assert images.shape == (100, 3, 32, 32)
        assert images.min() >= 0 and images.max() <= 1
    assert not torch.equal(trained.samples["full"][0], trained.samples["full"][1])


def test_names_say_the_variance():
    assert [ask.name_of(key) for key in ask.SWEEP] == ["σ² = ½", "σ² = ⅛", "σ² = 1/32",
                                                      "σ² learned"]
