"""Every measure against a known answer: a closed form, another implementation, a planted truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lab import eigen, measures

pytestmark = pytest.mark.usefixtures("one_thread")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def random_bytes(*shape, low=0, high=256, seed=0):
    return torch.randint(low, high, shape, generator=generator(seed), dtype=torch.uint8)


def rotation(size, seed=0):
    square = torch.randn(size, size, generator=generator(seed), dtype=torch.float64)
    return torch.linalg.qr(square).Q


def planted_spectrum(eigenvalues, seed=0):
    """A spectrum with known eigenvalues along random axes, all of them known."""
    eigenvalues = torch.tensor(eigenvalues, dtype=torch.float64)
    size = len(eigenvalues)
    mean = torch.rand(size, generator=generator(seed), dtype=torch.float64)
    axes = rotation(size, seed)
    return measures.Spectrum(eigenvalues, axes, mean, eigenvalues.sum().item(), 0.0)


def test_running_means_are_those_of_every_beginning():
    values = 1e6 + torch.randn(50, generator=generator(), dtype=torch.float64)
    mean, error = measures.running_means(values)
    for n in (2, 3, 17, 50):
        known = measures.mean_and_error(values[:n])
        assert (mean[n - 1].item(), error[n - 1].item()) == pytest.approx(known, rel=1e-9)
    assert mean[0].item() == pytest.approx(values[0].item()) and error[0].isnan()


# ---- floors and ceilings of a loss


def test_floor_is_the_bce_of_an_image_with_itself():
    images = random_bytes(7, 3, 8, 8, low=1, high=255)
    x = images.double() / 255
    bce = torch.nn.functional.binary_cross_entropy_with_logits(x.logit(), x, reduction="sum") / 7
    assert measures.entropy_floor(images) == pytest.approx(bce.item(), rel=1e-12)
    assert measures.entropy_floor(x) == pytest.approx(bce.item(), rel=1e-12)


def test_floor_of_black_and_white_is_zero_and_of_mid_grey_is_ln_2_a_pixel():
    black_and_white = 255 * random_bytes(5, 3, 4, 4, high=2)
    assert measures.entropy_floor(black_and_white) == 0
    mid_grey = torch.full((5, 3, 4, 4), 0.5)
    assert measures.entropy_floor(mid_grey) == pytest.approx(48 * math.log(2))


def test_no_reconstruction_is_below_the_floor():
    x = random_bytes(6, 3, 8, 8).double() / 255
    noisy = (x + 0.1 * torch.randn(x.shape, generator=generator())).clamp(0.01, 0.99)
    bce = torch.nn.functional.binary_cross_entropy(noisy, x, reduction="sum") / 6
    assert bce > measures.entropy_floor(x)


@pytest.mark.parametrize("of_others", [False, True])
def test_mean_image_loss_is_the_loss_of_the_mean_image(of_others):
    images, others = random_bytes(9, 3, 4, 4), random_bytes(11, 3, 4, 4, seed=1)
    x = images.double() / 255
    x_hat = ((others if of_others else images).double() / 255).mean(0, keepdim=True).expand_as(x)
    bce = torch.nn.functional.binary_cross_entropy(x_hat, x, reduction="sum").item() / 9
    sse = (x - x_hat).square().sum().item() / 9
    of = others if of_others else None
    assert measures.mean_image_loss(images, of) == pytest.approx(bce, rel=1e-12)
    assert measures.mean_image_loss(images, of, loss="sse") == pytest.approx(sse, rel=1e-12)


def test_mean_image_loss_refuses_an_unknown_loss():
    with pytest.raises(ValueError, match="mse"):
        measures.mean_image_loss(random_bytes(2, 3, 4, 4), loss="mse")


def test_blocks_change_no_result(monkeypatch):
    images = random_bytes(50, 3, 4, 4)
    whole = measures.entropy_floor(images), measures.mean_image(images)
    monkeypatch.setattr(eigen, "BLOCK_PIXELS", 7 * 48)  # 50 images in ragged blocks of 7
    assert measures.entropy_floor(images) == whole[0]
    assert torch.equal(measures.mean_image(images), whole[1])


# ---- the linear optimum


def test_linear_optimum_keeps_what_is_above_sigma2():
    spectrum = planted_spectrum([8.0, 2.0, 0.5, 0.25])
    optimum = measures.linear_optimum(spectrum, sigma2=0.5)
    assert optimum.active == 2
    assert optimum.rate == pytest.approx(0.5 * (math.log(16) + math.log(4)))
    assert optimum.distortion == pytest.approx(2 * 0.5 + 0.75)
    assert optimum.variances.tolist() == pytest.approx([1 / 16, 1 / 4])
    assert optimum.loss(2, 3) == pytest.approx(2 * optimum.distortion + 3 * optimum.rate)
    assert optimum.dof == pytest.approx(15 / 16 + 3 / 4)


def test_linear_optimum_keeps_at_most_latent():
    optimum = measures.linear_optimum(planted_spectrum([8.0, 2.0, 1.0]), sigma2=0.5, latent=1)
    assert (optimum.active, optimum.distortion) == (1, pytest.approx(0.5 + 3))


def test_everything_collapses_once_sigma2_exceeds_the_largest_eigenvalue():
    optimum = measures.linear_optimum(planted_spectrum([8.0, 2.0]), sigma2=8.1)
    assert (optimum.active, optimum.rate, optimum.distortion) == (0, 0, pytest.approx(10))


def test_a_spectrum_cut_too_early_is_refused():
    images = torch.rand(100, 3, 4, 4, generator=generator())
    with pytest.raises(ValueError, match="top"):
        measures.linear_optimum(measures.spectrum(images, top=5), sigma2=1e-6)
    assert measures.linear_optimum(measures.spectrum(images, top=5), 1e-6, latent=5).active == 5


def test_slope_of_the_rate_distortion_curve_is_twice_sigma2():
    spectrum = planted_spectrum([8.0, 2.0, 1.0, 0.3])
    curve = measures.rate_distortion(spectrum, [0.5, 0.5001])
    slope = (curve.distortion[1] - curve.distortion[0]) / (curve.rate[1] - curve.rate[0])
    assert slope.item() == pytest.approx(-2 * 0.5, rel=1e-3)
    assert curve.active.tolist() == [3, 3]


def elbo_terms_of_linear_vae(vae, spectrum, images=20_000, seed=0):
    """Rate and distortion of a linear VAE, with x sampled from the spectrum and z from q."""
    epsilon = torch.randn(2, images, len(spectrum.mean), generator=generator(seed)).double()
    x = spectrum.mean + (epsilon[0] * spectrum.eigenvalues.sqrt()) @ spectrum.components
    mu = (x - vae.mean) @ vae.encoder.T
    q = torch.distributions.Normal(mu, vae.variance.sqrt())
    z = mu + vae.variance.sqrt() * epsilon[1, :, : len(vae.variance)]
    prior = torch.distributions.Normal(torch.zeros_like(mu), 1.0)
    rate = torch.distributions.kl_divergence(q, prior).sum(1)
    distortion = (x - vae.mean - z @ vae.decoder.T).square().sum(1)
    return rate, distortion


def test_linear_vae_parameters_attain_the_optimum():
    spectrum = planted_spectrum([4.0, 1.5, 0.8, 0.3, 0.1, 0.05])
    vae = measures.linear_vae_parameters(spectrum, sigma2=0.5, latent=5)
    optimum = measures.linear_optimum(spectrum, sigma2=0.5, latent=5)
    found = elbo_terms_of_linear_vae(vae, spectrum)
    for terms, closed_form in zip(found, (optimum.rate, optimum.distortion), strict=True):
        mean, error = measures.mean_and_error(terms)
        assert abs(mean - closed_form) < 4 * error < 0.1
    assert vae.variance[3:].tolist() == [1, 1]


def test_no_perturbation_improves_the_linear_optimum():
    spectrum = planted_spectrum([4.0, 1.5, 0.8, 0.3])
    vae = measures.linear_vae_parameters(spectrum, sigma2=0.5, latent=3)
    best = exact_linear_loss(vae, spectrum)
    assert best == pytest.approx(measures.linear_optimum(spectrum, 0.5, 3).loss(), rel=1e-12)
    for seed in range(50):
        draw, size = generator(seed), 10 ** -(1 + seed % 3)
        worse = vae._replace(
            encoder=vae.encoder + size * torch.randn(vae.encoder.shape, generator=draw),
            decoder=vae.decoder + size * torch.randn(vae.decoder.shape, generator=draw),
            variance=vae.variance * (size * torch.randn(3, generator=draw)).exp(),
        )
        assert exact_linear_loss(worse, spectrum) > best


def exact_linear_loss(vae, spectrum):
    """SSE + KL of any linear VAE in expectation, from the covariance alone."""
    covariance = spectrum.components.T @ spectrum.eigenvalues.diag() @ spectrum.components
    missed = torch.eye(len(covariance)) - vae.decoder @ vae.encoder
    distortion = (missed @ covariance @ missed.T).trace()
    distortion = distortion + (vae.decoder.square() * vae.variance).sum()
    mu_squared = (vae.encoder @ covariance @ vae.encoder.T).diagonal()
    rate = 0.5 * (mu_squared + vae.variance - vae.variance.log() - 1).sum()
    return (distortion + rate).item()


def test_linear_loss_is_least_at_the_variance_that_its_weights_imply():
    spectrum = planted_spectrum([8.0, 2.0, 1.0, 0.3])
    a, b = 2.0, 3.0
    sigma2 = b / (2 * a)
    least = measures.linear_optimum(spectrum, sigma2).loss(a, b)
    for other in (0.5 * sigma2, 0.9 * sigma2, 1.1 * sigma2, 2 * sigma2):
        assert measures.linear_optimum(spectrum, other).loss(a, b) > least


def test_cross_entropy_above_its_floor_is_squared_error_over_twice_its_variance():
    x_hat = 0.2 + 0.6 * torch.rand(4, 3, 8, 8, generator=generator(), dtype=torch.float64)
    x = x_hat + 0.01 * torch.randn(x_hat.shape, generator=generator(1), dtype=torch.float64)
    bce = torch.nn.functional.binary_cross_entropy(x_hat, x, reduction="sum").item() / 4
    predicted = ((x - x_hat).square() / (2 * x_hat * (1 - x_hat))).sum().item() / 4
    assert bce - measures.entropy_floor(x) == pytest.approx(predicted, rel=0.02)


# ---- posteriors and latent codes


def test_kl_monte_carlo_agrees_with_torch_distributions():
    mu = torch.randn(3, 6, generator=generator())
    logvar = 0.5 * torch.randn(3, 6, generator=generator(1))
    q = torch.distributions.Normal(mu, (logvar / 2).exp())
    prior = torch.distributions.Normal(torch.zeros(3, 6), 1.0)
    exact = torch.distributions.kl_divergence(q, prior).sum(1).mean().item()
    mean, error = measures.kl_monte_carlo(mu, logvar, 20_000, generator(2))
    assert abs(mean - exact) < 4 * error < 0.1


def test_kl_monte_carlo_of_the_prior_itself_is_exactly_zero():
    assert measures.kl_monte_carlo(torch.zeros(4), torch.zeros(4), 100, generator()) == (0, 0)


def test_active_units_counts_dimensions_above_the_threshold():
    kl = torch.tensor([[1.0, 0.0, 0.02, 0.0], [3.0, 0.0, 0.02, 0.01]])
    assert measures.active_units(kl) == measures.active_units(kl.mean(0)) == 2
    assert measures.active_units(kl, threshold=0.001) == 3


def test_active_units_of_a_linear_vae_are_the_eigenvalues_above_sigma2():
    spectrum = planted_spectrum([4.0, 1.5, 0.8, 0.3, 0.1])
    vae = measures.linear_vae_parameters(spectrum, sigma2=0.5, latent=5)
    draws = torch.randn(5000, 5, generator=generator()).double() * spectrum.eigenvalues.sqrt()
    mu = draws @ spectrum.components @ vae.encoder.T
    kl = 0.5 * (mu.square() + vae.variance - vae.variance.log() - 1)
    assert measures.active_units(kl) == 3


def test_degrees_of_freedom_count_what_is_not_noise():
    logvar = torch.tensor([[0.0, -80.0, math.log(0.5)], [0.0, -80.0, math.log(0.3)]])
    assert measures.degrees_of_freedom(logvar) == pytest.approx(0 + 1 + 0.6)
    assert measures.degrees_of_freedom(logvar[0]) == pytest.approx(1.5)


def test_degrees_of_freedom_of_a_linear_vae_are_its_closed_form():
    spectrum = planted_spectrum([4.0, 1.5, 0.8, 0.3, 0.1])
    vae = measures.linear_vae_parameters(spectrum, sigma2=0.5, latent=5)
    found = measures.degrees_of_freedom(vae.variance.log().expand(7, 5))
    assert found == pytest.approx(measures.linear_optimum(spectrum, 0.5).dof, rel=1e-12)
    best, latent = measures.linear_optimum(spectrum, 0.5, 2), sum(1 - 0.5 / v for v in (4.0, 1.5))
    assert best.dof == pytest.approx(latent) and best.dof < best.active


def test_mean_and_error_are_numpys():
    values = torch.randn(1000, generator=generator())
    mean, error = measures.mean_and_error(values)
    assert mean == pytest.approx(values.double().mean().item())
    assert error == pytest.approx(np.std(values.double().numpy(), ddof=1) / math.sqrt(1000))


def random_covariance(size, seed=0):
    square = torch.randn(size, size, generator=generator(seed), dtype=torch.float64)
    return square @ square.T / size


def test_gaussian_fit_recovers_what_was_sampled():
    truth = measures.Gaussian(torch.tensor([1.0, -2.0, 0.5]).double(), random_covariance(3))
    draws = truth.sample(200_000, generator())
    fitted = measures.gaussian_fit(draws)
    torch.testing.assert_close(fitted.mean, truth.mean, atol=0.02, rtol=0)
    torch.testing.assert_close(fitted.covariance, truth.covariance, atol=0.03, rtol=0)
    np.testing.assert_allclose(fitted.covariance, np.cov(draws.numpy().T), rtol=1e-10)


def test_aggregate_posterior_has_the_mixtures_mean_and_covariance():
    mu, logvar = torch.randn(2, 500, 3, generator=generator())
    noise = torch.randn(4000, 500, 3, generator=generator(1))
    drawn = measures.gaussian_fit((mu + (logvar / 2).exp() * noise).flatten(0, 1))
    exact = measures.aggregate_posterior(mu, logvar)
    torch.testing.assert_close(drawn.mean, exact.mean, atol=0.01, rtol=0)
    torch.testing.assert_close(drawn.covariance, exact.covariance, atol=0.03, rtol=0)


def test_a_gaussian_without_variance_in_some_directions_can_be_sampled():
    flat = measures.Gaussian(torch.ones(2).double(), torch.tensor([4.0, 0.0]).double().diag())
    draws = flat.sample(10_000, generator())
    assert draws[:, 1].eq(1).all()
    assert draws[:, 0].std().item() == pytest.approx(2, rel=0.05)


def test_kl_of_a_fitted_gaussian_is_that_of_torch_distributions():
    mean, covariance = torch.randn(4, generator=generator()).double(), random_covariance(4)
    multivariate = torch.distributions.MultivariateNormal
    standard = multivariate(torch.zeros(4).double(), torch.eye(4).double())
    exact = torch.distributions.kl_divergence(multivariate(mean, covariance), standard).item()
    assert measures.kl_gaussian_to_standard(mean, covariance) == pytest.approx(exact, rel=1e-10)
    assert measures.kl_gaussian_to_standard(standard.mean, standard.covariance_matrix) == 0


def test_posterior_distance_is_that_of_the_integral_of_the_root_of_the_product():
    mu, logvar = torch.tensor([[0.3], [1.5]]), torch.tensor([[-0.5], [0.7]])
    z = torch.linspace(-30, 30, 60_001).double()
    a, b = map(torch.distributions.Normal, mu.double(), (logvar / 2).exp().double())
    integral = torch.trapezoid(((a.log_prob(z) + b.log_prob(z)) / 2).exp(), z).item()
    distances = measures.posterior_distances(mu, logvar)
    assert distances[0, 1].item() == pytest.approx(-math.log(integral), rel=1e-5)
    assert distances[1, 0] == distances[0, 1] and torch.isinf(distances.diagonal()).all()


def test_posterior_distances_are_zero_between_equals_and_add_over_dimensions():
    mu, logvar = torch.randn(2, 21, 3, generator=generator())
    mu[7], logvar[7] = mu[2], logvar[2]
    whole = measures.posterior_distances(mu, logvar, block=4)
    assert whole[2, 7].item() == pytest.approx(0, abs=1e-5)
    parts = [measures.posterior_distances(mu[:, i : i + 1], logvar[:, i : i + 1]) for i in range(3)]
    torch.testing.assert_close(whole, parts[0] + parts[1] + parts[2])


def test_gradient_estimators_have_the_closed_form_mean_and_variance_on_a_quadratic():
    m, sigma = 1.5, 0.5  # f(z) = z², so that d E[f] / d mu = 2 m
    mu, logvar = (torch.tensor([t], dtype=torch.float64) for t in (m, 2 * math.log(sigma)))
    estimates = measures.pathwise_and_score_gradients(lambda z: z.square().sum(1), mu, logvar,
                                                      200_000, generator())
    for values in estimates:
        mean, error = measures.mean_and_error(values)
        assert abs(mean - 2 * m) < 4 * error < 0.2
    pathwise, score, with_baseline = (values.var().item() for values in estimates)
    assert pathwise == pytest.approx(4 * sigma ** 2, rel=0.02)
    assert score == pytest.approx(m ** 4 / sigma ** 2 + 14 * m ** 2 + 15 * sigma ** 2, rel=0.05)
    assert pathwise < with_baseline < score


def test_attribute_correlation_is_numpys_and_zero_for_constants():
    codes = torch.randn(200, 4, generator=generator())
    attributes = torch.stack([codes[:, 0] > 0, codes[:, 1] + codes[:, 2] > 1], 1)
    found = measures.attribute_correlation(codes, attributes)
    expected = np.corrcoef(codes.double().T, attributes.double().T)[:4, 4:]
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert measures.attribute_correlation(codes, torch.ones(200, 1)).eq(0).all()


# ---- images


def slow_ssim(a, b):
    """SSIM of two planes by its definition, window by window."""
    weights = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5 ** 2))
    weights = np.outer(weights, weights) / weights.sum() ** 2
    values = []
    for i in range(a.shape[0] - 10):
        for j in range(a.shape[1] - 10):
            p, q = a[i : i + 11, j : j + 11], b[i : i + 11, j : j + 11]
            mean_p, mean_q = (weights * p).sum(), (weights * q).sum()
            variances = (weights * ((p - mean_p) ** 2 + (q - mean_q) ** 2)).sum()
            covariance = (weights * (p - mean_p) * (q - mean_q)).sum()
            luminance = (2 * mean_p * mean_q + 1e-4) / (mean_p ** 2 + mean_q ** 2 + 1e-4)
            values.append(luminance * (2 * covariance + 9e-4) / (variances + 9e-4))
    return np.mean(values)


def test_ssim_is_its_definition():
    a = random_bytes(3, 3, 16, 14)
    b = (a.double() / 255 + 0.2 * torch.randn(a.shape, generator=generator())).clamp(0, 1)
    found = measures.ssim(a.double() / 255, b)
    for image, value in enumerate(found):
        planes = [slow_ssim(a[image, c].numpy() / 255, b[image, c].numpy()) for c in range(3)]
        assert value.item() == pytest.approx(np.mean(planes), rel=1e-9)
    torch.testing.assert_close(measures.ssim(a, b.float()), found.float(), atol=1e-5, rtol=0)


def test_ssim_is_one_only_for_equal_images():
    a = random_bytes(2, 3, 16, 16)
    torch.testing.assert_close(measures.ssim(a, a), torch.ones(2))
    assert measures.ssim(a, 255 - a).max() < 0.1


def blurred(images):
    return torch.nn.functional.avg_pool2d(images, 3, 1, 1, count_include_pad=False)


def test_blur_lowers_sharpness_and_constants_and_ramps_have_none():
    x = torch.rand(4, 3, 16, 16, generator=generator())
    assert (measures.sharpness(blurred(x)) < 0.1 * measures.sharpness(x)).all()
    ramp = torch.linspace(0, 1, 16, dtype=torch.float64).expand(1, 3, 16, 16)
    assert measures.sharpness(ramp).item() < 1e-12
    assert measures.sharpness(torch.full((1, 3, 8, 8), 77, dtype=torch.uint8)) == 0


def test_sharpness_of_white_noise_is_twenty_times_its_variance():
    grey = 0.1 * torch.randn(50, 1, 64, 64, generator=generator())  # 4² + 4 · 1² = 20
    assert measures.sharpness(grey).mean().item() == pytest.approx(20 * 0.01, rel=0.02)


def test_neighbour_correlation_of_noise_is_zero_and_of_a_ramp_near_one():
    noise = torch.rand(200, 3, 16, 16, generator=generator())
    mean, error = measures.mean_and_error(measures.neighbour_correlation(noise))
    assert abs(mean) < 0.01 and error < 0.01
    ramp = torch.linspace(0, 1, 32).expand(1, 3, 32, 32)
    assert measures.neighbour_correlation(ramp).item() > 0.99


def test_neighbour_correlation_of_averaged_noise_is_the_share_of_common_pixels():
    noise = torch.rand(100, 3, 40, 40, generator=generator())
    averaged = torch.nn.functional.avg_pool2d(noise, 3, 1)  # neighbours share 6 of 9 pixels
    assert measures.neighbour_correlation(averaged).mean().item() == pytest.approx(2 / 3, abs=0.01)


def test_neighbour_correlation_ignores_colour_and_contrast():
    x = torch.rand(3, 3, 16, 16, generator=generator(), dtype=torch.float64)
    tinted = 0.5 * x + torch.tensor([0.0, 0.2, 0.5])[:, None, None]
    torch.testing.assert_close(*map(measures.neighbour_correlation, (x, tinted)))


def test_smoothness_of_a_cross_fade_is_its_closed_form():
    a, b = torch.rand(2, 5, 1, 3, 8, 8, generator=generator(), dtype=torch.float64)
    t = torch.linspace(0, 1, 10, dtype=torch.float64).view(10, 1, 1, 1)
    frames = (1 - t) * a + t * b  # (5, 10, 3, 8, 8)
    expected = (a - b).square().mean((1, 2, 3, 4)) / 81
    torch.testing.assert_close(measures.smoothness(frames), expected)
    torch.testing.assert_close(measures.evenness(frames), torch.ones(5).double())


def test_one_jump_among_n_steps_has_an_evenness_of_n():
    frames = torch.zeros(10, 3, 8, 8)
    frames[4:] = 1
    assert measures.evenness(frames) == 9
    assert measures.smoothness(torch.zeros(10, 3, 8, 8)) == 0


def test_nearest_agrees_with_all_distances_and_finds_a_planted_copy():
    references, queries = random_bytes(3000, 3, 8, 8), random_bytes(6, 3, 8, 8, seed=1)
    queries[2] = references[2345]
    every = torch.cdist(queries.flatten(1).double() / 255, references.flatten(1).double() / 255)
    found = measures.nearest(queries, references)
    assert torch.equal(found.index, every.argmin(1))
    torch.testing.assert_close(found.distance, every.amin(1).float())
    assert (found.index[2], found.distance[2]) == (2345, 0)
