"""Recipes: exact parameter counts, what is refused, and models that are what the table says."""

import dataclasses

import pytest
import torch
from torch import nn

import vae_helpers as helpers
import vae_measures as measures
from vae_helpers import RECIPES, Recipe, build, count_parameters

PARAMETERS = {"conv": 6_304_131, "fc": 3_511_040, "celeba64": 11_815_555, "celeba128": 8_729_283,
              "p1-conv": 1_119_811, "p2-conv": 1_119_811, "p3-conv": 1_906_499,
              "p1-fc": 3_511_040, "p2-fc": 3_511_040, "p3-fc": 3_609_600, "celeba32": 1_119_811,
              "improved": 5_158_787}


# ---------------------------------------------------------------- the table


def test_every_recipe_has_its_exact_number_of_parameters():
    assert {name: count_parameters(build(recipe)) for name, recipe in RECIPES.items()} == PARAMETERS


def test_a_celeba64_of_25_million_parameters_needs_widths_of_104_to_832():
    assert count_parameters(build(RECIPES["celeba64"].but(widths=(104, 208, 416, 832)))) == 24_790_995


def test_recipes_are_those_of_the_design():
    table = {(r.name, r.data, r.side, r.latent, r.link, r.reconstruction, r.batch, r.lr, r.epochs, r.patience, r.norm)
             for r in RECIPES.values() if r.name != "improved"}
    assert table == {
        ("conv", "cifar10", 32, 128, "sigmoid", "bce", 128, 1e-3, 10, 0, True),
        ("fc", "cifar10", 32, 128, "sigmoid", "bce", 128, 1e-3, 10, 0, False),
        ("celeba64", "celeba", 64, 256, "sigmoid", "bce", 64, 1e-3, 10, 0, True),
        ("celeba128", "celeba", 128, 128, "tanh", "sse", 64, 1e-3, 10, 0, False),
        ("p1-conv", "cifar10", 32, 128, "sigmoid", "sse", 64, 1e-3, 40, 5, False),
        ("p2-conv", "cifar10", 32, 128, "sigmoid", "sse", 128, 5e-4, 40, 5, False),
        ("p3-conv", "cifar10", 32, 256, "sigmoid", "sse", 64, 5e-4, 40, 5, False),
        ("p1-fc", "cifar10", 32, 128, "sigmoid", "sse", 64, 1e-3, 40, 5, False),
        ("p2-fc", "cifar10", 32, 128, "sigmoid", "sse", 128, 5e-4, 40, 5, False),
        ("p3-fc", "cifar10", 32, 256, "sigmoid", "sse", 64, 5e-4, 40, 5, False),
        ("celeba32", "celeba", 32, 128, "sigmoid", "sse", 128, 5e-4, 40, 5, False)}
    assert all(r.beta == 1 and r.noise and r.schedule == "constant" and r.clip == 0 and r.min_delta == 0.5
               and r.activation == "relu" and r.residual == 0 and r.start == "random"
               for r in RECIPES.values() if r.name != "improved")


# ---------------------------------------------------------------- models


def conv_in_plain_layers(recipe):
    """The encoder's body and the decoder of a convolutional recipe in the library's layers only."""
    def after(width):
        return [nn.BatchNorm2d(width), nn.ReLU()] if recipe.norm else [nn.ReLU()]

    down, up, smallest = [], [], recipe.side // 2 ** len(recipe.widths)
    for a, b in zip((3, *recipe.widths), recipe.widths, strict=False):
        down += [nn.Conv2d(a, b, 4, 2, 1), *after(b)]
    top = recipe.widths[-1]
    for a, b in zip(recipe.widths[:0:-1], recipe.widths[-2::-1], strict=True):
        up += [nn.ConvTranspose2d(a, b, 4, 2, 1), *after(b)]
    return (nn.Sequential(*down, nn.Flatten()),
            nn.Sequential(nn.Linear(recipe.latent, top * smallest ** 2), nn.Unflatten(1, (top, smallest, smallest)),
                          *up, nn.ConvTranspose2d(recipe.widths[0], 3, 4, 2, 1)))


