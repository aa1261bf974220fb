"""How a model is trained and used: device, random numbers, epochs, evaluation, codes and paths."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from lab.layers import fast
from lab.ranks import ALONE, Ranks
from vae_helpers import (
    VAE,
    Recipe,
    Terms,
    as_pixels,
    build,
    elbo_terms,
    to_pixels,
    training_step,
)

# ---- device and precision


def choose_device(name: str = "auto") -> torch.device:
    """CUDA, MPS or CPU; "auto" takes the first that is there."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(),
             "cpu": True}
    if name == "auto":
        name = next(kind for kind, yes in there.items() if yes)
    if not there.get(name.split(":")[0], False):
        raise ValueError(f"device {name!r} is not on this machine, which has "
                         + ", ".join(kind for kind, yes in there.items() if yes))
    return torch.device(name)


def choose_precision(name: str, device: torch.device) -> str:
    """The precision asked for; for "auto" bf16 where the hardware multiplies it, else fp32."""
    if name not in ("auto", "bf16", "fp32"):
        raise ValueError(f"precision {name!r} is none of 'auto', 'bf16', 'fp32'")
    if name == "auto":
        return "bf16" if has_bf16(device) else "fp32"
    return name


def has_bf16(device: torch.device) -> bool:
    """Whether the device has instructions for products in bf16; without, they take ages."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    tests = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return device.type == "cpu" and any(getattr(torch.cpu, test, bool)() for test in tests)


def usable(precision: str, device: torch.device) -> str:
    """The precision to evaluate in what was trained in `precision`: fp32 where bf16 is too slow."""
    return precision if precision == "fp32" or has_bf16(device) else "fp32"


def autocast(device: torch.device, precision: str):
    """The context in which products run in bf16 if that is the precision."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return "Apple GPU" if device.type == "mps" else f"CPU, {torch.get_num_threads()} threads"


def warn_if_device_differs(recipe: Recipe, device: torch.device, say: Callable) -> None:
    """Compares one batch with the CPU's on MPS, where some versions were silently wrong."""
    if device.type != "mps":
        return
    here, there = build(recipe).eval(), build(recipe).eval().to(device)
    x, z = torch.rand(4, 3, recipe.side, recipe.side), torch.randn(4, recipe.latent)
    with torch.no_grad():
        gaps = (here.decode(z) - there.decode(z.to(device)).cpu(),
                here.encode(x)[0] - there.encode(x.to(device))[0].cpu())
    gap = max(part.abs().max().item() for part in gaps)
    if not gap < 1e-2:
        say(f"warning: {device} and CPU differ by {gap:.2g} on a batch of {recipe.name}; "
            "set DEVICE = 'cpu'")


# ---- random numbers and batches


def generator(device: torch.device | str, *key) -> torch.Generator:
    """Random numbers that depend on the key alone, so that resuming needs no saved state."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest, "big") >> 1)


def batch_of(recipe: Recipe, images: Tensor, index: Tensor | slice, device) -> Tensor:
    """The chosen images of a uint8 set as floats in [0, 1] on the device."""
    layout = torch.channels_last if recipe.network == "conv" else torch.contiguous_format
    return as_pixels(images[index], device, layout)


def on_device(images: Tensor, device: torch.device) -> Tensor:
    """The uint8 set on the device if it fills at most half of its free memory, else as it is."""
    if device.type == "cuda" and images.nbytes < torch.cuda.mem_get_info(device)[0] / 2:
        return images.to(device)
    return images


# ---- the model, the rate, the end


def fresh(recipe: Recipe, device: torch.device, seed: int = 0) -> VAE:
    """A fresh model on the device, with the fast layers."""
    return fast(build(recipe, seed)).to(device)


def make_optimizer(model: VAE) -> torch.optim.Optimizer:
    """Adam, with a rate of its own for a linear path, which the network's full rate would spoil."""
    linear = [p for name, p in model.named_parameters() if name.startswith("linear_")]
    groups = [{"params": [p for name, p in model.named_parameters()
                          if not name.startswith("linear_")], "share": 1.0}]
    if linear:
        groups.append({"params": linear, "share": model.recipe.linear_lr})
    return torch.optim.Adam(groups, lr=model.recipe.lr, fused=True)


