"""The model and its loss, each term against another computation, every knob by its effect."""

import dataclasses
import math
import warnings

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli, Independent, MultivariateNormal, Normal, kl_divergence

import vae_helpers as helpers
from lab import measures
from lab.chapters import theory_plots
from lab.recipes import RECIPES
from vae_helpers import (
    Recipe,
    as_pixels,
    build,
    count_parameters,
    elbo_terms,
    reconstruction_error,
    to_pixels,
    to_range,
)

SMALL = Recipe("small", side=8, widths=(8, 16), norm=False, latent=6)
SSE, TANH = SMALL.but(reconstruction="sse"), SMALL.but(reconstruction="sse", link="tanh")
GAUSSIAN = SMALL.but(reconstruction="gaussian")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def random_bytes(n, side=8, low=0, high=256, seed=0):
    return torch.randint(low, high, (n, 3, side, side), generator=generator(seed),
                         dtype=torch.uint8)


def gaussians(n=5, d=6):
    """Means and log variances of n posteriors, as unlike N(0, 1) as training makes them."""
    return (torch.randn(n, d, generator=generator()),
            2 * torch.randn(n, d, generator=generator(1)) - 1)


def batch(recipe=SMALL, n=5, seed=0):
    x = random_bytes(n, recipe.side, seed=seed) / 255
    return x, torch.randn(n, recipe.latent, generator=generator(seed + 1))


def logits_and_pixels(n=5):
    return torch.randn(n, 3, 8, 8, generator=generator(2)), random_bytes(n) / 255


# ---- KL


def test_kl_matches_torch_distributions():
    mu, logvar = gaussians()
    known = kl_divergence(Normal(mu, (logvar / 2).exp()), Normal(0.0, 1.0))
    torch.testing.assert_close(helpers.kl_divergence(mu, logvar), known)


def test_kl_matches_monte_carlo():
    mu, logvar = gaussians()
    sampled, error = measures.kl_monte_carlo(mu, logvar, 20_000, generator())
    exact = helpers.kl_divergence(mu, logvar).sum(1).mean().item()
    assert abs(exact - sampled) < 4 * error < 0.5


def test_kl_of_the_prior_is_zero_and_of_nothing_else():
    assert helpers.kl_divergence(torch.zeros(3), torch.zeros(3)).tolist() == [0, 0, 0]
    mu, logvar = torch.tensor([0.1, 0.0, 0.0]), torch.tensor([0.0, 0.1, -0.1])
    assert (helpers.kl_divergence(mu, logvar) > 0).all()


# ---- reconstruction


def test_bce_of_the_image_itself_is_the_entropy_floor():
    images = random_bytes(7, low=1, high=255)
    x = images.double() / 255
    floor = measures.entropy_floor(images)
    assert reconstruction_error(SMALL, x.logit(), x).mean().item() == pytest.approx(floor)


def test_bce_matches_torch_distributions():
    logits, x = logits_and_pixels()
    known = Independent(Bernoulli(logits=logits, validate_args=False), 3).log_prob(x)
    torch.testing.assert_close(reconstruction_error(SMALL, logits, x), -known)


@pytest.mark.parametrize(("link", "difference"), [
    ("sigmoid", lambda logits, x: x - torch.sigmoid(logits)),
    ("identity", lambda logits, x: x - logits),
    ("tanh", lambda logits, x: 2 * x - 1 - torch.tanh(logits))])
def test_sse_is_the_squared_distance_in_the_decoders_range(link, difference):
    logits, x = logits_and_pixels()
    known = torch.linalg.vector_norm(difference(logits, x).flatten(1), dim=1) ** 2
    torch.testing.assert_close(reconstruction_error(SSE.but(link=link), logits, x), known)


def test_four_times_sse_on_unit_pixels_is_sse_on_pixels_from_minus_one_to_one():
    """tanh(l) = 2 sigmoid(2 l) - 1: one picture from both links."""
    logits, x = logits_and_pixels()
    torch.testing.assert_close(to_pixels(TANH, logits), to_pixels(SSE, 2 * logits))
    wide, narrow = reconstruction_error(TANH, logits, x), reconstruction_error(SSE, 2 * logits, x)
    torch.testing.assert_close(wide, 4 * narrow)