def fc_in_plain_layers(recipe):
    """The same of the fully connected recipe."""
    return (nn.Sequential(nn.Flatten(), nn.Linear(3072, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU()),
            nn.Sequential(nn.Linear(128, 256), nn.ReLU(), nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 3072),
                          nn.Unflatten(1, (3, 32, 32))))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", ["conv", "fc", "celeba64", "celeba128", "p1-conv"])
def test_model_equals_plain_layers_with_its_weights(name, training):
    recipe = RECIPES[name]
    model = build(recipe).train(training)
    encoder, decoder = (conv_in_plain_layers if recipe.network == "conv" else fc_in_plain_layers)(recipe)
    encoder.load_state_dict(model.encoder.state_dict()), decoder.load_state_dict(model.decoder.state_dict())
    encoder.train(training), decoder.train(training)
    draw = torch.Generator().manual_seed(0)
    x = torch.rand(3, 3, recipe.side, recipe.side, generator=draw)
    eps = torch.randn(3, recipe.latent, generator=draw)
    h = encoder(2 * x - 1 if recipe.link == "tanh" else x)
    mu, logvar = model.to_mu(h), model.to_logvar(h)
    for mine, plain in zip(model(x, eps), (decoder(mu + (logvar / 2).exp() * eps), mu, logvar), strict=True):
        torch.testing.assert_close(mine, plain, rtol=1e-4, atol=1e-4)


def test_no_widths_make_a_linear_model():
    recipe = Recipe("linear", network="fc", widths=(), side=2, latent=3, link="identity", reconstruction="sse")
    model = build(recipe)
    assert count_parameters(model) == 2 * (12 * 3 + 3) + 3 * 12 + 12
    x, y = torch.rand(2, 4, 3, 2, 2)
    for apply in (lambda x: model.encode(x)[0], lambda x: model.encode(x)[1], lambda x: model.decode(x[:, :, 0, 0])):
        torch.testing.assert_close(apply(0.3 * x + 0.7 * y), 0.3 * apply(x) + 0.7 * apply(y))


def test_linear_start_is_the_linear_optimum_before_the_first_step():
    recipe = RECIPES["improved"].but(side=8, widths=(8, 16), latent=6, start_sigma2=0.1)
    draw = torch.Generator().manual_seed(0)
    colour = torch.randint(40, 216, (200, 3, 1, 1), generator=draw)
    images = (colour + torch.randint(-20, 21, (200, 3, 8, 8), generator=draw)).to(torch.uint8)
    spectrum = measures.spectrum(images, top=10)
    optimum = measures.linear_optimum(spectrum, 0.1, latent=6)
    model = build(recipe).eval()
    helpers.start_linear(model, spectrum)
    assert helpers.evaluate(model, images).kl.sum(1).mean().item() == pytest.approx(optimum.rate, rel=1e-4)
    assert 0 < optimum.active <= 6
    picture = helpers.to_pixels(recipe, model.decode(torch.zeros(1, 6))).flatten()
    torch.testing.assert_close(picture, spectrum.mean.float())
    decoder = measures.linear_vae_parameters(spectrum, 0.1, 6).decoder.float()
    slope = torch.autograd.functional.jacobian(
        lambda z: helpers.to_pixels(recipe, model.decode(z[None])).flatten(), torch.zeros(6))
    torch.testing.assert_close(slope, decoder, rtol=1e-4, atol=1e-5)