def learning_rate(recipe: Recipe, done: float) -> float:
    """Adam's rate after a share `done` of all steps; one cycle: up to the peak until 0.3, to 0."""
    if recipe.schedule == "constant":
        return recipe.lr
    rising = done < 0.3
    low, high, share = (0.04, 1.0, done / 0.3) if rising else (1.0, 0.0, (done - 0.3) / 0.7)
    return recipe.lr * (low + (high - low) * (1 - math.cos(math.pi * share)) / 2)


def stop_early(recipe: Recipe, losses: list[float]) -> bool:
    """Whether the held-out loss has gone `patience` epochs without falling by `min_delta` nats."""
    best, waited = math.inf, 0
    for loss in losses:
        gained = loss < best - recipe.min_delta
        best, waited = (loss, 0) if gained else (best, waited + 1)
    return 0 < recipe.patience <= waited


def is_finished(recipe: Recipe, history: list[dict], epochs: int) -> bool:
    """Whether no epoch is left: all are there, or the training has stopped early."""
    stopped = bool(recipe.patience) and stop_early(recipe, [h["heldout_loss"] for h in history])
    return len(history) >= epochs or stopped


def best_epoch(history: list[dict]) -> dict:
    return min(history, key=lambda h: h["heldout_loss"])


class NonFinite(ArithmeticError):
    """The loss is no longer a number."""


def check_finite(recipe: Recipe, sums: Tensor, epoch: int, folder: Path) -> None:
    """Stops with the epoch, batch and term where the loss (batches, 2) first left the numbers."""
    bad = (~torch.isfinite(sums)).nonzero()
    if len(bad):
        batch, term = bad[0].tolist()
        raise NonFinite(f"{recipe.name}: the {('reconstruction', 'KL')[term]} is not finite in "
                        f"epoch {epoch}, batch {batch + 1}; {folder} keeps epoch {epoch - 1}; "
                        "try a smaller learning rate or precision fp32")


def check_epoch(model: VAE, record: dict, folder: Path) -> None:
    """The same for what an epoch's last step made: weights, and held-out terms under them."""
    bad = [name for name, value in model.state_dict().items() if not torch.isfinite(value).all()]
    bad += [name for name, value in record.items() if not math.isfinite(value)]
    if bad:
        raise NonFinite(f"{model.recipe.name}: {bad[0]} is not finite after the last batch of "
                        f"epoch {record['epoch']}; {folder} keeps epoch {record['epoch'] - 1}; "
                        "try a smaller learning rate or precision fp32")


# ---- an epoch, and what it is worth


def train_epoch(model: VAE, optimizer, images: Tensor, *, seed: int, epoch: int, epochs: int,
                precision: str, tick: Callable[[str], None], folder: Path,
                ranks: Ranks = ALONE) -> dict[str, float]:
    """One pass over the images in a fresh order; the terms stay on the device until its end."""
    recipe, device = model.recipe, next(model.parameters()).device
    order = torch.randperm(len(images), generator=generator("cpu", seed, epoch, "order"))
    noise = generator(device, seed, epoch, "noise")
    batches = order.to(images.device).split(recipe.batch)
    sums = torch.zeros(len(batches), 2, device=device)
    model.train()
    start = shown = time.perf_counter()
    for i, index in enumerate(batches):
        for group in optimizer.param_groups:
            share = (epoch - 1 + i / len(batches)) / epochs
            group["lr"] = group["share"] * learning_rate(recipe, share)
        eps = torch.randn(len(index), recipe.latent, generator=noise, device=device)
        sums[i] = step(model, optimizer, images, index, eps, precision, ranks)
        if time.perf_counter() - shown > 1:
            shown = time.perf_counter()
            check_finite(recipe, sums[: i + 1], epoch, folder)
            tick(f"{recipe.name}: epoch {epoch}/{epochs}, {(i + 1) / len(batches):.0%}, "
                 f"{(i + 1) * recipe.batch / (shown - start):,.0f} images/s")
    check_finite(recipe, ranks.total(sums), epoch, folder)
    seconds = time.perf_counter() - start
    reconstruction, kl = (sums.double().sum(0) / len(images)).tolist()
    return {"epoch": epoch, "loss": reconstruction + recipe.beta * kl,
            "reconstruction": reconstruction, "kl": kl,
            "seconds": seconds, "images_per_second": len(images) / seconds}


