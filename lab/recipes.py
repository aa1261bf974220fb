"""Every recipe by its name, every training that is wanted, and the notebook's parameters."""

import dataclasses
from dataclasses import dataclass
from typing import NamedTuple

from lab.files import Refused
from lab.training import choose_device, choose_precision
from vae_helpers import Recipe

# ---- recipes; a name is part of its runs' identity, so none is ever given to another recipe

SIGMAS = {"learned": None, "2": 0.5 ** 0.5, "8": 0.125 ** 0.5, "32": 0.03125 ** 0.5}    # σ² = 1/n
COLLAPSES = {"05": 55.35, "09": 99.63, "11": 121.77, "20": 221.4}   # β; 110.7 is twice CIFAR's λ₁


def _table() -> dict[str, Recipe]:
    """The recipes of all chapters."""
    conv, small = Recipe("conv"), Recipe("small", widths=(32, 64, 128), norm=False, epochs=5)
    fc = Recipe("fc", network="fc", widths=(512, 256), norm=False)
    improved = small.but(name="improved", activation="silu", start="linear", batch=32,
                         schedule="onecycle", clip=300.0, epochs=10)
    pca = dict(start="weights", start_gain=1.25, schedule="onecycle", lr=3e-4)
    early = dict(reconstruction="sse", patience=5, epochs=40)
    settings = dict(batch=64), dict(batch=128, lr=5e-4), dict(batch=64, lr=5e-4, latent=256)
    on = dict(patience=40)                                              # never stopped
    sigma = small.but(reconstruction="gaussian", epochs=10)
    collapse = small.but(reconstruction="sse", epochs=3)
    faces = Recipe("celeba64", data="celeba", side=64, latent=256, batch=64)
    large = Recipe("celeba128", data="celeba", side=128, widths=(32, 64, 128, 256, 512),
                   norm=False, link="tanh", reconstruction="sse", batch=64)
    factors = small.but(data="drawn", epochs=10)
    recipes = [
        conv, fc, improved,
        improved.but(name="sprint", start_images=10_000, images=36_000, batch=96, lr=4e-3,
                     rise=0.15, linear_lr=0.01, epochs=1),
        fc.but(name="fc-wide", widths=(768,)), fc.but(name="fc-norm", norm=True),
        fc.but(name="fc-long", epochs=65),                  # about the seconds of conv's ten
        fc.but(name="fc-pca", **pca), fc.but(name="linear", widths=(), **pca),
        *(r.but(name=f"{r.name}-cycle", schedule="onecycle") for r in (conv, fc)),
        faces, faces.but(name="celeba64-d128", latent=128),
        small.but(name="faces", data="celeba", side=64, activation="silu", batch=64,
                  schedule="onecycle", epochs=10),          # the one that is shipped
        small,                                              # the theory's demonstrations
        small.but(name="small-beta0", beta=0.0),
        small.but(name="small-ae", noise=False),
        small.but(name="small-mean", beta=float(small.pixels)),
        small.but(name="small-sharp", beta=0.1),
        *(small.but(name=f"p{i}-conv", **early, **p) for i, p in enumerate(settings, 1)),
        *(fc.but(name=f"p{i}-fc", **early, **p) for i, p in enumerate(settings, 1)),
        small.but(name="p2-conv-on", **early | settings[1] | on),
        fc.but(name="p1-fc-on", **early | settings[0] | on),
        small.but(name="celeba32", data="celeba", **early, **settings[1]),
        large,
        *(large.but(name=f"celeba128-b{b}", beta=float(b), epochs=5) for b in (4, 10)),
        *(factors.but(name=f"factors-b{b}", beta=float(b)) for b in (1, 4, 16)),
        *(sigma.but(name=f"sigma-{n}", sigma=s) for n, s in SIGMAS.items()),
        *(collapse.but(name=f"collapse-{n}", beta=b) for n, b in COLLAPSES.items()),
        *(collapse.but(name=f"collapse-{n}-aligned", beta=COLLAPSES[n], start="linear",
                       start_sigma2=COLLAPSES[n] / 2) for n in ("05", "09"))]
    return {recipe.name: recipe for recipe in recipes}


