"""β at 128×128: closed forms, planted codes, and a short run with small networks."""

import pytest
import torch
from tiny import assert_shows, generator, planted, short_lab

from lab.chapters import betas
from lab.linear import critical_betas, linear_optimum
from lab.recipes import RECIPES
from lab.show import Figure, Table
from vae_helpers import Recipe, build, elbo_terms

LARGE = RECIPES["celeba128"]


def test_four_at_128_is_one_of_the_squared_error_on_bytes_as_fractions():
    """4·SSE + β·KL on [-1, 1] has the variance β/8; SSE + β·KL on [0, 1] has β/2."""
    assert LARGE.sigma2 == 1 / 8
    assert LARGE.but(beta=4.0).sigma2 == RECIPES["p1-conv"].sigma2 == 1 / 2


def test_beyond_the_critical_beta_a_linear_model_spends_nothing():
    known = planted(9.0, 4.0, 0.1)
    assert critical_betas(known, LARGE)[0].item() == pytest.approx(72)
    assert critical_betas(known, RECIPES["collapse-05-aligned"])[0] == pytest.approx(18)
    for share, active in ((0.99, 1), (1.01, 0)):
        sigma2 = LARGE.but(beta=share * critical_betas(known, LARGE)[0].item()).sigma2
        best = linear_optimum(known, sigma2, 2)
        assert (best.active, best.rate > 0) == (active, active == 1)


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
    torch.testing.assert_close(losses[0], 4 * losses[1])


def test_dimensions_over_beta_are_the_ones_whose_codes_go_together(monkeypatch):
    mu, noise = torch.randn(2, 300, 5, generator=generator())
    noise[:, 2] = 0                                         # dimension 2 is matched best
    made = {"1": mu, "4": -(mu + noise), "10": (mu + noise).flip(1)}
    monkeypatch.setattr(betas, "codes", lambda lab, key: made[key])
    monkeypatch.setattr(betas, "used", lambda lab, key: torch.arange(5))
    assert betas.chain(None) == {"1": (2, 1), "4": (2, -1), "10": (2, 1)}


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A short run on the stand-in, with the large faces shrunk to 32 pixels and few channels."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("celeba128", "celeba128-b4", "celeba128-b10"):
            patch.setitem(RECIPES, name, RECIPES[name].but(
                side=32, widths=(4, 8, 8, 8, 8), batch=10, latent=80, lr=1e-2))
        patch.setattr(betas, "LARGE", RECIPES["celeba128"])
        yield short_lab(tmp_path_factory.mktemp("betas"), 120, EXTENSIONS=True)


def test_a_short_run_answers_everything(lab):
    for show in (betas.curves, betas.reconstructions, betas.interpolations, betas.dimensions):
        assert_shows(show(lab), Figure)
    for keep in (betas.keep_settling, betas.keep_paths, betas.keep_single_factors):
        keep(lab)
    assert_shows(betas.matching(lab), Table)


def test_outcomes_are_those_of_the_chosen_epoch_beside_the_linear_optimum(lab):
    run, row = lab.run("celeba128-b10"), betas.outcomes(lab).rows[2]
    assert row["KL"] == run.chosen["test_kl"] == lab.found["betas.rate_10"]
    assert row["squared error"] == run.chosen["test_reconstruction"] / 4
    assert lab.found["betas.rate_gap_10"] == pytest.approx(row["KL"] / row["KL, linear"] - 1)
    assert betas.predicted(lab, lab.found["betas.predicted_collapse"])[0] == 0