def step(model: VAE, optimizer, images: Tensor, index: Tensor, eps: Tensor, precision: str,
         ranks: Ranks) -> Tensor:
    """One step on this process's rows of a batch; the sums of both terms over them, (2,)."""
    rows, own = ranks.rows(len(index)), ranks.own(len(index))
    rows = rows if own else slice(1)                # a process without a row takes one for nothing
    x = batch_of(model.recipe, images, index[rows], eps.device)
    together = None if ranks.alone else lambda made: ranks.add_gradients(made, own / len(index))
    terms = training_step(model, optimizer, x, eps[rows], precision == "bf16", together)
    parts = terms.reconstruction.detach()[:own], terms.kl.detach()[:own]
    return torch.stack([part.sum() for part in parts])


@torch.no_grad()
def evaluate(model: VAE, images: Tensor, *, precision: str = "fp32", seed: int = 0,
             batch: int = 500, ranks: Ranks = ALONE) -> Terms:
    """Both terms for every image of a uint8 set, on the CPU; the seed alone decides the noise."""
    device, was_training = next(model.parameters()).device, model.training
    noise = generator(device, seed, "evaluation")
    model.eval()
    parts = []
    for start in range(0, len(images), batch):
        part = images[start:start + batch]
        rows = ranks.rows(len(part))
        eps = torch.randn(len(part), model.recipe.latent, generator=noise, device=device)[rows]
        with autocast(device, precision):
            parts.append(elbo_terms(model, batch_of(model.recipe, part, rows, device), eps))
    model.train(was_training)
    return Terms(torch.cat([p.reconstruction for p in parts]).cpu(),
                 torch.cat([p.kl for p in parts]).cpu())


def mean_terms(model: VAE, images: Tensor, prefix: str, ranks: Ranks = ALONE,
               **more) -> dict[str, float]:
    """Means over a set that all processes evaluate together."""
    terms = evaluate(model, images, ranks=ranks, **more)
    means = summary(model.recipe, terms, prefix)
    if ranks.alone:
        return means
    n, device = len(terms.kl), next(model.parameters()).device
    sums = torch.tensor([n * value for value in means.values()] + [n], dtype=torch.float64)
    *sums, n = ranks.total(sums.to(device)).tolist()
    return {name: value / n for name, value in zip(means, sums, strict=True)}


def summary(recipe: Recipe, terms: Terms, prefix: str = "") -> dict[str, float]:
    """Means over the images: loss, reconstruction, kl."""
    reconstruction = terms.reconstruction.double().mean().item()
    kl = terms.kl.double().sum(1).mean().item()
    return {f"{prefix}loss": reconstruction + recipe.beta * kl,
            f"{prefix}reconstruction": reconstruction, f"{prefix}kl": kl}


def seconds_per_image(recipe: Recipe, device: torch.device, precision: str) -> float:
    """An estimate for training, from two steps of few images and two of more, on noise.

    A step takes some time whatever its size, and some for each image: two sizes tell them apart.
    """
    model = fresh(recipe, device)
    optimizer = make_optimizer(model)
    sizes = min(8, recipe.batch), min(32, recipe.batch)
    fake = torch.randint(0, 256, (max(sizes), 3, recipe.side, recipe.side), dtype=torch.uint8,
                         generator=generator("cpu", "calibration"))

    def step(n: int) -> float:
        start = time.perf_counter()
        eps = torch.zeros(n, recipe.latent, device=device)
        terms = training_step(model, optimizer, batch_of(recipe, fake, slice(n), device), eps,
                              bf16=precision == "bf16")
        terms.reconstruction.sum().item()                       # waits for the device
        return time.perf_counter() - start

    small, large = (min(step(n), step(n)) for n in sizes)
    each = max(large - small, 0.2 * large) / max(sizes[1] - sizes[0], 1)
    return each + max(large - sizes[1] * each, 0.0) / recipe.batch


