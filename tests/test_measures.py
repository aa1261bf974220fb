"""Every measure against a known answer: a closed form, another computation, or a planted truth."""

import math

import numpy as np
import pytest
import torch

import vae_measures as measures


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


# ---------------------------------------------------------------- floors and ceilings of a loss


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
    with pytest.raises(ValueError, match="not 'mse'"):
        measures.mean_image_loss(random_bytes(2, 3, 4, 4), loss="mse")


def test_blocks_change_no_result(monkeypatch):
    images = random_bytes(50, 3, 4, 4)
    whole = measures.entropy_floor(images), measures.mean_image(images)
    monkeypatch.setattr(measures, "BLOCK_PIXELS", 7 * 48)  # 50 images in ragged blocks of 7
    assert measures.entropy_floor(images) == whole[0]
    assert torch.equal(measures.mean_image(images), whole[1])


# ---------------------------------------------------------------- the linear optimum


def test_spectrum_of_bytes_equals_numpys():
    images = random_bytes(2500, 3, 4, 4)
    x = images.flatten(1).double().numpy() / 255
    eigenvalues = np.linalg.eigvalsh(np.cov(x.T, bias=True))[::-1]
    found = measures.spectrum(images, top=10)
    np.testing.assert_allclose(found.eigenvalues, eigenvalues[:10], rtol=1e-10)
    assert found.total == pytest.approx(eigenvalues.sum(), rel=1e-10)
    np.testing.assert_allclose(found.mean, x.mean(0), rtol=1e-12)


@pytest.mark.parametrize("kind", ["bytes", "floats"])
def test_krylov_iteration_finds_what_the_full_covariance_gives(monkeypatch, kind):
    scales = 0.1 * torch.arange(1, 301).double() ** -0.8
    images = 0.5 + (torch.randn(1500, 300, generator=generator()) * scales) @ rotation(300)
    images = images.clamp(0, 1).view(1500, 3, 10, 10)
    images = (255 * images).round().byte() if kind == "bytes" else images
    exact = measures.spectrum(images, top=20)
    monkeypatch.setattr(measures, "EXACT_SIDE", 0)
    found = measures.spectrum(images, top=20)
    assert exact.error == 0 < found.error < 0.011 * found.eigenvalues[-1]
    torch.testing.assert_close(found.eigenvalues, exact.eigenvalues, rtol=1e-3, atol=0)
    overlap = (found.components @ exact.components.T).diagonal().abs()
    assert overlap[:10].min() > 0.9999


def test_krylov_iteration_survives_fewer_images_than_eigenvalues(monkeypatch):
    images = random_bytes(8, 3, 10, 10)
    exact = measures.spectrum(images, top=20)
    monkeypatch.setattr(measures, "EXACT_SIDE", 0)
    found = measures.spectrum(images, top=20)
    torch.testing.assert_close(found.eigenvalues, exact.eigenvalues, rtol=1e-6, atol=1e-6)
    assert found.eigenvalues.sum() == pytest.approx(found.total, rel=1e-5)


def test_linear_optimum_keeps_what_is_above_sigma2():
    spectrum = planted_spectrum([8.0, 2.0, 0.5, 0.25])
    optimum = measures.linear_optimum(spectrum, sigma2=0.5)
    assert optimum.active == 2
    assert optimum.rate == pytest.approx(0.5 * (math.log(16) + math.log(4)))
    assert optimum.distortion == pytest.approx(2 * 0.5 + 0.75)
    assert optimum.variances.tolist() == pytest.approx([1 / 16, 1 / 4])
    assert optimum.loss(2, 3) == pytest.approx(2 * optimum.distortion + 3 * optimum.rate)


def test_linear_optimum_keeps_at_most_latent():
    optimum = measures.linear_optimum(planted_spectrum([8.0, 2.0, 1.0]), sigma2=0.5, latent=1)
    assert (optimum.active, optimum.distortion) == (1, pytest.approx(0.5 + 3))


def test_everything_collapses_once_sigma2_exceeds_the_largest_eigenvalue():
    optimum = measures.linear_optimum(planted_spectrum([8.0, 2.0]), sigma2=8.1)
    assert (optimum.active, optimum.rate, optimum.distortion) == (0, 0, pytest.approx(10))


def test_a_spectrum_cut_too_early_is_refused():
    images = torch.rand(100, 3, 4, 4, generator=generator())
    with pytest.raises(ValueError, match="larger top"):
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
    for terms, closed_form in zip(
        elbo_terms_of_linear_vae(vae, spectrum), (optimum.rate, optimum.distortion), strict=True
    ):
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


def test_implied_sigma2_is_where_the_linear_loss_is_least():
    spectrum = planted_spectrum([8.0, 2.0, 1.0, 0.3])
    a, b = 2.0, 3.0
    sigma2 = measures.implied_sigma2(a, b)
    least = measures.linear_optimum(spectrum, sigma2).loss(a, b)
    for other in (0.5 * sigma2, 0.9 * sigma2, 1.1 * sigma2, 2 * sigma2):
        assert measures.linear_optimum(spectrum, other).loss(a, b) > least


def test_pixels_in_minus_one_to_one_quarter_the_implied_sigma2():
    beta = 4.0  # SSE on [-1, 1] is 4 SSE on [0, 1]
    assert measures.implied_sigma2(4, beta) == measures.implied_sigma2(1, 1) == 0.5


def test_bernoulli_sigma2_predicts_the_excess_of_bce_over_its_floor():
    x_hat = 0.2 + 0.6 * torch.rand(4, 3, 8, 8, generator=generator(), dtype=torch.float64)
    x = x_hat + 0.01 * torch.randn(x_hat.shape, generator=generator(1), dtype=torch.float64)
    bce = torch.nn.functional.binary_cross_entropy(x_hat, x, reduction="sum").item() / 4
    predicted = ((x - x_hat).square() / (2 * x_hat * (1 - x_hat))).sum().item() / 4
    assert bce - measures.entropy_floor(x) == pytest.approx(predicted, rel=0.02)
    assert measures.bernoulli_sigma2(x_hat) == pytest.approx((x_hat - x_hat**2).mean().item())
    assert measures.bernoulli_sigma2(torch.full((1, 3, 2, 2), 0.5)) == 0.25


# ---------------------------------------------------------------- posteriors and latent codes


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
    assert measures.active_units(kl) == measures.active_by_variance(mu) == 3


def test_mean_and_error_are_numpys():
    values = torch.randn(1000, generator=generator())
    mean, error = measures.mean_and_error(values)
    assert mean == pytest.approx(values.double().mean().item())
    assert error == pytest.approx(np.std(values.double().numpy(), ddof=1) / math.sqrt(1000))
