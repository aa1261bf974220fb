"""What no training reaches, on images whose floor, mean and spectrum are known."""

import math

import pytest
import torch
from tiny import short_lab

from data import ImageSet, Splits, load_splits
from lab.chapters import scale
from lab.linear import linear_optimum
from lab.recipes import RECIPES


def two_levels():
    """Images that are 0.2 everywhere or 0.8 everywhere."""
    images = torch.full((6, 3, 4, 4), 51, dtype=torch.uint8)
    images[3:] = 204
    made = ImageSet(name="cifar10", split="train", images=images,
                    labels=torch.zeros(6, dtype=torch.long), label_names=("a",), source="made",
                    real=False)
    return Splits(made, None, made)


@pytest.fixture(scope="module")
def drawn():
    splits = load_splits("cifar10", 32, source="standin", limit=300)
    return splits, scale.scale_of(splits, top=128)


def test_scale_of_two_grey_levels_is_in_closed_form():
    found = scale.scale_of(two_levels(), top=4)
    entropy = -(0.2 * math.log(0.2) + 0.8 * math.log(0.8))
    assert found.floor == pytest.approx(48 * entropy) == pytest.approx(found.test_floor)
    assert found.test_mean_image == pytest.approx(48 * math.log(2))     # the mean is 1/2
    assert found.mean_image == pytest.approx(48 * (math.log(2) - entropy))
    assert found.spectrum.eigenvalues[0].item() == pytest.approx(48 * 0.3 ** 2)
    assert found.way(found.test_floor) == 1 and found.way(found.test_mean_image) == 0


def test_pca_through_a_sigmoid_lies_between_floor_and_mean_image(drawn):
    splits, found = drawn
    terms = scale.pca_terms(RECIPES["fc"], found, splits.test.images, seed=0)
    assert 0 < terms["test_loss"] - found.test_floor < found.mean_image
    assert 0 < found.way(terms["test_loss"]) < 1
    best = linear_optimum(found.spectrum, RECIPES["fc"].start_sigma2, 128)
    assert terms["test_kl"] == pytest.approx(best.rate, rel=0.3)        # on other images


def test_a_gain_scales_logits_around_the_mean_image(drawn):
    z = torch.randn(2, 128, generator=torch.Generator().manual_seed(0))
    plain, doubled = (scale.pca_model(RECIPES["fc"], drawn[1], gain) for gain in (1.0, 2.0))
    with torch.no_grad():
        rest = plain.decode(0 * z)
        torch.testing.assert_close(doubled.decode(z) - rest, 2 * (plain.decode(z) - rest),
                                   rtol=1e-4, atol=1e-4)


def test_what_is_known_of_a_set_is_worked_out_once(tmp_path):
    lab = short_lab(tmp_path, 60)
    made = scale.scale(lab, "cifar")
    assert made is scale.scale(lab, "cifar")
    assert lab.found["cifar.test_floor"] == made.test_floor
    gain, images = scale.pca_gain(lab, "cifar"), lab.cifar.train.images
    losses = [scale.pca_terms(RECIPES["conv"], made, images, 0, g)["test_loss"]
              for g in (gain, 1.0, gain - 0.05, gain + 0.05)]
    assert losses[0] == min(losses)
