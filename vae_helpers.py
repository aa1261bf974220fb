"""Recipes, models, ELBO, training, settings and sampling of the VAE assignment, in this order.

Losses are sums over pixels and latent dimensions and means over images, in nats. Nothing runs at import:
a notebook calls names from here, and `python vae_helpers.py conv fc` trains the same runs without one.
"""
from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import inspect
import io
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vae_layers import Down, Up

# ------------------------------------------------------------------------------------------------ recipes


@dataclass(frozen=True)
class Recipe:
    """Everything about a model and its training that a result depends on, but for data, seed and epochs run."""

    name: str
    data: str = "cifar10"             # which dataset
    side: int = 32                    # pixels
    network: str = "conv"             # "conv": stride-2 4x4 convolutions; "fc": dense layers
    widths: tuple[int, ...] = (64, 128, 256, 512)   # channels or units, from the image to the latent; (): linear
    norm: bool = True                 # BatchNorm after each convolution
    activation: str = "relu"          # or "silu"
    residual: int = 0                 # blocks of two 3x3 convolutions at each map of at most 8x8 pixels
    start: str = "random"             # "linear": a linear path beside the network, set to the closed-form optimum
    start_sigma2: float = 0.22        # the decoder variance of that optimum; BCE's is about x(1 - x)
    linear_lr: float = 0.03           # the linear path's share of the learning rate
    latent: int = 128                 # dimensions of z
    link: str = "sigmoid"             # maps the decoder's output to pixels; tanh means pixels in [-1, 1]
    reconstruction: str = "bce"       # "bce", "sse" or "gaussian"
    sigma: float | None = None        # the gaussian's standard deviation; None: one number, learned
    beta: float = 1.0                 # weight of the KL
    noise: bool = True                # False: z = mu and no KL, a plain autoencoder
    batch: int = 128
    lr: float = 1e-3                  # Adam's; with "onecycle" the peak
    schedule: str = "constant"        # or "onecycle"
    clip: float = 0.0                 # largest gradient norm; 0: unlimited
    epochs: int = 10
    patience: int = 0                 # early stopping: epochs without gain; 0: train all epochs, choose nothing
    min_delta: float = 0.5            # nats that count as a gain

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value, kinds = getattr(self, field.name), _KINDS[field.type]
            if type(value) not in kinds:
                raise ValueError(f"recipe {self.name}: {field.name} = {value!r} must be of type {field.type}")
            if type(value) is int and kinds[0] is float:
                object.__setattr__(self, field.name, float(value))       # beta 4 is beta 4.0, so one run
        for field, allowed in _ALLOWED.items():
            value = getattr(self, field)
            if value not in allowed:
                raise ValueError(f"recipe {self.name}: {field} = {value!r} is none of {', '.join(map(repr, allowed))}")
        for field in ("latent", "batch", "epochs", "lr", "side"):
            if not 0 < getattr(self, field) < math.inf:
                raise ValueError(f"recipe {self.name}: {field} = {getattr(self, field)!r} must be above 0")
        for field in ("beta", "clip", "patience", "min_delta"):
            if not 0 <= getattr(self, field) < math.inf:
                raise ValueError(f"recipe {self.name}: {field} = {getattr(self, field)!r} must not be below 0")
        if not all(type(width) is int and width > 0 for width in self.widths):
            raise ValueError(f"recipe {self.name}: widths = {self.widths!r} must be whole numbers above 0")
        if self.network == "conv" and not self.widths:
            raise ValueError(f"recipe {self.name}: network 'conv' needs widths")
        if self.reconstruction == "bce" and self.link != "sigmoid":
            raise ValueError(f"recipe {self.name}: bce needs pixels in [0, 1], so link 'sigmoid', not {self.link!r}")
        if self.start == "linear" and self.reconstruction != "bce":
            raise ValueError(f"recipe {self.name}: start 'linear' is worked out for bce, not {self.reconstruction!r}")
        if self.sigma is not None and (self.reconstruction != "gaussian" or not 0 < self.sigma < math.inf):
            raise ValueError(f"recipe {self.name}: sigma = {self.sigma!r} is for reconstruction 'gaussian', above 0")
        if self.network == "conv" and self.side % 2 ** len(self.widths):
            raise ValueError(f"recipe {self.name}: side {self.side} cannot be halved {len(self.widths)} times")

    def but(self, **changes) -> Recipe:
        """This recipe with some fields changed."""
        unknown = sorted(set(changes) - {f.name for f in dataclasses.fields(self)})
        if unknown:
            raise ValueError(f"a recipe has no field {unknown[0]!r}; it has "
                             + ", ".join(f.name for f in dataclasses.fields(self)))
        return dataclasses.replace(self, **changes)

    @property
    def pixels(self) -> int:
        return 3 * self.side ** 2

    @property
    def sse_weight(self) -> float | None:
        """The factor a that this loss puts before the squared error of pixels in [0, 1]; None if not fixed."""
        stretch = 4.0 if self.link == "tanh" else 1.0          # [-1, 1] is twice as wide, its square four times
        if self.reconstruction == "sse":
            return stretch
        if self.reconstruction == "gaussian" and self.sigma is not None:
            return stretch / (2 * self.sigma ** 2)
        return None

    @property
    def sigma2(self) -> float | None:
        """The decoder variance b / 2a that a*SSE + b*KL implies, in squared [0, 1] pixels; BCE: its bound."""
        if self.reconstruction == "bce":
            return self.beta / 4                               # x(1 - x) <= 1/4
        return self.beta / (2 * self.sse_weight) if self.sse_weight else None


_KINDS = {"str": (str,), "int": (int,), "bool": (bool,), "float": (float, int),
          "float | None": (float, int, type(None)), "tuple[int, ...]": (tuple,)}
