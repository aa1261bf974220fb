"""β at 128×128: closed forms, planted codes, and short runs with and without trainings."""

from __future__ import annotations

import math

import pytest
import torch
from tiny import LINEAR, generator, grey

from lab import latent as latents
from lab import linear as pca
from lab.chapters import betas as ask
from lab.chapters import points, scale
from lab.recipes import RECIPES
from lab.session import Lab
from lab.show import Figure, Table
from lab.training import encode_set
from vae_helpers import Recipe, build, elbo_terms, kl_divergence, to_pixels, training_step

pytestmark = pytest.mark.usefixtures("one_thread")

LARGE = RECIPES["celeba128"]


def planted(eigenvalues):
    """A spectrum of these eigenvalues, of as many pixels."""
    values = torch.tensor(eigenvalues, dtype=torch.float64)
    n = len(values)
    return pca.Spectrum(values, torch.eye(n, dtype=torch.float64),
                        torch.full((n,), 0.5, dtype=torch.float64), values.sum().item())


def striped(n=200, side=4, seed=0):
    """Images whose one strong direction is brightness, and a little noise."""
    bright = torch.randn(n, 1, 1, 1, generator=generator(seed)) * 30
    grain = torch.randn(n, 3, side, side, generator=generator(seed + 1)) * 5
    return (128 + bright + grain).clamp(0, 255).to(torch.uint8)


# ---- the currency


def test_four_at_128_is_one_of_the_squared_error_on_bytes_as_fractions():
    """4·SSE + β·KL on [-1, 1] has the variance β/8; SSE + β·KL on [0, 1] has β/2."""
    assert ask.at_equal_variance(LARGE, 1) == (0.125, 0.25)
    assert ask.at_equal_variance(LARGE, 4) == (RECIPES["p1-conv"].sigma2, RECIPES["p1-conv"].beta)


def test_beyond_the_critical_beta_a_linear_model_spends_nothing():
    spectrum = planted([9.0, 4.0, 0.1])
    assert ask.critical_beta(LARGE, spectrum) == pytest.approx(72)
    assert ask.critical_beta(RECIPES["collapse-05"], spectrum) == pytest.approx(18)
    for share, active in ((0.99, 1), (1.01, 0)):
        beta = share * ask.critical_beta(LARGE, spectrum)
        sigma2, _ = ask.at_equal_variance(LARGE, beta)
        best = pca.linear_optimum(spectrum, sigma2, 2)
        assert (best.active, best.rate > 0) == (active, active == 1)


def test_the_collapse_recipes_lie_about_the_critical_beta_as_their_names_say():
    shares = [RECIPES[f"collapse-{key}"].beta / 110.7 for key in points.COLLAPSES]
    assert shares == pytest.approx([0.5, 0.9, 1.1, 2.0])


# ---- a linear model on other images


def test_on_its_own_images_a_linear_model_is_its_closed_form():
    images = grey(60)
    known = pca.spectrum(images, 48)
    scores = pca.scores_of(known, images)
    for sigma2, latent in ((0.01, 48), (0.05, 7), (0.12, 48)):
        best = pca.linear_optimum(known, sigma2, latent)
        assert pca.linear_on(known, scores, sigma2, latent) == pytest.approx(
            (best.rate, best.distortion), rel=1e-4)


def test_on_other_images_it_is_what_its_encoder_and_decoder_do():
    known, others = pca.spectrum(grey(60), 48), grey(50, seed=3)
    sigma2, latent = 0.05, 9
    linear = pca.linear_vae_parameters(known, sigma2, latent)
    x = others.flatten(1).double() / 255 - linear.mean
    mu, v = x @ linear.encoder.T, linear.variance
    rate = 0.5 * (mu.square() + v - 1 - v.log()).sum(1).mean().item()
    noise = (linear.decoder.square().sum(0) * v).sum().item()
    error = (x - mu @ linear.decoder.T).square().sum(1).mean().item() + noise
    found = pca.linear_on(known, pca.scores_of(known, others), sigma2, latent)
    assert found == pytest.approx((rate, error), rel=1e-4)


def trained_linear(images, known, share, steps):
    """A linear VAE of one dimension, trained from a start close to collapse at this share of the
    critical β; noise of both signs makes its gradients exact."""
    model = build(LINEAR.but(latent=1, beta=share * ask.critical_beta(LINEAR, known)))
    with torch.no_grad():
        model.decoder[0].weight.mul_(0.1)
        model.decoder[0].bias.copy_(known.mean)
        model.to_mu.weight.mul_(0.1)
        model.to_mu.bias.copy_(-model.to_mu.weight @ known.mean.float())
    x, eps = (images / 255).repeat(2, 1, 1, 1), torch.ones(2 * len(images), 1)
    eps[len(images):] = -1
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(steps):
        training_step(model, optimizer, x, eps)
    return model


