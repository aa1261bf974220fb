"""Likelihoods of grey levels against sums over all 256, and Gaussians against their closed form."""

from __future__ import annotations

import math

import pytest
import torch
from tiny import LINEAR, generator, grey

from lab import density, measures
from vae_helpers import as_pixels, build, reconstruction_error

pytestmark = pytest.mark.usefixtures("one_thread")

EVERY = torch.arange(256, dtype=torch.uint8).view(256, 1)       # an image of one value each
SIGMAS = (1e-4, 1e-3, 0.07, 0.7, 30.0, 1e5)


def planted(n=4000, side=4, seed=0):
    """Images of a few strong directions and noise, as bytes; far from 0 and 255."""
    draw = generator(seed)
    mixing = torch.linalg.qr(torch.randn(3 * side ** 2, 5, generator=draw)).Q
    scales = torch.tensor([1.0, 0.8, 0.5, 0.3, 0.2]) / 4
    x = 0.5 + (torch.randn(n, 5, generator=draw) * scales) @ mixing.T
    x = x + 0.02 * torch.randn(x.shape, generator=draw)
    return (255 * x).round().clamp(0, 255).byte().view(n, 3, side, side)


# ---- one value


@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize("nats", [density.level_nats, density.kept_nats])
def test_the_256_levels_sum_to_one_for_any_mean(nats, sigma):
    for mean in (-3.0, 0.0, 0.2, 0.5, 1.0, 7.0):
        total = torch.logsumexp(-nats(EVERY, torch.full((256, 1), mean), sigma), 0).item()
        assert total == pytest.approx(0, abs=1e-9)


def test_levels_far_from_the_mean_have_finite_logarithms():
    """A Gaussian of sd 1e-4 puts level 255 at 10,000 deviations: ln is about -10,000² / 2."""
    found = density.level_nats(EVERY, torch.zeros(256, 1), 1e-4)
    assert found.isfinite().all() and (found[1:].diff() > 0).all()
    assert found[255].item() == pytest.approx((254.5 / 255 / 1e-4) ** 2 / 2, rel=1e-4)


def test_logarithms_of_intervals_are_those_of_the_exact_tails():
    """Above both, and below: ln(Φ(-a) - Φ(-b)) in float64 from log_ndtr, which is slower."""
    low = torch.tensor([-60.0, -36.9, -37.1, -5.0, -1e-6, 4.0, 36.0, 90.0]).double()
    high = low + 0.3
    left, right = -torch.maximum(low.abs(), high.abs()), -torch.minimum(low.abs(), high.abs())
    a, b = torch.special.log_ndtr(right), torch.special.log_ndtr(left)
    exact = torch.where(low * high > 0, a + torch.log1p(-torch.exp(b - a)),
                        (torch.special.ndtr(high) - torch.special.ndtr(low)).log())
    torch.testing.assert_close(density.log_between(low, high), exact, rtol=1e-10, atol=1e-12)
    mirrored = density.log_between(-high, -low)
    torch.testing.assert_close(mirrored, exact, rtol=1e-10, atol=1e-12)


def test_a_wide_gaussian_kept_to_the_levels_is_uniform():
    images = grey()
    nats = density.kept_nats(images, torch.rand(images.shape, generator=generator()), 1e5)
    assert density.bits(nats, 48) == pytest.approx((8, 0), abs=1e-6)


def test_bins_become_the_density_where_sigma_is_wide_and_the_tails_are_far():
    inside = EVERY[40:216]
    for sigma, error in ((0.1, 1e-3), (1.0, 1e-5), (10.0, 1e-7)):
        mean = torch.full(inside.shape, 0.5)
        binned, smooth = (f(inside, mean, sigma) for f in (density.level_nats,
                                                           density.density_nats))
        torch.testing.assert_close(binned, smooth, rtol=0, atol=error)


def test_the_outermost_levels_take_what_a_gaussian_says_of_values_that_no_pixel_has():
    """At sigma = 1 about the middle, 31 % lies on either side of [0, 1]."""
    black = torch.zeros(1, 1, dtype=torch.uint8)
    found = math.exp(-density.level_nats(black, torch.full((1, 1), 0.5), 1.0).item())
    assert found == pytest.approx(torch.special.ndtr(torch.tensor(-0.5 + 0.5 / 255)).item(), 1e-5)


def test_parts_are_the_whole():
    images = grey(120)
    x_hat = torch.rand(images.shape, generator=generator())
    torch.testing.assert_close(density.in_parts(density.level_nats, images, x_hat, 0.1),
                               density.level_nats(images, x_hat, 0.1))


def test_the_density_is_the_losses_and_a_level_is_a_255th_wide():
    images, recipe = grey(), LINEAR.but(reconstruction="gaussian", sigma=0.3)
    x_hat = torch.rand(images.shape, generator=generator())
    loss = reconstruction_error(recipe, x_hat, as_pixels(images)).double()
    torch.testing.assert_close(density.density_nats(images, x_hat, 0.3), loss + 48 * math.log(255),
                               rtol=1e-6, atol=1e-4)


