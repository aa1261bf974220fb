"""A fitted prior, on codes whose density is known."""

import pytest
import torch
from tiny import assert_shows, short_lab
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal, Normal

from lab.chapters import priors
from lab.show import Table

MEANS = torch.tensor([[2.0, -1, 0.5], [-2, 1, -0.5]]).double()
COVARIANCES = torch.stack([torch.diag(torch.tensor([0.5, 0.8, 0.3])), torch.full((3, 3), 0.2)
                           + 0.4 * torch.eye(3)]).double()
PLANTED = MixtureSameFamily(Categorical(torch.tensor([0.3, 0.7]).double()),
                            MultivariateNormal(MEANS, COVARIANCES))
USED = [0, 2, 4]            # of five dimensions; the others are N(0, 1) for every image


def posteriors(n, seed):
    """mu and logvar (n, 5) of images whose codes together have the planted density."""
    torch.manual_seed(seed)
    spread = 0.04           # of every posterior, which the planted covariances have in them
    family = MultivariateNormal(MEANS, COVARIANCES - spread * torch.eye(3))
    mu, logvar = torch.zeros(n, 5), torch.zeros(n, 5)
    mu[:, USED] = MixtureSameFamily(PLANTED.mixture_distribution, family).sample((n,)).float()
    logvar[:, USED] = torch.tensor(spread).log()
    return mu, logvar


def test_a_prior_of_the_planted_kind_gains_the_kl_between_the_planted_density_and_the_normal():
    fitted = priors.fit(*posteriors(20_000, 0), 2, seed=0)
    assert fitted.live.tolist() == USED
    z = PLANTED.sample((200_000,))
    known = (PLANTED.log_prob(z) - Normal(0.0, 1.0).log_prob(z).sum(1)).mean().item()
    codes = torch.randn(200_000, 5).double()
    codes[:, USED] = z
    assert fitted.gain(codes).mean().item() == pytest.approx(known, abs=0.01)
    one = priors.fit(*posteriors(20_000, 0), 1, seed=0)
    assert one.gain(codes).mean().item() < known - 0.1              # one Gaussian is no mixture


def test_its_draws_have_the_planted_moments_and_a_normal_where_nothing_is_used():
    draws = priors.fit(*posteriors(20_000, 0), 2, seed=0).sample(
        100_000, torch.Generator().manual_seed(0))
    known = PLANTED.sample((200_000,))
    torch.testing.assert_close(draws[:, USED].mean(0), known.mean(0), atol=0.05, rtol=0)
    torch.testing.assert_close(draws[:, USED].T.cov(), known.T.cov(), atol=0.1, rtol=0)
    rest = draws[:, [1, 3]]
    torch.testing.assert_close(rest.T.cov(), torch.eye(2).double(), atol=0.02, rtol=0)


def test_codes_of_one_standard_normal_gain_nothing_and_few_codes_get_fewer_gaussians():
    torch.manual_seed(1)
    mu, logvar = 0.9 ** 0.5 * torch.randn(30_000, 2), torch.full((30_000, 2), 0.1).log()
    fitted = priors.fit(mu, logvar, 1, seed=0)
    assert fitted.gain(torch.randn(50_000, 2)).mean().item() == pytest.approx(0, abs=2e-3)
    assert priors.fit(mu[:25], logvar[:25], 8, seed=0).mixture.n_components == 2


def test_the_gain_over_seeds_is_shown_for_one_gaussian_and_for_eight(tmp_path):
    assert_shows(priors.gains(short_lab(tmp_path, 60)), Table)