@pytest.mark.parametrize("share", [0.4, 1.25, 2.0])
def test_a_linear_vae_leaves_collapse_below_the_critical_beta_and_stays_there_above(share):
    images = striped()
    known = pca.spectrum(images, 48)
    model = trained_linear(images, known, share, 500)
    mu, logvar = encode_set(model, images)
    best = pca.linear_optimum(known, model.recipe.sigma2, 1)
    assert best.active == (share < 1)
    rate = kl_divergence(mu, logvar).sum(1).mean().item()
    assert rate == pytest.approx(best.rate, rel=0.02, abs=0.001)
    assert latents.degrees_of_freedom(logvar) == pytest.approx(best.dof, rel=0.02, abs=0.001)


def test_close_below_the_critical_beta_it_leaves_collapse_late():
    """What is barely worth its price is learnt last: so much of the KL is there after 400 steps."""
    images = striped()
    known, there = pca.spectrum(images, 48), []
    for share in (0.4, 0.8):
        model = trained_linear(images, known, share, 400)
        best = pca.linear_optimum(known, model.recipe.sigma2, 1)
        there.append(kl_divergence(*encode_set(model, images)).sum(1).mean().item() / best.rate)
    assert there[0] > 0.95 and there[1] < 0.1


# ---- the range of the pixels


def test_a_tanh_decoder_is_a_sigmoid_of_twice_the_logits():
    logits = torch.randn(5, 3, 4, 4, generator=generator())
    there = to_pixels(LINEAR.but(link="tanh"), logits)
    assert torch.allclose(there, to_pixels(LINEAR.but(link="sigmoid"), 2 * logits), atol=1e-6)


def test_at_equal_variance_the_losses_on_both_ranges_are_one_but_for_a_factor_of_four():
    """Of the same function: the encoder's weights take up 2x - 1, the decoder's the 2."""
    recipe = Recipe("there", network="fc", widths=(), norm=False, link="tanh",
                    reconstruction="sse", side=4, latent=3, beta=4.0)
    there = build(recipe)
    here = build(recipe.but(name="here", link="sigmoid", beta=1.0))
    with torch.no_grad():
        here.load_state_dict(there.state_dict())
        for layer in (here.to_mu, here.to_logvar):
            layer.bias -= layer.weight.sum(1)
            layer.weight *= 2
        here.decoder[0].weight *= 2
        here.decoder[0].bias *= 2
        x, eps = torch.rand(6, 3, 4, 4, generator=generator()), torch.randn(6, 3)
        losses = [elbo_terms(m, x, eps).loss(m.recipe.beta) for m in (there, here)]
    assert recipe.sigma2 == here.recipe.sigma2
    assert torch.allclose(losses[0], 4 * losses[1], rtol=1e-5)
    assert latents.stretch(there, grey(9)) == pytest.approx(4, rel=1e-5)


# ---- moves along a dimension


@pytest.fixture
def model():
    """x_hat = ½ + B z with B's columns along single values, 0.1, 0.05 and 0 high."""
    model = build(LINEAR)
    with torch.no_grad():
        model.decoder[0].weight.zero_()
        model.decoder[0].weight[5, 0], model.decoder[0].weight[9, 1] = 0.1, 0.05
        model.decoder[0].bias.fill_(0.5)
    return model.eval()


def test_a_traversal_moves_one_dimension_as_far_as_it_says(model):
    frames = latents.traverse(model, torch.zeros(1, 3), 0, 2.0).flatten(1)
    assert torch.allclose(frames[:, 5], 0.5 + 0.1 * torch.linspace(-2, 2, 7))
    assert torch.allclose(frames[:, 9], torch.tensor(0.5))


def test_the_largest_move_is_in_grey_levels_and_0_where_nothing_moves(model):
    mu = torch.randn(20, 3, generator=generator()) * 0.1
    moves = [latents.largest_move(model, mu, dim) for dim in range(3)]
    assert moves == pytest.approx([255 * 0.6, 255 * 0.3, 0], abs=1e-3)


