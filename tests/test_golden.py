"""What must never change: identities of runs, random numbers, first weights, losses of three steps.

Every recipe is written out here, so that the project's own tables may change by adding, and a
training is never lost.
"""

from types import SimpleNamespace

import pytest
import torch

import data
from lab import measures
from lab.files import run_folder, run_identity
from lab.layers import fast
from lab.recipes import RECIPES
from lab.starts import start
from lab.training import evaluate, generator, make_optimizer, summary, train_epoch
from vae_helpers import Recipe, build

DENSE = Recipe("fc", network="fc", widths=(512, 256), norm=False)
CONV = Recipe("conv")
FACES = Recipe("celeba64", data="celeba", side=64, latent=256, batch=64)
LARGE = Recipe("celeba128", data="celeba", side=128, widths=(32, 64, 128, 256, 512), norm=False,
               link="tanh", reconstruction="sse", batch=64)
SMALL = Recipe("small", widths=(32, 64, 128), norm=False)
EARLY = dict(reconstruction="sse", patience=5, epochs=40)
P2 = SMALL.but(name="p2-conv", lr=5e-4, **EARLY)
P2_FC = DENSE.but(name="p2-fc", lr=5e-4, **EARLY)
LIGHT = Recipe("improved", widths=(32, 64, 128), norm=False, activation="silu", start="linear",
               batch=32, schedule="onecycle", clip=300.0)
HEAVY = LIGHT.but(widths=(64, 128, 256), residual=1)
SPRINT = LIGHT.but(name="sprint", start_images=10_000, batch=128, lr=4e-3, epochs=1)
LOW = dict(schedule="onecycle", lr=3e-4)
FROM_PCA = DENSE.but(name="fc-pca", start="weights", start_gain=1.25, **LOW)
LINEAR = FROM_PCA.but(name="linear", widths=())
CYCLE, CYCLE_LOW = (DENSE.but(name=name, **LOW | rate) for name, rate in (
    ("fc-cycle", dict(lr=1e-3)), ("fc-cycle-low", {})))

# Fingerprint and number of the training images, fingerprint of those that decide when to stop.
CIFAR = ("2d5349f04928d6b2", 50_000, None)
PERMUTED = ("a88f0ade2751cee6", 50_000, None)
KEPT = ("f3befbc96989bea1", 48_000, None)       # all but the last 2,000, as the trials use them
STOPS = ("f3befbc96989bea1", 48_000, "32438f8089aca939")        # those 2,000 stop the training
FACES_32 = ("c2af15a23abe64c6", 20_000, "c1994e64e192bd11")
FACES_64 = ("fc6d54a46a56f5d0", 20_000, "ceaad5a33c8d9e67")
FACES_128 = ("711259fe40170063", 20_000, "029a6994c298b857")

