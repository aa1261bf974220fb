"""Scores of images and of sets against known answers, and a judge of drawn pictures."""

import itertools
import math

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view
from scipy import linalg, ndimage
from sklearn.metrics import pairwise_distances_argmin_min
from tiny import generator, random_bytes

import data
from lab import samples
from lab.density import Gaussian, gaussian_fit
from lab.samples import BLURS, GRID, LADDER, RULES, blur, blur_at, blurred_to, sharpness, verdicts


def normal(*shape, seed=0):
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


# ---- scores of single images


def ssim_by_windows(a, b):
    """SSIM of two planes by its definition, window by window."""
    weights = np.exp(-np.arange(-5, 6) ** 2 / (2 * 1.5 ** 2))
    weights = np.outer(weights, weights) / weights.sum() ** 2

    def mean(windows):
        return (weights * windows).sum((2, 3))

    p, q = sliding_window_view(a, (11, 11)), sliding_window_view(b, (11, 11))
    mean_p, mean_q = mean(p), mean(q)
    off_p, off_q = p - mean_p[..., None, None], q - mean_q[..., None, None]
    luminance = (2 * mean_p * mean_q + 1e-4) / (mean_p ** 2 + mean_q ** 2 + 1e-4)
    structure = (2 * mean(off_p * off_q) + 9e-4) / (mean(off_p ** 2) + mean(off_q ** 2) + 9e-4)
    return (luminance * structure).mean()


def test_ssim_is_its_definition_and_one_for_equal_images():
    a = random_bytes(3, 3, 16, 14)
    b = (a / 255 + 0.2 * torch.randn(a.shape, generator=generator())).clamp(0, 1).double()
    expected = [np.mean([ssim_by_windows(*planes) for planes in zip(p, q, strict=True)])
                for p, q in zip(a.double().numpy() / 255, b.numpy(), strict=True)]
    np.testing.assert_allclose(samples.ssim(a.double() / 255, b), expected, rtol=1e-9)
    torch.testing.assert_close(samples.ssim(a, a), torch.ones(3))


def test_sharpness_is_the_variance_of_scipys_laplacian_and_0_for_ramps():
    images = random_bytes(4, 3, 16, 12)
    grey = images.double().numpy().mean(1) / 255
    expected = [ndimage.laplace(plane)[1:-1, 1:-1].var() for plane in grey]
    np.testing.assert_allclose(sharpness(images), expected, rtol=1e-5)
    ramp = torch.linspace(0, 1, 16, dtype=torch.float64).expand(1, 3, 16, 16)
    assert sharpness(ramp).item() < 1e-12 and sharpness(ramp.mT).item() < 1e-12


def test_smoothness_and_evenness_of_a_cross_fade_and_of_one_jump():
    a, b = torch.rand(2, 5, 1, 3, 8, 8, generator=generator(), dtype=torch.float64)
    t = torch.linspace(0, 1, 10, dtype=torch.float64).view(10, 1, 1, 1)
    frames = (1 - t) * a + t * b                                # (5, 10, 3, 8, 8)
    torch.testing.assert_close(samples.smoothness(frames), (a - b).square().mean((1, 2, 3, 4)) / 81)
    torch.testing.assert_close(samples.evenness(frames), torch.ones(5).double())
    jump = torch.zeros(10, 3, 8, 8, dtype=torch.uint8)
    jump[4:] = 255
    assert samples.smoothness(jump) == pytest.approx(1 / 9) and samples.evenness(jump) == 9


def test_nearest_is_scikit_learns_and_a_copy_is_at_exactly_0():
    references, queries = random_bytes(3000, 3, 4, 4), random_bytes(20, 3, 4, 4, seed=1)
    queries[2] = references[2345]
    index, distance = pairwise_distances_argmin_min(queries.flatten(1).double() / 255,
                                                    references.flatten(1).double() / 255)
    found = samples.nearest(queries, references)
    assert found.index.tolist() == index.tolist() and found.distance[2] == 0
    np.testing.assert_allclose(found.distance, distance, rtol=1e-6, atol=1e-7)


# ---- blur and frequencies