def measured_precision(device: torch.device) -> str:
    """The precision in which the steps of a small network take less time, measured in turns.

    bf16, for which there are instructions, unless fp32 is clearly faster: a busy machine disturbs.
    """
    recipe = Recipe("small", widths=(32, 64, 128), norm=False, batch=64)
    turns = [{p: seconds_per_image(recipe, device, p) for p in ("bf16", "fp32")} for _ in range(3)]
    ratios = sorted(turn["fp32"] / turn["bf16"] for turn in turns)
    return "fp32" if ratios[-1] < 0.9 else "bf16"


# ---- sets, codes and paths


@torch.no_grad()
def encode_set(model: VAE, images: Tensor, batch: int = 500) -> tuple[Tensor, Tensor]:
    """mu and logvar (N, d), on the CPU, of a uint8 set."""
    device = next(model.parameters()).device
    parts = [model.encode(batch_of(model.recipe, images, slice(i, i + batch), device))
             for i in range(0, len(images), batch)]
    return tuple(torch.cat([part[k].float() for part in parts]).cpu() for k in (0, 1))


@torch.no_grad()
def decode_set(model: VAE, z: Tensor, batch: int = 500) -> Tensor:
    """Images in [0, 1] (N, 3, H, W), on the CPU, for latent vectors (N, d)."""
    device = next(model.parameters()).device
    parts = [to_pixels(model.recipe, model.decode(part.to(device)).float()).clamp(0, 1)
             for part in z.split(batch)]
    return torch.cat(parts).cpu()


def reconstruct(model: VAE, images: Tensor) -> Tensor:
    """Decoded posterior means, images in [0, 1]."""
    return decode_set(model, encode_set(model, images)[0])


def draw_prior(n: int, latent: int, seed: int = 0) -> Tensor:
    """n draws from N(0, I), (n, latent)."""
    return torch.randn(n, latent, generator=generator("cpu", seed, "prior"))


def draw_codes(mu: Tensor, logvar: Tensor, draw: torch.Generator) -> Tensor:
    """One draw from every posterior, (N, d)."""
    return mu + (logvar / 2).exp() * torch.randn(mu.shape, generator=draw)


def draw_images(model: VAE, n: int, seed: int = 0, density=None) -> Tensor:
    """n images decoded from N(0, I), or from a density that has `sample(n, generator)`."""
    if density is None:
        return decode_set(model, draw_prior(n, model.recipe.latent, seed))
    return decode_set(model, density.sample(n, generator("cpu", seed, "density")).float())


def lerp(a: Tensor, b: Tensor, steps: int = 10) -> Tensor:
    """Straight line from a to b, both (..., d) -> (..., steps, d)."""
    t = torch.linspace(0, 1, steps).unsqueeze(-1)                   # (steps, 1)
    return (1 - t) * a.unsqueeze(-2) + t * b.unsqueeze(-2)


def slerp(a: Tensor, b: Tensor, steps: int = 10) -> Tensor:
    """Great circle whose norm goes evenly from |a| to |b|, (..., d) -> (..., steps, d)."""
    t = torch.linspace(0, 1, steps).unsqueeze(-1)                   # (steps, 1)
    norm_a, norm_b = a.norm(dim=-1, keepdim=True), b.norm(dim=-1, keepdim=True)
    ua, ub = (a / norm_a).unsqueeze(-2), (b / norm_b).unsqueeze(-2)
    angle = torch.acos((ua * ub).sum(-1, keepdim=True).clamp(-1, 1))
    path = (torch.sin((1 - t) * angle) * ua + torch.sin(t * angle) * ub) / torch.sin(angle)
    path = torch.where(angle < 1e-4, (1 - t) * ua + t * ub, path)   # parallel: the line is the arc
    return path * ((1 - t) * norm_a.unsqueeze(-2) + t * norm_b.unsqueeze(-2))