def test_tanh_with_beta_4_is_four_times_sigmoid_with_beta_1():
    """One model in both conventions: inputs and logits carried over, so losses are proportional."""
    dense = dict(network="fc", widths=(16,))
    tanh, sigmoid = build(TANH.but(**dense, beta=4)), build(SSE.but(**dense))
    weights = tanh.state_dict()
    first, last = weights["encoder.1.weight"], "decoder.2"
    weights["encoder.1.bias"] = weights["encoder.1.bias"] - first.sum(1)    # W (2x - 1) + b
    weights["encoder.1.weight"] = 2 * first
    for name in (f"{last}.weight", f"{last}.bias"):
        weights[name] = 2 * weights[name]
    sigmoid.load_state_dict(weights)
    x, eps = batch()
    theirs, ours = (elbo_terms(m, x, eps).loss(m.recipe.beta) for m in (tanh, sigmoid))
    torch.testing.assert_close(theirs, 4 * ours)
    assert tanh.recipe.sigma2 == sigmoid.recipe.sigma2


@pytest.mark.parametrize("link", ["sigmoid", "tanh", "identity"])
@pytest.mark.parametrize("sigma", [0.05, 1.0, 3.0])
def test_gaussian_matches_torch_distributions(link, sigma):
    recipe = GAUSSIAN.but(sigma=sigma, link=link)
    logits, x = logits_and_pixels()
    mean = torch.tanh(logits) if link == "tanh" else to_pixels(recipe, logits)
    target = 2 * x - 1 if link == "tanh" else x
    known = -Normal(mean, sigma).log_prob(target).sum((1, 2, 3))
    torch.testing.assert_close(reconstruction_error(recipe, logits, x), known)


def test_learned_sigma_is_best_at_the_root_mean_squared_error():
    recipe = GAUSSIAN.but(link="identity")
    logits, x = logits_and_pixels()
    rmse = (logits - x).square().mean().sqrt()
    log_sigma = rmse.log().requires_grad_()
    best = reconstruction_error(recipe, logits, x, log_sigma).mean()
    best.backward()
    assert log_sigma.grad.abs() < 1e-3
    known = 192 * (rmse.log() + 0.5 * math.log(2 * math.pi * math.e))
    assert best.item() == pytest.approx(known.item())
    for other in (0.9, 1.1):
        assert reconstruction_error(recipe, logits, x, log_sigma + math.log(other)).mean() > best


def test_sigma_is_a_parameter_where_it_is_learned_and_nowhere_else():
    learned = build(GAUSSIAN)
    elbo_terms(learned, *batch()).reconstruction.mean().backward()
    assert learned.log_sigma.grad.abs() > 0
    for recipe in (SMALL, SSE, GAUSSIAN.but(sigma=0.1)):
        assert not hasattr(build(recipe), "log_sigma")


@pytest.mark.parametrize("log_sigma", [-1.0, 0.5])
def test_learned_sigma_costs_what_the_same_given_sigma_costs(log_sigma):
    model, fixed = build(GAUSSIAN), build(GAUSSIAN.but(sigma=math.exp(log_sigma)))
    model.log_sigma.data.fill_(log_sigma)
    found, known = (elbo_terms(each, *batch()).reconstruction for each in (model, fixed))
    torch.testing.assert_close(found, known)


# ---- the sum of both


@pytest.mark.parametrize("recipe", [SMALL, SSE, TANH, GAUSSIAN.but(sigma=0.3)],
                         ids=["bce", "sse", "tanh", "gaussian"])
def test_terms_are_those_of_each_image_alone(recipe):
    model = build(recipe)
    x, eps = batch(n=4)
    together = elbo_terms(model, x, eps)
    assert together.reconstruction.shape == (4,) and together.kl.shape == (4, recipe.latent)
    alone = torch.cat([elbo_terms(model, x[i: i + 1], eps[i: i + 1]).loss(2.0) for i in range(4)])
    torch.testing.assert_close(alone, together.loss(2.0), rtol=1e-5, atol=1e-4)


