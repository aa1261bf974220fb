"""The best linear VAE against numpy, scipy, closed forms and planted truths; starts that are it."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny import generator, noise_images, random_bytes

from lab import linear
from lab.training import encode_set, evaluate
from vae_helpers import Recipe, build, to_pixels

COLOURED = noise_images(200).images     # they vary in their three colours, with some grain


def rotation(size, seed=0):
    square = torch.randn(size, size, generator=generator(seed), dtype=torch.float64)
    return torch.linalg.qr(square).Q


def smooth_bytes(n, side, seed=0):
    """Images whose eigenvalues fall as those of photographs do, along random axes."""
    size = 3 * side ** 2
    scales = 0.5 * torch.arange(1, size + 1).double() ** -0.8
    x = 0.5 + (torch.randn(n, size, generator=generator(seed)) * scales) @ rotation(size)
    return (255 * x.clamp(0, 1)).round().byte().view(n, 3, side, side)


def planted_spectrum(*eigenvalues):
    """A spectrum with these eigenvalues along random axes, of as many pixels."""
    values = torch.tensor(eigenvalues, dtype=torch.float64)
    mean = torch.rand(len(values), generator=generator(), dtype=torch.float64)
    return linear.Spectrum(values, rotation(len(values)), mean, values.sum().item())


# ---- means, floors and ceilings


def test_running_means_are_those_of_every_beginning_and_numpys():
    values = 1e6 + torch.randn(50, generator=generator(), dtype=torch.float64)
    mean, error = linear.running_means(values)
    for n in (2, 3, 17, 50):
        known = values[:n].numpy().mean(), values[:n].numpy().std(ddof=1) / math.sqrt(n)
        assert linear.mean_and_error(values[:n]) == pytest.approx(known, rel=1e-12)
        assert (mean[n - 1].item(), error[n - 1].item()) == pytest.approx(known, rel=1e-9)
    assert mean[0].item() == pytest.approx(values[0].item()) and error[0].isnan()


def test_floor_and_mean_image_have_the_cross_entropies_of_torch():
    """The floor is the loss of an image with itself; 700 images are more than a block."""
    images, others = random_bytes(700, 3, 4, 4, low=1, high=255), random_bytes(600, 3, 4, 4, seed=1)
    x, mean = images.double() / 255, others.double().mean(0) / 255

    def bce(x_hat):
        return F.binary_cross_entropy(x_hat.expand_as(x), x, reduction="sum").item() / 700

    assert linear.entropy_floor(images) == pytest.approx(bce(x), rel=1e-12)
    assert linear.mean_image_loss(images, others) == pytest.approx(bce(mean), rel=1e-12)
    torch.testing.assert_close(linear.mean_image(others), mean.flatten(), rtol=1e-13, atol=0)
    assert linear.entropy_floor(255 * random_bytes(5, 3, 4, 4, high=2)) == 0


# ---- the spectrum


@pytest.mark.parametrize("formed", [True, False], ids=["formed", "read in blocks"])
@pytest.mark.parametrize("n", [6, 60, 1500])    # fewer images than eigenvalues, than pixels, more
def test_spectrum_is_that_of_numpys_singular_values(monkeypatch, n, formed):
    images = smooth_bytes(n, 14)
    monkeypatch.setattr(linear, "FORMED_SIDE", 4096 if formed else 0)
    x = images.flatten(1).double().numpy() / 255
    singular, axes = np.linalg.svd(x - x.mean(0))[1:]
    values = np.pad(singular ** 2 / n, (0, 20))[:20]        # 0 where there are too few images
    found, precise = linear.spectrum(images, top=20), 1e-9 if formed else 1e-5
    np.testing.assert_allclose(found.eigenvalues, values, rtol=precise, atol=precise * values[0])
    assert found.eigenvalues.min() >= 0
    assert found.total == pytest.approx((singular ** 2).sum() / n, rel=1e-12)
    np.testing.assert_allclose(found.mean, x.mean(0), rtol=1e-12)
    gram = found.components @ found.components.T
    torch.testing.assert_close(gram, torch.eye(20).double(), atol=1e-12, rtol=0)
    k = min(n - 1, 10)                          # the mean takes one direction
    cosines = (found.components.numpy() * axes[:20]).sum(1)
    np.testing.assert_allclose(np.abs(cosines[:k]), 1, atol=1e-6)
    assert torch.equal(linear.spectrum(images, top=20).components, found.components)


def test_covariance_is_numpys_and_the_same_for_any_number_of_threads():
    images = random_bytes(1100, 3, 15, 15)          # two blocks of images, two strips of pixels
    images[:, 0, 0], images[:1050, 0, 1] = 255, 0   # the largest products that there are
    x, mean = images.flatten(1).double() / 255, linear.mean_image(images)
    found = linear.covariance(images, mean)
    np.testing.assert_allclose(found, np.cov(x.T, bias=True), rtol=1e-12, atol=1e-14)
    torch.set_num_threads(2)
    again = linear.covariance(images[torch.randperm(1100, generator=generator())], mean)
    torch.set_num_threads(1)
    assert torch.equal(again, found)


# ---- the linear optimum


def test_linear_optimum_keeps_what_is_above_sigma2_and_at_most_latent():
    known = planted_spectrum(8.0, 2.0, 0.5, 0.25)
    optimum = linear.linear_optimum(known, sigma2=0.5)
    assert optimum.active == 2 and optimum.dof == pytest.approx(15 / 16 + 3 / 4)
    assert optimum.rate == pytest.approx(0.5 * (math.log(16) + math.log(4)))
    assert optimum.distortion == pytest.approx(2 * 0.5 + 0.75)
    assert optimum.loss(2, 3) == pytest.approx(2 * optimum.distortion + 3 * optimum.rate)
    fewer, none = linear.linear_optimum(known, 0.5, 1), linear.linear_optimum(known, 8.1)
    assert (fewer.active, fewer.distortion) == (1, pytest.approx(0.5 + 2.75))
    assert (none.active, none.rate, none.distortion) == (0, 0, pytest.approx(10.75))


def test_a_spectrum_cut_too_early_is_refused():
    known = linear.spectrum(smooth_bytes(100, 4), top=5)
    with pytest.raises(ValueError, match="larger top"):
        linear.linear_optimum(known, sigma2=1e-6)
    with pytest.raises(ValueError, match="larger top"):
        linear.linear_optimum(known, sigma2=1e-6, latent=6)
    assert linear.linear_optimum(known, sigma2=1e-6, latent=5).active == 5
    assert linear.linear_optimum(linear.spectrum(smooth_bytes(100, 4)), sigma2=1e-6).active > 5


@pytest.mark.parametrize(("sigma2", "latent"), [(0.5, 5), (0.05, 3)])
def test_at_the_optimum_the_elbo_is_the_log_likelihood_of_probabilistic_pca(sigma2, latent):
    """-E ln N(x; mean, W W' + sigma2), of data with the spectrum's covariance."""
    known = planted_spectrum(4.0, 1.5, 0.8, 0.3, 0.1, 0.02)
    decoder = linear.linear_vae_parameters(known, sigma2, latent).decoder
    model = decoder @ decoder.T + sigma2 * torch.eye(6).double()
    covariance = known.components.T @ known.eigenvalues.diag() @ known.components
    far = torch.linalg.solve(model, covariance).trace()
    exact = 0.5 * (torch.logdet(2 * math.pi * model) + far).item()
    loss = linear.linear_optimum(known, sigma2, latent).loss(1 / (2 * sigma2))
    assert loss + 3 * math.log(2 * math.pi * sigma2) == pytest.approx(exact, rel=1e-12)


def expected_loss(encoder, decoder, variance, covariance, a, b):
    """a·SSE + b·KL of any linear VAE in expectation over x and z, from the covariance alone."""
    missed = torch.eye(len(covariance)) - decoder @ encoder
    noise = (decoder.square() * variance).sum()
    mu_squared = (encoder @ covariance @ encoder.T).diagonal()
    rate = 0.5 * (mu_squared + variance - variance.log() - 1).sum()
    return a * ((missed @ covariance @ missed.T).trace() + noise) + b * rate


def test_slope_of_the_rate_distortion_curve_is_twice_sigma2():
    images, sigma2 = smooth_bytes(60, 4), 0.01
    known = linear.spectrum(images)
    curve = linear.curve_on(known, linear.scores_of(known, images), [sigma2, 1.0001 * sigma2], 2)
    assert (curve.distortion.diff() / curve.rate.diff()).item() == pytest.approx(-2 * sigma2, 1e-3)


# ---- linear models on other images


@pytest.mark.parametrize(("sigma2", "latent"), [(0.001, 48), (0.01, 5), (1.0, 9)])
def test_a_linear_model_on_other_images_is_what_its_encoder_and_decoder_do(sigma2, latent):
    images, others = smooth_bytes(60, 4), smooth_bytes(550, 4, seed=3)
    known = linear.spectrum(images)
    vae = linear.linear_vae_parameters(known, sigma2, latent)
    x = others.flatten(1).double() / 255 - known.mean
    rate, error = (expected_loss(*vae[1:], x.T @ x / 550, *ab).item() for ab in ((0, 1), (1, 0)))
    found = linear.linear_on(known, linear.scores_of(known, others), sigma2, latent)
    assert found == pytest.approx((rate, error), rel=1e-4)
    best = linear.linear_optimum(known, sigma2, latent)
    own = linear.linear_on(known, linear.scores_of(known, images), sigma2, latent)
    assert own == pytest.approx((best.rate, best.distortion), rel=1e-4)
    scores = linear.pca_scores(known, others, 3).double()
    torch.testing.assert_close(scores, x @ known.components[:3].T, atol=1e-5, rtol=0)


# ---- starts

BESIDE = Recipe("improved", widths=(4, 8), norm=False, activation="silu", side=8, latent=6,
                start="linear", start_sigma2=0.1)
WITHIN = BESIDE.but(network="fc", widths=(24, 14), activation="relu", start="weights")
OWN = dict(reconstruction="sse", beta=0.2)              # its own variance is 0.1
RECIPES = {"beside": BESIDE, "beside, with residual blocks": BESIDE.but(residual=1),
           "beside, for squared error": BESIDE.but(**OWN),
           "within": WITHIN.but(start_gain=1.5), "within one layer": WITHIN.but(widths=(12,)),
           "within no hidden layer": WITHIN.but(widths=()), "within, sse": WITHIN.but(**OWN)}


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
@torch.no_grad()
def test_a_started_model_computes_the_best_linear_vae(recipe):
    """Its logits change by the pixels' change over the sigmoid's slope at the mean."""
    images = COLOURED
    known, model = linear.spectrum(images, top=10), build(recipe).eval()
    linear.start(model, known)
    best = linear.linear_vae_parameters(known, 0.1, 6)
    assert 0 < linear.linear_optimum(known, 0.1, 6).active < 6
    mu, logvar = encode_set(model, images)
    x, z = images.flatten(1).double() / 255, 3 * torch.randn(50, 6, generator=generator(2)).double()
    torch.testing.assert_close(mu.double(), (x - known.mean) @ best.encoder.T, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(logvar.double(), best.variance.log().expand(200, 6))
    slope = known.mean * (1 - known.mean)
    logits = known.mean.logit() + recipe.start_gain * z @ best.decoder.T / slope
    torch.testing.assert_close(model.decode(z.float()).flatten(1).double(), logits,
                               atol=1e-4, rtol=1e-4)


def test_a_direction_takes_two_units_of_each_layer_and_the_others_keep_their_weights():
    model, before, known = build(WITHIN), build(WITHIN), linear.spectrum(COLOURED, top=10)
    linear.start(model, known)
    n = 2 * linear.linear_optimum(known, 0.1, latent=6).active
    assert not model.to_mu.weight[:, n:].any()              # nobody listens to the others yet
    for layer in ("encoder.1", "encoder.3", "decoder.0", "decoder.2"):
        now, then = (each.get_submodule(layer).weight for each in (model, before))
        assert torch.equal(now[n:], then[n:]) and (now[:n] != then[:n]).all()
    linear.start(build(WITHIN.but(widths=(24, n))), known)
    with pytest.raises(ValueError, match=f"need {n} units, and a layer has {n - 1}"):
        linear.start(build(WITHIN.but(widths=(24, n - 1))), known)


@pytest.mark.parametrize("recipe", [BESIDE, WITHIN], ids=["beside", "within"])
def test_a_start_is_finite_where_a_pixel_never_changes(recipe):
    images, model = COLOURED.clone(), build(recipe).eval()
    images[:, 0, 0, 0], images[:, 1, 0, 0] = 0, 255
    linear.start(model, linear.spectrum(images, top=10))
    picture = to_pixels(recipe, model.decode(torch.zeros(1, 6)))
    assert torch.isfinite(evaluate(model, images).loss(1)).all()
    ends = 255 * picture[0, :2, 0, 0]                           # half a level from black and white
    torch.testing.assert_close(ends, torch.tensor([0.5, 254.5]), rtol=0, atol=1e-3)


def test_a_start_can_come_from_some_of_the_images_drawn_once_for_all():
    images = COLOURED
    some, same = (linear.spectrum_of(BESIDE.but(start_images=50), images) for _ in range(2))
    whole, more = (linear.spectrum_of(BESIDE.but(start_images=n), images) for n in (0, 500))
    assert torch.equal(some.mean, same.mean) and len(whole.eigenvalues) == BESIDE.latent
    assert not torch.equal(some.mean, whole.mean) and torch.equal(more.mean, whole.mean)
    levels = some.mean * 255 * 50                               # of 50 images
    torch.testing.assert_close(levels, levels.round(), atol=1e-6, rtol=0)
    assert not torch.equal(some.mean, linear.mean_image(images[:50]))
    torch.testing.assert_close(some.mean, whole.mean, atol=0.1, rtol=0)
