"""The loss: each term against another computation, and every knob by the amount that it should change it."""

import math

import pytest
import torch
from torch.distributions import Bernoulli, Independent, MultivariateNormal, Normal, kl_divergence

import vae_helpers as helpers
import vae_measures as measures
from vae_helpers import Recipe, build, elbo_terms, reconstruction_error

SMALL = Recipe("small", side=8, widths=(8, 16), norm=False, latent=6)
SSE, TANH = SMALL.but(reconstruction="sse"), SMALL.but(reconstruction="sse", link="tanh")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def random_bytes(n, side=8, low=0, high=256, seed=0):
    return torch.randint(low, high, (n, 3, side, side), generator=generator(seed), dtype=torch.uint8)


def gaussians(n=5, d=6):
    """Means and log variances of n posteriors, as unlike N(0, 1) as training makes them."""
    return torch.randn(n, d, generator=generator()), 2 * torch.randn(n, d, generator=generator(1)) - 1


def batch(recipe=SMALL, n=5, seed=0):
    x = random_bytes(n, recipe.side, seed=seed) / 255
    return x, torch.randn(n, recipe.latent, generator=generator(seed + 1))


def logits_and_pixels(n=5):
    return torch.randn(n, 3, 8, 8, generator=generator(2)), random_bytes(n) / 255


# ---------------------------------------------------------------- KL


def test_kl_matches_torch_distributions():
    mu, logvar = gaussians()
    known = kl_divergence(Normal(mu, (logvar / 2).exp()), Normal(0.0, 1.0))
    torch.testing.assert_close(helpers.kl_divergence(mu, logvar), known)


def test_kl_matches_monte_carlo():
    mu, logvar = gaussians()
    sampled, error = measures.kl_monte_carlo(mu, logvar, 20_000, generator())
    assert abs(helpers.kl_divergence(mu, logvar).sum(1).mean().item() - sampled) < 4 * error < 0.5


def test_kl_of_the_prior_is_zero_and_of_nothing_else():
    assert helpers.kl_divergence(torch.zeros(3), torch.zeros(3)).tolist() == [0, 0, 0]
    assert (helpers.kl_divergence(torch.tensor([0.1, 0.0, 0.0]), torch.tensor([0.0, 0.1, -0.1])) > 0).all()


# ---------------------------------------------------------------- reconstruction


def test_bce_of_the_image_itself_is_the_entropy_floor():
    images = random_bytes(7, low=1, high=255)
    x = images.double() / 255
    assert reconstruction_error(SMALL, x.logit(), x).mean().item() == pytest.approx(measures.entropy_floor(images))


def test_bce_matches_torch_distributions():
    logits, x = logits_and_pixels()
    known = -Independent(Bernoulli(logits=logits, validate_args=False), 3).log_prob(x)
    torch.testing.assert_close(reconstruction_error(SMALL, logits, x), known)


def test_sse_is_the_squared_distance_in_the_decoders_range():
    logits, x = logits_and_pixels()
    by_hand = {"sigmoid": x - torch.sigmoid(logits), "identity": x - logits, "tanh": 2 * x - 1 - torch.tanh(logits)}
    for link, difference in by_hand.items():
        known = torch.linalg.vector_norm(difference.flatten(1), dim=1) ** 2
        torch.testing.assert_close(reconstruction_error(SSE.but(link=link), logits, x), known)


def test_four_times_sse_on_unit_pixels_is_sse_on_pixels_from_minus_one_to_one():
    logits, x = logits_and_pixels()                 # tanh(l) = 2 sigmoid(2 l) - 1: one picture from both links
    torch.testing.assert_close(helpers.to_pixels(TANH, logits), helpers.to_pixels(SSE, 2 * logits))
    torch.testing.assert_close(reconstruction_error(TANH, logits, x), 4 * reconstruction_error(SSE, 2 * logits, x))