@pytest.mark.parametrize("width", [1, 2])
def test_a_blurred_point_has_that_standard_deviation_and_a_flat_image_stays(width):
    point = torch.zeros(1, 3, 33, 25)
    point[..., 16, 12] = 1
    spot = blur(point, width)[0, 1].double()
    for axis, centre in ((0, 16), (1, 12)):
        off = torch.arange(len(spot.sum(1 - axis))) - centre
        assert (spot.sum(1 - axis) * off ** 2).sum().item() == pytest.approx(width ** 2, rel=0.01)
    torch.testing.assert_close(blur(torch.full((1, 3, 8, 8), 0.3), width)[0, 0, 0, 0],
                               torch.tensor(0.3))


def test_images_are_blurred_to_the_sharpness_asked_for():
    images = blur(random_bytes(40, 3, 32, 32), 2.0)
    before = sharpness(images).mean().item()
    for share in (0.9, 0.5, 0.02):
        found = sharpness(blurred_to(images, share * before)).mean().item()
        assert found == pytest.approx(share * before, rel=0.01)
    assert torch.equal(blurred_to(images, 2 * before), images)      # nothing is sharpened,
    assert torch.equal(blurred_to(images, 0.0), blur(images, 8))    # or blurred for ever


def test_white_noise_has_its_variance_at_every_frequency_and_brightness_none():
    images = 0.5 + 0.1 * torch.randn(400, 3, 32, 32, generator=generator())
    frequency, power = samples.power_spectrum(images)
    assert frequency.tolist() == [step / 32 for step in range(1, 17)]
    torch.testing.assert_close(power[1:], torch.full((15,), 0.01 / 3).double(), rtol=0.06, atol=0)
    torch.testing.assert_close(samples.power_spectrum(2 * images - 0.7)[1], 4 * power)


@pytest.mark.parametrize("steps", [(4, 0), (0, 8), (12, 0), (3, 4)])
def test_a_wave_has_its_power_at_its_frequency(steps):
    down, across = torch.meshgrid(*[torch.arange(32.0)] * 2, indexing="ij")
    wave = 0.5 + torch.cos(2 * torch.pi * (steps[0] * down + steps[1] * across) / 32) / 4
    _, power = samples.power_spectrum(wave.expand(2, 3, 32, 32))
    assert power.argmax() + 1 == math.hypot(*steps)


# ---- distances of sets


def test_frechet_distance_is_that_of_scipys_matrix_root():
    a, b = gaussian_fit(normal(300, 8)), gaussian_fit(0.2 + normal(90, 8, seed=1) @ normal(8, 8))
    root = linalg.sqrtm((a.covariance @ b.covariance).numpy()).real
    expected = (a.mean - b.mean).square().sum() + (a.covariance + b.covariance).trace()
    assert samples.frechet_distance(a, b) == pytest.approx(expected.item() - 2 * np.trace(root))


def test_kid_is_the_sum_over_pairs_of_different_images():
    a, b = normal(9, 4), normal(7, 4, seed=1) + 1

    def mean(pairs):
        return np.mean([(float(x @ y) / 4 + 1) ** 3 for x, y in pairs])

    within = mean(itertools.permutations(a, 2)) + mean(itertools.permutations(b, 2))
    expected = within - 2 * mean(itertools.product(a, b))
    assert samples.kid(a, b)[0] == pytest.approx(expected, rel=1e-10)
    assert samples.kid(a.float(), b.float())[0] == pytest.approx(expected, rel=1e-4)
    assert all(map(math.isnan, samples.kid(a[:3], b))) and math.isfinite(samples.kid(a, b[:4])[1])


def test_the_error_of_kid_is_its_spread_where_sets_differ_and_three_times_that_where_not():
    for shift, low, high in ((1, 0.75, 1.25), (0, 2, 5)):
        found = np.array([samples.kid(normal(100, 3, seed=2 * i),
                                      normal(100, 3, seed=2 * i + 1) + shift) for i in range(60)])
        assert low < found[:, 1].mean() / found[:, 0].std() < high


def test_directions_have_products_that_are_cosines():
    a, b = normal(2, 5, 16)
    product = (samples.directions(a) * samples.directions(7 * b)).sum(1) / 16
    torch.testing.assert_close(product, torch.cosine_similarity(a, b))