def test_elbo_of_one_image_by_hand():
    model = build(SMALL).double()
    x, eps = (t.double() for t in batch(n=1))
    mu, logvar = model.encode(x)
    sigma = logvar.exp().sqrt()
    logits = model.decode(mu + sigma * eps)
    log_likelihood = Bernoulli(logits=logits, validate_args=False).log_prob(x).sum()
    kl = kl_divergence(Normal(mu, sigma), Normal(0.0, 1.0)).sum()
    known = (3 * kl - log_likelihood).item()
    assert elbo_terms(model, x, eps).loss(3.0).item() == pytest.approx(known, rel=1e-5)


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


def test_a_step_lowers_the_loss_and_gives_the_terms_before_it():
    model, (x, eps) = build(SMALL), batch()
    before = elbo_terms(model, x, eps)
    terms = helpers.training_step(model, torch.optim.SGD(model.parameters(), lr=1e-4), x, eps)
    torch.testing.assert_close(terms.reconstruction, before.reconstruction)
    torch.testing.assert_close(terms.kl, before.kl)
    after = elbo_terms(model, x, eps)
    assert after.loss(1.0).mean() < before.loss(1.0).mean()


# ---- every knob


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
    assert torch.equal(terms.loss(100.0), terms.reconstruction)
    assert terms.kl.shape == (5, 6) and not terms.kl.any()
    known = reconstruction_error(SMALL, model.decode(model.encode(x)[0]), x)
    torch.testing.assert_close(terms.reconstruction, known)
    assert torch.equal(terms.reconstruction, elbo_terms(model, x, eps + 1).reconstruction)


def test_noise_moves_z_by_its_standard_deviations():
    mu, logvar = gaussians()
    eps = torch.randn(5, 6, generator=generator(7))
    moved = (build(SMALL).reparameterize(mu, logvar, eps) - mu) / eps
    torch.testing.assert_close(moved, logvar.exp().sqrt())


def test_gradient_reaches_mean_and_variance_through_the_sample():
    """d E[z^2] = d (mu^2 + exp(logvar)), estimated through samples."""
    mu = torch.tensor([0.7], requires_grad=True)
    logvar = torch.tensor([-0.4], requires_grad=True)
    eps = torch.randn(200_000, 1, generator=generator())
    build(SMALL).reparameterize(mu, logvar, eps).square().mean().backward()
    assert mu.grad.item() == pytest.approx(1.4, rel=0.02)
    assert logvar.grad.item() == pytest.approx(math.exp(-0.4), rel=0.02)


@pytest.mark.parametrize("given", [0.1, 0.2])
def test_sigma_weighs_the_squared_error_by_half_its_inverse_square(given):
    logits, x = logits_and_pixels()
    sse = reconstruction_error(SSE, logits, x)
    gaussian = reconstruction_error(GAUSSIAN.but(sigma=given), logits, x)
    constant = 192 * (math.log(given) + 0.5 * math.log(2 * math.pi))
    known = sse / (2 * given ** 2)
    torch.testing.assert_close(gaussian - constant, known, rtol=1e-5, atol=1e-3)


def test_doubling_the_latent_doubles_the_width_of_the_kl():
    wide = SMALL.but(latent=12)
    kl = elbo_terms(build(wide), *batch(wide)).kl
    assert kl.shape == (5, 12) and (kl > 0).all()


@pytest.mark.parametrize("changes", [
    dict(latent=12), dict(widths=(8, 32)), dict(norm=True), dict(network="fc"),
    dict(activation="silu"), dict(residual=1), dict(start="linear"), dict(noise=False),
    dict(reconstruction="sse"), dict(link="tanh", reconstruction="sse"),
    dict(link="identity", reconstruction="sse"), dict(reconstruction="gaussian")], ids=str)
