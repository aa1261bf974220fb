"""How a model is trained and used: device, random numbers, epochs, evaluation, codes and paths."""

import hashlib
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lab.files import Refused, Trouble
from lab.products import fast
from vae_helpers import (
    VAE,
    Recipe,
    Terms,
    as_pixels,
    build,
    descend,
    elbo_terms,
    to_pixels,
    training_step,
)

# ---- device and precision


def choose_device(name: str = "auto") -> torch.device:
    """CUDA, MPS or CPU; "auto" takes the first that is there."""
    known = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(),
             "cpu": True}
    there = [kind for kind, yes in known.items() if yes]
    name = there[0] if name == "auto" else name
    if name.split(":")[0] not in there:
        raise Refused(f"device {name!r} is not on this machine, which has {', '.join(there)}")
    return torch.device(name)


def choose_precision(name: str, device: torch.device) -> str:
    """The precision asked for; for "auto" bf16 where the device has it, else fp32.

    On a CPU with AVX512's bf16 and without AMX (AMD Zen 5, two cores) bf16 trained 1.9 times as
    fast as fp32 with the library's layers for `conv`, 1.8 for `celeba64`, 1.2 for `improved` and
    2.0 for `fc`.
    """
    if name not in ("auto", "bf16", "fp32"):
        raise Refused(f"precision {name!r} is none of 'auto', 'bf16', 'fp32'")
    if name != "auto":
        return name
    return "bf16" if has_bf16(device) else "fp32"


def has_bf16(device: torch.device) -> bool:
    """Whether the device has instructions for products in bf16; without, they take ages."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return False


def autocast(device: torch.device, precision: str):
    """The context in which products run in bf16 if that is the precision."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "mps":
        return "Apple GPU"
    threads = torch.get_num_threads()
    return f"CPU, {threads} threads" if threads > 1 else "CPU, 1 thread"


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
    """Adam's rate after a share `done` of all steps; one cycle rises to its peak and falls to 0."""
    if recipe.schedule == "constant":
        return recipe.lr
    if done < recipe.rise:
        start, end, share = 0.04, 1.0, done / recipe.rise
    else:
        start, end, share = 1.0, 0.0, (done - recipe.rise) / (1 - recipe.rise)
    return recipe.lr * (start + (end - start) * (1 - math.cos(math.pi * share)) / 2)


def is_finished(recipe: Recipe, history: list[dict], epochs: int) -> bool:
    """Whether no epoch is left: all are there, or, where a recipe has patience, the held-out loss
    has gone so many epochs without falling by `min_delta` nats."""
    if not recipe.patience:
        return len(history) >= epochs
    best, waited = math.inf, 0
    for record in history:
        gained = record["heldout_loss"] < best - recipe.min_delta
        best, waited = (record["heldout_loss"], 0) if gained else (best, waited + 1)
    return len(history) >= epochs or waited >= recipe.patience


def best_epoch(history: list[dict]) -> dict:
    return min(history, key=lambda h: h["heldout_loss"])


def check_finite(recipe: Recipe, sums: Tensor, epoch: int, folder: Path) -> None:
    """Stops with the epoch, batch and term where the loss (batches, 2) first left the numbers."""
    bad = (~torch.isfinite(sums)).nonzero()
    if len(bad):
        batch, term = bad[0].tolist()
        refuse_epoch(recipe, f"the {('reconstruction', 'KL')[term]} is not finite in epoch "
                     f"{epoch}, batch {batch + 1}", epoch, folder)


def check_epoch(model: VAE, record: dict, folder: Path) -> None:
    """The same for what an epoch's last step made: weights, and held-out terms under them."""
    epoch = record["epoch"]
    bad = [name for name, value in model.state_dict().items() if not torch.isfinite(value).all()]
    bad += [name for name, value in record.items() if not math.isfinite(value)]
    if bad:
        refuse_epoch(model.recipe, f"{bad[0]} is not finite after the last batch of epoch {epoch}",
                     epoch, folder)


def refuse_epoch(recipe: Recipe, why: str, epoch: int, folder: Path) -> None:
    kept = f"{folder} keeps epoch {epoch - 1}" if epoch > 1 else "nothing is kept"
    raise Trouble(f"{recipe.name}: {why}; {kept}; try a smaller learning rate, or precision fp32 "
                  "if it was bf16")


# ---- an epoch, and what it is worth


def train_epoch(model: VAE, optimizer, images: Tensor, *, seed: int, epoch: int, epochs: int,
                precision: str, tick: Callable[[str], None], folder: Path,
                together: DistributedDataParallel | None = None) -> dict[str, float]:
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
        sums[i] = step(model, optimizer, images, index, eps, precision, together)
        if time.perf_counter() - shown > 1:
            shown = time.perf_counter()
            check_finite(recipe, sums[: i + 1], epoch, folder)
            tick(pace_so_far(recipe, epoch, epochs, (i + 1) / len(batches), shown - start,
                             len(images)))
    if together:
        dist.all_reduce(sums)
    check_finite(recipe, sums, epoch, folder)
    seconds = time.perf_counter() - start
    reconstruction, kl = (sums.double().sum(0) / len(images)).tolist()
    return {"epoch": epoch, "loss": reconstruction + recipe.beta * kl,
            "reconstruction": reconstruction, "kl": kl, "seconds": seconds}


