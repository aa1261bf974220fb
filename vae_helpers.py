"""The variational autoencoder of this assignment: recipe, architectures, loss, one step, plots.

Losses are sums over pixels and latent dimensions and means over images, in nats. Everything here is
plain PyTorch; nothing runs at import. How an epoch is trained and kept is in `lab/`.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

# ---- recipe


@dataclass(frozen=True)
class Recipe:
    """Everything about a model and its training that a result depends on, but for data and seed."""

    name: str
    data: str = "cifar10"           # which dataset
    side: int = 32                  # pixels
    network: str = "conv"           # "conv": stride-2 4x4 convolutions; "fc": dense layers
    widths: tuple[int, ...] = (64, 128, 256, 512)    # channels or units, from image to latent
    norm: bool = True               # BatchNorm after each convolution, LayerNorm after dense layers
    activation: str = "relu"        # or "silu"
    residual: int = 0               # blocks of two 3x3 convolutions at each map up to 8x8
    start: str = "random"           # "linear": a linear path beside the network, set to its
                                    # optimum; "weights": that written into the dense layers
    start_sigma2: float = 0.22      # the decoder variance of that optimum; BCE's is about x(1 - x)
    start_gain: float = 1.0         # a factor on its logits
    start_images: int = 0           # how many of the images it is worked out from; 0: all
    linear_lr: float = 0.03         # the linear path's share of the learning rate
    latent: int = 128               # dimensions of z
    link: str = "sigmoid"           # maps logits to pixels; tanh means pixels in [-1, 1]
    reconstruction: str = "bce"     # "bce", "sse" or "gaussian"
    sigma: float | None = None      # the gaussian's standard deviation; None: one number, learned
    beta: float = 1.0               # weight of the KL
    noise: bool = True              # False: z = mu and no KL, a plain autoencoder
    batch: int = 128
    lr: float = 1e-3                # Adam's; with "onecycle" the peak
    schedule: str = "constant"      # or "onecycle"
    rise: float = 0.3               # the share of one cycle's steps before its peak
    clip: float = 0.0               # largest gradient norm; 0: unlimited
    epochs: int = 10
    images: int = 0                 # how many of the training images are used; 0: all
    trial: bool = False             # True: held-out images judge it, and no test image is seen
    patience: int = 0               # epochs without gain until it stops; 0: it never does
    min_delta: float = 0.5          # nats that count as a gain

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value, kinds = getattr(self, field.name), _kinds(field)
            if type(value) not in kinds:
                self._refuse(field.name, f"must be of type {kinds[0].__name__}")
            if type(value) is int and float in kinds:
                object.__setattr__(self, field.name, float(value))    # beta 4 is beta 4.0: one run
        for name, allowed in _ALLOWED.items():
            if getattr(self, name) not in allowed:
                self._refuse(name, f"is none of {', '.join(map(repr, allowed))}")
        for name in ("latent", "batch", "epochs", "lr", "side"):
            if not 0 < getattr(self, name) < math.inf:
                self._refuse(name, "must be above 0")
        for name in ("beta", "clip", "patience", "min_delta", "start_images", "images"):
            if not 0 <= getattr(self, name) < math.inf:
                self._refuse(name, "must not be below 0")
        if not 0 < self.rise < 1:
            self._refuse("rise", "must be between 0 and 1")
        self._check_together()

    def _check_together(self) -> None:
        """Refuses fields that do not fit each other."""
        if not all(type(width) is int and width > 0 for width in self.widths):
            self._refuse("widths", "must be whole numbers above 0")
        if self.network == "conv" and not self.widths:
            self._refuse("widths", "is empty, but network 'conv' needs widths")
        if self.network == "conv" and self.side % 2 ** len(self.widths):
            self._refuse("side", f"cannot be halved {len(self.widths)} times")
        if self.reconstruction == "bce" and self.link != "sigmoid":
            self._refuse("link", "gives pixels outside [0, 1], which bce needs")
        if self.start != "random" and (self.reconstruction == "gaussian" or self.link != "sigmoid"):
            self._refuse("start", "is worked out for bce and sse through a sigmoid")
        if self.start != "random" and self.reconstruction == "sse":
            if self.start_sigma2 != self.sigma2:
                self._refuse("start_sigma2", f"must be half of beta, {self.sigma2}, for sse")
        if self.start == "weights" and (self.network != "fc" or self.norm):
            self._refuse("start", "is for dense layers without normalisation")
        if self.sigma is not None and not (self.reconstruction == "gaussian" and self.sigma > 0
                                           and self.sigma < math.inf):
            self._refuse("sigma", "is for reconstruction 'gaussian', and above 0")

    def _refuse(self, field: str, why: str):
        raise ValueError(f"recipe {self.name}: {field} = {getattr(self, field)!r} {why}")

    def but(self, **changes) -> Recipe:
        """This recipe with some fields changed."""
        known = [field.name for field in dataclasses.fields(self)]
        for name in changes:
            if name not in known:
                raise ValueError(f"a recipe has no field {name!r}; it has {', '.join(known)}")
        return dataclasses.replace(self, **changes)

    @property
    def batchnorm(self) -> bool:
        """Whether images of a batch depend on each other, through its normalisation."""
        return self.norm and self.network == "conv"

    @property
    def holds_out(self) -> bool:
        """Whether held-out images choose something, so that they are not trained on."""
        return bool(self.patience) or self.trial

    @property
    def pixels(self) -> int:
        return 3 * self.side ** 2

    @property
    def sse_weight(self) -> float | None:
        """The factor a before the squared error of pixels in [0, 1]; None if it is not fixed."""
        stretch = 4.0 if self.link == "tanh" else 1.0  # [-1, 1] is twice as wide
        if self.reconstruction == "sse":
            return stretch
        if self.reconstruction == "gaussian" and self.sigma is not None:
            return stretch / (2 * self.sigma ** 2)
        return None

    @property
    def sigma2(self) -> float | None:
        """The decoder variance b / 2a that a*SSE + b*KL implies, on [0, 1]; for BCE its bound."""
        if self.reconstruction == "bce":
            return self.beta / 4                          # x(1 - x) <= 1/4
        return self.beta / (2 * self.sse_weight) if self.sse_weight else None


def _kinds(field: dataclasses.Field) -> tuple[type, ...]:
    """The types that a field of a recipe takes; a whole number does for a real one."""
    if field.name == "sigma":
        return float, int, type(None)
    kind = str if field.name == "name" else type(field.default)
    return (float, int) if kind is float else (kind,)


_ALLOWED = {"data": ("cifar10", "celeba", "drawn", "folder"), "network": ("conv", "fc"),
            "link": ("sigmoid", "tanh", "identity"), "reconstruction": ("bce", "sse", "gaussian"),
            "schedule": ("constant", "onecycle"), "activation": ("relu", "silu"),
            "start": ("random", "linear", "weights")}

# ---- model


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
            self.linear_in = nn.Linear(recipe.pixels, recipe.latent, bias=False)  # mu += A x
            self.linear_out = nn.Linear(recipe.latent, recipe.pixels)    # logits += B z + b
        if recipe.reconstruction == "gaussian" and recipe.sigma is None:
            self.log_sigma = nn.Parameter(torch.zeros(()))      # one sigma for all pixels, learned

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels in [0, 1] (B, 3, H, W) -> mu, logvar (B, d)."""
        x = to_range(self.recipe, x)
        h = self.encoder(x)                                     # (B, features)
        mu, logvar = self.to_mu(h), self.to_logvar(h)           # (B, d)
        if self.recipe.start == "linear":
            mu = mu + self.linear_in(x.flatten(1))
        return mu, logvar

    def reparameterize(self, mu: Tensor, logvar: Tensor, eps: Tensor) -> Tensor:
        """z = mu + sigma * eps: randomness comes from outside, so gradients reach mu and logvar."""
        return mu + torch.exp(0.5 * logvar) * eps if self.recipe.noise else mu

    def decode(self, z: Tensor) -> Tensor:
        """z (B, d) -> logits (B, 3, H, W), before the link."""
        logits = self.decoder(z)
        if self.recipe.start == "linear":
            logits = logits + self.linear_out(z).view_as(logits)
        return logits

    def forward(self, x: Tensor, eps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pixels in [0, 1] and standard normal noise (B, d) -> logits, mu, logvar."""
        mu, logvar = self.encode(x)
        return self.decode(self.reparameterize(mu, logvar, eps)), mu, logvar


def make_encoder(recipe: Recipe) -> tuple[nn.Module, int]:
    """The layers from image to features, and how many features they end in."""
    if recipe.network == "fc":
        sizes = (recipe.pixels, *recipe.widths)                 # 3072, 512, 256
        return nn.Sequential(nn.Flatten(), *dense_layers(recipe, sizes)), sizes[-1]
    layers, channels, side = [], 3, recipe.side                 # (B, 3, 32, 32)
    for width in recipe.widths:
        layers += [nn.Conv2d(channels, width, 4, stride=2, padding=1), *after(recipe, width)]
        channels, side = width, side // 2                       # (B, 64, 16, 16), ...
        layers += residual_blocks(recipe, channels, side)
    return nn.Sequential(*layers, nn.Flatten()), channels * side ** 2


def make_decoder(recipe: Recipe) -> nn.Module:
    """The encoder's layers mirrored, from z to logits."""
    widths, last = recipe.widths[::-1], (3, recipe.side, recipe.side)
    if recipe.network == "fc":
        sizes = (recipe.latent, *widths)                        # 128, 256, 512
        return nn.Sequential(*dense_layers(recipe, sizes),
                             nn.Linear(sizes[-1], recipe.pixels), nn.Unflatten(1, last))
    channels, side = widths[0], recipe.side // 2 ** len(widths)
    layers = [nn.Linear(recipe.latent, channels * side * side),
              nn.Unflatten(1, (channels, side, side)), *residual_blocks(recipe, channels, side)]
    for width in widths[1:]:
        layers += [nn.ConvTranspose2d(channels, width, 4, stride=2, padding=1),
                   *after(recipe, width)]
        channels, side = width, side * 2                        # (B, 256, 4, 4), ...
        layers += residual_blocks(recipe, channels, side)
    return nn.Sequential(*layers, nn.ConvTranspose2d(channels, 3, 4, stride=2, padding=1))


def dense_layers(recipe: Recipe, sizes: tuple[int, ...]) -> list[nn.Module]:
    """Linear layers between these sizes, each followed by what the recipe has after it."""
    layers = []
    for before, units in zip(sizes, sizes[1:], strict=False):
        layers += [nn.Linear(before, units), *after(recipe, units)]
    return layers


def after(recipe: Recipe, width: int) -> list[nn.Module]:
    """What follows a layer of this width: normalisation, if the recipe has it, and a bend."""
    bend = nn.ReLU() if recipe.activation == "relu" else nn.SiLU()
    norm = nn.BatchNorm2d if recipe.network == "conv" else nn.LayerNorm
    return [norm(width), bend] if recipe.norm else [bend]


class Residual(nn.Module):
    """x + two 3x3 convolutions of x through half as many channels, each after its activation."""

    def __init__(self, recipe: Recipe, channels: int):
        super().__init__()
        half = channels // 2
        self.path = nn.Sequential(
            *after(recipe, channels), nn.Conv2d(channels, half, 3, padding=1, bias=False),
            *after(recipe, half), nn.Conv2d(half, channels, 3, padding=1, bias=False))

    def forward(self, x):
        return x + self.path(x)


def residual_blocks(recipe: Recipe, channels: int, side: int) -> list[nn.Module]:
    """The recipe's residual blocks for a map of this side: only small maps are worth their time."""
    return [Residual(recipe, channels) for _ in range(recipe.residual)] if side <= 8 else []


def build(recipe: Recipe, seed: int = 0) -> VAE:
    """A fresh model on the CPU, the same for the same seed, whatever was drawn before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return VAE(recipe).to(memory_format=torch.channels_last)


def count_parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


# ---- loss


@dataclass
class Terms:
    """The parts of the loss, unreduced: everything reported is a mean of these."""

    reconstruction: Tensor   # (B,) nats (or squared error) per image
    kl: Tensor               # (B, d) nats per image and latent dimension

    def loss(self, beta: float) -> Tensor:
        """Reconstruction + beta * KL per image, (B,)."""
        return self.reconstruction + beta * self.kl.sum(1)


def as_pixels(images: Tensor, device=None, layout=torch.contiguous_format) -> Tensor:
    """Bytes as floats in [0, 1] on a device; what is floats already stays as it is."""
    images = images if device is None else images.to(device, non_blocking=True)
    if images.dtype != torch.uint8:
        return images
    return images.to(torch.float32, memory_format=layout).div_(255)


def to_range(recipe: Recipe, x: Tensor) -> Tensor:
    """Pixels in [0, 1] -> the range that the recipe's decoder reaches."""
    return 2 * x - 1 if recipe.link == "tanh" else x


def to_pixels(recipe: Recipe, logits: Tensor) -> Tensor:
    """The decoder's output -> an image in [0, 1]."""
    if recipe.link == "sigmoid":
        return torch.sigmoid(logits)
    return (torch.tanh(logits) + 1) / 2 if recipe.link == "tanh" else logits


def kl_divergence(mu: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mu, exp(logvar)) || N(0, 1)) of every dimension, nats."""
    return 0.5 * (mu ** 2 + logvar.exp() - 1 - logvar)


def reconstruction_error(recipe: Recipe, logits: Tensor, x: Tensor,
                         log_sigma: Tensor | None = None) -> Tensor:
    """Minus log p(x|z), up to what the recipe's loss leaves out, summed over pixels, (B,)."""
    if recipe.reconstruction == "bce":
        bce = F.binary_cross_entropy_with_logits(logits, x, reduction="none")
        return bce.flatten(1).sum(1)
    x_hat = torch.tanh(logits) if recipe.link == "tanh" else to_pixels(recipe, logits)
    sse = (to_range(recipe, x) - x_hat).square().flatten(1).sum(1)
    if recipe.reconstruction == "sse":
        return sse
    log_sigma = sse.new_tensor(math.log(recipe.sigma)) if log_sigma is None else log_sigma
    constant = recipe.pixels * (log_sigma + 0.5 * math.log(2 * math.pi))
    return sse / (2 * torch.exp(2 * log_sigma)) + constant


