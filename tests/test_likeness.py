"""How like two sets are: closed forms, direct sums, and planted sets."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from lab import likeness, measures
from lab.ladder import blur

pytestmark = pytest.mark.usefixtures("one_thread")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


# ---- the Fréchet distance


def test_frechet_distance_of_diagonal_gaussians_is_its_closed_form():
    mean_a, mean_b, sd_a, sd_b = torch.rand(4, 6, generator=generator(), dtype=torch.float64)
    a, b = (measures.Gaussian(m, s.square().diag()) for m, s in ((mean_a, sd_a), (mean_b, sd_b)))
    expected = ((mean_a - mean_b).square() + (sd_a - sd_b).square()).sum().item()
    assert likeness.frechet_distance(a, b) == pytest.approx(expected, rel=1e-10)


def test_frechet_distance_is_that_of_the_general_matrix_root():
    a, b = (normal(5, 5, seed=seed) for seed in (0, 1))
    a, b = a @ a.T, b @ b.T
    eigenvalues = np.linalg.eigvals((a @ b).numpy()).real       # of a product, not symmetric
    expected = (a.trace() + b.trace()).item() - 2 * np.sqrt(eigenvalues).sum()
    zero = torch.zeros(5, dtype=torch.float64)
    found = likeness.frechet_distance(measures.Gaussian(zero, a), measures.Gaussian(zero, b))
    assert found == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_is_zero_for_equal_sets_symmetric_and_blind_to_rotations():
    a, b = normal(500, 8), 1.5 * normal(400, 8, seed=1) + 0.3
    distance, turn = likeness.frechet_distance(a, b), torch.linalg.qr(normal(8, 8, seed=2)).Q
    assert abs(likeness.frechet_distance(a, a)) < 1e-10
    assert likeness.frechet_distance(b, a) == pytest.approx(distance, rel=1e-9)
    assert likeness.frechet_distance(a @ turn, b @ turn) == pytest.approx(distance, rel=1e-9)
    assert likeness.frechet_distance(measures.gaussian_fit(a), b) == distance


# ---- KID


def direct(a, b):
    """The same, pair by pair."""
    def k(x, y):
        return (sum(p * q for p, q in zip(x, y, strict=True)) / len(x) + 1) ** 3

    a, b = a.tolist(), b.tolist()
    within = [sum(k(x, y) for x, y in itertools.permutations(t, 2)) / (len(t) * (len(t) - 1))
              for t in (a, b)]
    between = sum(k(x, y) for x, y in itertools.product(a, b)) / (len(a) * len(b))
    return sum(within) - 2 * between


@pytest.mark.parametrize("sizes", [(9, 7), (5, 5), (2, 3)])
def test_kid_is_the_direct_sum_over_pairs(sizes):
    a, b = (normal(n, 4, seed=seed) + seed for seed, n in enumerate(sizes))
    assert likeness.kid(a, b)[0] == pytest.approx(direct(a, b), rel=1e-10)
    assert likeness.kid(a.float(), b.float())[0] == pytest.approx(direct(a, b), rel=1e-4)


def test_kid_does_not_depend_on_how_many_rows_are_done_at_once(monkeypatch):
    a, b = normal(50, 4), normal(40, 4, seed=1) + 0.5
    whole = likeness.kid(a, b)
    sums = likeness._kernel_sum
    monkeypatch.setattr(likeness, "_kernel_sum", lambda p, q: sums(p, q, rows=7))
    assert likeness.kid(a, b) == pytest.approx(whole, rel=1e-10)


@pytest.mark.parametrize("shift", [0.0, 0.3, 1.0])
def test_kid_of_a_shifted_mean_is_its_closed_form(shift):
    """In one dimension (1 + xy)³ compares the first three moments, with weights 3, 3 and 1."""
    moments = [(shift, 0), (1 + shift ** 2, 1), (shift ** 3 + 3 * shift, 0)]
    expected = sum(weight * (p - q) ** 2
                   for weight, (p, q) in zip((3, 3, 1), moments, strict=True))
    value, error = likeness.kid(normal(4000, 1), normal(4000, 1, seed=1) + shift)
    assert value == pytest.approx(expected, abs=4 * error) and error < 0.2 * max(expected, 1)


def test_kid_of_one_distribution_is_zero_on_average_however_few_the_images():
    values = [likeness.kid(*normal(2, 6, 3, seed=seed))[0] for seed in range(600)]
    mean, error = measures.mean_and_error(torch.tensor(values))
    assert abs(mean) < 3 * error and min(values) < 0


def test_the_error_of_kid_is_its_spread_over_sets_where_distributions_differ():
    found = torch.tensor([likeness.kid(normal(100, 3, seed=2 * i),
                                       normal(100, 3, seed=2 * i + 1) + 1) for i in range(150)])
    assert found[:, 1].mean().item() == pytest.approx(found[:, 0].std().item(), rel=0.2)


def test_the_error_of_kid_is_some_three_times_its_spread_where_there_is_no_difference():
    found = torch.tensor([likeness.kid(*normal(2, 100, 3, seed=i)) for i in range(150)])
    assert 2 < (found[:, 1].mean() / found[:, 0].std()).item() < 5


def test_kid_of_too_few_images_is_not_a_number():
    one, three, many = normal(1, 4), normal(3, 4), normal(50, 4)
    assert all(math.isnan(number) for number in likeness.kid(one, many))
    value, error = likeness.kid(three, many)
    assert math.isfinite(value) and math.isnan(error)


def test_directions_have_one_length_and_products_that_are_cosines():
    a, b = normal(2, 5, 16)
    product = (likeness.directions(a) * likeness.directions(7 * b)).sum(1) / 16
    torch.testing.assert_close(product, torch.cosine_similarity(a, b))
    assert (likeness.directions(torch.zeros(2, 4)) == 0).all()


# ---- neighbours


def test_equal_sets_are_wholly_recalled_and_covered():
    points = normal(60, 5)
    found = likeness.recall_and_coverage(points, points.clone())
    assert (found["precision"], found["recall"], found["coverage"]) == (1, 1, 1)
    assert found["density"] == pytest.approx(6 / 5)             # five neighbours and the point


def test_numbers_are_those_of_the_definitions_taken_pair_by_pair():
    real, made, k = normal(30, 3), 0.8 * normal(25, 3, seed=1) + 0.4, 3

    def near(a, b):
        return math.dist(a.tolist(), b.tolist())

    def reach(points):
        return [sorted(near(p, q) for q in points)[k] for p in points]      # 0 is itself

    inside = torch.tensor([[near(r, m) <= ball for m in made]
                           for r, ball in zip(real, reach(real), strict=True)])
    reached = torch.tensor([[near(r, m) <= ball for m, ball in zip(made, reach(made), strict=True)]
                            for r in real])
    expected = {"precision": inside.any(0), "recall": reached.any(1),
                "density": inside.sum(0) / k, "coverage": inside.any(1)}
    found = likeness.recall_and_coverage(real, made, k)
    assert found == pytest.approx({name: t.double().mean().item() for name, t in expected.items()})


def test_a_cluster_that_is_missing_halves_recall_and_coverage_and_one_too_many_precision():
    places = torch.tensor([[0.0, 0, 0], [50, 0, 0], [0, 50, 0]]).double()
    here, there, beyond = (normal(200, 3, seed=i) + place for i, place in enumerate(places))
    real = torch.cat([here, there])
    more = normal(200, 3, seed=5)
    found = likeness.recall_and_coverage(real, more)
    assert found["precision"] > 0.9
    assert 0.45 < found["recall"] <= 0.5 and 0.45 < found["coverage"] <= 0.5
    found = likeness.recall_and_coverage(real, torch.cat([more, beyond]))
    assert 0.45 < found["precision"] <= 0.5 and 0.45 < found["recall"] <= 0.5


def test_images_that_are_all_one_recall_nothing_though_each_is_precise():
    real = normal(200, 3)
    one = likeness.recall_and_coverage(real, real.mean(0).expand(200, 3))
    assert one["precision"] == 1 and one["recall"] == 0 and one["coverage"] < 0.15
    assert one["density"] > 1
    far = likeness.recall_and_coverage(real, real.mean(0).expand(200, 3) + 100)
    assert set(far.values()) == {0}


def test_only_so_many_count_and_too_few_have_no_neighbours():
    real, made = normal(40, 3), normal(40, 3, seed=1)
    assert likeness.recall_and_coverage(real, made, most=20) == likeness.recall_and_coverage(
        real[:20], made[:20])
    assert all(math.isnan(v) for v in likeness.recall_and_coverage(real[:5], made).values())


# ---- frequencies


def test_white_noise_has_its_variance_at_every_frequency():
    images = 0.5 + 0.1 * torch.randn(400, 3, 32, 32, generator=generator())
    frequency, power = likeness.power_spectrum(images)
    assert frequency.tolist() == [step / 32 for step in range(1, 17)]
    torch.testing.assert_close(power[1:], torch.full((15,), 0.01 / 3).double(), rtol=0.06, atol=0)


@pytest.mark.parametrize("steps", [4, 8, 12])
@pytest.mark.parametrize("axis", [2, 3])
def test_a_wave_has_its_power_at_its_frequency(steps, axis):
    wave = 0.5 + torch.cos(2 * torch.pi * steps * torch.arange(32) / 32) / 4
    images = wave.view([-1 if i == axis else 1 for i in range(4)]).expand(2, 3, 32, 32)
    frequency, power = likeness.power_spectrum(images)
    assert power.argmax() == steps - 1 and frequency[steps - 1] == steps / 32
    assert power[max(steps - 4, 0):steps + 3].sum() > 0.99 * power.sum()


def test_a_blur_takes_the_power_that_its_transform_says():
    noise = torch.rand(300, 3, 32, 32, generator=generator())
    (frequency, before), (_, after) = map(likeness.power_spectrum, (noise, blur(noise, 1.0)))
    expected = torch.exp(-(2 * torch.pi * frequency) ** 2)
    torch.testing.assert_close((after / before)[1:8].float(), expected[1:8], rtol=0.15, atol=0)


def test_brightness_is_no_power_and_twice_the_contrast_is_four_times_the_power():
    noise = torch.rand(20, 3, 16, 16, generator=generator()) / 4
    once, bright, twice = (likeness.power_spectrum(images)[1]
                           for images in (noise, noise + 0.5, 2 * noise))
    torch.testing.assert_close(bright, once, rtol=1e-4, atol=1e-8)
    torch.testing.assert_close(twice, 4 * once, rtol=1e-5, atol=0)


def test_bytes_have_the_spectrum_of_their_floats():
    images = torch.randint(0, 256, (5, 3, 16, 16), dtype=torch.uint8, generator=generator())
    for mine, other in zip(likeness.power_spectrum(images), likeness.power_spectrum(images / 255),
                           strict=True):
        torch.testing.assert_close(mine, other)
