"""Every recipe by its name, what was tried for the improvement, and the notebook's parameters."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

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
    low = dict(schedule="onecycle", lr=3e-4)
    pca = dict(start="weights", start_gain=1.25, **low)
    early = dict(reconstruction="sse", patience=5, epochs=40)
    settings = dict(batch=64), dict(batch=128, lr=5e-4), dict(batch=64, lr=5e-4, latent=256)
    sigma = small.but(reconstruction="gaussian", epochs=10)
    collapse = small.but(reconstruction="sse", epochs=3)
    faces = Recipe("celeba64", data="celeba", side=64, latent=256, batch=64)
    large = Recipe("celeba128", data="celeba", side=128, widths=(32, 64, 128, 256, 512),
                   norm=False, link="tanh", reconstruction="sse", batch=64)
    recipes = [
        conv, fc, improved,
        improved.but(name="sprint", start_images=10_000, batch=128, lr=4e-3, epochs=1),
        fc.but(name="fc-wide", widths=(768,)),
        fc.but(name="fc-pca", **pca), fc.but(name="linear", widths=(), **pca),
        *(r.but(name=f"{r.name}-cycle", schedule="onecycle") for r in (conv, fc)),
        *(r.but(name=f"{r.name}-cycle-low", **low) for r in (conv, fc)),
        faces, faces.but(name="celeba64-d128", latent=128),
        small,                                              # the theory's demonstrations
        small.but(name="small-beta0", beta=0.0),
        small.but(name="small-ae", noise=False),
        small.but(name="small-mean", beta=float(small.pixels)),
        small.but(name="small-sharp", beta=0.1),
        *(small.but(name=f"p{i}-conv", **early, **p) for i, p in enumerate(settings, 1)),
        *(fc.but(name=f"p{i}-fc", **early, **p) for i, p in enumerate(settings, 1)),
        fc.but(name="p1-fc-on", **early | settings[0] | dict(patience=40)),       # never stopped
        small.but(name="celeba32", data="celeba", **early, **settings[1]),
        large,
        *(large.but(name=f"celeba128-b{b}", beta=float(b), epochs=5) for b in (4, 10)),
        *(sigma.but(name=f"sigma-{n}", sigma=s) for n, s in SIGMAS.items()),
        *(collapse.but(name=f"collapse-{n}", beta=b) for n, b in COLLAPSES.items())]
    return {recipe.name: recipe for recipe in recipes}


RECIPES = _table()

# Which chapter a recipe is trained for.
CHAPTERS = {
    "Theory": [name for name in RECIPES if name.startswith("small")],
    "Task 1": ["conv", "fc", "improved", "sprint", "fc-wide", "linear", "fc-pca",
               "conv-cycle", "conv-cycle-low", "fc-cycle", "fc-cycle-low"],
    "Task 3": ["celeba64", "celeba64-d128"],
    "The sweep": [name for name in RECIPES if name.startswith("p")] + ["celeba32"],
    "β at 128×128": [name for name in RECIPES if name.startswith(("celeba128", "collapse"))],
    "Blur": [name for name in RECIPES if name.startswith("sigma")]}

# What was tried for the improvement: three epochs each on the training images less the held-out
# ones, which decide. The last, about twice as dear as `conv`, was the improvement of an earlier
# execution.
TRIAL_EPOCHS = 3
_LIGHT = RECIPES["improved"]
_WIDE = _LIGHT.but(widths=(64, 128, 256))
TRIALS = {
    "`conv`, one cycle, peak 2e-3": RECIPES["conv"].but(schedule="onecycle", lr=2e-3),
    "32-64-128, no norm, SiLU, batches of 32, random start": _LIGHT.but(start="random"),
    "the same from the linear start: `improved`": _LIGHT,
    "… batches of 16, peak 7e-4": _LIGHT.but(batch=16, lr=7e-4),
    "… 48-96-192": _LIGHT.but(widths=(48, 96, 192)),
    "… batches of 64": _LIGHT.but(batch=64),
    "… batches of 128": _LIGHT.but(batch=128),
    "… batches of 128, peak 2e-3": _LIGHT.but(batch=128, lr=2e-3),
    "… batches of 128, linear path at a tenth of the rate": _LIGHT.but(batch=128, linear_lr=0.1),
    "64-128-256, batches of 128": _WIDE.but(batch=128),
    "64-128-256, batches of 32, peak 2e-3": _WIDE.but(lr=2e-3),
    "64-128-256, batches of 32, residual blocks": _WIDE.but(residual=1)}

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
                raise ValueError(f"{name} = {value!r} must be of type {kind.__name__}, "
                                 f"for example {field.default!r}")
            if kind is int and not 0 <= value < 2 ** 32:
                raise ValueError(f"{name} = {value} must be from 0 to {2 ** 32 - 1}")
            if kind is str and not value.strip():
                raise ValueError(f"{name} = {value!r} is empty: give one, as {field.default!r}")
        if self.data not in ("auto", "real", "standin"):
            raise ValueError(f"DATA = {self.data!r} is none of 'auto', 'real', 'standin'")
        if self.setting not in CHAPTERS["The sweep"]:
            raise ValueError(f"SETTING = {self.setting!r} is none of "
                             + ", ".join(map(repr, CHAPTERS["The sweep"])))
        choose_precision(self.precision, choose_device(self.device))

    def epochs_of(self, recipe: Recipe) -> int:
        """Epochs for a recipe: its own parameter's, else EPOCHS, else the recipe's."""
        own = {"conv": self.conv_epochs, "fc": self.fc_epochs}.get(recipe.name, 0)
        own = self.celeba_epochs if recipe.data == "celeba" else own
        return own or self.epochs or recipe.epochs

    @property
    def full(self) -> bool:
        """Whether every recipe runs its own epochs on all images."""
        shortened = [field.name for field in dataclasses.fields(self)
                     if field.name.endswith("epochs") or field.name == "train_limit"]
        return not any(getattr(self, name) for name in shortened)

    @property
    def sources(self) -> dict:
        """Where images come from, as arguments of `load_splits`; only a full run downloads."""
        return dict(limit=self.train_limit, source=self.data, root=self.data_root,
                    download=self.full and self.data != "standin")

    def sources_of(self, recipe: Recipe) -> dict:
        """The same for a recipe: where images are limited, a quarter of the large ones."""
        return self.sources | dict(limit=-(-self.train_limit // (4 if recipe.side > 64 else 1)))


def check_settings(namespace: dict) -> Settings:
    """The parameters in a notebook's namespace; an unknown or nonsensical one is refused."""
    known = {field.name.upper() for field in dataclasses.fields(Settings)}
    given = {name: value for name, value in namespace.items() if not name.startswith("_")
             and (name in known or isinstance(value, (str, int, float, type(None))))}
    for name in given:
        if name not in known:
            raise ValueError(f"there is no parameter {name!r}; "
                             f"the parameters are {', '.join(sorted(known))}")
    return Settings(**{name.lower(): value for name, value in given.items()})