def test_the_loss_is_least_where_sigma_is_the_root_mean_squared_error():
    recipe, images = LINEAR.but(reconstruction="gaussian"), as_pixels(grey())
    x_hat = torch.rand(images.shape, generator=generator())
    error = (images - x_hat).square().mean()
    log_sigma = (error.log() / 2).clone().requires_grad_()
    loss = reconstruction_error(recipe, x_hat, images, log_sigma).mean()
    (slope,) = torch.autograd.grad(loss, log_sigma)
    assert slope.item() == pytest.approx(0, abs=1e-4)
    assert hasattr(build(recipe), "log_sigma")


# ---- cross-entropy


def test_grey_levels_sum_to_one_under_cross_entropy():
    logits = torch.tensor([0.0, 1e-4, -0.3, 4.0, -40.0], dtype=torch.float64)
    levels = torch.arange(256).double()[:, None] / 255
    cost = torch.nn.functional.softplus(logits) - logits * levels       # cross-entropy, (256, 5)
    torch.testing.assert_close(density.log_of_levels(logits), torch.logsumexp(-cost, 0),
                               rtol=1e-9, atol=1e-9)


def test_a_decoder_that_says_a_half_everywhere_needs_eight_bits():
    logits = torch.zeros(5, 3, 4, 4)
    nats = torch.full((5,), 48 * math.log(2))
    assert density.cross_entropy_bits(nats, logits) == pytest.approx(8)


# ---- whole images


def test_at_the_linear_optimum_the_elbo_is_the_exact_log_likelihood():
    """The posterior of a linear VAE is Gaussian, so that its encoder leaves no gap, image by image;
    and the mean over the images is the closed form of the spectrum."""
    images = planted()
    known = measures.spectrum(images, top=48)
    for sigma2 in (0.01, density.learned_sigma2(known, 5)):
        model = measures.linear_vae_parameters(known, sigma2, 5)
        d = images.flatten(1).double() / 255 - model.mean
        mu = d @ model.encoder.T
        kl = 0.5 * (mu.square() + model.variance - 1 - model.variance.log()).sum(1)
        noise = (model.decoder.square() @ model.variance).sum()
        error = (d - mu @ model.decoder.T).square().sum(1) + noise
        elbo = error / (2 * sigma2) + kl + 24 * math.log(2 * math.pi * sigma2 * 255 ** 2)
        exact = density.linear_nats(images, model, sigma2)
        torch.testing.assert_close(elbo, exact, rtol=1e-9, atol=1e-9)
        best = measures.linear_optimum(known, sigma2, 5)
        closed = best.loss(1 / (2 * sigma2)) + 24 * math.log(2 * math.pi * sigma2 * 255 ** 2)
        assert exact.mean().item() == pytest.approx(closed, rel=1e-9)


def test_exact_log_likelihood_is_scipys():
    stats = pytest.importorskip("scipy.stats")
    images = planted(50)
    model = measures.linear_vae_parameters(measures.spectrum(planted(), top=48), 0.002, 5)
    covariance = model.decoder @ model.decoder.T + 0.002 * torch.eye(48)
    expected = stats.multivariate_normal(model.mean.numpy(), covariance.numpy()).logpdf(
        images.flatten(1).double().numpy() / 255)
    found = density.linear_nats(images, model, 0.002) - 48 * math.log(255)
    torch.testing.assert_close(found, -torch.from_numpy(expected), rtol=1e-8, atol=1e-8)


def test_the_learned_variance_is_the_mean_squared_error_of_its_optimum_and_the_best_of_all():
    known = measures.spectrum(planted(), top=48)
    found = density.learned_sigma2(known, 3)
    assert measures.linear_optimum(known, found, 3).distortion / 48 == pytest.approx(found)

    def nats(sigma2):
        return measures.linear_optimum(known, sigma2, 3).loss(1 / (2 * sigma2)) + 24 * math.log(
            sigma2)

    assert nats(found) < min(nats(0.99 * found), nats(1.01 * found))


def test_a_full_gaussian_fits_its_images_as_the_closed_form_says_and_new_ones_worse():
    images, fresh = planted(), planted(seed=0)[:10]
    found = density.full_gaussian(images[10:])
    assert found.nats(images[10:]).mean().item() == pytest.approx(found.fitted_nats, rel=1e-9)
    few = density.full_gaussian(images[10:100])         # of 90 images, 48 values: flattered
    assert few.fitted_nats < found.fitted_nats
    assert few.nats(fresh).mean() > found.nats(fresh).mean()


def test_a_full_gaussian_says_no_more_than_the_true_mass_of_the_levels():
    """Independent values: the mass over a bin is known, and the bound lies just below it."""
    images = (128 + 20 * torch.randn(20_000, 3, 2, 2, generator=generator())).round().byte()
    full = density.full_gaussian(images)
    alone = density.level_nats(images, full.mean.view(1, 3, 2, 2).expand(images.shape), 20 / 255)
    bound, exact = (density.bits(nats, 12)[0] for nats in (full.nats(images), alone))
    assert exact - 1e-3 < bound < exact + 0.01


def test_draws_of_a_full_gaussian_have_its_covariance():
    full = density.full_gaussian(planted())
    drawn = full.sample(20_000, generator())
    assert torch.allclose(drawn.T.cov(), full.root @ full.root.T, atol=2e-3)
    assert torch.allclose(drawn.mean(0), full.mean, atol=6e-3)