_ALLOWED = {"data": ("cifar10", "celeba"), "network": ("conv", "fc"), "link": ("sigmoid", "tanh", "identity"),
            "reconstruction": ("bce", "sse", "gaussian"), "schedule": ("constant", "onecycle"),
            "activation": ("relu", "silu"), "start": ("random", "linear")}


def _table() -> dict[str, Recipe]:
    dense = dict(network="fc", widths=(512, 256), norm=False)
    early = dict(reconstruction="sse", patience=5, epochs=40)
    small = dict(widths=(32, 64, 128), norm=False, **early)
    p1, p2, p3 = (dict(batch=64), dict(batch=128, lr=5e-4), dict(batch=64, lr=5e-4, latent=256))
    recipes = [
        Recipe("conv"),
        Recipe("fc", **dense),
        Recipe("celeba64", data="celeba", side=64, latent=256, batch=64),
        Recipe("celeba128", data="celeba", side=128, widths=(32, 64, 128, 256, 512), norm=False, link="tanh",
               reconstruction="sse", batch=64),
        *(Recipe(f"p{i}-conv", **{**small, **p}) for i, p in enumerate((p1, p2, p3), 1)),
        *(Recipe(f"p{i}-fc", **{**dense, **early, **p}) for i, p in enumerate((p1, p2, p3), 1)),
        Recipe("celeba32", data="celeba", **{**small, **p2}),
        Recipe("improved", widths=(64, 128, 256), norm=False, activation="silu", residual=1, start="linear", batch=32,
               schedule="onecycle", clip=300.0),
    ]
    return {r.name: r for r in recipes}


RECIPES = _table()

# -------------------------------------------------------------------------------------------------- model


class VAE(nn.Module):
    """Encoder q(z|x) = N(mu, exp(logvar)) and decoder p(x|z) of a recipe."""

    def __init__(self, recipe: Recipe):
        super().__init__()
        self.recipe = recipe
        self.encoder, features = make_encoder(recipe)
        self.to_mu = nn.Linear(features, recipe.latent)
        self.to_logvar = nn.Linear(features, recipe.latent)
        self.decoder = make_decoder(recipe)
        if recipe.start == "linear":
            self.linear_in = nn.Linear(recipe.pixels, recipe.latent, bias=False)    # mu += A x
            self.linear_out = nn.Linear(recipe.latent, recipe.pixels)               # logits += B z + b
        if recipe.reconstruction == "gaussian" and recipe.sigma is None:
            self.log_sigma = nn.Parameter(torch.zeros(()))          # one sigma for all pixels, learned

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels in [0, 1] (B, 3, H, W) -> mu, logvar (B, d)."""
        h = self.encoder(to_range(self.recipe, x))                  # (B, features)
        mu = self.to_mu(h)
        if self.recipe.start == "linear":
            mu = mu + self.linear_in(to_range(self.recipe, x).flatten(1))
        return mu, self.to_logvar(h)

    def reparameterize(self, mu: Tensor, logvar: Tensor, eps: Tensor) -> Tensor:
        """z = mu + sigma * eps: the randomness comes in from outside, so gradients reach mu and logvar."""
        return mu + torch.exp(0.5 * logvar) * eps if self.recipe.noise else mu

    def decode(self, z: Tensor) -> Tensor:
        """z (B, d) -> logits (B, 3, H, W), before the link."""
        logits = self.decoder(z)
        return logits + self.linear_out(z).view_as(logits) if self.recipe.start == "linear" else logits

    def forward(self, x: Tensor, eps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pixels in [0, 1] and standard normal noise (B, d) -> logits, mu, logvar."""
        mu, logvar = self.encode(x)
        return self.decode(self.reparameterize(mu, logvar, eps)), mu, logvar