def test_the_linear_models_move_is_that_of_its_decoder():
    spectrum = planted([9.0, 4.0, 0.1])
    decoder = pca.linear_vae_parameters(spectrum, 1.0, 3).decoder
    assert latents.linear_move(spectrum, 1.0) == pytest.approx(
        255 * 6 * decoder[:, 0].abs().max().item())
    assert latents.linear_move(spectrum, 9.5) == 0


def test_a_ratio_of_means_has_the_error_that_it_has_over_samples():
    b = torch.rand(300, 100, generator=generator()) + 1
    a = 0.5 * b + 0.1 * torch.randn(300, 100, generator=generator(1))
    found = torch.tensor([latents.ratio_of_means(*pair) for pair in zip(a, b, strict=True)])
    assert found[:, 0].mean().item() == pytest.approx(0.5, abs=0.003)
    assert found[:, 1].mean().item() == pytest.approx(found[:, 0].std().item(), rel=0.15)


# ---- which dimensions correspond


def test_turned_codes_tell_the_same_and_correspond_in_no_dimension():
    a = torch.randn(600, 12, generator=generator())
    b = latents.turned(a, seed=0)
    assert latents.read_linearly(a, b) == pytest.approx(1, abs=1e-6)
    assert latents.match(a, b).rho.mean() < 0.75
    assert latents.match(a, a).rho.mean() == pytest.approx(1)


def test_codes_that_share_half_their_variance_are_read_with_an_r2_of_a_half():
    a, noise = torch.randn(2, 8000, 5, generator=generator())
    assert latents.read_linearly(a, a.roll(1, 1) + noise) == pytest.approx(0.5, abs=0.03)
    assert latents.read_linearly(a[:12], a[:12]) is None


def test_a_planted_order_is_found_and_indices_that_changed_are_not_equal():
    a = torch.randn(500, 8, generator=generator())
    order = torch.tensor([3, 0, 6, 1, 7, 2, 5, 4])
    b = -a[:, order] + 0.1 * torch.randn(500, 8, generator=generator(1))
    some, all_ = torch.tensor([0, 1, 3, 6, 7]), torch.arange(8)
    found = latents.match_live(a, b, some, all_)
    assert all(order[j] == i for i, j in found.pairs.tolist()) and (found.sign == -1).all()
    numbers = latents.correspondence(a, b, all_, all_, seed=0)
    assert numbers["rho"] > 0.98 and numbers["above"] == 1 and numbers["read"] > 0.95
    assert numbers["same"] < 0.3 and numbers["turned"] < 0.9


def test_shuffled_codes_do_not_correspond():
    a, b = torch.randn(2, 500, 20, generator=generator())
    numbers = latents.correspondence(a, b, torch.arange(20), torch.arange(20), seed=0)
    assert numbers["above"] <= 0.1 and numbers["rho"] == pytest.approx(numbers["turned"], abs=0.05)
    assert numbers["read"] < 0.1


def test_dimensions_that_tell_one_attribute_each_have_all_their_share_in_one():
    attributes = torch.rand(3000, 4, generator=generator()) < 0.5
    pure = attributes.double() + 0.3 * torch.randn(3000, 4, generator=generator(1))
    assert latents.one_factor(pure, attributes) == pytest.approx(1, abs=0.02)
    mixed = pure @ torch.linalg.qr(torch.ones(4, 4) - 2 * torch.eye(4)).Q.double()
    assert latents.one_factor(mixed, attributes) < 0.6
    assert latents.one_factor(pure, torch.ones(3000, 4)) is None         # nothing to tell


# ---- the chapters


BETA_METHODS = ("prediction", "outcomes", "curves", "reconstructions", "interpolations", "paths",
                "dimensions", "matching")
POINT_METHODS = ("collapse", "ranks", "sizes")


def session(tmp_path, extensions):
    """A short session on the stand-in, the large faces shrunk to 32 pixels and few channels."""
    lab = Lab({"EPOCHS": 1, "TRAIN_LIMIT": 40, "DATA": "standin", "DEVICE": "cpu",
               "PRECISION": "fp32", "RUNS": str(tmp_path / "runs"), "EXTENSIONS": extensions})
    first = scale.Chapter(lab)
    chapter = ask.Chapter(lab, first)
    return lab, chapter, points.Chapter(lab, first, chapter)


def answers(chapter, theory):
    return {name: getattr(here, name)() for here, names in
            ((chapter, BETA_METHODS), (theory, POINT_METHODS)) for name in names}