def test_recall_and_coverage_are_their_definitions_pair_by_pair():
    real, made, k = normal(30, 3), 0.8 * normal(25, 3, seed=1) + 0.4, 5

    def reach(points):
        return [sorted(math.dist(p, q) for q in points)[k] for p in points]     # 0 is itself

    inside = np.array([[math.dist(r, m) <= ball for m in made]
                       for r, ball in zip(real, reach(real), strict=True)])
    reached = np.array([[math.dist(r, m) <= ball for m, ball in zip(made, reach(made), strict=True)]
                        for r in real])
    expected = {"precision": inside.any(0).mean(), "recall": reached.any(1).mean(),
                "density": inside.sum() / k / len(made), "coverage": inside.any(1).mean()}
    assert samples.recall_and_coverage(real, made) == pytest.approx(expected)
    few = samples.recall_and_coverage(real, made[:5])
    assert few.keys() == expected.keys() and all(map(math.isnan, few.values()))


# ---- the ladder


def test_every_rung_is_the_same_each_time_and_leaves_the_originals_alone():
    images = random_bytes(6, 3, 8, 8)
    before = images.clone()
    for name, disturb in LADDER.items():
        disturbed = disturb(images)
        assert disturbed.shape == images.shape and disturbed.dtype == torch.float32
        assert disturbed.min() >= 0 and disturbed.max() <= 1 + 1e-6
        assert torch.equal(disturbed, disturb(images)) and torch.equal(images, before)
        assert torch.equal(disturbed, images / 255) == (name == "nothing")


def test_disturbances_do_what_they_are_called():
    images = 0.4 + 0.1 * torch.rand(50, 3, 16, 16, generator=generator())
    added = samples.noise(images, 0.1) - images
    assert added.std().item() == pytest.approx(0.1, rel=0.02)
    assert added.mean().item() == pytest.approx(0, abs=0.002)
    level = images.mean((1, 2, 3), keepdim=True)
    torch.testing.assert_close(samples.contrast(images, 2) - level, 2 * (images - level))
    torch.testing.assert_close(samples.only_their_mean(images)[7], images.mean(0))
    places = torch.arange(256.0).view(16, 16).expand(2, 3, 16, 16)
    order = samples.permuted(places).flatten(2)[0, 0].long()
    assert sorted(order.tolist()) == list(range(256))
    assert torch.equal(images.flatten(2)[..., order], samples.permuted(images).flatten(2))


WIDTH = {"nothing": 0.0, **{f"blur {width:g}": float(width) for width in BLURS},
         "noise 0.05": 0.6, "noise 0.1": 1.3, "noise 0.2": 5.0, "contrast 0.5": 0.9,
         "contrast 2": 0.6, "permuted": 12.0, "mean image": 32.0}
def test_a_measure_that_is_the_width_of_a_blur_passes_every_rule():
    assert verdicts(WIDTH) == dict.fromkeys(RULES, True)
    assert verdicts({name: -value for name, value in WIDTH.items()}, far=-1) == verdicts(WIDTH)


@pytest.mark.parametrize(("rule", "changed", "passes"), [   # a hundredth of the range is 0.32
    ("real images are nearest", {"contrast 2": -0.3}, True),
    ("real images are nearest", {"contrast 2": -0.4}, False),
    ("rises with blur", {"blur 0.7": 0.3}, True), ("rises with blur", {"blur 0.7": 0.1}, False),
    ("rises with noise", {"noise 0.2": 1.25, "noise 0.1": 1.3}, True),
    ("rises with noise", {"noise 0.05": 0.0, "noise 0.1": 0.1, "noise 0.2": 0.3}, False),
    ("permuted pixels behind blur 1", {"permuted": 1.3}, False),
    ("permuted pixels behind blur 1", {"permuted": 1.4}, True),
    ("mean image behind every blur", {"mean image": 12.0, "blur 3": 11.9}, False)])
def test_less_than_a_hundredth_of_the_range_is_no_difference(rule, changed, passes):
    assert verdicts(WIDTH | changed) == dict.fromkeys(RULES, True) | {rule: passes}