def test_no_knob_of_the_model_is_without_effect(terms, changes):
    changed = SMALL.but(**changes)
    other = elbo_terms(build(changed), *batch(changed))
    assert not torch.allclose(other.reconstruction, terms.reconstruction, rtol=1e-6)


# ---- pixels


def test_bytes_become_floats_and_floats_stay():
    images = random_bytes(3)
    x = as_pixels(images)
    assert x.dtype == torch.float32 and torch.equal(x, images / 255)
    assert as_pixels(x) is x
    last = as_pixels(images, "cpu", torch.channels_last)
    assert last.is_contiguous(memory_format=torch.channels_last) and torch.equal(last, x)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_decoder_reaches_the_range_of_the_data_and_no_more(recipe):
    x = torch.linspace(0.01, 0.99, 99)
    inverse = {"sigmoid": torch.logit, "tanh": torch.atanh}[recipe.link]
    torch.testing.assert_close(to_pixels(recipe, inverse(to_range(recipe, x))), x)
    assert to_pixels(recipe, torch.tensor([-1e4, 1e4])).tolist() == [0, 1]


# ---- models


def conv_in_plain_layers(recipe):
    """The encoder's body and the decoder of a convolutional recipe, written out."""
    def after(width):
        return [nn.BatchNorm2d(width), nn.ReLU()] if recipe.norm else [nn.ReLU()]

    down, up, widths = [], [], recipe.widths
    for a, b in zip((3, *widths), widths, strict=False):
        down += [nn.Conv2d(a, b, 4, 2, 1), *after(b)]
    for a, b in zip(widths[:0:-1], widths[-2::-1], strict=True):
        up += [nn.ConvTranspose2d(a, b, 4, 2, 1), *after(b)]
    smallest = widths[-1], recipe.side // 2 ** len(widths), recipe.side // 2 ** len(widths)
    first = [nn.Linear(recipe.latent, math.prod(smallest)), nn.Unflatten(1, smallest)]
    return (nn.Sequential(*down, nn.Flatten()),
            nn.Sequential(*first, *up, nn.ConvTranspose2d(widths[0], 3, 4, 2, 1)))


def fc_in_plain_layers(recipe):
    """The same of the fully connected recipe."""
    return (nn.Sequential(nn.Flatten(), nn.Linear(3072, 512), nn.ReLU(),
                          nn.Linear(512, 256), nn.ReLU()),
            nn.Sequential(nn.Linear(128, 256), nn.ReLU(), nn.Linear(256, 512), nn.ReLU(),
                          nn.Linear(512, 3072), nn.Unflatten(1, (3, 32, 32))))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", ["conv", "fc", "celeba64", "celeba128", "p1-conv"])
def test_model_equals_plain_layers_with_its_weights(name, training):
    recipe = RECIPES[name]
    model = build(recipe).train(training)
    plain = conv_in_plain_layers if recipe.network == "conv" else fc_in_plain_layers
    encoder, decoder = (part.train(training) for part in plain(recipe))
    encoder.load_state_dict(model.encoder.state_dict())
    decoder.load_state_dict(model.decoder.state_dict())
    x = torch.rand(3, 3, recipe.side, recipe.side, generator=generator())
    eps = torch.randn(3, recipe.latent, generator=generator(1))
    h = encoder(2 * x - 1 if recipe.link == "tanh" else x)
    mu, logvar = model.to_mu(h), model.to_logvar(h)
    known = decoder(mu + (logvar / 2).exp() * eps), mu, logvar
    torch.testing.assert_close(model(x, eps), known, rtol=1e-4, atol=1e-4)


def test_no_widths_make_a_linear_model():
    recipe = SSE.but(network="fc", widths=(), side=2, latent=3, link="identity")
    model = build(recipe)
    assert count_parameters(model) == 2 * (12 * 3 + 3) + 3 * 12 + 12
    x, y = torch.rand(2, 4, 3, 2, 2, generator=generator())
    for apply in (lambda x: model.encode(x)[0], lambda x: model.encode(x)[1],
                  lambda x: model.decode(x[:, :, 0, 0])):
        mixed = 0.3 * apply(x) + 0.7 * apply(y)
        torch.testing.assert_close(apply(0.3 * x + 0.7 * y), mixed)