def elbo_terms(model: VAE, x: Tensor, eps: Tensor) -> Terms:
    """Both terms of the negative ELBO for pixels x in [0, 1] and noise eps (B, d), in fp32."""
    logits, mu, logvar = (t.float() for t in model(x, eps))
    log_sigma = getattr(model, "log_sigma", None)
    with torch.autocast(x.device.type, enabled=False):
        kl = kl_divergence(mu, logvar) if model.recipe.noise else torch.zeros_like(mu)
        return Terms(reconstruction_error(model.recipe, logits, x, log_sigma), kl)


def training_step(model: VAE, optimizer, x: Tensor, eps: Tensor, bf16: bool = False) -> Terms:
    """One step of the optimizer on pixels x in [0, 1] with noise eps (B, d); the loss's terms."""
    with torch.autocast(x.device.type, torch.bfloat16, enabled=bf16):
        terms = elbo_terms(model, x, eps)
    descend(model, optimizer, terms.loss(model.recipe.beta).mean())
    return terms


def descend(model: VAE, optimizer, loss: Tensor) -> None:
    """One step down the gradient of a loss, which is clipped where the recipe says so."""
    optimizer.zero_grad()
    loss.backward()
    if model.recipe.clip:
        nn.utils.clip_grad_norm_(model.parameters(), model.recipe.clip)
    optimizer.step()