RECIPES = _table()

# What SETTING may name: the comparison of settings.
SWEEP = [f"p{i}-{network}" for i in (1, 2, 3) for network in ("conv", "fc")] + ["celeba32"]

# Predicted before `factors-b1`, `-b4` and `-b16` were trained: up to β = 4 the scores of
# disentanglement (MIG, DCI) are at most 1.3 times those of the same codes on turned axes, and at
# β = 16 more than twice those.


def _trials(prefix: str, recipes: dict[str, Recipe], **changes) -> dict[str, Recipe]:
    """Recipes as trials, by what is tried: held-out images judge them, the others train them."""
    return {what: recipe.but(name=f"{prefix}-{i}", trial=True, **changes)
            for i, (what, recipe) in enumerate(recipes.items(), 1)}


# What was tried for the improvement, three epochs each.
_IMPROVED, _WIDE = RECIPES["improved"], RECIPES["improved"].but(widths=(64, 128, 256))
TRIALS = _trials("trial", {
    "`conv`, one cycle, peak 2e-3": RECIPES["conv"].but(schedule="onecycle", lr=2e-3),
    "32-64-128, no norm, SiLU, batches of 32, random start": _IMPROVED.but(start="random"),
    "the same from the linear start: `improved`": _IMPROVED,
    "… batches of 64": _IMPROVED.but(batch=64),
    "… batches of 128": _IMPROVED.but(batch=128),
    "… batches of 128, peak 2e-3": _IMPROVED.but(batch=128, lr=2e-3),
    "… batches of 128, linear path at a tenth of the rate": _IMPROVED.but(batch=128, linear_lr=0.1),
    "64-128-256, batches of 128": _WIDE.but(batch=128),
    "64-128-256, batches of 32, peak 2e-3": _WIDE.but(lr=2e-3),
    "64-128-256, batches of 32, residual blocks": _WIDE.but(residual=1)}, epochs=3)

# What the sprint was chosen by: the quickest epoch that ends at least a nat of held-out loss below
# ten epochs of `conv` on the same 48,000 images.
_SPRINT = RECIPES["sprint"]
SPRINT_TRIALS = _trials("sprint-trial", {
    "`conv`, ten epochs": RECIPES["conv"],
    "one epoch, 25,000 images, batches of 64": _SPRINT.but(images=25_000, batch=64),
    "… 36,000 images": _SPRINT.but(images=36_000, batch=64),
    "… 36,000 images, batches of 96": _SPRINT.but(images=36_000, batch=96),
    "… all images": _SPRINT.but(images=0, batch=64),
    "… all images, batches of 128": _SPRINT.but(images=0, batch=128)})

# ---- every training that the committed notebook has


class Training(NamedTuple):
    """A training that is wanted: a recipe by its name, and what differs from its usual run."""

    name: str
    seed: int = 0               # added to SEED
    epochs: int = 0             # 0: the recipe's own
    permuted: bool = False      # on pixels in a random order


# By how much they are needed: the questions and tasks, then the other chapters, then certainty.
TRAININGS = [
    *(Training(name) for name in (
        "conv", "fc", "improved", "small", "small-beta0", "small-ae", "small-mean", "small-sharp",
        "celeba64", "sprint", "fc-pca", "linear", "fc-wide", "fc-norm", "fc-cycle", "conv-cycle",
        "faces")),
    *(Training(name, seed) for seed in (1, 2) for name in
      ("conv", "fc", "improved", "sprint", "fc-pca", "linear", "fc-cycle", "conv-cycle")),
    *(Training(name, permuted=True) for name in ("conv", "fc", "fc-pca", "improved")),
    *(Training(name) for name in RECIPES if name.startswith(
        ("p1", "p2", "p3", "celeba32", "celeba128", "sigma", "collapse", "factors"))),
    Training("celeba128", epochs=5),
    *(Training(name, 1) for name in
      ("celeba64", "celeba64-d128", "p1-conv", "p2-conv", "p1-fc", "p2-fc")),
    Training("celeba64-d128"), Training("fc-long"), Training("conv", epochs=30),
    Training("celeba128", 1, epochs=5)]