def test_build_depends_on_the_seed_alone_and_draws_nothing_from_the_global_generator():
    recipe = RECIPES["p1-conv"]
    torch.manual_seed(5)
    first, drawn = build(recipe, seed=1).state_dict(), torch.rand(7)
    again, other = build(recipe, seed=1).state_dict(), build(recipe, seed=2).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["to_mu.weight"], other["to_mu.weight"])
    torch.manual_seed(5)
    count_parameters(build(recipe))
    assert torch.equal(torch.rand(7), drawn)


# ---- a recipe


def test_but_changes_what_is_named_and_nothing_else():
    before = RECIPES["conv"]
    after = before.but(beta=4, latent=32)
    assert dataclasses.asdict(after) == {**dataclasses.asdict(before), "beta": 4, "latent": 32}
    assert before.beta == 1 and RECIPES["conv"].latent == 128
    with pytest.raises(dataclasses.FrozenInstanceError):
        before.beta = 4
    with pytest.raises(ValueError, match="betta"):
        before.but(betta=4)


REFUSED = [
    ("data", "mnist"), ("network", "resnet"), ("link", "softmax"), ("reconstruction", "mse"),
    ("schedule", "cosine"), ("activation", "gelu"), ("start", "pca"), ("latent", 0),
    ("latent", 12.5), ("latent", "128"), ("batch", -1), ("batch", True), ("epochs", 0),
    ("side", 0), ("lr", 0.0), ("lr", -1e-3), ("lr", math.inf), ("lr", math.nan), ("beta", -1.0),
    ("beta", math.nan), ("beta", "4"), ("beta", None), ("clip", -0.1), ("patience", -1),
    ("patience", 2.5), ("min_delta", -0.5), ("norm", "no"), ("noise", 1), ("widths", (64, 0)),
    ("widths", (64, 1.5)), ("widths", 64), ("widths", ()), ("side", 40), ("link", "tanh"),
    ("link", "identity"), ("sigma", 0.1)]


@pytest.mark.parametrize(("field", "value"), REFUSED)
def test_nonsense_is_refused_with_recipe_and_field(field, value):
    with pytest.raises(ValueError, match=f"conv.*{field}"):
        RECIPES["conv"].but(**{field: value})


@pytest.mark.parametrize("sigma", [0.0, -1.0, math.nan, math.inf])
def test_sigma_must_be_a_standard_deviation(sigma):
    with pytest.raises(ValueError, match="sigma"):
        RECIPES["conv"].but(reconstruction="gaussian", sigma=sigma)


def test_whole_numbers_do_for_reals_and_make_the_same_recipe():
    assert repr(SMALL.but(beta=4, clip=1)) == repr(SMALL.but(beta=4.0, clip=1.0))


@pytest.mark.parametrize(("changes", "sigma2"), [
    (dict(reconstruction="sse"), 1 / 2), (dict(reconstruction="sse", beta=4), 2),
    (dict(reconstruction="sse", link="identity"), 1 / 2),
    (dict(reconstruction="sse", link="tanh"), 1 / 8),
    (dict(reconstruction="sse", link="tanh", beta=4), 1 / 2),
    (dict(reconstruction="sse", link="tanh", beta=10), 1.25),
    (dict(reconstruction="gaussian", sigma=0.1), 0.01),
    (dict(reconstruction="gaussian", sigma=0.1, beta=3), 0.03),
    (dict(reconstruction="gaussian", sigma=0.2, link="tanh"), 0.01),
    (dict(), 1 / 4), (dict(beta=2), 1 / 2), (dict(reconstruction="gaussian"), None)], ids=str)
def test_implied_variance_in_unit_pixels(changes, sigma2):
    assert RECIPES["conv"].but(**changes).sigma2 == (sigma2 and pytest.approx(sigma2))