@pytest.fixture(scope="module")
def shrunk():
    """Recipes small enough for a test, under their own names."""
    with pytest.MonkeyPatch.context() as patch:
        for name, recipe in RECIPES.items():
            if name.startswith("celeba128"):
                patch.setitem(RECIPES, name, recipe.but(side=32, widths=(4, 8, 8, 8, 8), batch=10,
                                                        latent=80, lr=1e-2))
            elif name.startswith("celeba64"):
                patch.setitem(RECIPES, name, recipe.but(widths=(4, 8, 8), norm=False))
            elif name.startswith("collapse"):
                patch.setitem(RECIPES, name, recipe.but(widths=(4, 8, 8)))
        yield


@pytest.fixture(scope="module")
def trained(shrunk, tmp_path_factory, one_thread):
    lab, chapter, theory = session(tmp_path_factory.mktemp("betas"), extensions=True)
    return lab, chapter, theory, answers(chapter, theory)


FIGURES = {"curves", "reconstructions", "interpolations", "dimensions", "ranks"}


def test_a_short_run_answers_everything(trained):
    lab, _, _, found = trained
    for name, answer in found.items():
        assert isinstance(answer, Figure if name in FIGURES else Table), name
    assert len(found["outcomes"].rows) == len(found["paths"].rows) == 5
    assert len(found["matching"].rows) == len(ask.COMPARED)
    assert len(found["collapse"].rows) == 4
    for name in ("betas.predicted_rate_4", "betas.rate_4", "betas.sse_10", "betas.dof_1",
                 "betas.active_10", "betas.detour_1", "betas.doubling_4", "collapse.kl_05",
                 "faces.d128_costs", "betas.least_rate", "betas.lambda_ratio"):
        assert math.isfinite(lab.found[name]), name


def test_what_is_foretold_is_the_linear_optimum_on_training_and_on_test_faces(trained):
    _, chapter, _, found = trained
    rows = {row["β"]: row for row in found["prediction"].rows}
    for beta in ask.BETAS:
        best = pca.linear_optimum(chapter.spectrum, beta / 8, 80)
        assert (rows[beta]["KL"], rows[beta]["active"]) == (best.rate, best.active)
        assert rows[beta]["degrees of freedom"] == best.dof
        rate, error = chapter.foretold(beta)[1:]
        assert chapter._over_linear(rate, 1.5 * error) == pytest.approx(0.5, abs=0.03)
    *_, last = found["prediction"].rows
    assert (last["KL"], last["active"]) == (0, 0) and last["β"] > 10


def test_outcomes_are_those_of_the_chosen_epoch_on_fractions(trained):
    lab, chapter, _, found = trained
    run = chapter.runs["4"]
    row = next(row for row in found["outcomes"].rows if row["model"] == "β = 4, 1 epochs")
    assert row["KL"] == run.chosen["test_kl"] == lab.found["betas.rate_4"]
    assert row["squared error"] == run.chosen["test_reconstruction"] / 4


def test_dimensions_across_models_are_the_matched_ones(trained):
    """The label says which, and each row's dimension is the one matched with the first row's."""
    _, chapter, _, _ = trained
    chapter.__dict__["codes"] = made = {
        key: (torch.randn(100, 80, generator=generator(1)) * (1 if key == "1" else -1),
              torch.full((100, 80), -2.0)) for key in ask.EQUAL}
    made["10"] = (made["10"][0].flip(1), made["10"][1])
    for name in ("kl", "live"):
        chapter.__dict__.pop(name, None)
    rows = list(chapter._chain().values())
    i = rows[0][1]
    assert rows == [("1", i, 1), ("4", i, -1), ("10", 79 - i, -1)]


def test_without_trainings_it_says_what_is_missing(shrunk, tmp_path):
    lab, chapter, theory = session(tmp_path, extensions=False)
    found = answers(chapter, theory)
    assert all(isinstance(answer, Table) for answer in found.values())
    for name in set(found) - {"prediction", "sizes"}:
        assert "not trained here" in repr(found[name])
    assert lab.found["betas.predicted_rate_1"] > 0 and "betas.rate_1" not in lab.found


def test_rows_over_beta_have_a_control_or_say_that_they_have_none(trained):
    _, chapter, _, _ = trained
    live = {key: torch.arange(3) for key in ask.RUNS}
    chapter.__dict__["live"] = live
    assert chapter._note("1", "4", "1_4") == ""
    kept = chapter.runs
    chapter.__dict__["runs"] = {key: run for key, run in kept.items() if key != "1_seed1"}
    assert chapter._note("1", "4", "1_4") == "without control, undecided"
    assert chapter._note("1", "1_seed1", "seeds") == "not trained here"
    chapter.__dict__["runs"] = kept
