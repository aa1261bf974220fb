"""The table of recipes, what was tried, and the notebook's parameters."""

import __future__

import dataclasses
import os

import pytest
import torch

from lab.recipes import CHAPTERS, RECIPES, TRIALS, Settings, check_settings
from lab.runs import like
from vae_helpers import build, count_parameters

PARAMETERS = {
    "conv": 6_304_131, "fc": 3_511_040, "fc-wide": 5_018_368, "improved": 1_909_315,
    "celeba64": 11_815_555, "celeba32": 1_119_811, "celeba128": 8_729_283, "small": 1_119_811,
    "small-beta0": 1_119_811, "small-ae": 1_119_811, "small-mean": 1_119_811,
    "small-sharp": 1_119_811, "p1-conv": 1_119_811, "p2-conv": 1_119_811, "p3-conv": 1_906_499,
    "p1-fc": 3_511_040, "p2-fc": 3_511_040, "p3-fc": 3_609_600, "p1-fc-on": 3_511_040,
    "celeba64-d128": 8_669_571, "sprint": 1_909_315, "linear": 1_182_976, "fc-pca": 3_511_040,
    "fc-cycle": 3_511_040, "fc-cycle-low": 3_511_040, "conv-cycle": 6_304_131,
    "conv-cycle-low": 6_304_131,
    "celeba128-b4": 8_729_283, "celeba128-b10": 8_729_283, "sigma-learned": 1_119_812,
    **dict.fromkeys(("sigma-2", "sigma-8", "sigma-32", "collapse-05", "collapse-09", "collapse-11",
                     "collapse-20"), 1_119_811)}

# ---- the table


def test_every_recipe_has_its_exact_number_of_parameters():
    counts = {name: count_parameters(build(recipe)) for name, recipe in RECIPES.items()}
    assert counts == PARAMETERS


def test_a_celeba64_of_25_million_parameters_needs_widths_of_104_to_832():
    wide = RECIPES["celeba64"].but(widths=(104, 208, 416, 832))
    assert count_parameters(build(wide)) == 24_790_995


COMMON = dict(side=32, latent=128, link="sigmoid", reconstruction="bce", batch=128, lr=1e-3,
              epochs=10, patience=0, norm=False, beta=1, noise=True, data="cifar10",
              schedule="constant", clip=0, min_delta=0.5, activation="relu", residual=0,
              start="random", sigma=None, start_gain=1, start_images=0)
SMALL = dict(widths=(32, 64, 128))
EARLY = dict(reconstruction="sse", epochs=40, patience=5)
IMPROVED = dict(activation="silu", start="linear", batch=32, schedule="onecycle", clip=300,
                start_sigma2=0.22, linear_lr=0.03, **SMALL)