# ---- plots: they take numbers as they come and compute none

GREY = "#666666"
STYLES = {"conv": ("#0072B2", "-", "o"), "fc": ("#D55E00", "--", "s"),        # colour, dash, marker
          "improved": ("#AA4499", "-", "^"), "sprint": ("#AA4499", ":", "*"),
          "pca": ("#8A6100", "-.", "v"), "cycle": ("#0072B2", ":", "D"),
          "celeba64": ("#009E73", "-", "o"),
          "celeba128": ("#009E73", "-", "o"), "b4": ("#CC79A7", "--", "s"),      # β = 1, 4, 10
          "b10": ("black", "-.", "^")}


def style_of(name: str) -> dict:
    """How a model is drawn everywhere; p1-conv as conv, and an unknown one in black."""
    style = STYLES.get(name) or STYLES.get(name.split("-")[-1]) or ("black", ":", "D")
    colour, dash, marker = style
    return {"color": colour, "ls": dash, "marker": marker, "ms": 4}


def new_figure(columns: int = 1, rows: int = 1, width: float = 8.0, height: float = 3.2):
    """A figure of fixed size and its axes, in the notebook's style."""
    with plt.rc_context({"axes.spines.top": False, "axes.spines.right": False}):
        return plt.subplots(rows, columns, figsize=(width, height), dpi=110, layout="constrained")