# ---- tiles


@pytest.mark.parametrize("gap", [0, 1, 2])
@pytest.mark.parametrize("zoom", [1, 3])
def test_tiles_hold_every_pixel_at_an_exact_multiple(zoom, gap):
    images, step = random_bytes(5, 4), 4 + gap
    sheet = helpers.tile(images, columns=3, zoom=zoom, gap=gap)
    assert sheet.dtype == np.uint8
    assert sheet.shape == (zoom * (2 * step - gap), zoom * (3 * step - gap), 3)
    small = sheet[::zoom, ::zoom]
    np.testing.assert_array_equal(sheet, small.repeat(zoom, 0).repeat(zoom, 1))
    white = np.ones(small.shape[:2], bool)
    for i, image in enumerate(images):
        y, x = step * (i // 3), step * (i % 3)
        np.testing.assert_array_equal(small[y: y + 4, x: x + 4], image.permute(1, 2, 0))
        white[y: y + 4, x: x + 4] = False
    assert (small[white] == 255).all()


def test_tiles_of_floats_are_those_of_their_bytes():
    images = random_bytes(4, 4)
    floats, same = helpers.tile(images / 255, columns=2), helpers.tile(images, columns=2)
    np.testing.assert_array_equal(floats, same)
    beyond = torch.tensor([-0.5, 1.5]).view(2, 1, 1, 1).expand(2, 3, 1, 1)
    assert helpers.tile(beyond, columns=2, zoom=1, gap=0)[0, :, 0].tolist() == [0, 255]


def test_picture_shows_every_sheet_pixel_for_pixel():
    sheets = {"a": helpers.tile(random_bytes(4), 2), "b": helpers.tile(random_bytes(6, seed=1), 3)}
    figure = helpers.picture(sheets, "a title")
    figure.canvas.draw()
    drawn = np.asarray(figure.canvas.buffer_rgba())[..., :3]
    assert {text.get_text() for text in figure.texts} == {"a title", "a", "b"}
    for axes, sheet in zip(figure.axes, sheets.values(), strict=True):
        box, (h, w) = axes.get_window_extent(), sheet.shape[:2]
        top, left = round(drawn.shape[0] - box.y1), round(box.x0)
        np.testing.assert_array_equal(drawn[top: top + h, left: left + w], sheet)
    plt.close(figure)


# ---- what plots draw


@pytest.fixture(autouse=True)
def closed():
    """Every figure of a test is drawn once, without a warning, and closed."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for number in plt.get_fignums():
            plt.figure(number).canvas.draw()
    plt.close("all")


def lines(axes):
    """Label -> (x, y) of every line with a label of its own."""
    return {line.get_label(): tuple(map(list, line.get_data())) for line in axes.lines}


NAMES = ["conv", "fc", "improved", "celeba64", "p1-conv", "p3-fc", "celeba128", "never heard of"]
LEVELS = {"linear": 158.0, "mean image": 436.0}


@pytest.mark.parametrize("name", NAMES)
def test_any_model_has_a_style(name):
    assert {"color", "ls", "marker"} <= helpers.style_of(name).keys()
    assert helpers.style_of("p1-conv") == helpers.style_of("conv")


def test_curves_are_the_numbers_given():
    curves = {name: {"epoch": [1, 2, 3], "training": [9.0 + i, 5, 4], "test": [8.0 + i, 6, 5],
                     "kl": [1.0, 2 + i, 3]} for i, name in enumerate(NAMES)}
    left, right = helpers.plot_curves(curves, LEVELS).axes
    for name, curve in curves.items():
        for kind in ("training", "test"):
            assert lines(left)[f"{name}, {kind}"] == (curve["epoch"], curve[kind])
        assert lines(right)[name] == (curve["epoch"], curve["kl"])
    for label, level in LEVELS.items():
        assert lines(left)[label][1] == [level, level]


def test_curves_by_seconds_are_the_numbers_given():
    curves = {name: {"seconds": [1.0, 10, 100], "test": [9.0, 5, 4 + i]}
              for i, name in enumerate(NAMES)}
    axes = helpers.plot_by_seconds(curves, LEVELS).axes[0]
    assert axes.get_xscale() == "log"
    for name, curve in curves.items():
        assert lines(axes)[name] == (curve["seconds"], curve["test"])
    assert {label: lines(axes)[label][1][0] for label in LEVELS} == LEVELS


def test_bars_have_the_length_of_their_numbers():
    groups = {"p1-conv": {"train": 20.0, "test": 25.5}, "unknown": {"train": -1.0, "test": 1.6}}
    axes = helpers.plot_bars(groups, "a title", "nats").axes[0]
    values = [value for group in groups.values() for value in group.values()]
    assert [bar.get_width() for bar in axes.patches] == values
    assert [text.get_text().strip() for text in axes.texts] == [f"{v:.1f}" for v in values]
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == [f"{name}, {kind}" for name, group in groups.items() for kind in group]


def test_rate_distortion_shows_the_curve_and_every_point():
    rate, distortion = torch.tensor([1.0, 2, 3]), torch.tensor([30.0, 20, 15])
    points = {name: (10.0 + i, 20.0 - i) for i, name in enumerate(NAMES)}
    marked = {"BCE": (5.0, 12.0), "SSE": (3.0, 15.0)}
    axes = helpers.plot_rate_distortion(rate, distortion, points, marked).axes[0]
    drawn = [tuple(map(list, line.get_data())) for line in axes.lines]
    assert drawn[0] == (rate.tolist(), distortion.tolist())
    assert drawn[1:3] == [([5.0], [12.0]), ([3.0], [15.0])]
    assert sorted(drawn[3:]) == sorted(([x], [y]) for x, y in points.values())
    shown = {line.get_label(): tuple(map(float, line.get_xydata()[0])) for line in axes.lines[3:]}
    assert shown == points


def test_running_means_are_drawn_with_their_bands_about_the_known_value():
    n = torch.arange(1.0, 6)
    near = {"pathwise": (n, n / 10), "baseline": (2 * n, n)}
    panels = {"near": near, "far": {"score": (-n, 3 * n)}}
    reach = {"near": 5.0, "far": 50.0}
    figure = theory_plots.plot_running(panels, 1.5, reach)
    for axes, (title, estimates) in zip(figure.axes, panels.items(), strict=True):
        drawn = lines(axes)
        assert axes.get_title() == title and drawn.pop("pathwise, all draws")[1] == [1.5, 1.5]
        assert drawn == {name: ([1, 2, 3, 4, 5], mean.tolist())
                         for name, (mean, _) in estimates.items()}
        assert axes.get_ylim() == (1.5 - reach[title], 1.5 + reach[title])
        bands = [band.get_datalim(axes.transData).intervaly.tolist() for band in axes.collections]
        assert sorted(bands) == sorted([(mean - e).min().item(), (mean + e).max().item()]
                                       for mean, e in estimates.values())


def test_a_map_shows_its_sheet_pixel_for_pixel_and_every_point_in_its_place():
    sheet = np.arange(48 * 48 * 3, dtype=np.uint8).reshape(48, 48, 3)
    points, labels = torch.randn(9, 2, generator=generator()), torch.arange(9) % 3
    figure = theory_plots.plot_map(sheet, 3.5, points, labels, {2: "dog", 0: "cat"}, ("a", "b"))
    grid, plane = figure.axes
    assert np.array_equal(grid.images[0].get_array(), sheet)
    assert grid.get_window_extent().bounds[2:] == pytest.approx((48, 48))
    assert grid.get_xlim() == plane.get_xlim() == plane.get_ylim() == (-3.5, 3.5)
    drawn = [found.get_offsets() for found in plane.collections]
    for found, known in zip(drawn, (points, points[labels == 2], points[labels == 0]), strict=True):
        np.testing.assert_allclose(found, known.numpy())
    assert [text.get_text() for text in plane.get_legend().get_texts()] == ["dog", "cat"]
