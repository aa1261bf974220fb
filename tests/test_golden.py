"""What must never change: identities of runs, random numbers, first weights, losses of three steps.

The recipes are written out here, so that the project's own table may change by adding, and a
training is never lost.
"""

import pytest
import torch

from lab.linear import Spectrum, start
from lab.products import fast
from lab.recipes import RECIPES
from lab.runs import run_folder, run_identity
from lab.training import evaluate, generator, make_optimizer, settled, summary, train_epoch
from vae_helpers import Recipe, build

CONV, NORM = Recipe("conv"), Recipe("fc-norm", network="fc", widths=(512, 256))
SMALL = Recipe("small", widths=(32, 64, 128), norm=False)
IMPROVED = SMALL.but(name="improved", activation="silu", start="linear", batch=32,
                     schedule="onecycle", clip=300.0)
SPRINT = IMPROVED.but(name="sprint", start_images=10_000, images=36_000, batch=96, lr=4e-3,
                      rise=0.15, linear_lr=0.01, epochs=1)
STOPS = SMALL.but(name="p2-conv", lr=5e-4, reconstruction="sse", patience=5, epochs=40)
GAUSSIAN = SMALL.but(name="sigma-learned", reconstruction="gaussian")
LARGE = Recipe("celeba128", data="celeba", side=128, widths=(32, 64, 128, 256, 512), norm=False,
               link="tanh", reconstruction="sse", batch=64)
FOLDERS = {"conv-10-9c91e084": (CONV, 0), "fc-norm-10-9d81e3e8": (NORM, 0),
           "sprint-1-6bd2e327": (SPRINT, 2), "p2-conv-40-c9f82ed2": (STOPS, 1),
           "sigma-learned-10-00eb02da": (GAUSSIAN, 0), "celeba128-10-678d72ef": (LARGE, 0)}


class Images(list):
    """Stands for the training images, and for the held-out ones."""
    fingerprint = "2d5349f04928d6b2"


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_trained_run_is_found_again(folder):
    recipe, seed = FOLDERS[folder]
    assert RECIPES[recipe.name] == recipe
    images = Images(range(50_000))
    identity = run_identity(recipe, images, images, seed, recipe.epochs, "bf16")
    assert run_folder("runs", identity).name == folder


def test_random_numbers_depend_on_the_key_as_they_always_did():
    for key, seed in {(0, 1, "order"): 5305612505841276476, (0, 1, "noise"): 5921487384644017451,
                      (0, "evaluation"): 4157521004958766783, (0, "prior"): 3789480030477208061,
                      (0, "settled"): 583855836214915836, ("spectrum",): 3783019805672688681,
                      (1, "density"): 3213883069877496450}.items():
        assert generator("cpu", *key).initial_seed() == seed


# Of each: a sum of its first weights; training loss, KL and test loss of three steps.
KNOWN = {"conv": (CONV, -1562.81963, [2394.86, 14.6973, 2362.36]),
         "fc-norm": (NORM, -494.522799, [2194.85, 10.7169, 2181.58]),
         "improved": (IMPROVED, 1361.90694, [2406.85, 112.876, 2422.80]),
         "sigma-learned": (GAUSSIAN, 482.479482, [2883.01, 0.0308409, 2883.42]),
         "celeba128": (LARGE, 219.809509, [8330.05, 0.00706906, 8367.91])}


@pytest.mark.parametrize("name", KNOWN)
def test_the_same_seed_gives_the_weights_it_always_gave(name):
    recipe, known, _ = KNOWN[name]
    total = 0.0
    for i, (key, value) in enumerate(build(recipe, 0).state_dict().items()):
        weights = value.double().flatten()
        slope = torch.linspace(-1, 1, len(weights), dtype=torch.float64)
        total += (len(key) + i) * (weights @ slope).item()
    assert total == pytest.approx(known, rel=1e-6)


def pictures(n, side):
    """Bytes (n, 3, side, side) by a formula: each image has colours of its own, and a slope."""
    i, c, y, x = torch.meshgrid(*map(torch.arange, (n, 3, side, side)), indexing="ij")
    return ((i * 37 + c * 59) % 160 + (x + 2 * y) * 30 // side).to(torch.uint8)


@pytest.mark.parametrize("name", [*KNOWN, "conv with the library's layers"])
def test_three_steps_give_the_losses_they_always_gave(name):
    recipe, _, known = KNOWN[name.split()[0]]
    layers = fast if name in KNOWN else (lambda model: model)
    images, test = pictures(34, recipe.side).split((24, 10))
    model = layers(build(recipe.but(batch=8, lr=1e-4)))
    start(model, Spectrum(torch.linspace(8, 0.01, 128).double(), torch.eye(3072).double()[:128],
                          torch.linspace(0.2, 0.8, 3072).double(), 1000.0))
    record = train_epoch(model, make_optimizer(model), images, seed=0, epoch=1, epochs=2,
                         precision="fp32", tick=lambda text: None, folder=None)
    model = settled(model, images, precision="fp32", seed=0)
    after = summary(recipe, evaluate(model, test))["loss"]
    assert [record["loss"], record["kl"], after] == pytest.approx(known, rel=2e-4)