def make_encoder(recipe: Recipe) -> tuple[nn.Module, int]:
    """The layers from image to features, and how many features they end in."""
    if recipe.network == "fc":
        sizes = (recipe.pixels, *recipe.widths)
        return nn.Sequential(nn.Flatten(), *dense(*sizes)), sizes[-1]
    layers: list[nn.Module] = []
    side = recipe.side
    for channels, out in zip((3, *recipe.widths), recipe.widths, strict=False):
        layers += [Down(channels, out), *activation(recipe, out)]
        layers += residual_blocks(recipe, out, side := side // 2)
    return nn.Sequential(*layers, nn.Flatten()), recipe.widths[-1] * smallest_map(recipe) ** 2


def make_decoder(recipe: Recipe) -> nn.Module:
    """The encoder's layers mirrored, from z to logits."""
    image = (3, recipe.side, recipe.side)
    up = recipe.widths[::-1]
    if recipe.network == "fc":
        sizes = (recipe.latent, *up)
        return nn.Sequential(*dense(*sizes), nn.Linear(sizes[-1], recipe.pixels), nn.Unflatten(1, image))
    s = smallest_map(recipe)
    layers: list[nn.Module] = [nn.Linear(recipe.latent, up[0] * s * s), nn.Unflatten(1, (up[0], s, s)),
                               *residual_blocks(recipe, up[0], s)]
    for channels, out in zip(up, up[1:], strict=False):
        layers += [Up(channels, out), *activation(recipe, out), *residual_blocks(recipe, out, s := 2 * s)]
    return nn.Sequential(*layers, Up(up[-1], 3))


def dense(*sizes: int) -> list[nn.Module]:
    """Linear layers between these sizes, a ReLU after each."""
    return [layer for a, b in zip(sizes, sizes[1:], strict=False) for layer in (nn.Linear(a, b), nn.ReLU())]


def activation(recipe: Recipe, channels: int) -> list[nn.Module]:
    """What follows a convolution."""
    bend = nn.ReLU() if recipe.activation == "relu" else nn.SiLU()
    return [nn.BatchNorm2d(channels), bend] if recipe.norm else [bend]


class Residual(nn.Module):
    """x + two 3x3 convolutions of x through half as many channels, each after its normalisation and activation."""

    def __init__(self, recipe: Recipe, channels: int):
        super().__init__()
        widths = (channels, channels // 2, channels)
        self.path = nn.Sequential(*(layer for n, out in zip(widths, widths[1:], strict=False) for layer in (
            *activation(recipe, n), nn.Conv2d(n, out, 3, padding=1, bias=False))))

    def forward(self, x):
        return x + self.path(x)


def residual_blocks(recipe: Recipe, channels: int, side: int) -> list[nn.Module]:
    """The recipe's residual blocks for a map of this side: only small maps are worth their time."""
    return [Residual(recipe, channels) for _ in range(recipe.residual)] if side <= 8 else []


@torch.no_grad()
def start_linear(model: VAE, spectrum) -> None:
    """Set the linear path to the best linear VAE for images of this spectrum, and everything beside it to 0.

    The decoder works on logits, so its columns are divided by the link's slope at the mean image, x(1 - x).
    """
    from vae_measures import linear_vae_parameters

    recipe = model.recipe
    best = linear_vae_parameters(spectrum, recipe.start_sigma2, recipe.latent)
    mean = best.mean.clamp(1 / 510, 1 - 1 / 510)                    # (D,), half a grey level from 0 and 1: no infinity
    model.linear_in.weight.copy_(best.encoder)
    model.linear_out.weight.copy_(best.decoder / (mean * (1 - mean))[:, None])
    model.linear_out.bias.copy_(torch.logit(mean))
    last = [m for m in model.decoder.modules() if isinstance(m, (nn.Linear, nn.ConvTranspose2d))][-1]
    for layer, bias in ((model.to_mu, -best.encoder @ best.mean), (model.to_logvar, best.variance.log()), (last, 0)):
        layer.weight.zero_()
        layer.bias.copy_(torch.as_tensor(bias))


def smallest_map(recipe: Recipe) -> int:
    """Width in pixels of the map between convolutions and latent."""
    return recipe.side >> len(recipe.widths)


def build(recipe: Recipe, seed: int = 0) -> VAE:
    """A fresh model on the CPU, the same for the same seed, whatever was drawn before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return VAE(recipe).to(memory_format=torch.channels_last)


def count_parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


# --------------------------------------------------------------------------------------------------- ELBO


@dataclass
class Terms:
    """The parts of the loss, unreduced: everything reported is a mean of these."""

    reconstruction: Tensor   # (B,) nats (or squared error) per image
    kl: Tensor               # (B, d) nats per image and latent dimension

    def loss(self, beta: float) -> Tensor:
        """Reconstruction + beta * KL per image, (B,)."""
        return self.reconstruction + beta * self.kl.sum(1)


def to_range(recipe: Recipe, x: Tensor) -> Tensor:
    """Pixels in [0, 1] -> the range that the recipe's decoder reaches."""
    return 2 * x - 1 if recipe.link == "tanh" else x


def to_pixels(recipe: Recipe, logits: Tensor) -> Tensor:
    """Decoder's output -> image in [0, 1]."""
    if recipe.link == "sigmoid":
        return torch.sigmoid(logits)
    return (torch.tanh(logits) + 1) / 2 if recipe.link == "tanh" else logits


def kl_divergence(mu: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mu, exp(logvar)) || N(0, 1)) of every dimension, nats."""
    return 0.5 * (mu ** 2 + logvar.exp() - 1 - logvar)


def reconstruction_error(recipe: Recipe, logits: Tensor, x: Tensor, log_sigma: Tensor | None = None) -> Tensor:
    """Minus log p(x|z) up to what the recipe's loss leaves out, summed over the pixels of each image, (B,)."""
    if recipe.reconstruction == "bce":
        return F.binary_cross_entropy_with_logits(logits, x, reduction="none").flatten(1).sum(1)
    x_hat = torch.tanh(logits) if recipe.link == "tanh" else to_pixels(recipe, logits)
    sse = (to_range(recipe, x) - x_hat).square().flatten(1).sum(1)
    if recipe.reconstruction == "sse":
        return sse
    log_sigma = sse.new_tensor(math.log(recipe.sigma)) if log_sigma is None else log_sigma
    return sse / (2 * torch.exp(2 * log_sigma)) + recipe.pixels * (log_sigma + 0.5 * math.log(2 * math.pi))


def elbo_terms(model: VAE, x: Tensor, eps: Tensor) -> Terms:
    """Both terms of the negative ELBO for pixels x in [0, 1] and noise eps (B, d), always in fp32."""
    logits, mu, logvar = (t.float() for t in model(x, eps))
    with torch.autocast(x.device.type, enabled=False):
        kl = kl_divergence(mu, logvar) if model.recipe.noise else torch.zeros_like(mu)
        return Terms(reconstruction_error(model.recipe, logits, x, getattr(model, "log_sigma", None)), kl)


# ---------------------------------------------------------------------------------------- device, precision


def choose_device(name: str = "auto") -> torch.device:
    """CUDA, MPS or CPU; "auto" takes the first that is there."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind, yes in there.items() if yes)
    if not there.get(name.split(":")[0], False):
        raise ValueError(f"device {name!r} is not on this machine, which has "
                         + ", ".join(kind for kind, yes in there.items() if yes))
    return torch.device(name)


def choose_precision(name: str, device: torch.device) -> str:
    """"bf16" where the hardware multiplies it ("auto"), else "fp32"."""
    if name not in ("auto", "bf16", "fp32"):
        raise ValueError(f"precision {name!r} is none of 'auto', 'bf16', 'fp32'")
    if name != "auto":
        return name
    if device.type == "cuda":
        fast = torch.cuda.get_device_capability(device) >= (8, 0)
    else:
        fast = device.type == "cpu" and cpu_has_bf16()
    return "bf16" if fast else "fp32"


def cpu_has_bf16() -> bool:
    """Whether this CPU has instructions for bfloat16 products (AVX512-BF16 or AMX)."""
    tests = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(test() for test in tests if test is not None)


def autocast(device: torch.device, precision: str):
    """Context in which products run in bf16 if that is the precision."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return "Apple GPU" if device.type == "mps" else f"CPU, {torch.get_num_threads()} threads"


def warn_if_device_differs(recipe: Recipe, device: torch.device, say: Callable[[str], None]) -> None:
    """On MPS, whose transposed convolution was silently wrong in some versions, compare one batch with the CPU."""
    if device.type != "mps":
        return
    model, x = build(recipe).eval(), torch.rand(4, 3, recipe.side, recipe.side)
    z = torch.randn(4, recipe.latent)
    there = build(recipe).eval().to(device)
    gap = max((model.decode(z) - there.decode(z.to(device)).cpu()).abs().max().item(),
              (model.encode(x)[0] - there.encode(x.to(device))[0].cpu()).abs().max().item())
    if not gap < 1e-2:
        say(f"warning: {device} and CPU differ by {gap:.2g} on one batch of {recipe.name}; set DEVICE = 'cpu'")


# ----------------------------------------------------------------------------------------------- training


def generator(device: torch.device | str, *key) -> torch.Generator:
    """Random numbers that depend on the key alone, so that resuming needs no saved state."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest, "big") >> 1)


def pixels(recipe: Recipe, images: Tensor, index: Tensor | slice, device: torch.device) -> Tensor:
    """The chosen images of a uint8 set as floats in [0, 1] on the device."""
    layout = torch.channels_last if recipe.network == "conv" else torch.contiguous_format
    return images[index].to(device, non_blocking=True).to(torch.float32, memory_format=layout).div_(255)


def on_device(images: Tensor, device: torch.device) -> Tensor:
    """The uint8 set on the device if it fills at most half of its free memory, else where it is."""
    if device.type == "cuda" and images.nbytes < torch.cuda.mem_get_info(device)[0] / 2:
        return images.to(device)
    return images


@torch.no_grad()
def evaluate(model: VAE, images: Tensor, *, precision: str = "fp32", seed: int = 0, batch: int = 500) -> Terms:
    """Both terms for every image of a uint8 set, on the CPU; the noise depends on the seed alone."""
    device, was_training = next(model.parameters()).device, model.training
    noise = generator(device, seed, "evaluation")
    model.eval()
    parts = []
    for start in range(0, len(images), batch):
        x = pixels(model.recipe, images, slice(start, start + batch), device)
        eps = torch.randn(len(x), model.recipe.latent, generator=noise, device=device)
        with autocast(device, precision):
            parts.append(elbo_terms(model, x, eps))
    model.train(was_training)
    return Terms(torch.cat([p.reconstruction for p in parts]).cpu(), torch.cat([p.kl for p in parts]).cpu())


def summary(recipe: Recipe, terms: Terms, prefix: str = "") -> dict[str, float]:
    """Means over the images: loss, reconstruction, kl."""
    reconstruction, kl = terms.reconstruction.double().mean().item(), terms.kl.double().sum(1).mean().item()
    return {f"{prefix}loss": reconstruction + recipe.beta * kl,
            f"{prefix}reconstruction": reconstruction, f"{prefix}kl": kl}


def learning_rate(recipe: Recipe, done: float) -> float:
    """Adam's rate when a share `done` of all steps is done; one cycle: up to the peak until 0.3, then to 0."""
    if recipe.schedule == "constant":
        return recipe.lr
    low, high, share = (0.04, 1.0, done / 0.3) if done < 0.3 else (1.0, 0.0, (done - 0.3) / 0.7)
    return recipe.lr * (low + (high - low) * (1 - math.cos(math.pi * share)) / 2)


def stop_early(recipe: Recipe, losses: list[float]) -> bool:
    """Whether the held-out loss has gone `patience` epochs without falling by `min_delta` nats."""
    best, waited = math.inf, 0
    for loss in losses:
        gained = loss < best - recipe.min_delta
        best, waited = (loss, 0) if gained else (best, waited + 1)
    return 0 < recipe.patience <= waited


class NonFinite(ArithmeticError):
    """The loss is no longer a number."""


class Busy(RuntimeError):
    """Another process trains this run."""


def check_finite(recipe: Recipe, sums: Tensor, epoch: int, folder: Path) -> None:
    """Stop with the epoch, batch and term where the loss first left the numbers."""
    bad = (~torch.isfinite(sums)).nonzero()
    if len(bad):
        batch, term = bad[0].tolist()
        raise NonFinite(f"{recipe.name}: the {('reconstruction', 'KL')[term]} is not finite in epoch {epoch}, batch "
                        f"{batch + 1}; {folder} keeps epoch {epoch - 1}; try a smaller learning rate or precision fp32")


def check_epoch(model: VAE, record: dict, folder: Path) -> None:
    """The same for what an epoch's last step made: weights, and held-out terms under them."""
    bad = [name for name, value in model.state_dict().items() if not torch.isfinite(value).all()]
    bad += [name for name, value in record.items() if not math.isfinite(value)]
    if bad:
        raise NonFinite(f"{model.recipe.name}: {bad[0]} is not finite after the last batch of epoch {record['epoch']}; "
                        f"{folder} keeps epoch {record['epoch'] - 1}; try a smaller learning rate or precision fp32")


def make_optimizer(model: VAE) -> torch.optim.Optimizer:
    """Adam, with a rate of its own for a linear path, which the network's full rate would spoil."""
    linear = [p for name, p in model.named_parameters() if name.startswith("linear_")]
    rest = [p for name, p in model.named_parameters() if not name.startswith("linear_")]
    groups = [{"params": rest, "share": 1.0}] + [{"params": linear, "share": model.recipe.linear_lr}] * bool(linear)
    return torch.optim.Adam(groups, lr=model.recipe.lr, fused=True)


def train_epoch(model: VAE, optimizer, images: Tensor, *, seed: int, epoch: int, epochs: int, precision: str,
                tick: Callable[[str], None], folder: Path) -> dict[str, float]:
    """One pass over the images in a fresh order; terms stay on the device and are read once at the end."""
    recipe, device = model.recipe, next(model.parameters()).device
    order = torch.randperm(len(images), generator=generator("cpu", seed, epoch, "order")).to(images.device)
    noise = generator(device, seed, epoch, "noise")
    batches = order.split(recipe.batch)
    sums = torch.zeros(len(batches), 2, device=device)
    model.train()
    start = shown = time.perf_counter()
    for i, index in enumerate(batches):
        x = pixels(recipe, images, index, device)
        eps = torch.randn(len(index), recipe.latent, generator=noise, device=device)
        with autocast(device, precision):
            terms = elbo_terms(model, x, eps)
        optimizer.zero_grad()
        terms.loss(recipe.beta).mean().backward()
        if recipe.clip:
            nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        for group in optimizer.param_groups:
            group["lr"] = group["share"] * learning_rate(recipe, (epoch - 1 + i / len(batches)) / epochs)
        optimizer.step()
        sums[i, 0], sums[i, 1] = terms.reconstruction.detach().sum(), terms.kl.detach().sum()
        if time.perf_counter() - shown > 1:
            shown = time.perf_counter()
            check_finite(recipe, sums[: i + 1], epoch, folder)
            tick(f"{recipe.name}: epoch {epoch}/{epochs}, {(i + 1) / len(batches):.0%}, "
                 f"{(i + 1) * recipe.batch / (shown - start):,.0f} images/s")
    check_finite(recipe, sums, epoch, folder)
    seconds = time.perf_counter() - start
    reconstruction, kl = (sums.double().sum(0) / len(images)).tolist()
    return {"epoch": epoch, "loss": reconstruction + recipe.beta * kl, "reconstruction": reconstruction, "kl": kl,
            "seconds": seconds, "images_per_second": len(images) / seconds}


@dataclass
class Run:
    """A trained model, how its training went, and where it is kept."""

    recipe: Recipe
    model: VAE
    history: list[dict]
    folder: Path
    identity: dict
    device: str             # that trained it
    trained_here: bool      # False: loaded

    @property
    def last(self) -> dict:
        return self.history[-1]

    @property
    def chosen(self) -> dict:
        """The epoch whose weights the model has: the best held-out one where training may stop early."""
        return best_epoch(self.history) if self.recipe.patience else self.last

    @property
    def seconds(self) -> float:
        return sum(h["seconds"] for h in self.history)

    @property
    def precision(self) -> str:
        return self.identity["precision"]

    @property
    def hash(self) -> str:
        return run_hash(self.identity)

    def curve(self, key: str) -> list[float]:
        return [h[key] for h in self.history]

    def __repr__(self):
        how = "trained here" if self.trained_here else "loaded"
        return (f"{self.recipe.name}, {len(self.history)} epochs on {self.identity['images']:,} images, {how} "
                f"({self.device}, {self.precision}, {self.seconds:,.0f} s), run {self.hash}: loss "
                f"{self.last['loss']:.1f}, KL {self.last['kl']:.1f}")


def best_epoch(history: list[dict]) -> dict:
    return min(history, key=lambda h: h["heldout_loss"])


def run_identity(recipe: Recipe, images, heldout, seed: int, epochs: int, precision: str) -> dict:
    """Everything that decides a run's result."""
    fields = {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(recipe).items()}
    del fields["epochs"]
    return {"recipe": fields, "epochs": epochs, "seed": seed, "data": images.fingerprint, "images": len(images),
            "heldout": heldout.fingerprint if heldout is not None and recipe.patience else None,
            "precision": precision}


def run_hash(identity: dict) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]