def tile(images: Tensor, columns: int, zoom: int = 2, gap: int = 2) -> np.ndarray:
    """Images, floats in [0, 1] or bytes (N, 3, H, W), as one uint8 sheet at an exact multiple."""
    if images.dtype != torch.uint8:
        images = (images.clamp(0, 1) * 255).round().to(torch.uint8)
    N, _, H, W = images.shape
    rows, h, w = -(-N // columns), H + gap, W + gap
    sheet = torch.full((rows * columns, 3, h, w), 255, dtype=torch.uint8)
    sheet[:N, :, :H, :W] = images
    sheet = sheet.view(rows, columns, 3, h, w).permute(0, 3, 1, 4, 2)  # (rows, h, columns, w, 3)
    sheet = sheet.reshape(rows * h, columns * w, 3)[: rows * h - gap, : columns * w - gap]
    return sheet.repeat_interleave(zoom, 0).repeat_interleave(zoom, 1).numpy()


def picture(panels: dict[str, np.ndarray], title: str):
    """Sheets of tiles beside each other, each under its name, pixel for pixel in one figure."""
    dpi, head, label, pad = 100, 34, 22, 14
    heights, widths = zip(*(p.shape[:2] for p in panels.values()), strict=True)
    width, height = sum(widths) + pad * (len(panels) + 1), max(heights) + head + label + pad
    figure = plt.figure(figsize=(width / dpi, height / dpi), dpi=dpi)
    figure.text(pad / width, 1 - 10 / height, title, va="top", fontsize=11, weight="bold")
    x, y = pad, head + label
    for name, panel in panels.items():
        h, w = panel.shape[:2]
        figure.text(x / width, 1 - (y - 6) / height, name, va="bottom", fontsize=9)
        axes = figure.add_axes([x / width, 1 - (y + h) / height, w / width, h / height])
        axes.imshow(panel, interpolation="none")
        axes.axis("off")
        x += w + pad
    return figure


def name_at(axes, point: tuple[float, float], name: str, more: str = "", below: bool = False):
    """A model's name, and more of it, to the right of a point or below it, in its colour."""
    where = {"xytext": (0, -9), "ha": "center", "va": "top"} if below else {"xytext": (7, 0),
                                                                           "va": "center"}
    axes.annotate(name + more, point, textcoords="offset points", fontsize=8,
                  color=style_of(name)["color"], **where)


def reference_lines(axes, lines: dict[str, float], side: str = "right") -> None:
    """Levels that no training reached, each a grey line of its own dash, named at one side."""
    for (name, level), dash in zip(lines.items(), (":", "-.", "--"), strict=False):
        axes.axhline(level, color=GREY, ls=dash, lw=1)
        axes.text(0.99 if side == "right" else 0.01, level, name, ha=side, va="bottom",
                  transform=axes.get_yaxis_transform(), fontsize=7, color=GREY, clip_on=True)


def plot_curves(curves: dict[str, dict], lines: dict[str, float],
                points: dict[str, list[tuple[float, float]]]):
    """Training and test loss above the floor by epoch, with levels for comparison; beside it
    what trainings (rate, ratio) make of their nats."""
    figure, (left, right) = new_figure(2, width=9, height=3.4)
    for name, curve in curves.items():
        style, epoch = style_of(name), curve["epoch"]
        left.plot(epoch, curve["training"], color=style["color"], lw=1, alpha=0.6)
        left.plot(epoch, curve["test"], **style)
        name_at(left, (epoch[-1], curve["test"][-1]), name)
    reference_lines(left, lines)
    least = min(min(curve["test"]) for curve in curves.values())
    left.set(xlabel="epoch (thin lines: training)", ylabel="nats per image above the floor",
             ylim=(0.9 * least, 1.9 * least), title="Loss above the floor")
    draw_over_linear(right, points)
    return figure


def plot_by_seconds(curves: dict[str, dict], lines: dict[str, float]):
    """Test loss above the floor against seconds of training, each curve named at its end."""
    figure, axes = new_figure(width=7.5, height=3.4)
    for name, curve in curves.items():
        seconds, loss = curve["seconds"][-1], curve["test"][-1]
        axes.plot(curve["seconds"], curve["test"], **style_of(name) | {"ms": 7})
        name_at(axes, (seconds, loss), name, f": {seconds:,.0f} s", below=True)
    reference_lines(axes, lines, "left")
    axes.margins(0.12)
    axes.set(xscale="log", xlabel="seconds of training, by the median epoch",
             ylabel="test loss above the floor, nats", title="How soon each gets where")
    return figure


def plot_bars(groups: dict[str, dict[str, tuple[float, float | None]]], title: str, xlabel: str):
    """Horizontal bars with their values, a group for each model and a bar for each kind, and an
    error bar where there is an error."""
    figure, axes = new_figure(width=8, height=0.9 + 0.27 * sum(map(len, groups.values())))
    names = []
    for name, values in groups.items():
        for (kind, (value, error)), hatch in zip(values.items(), ("", "//", ".."), strict=False):
            names.append(f"{name}, {kind}")
            axes.barh(names[-1], value, xerr=error, color=style_of(name)["color"], hatch=hatch,
                      edgecolor="white", capsize=3)
            axes.annotate(f"{value:.1f}", (value + (error or 0), names[-1]), (5, 0),
                          textcoords="offset points", va="center", fontsize=9)
    axes.margins(x=0.1)
    axes.set(xlabel=xlabel, title=title)
    axes.invert_yaxis()
    return figure


def draw_over_linear(axes, points: dict[str, list[tuple[float, float]]]) -> None:
    """The squared error of models over that of the best linear VAE of the same rate, by rate: a
    mark for each training (rate, ratio), the first one named."""
    for name, trainings in points.items():
        axes.plot(*zip(*trainings, strict=True), **style_of(name) | {"ls": "", "ms": 6})
        name_at(axes, trainings[0], name)
    axes.axhline(1, color=GREY, lw=1)
    axes.text(0.01, 1, "the best linear VAE of that rate", transform=axes.get_yaxis_transform(),
              va="bottom", fontsize=8, color=GREY)
    axes.margins(x=0.15, y=0.15)
    axes.set(xlabel="rate: KL, nats per image", ylabel="squared error over linear",
             title="What the nats buy")