def pace_so_far(recipe: Recipe, epoch: int, epochs: int, done: float, seconds: float,
                n: int) -> str:
    """A line on a share `done` of an epoch: where it is, how fast, and the minutes to go."""
    left = (epochs - epoch + 1 - done) * seconds / done / 60
    return (f"{recipe.name}: epoch {epoch}/{epochs}, {done:.0%}, {done * n / seconds:,.0f} "
            f"images/s, about {left:.0f} min left")


def step(model: VAE, optimizer, images: Tensor, index: Tensor, eps: Tensor, precision: str,
         together: DistributedDataParallel | None = None) -> Tensor:
    """One step on this process's rows of a batch; the sums of both terms over them, (2,)."""
    rank, n = (dist.get_rank(), dist.get_world_size()) if together else (0, 1)
    own = len(index[rank::n])
    rows = slice(rank, None, n) if own else slice(1)    # without a row, the first with weight 0
    x = batch_of(model.recipe, images, index[rows], eps.device)
    if together:
        terms = shared_step(model, optimizer, x, eps[rows], precision == "bf16", together,
                            own * n / len(index))
    else:
        terms = training_step(model, optimizer, x, eps, precision == "bf16")
    parts = terms.reconstruction.detach()[:own], terms.kl.detach()[:own]
    return torch.stack([part.sum() for part in parts])


def shared_step(model: VAE, optimizer, x: Tensor, eps: Tensor, bf16: bool,
                together: Callable[[Tensor, Tensor], Terms], share: float) -> Terms:
    """The step of several processes on one batch, of which x and eps are this one's rows.

    DDP gives their terms and averages gradients over processes, so each weighs its mean by `share`,
    its part of the batch times the number of processes.
    """
    with torch.autocast(x.device.type, torch.bfloat16, enabled=bf16):
        terms = together(x, eps)
    descend(model, optimizer, share * terms.loss(model.recipe.beta).mean())
    return terms


SETTLING = 10_000       # images that batch normalisation is settled on, at most


@torch.no_grad()
def settled(model: VAE, images: Tensor, *, precision: str, seed: int, batch: int = 500) -> VAE:
    """A copy whose batch normalisation has the mean statistics of a fifth of the training images.

    As trained it has those of the last batches, weighted towards the very last, and a loss with
    them is that accident's. A model without batch normalisation is handed back as it is.
    """
    recipe, device = model.recipe, next(model.parameters()).device
    if not recipe.batchnorm:
        return model
    copy = fresh(recipe, device)
    copy.load_state_dict(model.state_dict())
    for layer in copy.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.reset_running_stats()
            layer.momentum = None                       # a plain mean over the batches below
    draw = generator("cpu", seed, "settled")
    some = torch.randperm(len(images), generator=draw)[:min(SETTLING, max(len(images) // 5, 2))]
    for index in some.to(images.device).tensor_split(max(len(some) // batch, 1)):
        eps = torch.randn(len(index), recipe.latent, generator=draw).to(device)
        with autocast(device, precision):
            copy(batch_of(recipe, images, index, device), eps)
    return copy.eval()


@torch.no_grad()
def evaluate(model: VAE, images: Tensor, *, seed: int = 0, batch: int = 500) -> Terms:
    """Both terms for every image of a uint8 set, in fp32; the seed alone decides the noise."""
    device, was_training = next(model.parameters()).device, model.training
    noise = generator(device, seed, "evaluation")
    model.eval()
    parts = []
    for part in images.split(batch):
        eps = torch.randn(len(part), model.recipe.latent, generator=noise, device=device)
        parts.append(elbo_terms(model, batch_of(model.recipe, part, slice(None), device), eps))
    model.train(was_training)
    return Terms(torch.cat([p.reconstruction for p in parts]).cpu(),
                 torch.cat([p.kl for p in parts]).cpu())


def summary(recipe: Recipe, terms: Terms, prefix: str = "") -> dict[str, float]:
    """Means over the images: loss, reconstruction, kl."""
    reconstruction = terms.reconstruction.double().mean().item()
    kl = terms.kl.double().sum(1).mean().item()
    return {f"{prefix}loss": reconstruction + recipe.beta * kl,
            f"{prefix}reconstruction": reconstruction, f"{prefix}kl": kl}


# ---- sets, codes and paths


@torch.no_grad()
def encode_set(model: VAE, images: Tensor, batch: int = 500) -> tuple[Tensor, Tensor]:
    """mu and logvar (N, d), on the CPU, of a uint8 set."""
    device = next(model.parameters()).device
    parts = [model.encode(batch_of(model.recipe, images, slice(i, i + batch), device))
             for i in range(0, len(images), batch)]
    return tuple(torch.cat([part[k].float() for part in parts]).cpu() for k in (0, 1))


@torch.no_grad()
def logits_at(model: VAE, z: Tensor, batch: int = 500) -> Tensor:
    """Logits (N, 3, H, W), on the CPU, for latent vectors (N, d)."""
    device = next(model.parameters()).device
    return torch.cat([model.decode(part.to(device)).float().cpu() for part in z.split(batch)])


def decode_set(model: VAE, z: Tensor) -> Tensor:
    """Images in [0, 1] (N, 3, H, W), on the CPU, for latent vectors (N, d)."""
    return to_pixels(model.recipe, logits_at(model, z)).clamp_(0, 1)


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
