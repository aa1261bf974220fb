"""Codes: planted permutations are found, planted attributes read, and planted leaks seen."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from tiny import LINEAR, generator

from lab import codes as ask
from lab import measures
from lab.training import decode_set, encode_set
from vae_helpers import build

pytestmark = pytest.mark.usefixtures("one_thread")

chance_of = statistics.NormalDist().cdf


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed))


# ---- which dimensions correspond


def test_live_dimensions_are_those_that_active_units_counts():
    kl = torch.tensor([0.5, 0.0, 0.02, 0.01])
    assert measures.live(kl).tolist() == [0, 2] and measures.active_units(kl) == 2
    assert measures.live(kl.expand(7, -1)).tolist() == [0, 2]
    assert measures.live(torch.zeros(4)).tolist() == []


def test_a_permutation_is_found_through_flips_and_rising_maps():
    a, order = normal(500, 40), torch.randperm(40, generator=generator(1))
    flips = torch.where(torch.rand(40, generator=generator(2)) < 0.5, -1.0, 1.0)
    b = torch.empty_like(a)
    b[:, order] = torch.sinh(2 * flips * a)
    found = ask.match(a, b)
    assert found.pairs.dtype == torch.int64 and found.pairs[:, 0].unique().tolist() == [*range(40)]
    assert torch.equal(found.pairs[:, 1], order[found.pairs[:, 0]])
    assert torch.allclose(found.rho, torch.ones(40, dtype=torch.float64))
    assert torch.equal(found.sign, flips[found.pairs[:, 0]].long())


def test_the_best_matched_come_first_and_a_code_may_have_fewer_dimensions():
    a = normal(2000, 5)
    b = torch.stack([a[:, 3] + 0.3 * normal(2000, seed=1), a[:, 1] + normal(2000, seed=2)], 1)
    found = ask.match(a, b)
    assert found.pairs.tolist() == [[3, 0], [1, 1]] and found.rho[0] > 0.9 > 0.8 > found.rho[1]


def test_unrelated_codes_match_no_better_than_shuffled_ones():
    a, b = normal(1000, 30), normal(1000, 30, seed=1)
    level = ask.chance_level(a, b)
    rho = ask.match(a, b).rho
    assert rho.max() < 1.15 * level and (rho > level).double().mean() <= 0.05
    shuffled = ask.match(a, a[torch.randperm(1000, generator=generator(2))]).rho
    assert (shuffled > level).double().mean() <= 0.05 and ask.match(a, a).rho.min() > level


def test_a_dead_dimension_matches_nothing():
    a = normal(300, 4)
    a[:, 2] = 1.5
    found = ask.match(a, a)
    assert found.rho.tolist() == pytest.approx([1, 1, 1, 0]) and found.pairs[3].tolist() == [2, 2]


# ---- probes


def two_gaussians(n, d=20, apart=2.0, seed=0):
    """Codes of unequal spreads, of which half are moved by `apart` spreads; who, and which way."""
    spreads = torch.logspace(-1, 1, d)
    way = torch.nn.functional.normalize(normal(d, seed=5), dim=0)
    has = torch.arange(n) % 2 == 0
    return (normal(n, d, seed=seed) + apart * has[:, None] * way) * spreads, has, way * spreads


def test_a_planted_direction_is_found_and_read_as_well_as_can_be():
    """Two Gaussians δ apart: the best reader has an AUC of Φ(δ/√2) and is right with Φ(δ/2)."""
    (codes, has, way), (test, truth, _) = two_gaussians(6000), two_gaussians(6000, seed=1)
    probes = ask.fit_probes(codes, has[:, None], ("Hat",))
    cosine = torch.cosine_similarity(probes["Hat"].direction / probes["Hat"].scale,
                                     way.double() / probes["Hat"].scale, dim=0)
    assert cosine > 0.95
    found = ask.read(probes, test, truth[:, None], ("Hat",))["Hat"]
    assert found.auc == pytest.approx(chance_of(2 / math.sqrt(2)), abs=0.012)
    assert found.accuracy == pytest.approx(chance_of(1), abs=0.015)
    assert found.balanced == pytest.approx(found.accuracy, abs=0.005) and found.majority == 0.5


def test_of_noise_a_probe_reads_nothing_and_answers_what_most_do():
    codes, test = normal(4000, 10), normal(4000, 10, seed=1)
    has, truth = (torch.rand(4000, 1, generator=generator(s)) < 0.1 for s in (2, 3))
    found = ask.read(ask.fit_probes(codes, has, ("Hat",)), test, truth, ("Hat",))["Hat"]
    auc, error = measures.mean_and_error(found.parts)
    assert abs(auc - 0.5) < 3 * error < 0.06
    assert found.accuracy == found.majority == pytest.approx(1 - found.share)
    assert found.balanced == pytest.approx(0.5, abs=0.05)


def test_an_attribute_without_two_kinds_has_no_probe_and_no_reading():
    codes, has = normal(60, 4), torch.arange(60) % 2 == 0
    labels = torch.stack([has, torch.ones_like(has)], 1)
    probes = ask.fit_probes(codes, labels, ("Hat", "Face"))
    assert list(probes) == ["Hat"]
    assert ask.read(probes, codes, labels[:, [1, 0]], ("Hat", "Face")) == {}


def test_a_dimension_without_spread_does_no_harm():
    codes, has, _ = two_gaussians(400)
    codes[:, 3] = 0
    probe = ask.fit_probes(codes, has[:, None], ("Hat",))["Hat"]
    assert probe.weight.isfinite().all() and probe.weight[3] == 0


def test_parts_have_the_auc_as_their_mean_ties_included():
    scores = torch.randint(0, 6, (400,), generator=generator()).double()
    has = torch.rand(400, generator=generator(1)) < 0.3
    parts = ask.auc_parts(scores + has, has)
    assert parts.mean().item() == pytest.approx(roc_auc_score(has, scores + has), rel=1e-12)


def resampled(statistic, n):
    """The standard error of a number of n faces by the bootstrap: its spread over sets of them."""
    sets = np.random.default_rng(0).integers(0, n, (400, n))
    return np.std([statistic(index) for index in sets], ddof=1)


def test_the_error_of_a_mean_is_that_of_the_bootstrap():
    values = normal(300).numpy()
    _, error = measures.mean_and_error(torch.from_numpy(values))
    assert error == pytest.approx(resampled(lambda i: values[i].mean(), 300), rel=0.1)


def test_the_errors_of_an_auc_and_of_a_difference_are_those_of_the_bootstrap():
    has = np.arange(300) % 3 == 0
    scores = [shift * has + normal(300, seed=seed).numpy() for seed, shift in ((2, 1.0), (3, 0.5))]
    one, two = (ask.auc_parts(torch.from_numpy(s), torch.from_numpy(has)) for s in scores)

    def auc(i, k):
        return roc_auc_score(has[i], scores[k][i])

    _, error = measures.mean_and_error(one)
    assert error == pytest.approx(resampled(lambda i: auc(i, 0), 300), rel=0.1)
    _, error = measures.mean_and_error(one - two)
    assert error == pytest.approx(resampled(lambda i: auc(i, 0) - auc(i, 1), 300), rel=0.1)


def test_the_error_of_an_auc_is_that_of_many_sets_of_faces():
    """And of parts without spread within a kind it is that of nothing."""
    has = torch.arange(200) % 4 == 0
    found = [measures.mean_and_error(ask.auc_parts(has + normal(200, seed=seed), has))
             for seed in range(300)]
    means, errors = torch.tensor(found).T
    assert errors.mean().item() == pytest.approx(means.std().item(), rel=0.12)
    assert measures.mean_and_error(ask.auc_parts(has.double(), has)) == (1.0, 0.0)


# ---- edits


def made_model(leak=0.0):
    """x_hat = ½ + B z / 100, B of orthonormal columns, and an encoder that undoes it, but that z_1
    comes back with `leak` times z_0 added."""
    model = build(LINEAR)
    basis = torch.linalg.qr(normal(48, 3)).Q
    mixed = torch.eye(3)
    mixed[1, 0] = leak
    with torch.no_grad():
        model.decoder[0].weight.copy_(basis / 100)
        model.decoder[0].bias.fill_(0.5)
        model.to_mu.weight.copy_(100 * mixed @ basis.T)
        model.to_mu.bias.copy_(-50 * mixed @ basis.sum(0))
    return model.eval()


@pytest.fixture
def model():
    return made_model()


def planted(n=20000, seed=0):
    """Codes with a dimension for each of two attributes, which have nothing to do with another."""
    draw = generator(seed)
    has = torch.rand(n, 2, generator=draw) < 0.5
    codes = torch.randn(n, 3, generator=draw)
    codes[:, :2] += 2.0 * has
    return codes, has


def changed(model, way):
    """The matrix (edited, read) of changes in standard deviations, judged by other probes."""
    names, (codes, has) = ("Hat", "Scarf"), planted()
    editors = ask.fit_probes(codes[::2], has[::2], names)
    judges = ask.fit_probes(codes[1::2], has[1::2], names)
    steps = ask.edit_steps(editors, codes[::2], has[::2], names)[way]
    mu, truth = planted(200, seed=1)

    def says(seen):
        return torch.stack([probe.logit(seen) for probe in judges.values()], 1)

    def readers(images):
        return says(encode_set(model, images)[0])

    before, spread = readers(decode_set(model, mu)), says(codes).std(0)
    return torch.stack([(ask.effect(model, mu, truth[:, i], steps[name], readers, before)
                         / spread).mean(0) for i, name in enumerate(names)])


def test_codes_survive_the_planted_model(model):
    mu, _ = planted(50)
    assert torch.allclose(encode_set(model, decode_set(model, mu))[0], mu, atol=1e-3)


@pytest.mark.parametrize("way", ["mean difference", "at equal others", "probe's direction"])
def test_independent_attributes_change_alone(model, way):
    """The logit follows its dimension, whose spread is √(1 + δ²/4) for a step of δ = 2."""
    found = changed(model, way)
    assert found.diagonal().tolist() == pytest.approx([2 / math.sqrt(2)] * 2, rel=0.05)
    assert (found - found.diagonal().diag()).abs().max() < 0.1


def test_a_leak_is_seen_where_it_was_planted():
    """Half of a step in z_0 comes back in z_1, and nothing the other way."""
    found = changed(made_model(leak=0.5), "mean difference")
    assert found[0, 1].item() == pytest.approx(found[1, 1].item() / 2, rel=0.1)
    assert abs(found[1, 0]) < 0.1 * found[0, 0]


def together(n=8000, share=0.8, seed=0):
    """Two attributes that often come together, each with a dimension of its own."""
    draw = generator(seed)
    hat = torch.rand(n, generator=draw) < 0.5
    scarf = torch.where(torch.rand(n, generator=draw) < share, hat, ~hat)
    has = torch.stack([hat, scarf], 1)
    return 2.0 * has + torch.randn(n, 2, generator=draw), has


def test_steps_at_equal_others_leave_out_what_only_comes_along():
    codes, has = together()
    steps = ask.edit_steps(ask.fit_probes(codes, has, ("Hat", "Scarf")), codes, has,
                           ("Hat", "Scarf"))
    assert steps["mean difference"]["Hat"].tolist() == pytest.approx([2, 1.2], abs=0.1)
    assert abs(steps["at equal others"]["Hat"][1] / steps["at equal others"]["Hat"][0]) < 0.05


def test_all_steps_move_the_probe_as_far():
    codes, has = together()
    probes = ask.fit_probes(codes, has, ("Hat", "Scarf"))
    for name, probe in probes.items():
        moved = [(probe.weight @ steps[name]).item()
                 for steps in ask.edit_steps(probes, codes, has, ("Hat", "Scarf")).values()]
        assert moved == pytest.approx([moved[0]] * 3)


def test_a_face_that_has_it_is_moved_back_and_counts_alike(model):
    def readers(images):
        return encode_set(model, images)[0]

    mu, step = torch.zeros(2, 3), torch.tensor([0.5, 0.0, -1.0])
    found = ask.effect(model, mu, torch.tensor([True, False]), step, readers,
                       readers(decode_set(model, mu)))
    assert torch.allclose(found, step.expand(2, 3), atol=1e-3)


# ---- whether codes come from a density


def mixed(n=8, seed=5):
    """An affine map of n dimensions that stretches some of them ten times as far as others."""
    matrix = torch.linalg.qr(normal(n, n, seed=seed)).Q * torch.logspace(-1, 0, n)
    return lambda codes: codes @ matrix + 3


def whitened_shapes(n=2_000):
    """Codes of mean 0 and covariance 1 that are not Gaussian: two clusters, and Laplace's."""
    signs = torch.where(normal(n, 8, seed=1) > 0, 0.9, -0.9)
    uniform = torch.rand(n, 8, generator=generator(2)) - 0.5
    return {"clusters": signs + (1 - 0.9 ** 2) ** 0.5 * normal(n, 8, seed=3),
            "laplace": -uniform.sign() * (1 - 2 * uniform.abs()).log() / 2 ** 0.5}