def run_folder(runs: str | Path, identity: dict) -> Path:
    return Path(runs) / f"{identity['recipe']['name']}-{identity['epochs']}-{run_hash(identity)}"


def write_atomically(path: Path, write: Callable[[io.BufferedIOBase], None]) -> None:
    """Write beside, flush to disk, rename: a reader sees the old file or the new one, whole."""
    beside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with open(beside, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        reason = error.strerror or error
        raise OSError(f"{path} could not be written ({reason}); what was there before is kept") from error
    finally:
        beside.unlink(missing_ok=True)


def write_json(path: Path, value) -> None:
    write_atomically(path, lambda file: file.write((json.dumps(value, indent=1) + "\n").encode()))


def write_tensors(path: Path, value: dict) -> None:
    """Serialised in memory first, because `torch.save` hides why a file cannot be written."""
    whole = io.BytesIO()
    torch.save(value, whole)
    write_atomically(path, lambda file: file.write(whole.getbuffer()))


def read_weights(path: Path, device: torch.device | str = "cpu") -> dict:
    """A checkpoint's tensors and plain values; a damaged file is one sentence."""
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:
        kind = type(error).__name__
        raise ValueError(f"{path} is damaged ({kind}); delete its folder to train this run anew") from error


@contextlib.contextmanager
def only_process(folder: Path) -> Iterator[None]:
    """Holds the folder for this process; the system lets go of it even when the process is killed."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "a+b") as file:
        try:
            if os.name == "nt":
                import msvcrt
                file.seek(0)
                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            else:
                import fcntl
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Busy(f"another process is training {folder}; wait until it ends, or stop it") from None
        for half_written in folder.glob("*.tmp"):                  # by a process that was killed
            half_written.unlink()
        yield


def saved_epochs(folder: Path) -> list[dict]:
    """The history of the epochs that a run has finished, [] for none."""
    state = folder / "state.pt"
    return read_weights(state)["history"] if state.exists() else []


def is_finished(recipe: Recipe, history: list[dict], epochs: int) -> bool:
    return len(history) >= epochs or bool(recipe.patience) and stop_early(recipe, [h["heldout_loss"] for h in history])


def borrow_shorter(folder: Path, identity: dict) -> None:
    """Begin from the longest shorter run that is alike in everything but its epochs: it would pass through there."""
    def same_but_epochs(other):
        return {**other, "epochs": 0} == {**identity, "epochs": 0} and other["epochs"] < identity["epochs"]

    found = []
    for path in folder.parent.glob(f"{identity['recipe']['name']}-*/run.json"):
        if same_but_epochs(json.loads(path.read_text())["identity"]) and (path.parent / "state.pt").exists():
            found.append((len(saved_epochs(path.parent)), path.parent))
    if found:
        source = max(found)[1]
        for name in ("best.pt", "state.pt"):                       # state last: with it the run is begun
            if (source / name).exists():
                with open(source / name, "rb") as file:
                    write_atomically(folder / name, lambda out, file=file: shutil.copyfileobj(file, out))


def train(recipe: Recipe, images, *, heldout=None, test=None, seed: int = 0, epochs: int = 0,
          runs: str | Path = "runs", device: str = "auto", precision: str = "auto", progress: Progress | None = None,
          ) -> Run:
    """Train a recipe on an ImageSet, go on where an earlier start was stopped, or load what is finished.

    After every epoch the run's folder holds all that the next epoch needs. `heldout` decides early stopping where
    the recipe has patience; `test` is only read, for the curves.
    """
    epochs = epochs or recipe.epochs
    if recipe.patience and heldout is None:
        raise ValueError(f"{recipe.name} stops early, so it needs a held-out set")
    if tuple(images.images.shape[1:]) != (3, recipe.side, recipe.side):
        raise ValueError(f"{recipe.name} takes images of 3x{recipe.side}x{recipe.side}, not "
                         + "x".join(map(str, images.images.shape[1:])))
    where = choose_device(device)
    precision = choose_precision(precision, where)
    identity = run_identity(recipe, images, heldout, seed, epochs, precision)
    folder = run_folder(runs, identity)
    progress = progress or Progress(f"{recipe.name}: {epochs} epochs, {len(images):,} images, seed {seed}")
    history = saved_epochs(folder)
    trained_here = not is_finished(recipe, history, epochs)
    if trained_here:
        warn_if_device_differs(recipe, where, progress.line)
        with only_process(folder):
            history = train_to_end(recipe, images, heldout, test, identity, folder, where, progress)
    else:
        log_epochs(history, epochs, progress)
    progress.done()
    model = build(recipe).to(where)
    model.load_state_dict(read_weights(folder / ("best.pt" if recipe.patience else "state.pt"), where)["model"])
    return Run(recipe, model.eval(), history, folder, identity, history[-1]["device"], trained_here)


def train_to_end(recipe: Recipe, images, heldout, test, identity: dict, folder: Path, device: torch.device,
                 progress: Progress) -> list[dict]:
    """The remaining epochs of a run, saved one by one; returns the whole history."""
    seed, epochs, precision = identity["seed"], identity["epochs"], identity["precision"]
    model = build(recipe, seed).to(device)
    optimizer = make_optimizer(model)
    if recipe.start == "linear" and not (folder / "state.pt").exists():
        from vae_measures import spectrum
        start_linear(model, spectrum(images.images, top=recipe.latent))
    if recipe.schedule == "constant" and not (folder / "state.pt").exists():
        borrow_shorter(folder, identity)
    history = restore(folder, model, optimizer, device)
    write_json(folder / "run.json", {"identity": identity, **versions()})
    log_epochs(history, epochs, progress)
    on = on_device(images.images, device)
    sets = [(f"{kind}_", s.images) for kind, s in (("heldout", heldout), ("test", test)) if s is not None]
    while not is_finished(recipe, history, epochs):
        record = train_epoch(model, optimizer, on, seed=seed, epoch=len(history) + 1, epochs=epochs,
                             precision=precision, tick=progress.tick, folder=folder)
        for prefix, held in sets:
            record |= summary(recipe, evaluate(model, held, precision=precision, seed=seed), prefix)
        check_epoch(model, record, folder)
        history.append(record | {"device": device_name(device)})
        save(folder, model, optimizer, recipe, history)
        log_epochs(history[-1:], epochs, progress)
    return history


def save(folder: Path, model: VAE, optimizer, recipe: Recipe, history: list[dict]) -> None:
    """Write what the next epoch needs; the best weights first, so that no state points to missing ones."""
    if recipe.patience and best_epoch(history) is history[-1]:
        write_tensors(folder / "best.pt", {"model": model.state_dict()})
    write_tensors(folder / "state.pt",
                  {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "history": history})
    write_json(folder / "history.json", history)


def restore(folder: Path, model: VAE, optimizer, device: torch.device) -> list[dict]:
    """Put the last finished epoch's state into model and optimizer; returns its history, [] at the start."""
    if not (folder / "state.pt").exists():
        return []
    state = read_weights(folder / "state.pt", device)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return state["history"]


def versions() -> dict[str, str]:
    """Versions of torch, Python and this file, kept beside a run."""
    return {"torch": torch.__version__, "python": sys.version.split()[0],
            "helpers": hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:8]}


