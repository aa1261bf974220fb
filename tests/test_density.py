"""Gaussians of codes and likelihoods of grey levels against scipy, torch and sums over levels."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from tiny import generator, grey

from lab import density, linear

EVERY = torch.arange(256, dtype=torch.uint8).view(256, 1)  # an image of one value each


def planted(n=4000):
    """Bytes (n, 3, 4, 4) of five strong directions and noise, far from 0 and 255."""
    axes = torch.linalg.qr(torch.randn(48, 5, generator=generator(1))).Q
    strong = torch.randn(n, 5, generator=generator(2)) * torch.tensor([60.0, 50, 30, 20, 12])
    x = 128 + strong @ axes.T + 5 * torch.randn(n, 48, generator=generator(3))
    return x.round().clamp(0, 255).byte().view(n, 3, 4, 4)


# ---- Gaussians of codes


def test_a_gaussian_gives_back_what_was_sampled_from_it_flat_directions_too():
    truth = density.Gaussian(torch.tensor([1.0, -2.0, 0.5]).double(), torch.tensor(
        [[2.0, 0.6, 0.0], [0.6, 1.0, 0.0], [0.0, 0.0, 0.0]]).double())
    fitted = density.gaussian_fit(truth.sample(100_000, generator()))
    torch.testing.assert_close(fitted, truth, atol=0.03, rtol=0)
    few = truth.sample(5)
    np.testing.assert_allclose(density.gaussian_fit(few).covariance, np.cov(few.T), atol=1e-12)


def test_the_aggregate_posterior_has_the_mean_and_covariance_of_draws_from_all_posteriors():
    mu, logvar = torch.randn(2, 100, 3, generator=generator())
    noise = torch.randn(4000, 100, 3, generator=generator(1))
    drawn = density.gaussian_fit((mu + (logvar / 2).exp() * noise).flatten(0, 1))
    torch.testing.assert_close(density.aggregate_posterior(mu, logvar), drawn, atol=0.03, rtol=0)


def test_kl_of_a_gaussian_is_that_of_torch_distributions():
    square = torch.randn(4, 4, generator=generator()).double()
    normal, covariance = torch.distributions.MultivariateNormal, square @ square.T / 4
    known = torch.distributions.kl_divergence(
        normal(square[0], covariance), normal(0 * square[0], torch.eye(4).double())).item()
    assert density.kl_gaussian_to_standard(square[0], covariance) == pytest.approx(known)


def test_the_mixture_of_posteriors_has_the_density_of_torch_distributions():
    mu, logvar = torch.randn(2, 700, 3, generator=generator()).double()
    z = 2 * torch.randn(600, 3, generator=generator(1)).double()
    each = torch.distributions.Independent(torch.distributions.Normal(mu, (logvar / 2).exp()), 1)
    known = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(torch.ones(700).double()), each).log_prob(z)
    torch.testing.assert_close(density.log_mixture(z, mu, logvar), known)


@pytest.mark.parametrize("mu, variance, known", [
    (torch.zeros(4000, 1), 1.0, 0),
    (torch.randn(4000, 1, generator=generator()), 1.0, math.log(2) / 2),
    (1e3 * torch.arange(4000.0)[:, None], 1e-12, math.log(4000))])
def test_codes_tell_their_images_apart_as_far_as_posteriors_are(mu, variance, known):
    """Nothing where all are equal, ln N where none touch, and ½ ln 2 nats where their means are
    spread as far as each of them, which makes a Gaussian of twice the variance."""
    logvar = torch.full_like(mu, math.log(variance))
    told, error = density.information(mu, logvar, 2000, generator(1))
    assert told == pytest.approx(known, abs=4 * error + 1e-6) and error < 0.02


def test_posterior_distance_is_the_integral_of_the_root_and_adds_over_dimensions():
    mu, logvar = torch.randn(2, 4, 2, generator=generator()).double()
    z, known = torch.linspace(-30, 30, 20_001).double(), torch.zeros(4, 4)
    for m, spread in zip(mu.T[..., None], (logvar / 2).exp().T[..., None], strict=True):
        log_q = torch.distributions.Normal(m, spread).log_prob(z)  # (4, 20_001)
        known -= torch.trapezoid(((log_q[:, None] + log_q) / 2).exp(), z).log()
    known.fill_diagonal_(math.inf)
    torch.testing.assert_close(density.posterior_distances(mu, logvar), known)
    line = torch.tensor([[0.0], [2.0], [5.0], [6.0], [9.0]])  # nearest at 2, 2, 1, 1 and 3
    assert density.median_nearest(density.posterior_distances(line, 0 * line)) == 2 ** 2 / 8


# ---- weighted draws


def test_weighted_draws_come_to_the_exact_log_likelihood_of_a_linear_vae():
    """Of its own posterior any number of draws gives it, of one that is too wide ever more of the
    gap, ½ (wider - 1 - ln wider) for each dimension."""
    images, sigma2 = grey(60), 0.02
    best = linear.linear_vae_parameters(linear.spectrum(images), sigma2, 3)
    covariance = best.decoder @ best.decoder.T + sigma2 * torch.eye(48)
    exactly = stats.multivariate_normal(best.mean.numpy(), covariance.numpy()).logpdf(
        images.flatten(1).double().numpy() / 255)
    known = 48 * math.log(255) - torch.from_numpy(exactly)
    mu = (images.flatten(1) / 255 - best.mean) @ best.encoder.T

    def bounds(wider):
        def error(z):
            x_hat = best.mean + z @ best.decoder.T
            return density.density_nats(images.flatten(1), x_hat, sigma2 ** 0.5)
        logvar = (wider * best.variance).log().expand(mu.shape)
        return density.importance_bounds(error, mu, logvar, (1, 10, 100), generator())

    for exact in bounds(1.0).values():
        torch.testing.assert_close(exact, known, rtol=1e-6, atol=1e-4)
    one, ten, many = ((bound - known).mean().item() for bound in bounds(2.0).values())
    assert one == pytest.approx(1.5 * (1 - math.log(2)), rel=0.1)
    assert 0.02 < ten < one / 3 and abs(many) < ten / 4


# ---- grey levels


@pytest.mark.parametrize("sigma", [1e-4, 1e-3, 0.07, 0.7, 30.0, 1e5])
def test_the_256_levels_sum_to_one_for_any_mean(sigma):
    for mean in (-3.0, 0.0, 0.2, 1.0, 7.0):
        nats = density.kept_nats(EVERY, torch.full((256, 1), mean), sigma)
        assert torch.logsumexp(-nats, 0).item() == pytest.approx(0, abs=1e-8)


def test_levels_are_those_of_scipys_normal_and_truncated_normal_and_density():
    mean, sigma, edges = 0.4, 0.3, (np.arange(257) - 0.5) / 255
    low, high = (edges[[0, -1]] - mean) / sigma
    ways = ((density.kept_nats, np.diff(stats.truncnorm(low, high, mean, sigma).cdf(edges))),
            (density.density_nats, stats.norm(mean, sigma).pdf(np.arange(256) / 255) / 255))
    for nats, known in ways:
        found = density.in_parts(nats, EVERY, torch.full((256, 1), mean), sigma)
        np.testing.assert_allclose(found, -np.log(known), rtol=1e-6)


def test_bits_are_those_of_a_value():
    found = density.bits(math.log(2) * torch.tensor([1.0, 3.0]), 2)
    assert found == pytest.approx((1, 0.5))


# ---- whole images


def test_the_learned_variance_is_the_best_of_all_and_never_below_rounding():
    known = linear.spectrum(planted(), top=48)
    found = density.learned_sigma2(known, 3)

    def nats(sigma2):
        optimum = linear.linear_optimum(known, sigma2, 3)
        return optimum.loss(1 / (2 * sigma2)) + 24 * math.log(sigma2)

    assert nats(found) < min(nats(0.999 * found), nats(1.001 * found))
    still = linear.spectrum(torch.full((60, 3, 4, 4), 99, dtype=torch.uint8), top=48)
    assert density.learned_sigma2(still, 3) == pytest.approx(1 / 255 ** 2 / 12)


def test_a_full_gaussian_says_scipys_mean_log_density_over_each_level():
    images = planted()
    full, x = density.full_gaussian(images), images.flatten(1).double() / 255
    spread = np.cov(x.T, bias=True) + np.eye(48) / 12 / 255 ** 2
    normal, level = stats.multivariate_normal(x.mean(0), spread), np.linalg.inv(spread).trace()
    known = 48 * math.log(255) - normal.logpdf(x) + level / 12 / 255 ** 2 / 2
    np.testing.assert_allclose(full.nats(images), known, rtol=1e-8)
    drawn = full.sample(20_000, generator())
    np.testing.assert_allclose(drawn.T.cov(), spread, atol=2e-3)
    np.testing.assert_allclose(drawn.mean(0), x.mean(0), atol=6e-3)