def test_tanh_with_beta_4_is_four_times_sigmoid_with_beta_1():
    """One model in both conventions: inputs and logits carried over exactly, so the losses are proportional."""
    tanh, sigmoid = build(TANH.but(network="fc", widths=(16,), beta=4)), build(SSE.but(network="fc", widths=(16,)))
    weights = tanh.state_dict()
    first, last = "encoder.1", "decoder.2"
    weights[f"{first}.bias"] = weights[f"{first}.bias"] - weights[f"{first}.weight"].sum(1)     # W (2x - 1) + b
    weights[f"{first}.weight"] = 2 * weights[f"{first}.weight"]
    weights[f"{last}.weight"], weights[f"{last}.bias"] = 2 * weights[f"{last}.weight"], 2 * weights[f"{last}.bias"]
    sigmoid.load_state_dict(weights)
    x, eps = batch()
    theirs, ours = (elbo_terms(m, x, eps).loss(m.recipe.beta) for m in (tanh, sigmoid))
    torch.testing.assert_close(theirs, 4 * ours)
    assert tanh.recipe.sigma2 == sigmoid.recipe.sigma2


@pytest.mark.parametrize("link", ["sigmoid", "tanh", "identity"])
@pytest.mark.parametrize("sigma", [0.05, 1.0, 3.0])
def test_gaussian_matches_torch_distributions(link, sigma):
    recipe = SMALL.but(reconstruction="gaussian", sigma=sigma, link=link)
    logits, x = logits_and_pixels()
    mean = torch.tanh(logits) if link == "tanh" else helpers.to_pixels(recipe, logits)
    target = 2 * x - 1 if link == "tanh" else x
    known = -Normal(mean, sigma).log_prob(target).sum((1, 2, 3))
    torch.testing.assert_close(reconstruction_error(recipe, logits, x), known)


def test_learned_sigma_is_best_at_the_root_mean_squared_error():
    recipe = SMALL.but(reconstruction="gaussian", link="identity")
    logits, x = logits_and_pixels()
    rmse = (logits - x).square().mean().sqrt()
    log_sigma = rmse.log().requires_grad_()
    best = reconstruction_error(recipe, logits, x, log_sigma).mean()
    best.backward()
    assert log_sigma.grad.abs() < 1e-3
    assert best.item() == pytest.approx(192 * (rmse.log() + 0.5 * math.log(2 * math.pi * math.e)).item())
    for other in (0.9, 1.1):
        assert reconstruction_error(recipe, logits, x, log_sigma + math.log(other)).mean() > best


def test_sigma_is_a_parameter_where_it_is_learned_and_nowhere_else():
    learned = build(SMALL.but(reconstruction="gaussian"))
    x, eps = batch()
    elbo_terms(learned, x, eps).reconstruction.mean().backward()
    assert learned.log_sigma.grad.abs() > 0
    for recipe in (SMALL, SSE, SMALL.but(reconstruction="gaussian", sigma=0.1)):
        assert not hasattr(build(recipe), "log_sigma")


@pytest.mark.parametrize("log_sigma", [-1.0, 0.5])
def test_learned_sigma_costs_what_the_same_given_sigma_costs(log_sigma):
    gaussian = SMALL.but(reconstruction="gaussian")
    model, fixed = build(gaussian), build(gaussian.but(sigma=math.exp(log_sigma)))
    model.log_sigma.data.fill_(log_sigma)
    x, eps = batch()
    torch.testing.assert_close(elbo_terms(model, x, eps).reconstruction, elbo_terms(fixed, x, eps).reconstruction)


# ---------------------------------------------------------------- the sum of both


@pytest.mark.parametrize("recipe", [SMALL, SSE, TANH, SMALL.but(reconstruction="gaussian", sigma=0.3)],
                         ids=["bce", "sse", "tanh", "gaussian"])
def test_terms_are_those_of_each_image_alone(recipe):
    model = build(recipe)
    x, eps = batch(n=4)
    together = elbo_terms(model, x, eps)
    assert together.reconstruction.shape == (4,) and together.kl.shape == (4, recipe.latent)
    for i in range(4):
        alone = elbo_terms(model, x[i: i + 1], eps[i: i + 1])
        torch.testing.assert_close(alone.loss(2.0)[0], together.loss(2.0)[i], rtol=1e-5, atol=1e-4)