@pytest.mark.parametrize("n", [8, 128])
def test_codes_of_the_density_itself_are_not_told_from_it(n):
    auc, error = ask.two_sample_auc(normal(2_000, n), normal(2_000, n, seed=9))
    assert abs(auc - 0.5) < 3 * error < 0.05


def test_a_shift_is_seen_and_so_is_another_shape_of_equal_mean_and_covariance():
    draws = normal(2_000, 8, seed=9)
    assert ask.two_sample_auc(normal(2_000, 8) + 1.5, draws)[0] > 0.97
    for name, codes in whitened_shapes().items():
        auc, error = ask.two_sample_auc(codes, draws)
        assert auc > 0.5 + 5 * error, name


def test_an_affine_map_of_codes_and_density_changes_little():
    move, draws = mixed(), normal(2_000, 8, seed=9)
    for codes in (normal(2_000, 8), *whitened_shapes().values()):
        (plain, error), (moved, _) = (ask.two_sample_auc(*both) for both in (
            (codes, draws), (move(codes), move(draws))))
        assert abs(plain - moved) < 3 * error


def test_two_samples_need_enough_codes_and_leave_out_constant_dimensions():
    assert ask.two_sample_auc(normal(18, 8), normal(400, 8)) == (None, None)
    assert ask.two_sample_auc(normal(400, 0), normal(400, 0)) == (None, None)
    still = torch.cat([normal(400, 3), torch.ones(400, 2)], 1)
    auc, error = ask.two_sample_auc(still, torch.cat([normal(400, 3, seed=1), still[:, 3:]], 1))
    assert abs(auc - 0.5) < 3 * error
    assert ask.two_sample_auc(torch.ones(40, 3), torch.ones(40, 3))[0] == 0.5
