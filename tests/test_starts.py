"""Trainings that begin at the best linear VAE: what they are before the first step."""

from __future__ import annotations

import pytest
import torch

from lab import measures
from lab.starts import spectrum_of, start
from lab.training import encode_set, evaluate
from vae_helpers import Recipe, build, to_pixels

pytestmark = pytest.mark.usefixtures("one_thread")

BESIDE = Recipe("improved", widths=(4, 8), norm=False, activation="silu", side=8, latent=6,
                start="linear", start_sigma2=0.1)
WITHIN = BESIDE.but(network="fc", widths=(24, 14), activation="relu", start="weights")
RECIPES = {"beside": BESIDE, "beside, with residual blocks": BESIDE.but(residual=1),
           "within": WITHIN, "within one hidden layer": WITHIN.but(widths=(12,)),
           "within no hidden layer": WITHIN.but(widths=()), "gained": WITHIN.but(start_gain=1.5)}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def coloured(n=200):
    """Bytes (n, 3, 8, 8) that vary in their three colours, with some grain."""
    colour = torch.randint(40, 216, (n, 3, 1, 1), generator=generator())
    grain = torch.randint(-20, 21, (n, 3, 8, 8), generator=generator(1))
    return (colour + grain).to(torch.uint8)


@pytest.fixture(params=RECIPES)
def begun(request):
    """A model at its start, the spectrum that it began from, and the optimum that it is."""
    known, recipe = measures.spectrum(coloured(), top=10), RECIPES[request.param]
    model = build(recipe).eval()
    start(model, known)
    return model, known, measures.linear_optimum(known, 0.1, latent=6)


def test_the_rate_is_the_linear_optimums(begun):
    model, _, optimum = begun
    rate = evaluate(model, coloured()).kl.sum(1).mean().item()
    assert rate == pytest.approx(optimum.rate, rel=1e-4) and 0 < optimum.active < 6


def test_the_decoder_is_the_best_linear_one_around_the_mean(begun):
    model, known, _ = begun

    def picture(z):
        return to_pixels(model.recipe, model.decode(z[None])).flatten()

    torch.testing.assert_close(picture(torch.zeros(6)), known.mean.float())
    decoder = measures.linear_vae_parameters(known, 0.1, 6).decoder.float()
    z = 1e-2 * torch.eye(6)                             # a ReLU pair has no slope at 0 itself
    slope = torch.stack([(picture(a) - picture(-a)) / 2e-2 for a in z], 1)
    torch.testing.assert_close(slope, model.recipe.start_gain * decoder, rtol=1e-3, atol=1e-5)


@torch.no_grad()
def test_within_the_weights_it_is_the_closed_form_everywhere():
    """The squared error of the linear part, noise and all, is the optimum's distortion."""
    images, recipe = coloured(), WITHIN
    known, model = measures.spectrum(images, top=10), build(recipe).eval()
    optimum = measures.linear_optimum(known, 0.1, latent=6)
    start(model, known)
    slope = (known.mean * (1 - known.mean)).float()
    bias = model.decode(torch.zeros(1, 6)).flatten(1)

    def linear(z):
        return known.mean.float() + (model.decode(z).flatten(1) - bias) * slope

    mu, logvar = encode_set(model, images)
    error = (images.flatten(1) / 255 - linear(mu)).square().sum(1).mean()
    columns = linear(torch.eye(6)) - known.mean.float()                         # (d, D)
    noise = (logvar[0].exp() * columns.square().sum(1)).sum()
    assert (error + noise).item() == pytest.approx(optimum.distortion, rel=1e-4)
    z = 5 * torch.randn(50, 6, generator=generator(2))
    torch.testing.assert_close(linear(z), known.mean.float() + z @ columns, rtol=1e-4, atol=1e-4)


def test_units_that_the_linear_model_leaves_keep_their_random_weights():
    model, known = build(WITHIN), measures.spectrum(coloured(), top=10)
    before = build(WITHIN)
    start(model, known)
    k = measures.linear_optimum(known, 0.1, latent=6).active
    first, others = model.encoder[1].weight, before.encoder[1].weight
    assert torch.equal(first[2 * k:], others[2 * k:]) and not torch.equal(first, others)
    assert not model.to_mu.weight[:, 2 * k:].any()              # nobody listens to them yet


def test_more_directions_than_pairs_of_units_are_refused():
    model = build(WITHIN.but(widths=(24, 2)))
    with pytest.raises(ValueError, match="directions need .* units, and a layer has 2"):
        start(model, measures.spectrum(coloured(), top=10))


@pytest.mark.parametrize("recipe", [BESIDE, WITHIN], ids=["beside", "within"])
def test_a_start_is_finite_where_a_pixel_never_changes(recipe):
    images = coloured(50)
    images[:, 0, 0, 0], images[:, 1, 0, 0] = 0, 255
    model = build(recipe).eval()
    start(model, measures.spectrum(images, top=10))
    picture = to_pixels(recipe, model.decode(torch.zeros(1, 6)))
    assert torch.isfinite(evaluate(model, images).loss(1)).all()
    assert picture[0, 0, 0, 0] < 0.01 < 0.99 < picture[0, 1, 0, 0]


def test_a_random_start_stays_as_it_is():
    recipe = WITHIN.but(start="random")
    model = build(recipe)
    start(model, measures.spectrum(coloured(), top=10))
    pairs = zip(model.parameters(), build(recipe).parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_a_start_can_come_from_some_of_the_images():
    images = coloured()
    some, same = (spectrum_of(BESIDE.but(start_images=50), images) for _ in range(2))
    whole = spectrum_of(BESIDE, images)
    assert torch.equal(some.mean, same.mean) and not torch.equal(some.mean, whole.mean)
    torch.testing.assert_close(some.mean, whole.mean, atol=0.1, rtol=0)
    known = spectrum_of(BESIDE.but(start_images=500), images)
    assert torch.equal(known.eigenvalues, whole.eigenvalues)