def test_linear_start_is_finite_where_a_pixel_never_changes():
    recipe = RECIPES["improved"].but(side=8, widths=(8, 16), latent=6)
    images = torch.randint(0, 256, (50, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    images[:, 0, 0, 0], images[:, 1, 0, 0] = 0, 255
    model = build(recipe).eval()
    helpers.start_linear(model, measures.spectrum(images, top=10))
    picture = helpers.to_pixels(recipe, model.decode(torch.zeros(1, 6)))
    assert torch.isfinite(helpers.evaluate(model, images).loss(1)).all()
    assert picture[0, 0, 0, 0] < 0.01 < 0.99 < picture[0, 1, 0, 0]


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_decoder_reaches_the_range_of_the_data_and_no_more(recipe):
    x = torch.linspace(0.01, 0.99, 99)
    there = helpers.to_range(recipe, x)
    back = {"sigmoid": torch.logit, "tanh": torch.atanh, "identity": lambda t: t}[recipe.link](there)
    torch.testing.assert_close(helpers.to_pixels(recipe, back), x)
    extreme = helpers.to_pixels(recipe, torch.tensor([-1e4, 1e4]))
    assert extreme.tolist() == [0, 1]


def test_build_depends_on_the_seed_alone():
    torch.manual_seed(5)
    first = build(RECIPES["p1-conv"], seed=1).state_dict()
    torch.rand(7)
    again, other = build(RECIPES["p1-conv"], seed=1).state_dict(), build(RECIPES["p1-conv"], seed=2).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["to_mu.weight"], other["to_mu.weight"])


# ---------------------------------------------------------------- changing a recipe


def test_but_changes_what_is_named_and_nothing_else():
    before = RECIPES["conv"]
    after = before.but(beta=4, latent=32)
    assert dataclasses.asdict(after) == {**dataclasses.asdict(before), "beta": 4, "latent": 32}
    assert before.beta == 1 and RECIPES["conv"].latent == 128


def test_a_recipe_cannot_be_changed_in_place():
    with pytest.raises(dataclasses.FrozenInstanceError):
        RECIPES["conv"].beta = 4


def test_unknown_field_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"^a recipe has no field 'betta'; it has name, .*beta.*min_delta$"):
        RECIPES["conv"].but(betta=4)


REFUSED = [("data", "mnist"), ("network", "resnet"), ("link", "softmax"), ("reconstruction", "mse"),
           ("schedule", "cosine"), ("latent", 0), ("latent", 12.5), ("latent", "128"), ("batch", -1), ("batch", True),
           ("epochs", 0), ("side", 0), ("lr", 0.0), ("lr", -1e-3), ("lr", float("inf")), ("lr", float("nan")),
           ("beta", -1.0), ("beta", float("nan")), ("beta", "4"), ("beta", None), ("clip", -0.1), ("patience", -1),
           ("patience", 2.5), ("min_delta", -0.5), ("norm", "no"), ("noise", 1), ("widths", (64, 0)),
           ("widths", (64, 1.5)), ("widths", 64), ("widths", ()), ("side", 40),
           ("link", "tanh"), ("link", "identity"), ("sigma", 0.1)]


@pytest.mark.parametrize(("field", "value"), REFUSED)
def test_nonsense_is_refused_in_one_sentence_with_recipe_and_field(field, value):
    with pytest.raises(ValueError) as refusal:
        RECIPES["conv"].but(**{field: value})
    message = str(refusal.value)
    assert message.startswith("recipe conv: ") and field in message
    assert "\n" not in message and ". " not in message


@pytest.mark.parametrize("sigma", [0.0, -1.0, float("nan"), float("inf")])
def test_sigma_must_be_a_standard_deviation(sigma):
    with pytest.raises(ValueError, match="sigma = "):
        RECIPES["conv"].but(reconstruction="gaussian", sigma=sigma)


def test_whole_numbers_do_for_reals_and_make_the_same_recipe():
    assert repr(RECIPES["conv"].but(beta=4, clip=1)) == repr(RECIPES["conv"].but(beta=4.0, clip=1.0))


# ---------------------------------------------------------------- one currency: the variance that a loss implies


@pytest.mark.parametrize(("changes", "sigma2"), [
    (dict(reconstruction="sse"), 1 / 2), (dict(reconstruction="sse", beta=4), 2),
    (dict(reconstruction="sse", link="identity"), 1 / 2),
    (dict(reconstruction="sse", link="tanh"), 1 / 8), (dict(reconstruction="sse", link="tanh", beta=4), 1 / 2),
    (dict(reconstruction="sse", link="tanh", beta=10), 1.25),
    (dict(reconstruction="gaussian", sigma=0.1), 0.01), (dict(reconstruction="gaussian", sigma=0.1, beta=3), 0.03),
    (dict(reconstruction="gaussian", sigma=0.2, link="tanh"), 0.01),
    (dict(), 1 / 4), (dict(beta=2), 1 / 2), (dict(reconstruction="gaussian"), None)])
def test_implied_variance_in_unit_pixels(changes, sigma2):
    assert RECIPES["conv"].but(**changes).sigma2 == (sigma2 and pytest.approx(sigma2))
