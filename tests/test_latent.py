"""Planted permutations are found, planted attributes read, planted leaks seen; linear models cost
what their closed forms say."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tiny import LINEAR, generator, grey, put_linear

from lab import latent, linear
from lab.training import decode_set, encode_set
from vae_helpers import as_pixels, build, kl_divergence, reconstruction_error


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed))


def optimal(beta=1.0):
    """Images of two directions, their spectrum, and the best linear VAE of SSE + β KL."""
    images = (128 + 40 * normal(200, 2) @ normal(2, 48, seed=1)).clamp(0, 255).byte()
    images = images.view(-1, 3, 4, 4)
    known = linear.spectrum(images)
    best = linear.linear_vae_parameters(known, beta / 2, 3)
    return images, known, best, put_linear(build(LINEAR.but(beta=beta)), best)


def planted_decoder(gain=1.0, leak=0.0, variance=1 / 3, **recipe):
    """x_hat = ½ + B z, B of orthonormal columns, and an encoder to `gain` times the z that undoes
    it, but that z_1 comes back with `leak` times z_0 added."""
    basis, mixed = torch.linalg.qr(normal(48, 3)).Q, gain * torch.eye(3)
    mixed[1, 0] = leak
    best = linear.LinearVAE(torch.full((48,), 0.5), mixed @ basis.T, basis,
                            torch.full((3,), variance))
    return put_linear(build(LINEAR.but(**recipe)), best)


# ---- KL, and gradients through a draw


def test_live_dimensions_and_degrees_of_freedom_of_a_linear_vae_are_its_closed_form():
    images, known, _, model = optimal()
    mu, logvar = encode_set(model, images)
    optimum = linear.linear_optimum(known, 0.5, 3)
    assert len(latent.live(kl_divergence(mu, logvar))) == optimum.active == 2
    assert latent.degrees_of_freedom(logvar) == pytest.approx(optimum.dof)
    kl = torch.tensor([[0.5, 0.0, 0.013, 0.01], [0.5, 0.0, 0.009, 0.01]])
    assert latent.live(kl).tolist() == latent.live(kl.mean(0)).tolist() == [0, 2]
    assert latent.live(kl, 0.5).tolist() == []


def test_gradient_estimators_have_the_closed_form_mean_and_variance_on_a_quadratic():
    m, s = 1.5, 0.5  # f(z) = z², so that d E[f] / d mu = 2 m
    mu, logvar = (torch.tensor([t], dtype=torch.float64) for t in (m, 2 * math.log(s)))

    def estimates(n):
        return latent.pathwise_and_score_gradients(lambda z: z.square().sum(1), mu, logvar, n,
                                                   generator())

    variances = 4 * s ** 2, 8 * m ** 2 + 10 * s ** 2
    for values, variance in zip(estimates(200_000)[:2], variances, strict=True):
        mean, error = linear.mean_and_error(values)
        assert abs(mean - 2 * m) < 4 * error < 0.1
        assert values.var().item() == pytest.approx(variance, rel=0.03)
    slope, _, f = estimates(2)
    torch.testing.assert_close(f, slope[:, 0].square() / 4)


def test_an_images_cost_has_the_gradient_of_its_loss():
    model, image = planted_decoder(), grey(1)
    z = normal(5, 3).requires_grad_()
    cost, same = latent.cost_of_codes(model, image)(z), image.expand(5, -1, -1, -1)
    torch.testing.assert_close(cost.detach(), latent.errors_at(model, same, z))
    residual = model.decode(z).flatten(1) - as_pixels(image).flatten(1)
    known = 2 * residual @ model.decoder[0].weight
    torch.testing.assert_close(torch.autograd.grad(cost.sum(), z)[0], known)


# ---- what the decoder makes of a code


def test_a_linear_optimum_lies_where_its_closed_form_says_and_on_the_line():
    images, known, _, model = optimal(beta=0.02)
    rate, distortion = latent.rate_and_distortion(model, images, seed=0)
    exact = (as_pixels(images) - decode_set(model, encode_set(model, images)[0])).square()
    curve = linear.curve_on(known, linear.scores_of(known, images), [0.1, 0.01, 0.005], 3)
    assert rate == pytest.approx(curve.rate[1].item(), rel=1e-4)
    assert distortion - exact.sum((1, 2, 3)).mean().item() == pytest.approx(2 * 0.01, rel=0.2)
    assert latent.against_linear(rate, curve.distortion[1].item(), curve) == pytest.approx(1, 1e-3)
    least, most = curve.rate[0].item(), curve.distortion[0].item()
    assert latent.against_linear(least, most / 2, curve) == pytest.approx(0.5)
    assert latent.against_linear(99.0, 1.0, curve) is None


def test_a_ratio_of_means_has_the_error_that_it_has_over_samples():
    b = torch.rand(300, 100, generator=generator()) + 1
    a = 0.5 * b + 0.1 * normal(300, 100, seed=1)
    found = torch.tensor([latent.ratio_of_means(*pair) for pair in zip(a, b, strict=True)])
    assert found[:, 0].mean().item() == pytest.approx(0.5, abs=0.003)
    assert found[:, 1].mean().item() == pytest.approx(found[:, 0].std().item(), rel=0.15)


def test_noise_costs_a_linear_decoder_the_sum_of_its_variances():
    model, images = planted_decoder(), grey(600)
    mu, logvar = encode_set(model, images)
    known = reconstruction_error(LINEAR, model.decode(mu), as_pixels(images)).detach()
    torch.testing.assert_close(latent.errors_at(model, images, mu), known)
    cost = latent.noise_cost(model, images, mu, logvar, generator())
    assert cost.mean().item() == pytest.approx(3 * 1 / 3, rel=0.05)
    root = torch.tensor([[1.0, 0.5], [0.5, 2.0]])
    noise = latent.shaken(torch.ones(100_000, 2), root, 0.5, generator()) - 1
    torch.testing.assert_close(noise.T.cov(), root @ root / 4, rtol=0.02, atol=0.005)


@pytest.mark.parametrize("beta", [1.0, 0.1])
def test_curvature_and_variance_obey_the_law_at_a_linear_optimum_alone(beta):
    """There 1 / sigma_j² = 1 + H_jj / beta, with H = 2 |column j of the decoder|²."""
    images, _, best, model = optimal(beta)
    mu, logvar = encode_set(model, images)
    curvature = latent.curvatures(model, images, mu, logvar)
    known = 2 * best.decoder.square().sum(0)
    torch.testing.assert_close(curvature.mean(0), known, rtol=1e-3, atol=1e-3)
    assert latent.curvature_law(curvature, logvar, beta) == pytest.approx((1, 0), abs=2e-3)
    assert latent.curvature_law(curvature, logvar / 2, beta).slope == pytest.approx(0.5, abs=2e-3)
    assert math.isnan(latent.curvature_law(curvature[:1], logvar[:1], beta).slope)


def test_the_slopes_error_is_its_spread_over_sets_of_images():
    found = []
    for seed in range(200):
        curvature = torch.rand(64, 20, generator=generator(seed)).double() * torch.arange(1.0, 21)
        share = 0.5 + torch.rand(64, 20, generator=generator(1000 + seed))
        found.append(latent.curvature_law(curvature, -(1 + curvature * share).log(), 1.0))
    slopes, errors = torch.tensor(found).T
    assert errors.mean().item() == pytest.approx(slopes.std().item(), rel=0.2)
    assert slopes.mean().item() == pytest.approx(1, abs=0.01)


def test_moves_along_a_dimension_are_those_of_the_decoders_columns():
    z = torch.tensor([[0.1, 0.2, 0.3], [0.3, 0.6, 0.9]])
    model = planted_decoder()
    ends = torch.tensor([[0.1, -0.2, 0.3], [0.1, 0.0, 0.3], [0.1, 0.2, 0.3]])
    frames = latent.traverse(model, z[:1], 1, 0.2)
    torch.testing.assert_close(frames[[0, 3, 6]], decode_set(model, ends))
    with torch.no_grad():
        column = model.decoder[0].weight.mul_(0.1)[:, 2]
    known = 255 * 6 * column.abs().max().item()
    assert latent.largest_move(model, z, 2) == pytest.approx(known, rel=1e-4)


def test_a_step_moves_a_pixel_by_its_length_over_the_root_of_the_pixels():
    """Behind columns that are orthonormal, in whatever direction of the used dimensions it goes."""
    model, used = planted_decoder(), torch.tensor([0, 2])
    with torch.no_grad():
        list(model.decoder.parameters())[0][:, 1] *= 10  # it is not used
    mu = 0.1 * normal(50, 3) * torch.tensor([1, 0, 1])
    size = latent.step_size(model, mu, used, generator(), step=0.2)
    assert size == pytest.approx(255 * 0.2 / 48 ** 0.5, rel=1e-4)


def test_the_main_direction_of_a_code_has_its_part_of_the_variance_and_spreads_over_its_axes():
    own, noise = 3 * normal(20_000, 1), normal(20_000, 8, seed=1)
    axis = torch.zeros(8)
    axis[5] = 1
    for direction, over in ((axis, 1), (torch.ones(8) / 8 ** 0.5, 8)):
        part, axes = latent.main_direction(own * direction + noise)
        assert part == pytest.approx(10 / 17, abs=0.01) and axes == pytest.approx(over, rel=0.01)


@pytest.mark.parametrize("recipe, share", [({}, 2 / 3), ({"reconstruction": "gaussian"}, 1 / 2),
                                           ({"beta": 4.0}, 1 / 3)])
def test_the_amortisation_gap_is_a_linear_decoders_and_0_at_its_optimum(recipe, share):
    """a |x - ½ - Bz|² + b KL is least at share · B^T (x - ½), share = 2a / (2a + b), and there
    1 - share is the variance; three times that code costs (3 - share)² times b / 2 (1 - share)."""
    images, spoilt = grey(64), planted_decoder(3.0, variance=1 - share, **recipe)
    code = encode_set(spoilt, images)[0] / 3
    known = spoilt.recipe.beta / (1 - share) / 2 * (3 - share) ** 2 * code.square().sum(1)
    gap, error = latent.amortisation_gap(spoilt, images, seed=0, steps=200)
    assert gap == pytest.approx(known.mean().item(), rel=0.02)
    assert error == pytest.approx(linear.mean_and_error(known)[1], rel=0.2)
    best = planted_decoder(share, variance=1 - share, **recipe)
    assert latent.amortisation_gap(best, images, seed=0)[0] == pytest.approx(0, abs=0.1)


# ---- which dimensions correspond


def test_a_permutation_is_found_through_flips_and_rising_maps_among_live_dimensions():
    a, order = normal(500, 40), torch.randperm(40, generator=generator(1))
    flips = torch.where(torch.rand(40, generator=generator(2)) < 0.5, -1.0, 1.0)
    b = torch.empty_like(a)
    b[:, order] = torch.sinh(2 * flips * a)
    found = latent.match_live(a, b, torch.tensor([3, 4, 9, 17, 30]), torch.arange(40))
    assert sorted(found.pairs[:, 0].tolist()) == [3, 4, 9, 17, 30]
    assert torch.equal(found.pairs[:, 1], order[found.pairs[:, 0]])
    assert torch.equal(found.sign, flips[found.pairs[:, 0]].long())
    assert found.rho.tolist() == pytest.approx([1] * 5)


def test_the_best_matched_come_first_with_scipys_rho_and_a_dead_dimension_matches_nothing():
    a, dead = normal(2000, 5), torch.ones(2000)
    b = torch.stack([a[:, 1] + normal(2000, seed=2), 0.3 * normal(2000, seed=1) - a[:, 3], dead], 1)
    found = latent.match(a, b)
    rho = [abs(spearmanr(a[:, i], b[:, j]).statistic) for i, j in ((3, 1), (1, 0))]
    assert found.pairs[:2].tolist() == [[3, 1], [1, 0]]
    assert found.rho.tolist() == pytest.approx([*rho, 0], abs=1e-9)


def test_corresponding_codes_are_told_from_turned_ones_and_read_both_ways():
    a, noise = normal(2, 2000, 8)
    order, every = torch.tensor([3, 0, 6, 1, 7, 2, 5, 4]), torch.arange(8)
    found = latent.correspondence(a, noise - a[:, order], every, every, seed=0)
    half = spearmanr(a[:, 0], a[:, 0] + noise[:, 0]).statistic
    assert found.rho == pytest.approx(half, abs=0.03) and found.turned < 0.6
    assert found.same < 0.05 and found.read == pytest.approx(0.5, abs=0.03)
    none = latent.correspondence(a, noise, every[:5], every[2:], seed=0)
    assert none.rho == pytest.approx(none.turned, abs=0.02)
    rich = latent.correspondence(a, a, every, every[2:], seed=0)
    assert [rich.same, rich.read] == pytest.approx([1, 1])
    poor = latent.correspondence(a, a, every[2:], every, seed=0)    # two of eight are missing
    assert poor.same == pytest.approx(1) and poor.read == pytest.approx(6 / 8, abs=0.02)
    assert latent.read_linearly(a[:19], a[:19]) is None


def test_turned_axes_tell_the_same_together_and_one_attribute_each_no_more():
    has = torch.rand(3000, 4, generator=generator()) < 0.5
    pure = has.float() + 0.3 * normal(3000, 4, seed=1)
    turned = latent.turned(pure * torch.tensor([1.0, 5.0, 0.1, 1.0]), seed=0)
    assert latent.read_linearly(pure, turned) == pytest.approx(1, abs=1e-5)
    torch.testing.assert_close(turned.T.cov(), torch.eye(4), atol=0.06, rtol=0)
    found = latent.attribute_correlation(pure, has)
    np.testing.assert_allclose(found, np.corrcoef(pure.T, has.T)[:4, 4:], atol=1e-6)
    share = found.square().diagonal().sum() / found.square().sum()
    assert latent.one_factor(pure, has) == pytest.approx(share.item())
    turns = [latent.one_factor(latent.turned(pure, seed=3 + k), has) for k in range(latent.TURNS)]
    assert max(turns) < 0.8
    assert latent.one_factor_turned(pure, has, seed=3) == pytest.approx(
        (np.mean(turns), np.std(turns, ddof=1) / latent.TURNS ** 0.5))
    assert latent.one_factor(pure, torch.ones(3000, 4)) is None  # nothing to tell


# ---- probes


NAMES = ("Hat", "Scarf")


def attributes(n, alike=0.5, rare=0.0, seed=0):
    """Codes of unequal spreads, in which a Hat and a Scarf have a dimension each; who has them,
    both or neither in a share `alike`, and fewer by a share `rare`."""
    hat, same, *more = torch.rand(4, n, generator=generator(seed))
    has = torch.stack([hat < 0.5, (hat < 0.5) == (same < alike)], 1) & (torch.stack(more, 1) > rare)
    codes = normal(n, 4, seed=seed + 1)
    codes[:, :2] += 2.0 * has
    return codes * torch.tensor([1.0, 1.0, 10.0, 0.1]) + 3, has


def test_probes_are_scikit_learns_and_read_what_its_scores_say():
    (codes, has), (test, truth) = attributes(600, rare=0.4), attributes(500, rare=0.4, seed=2)
    probes = latent.fit_probes(codes, has, NAMES)
    found = latent.read(probes, test, truth, NAMES)
    for name, own, y in zip(NAMES, has.T, truth.T, strict=True):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1)).fit(codes, own)
        logit = torch.from_numpy(model.decision_function(test))
        np.testing.assert_allclose(probes[name].logit(test), logit, atol=1e-4)
        steepest = model[0].scale_ * model[1].coef_[0]  # in the codes' units
        np.testing.assert_allclose(probes[name].direction, steepest, rtol=1e-3)
        assert found[name].mean().item() == pytest.approx(roc_auc_score(y, logit), abs=1e-4)
    mean = (found["Hat"] + found["Scarf"]).mean().item() / 2
    assert latent.mean_auc(found).mean().item() == pytest.approx(mean)
    every = torch.stack([has[:, 0], torch.ones(600).bool()], 1)
    assert list(latent.fit_probes(codes, every, NAMES)) == ["Hat"]  # what all have is not read


def test_parts_have_the_auc_as_their_mean_and_the_jackknifes_error_ties_included():
    has = torch.arange(150) % 3 == 0
    scores = [(shift * has + normal(150, seed=seed)).round(decimals=1)
              for seed, shift in ((2, 1.0), (3, 0.5))]
    one, two = (latent.auc_parts(s, has) for s in scores)
    assert one.mean().item() == pytest.approx(roc_auc_score(has, scores[0]), rel=1e-12)
    without = torch.tensor([[latent.auc_parts(s[kept], has[kept]).mean() for s in scores]
                            for kept in ~torch.eye(150).bool()])
    for parts, aucs in ((one, without[:, 0]), (one - two, without[:, 0] - without[:, 1])):
        jackknife = math.sqrt(149) * aucs.std(unbiased=False).item()
        assert linear.mean_and_error(parts)[1] == pytest.approx(jackknife, rel=0.02)


def test_a_density_is_told_from_a_shift_and_from_another_shape_but_not_from_itself():
    draws, signs = normal(2000, 8, seed=9), normal(2000, 8, seed=1).sign()
    clusters = 0.9 * signs + (1 - 0.9 ** 2) ** 0.5 * normal(2000, 8, seed=3)  # of equal covariance
    stretched = torch.logspace(-1, 1, 8)
    auc, error = latent.two_sample_auc(normal(2000, 8) * stretched, draws * stretched)
    assert abs(auc - 0.5) < 3 * error < 0.05
    assert latent.two_sample_auc(normal(2000, 8) + 1.5, draws)[0] > 0.97
    auc, error = latent.two_sample_auc(clusters, draws)
    assert auc > 0.5 + 5 * error
    assert latent.two_sample_auc(normal(19, 8), draws) == (None, None)


# ---- edits


def test_steps_move_the_probe_as_far_and_at_equal_others_leave_out_what_only_comes_along():
    codes, has = attributes(8000, alike=0.8)
    probes = latent.fit_probes(codes, has, NAMES)
    steps = latent.edit_steps(probes, codes, has, NAMES)
    for name, probe in probes.items():
        moved = [(probe.weight @ each[name]).item() for each in steps.values()]
        assert moved == pytest.approx([moved[0]] * 3)
        along = steps["probe's direction"][name] / probe.direction
        assert along.tolist() == pytest.approx([along[0].item()] * 4)
    assert steps["mean difference"]["Hat"][:2].tolist() == pytest.approx([2, 1.2], abs=0.1)
    assert steps["at equal others"]["Hat"][1].item() == pytest.approx(0, abs=0.1)


def test_an_edit_counts_alike_forwards_and_back_and_a_leak_is_seen_where_it_was_planted():
    model = planted_decoder(leak=0.5)

    def readers(images):
        return encode_set(model, images)[0]

    mu, step = torch.zeros(2, 3), torch.tensor([0.2, 0.0, -0.1])
    before = readers(decode_set(model, mu))
    found = latent.effect(model, mu, torch.tensor([True, False]), step, readers, before)
    assert torch.allclose(found, torch.tensor([0.2, 0.1, -0.1]).expand(2, 3), atol=1e-5)