def test_without_numbers_or_differences_nothing_is_said():
    assert verdicts(WIDTH | {"permuted": None}) == verdicts(dict.fromkeys(WIDTH, 0.0))
    assert verdicts(dict.fromkeys(WIDTH, 0.0)) == dict.fromkeys(RULES)


def test_a_width_is_read_off_a_curve_and_beyond_it_the_end():
    def curve(width):
        return width ** 1.5 / (1 + width) - 1                   # it passes through 0

    values = [curve(width) for width in GRID]
    for width in (0.5, 0.55, 1.1, 2.2, 7.0):
        found, end = blur_at(values, curve(width))
        assert found == pytest.approx(width, rel=0.003) and end == ""
        assert samples.blur_shown({"blur": found, "blur_end": end}) == found
    assert blur_at(values, curve(0.49)) == (None, "< 0.5")
    assert samples.blur_shown({"blur": None, "blur_end": "< 0.5"}) == "< 0.5"
    assert blur_at(values, curve(8.1)) == (None, "> 8")
    assert blur_at([None, *values[1:]], 1.5) == blur_at(values, None) == (None, "")


# ---- the classifier


def stripes(n, seed=0, side=16):
    """Noisy images of three classes: stripes across, stripes down, none; and the classes."""
    labels = torch.randint(0, 3, (n,), generator=generator(seed))
    wave = torch.sin(torch.arange(side) * math.pi / 2).expand(side, side)
    patterns = torch.stack([wave, wave.T, torch.zeros(side, side)])
    grain = 0.1 * torch.randn(n, 3, side, side, generator=generator(seed))
    pixels = (0.5 + 0.2 * patterns[labels][:, None] + grain).clamp(0, 1)
    return (255 * pixels).byte(), labels


def as_set(images, labels):
    names = ("a", "b", "c")[:labels.shape[1] if labels.ndim == 2 else 3]
    return data.ImageSet(name="cifar10", split="train", images=images, labels=labels,
                          label_names=names, source="made", real=False)


SMALL = as_set(*stripes(96))


def net_of(folder, train=SMALL, epochs=1, seed=0, progress=None):
    return samples.feature_net(train, folder, epochs, seed, "cpu", progress)


def same(a, b):
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(p, q) for p, q in pairs)


@pytest.mark.parametrize("labels_of", [lambda classes: classes, lambda classes: torch.stack(
    [classes == 0, classes != 2], 1)], ids=["classes", "attributes"])
def test_the_classifier_learns_planted_labels(tmp_path, labels_of):
    images, labels = stripes(600)
    labels = labels_of(labels)
    net = net_of(tmp_path, as_set(images[:300], labels[:300]), epochs=12)
    wrong = ~labels if labels.dtype == torch.bool else labels + 1
    assert samples.accuracy(net, images[300:], labels[300:]) > 0.95
    assert samples.accuracy(net, images[300:], wrong[300:]) < 0.05


def test_the_seed_decides_the_classifier_which_is_trained_once_and_kept(tmp_path, monkeypatch):
    before, said = torch.manual_seed(7).get_state(), []
    first = net_of(tmp_path / "nets", progress=lambda *what: said.append(what))
    assert torch.equal(torch.random.get_rng_state(), before) and not first.training
    assert said == [(0, 1, "epochs of the classifier")]
    assert same(first, net_of(tmp_path / "again")) and not same(first, net_of(tmp_path, seed=1))
    monkeypatch.delattr(samples, "train_feature_net")
    kept = net_of(tmp_path / "nets", progress=lambda *what: said.append(what))
    assert same(first, kept) and not kept.training and len(said) == 1


def test_the_classifiers_rate_has_come_down_when_it_ends(monkeypatch):
    made, known = [], torch.optim.AdamW
    monkeypatch.setattr(torch.optim, "AdamW", lambda parameters: made.append(
        known(parameters)) or made[0])
    images, labels = stripes(300)
    samples.train_feature_net(samples.FeatureNet(16, 3), images, labels, 3, 0)
    assert made[0].param_groups[0]["lr"] < 1e-5


def test_a_damaged_file_is_made_anew(tmp_path):
    first, [path] = net_of(tmp_path), tmp_path.iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[:-2000])
    assert same(first, net_of(tmp_path)) and path.stat().st_size == len(whole)