def test_elbo_of_one_image_by_hand():
    model = build(SMALL).double()
    x, eps = (t.double() for t in batch(n=1))
    mu, logvar = model.encode(x)
    z = mu + logvar.exp().sqrt() * eps
    log_likelihood = Bernoulli(logits=model.decode(z), validate_args=False).log_prob(x).sum()
    kl = kl_divergence(Normal(mu, logvar.exp().sqrt()), Normal(0.0, 1.0)).sum()
    assert elbo_terms(model, x, eps).loss(3.0).item() == pytest.approx((3 * kl - log_likelihood).item(), rel=1e-5)


def test_gap_between_bound_and_likelihood_is_the_kl_to_the_true_posterior():
    """Of a linear Gaussian model both are known: p(x) = N(b, W W^T + sigma^2 I), and p(z|x) is normal too."""
    recipe = SMALL.but(network="fc", widths=(), side=2, latent=3, link="identity", reconstruction="gaussian", sigma=0.5)
    model = build(recipe).requires_grad_(False)
    x = batch(recipe, 5)[0]
    W, b = model.decoder[0].weight, model.decoder[0].bias
    likelihood = MultivariateNormal(b, W @ W.T + 0.25 * torch.eye(12)).log_prob(x.flatten(1))
    precision = torch.eye(3) + W.T @ W / 0.25
    mean = torch.linalg.solve(precision, W.T @ (x.flatten(1) - b).T / 0.25).T
    mu, logvar = model.encode(x)
    gap = kl_divergence(MultivariateNormal(mu, torch.diag_embed(logvar.exp())),
                        MultivariateNormal(mean, precision_matrix=precision))
    eps = torch.randn(3000, 5, 3, generator=generator())
    bounds = torch.stack([elbo_terms(model, x, e).loss(1.0) for e in eps])
    error = bounds.std(0) / math.sqrt(len(eps))
    assert ((bounds.mean(0) + likelihood - gap).abs() < 4 * error).all() and (error < 0.05 * gap).all()


# ---------------------------------------------------------------- every knob


@pytest.fixture(scope="module")
def terms():
    return elbo_terms(build(SMALL), *batch())


@pytest.mark.parametrize("beta", [0.0, 0.5, 2.0, 10.0])
def test_beta_adds_exactly_so_many_kls(terms, beta):
    torch.testing.assert_close(terms.loss(beta) - terms.loss(0.0), beta * terms.kl.sum(1))


def test_noise_off_gives_a_plain_autoencoder():
    model = build(SMALL.but(noise=False))
    x, eps = batch()
    terms = elbo_terms(model, x, eps)
    assert torch.equal(terms.loss(100.0), terms.reconstruction) and terms.kl.shape == (5, 6) and not terms.kl.any()
    known = reconstruction_error(SMALL, model.decode(model.encode(x)[0]), x)
    torch.testing.assert_close(terms.reconstruction, known)
    assert torch.equal(terms.reconstruction, elbo_terms(model, x, eps + 1).reconstruction)


def test_noise_moves_z_by_its_standard_deviations():
    model = build(SMALL)
    mu, logvar = gaussians()
    eps = torch.randn(5, 6, generator=generator(7))
    moved = (model.reparameterize(mu, logvar, eps) - mu) / eps
    torch.testing.assert_close(moved, Normal(0, logvar.exp().sqrt()).stddev)


def test_gradient_reaches_mean_and_variance_through_the_sample():
    """d E[z^2] = d (mu^2 + exp(logvar)), estimated through samples."""
    model, mu, logvar = build(SMALL), torch.tensor([0.7], requires_grad=True), torch.tensor([-0.4], requires_grad=True)
    eps = torch.randn(200_000, 1, generator=generator())
    model.reparameterize(mu, logvar, eps).square().mean().backward()
    assert mu.grad.item() == pytest.approx(1.4, rel=0.02)
    assert logvar.grad.item() == pytest.approx(math.exp(-0.4), rel=0.02)