# ---- the notebook's parameters


@dataclass(frozen=True)
class Settings:
    """The notebook's parameters, checked; names and defaults are those of its parameters cell."""

    epochs: int = 0
    conv_epochs: int = 0
    fc_epochs: int = 0
    celeba_epochs: int = 0
    train_limit: int = 0
    data: str = "auto"
    data_root: str = "data"
    runs: str = "runs"
    figures: str = "figures"
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"
    extensions: bool = False
    setting: str = "p2-conv"

    def __post_init__(self):
        for field in dataclasses.fields(self):
            name, value, kind = field.name.upper(), getattr(self, field.name), type(field.default)
            if type(value) is not kind:
                raise Refused(f"{name} = {value!r} must be of type {kind.__name__}, "
                              f"for example {field.default!r}")
            if kind is int and not 0 <= value < 2 ** 32:
                raise Refused(f"{name} = {value} must be from 0 to {2 ** 32 - 1}")
            if kind is str and not value.strip():
                raise Refused(f"{name} = {value!r} is empty: give one, as {field.default!r}")
        if self.data not in ("auto", "real", "standin"):
            raise Refused(f"DATA = {self.data!r} is none of 'auto', 'real', 'standin'")
        if self.setting not in SWEEP:
            raise Refused(f"SETTING = {self.setting!r} is none of " + ", ".join(map(repr, SWEEP)))
        choose_precision(self.precision, choose_device(self.device))

    def epochs_of(self, recipe: Recipe, epochs: int = 0) -> int:
        """Epochs for a recipe: its own parameter's, else EPOCHS, else the recipe's; where a
        training has another number than its recipe, shortened alike."""
        own = {"conv": self.conv_epochs, "fc": self.fc_epochs}.get(recipe.name, 0)
        own = self.celeba_epochs if recipe.data == "celeba" else own
        usual = own or self.epochs or recipe.epochs
        return max(round(epochs / recipe.epochs * usual), 1) if epochs else usual

    @property
    def shortened(self) -> bool:
        """Whether some recipe runs fewer or more than its own epochs, or not on all images."""
        return any((self.epochs, self.conv_epochs, self.fc_epochs, self.celeba_epochs,
                    self.train_limit))

    @property
    def full(self) -> bool:
        """Whether they are those of the committed notebook, wherever and however it trains."""
        return not (self.shortened or self.seed or self.setting != Settings.setting
                    or self.data == "standin")

    def sources_of(self, recipe: Recipe) -> dict:
        """Where a recipe's images come from, as arguments of `load_splits`: where they are limited,
        a quarter of the large ones. A shortened run never downloads."""
        return dict(limit=-(-self.train_limit // (4 if recipe.side > 64 else 1)),
                    source=self.data, root=self.data_root,
                    download=not self.shortened and self.data != "standin")


def check_settings(namespace: dict) -> Settings:
    """The parameters in a notebook's namespace; an unknown or nonsensical one is refused."""
    known = {field.name.upper() for field in dataclasses.fields(Settings)}
    given = {name: value for name, value in namespace.items() if name in known or (
             name.isupper() and isinstance(value, (str, int, float, type(None))))}
    for name in given:
        if name not in known:
            raise Refused(f"there is no parameter {name!r}; "
                          f"the parameters are {', '.join(sorted(known))}")
    return Settings(**{name.lower(): value for name, value in given.items()})