P1, P3 = dict(batch=64, lr=1e-3), dict(batch=64, latent=256)
GAUSSIAN = SMALL.but(reconstruction="gaussian")
COLLAPSE = SMALL.but(reconstruction="sse")
RUNS = [
    ("conv-10-0633c029", CONV, 10, 0, CIFAR), ("conv-10-9d2118d6", CONV, 10, 1, CIFAR),
    ("conv-30-92c177ba", CONV, 30, 0, CIFAR), ("conv-10-eb6fdb4e", CONV, 10, 0, PERMUTED),
    ("fc-10-9cda6a78", DENSE, 10, 0, CIFAR), ("fc-10-1733b92e", DENSE, 10, 1, CIFAR),
    ("fc-10-e40c7f40", DENSE, 10, 2, CIFAR), ("fc-10-1886a04b", DENSE, 10, 0, PERMUTED),
    ("fc-wide-10-5efff057", DENSE.but(name="fc-wide", widths=(768,)), 10, 0, CIFAR),
    ("improved-10-80fa6686", HEAVY, 10, 0, CIFAR), ("improved-10-f62613f4", LIGHT, 10, 0, CIFAR),
    ("improved-10-d604845d", LIGHT, 10, 1, CIFAR), ("improved-10-c0392c77", LIGHT, 10, 2, CIFAR),
    ("improved-14-74ea37a1", LIGHT, 14, 0, CIFAR), ("sprint-1-c570cd2e", SPRINT, 1, 0, CIFAR),
    ("sprint-1-296529d6", SPRINT, 1, 1, CIFAR), ("sprint-1-2a502b25", SPRINT, 1, 2, CIFAR),
    ("fc-pca-10-06b55cf4", FROM_PCA, 10, 0, CIFAR), ("fc-pca-10-2a818133", FROM_PCA, 10, 1, CIFAR),
    ("fc-pca-10-d2ec1da2", FROM_PCA, 10, 2, CIFAR),
    ("fc-pca-10-3c7cb37d", FROM_PCA, 10, 0, PERMUTED),
    ("linear-10-aa8d2209", LINEAR, 10, 0, CIFAR), ("linear-10-bc95622a", LINEAR, 10, 1, CIFAR),
    ("linear-10-bfdf421a", LINEAR, 10, 2, CIFAR), ("fc-cycle-10-8b8b3895", CYCLE, 10, 0, CIFAR),
    ("fc-cycle-10-5fd45c04", CYCLE, 10, 1, CIFAR), ("fc-cycle-10-3cfe88a6", CYCLE, 10, 2, CIFAR),
    ("fc-cycle-low-10-3358de1a", CYCLE_LOW, 10, 0, CIFAR),
    ("fc-cycle-low-10-1a1d7e56", CYCLE_LOW, 10, 1, CIFAR),
    ("fc-cycle-low-10-f46662cc", CYCLE_LOW, 10, 2, CIFAR),
    ("conv-cycle-10-20d2bc18", CONV.but(name="conv-cycle", schedule="onecycle"), 10, 0, CIFAR),
    ("conv-cycle-low-10-12dc6215", CONV.but(name="conv-cycle-low", **LOW), 10, 0, CIFAR),
    ("celeba64-10-720e96f9", FACES, 10, 0, FACES_64),
    ("celeba64-d128-10-65ac931a", FACES.but(name="celeba64-d128", latent=128), 10, 0, FACES_64),
    ("small-5-9fbc46d5", SMALL, 5, 0, CIFAR),
    ("small-beta0-5-963c0757", SMALL.but(name="small-beta0", beta=0), 5, 0, CIFAR),
    ("small-ae-5-a06dd9e7", SMALL.but(name="small-ae", noise=False), 5, 0, CIFAR),
    ("small-mean-5-6b2632fb", SMALL.but(name="small-mean", beta=3072), 5, 0, CIFAR),
    ("small-sharp-5-f8b0d728", SMALL.but(name="small-sharp", beta=0.1), 5, 0, CIFAR),
    ("p1-conv-40-730d9340", P2.but(name="p1-conv", **P1), 40, 0, STOPS),
    ("p1-conv-40-1d15f34c", P2.but(name="p1-conv", **P1), 40, 1, STOPS),
    ("p2-conv-40-70ceb057", P2, 40, 0, STOPS), ("p2-conv-40-bdc4a64f", P2, 40, 1, STOPS),
    ("p3-conv-40-9cf6ea2f", P2.but(name="p3-conv", **P3), 40, 0, STOPS),
    ("p1-fc-40-89ae1843", P2_FC.but(name="p1-fc", **P1), 40, 0, STOPS),
    ("p1-fc-40-51dc69a3", P2_FC.but(name="p1-fc", **P1), 40, 1, STOPS),
    ("p2-fc-40-6e741152", P2_FC, 40, 0, STOPS), ("p2-fc-40-831a8192", P2_FC, 40, 1, STOPS),
    ("p3-fc-40-ddfc1202", P2_FC.but(name="p3-fc", **P3), 40, 0, STOPS),
    ("p1-fc-on-40-4ae31bf7", P2_FC.but(name="p1-fc-on", **P1, patience=40), 40, 0, STOPS),
    ("celeba32-40-e0fabd36", P2.but(name="celeba32", data="celeba"), 40, 0, FACES_32),
    ("celeba128-10-32b3a9c1", LARGE, 10, 0, FACES_128),
    ("celeba128-5-e0be9369", LARGE, 5, 0, FACES_128),
    ("celeba128-5-c02e0339", LARGE, 5, 1, FACES_128),
    ("celeba128-b4-5-6a9d97eb", LARGE.but(name="celeba128-b4", beta=4), 5, 0, FACES_128),
    ("celeba128-b10-5-5f76134c", LARGE.but(name="celeba128-b10", beta=10), 5, 0, FACES_128),
    ("sigma-learned-10-573eeafe", GAUSSIAN.but(name="sigma-learned"), 10, 0, CIFAR),
    ("sigma-2-10-908fbfd9", GAUSSIAN.but(name="sigma-2", sigma=0.5 ** 0.5), 10, 0, CIFAR),
    ("sigma-8-10-03ca6b6f", GAUSSIAN.but(name="sigma-8", sigma=0.125 ** 0.5), 10, 0, CIFAR),
    ("sigma-32-10-50842bb4", GAUSSIAN.but(name="sigma-32", sigma=0.03125 ** 0.5), 10, 0, CIFAR),
    ("collapse-05-3-ee678d2b", COLLAPSE.but(name="collapse-05", beta=55.35), 3, 0, CIFAR),
    ("collapse-09-3-101fce23", COLLAPSE.but(name="collapse-09", beta=99.63), 3, 0, CIFAR),
    ("collapse-11-3-08f433cc", COLLAPSE.but(name="collapse-11", beta=121.77), 3, 0, CIFAR),
    ("collapse-20-3-b1a515b4", COLLAPSE.but(name="collapse-20", beta=221.4), 3, 0, CIFAR),
    ("conv-3-a9be1e38", CONV.but(schedule="onecycle", lr=2e-3), 3, 0, KEPT),
    ("improved-3-5996160e", LIGHT.but(start="random"), 3, 0, KEPT),
    ("improved-3-88df1d2a", LIGHT, 3, 0, KEPT),
    ("improved-3-1129c2ac", LIGHT.but(batch=64), 3, 0, KEPT),
    ("improved-3-92280b5c", LIGHT.but(batch=128), 3, 0, KEPT),
    ("improved-3-c0c3004a", LIGHT.but(batch=128, lr=2e-3), 3, 0, KEPT),
    ("improved-3-743e417b", LIGHT.but(batch=128, linear_lr=0.1), 3, 0, KEPT),
    ("improved-3-601c083b", LIGHT.but(widths=(64, 128, 256), batch=128), 3, 0, KEPT),
    ("improved-3-5111109a", LIGHT.but(widths=(64, 128, 256), lr=2e-3), 3, 0, KEPT),
    ("improved-3-5ac74b72", HEAVY, 3, 0, KEPT),
]