def test_other_images_epochs_and_seeds_have_files_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr(samples, "train_feature_net", lambda *_, **__: None)
    other = as_set(SMALL.images.flip(0), SMALL.labels)
    for change in ({}, {}, {"epochs": 2}, {"seed": 1}, {"train": other}):
        net_of(tmp_path, **change)
    assert len(list(tmp_path.iterdir())) == 4


def test_without_epochs_it_is_the_seeds_untrained_network_and_no_file(tmp_path):
    first = net_of(tmp_path, epochs=0)
    assert same(first, net_of(tmp_path, epochs=0)) and not first.training
    assert not same(first, net_of(tmp_path, epochs=0, seed=1)) and not list(tmp_path.iterdir())


# ---- the judge


@pytest.fixture(scope="module")
def test_set():
    return as_set(*stripes(400, seed=2))


@pytest.fixture(scope="module")
def judge(tmp_path_factory, test_set):
    return samples.Judge("FD-test", as_set(*stripes(300)), test_set, device="cpu", epochs=8, seed=0,
                         runs=tmp_path_factory.mktemp("judge"))


def test_what_is_measured_is_what_the_measures_give(judge, test_set):
    described = samples.features(judge.net, test_set.images)
    for n, compared in ((150, 150), (300, 200)):            # with as many of the second half
        images = blur(test_set.images[:n], 0.8)
        images[compared:] = 0
        found, made = judge.measure(images), samples.features(judge.net, images)
        distance = samples.frechet_distance(gaussian_fit(made), gaussian_fit(described))
        real, made = described[200:][:compared], made[:compared]
        value, error = samples.kid(samples.directions(real), samples.directions(made))
        expected = {"distance": distance, "kid": value, "kid_error": error,
                    "sharpness": sharpness(images[:compared]).mean().item(),
                    **samples.recall_and_coverage(real, made)}
        assert {name: found[name] for name in expected} == pytest.approx(expected, 1e-4, 1e-4)
        assert judge.distance(images) == found["distance"]
    assert judge.accuracy > 0.9 and judge.name == "FD-test"


def test_the_floor_is_of_the_two_halves_of_the_test_images(judge, test_set):
    halves = samples.features(judge.net, test_set.images).split(200)
    expected = samples.frechet_distance(*map(gaussian_fit, halves))
    for found in (judge.floor, judge.ends["real"]["distance"]):
        assert found == pytest.approx(expected, rel=1e-5)
    assert 0 < judge.floor < 0.1 * judge.ends["mean"]["distance"]
    real, mean = judge.ends["real"], judge.ends["mean"]
    place = samples.features(judge.net, judge.mean)[0].double()
    one = Gaussian(place, torch.zeros(128, 128).double())
    expected = samples.frechet_distance(one, gaussian_fit(torch.cat(halves)))
    assert mean["distance"] == pytest.approx(expected, rel=1e-5)
    assert abs(real["kid"]) < real["kid_error"] < 0.1 * mean["kid"] and mean["recall"] == 0


def test_the_ladder_disturbs_one_half_and_compares_it_with_the_other(judge, test_set):
    halves = samples.features(judge.net, test_set.images).split(200)
    assert torch.equal(judge.some, test_set.images[:200])
    torch.testing.assert_close(judge.reference, halves[1])
    assert set(LADDER) < set(judge.ladder)
    half = samples.features(judge.net, samples.permuted(test_set.images[:200]))
    expected = samples.frechet_distance(*map(gaussian_fit, (half, halves[1])))
    assert judge.ladder["permuted"]["distance"] == pytest.approx(expected, rel=1e-5)


def test_a_planted_blur_is_read_back_even_of_other_images(judge):
    other = stripes(200, seed=3)[0]
    for width in (0.6, 0.8, 1.0):
        assert judge.measure(blur(other, width))["blur"] == pytest.approx(width, rel=0.1)


def test_what_cannot_be_measured_is_none(judge, test_set):
    few = judge.measure(test_set.images[:3])
    assert few["recall"] is None and few["kid_error"] is None and few["distance"] is not None
    grey = judge.measure(torch.full((50, 3, 16, 16), 0.5))
    assert all(value is None or isinstance(value, str) or math.isfinite(value)
               for value in grey.values())
