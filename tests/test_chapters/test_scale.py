"""What no training reaches, on images whose floor, mean and spectrum are known."""

import math

import pytest
import torch
from tiny import assert_shows

from data import ImageSet, Splits, load_splits
from lab import linear
from lab.chapters import scale
from lab.recipes import RECIPES
from lab.session import Lab
from lab.show import Table

pytestmark = pytest.mark.usefixtures("one_thread")


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
    return load_splits("cifar10", 32, source="standin", limit=300)


def test_scale_of_two_grey_levels_is_in_closed_form():
    found = scale.scale_of(two_levels(), top=4)
    entropy = -(0.2 * math.log(0.2) + 0.8 * math.log(0.8))
    assert found.floor == pytest.approx(48 * entropy) == pytest.approx(found.test_floor)
    assert found.test_mean_image == pytest.approx(48 * math.log(2))     # the mean is 1/2
    assert found.mean_image == pytest.approx(48 * (math.log(2) - entropy))
    assert found.spectrum.eigenvalues[0].item() == pytest.approx(48 * 0.3 ** 2)
    assert found.way(found.test_floor) == 1 and found.way(found.test_mean_image) == 0


def test_all_variance_of_two_grey_levels_lies_in_one_direction():
    assert scale.first_share(scale.scale_of(two_levels(), top=4).spectrum, 1) == pytest.approx(1)


def test_pca_through_a_sigmoid_lies_between_floor_and_mean_image(drawn):
    found, test = scale.scale_of(drawn, top=128), drawn.test.images
    terms = scale.pca_terms(RECIPES["fc"], found, test, seed=0)
    assert found.test_floor < terms["test_loss"] < found.test_mean_image
    best = linear.linear_optimum(found.spectrum, RECIPES["fc"].start_sigma2, 128)
    assert terms["test_kl"] == pytest.approx(best.rate, rel=0.3)  # on other images


def test_the_chosen_gain_is_no_worse_than_none_where_it_was_chosen(drawn):
    found, some = scale.scale_of(drawn, top=128), drawn.train.images
    gain = scale.best_gain(RECIPES["fc"], found, some, seed=0)
    with_gain, without = (scale.pca_terms(RECIPES["fc"], found, some, 0, g)["test_loss"]
                          for g in (gain, 1.0))
    assert with_gain <= without


def test_a_gain_scales_logits_around_the_mean_image(drawn):
    found = scale.scale_of(drawn, top=128)
    z = torch.randn(2, 128, generator=torch.Generator().manual_seed(0))
    plain, doubled = (scale.pca_model(RECIPES["fc"], found, gain) for gain in (1.0, 2.0))
    with torch.no_grad():
        rest = plain.decode(0 * z)
        torch.testing.assert_close(doubled.decode(z) - rest, 2 * (plain.decode(z) - rest),
                                   rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def chapter(tmp_path_factory):
    return scale.Chapter(Lab({"EPOCHS": 1, "TRAIN_LIMIT": 160, "DATA": "standin", "DEVICE": "cpu",
                              "PRECISION": "fp32", "RUNS": str(tmp_path_factory.mktemp("scale"))}))


def test_recipes_show_themselves(chapter):
    assert_shows(chapter.recipes(), Table)


def test_recipes_say_what_an_autoencoder_lacks():
    small, ae = scale.recipe_table([RECIPES["small"], RECIPES["small-ae"]]).rows
    assert (small["β"], ae["β"]) == (1.0, None)
    assert small["parameters"] == ae["parameters"] == 1_119_811


def test_what_a_notebook_imports_before_its_session_is_no_parameter():
    namespace = {"SEED": 3, "_i1": "SEED = 4", "In": [""]}
    exec("import vae_helpers as vae\nfrom lab import chapters\nfrom lab.session import Lab\n"
         "from lab.show import Source", namespace)
    assert Lab(namespace).settings.seed == 3
    with pytest.raises(ValueError, match="EPOCH"):
        Lab(namespace | {"EPOCH": 1})


def test_what_is_known_of_a_set_is_found_with_it(chapter):
    made, found = chapter.cifar, chapter.lab.found
    best = linear.linear_optimum(made.spectrum, 0.25)
    assert found["cifar.test_floor"] == made.test_floor
    assert (found["cifar.linear_dof"], found["cifar.linear_rate"]) == (best.dof, best.rate)