def log_epochs(history: list[dict], epochs: int, progress: Progress) -> None:
    """One line an epoch, without times, so that equal runs print equal text."""
    for h in history:
        line = (f"epoch {h['epoch']:2d}/{epochs}  training {h['loss']:8.2f} = {h['reconstruction']:.2f} + KL "
                f"{h['kl']:.2f}")
        for kind, name in (("heldout", "held-out"), ("test", "test")):
            line += f"   {name} {h[f'{kind}_loss']:.2f}" if f"{kind}_loss" in h else ""
        progress.line(line)


def finished_epochs(recipe: Recipe, images, *, heldout=None, test=None, seed: int = 0, epochs: int = 0,
                    runs: str | Path = "runs", device: str = "auto", precision: str = "auto") -> list[dict]:
    """The history that `train` with the same arguments would find, without training."""
    precision = choose_precision(precision, choose_device(device))
    identity = run_identity(recipe, images, heldout, seed, epochs or recipe.epochs, precision)
    return saved_epochs(run_folder(runs, identity))


def load_splits(recipe: Recipe, *, limit: int = 0, heldout: int = 2000, source: str = "auto", root: str = "data",
                download: bool = False, crop: bool = True, progress: Progress | None = None) -> dict:
    """What a recipe trains on, as the arguments `images`, `heldout` and `test` of `train`.

    CelebA holds out its official validation split; CIFAR-10 the last training images, and only for recipes
    that choose something.
    """
    from data import load

    def get(split, n):
        return load(recipe.data, split, side=recipe.side, limit=n, source=source, root=root, download=download,
                    crop=crop, progress=progress.files if progress else None)

    fewer = max(limit // 5, 100) if limit else 0                    # held-out and test images of a limited run
    images, test = get("train", limit), get("test", fewer)
    if recipe.data == "celeba":
        return {"images": images, "heldout": get("valid", fewer), "test": test}
    if not recipe.patience:
        return {"images": images, "heldout": None, "test": test}
    images, held = images.split_off(min(heldout, len(images) // 5))
    return {"images": images, "heldout": held, "test": test}


def seconds_per_image(recipe: Recipe, images: int, device: str = "auto", precision: str = "auto") -> float:
    """Estimated seconds that one image of a set of this size takes in training here, from three steps on noise."""
    where = choose_device(device)
    model = build(recipe).to(where)
    fake = torch.randint(0, 256, (min(3 * recipe.batch, images), 3, recipe.side, recipe.side), dtype=torch.uint8,
                         generator=generator("cpu", "calibration"))
    args = dict(seed=0, epoch=1, epochs=1, precision=choose_precision(precision, where), tick=lambda text: None,
                folder=Path("."))
    optimizer = make_optimizer(model)
    train_epoch(model, optimizer, fake[: recipe.batch], **args)    # the first step allocates
    return 1 / train_epoch(model, optimizer, fake, **args)["images_per_second"]


# ------------------------------------------------------------------------------------- progress and display


def in_notebook() -> bool:
    """Whether a Jupyter kernel runs this."""
    if "IPython" not in sys.modules:
        return False
    shell = sys.modules["IPython"].get_ipython()
    return shell is not None and hasattr(shell, "kernel")


class Progress:
    """A live line, at most once a second, and a log that stays.

    In Jupyter the live line is one display that ends on the text it began with, so that what is stored does not
    depend on speed; in a terminal it is overwritten, and elsewhere not shown.
    """

    def __init__(self, head: str, log: bool = True):
        self.head, self.log, self.shown, self.handle = head, log, 0.0, None
        if in_notebook():
            from IPython.display import Pretty, display
            self.handle = display(Pretty(head), display_id=True)
        else:
            print(head, flush=True)

    def tick(self, text: str) -> None:
        if time.monotonic() - self.shown < 1:
            return
        self.shown = time.monotonic()
        self._live(text)

    def files(self, done: int, total: int, what: str) -> None:
        """Progress of reading files, as `data.load` reports it."""
        self.tick(f"{what}: {done:,} of {total:,}")

    def line(self, text: str) -> None:
        if self.log:
            self._live("", end="\r")
            print(text, flush=True)

    def done(self) -> None:
        self._live(self.head if self.handle else "", end="\r")

    def _live(self, text: str, end: str = "") -> None:
        if self.handle:
            from IPython.display import Pretty
            if text:
                self.handle.update(Pretty(text))
        elif sys.stdout.isatty():
            print("\r\033[K" + text, end=end, flush=True)


# ----------------------------------------------------------------------------------------------- settings


@dataclass(frozen=True)
class Settings:
    """The notebook's parameters, checked. Names and defaults are those of its parameters cell, in lower case."""

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

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value, kind = getattr(self, field.name), type(field.default)
            if type(value) is not kind:
                raise ValueError(f"{field.name.upper()} = {value!r} must be of type {kind.__name__}, "
                                 f"for example {field.default!r}")
            if kind is int and value < 0:
                raise ValueError(f"{field.name.upper()} = {value} must not be below 0")
        if self.data not in ("auto", "real", "standin"):
            raise ValueError(f"DATA = {self.data!r} is none of 'auto', 'real', 'standin'")
        choose_precision(self.precision, choose_device(self.device))

    def epochs_of(self, recipe: Recipe) -> int:
        """Epochs for a recipe: its own parameter's, else EPOCHS, else the recipe's."""
        own = {"conv": self.conv_epochs, "fc": self.fc_epochs, "celeba64": self.celeba_epochs}.get(recipe.name, 0)
        return own or self.epochs or recipe.epochs

    @property
    def full(self) -> bool:
        """Whether every recipe runs its own epochs on all images."""
        return not (self.epochs or self.conv_epochs or self.fc_epochs or self.celeba_epochs or self.train_limit)

    @property
    def where(self) -> dict:
        """The arguments of `train` that say where and how, not what."""
        return dict(seed=self.seed, runs=self.runs, device=self.device, precision=self.precision)

    @property
    def sources(self) -> dict:
        """The arguments of `load_splits` that say where the images come from; only a full run downloads."""
        return dict(limit=self.train_limit, source=self.data, root=self.data_root,
                    download=self.full and self.data != "standin")


def check_settings(namespace: dict) -> Settings:
    """The parameters found in a notebook's namespace; an unknown or nonsensical one is refused in a sentence."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    hidden = set(shell.user_ns_hidden) if shell is not None else set()
    given = {k: v for k, v in namespace.items() if not k.startswith("_") and k not in hidden
             and not callable(v) and not inspect.ismodule(v) and k not in ("In", "Out", "annotations")}
    known = {f.name.upper() for f in dataclasses.fields(Settings)}
    for name in given:
        if name not in known:
            raise ValueError(f"there is no parameter {name!r}; the parameters are {', '.join(sorted(known))}")
    return Settings(**{name.lower(): value for name, value in given.items()})


# --------------------------------------------------------------------------------------- samples and paths


@torch.no_grad()
def decode(model: VAE, z: Tensor, batch: int = 500) -> Tensor:
    """Images in [0, 1] (N, 3, H, W), on the CPU, for latent vectors (N, d)."""
    device = next(model.parameters()).device
    parts = [to_pixels(model.recipe, model.decode(part.to(device)).float()).clamp(0, 1) for part in z.split(batch)]
    return torch.cat(parts).cpu()


@torch.no_grad()
def encode(model: VAE, images: Tensor, batch: int = 500) -> tuple[Tensor, Tensor]:
    """mu and logvar (N, d), on the CPU, of a uint8 set."""
    device = next(model.parameters()).device
    parts = [model.encode(pixels(model.recipe, images, slice(i, i + batch), device))
             for i in range(0, len(images), batch)]
    return tuple(torch.cat([part[k].float() for part in parts]).cpu() for k in (0, 1))


def reconstruct(model: VAE, images: Tensor) -> Tensor:
    """Decoded posterior means, images in [0, 1]."""
    return decode(model, encode(model, images)[0])


def prior(n: int, latent: int, seed: int = 0) -> Tensor:
    """n draws from N(0, I), (n, latent)."""
    return torch.randn(n, latent, generator=generator("cpu", seed, "prior"))


def sample(model: VAE, n: int, seed: int = 0, density=None) -> Tensor:
    """n images decoded from N(0, I), or from a density that has `sample(n, generator)`."""
    if density is None:
        return decode(model, prior(n, model.recipe.latent, seed))
    return decode(model, density.sample(n, generator("cpu", seed, "density")).float())


def lerp(a: Tensor, b: Tensor, steps: int = 10) -> Tensor:
    """Straight line from a to b, both (..., d) -> (..., steps, d)."""
    t = torch.linspace(0, 1, steps).unsqueeze(-1)                   # (steps, 1)
    return (1 - t) * a.unsqueeze(-2) + t * b.unsqueeze(-2)


def slerp(a: Tensor, b: Tensor, steps: int = 10) -> Tensor:
    """Great-circle path whose norm goes evenly from |a| to |b|, (..., d) -> (..., steps, d)."""
    t = torch.linspace(0, 1, steps).unsqueeze(-1)                   # (steps, 1)
    norm_a, norm_b = a.norm(dim=-1, keepdim=True), b.norm(dim=-1, keepdim=True)
    ua, ub = (a / norm_a).unsqueeze(-2), (b / norm_b).unsqueeze(-2)
    angle = torch.acos((ua * ub).sum(-1, keepdim=True).clamp(-1, 1))
    path = (torch.sin((1 - t) * angle) * ua + torch.sin(t * angle) * ub) / torch.sin(angle)
    path = torch.where(angle < 1e-4, (1 - t) * ua + t * ub, path)   # parallel vectors: the line is the arc
    return path * ((1 - t) * norm_a.unsqueeze(-2) + t * norm_b.unsqueeze(-2))


# ------------------------------------------------------------------------------------------- command line


def describe(recipe: Recipe) -> str:
    """One line: dataset, network, latent, loss, parameters."""
    return (f"{recipe.name:10s} {recipe.data} {recipe.side}x{recipe.side}, {recipe.network} "
            f"{'-'.join(map(str, recipe.widths))}, latent {recipe.latent}, {recipe.reconstruction}, "
            f"{recipe.epochs} epochs, {count_parameters(VAE(recipe)):,} parameters")


def list_runs(runs: Path) -> None:
    """Print the recipes and what is trained of each."""
    for recipe in RECIPES.values():
        print(describe(recipe))
        for file in sorted(runs.glob(f"{recipe.name}-*/run.json")):
            kept, history = json.loads(file.read_text())["identity"], file.with_name("history.json")
            done = json.loads(history.read_text()) if history.exists() else []
            last = f", loss {done[-1]['loss']:.1f}, KL {done[-1]['kl']:.1f}" if done else ""
            print(f"           {file.parent.name}: {len(done)} of {kept['epochs']} epochs, seed {kept['seed']}, "
                  f"{kept['images']:,} images, {kept['precision']}{last}")


def in_sentences(work: Callable[[], None]) -> int:
    """Do what a command is for; an interruption or a foreseen failure is one sentence. Returns the exit status."""
    from data import DataError
    try:
        work()
    except KeyboardInterrupt:
        print("\nstopped; finished epochs are kept, and the same command goes on from there", file=sys.stderr)
        return 130
    except (DataError, ValueError, OSError, RuntimeError, ArithmeticError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="vae_helpers.py", description="Train recipes without the notebook.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="recipes to train, in this order")
    parser.add_argument("--list", action="store_true", help="show the recipes and what is trained of each")
    parser.add_argument("--epochs", type=int, default=0, help="instead of the recipe's own")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, default=0, help="only the first images")
    parser.add_argument("--data", default="auto", choices=("auto", "real", "standin"))
    parser.add_argument("--data-root", default="data")
    parser.add_argument("--runs", default="runs")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    args = parser.parse_args(arguments)
    if args.list or not args.names:
        list_runs(Path(args.runs))
        return 0
    unknown = [n for n in args.names if n not in RECIPES]
    if unknown:
        parser.error(f"no recipe {unknown[0]!r}; there are {', '.join(RECIPES)}")

    def work():
        settings = Settings(epochs=args.epochs, train_limit=args.limit, data=args.data, data_root=args.data_root,
                            runs=args.runs, seed=args.seed, device=args.device, precision=args.precision)
        for name in args.names:
            recipe = RECIPES[name]
            splits = load_splits(recipe, **settings.sources, progress=Progress(f"images for {name}"))
            print(splits["images"].source)
            print(train(recipe, **splits, epochs=settings.epochs_of(recipe), **settings.where))

    return in_sentences(work)


if __name__ == "__main__":
    sys.exit(main())