CYCLE, LOW = dict(schedule="onecycle"), dict(schedule="onecycle", lr=3e-4)
PCA = dict(network="fc", start="weights", start_sigma2=0.22, start_gain=1.25, **LOW)
P1 = dict(batch=64, **EARLY)
P2 = dict(lr=5e-4, **EARLY)
P3 = dict(batch=64, lr=5e-4, latent=256, **EARLY)
DESIGN = {
    "conv": dict(norm=True, widths=(64, 128, 256, 512)),
    "fc": dict(network="fc", widths=(512, 256)), "fc-wide": dict(network="fc", widths=(768,)),
    "fc-cycle": dict(network="fc", widths=(512, 256), **CYCLE),
    "fc-cycle-low": dict(network="fc", widths=(512, 256), **LOW),
    "conv-cycle": dict(norm=True, widths=(64, 128, 256, 512), **CYCLE),
    "conv-cycle-low": dict(norm=True, widths=(64, 128, 256, 512), **LOW),
    "fc-pca": dict(widths=(512, 256), **PCA), "linear": dict(widths=(), **PCA),
    "improved": IMPROVED,
    "sprint": IMPROVED | dict(epochs=1, start_images=10_000, batch=128, lr=4e-3),
    "celeba64": dict(data="celeba", side=64, latent=256, batch=64, norm=True),
    "celeba128": dict(data="celeba", side=128, link="tanh", reconstruction="sse", batch=64,
                      widths=(32, 64, 128, 256, 512)),
    "celeba32": dict(data="celeba", **SMALL, **P2),
    "small": dict(epochs=5, **SMALL), "small-beta0": dict(epochs=5, beta=0, **SMALL),
    "small-ae": dict(epochs=5, noise=False, **SMALL),
    "small-mean": dict(epochs=5, beta=3072, **SMALL),
    "small-sharp": dict(epochs=5, beta=0.1, **SMALL),
    "p1-conv": SMALL | P1, "p2-conv": SMALL | P2, "p3-conv": SMALL | P3,
    "p1-fc": dict(network="fc", **P1), "p2-fc": dict(network="fc", **P2),
    "p3-fc": dict(network="fc", **P3), "p1-fc-on": dict(network="fc", **P1 | dict(patience=40)),
    "celeba64-d128": dict(data="celeba", side=64, latent=128, batch=64, norm=True),
    **{f"celeba128-b{b}": dict(data="celeba", side=128, link="tanh", reconstruction="sse", batch=64,
                               widths=(32, 64, 128, 256, 512), beta=b, epochs=5) for b in (4, 10)},
    **{f"sigma-{n}": dict(reconstruction="gaussian", sigma=sigma, **SMALL)
       for n, sigma in (("learned", None), ("2", 2 ** -0.5), ("8", 8 ** -0.5), ("32", 32 ** -0.5))},
    **{f"collapse-{n}": dict(reconstruction="sse", epochs=3, beta=beta, **SMALL)
       for n, beta in (("05", 55.35), ("09", 99.63), ("11", 121.77), ("20", 221.4))}}


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_those_of_the_design(name):
    fields, wanted = dataclasses.asdict(RECIPES[name]), COMMON | DESIGN[name]
    assert {field: fields[field] for field in wanted} == wanted and fields["name"] == name


@pytest.mark.parametrize("name", RECIPES)
def test_the_pace_of_every_recipe_can_be_measured(name):
    assert like(RECIPES[name]).name == "like"


def test_every_recipe_belongs_to_one_chapter():
    assert sorted(name for names in CHAPTERS.values() for name in names) == sorted(RECIPES)


def test_trials_have_the_name_of_what_they_may_become_and_differ():
    assert all(recipe.name in RECIPES for recipe in TRIALS.values())
    assert len(set(map(repr, TRIALS.values()))) == len(TRIALS)
    assert list(TRIALS.values()).count(RECIPES["improved"]) == 1


# ---- the notebook's parameters

GOOD = {"EPOCHS": 1, "CONV_EPOCHS": 2, "FC_EPOCHS": 3, "CELEBA_EPOCHS": 4, "TRAIN_LIMIT": 500,
        "DATA": "standin", "DATA_ROOT": "elsewhere", "RUNS": "r", "FIGURES": "f", "SEED": 7,
        "DEVICE": "cpu", "PRECISION": "fp32", "EXTENSIONS": True, "SETTING": "p1-fc"}


