"""The model and its loss, each term against another computation, every knob by its effect."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from tiny import generator, grey, weights_of
from torch import nn
from torch.distributions import Bernoulli, MultivariateNormal, Normal, kl_divergence

import vae_helpers as helpers
from vae_helpers import Recipe, build, elbo_terms, reconstruction_error, to_pixels, to_range

SMALL = Recipe("small", side=8, widths=(8, 16), norm=False, latent=6)
SSE, GAUSSIAN = SMALL.but(reconstruction="sse"), SMALL.but(reconstruction="gaussian")
LOGITS, PIXELS = torch.randn(5, 3, 8, 8, generator=generator(2)), grey(5, 8) / 255


def batch(recipe=SMALL, n=5):
    """Pixels and noise for it."""
    return grey(n, recipe.side) / 255, torch.randn(n, recipe.latent, generator=generator(1))


# ---- KL and reconstruction


@pytest.mark.parametrize("link", ["sigmoid", "tanh", "identity"])
@pytest.mark.parametrize("sigma", [0.05, 3.0])
def test_sse_and_gaussian_are_those_of_numpy_and_torch_in_the_decoders_range(link, sigma):
    x_hat = {"sigmoid": torch.sigmoid, "tanh": torch.tanh, "identity": lambda x: x}[link](LOGITS)
    target = 2 * PIXELS - 1 if link == "tanh" else PIXELS
    sse = np.linalg.norm((target - x_hat).flatten(1), axis=1) ** 2
    found = reconstruction_error(SSE.but(link=link), LOGITS, PIXELS)
    np.testing.assert_allclose(found, sse, rtol=1e-5)
    gaussian = -Normal(x_hat, sigma).log_prob(target).sum((1, 2, 3))
    found = reconstruction_error(GAUSSIAN.but(sigma=sigma, link=link), LOGITS, PIXELS)
    torch.testing.assert_close(found, gaussian)


def test_sigma_is_a_parameter_where_it_is_learned_and_costs_what_a_given_one_costs():
    model, fixed = build(GAUSSIAN), build(GAUSSIAN.but(sigma=math.exp(0.5)))
    assert model.log_sigma.item() == 0 and not hasattr(fixed, "log_sigma")
    model.log_sigma.data.fill_(0.5)
    found, known = (elbo_terms(each, *batch()).reconstruction for each in (model, fixed))
    torch.testing.assert_close(found, known)
    found.mean().backward()
    assert model.log_sigma.grad.abs() > 0


# ---- the sum of both


def test_terms_of_each_image_are_those_by_hand():
    model = build(SMALL).double()
    x, eps = (t.double() for t in batch(n=3))
    mu, logvar = model.encode(x)
    sigma = logvar.exp().sqrt()
    logits = model.decode(mu + sigma * eps)
    log_likelihood = Bernoulli(logits=logits, validate_args=False).log_prob(x).sum((1, 2, 3))
    kl = kl_divergence(Normal(mu, sigma), Normal(0.0, 1.0))
    terms = elbo_terms(model, x, eps)
    torch.testing.assert_close(terms.kl.double(), kl)
    torch.testing.assert_close(terms.loss(3.0), 3 * kl.sum(1) - log_likelihood)


def test_gap_between_bound_and_likelihood_is_the_kl_to_the_true_posterior():
    """Of a linear Gaussian model both are known: p(x) = N(b, W W^T + sigma^2 I), p(z|x) normal."""
    recipe = GAUSSIAN.but(network="fc", widths=(), side=2, latent=3, link="identity", sigma=0.5)
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
    assert ((bounds.mean(0) + likelihood - gap).abs() < 4 * error).all()
    assert (error < 0.05 * gap).all()


def test_noise_off_gives_a_plain_autoencoder():
    model, (x, eps) = build(SMALL.but(noise=False)), batch()
    terms = elbo_terms(model, x, eps)
    assert terms.kl.shape == (5, 6) and not terms.kl.any()
    known = reconstruction_error(SMALL, model.decode(model.encode(x)[0]), x)
    torch.testing.assert_close(terms.reconstruction, known)
    assert torch.equal(terms.reconstruction, elbo_terms(model, x, eps + 1).reconstruction)


def test_gradient_reaches_mean_and_variance_through_the_sample():
    """d E[z^2] = d (mu^2 + exp(logvar)), estimated through samples."""
    mu, logvar = (torch.tensor([value], requires_grad=True) for value in (0.7, -0.4))
    eps = torch.randn(200_000, 1, generator=generator())
    build(SMALL).reparameterize(mu, logvar, eps).square().mean().backward()
    assert mu.grad.item() == pytest.approx(1.4, rel=0.02)
    assert logvar.grad.item() == pytest.approx(math.exp(-0.4), rel=0.02)


# ---- one step


def step_of(step=helpers.training_step):
    """How far one step of gradient descent moves the weights, and the terms that it gives."""
    model, (x, eps) = build(SMALL.but(beta=2.0)), batch()
    before, optimizer = weights_of(model), torch.optim.SGD(model.parameters(), lr=1e-3)
    terms = step(model, optimizer, x, eps)
    return weights_of(model) - before, terms


def test_a_step_goes_down_the_gradient_and_gives_the_terms_before_it():
    model, (moved, terms) = build(SMALL), step_of()
    before = elbo_terms(model, *batch())
    torch.testing.assert_close((terms.reconstruction, terms.kl), (before.reconstruction, before.kl))
    known = torch.autograd.grad(before.loss(2.0).mean(), list(model.parameters()))
    gradient = torch.cat([g.flatten() for g in known])
    torch.testing.assert_close(moved, -1e-3 * gradient, rtol=1e-3, atol=1e-5)


# ---- pixels


def test_bytes_become_floats_and_floats_stay():
    images = grey(3)
    x = helpers.as_pixels(images)
    assert x.dtype == torch.float32 and torch.equal(x, images / 255)
    assert helpers.as_pixels(x) is x


@pytest.mark.parametrize(("link", "inverse"), [
    ("sigmoid", torch.logit), ("tanh", torch.atanh), ("identity", lambda x: x)])
def test_the_link_reaches_the_range_of_the_data_and_sigmoid_and_tanh_no_more(link, inverse):
    recipe, x = SSE.but(link=link), torch.linspace(0.01, 0.99, 99)
    torch.testing.assert_close(to_pixels(recipe, inverse(to_range(recipe, x))), x)
    beyond = to_pixels(recipe, torch.tensor([-1e4, 1e4])).tolist()
    assert beyond == ([-1e4, 1e4] if link == "identity" else [0, 1])


# ---- models


NORM, BESIDE = SMALL.but(norm=True), SMALL.but(start="linear", activation="silu")
DENSE = SSE.but(norm=True, network="fc", link="tanh")
PLAIN = {                       # recipe, encoder's body, decoder: all layers written out
    "conv": (NORM, [
        nn.Conv2d(3, 8, 4, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 4, 2, 1),
        nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten()], [
        nn.Linear(6, 64), nn.Unflatten(1, (16, 2, 2)), nn.ConvTranspose2d(16, 8, 4, 2, 1),
        nn.BatchNorm2d(8), nn.ReLU(), nn.ConvTranspose2d(8, 3, 4, 2, 1)]),
    "linear path": (BESIDE, [
        nn.Conv2d(3, 8, 4, 2, 1), nn.SiLU(), nn.Conv2d(8, 16, 4, 2, 1), nn.SiLU(), nn.Flatten()], [
        nn.Linear(6, 64), nn.Unflatten(1, (16, 2, 2)), nn.ConvTranspose2d(16, 8, 4, 2, 1),
        nn.SiLU(), nn.ConvTranspose2d(8, 3, 4, 2, 1)]),
    "fc, tanh": (DENSE, [
        nn.Flatten(), nn.Linear(192, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 16),
        nn.LayerNorm(16), nn.ReLU()], [
        nn.Linear(6, 16), nn.LayerNorm(16), nn.ReLU(), nn.Linear(16, 8), nn.LayerNorm(8),
        nn.ReLU(), nn.Linear(8, 192), nn.Unflatten(1, (3, 8, 8))])}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", PLAIN)
def test_model_equals_plain_layers_with_its_weights(name, training):
    recipe, *parts = PLAIN[name]
    model, (x, eps) = build(recipe).train(training).requires_grad_(False), batch(recipe)
    encoder, decoder = (nn.Sequential(*part).train(training) for part in parts)
    encoder.load_state_dict(model.encoder.state_dict())
    decoder.load_state_dict(model.decoder.state_dict())
    h = encoder(2 * x - 1 if recipe.link == "tanh" else x)
    mu, logvar = model.to_mu(h), model.to_logvar(h)
    if recipe.start == "linear":
        mu = mu + x.flatten(1) @ model.linear_in.weight.T
    z = mu + (logvar / 2).exp() * eps
    logits = decoder(z)
    if recipe.start == "linear":
        logits += (z @ model.linear_out.weight.T + model.linear_out.bias).view(5, 3, 8, 8)
    torch.testing.assert_close(model(x, eps), (logits, mu, logvar))


def test_residual_blocks_stand_at_maps_up_to_8_and_add_two_convolutions_through_half():
    model = build(Recipe("r", widths=(2, 4, 8), norm=False, residual=2, activation="silu"))
    places = [[i for i, layer in enumerate(part) if isinstance(layer, helpers.Residual)]
              for part in (model.encoder, model.decoder)]
    assert places == [[4, 5, 8, 9], [2, 3, 6, 7]]       # none at maps of 16
    block, x, silu = model.encoder[4], torch.randn(2, 4, 8, 8), nn.functional.silu
    one, two = (layer.weight for layer in block.path if isinstance(layer, nn.Conv2d))
    assert one.shape == (2, 4, 3, 3) and two.shape == (4, 2, 3, 3)
    inner = nn.functional.conv2d(silu(x), one, padding=1)
    torch.testing.assert_close(block(x), x + nn.functional.conv2d(silu(inner), two, padding=1))


# ---- a recipe


def test_but_changes_what_is_named_and_nothing_else():
    before = Recipe("conv")
    after = before.but(beta=4, latent=32)
    assert dataclasses.asdict(after) == {**dataclasses.asdict(before), "beta": 4, "latent": 32}
    assert repr(after) == repr(before.but(beta=4.0, latent=32))     # one run, so one hash
    with pytest.raises(ValueError, match="betta"):
        before.but(betta=4)


LINEAR = dict(start="linear", reconstruction="sse", beta=50.0)
WITHIN = dict(start="weights", network="fc", norm=False)
REFUSED = [(field, value, {}) for field, values in {
    "data": ["mnist"], "link": ["softmax", "tanh", "identity"], "side": [0, 40],
    "latent": [0, 12.5, "128"], "lr": [0.0, math.nan], "beta": [-1.0, math.inf, None],
    "trial": [1], "sigma": [0.1], "rise": [0.0, 1.0, math.nan],
    "widths": [(64, 0), (64, 1.5), ()]}.items() for value in values]
REFUSED += [("sigma", -1.0, dict(reconstruction="gaussian")), ("start_sigma2", 50.0, LINEAR),
            ("start", "linear", dict(reconstruction="gaussian")),
            ("start", "linear", dict(reconstruction="sse", link="tanh", start_sigma2=1 / 8)),
            ("start", "weights", WITHIN | dict(norm=True)),
            ("start", "weights", WITHIN | dict(network="conv"))]


@pytest.mark.parametrize(("field", "value", "others"), REFUSED)
def test_nonsense_is_refused_with_recipe_and_field(field, value, others):
    with pytest.raises(ValueError, match=f"conv: {field} = "):
        Recipe("conv").but(**others | {field: value})


@pytest.mark.parametrize(("changes", "weight", "sigma2"), [
    (dict(reconstruction="sse"), 1, 1 / 2), (dict(reconstruction="sse", beta=4), 1, 2),
    (dict(reconstruction="sse", link="tanh", beta=10), 4, 1.25),
    (dict(reconstruction="gaussian", sigma=0.1, beta=3), 50, 0.03),
    (dict(reconstruction="gaussian", sigma=0.2, link="tanh"), 50, 0.01),
    (dict(beta=2), None, 1 / 2), (dict(reconstruction="gaussian"), None, None)], ids=str)
def test_weight_of_the_squared_error_and_implied_variance_in_unit_pixels(changes, weight, sigma2):
    recipe = Recipe("conv").but(**changes)
    assert recipe.sse_weight == (weight and pytest.approx(weight))
    assert recipe.sigma2 == (sigma2 and pytest.approx(sigma2))


# ---- pictures


@pytest.mark.parametrize(("zoom", "gap"), [(1, 0), (3, 2)])
def test_tiles_hold_every_pixel_at_an_exact_multiple(zoom, gap):
    images, step = grey(5, 4), 4 + gap
    small = np.full((2 * step - gap, 3 * step - gap, 3), 255, np.uint8)
    for i, image in enumerate(images):
        y, x = step * (i // 3), step * (i % 3)
        small[y: y + 4, x: x + 4] = image.permute(1, 2, 0)
    sheet = helpers.tile(images, 3, zoom, gap)
    np.testing.assert_array_equal(sheet, small.repeat(zoom, 0).repeat(zoom, 1))
    np.testing.assert_array_equal(helpers.tile(images / 255, 3, zoom, gap), sheet)
    beyond = torch.tensor([-0.5, 1.5]).view(2, 1, 1, 1).expand(2, 3, 1, 1)
    assert helpers.tile(beyond, columns=2, zoom=1, gap=0)[0, :, 0].tolist() == [0, 255]
