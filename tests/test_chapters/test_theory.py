"""The theory's numbers, on posteriors, gradients and decoders whose answers are known."""

import math

import pytest
import torch
from tiny import assert_shows, put_linear

from lab import density, latent, linear
from lab.chapters import scale, theory
from lab.session import Lab
from lab.show import Figure, Table
from vae_helpers import Recipe, as_pixels, build, reconstruction_error

pytestmark = pytest.mark.usefixtures("one_thread")

# x_hat = B z with orthonormal columns B, so that codes and images keep distances
LINEAR = Recipe("plain", network="fc", widths=(), norm=False, link="identity",
                reconstruction="sse", side=4, latent=3)


def draw(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def model():
    """mu = B^T x, sigma² = 1/3 and x_hat = B z."""
    model = build(LINEAR)
    basis = torch.linalg.qr(torch.randn(48, 3, generator=draw())).Q
    with torch.no_grad():
        model.to_mu.weight.copy_(basis.T)
        model.decoder[0].weight.copy_(basis)
        for tensor in (model.to_mu.bias, model.decoder[0].bias, model.to_logvar.weight):
            tensor.zero_()
        model.to_logvar.bias.fill_(-math.log(3))
    return model


@pytest.fixture
def images():
    return torch.randint(0, 256, (64, 3, 4, 4), dtype=torch.uint8, generator=draw())


# ---- Q2


def test_gradient_estimators_of_a_quadratic_agree_and_spread_as_known():
    """f = z², z ~ N(1, 1): pathwise 2z has variance 4, the score's z²(z - 1) that of moments."""
    one = torch.ones(1, dtype=torch.float64)
    draws = latent.pathwise_and_score_gradients(lambda z: z.square().sum(1), one, 0 * one,
                                                  400_000, draw(1))
    e = [1, 0, 1, 0, 3, 0, 15]                          # moments of a standard normal
    second = sum(math.comb(4, k) * e[k + 2] for k in range(5))          # E (1 + e)^4 e²
    ratio = theory.variance_ratio(draws.pathwise, draws.score)
    assert ratio == pytest.approx((second - 2 ** 2) / 4, rel=0.03)
    assert theory.apart(draws.score, draws.pathwise) < 3.5
    assert theory.apart(2 * draws.score, draws.pathwise) > 100


def test_standard_errors_are_those_of_paired_draws():
    shared = torch.randn(10_000, 1, generator=draw()) * 100
    other = shared + 0.01 + torch.randn(10_000, 1, generator=draw(1))
    assert theory.apart(other + 1, shared) == pytest.approx(100, rel=0.05)      # unpaired: 0.7


def test_pulls_balance_the_kl_exactly_at_a_linear_optimum(model, images):
    """|x - Bz|² + KL is least at mu = 2/3 B^T x and sigma² = 1/3."""
    mu = 2 / 3 * as_pixels(images).flatten(1) @ model.to_mu.weight.T
    mu, logvar = mu.detach(), torch.full_like(mu, -math.log(3)).detach()
    outward, against = theory.pulls(model, images, mu, logvar, draw(), n=400)
    assert outward.mean().item() == pytest.approx(mu.square().sum(1).mean().item(), rel=0.02)
    assert against.mean().item() == pytest.approx(3 * 2 / 3, rel=0.03)


# ---- Q3


def test_noise_costs_a_linear_decoder_the_sum_of_its_variances(model, images):
    """E |x - B(mu + sigma eps)|² - |x - B mu|² = sum sigma², and half of 1 - 1/3 each is that."""
    mu, logvar = (t.detach() for t in model.encode(as_pixels(images)))
    cost = latent.noise_cost(model, images, mu, logvar, draw(), n=400).mean().item()
    assert cost == pytest.approx(3 * 1 / 3, rel=0.1)
    assert latent.degrees_of_freedom(logvar) / 2 == pytest.approx(1)


def test_errors_are_those_of_the_loss(model, images):
    z = torch.randn(64, 3, generator=draw())
    direct = reconstruction_error(LINEAR, model.decode(z), as_pixels(images))
    torch.testing.assert_close(latent.errors_at(model, images, z), direct.detach())


def test_noise_on_codes_has_the_covariance_asked_for():
    root = torch.tensor([[1.0, 0.5], [0.5, 2.0]])
    noise = latent.shaken(torch.ones(100_000, 2), root, 0.5, draw()) - 1
    torch.testing.assert_close(noise.T.cov(), root @ root / 4, rtol=0.02, atol=0.005)


@pytest.mark.parametrize("beta", [1.0, 0.1])
def test_curvature_and_variance_obey_the_law_at_a_linear_optimum(beta):
    """There sigma_j² = sigma² / lambda_j and H_jj = 2 (lambda_j - sigma²), with sigma² = beta / 2;
    with other variances the law fails."""
    factors = torch.randn(64, 2, generator=draw()) @ torch.randn(2, 48, generator=draw(1))
    images = (128 + 40 * factors).clamp(0, 255).to(torch.uint8).view(-1, 3, 4, 4)
    best = linear.linear_vae_parameters(linear.spectrum(images), beta / 2, 3)
    used = best.variance < 1
    model = put_linear(build(LINEAR.but(beta=beta)), best)
    mu, logvar = (t.detach() for t in model.encode(as_pixels(images)))
    curvature = latent.curvatures(model, images, mu, logvar)
    known = 2 * best.decoder.square().sum(0)
    torch.testing.assert_close(curvature.mean(0)[used], known[used], rtol=1e-3, atol=1e-3)
    law = latent.curvature_law(curvature, logvar, beta)
    assert used.sum() >= 2 and law.slope == pytest.approx(1, abs=1e-3) and law.error < 1e-3
    assert law.correlation == pytest.approx(1, abs=1e-3)
    assert latent.curvature_law(curvature, logvar + 0.5, beta).slope < 0.9


def test_the_slopes_error_is_its_spread_over_sets_of_images():
    slopes, errors = [], []
    for seed in range(200):
        curvature = torch.rand(64, 20, generator=draw(seed)).double() * torch.arange(1.0, 21)
        logvar = -(1 + curvature * (0.5 + torch.rand(64, 20, generator=draw(-1 - seed)))).log()
        law = latent.curvature_law(curvature, logvar, 1.0)
        slopes.append(law.slope)
        errors.append(law.error)
    assert sum(errors) / 200 == pytest.approx(torch.tensor(slopes).std().item(), rel=0.2)
    assert sum(slopes) / 200 == pytest.approx(1, abs=0.01)


def test_unused_dimensions_and_a_single_image_give_no_slope():
    flat = torch.zeros(8, 4)
    assert math.isnan(latent.curvature_law(flat.double(), flat, 1.0).slope)
    assert math.isnan(latent.curvature_law(flat[:1].double() + 1, flat[:1], 1.0).slope)


# ---- Q4


def test_nearest_is_that_of_equal_gaussians_on_a_line():
    mu = torch.tensor([[0.0], [2.0], [5.0], [6.0]])     # of unit variance: distances d² / 8
    found = density.posterior_distances(mu, torch.zeros(4, 1))
    assert density.median_nearest(found) == pytest.approx(1 / 8)       # of 1/2, 1/2, 1/8, 1/8
    assert density.median_nearest(found[:3, :3]) == pytest.approx(2 ** 2 / 8)


def test_more_images_are_never_farther():
    found = density.posterior_distances(*torch.randn(2, 64, 4, generator=draw()))
    few, many = found[:32, :32].min(1).values, found[:32].min(1).values
    assert (many <= few).all() and many.median() < few.median()


# ---- the chapter, on few images


@pytest.fixture(scope="module")
def chapter(tmp_path_factory):
    lab = Lab({"EPOCHS": 1, "TRAIN_LIMIT": 160, "DATA": "standin", "DEVICE": "cpu",
               "PRECISION": "fp32", "RUNS": str(tmp_path_factory.mktemp("theory"))})
    return theory.Chapter(lab, scale.Chapter(lab))


TABLES = ("kl_twice", "density", "gradient_table", "balance", "noise", "curvature",
          "robustness", "two_sample", "sample_table", "price", "averaging")
FIGURES = ("beta_zero", "gradient_spread", "robust", "autoencoder", "map")


@pytest.mark.parametrize("name", TABLES + FIGURES)
def test_everything_shows_itself_on_few_images(chapter, name):
    assert_shows(getattr(chapter, name)(), Table if name in TABLES else Figure)


def test_averaging_both_terms_is_a_weight_of_24(chapter):
    rows = {row["loss"]: row for row in chapter.averaging().rows}
    assert rows["both averaged: closed form only"]["weight of the KL"] == 3072 / 128
    assert rows["both averaged: closed form only"]["KL, nats"] is None
    assert rows["reconstruction averaged"]["σ²"] == 3072 / 4
    assert rows["reconstruction averaged"]["directions above σ²"] == 0


def test_all_five_variants_are_of_one_network(chapter):
    assert list(chapter.demo) == ["VAE", "β = 0", "autoencoder", "averaged", "β = 0.1"]
    assert len({(r.recipe.widths, r.recipe.latent, r.recipe.lr)
                for r in chapter.demo.values()}) == 1
    assert "autoencoder" not in chapter.kl                      # its codes are no distributions