@pytest.fixture
def machine(monkeypatch):
    """A machine with a CPU only, whatever this one has."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


def test_parameters_arrive_under_their_names():
    settings = check_settings(GOOD)
    assert {name: getattr(settings, name.lower()) for name in GOOD} == GOOD
    assert {field.name.upper() for field in dataclasses.fields(Settings)} == set(GOOD)
    assert check_settings({}) == Settings()


@pytest.mark.parametrize(("name", "value"), [
    ("EPOCHS", -1), ("EPOCHS", 1.5), ("EPOCHS", "1"), ("EPOCHS", True), ("EPOCHS", None),
    ("CONV_EPOCHS", -2), ("FC_EPOCHS", -2), ("CELEBA_EPOCHS", "all"), ("TRAIN_LIMIT", -5),
    ("TRAIN_LIMIT", 1e4), ("SEED", -1), ("SEED", "x"), ("SEED", 2 ** 32), ("SEED", 2 ** 70),
    ("DATA", "cifar"), ("DATA", 1), ("DATA_ROOT", 5), ("RUNS", None), ("FIGURES", 3),
    ("DATA", ""), ("DATA_ROOT", ""), ("RUNS", ""), ("FIGURES", ""), ("FIGURES", "  "),
    ("DEVICE", "gpu"), ("DEVICE", "cuda"), ("DEVICE", "mps"), ("DEVICE", 0), ("DEVICE", ""),
    ("PRECISION", "fp16"), ("PRECISION", 32), ("EXTENSIONS", 1), ("EXTENSIONS", "yes"),
    ("EXTENSIONS", []), ("RUNS", {}), ("EPOCHS", max), ("SETTING", "p4"), ("SETTING", "conv"),
    ("SETTING", ""), ("SETTING", 1)])
def test_nonsense_is_refused_in_one_sentence_that_names_the_parameter(machine, name, value):
    with pytest.raises(ValueError) as refusal:
        check_settings({**GOOD, name: value})
    sentence = str(refusal.value)
    assert name.lower() in sentence.lower() and "\n" not in sentence


def test_where_images_are_limited_large_ones_are_a_quarter():
    small, large = RECIPES["celeba64"], RECIPES["celeba128"]
    for limit, quarter in ((0, 0), (4, 1), (100, 25), (101, 26)):
        settings = Settings(train_limit=limit)
        assert settings.sources_of(small)["limit"] == limit
        assert settings.sources_of(large)["limit"] == quarter


@pytest.mark.parametrize("value", [1, "1", 0.5, None, True])
def test_unknown_parameter_is_refused_with_the_known_ones(value):
    with pytest.raises(ValueError, match="'EPOCH'") as refusal:
        check_settings({**GOOD, "EPOCH": value})
    assert all(name in str(refusal.value) for name in GOOD)


def test_what_else_a_notebook_holds_is_no_parameter():
    class Chapter:
        pass

    others = {"_": 3, "_i1": "EPOCHS = 1", "__name__": "__main__", "In": ["", "x = 1"],
              "Out": {1: 2}, "annotations": __future__.annotations, "torch": torch, "os": os,
              "check_settings": check_settings, "Chapter": Chapter, "here": Chapter(),
              "exit": len, "get_ipython": lambda: None}
    assert check_settings({**GOOD, **others}) == check_settings(GOOD)


@pytest.mark.parametrize(("given", "expected"), [
    ({}, dict(conv=10, fc=10, celeba64=10, celeba128=10, celeba32=40, small=5)),
    (dict(epochs=1), dict(conv=1, fc=1, celeba64=1, celeba128=1, celeba32=1, small=1)),
    (dict(conv_epochs=3), dict(conv=3, fc=10, celeba64=10, small=5)),
    (dict(epochs=1, fc_epochs=5, celeba_epochs=2),
     dict(conv=1, fc=5, celeba64=2, celeba128=2, celeba32=2, small=1))], ids=str)
def test_own_parameter_goes_before_epochs_and_that_before_the_recipes(given, expected):
    settings = Settings(**given)
    assert {name: settings.epochs_of(RECIPES[name]) for name in expected} == expected


@pytest.mark.parametrize("recipe", [r for r in RECIPES.values() if r.data == "celeba"],
                         ids=lambda recipe: recipe.name)
def test_epochs_of_faces_reach_every_recipe_of_faces(recipe):
    assert Settings(celeba_epochs=2, epochs=3).epochs_of(recipe) == 2


SHORTENING = [field.name for field in dataclasses.fields(Settings)
              if field.name.endswith("epochs")] + ["train_limit"]


def test_full_run_downloads_unless_its_images_are_drawn():
    assert Settings().full and Settings().sources["download"]
    assert not Settings(data="standin").sources["download"] and len(SHORTENING) == 5


@pytest.mark.parametrize("name", SHORTENING)
def test_shortened_run_is_not_full_and_downloads_nothing(name):
    shorter = Settings(**{name: 9})
    assert not shorter.full and not shorter.sources["download"]
