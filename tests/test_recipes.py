"""The table of recipes, what was tried, and the notebook's parameters."""

import dataclasses

import pytest
import torch

from lab.files import Refused
from lab.recipes import RECIPES, TRAININGS, Settings, check_settings
from vae_helpers import build, count_parameters

# ---- the table


def changed(name, other):
    """The fields, but for the name, in which a recipe differs from another."""
    a, b = (dataclasses.asdict(RECIPES[each]) for each in (name, other))
    return {field: value for field, value in a.items() if value != b[field] and field != "name"}


def test_main_architectures_have_their_exact_number_of_parameters():
    known = {"conv": 6_304_131, "fc": 3_511_040, "fc-norm": 3_511_040 + 4 * (512 + 256),
             "improved": 1_909_315, "celeba64": 11_815_555, "celeba128": 8_729_283,
             "small": 1_119_811, "sigma-learned": 1_119_811 + 1, "faces": 3_485_251,
             "linear": 3072 * 3 * 128 + 2 * 128 + 3072}
    assert {name: count_parameters(build(RECIPES[name])) for name in known} == known


def test_every_training_is_wanted_once_and_every_recipe_is_trained():
    assert len(set(TRAININGS)) == len(TRAININGS)
    assert {training.name for training in TRAININGS} == set(RECIPES)
    assert all(name == recipe.name for name, recipe in RECIPES.items())


def test_what_is_compared_differs_in_what_its_name_says():
    assert changed("fc-norm", "fc") == {"norm": True}
    assert changed("celeba64-d128", "celeba64") == {"latent": 128}
    for name, beta in (("05", 55.35), ("09", 99.63)):       # in units of 110.7, twice CIFAR's λ₁
        aligned = {"start": "linear", "start_sigma2": beta / 2}
        assert changed(f"collapse-{name}-aligned", f"collapse-{name}") == aligned
    for name in ("p2-conv", "p1-fc"):
        assert changed(f"{name}-on", name) == {"patience": RECIPES[name].epochs}    # never stopped


# ---- the notebook's parameters

GOOD = {"EPOCHS": 1, "CONV_EPOCHS": 2, "FC_EPOCHS": 3, "CELEBA_EPOCHS": 4, "TRAIN_LIMIT": 500,
        "DATA": "standin", "DATA_ROOT": "elsewhere", "RUNS": "r", "FIGURES": "f", "SEED": 7,
        "DEVICE": "cpu", "PRECISION": "fp32", "EXTENSIONS": True, "SETTING": "p1-fc"}


def test_parameters_arrive_under_their_names_and_what_else_a_notebook_holds_is_none():
    others = {"_i1": "EPOCHS = 1", "name": "conv", "s": 1.5, "In": ["", "x = 1"], "torch": torch}
    settings = check_settings({**GOOD, **others})
    assert {name: getattr(settings, name.lower()) for name in GOOD} == GOOD
    assert {field.name.upper() for field in dataclasses.fields(Settings)} == set(GOOD)
    assert check_settings({}) == Settings()
    with pytest.raises(Refused, match="'EPOCH'; the parameters are CELEBA_EPOCHS, CONV_EPOCHS, "):
        check_settings({**GOOD, "EPOCH": 1})


@pytest.mark.parametrize(("name", "value"), [
    ("EPOCHS", -1), ("EPOCHS", True), ("SEED", "x"), ("SEED", 2 ** 32), ("DATA", "cifar"),
    ("RUNS", "  "), ("DEVICE", "gpu"), ("PRECISION", "fp16"), ("EXTENSIONS", 1),
    ("SETTING", "conv")])
def test_nonsense_is_refused_in_one_sentence_that_names_the_parameter(name, value):
    with pytest.raises(Refused) as refusal:
        check_settings({**GOOD, name: value})
    sentence = str(refusal.value)
    assert name.lower() in sentence.lower() and "\n" not in sentence and sentence[-1] != "."
    assert Settings(seed=2 ** 32 - 1).seed == 2 ** 32 - 1


@pytest.mark.parametrize(("given", "expected"), [
    ({}, dict(conv=10, fc=10, celeba64=10, celeba128=10, celeba32=40, small=5)),
    (dict(epochs=1), dict(conv=1, fc=1, celeba64=1, celeba128=1, celeba32=1, small=1)),
    (dict(conv_epochs=3), dict(conv=3, fc=10, celeba64=10, small=5)),
    (dict(epochs=1, fc_epochs=5, celeba_epochs=2),
     dict(conv=1, fc=5, celeba64=2, celeba128=2, celeba32=2, small=1))], ids=str)
def test_own_parameter_goes_before_epochs_and_that_before_the_recipes(given, expected):
    settings = Settings(**given)
    assert {name: settings.epochs_of(RECIPES[name]) for name in expected} == expected


def test_a_training_of_another_length_is_shortened_alike():
    for epochs, thirty, five in ((0, 30, 5), (2, 6, 1), (1, 3, 1)):
        settings = Settings(epochs=epochs)
        assert settings.epochs_of(RECIPES["conv"], 30) == thirty
        assert settings.epochs_of(RECIPES["celeba128"], 5) == five


def test_only_a_full_run_downloads_and_where_images_are_limited_large_ones_are_a_quarter():
    small, large = RECIPES["celeba64"], RECIPES["celeba128"]
    assert Settings().full and Settings().sources_of(small)["download"]
    assert not Settings(data="standin").sources_of(small)["download"]
    for name in ("epochs", "conv_epochs", "fc_epochs", "celeba_epochs", "train_limit"):
        shorter = Settings(**{name: 9})
        assert not shorter.full and not shorter.sources_of(small)["download"]
    for limit, quarter in ((0, 0), (4, 1), (100, 25), (101, 26)):
        of = Settings(train_limit=limit).sources_of
        assert (of(small)["limit"], of(large)["limit"]) == (limit, quarter)