@pytest.mark.parametrize("given", [0.1, 0.2])
def test_sigma_weighs_the_squared_error_by_half_its_inverse_square(given):
    logits, x = logits_and_pixels()
    sse = reconstruction_error(SSE, logits, x)
    gaussian = reconstruction_error(SMALL.but(reconstruction="gaussian", sigma=given), logits, x)
    constant = 192 * (math.log(given) + 0.5 * math.log(2 * math.pi))
    torch.testing.assert_close(gaussian - constant, sse / (2 * given ** 2), rtol=1e-5, atol=1e-3)


def test_doubling_the_latent_doubles_the_width_of_the_kl():
    x, eps = batch(SMALL.but(latent=12))
    kl = elbo_terms(build(SMALL.but(latent=12)), x, eps).kl
    assert kl.shape == (5, 12) and (kl > 0).all()


@pytest.mark.parametrize("changes", [dict(latent=12), dict(widths=(8, 32)), dict(norm=True), dict(network="fc"),
                                     dict(reconstruction="sse"), dict(link="tanh", reconstruction="sse"),
                                     dict(link="identity", reconstruction="sse"), dict(reconstruction="gaussian"),
                                     dict(noise=False)])
def test_no_knob_of_the_model_is_without_effect(terms, changes):
    changed = SMALL.but(**changes)
    other = elbo_terms(build(changed), *batch(changed))
    assert not torch.allclose(other.reconstruction, terms.reconstruction, rtol=1e-6)


def test_loss_is_in_single_precision_under_bf16():
    model, (x, eps) = build(SMALL), batch(n=32)
    single = elbo_terms(model, x, eps)
    with helpers.autocast(torch.device("cpu"), "bf16"):
        assert model.encode(x)[0].dtype == torch.bfloat16
        half = elbo_terms(model, x, eps)
    assert half.reconstruction.dtype == half.kl.dtype == torch.float32
    torch.testing.assert_close(half.loss(1.0), single.loss(1.0), rtol=2e-3, atol=0)


# ---------------------------------------------------------------- the mean over images, whatever the batches


def test_evaluation_covers_every_image_once_whatever_the_batch():
    model, images = build(SMALL.but(noise=False, norm=True)).train(), random_bytes(23)
    known = helpers.evaluate(model, images, batch=23).reconstruction
    assert model.training
    for size in (1, 7, 500):
        torch.testing.assert_close(helpers.evaluate(model, images, batch=size).reconstruction, known)


def test_summary_of_ragged_batches_is_the_mean_over_images():
    recipe, images = SMALL.but(beta=3), random_bytes(23)
    model = build(recipe)
    evaluated = helpers.evaluate(model, images, batch=10)
    noise = helpers.generator("cpu", 0, "evaluation")
    losses = []
    for start, end in ((0, 10), (10, 20), (20, 23)):
        x, eps = images[start:end] / 255, torch.randn(end - start, 6, generator=noise)
        losses += elbo_terms(model, x, eps).loss(3.0).tolist()
    found = helpers.summary(recipe, evaluated, "test_")
    assert found["test_loss"] == pytest.approx(sum(losses) / 23, rel=1e-6)
    assert found["test_loss"] == pytest.approx(found["test_reconstruction"] + 3 * found["test_kl"])
    uneven = [sum(part) / len(part) for part in (losses[:10], losses[10:20], losses[20:])]
    assert abs(sum(uneven) / 3 - sum(losses) / 23) > 1e-3              # or this test would show nothing


def test_evaluation_uses_the_running_statistics_of_batchnorm():
    model, images = build(SMALL.but(norm=True, noise=False)), random_bytes(20)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    alone = torch.cat([helpers.evaluate(model, images[i: i + 1]).reconstruction for i in range(20)])
    torch.testing.assert_close(alone, helpers.evaluate(model, images).reconstruction)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