def folder_of(recipe, epochs, seed, images):
    """The name of the folder that this run, in bf16, is kept in."""
    fingerprint, count, heldout = images
    stub = type("Images", (), {"__len__": lambda self: count, "fingerprint": fingerprint})()
    held = heldout and SimpleNamespace(fingerprint=heldout)
    return run_folder("runs", run_identity(recipe, stub, held, seed, epochs, "bf16")).name


def test_the_table_of_recipes_finds_these_runs():
    kept = {name for name, *_ in RUNS}
    images = {"conv": CIFAR, "celeba64": FACES_64, "celeba128": FACES_128, "celeba32": FACES_32}
    for name, recipe in RECIPES.items():
        stopped = STOPS if recipe.patience else CIFAR
        of = images.get(f"celeba{recipe.side}", CIFAR) if recipe.data == "celeba" else stopped
        assert folder_of(recipe, recipe.epochs, 0, of) in kept, name


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run[0])
def test_a_trained_run_is_found_again(run):
    assert folder_of(*run[1:]) == run[0]


@pytest.mark.parametrize(("key", "seed"), [
    ((0, 1, "order"), 5305612505841276476), ((0, 1, "noise"), 5921487384644017451),
    ((0, "evaluation"), 4157521004958766783), ((0, "prior"), 3789480030477208061)])
def test_random_numbers_depend_on_the_key_as_they_always_did(key, seed):
    assert generator("cpu", *key).initial_seed() == seed


def checksum(model):
    """A sum that the order, the names and the values of all weights decide."""
    total = 0.0
    for i, (name, value) in enumerate(model.state_dict().items()):
        weights = value.detach().double().flatten()
        slope = torch.linspace(-1, 1, len(weights), dtype=torch.float64)
        total += (len(name) + i) * (weights @ slope).item()
    return total


WEIGHTS = {
    "conv": (CONV, -1562.8196347844992),
    "fc": (DENSE, -447.15126984787275),
    "celeba64": (FACES, -713.6503458002394),
    "celeba128": (LARGE, 219.80950864297535),
    "p2-conv": (P2, 461.12083793412774),
    "light": (LIGHT, 1361.9069422108655),
    "heavy": (HEAVY, 42.52951005604997),
    "gaussian": (GAUSSIAN, 482.4794817564408),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_the_same_seed_gives_the_weights_it_always_gave(name):
    recipe, known = WEIGHTS[name]
    assert checksum(build(recipe, 0)) == pytest.approx(known, rel=1e-9)


LOSSES = {
    "conv": (CONV, [2383.31, 15.3886, 2126.79]),
    "fc": (DENSE, [2133.72, 0.292353, 2131.52]),
    "p2-conv": (P2, [142.654, 0.0352816, 134.952]),
    "light": (LIGHT, [1859.09, 26.0669, 1936.27]),
    "heavy": (HEAVY, [1859.08, 26.0659, 1936.23]),
    "celeba128": (LARGE, [8922.06, 0.00761025, 9912.73]),
    "gaussian": (GAUSSIAN, [2894.03, 0.034467, 2889.58]),
}


def losses_of_three_steps(recipe, change):
    """Training loss and KL of one epoch, three steps of eight images; the test loss after it."""
    images = data.load(recipe.data, "train", recipe.side, limit=24, source="standin").images
    test = data.load(recipe.data, "test", recipe.side, limit=10, source="standin").images
    model = change(build(recipe.but(batch=8, lr=1e-4), 0))
    start(model, measures.spectrum(images, top=recipe.latent))
    record = train_epoch(model, make_optimizer(model), images, seed=0, epoch=1, epochs=2,
                         precision="fp32", tick=lambda text: None, folder=None)
    after = summary(recipe, evaluate(model, test))
    return [record["loss"], record["kl"], after["loss"]]


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("layers", [fast, lambda model: model], ids=["fast", "plain"])
@pytest.mark.parametrize("name", LOSSES)
def test_three_steps_give_the_losses_they_always_gave(name, layers):
    recipe, known = LOSSES[name]
    assert losses_of_three_steps(recipe, layers) == pytest.approx(known, rel=1e-4)
