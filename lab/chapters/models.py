"""The models: every recipe in a row, and a drawing of what flows through one and back."""

import math
from itertools import pairwise
from typing import NamedTuple

import torch
from matplotlib.patches import FancyArrowPatch, Rectangle
from torch import Tensor, nn

from lab.recipes import RECIPES
from lab.show import Table
from vae_helpers import VAE, build, count_parameters, new_figure


def recipes(names=RECIPES) -> Table:
    """Recipes with what decides them, a row each."""
    rows = [{"recipe": f"`{r.name}`", "data": f"{r.data}\N{NO-BREAK SPACE}{r.side}×{r.side}",
             "network": f"{r.network} {'-'.join(map(str, r.widths))}".strip(), "latent": r.latent,
             "loss": f"{r.reconstruction}, tanh" if r.link == "tanh" else r.reconstruction,
             "β": r.beta if r.noise else None, "batch": r.batch, "rate": r.lr,
             "epochs": f"≤ {r.epochs}" if r.patience else r.epochs,
             "parameters": count_parameters(build(r))} for r in map(RECIPES.get, names)]
    return Table(rows, {"rate": "g", "parameters": ",", "β": "g"},
                 fold=f"All {len(rows)} recipes")


# ---- the stages of a network, found by running it


class Stage(NamedTuple):
    """A layer of products, and the others that follow it up to the next one."""

    layer: str
    follows: str
    shape: tuple[int, ...]          # of what comes out, for one image


@torch.no_grad()
def stages(network: nn.Sequential, x: Tensor) -> list[Stage]:
    """The stages that x (1, ...) is led through, with the shapes that it takes there."""
    found: list[Stage] = []
    for layer in network:
        x, name = layer(x), type(layer).__name__
        shape = tuple(x.shape[1:])
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            (side, _), (stride, _) = layer.kernel_size, layer.stride
            found.append(Stage(f"{name}\n{side}×{side}, stride {stride}", "", shape))
        elif isinstance(layer, nn.Linear):
            found.append(Stage(name, "", shape))
        elif found:
            found[-1] = Stage(found[-1].layer, f"{found[-1].follows}\n{name}".strip(), shape)
    return found


# ---- the drawing, whose unit is an inch

HIGH, MIDDLE, LOW, STEP = 3.0, 1.9, 0.75, 1.32     # encoder, draw and decoder; between columns
MAP, COST, BACK = "#DCEAF4", "#FBE3D3", "#D55E00"


def drawing(model: VAE):
    """A model's stages with the shapes of one image, the draw between encoder and decoder, both
    terms of the loss, and the way that their gradients take back."""
    recipe = model.eval().recipe
    image, code = torch.zeros(1, 3, recipe.side, recipe.side), torch.zeros(1, recipe.latent)
    inwards = [Stage("x", "", tuple(image.shape[1:])), *stages(model.encoder, image)]
    outwards = [Stage("z", "", tuple(code.shape[1:])), *stages(model.decoder, code)]
    columns = [0.5 + STEP * i for i in range(len(inwards))]
    near, far = columns[-1] + 1.3, columns[-1] + 2.95      # of what leads from the maps to z
    figure, axes = new_figure(width=far + 0.4, height=3.8)
    axes.set(xlim=(0, far + 0.4), ylim=(0, 3.6), title=f"{recipe.name}, "
             f"{count_parameters(model):,} parameters: values in black, gradients in orange")
    axes.axis("off")

    x, *maps = draw_row(axes, columns, inwards, HIGH)
    z, *grown = draw_row(axes, [near, *columns[::-1]], outwards, LOW)
    error = box(axes, columns[0], MIDDLE, "reconstruction\nerror", COST, width=0.95)
    kl = box(axes, (near + far) / 2, HIGH - 0.3, "KL", COST)
    mu = box(axes, near, HIGH - 0.4, f"μ\n{recipe.latent}")
    logvar = box(axes, far, HIGH + 0.2, f"log σ²\n{recipe.latent}")
    plus = box(axes, near, MIDDLE - 0.15, "+", "white", width=0.28, height=0.28)
    times = box(axes, far, MIDDLE - 0.15, "×", "white", width=0.28, height=0.28)
    eps = box(axes, far, LOW, "ε\nN(0, 1)", "white")
    for start, end in (*pairwise([x, *maps, mu, plus, z, *grown, error]), (x, error), (mu, kl),
                       (maps[-1], logvar), (logvar, kl), (logvar, times), (eps, times),
                       (times, plus)):
        arrow(axes, start, end)
        if start not in (x, eps):                       # which are given, not computed
            arrow(axes, end, start, back=True)

    write_words(axes, columns, near, far)
    return figure


def write_words(axes, columns: list[float], near: float, far: float) -> None:
    """What is written beside the arrows of the draw, and the loss."""
    middle = (near + far) / 2
    caption(axes, columns[-1] + 0.66, HIGH + 0.22, "Linear", size=6)
    caption(axes, columns[-1] + 0.66, HIGH - 0.42, "Linear", size=6)
    caption(axes, middle + 0.27, HIGH - 0.65, "σ = exp(½ log σ²)", size=6)
    caption(axes, middle, MIDDLE - 0.03, "σ ε")
    caption(axes, middle + 0.27, HIGH - 0.83, "∂z/∂σ = ε", BACK)
    caption(axes, near - 0.5, MIDDLE + 0.25, "∂z/∂μ = 1", BACK)
    caption(axes, (columns[0] + near) / 2, MIDDLE, "loss = reconstruction error + β · KL",
          size=10)
    caption(axes, columns[0], LOW - 0.6, "logits")


def draw_row(axes, columns: list[float], row: list[Stage], y: float) -> list[Rectangle]:
    """The boxes of stages beside each other, and between them the layers that lead to the next."""
    boxes = []
    for x, stage in zip(columns, row, strict=True):
        size, side = f"{stage.shape[0]}", stage.shape[-1] if len(stage.shape) == 3 else 1
        size += f"\n{side}×{side}" if side > 1 else ""
        text = f"{stage.layer}\n{size}" if not boxes else size
        boxes.append(box(axes, x, y, text, height=0.4 + 0.1 * math.log2(side)))
    for before, x, stage in zip(columns, columns[1:], row[1:], strict=False):
        caption(axes, (before + x) / 2, y + 0.18, stage.layer, size=6)
        axes.text((before + x) / 2, y - 0.14, stage.follows, fontsize=6, ha="center", va="top")
    return boxes


def box(axes, x: float, y: float, text: str, colour: str = MAP, width: float = 0.5,
        height: float = 0.4) -> Rectangle:
    """A box with text, around a place."""
    caption(axes, x, y, text)
    return axes.add_patch(Rectangle((x - width / 2, y - height / 2), width, height, fc=colour,
                                    ec="black", lw=0.8, zorder=3))


def caption(axes, x: float, y: float, text: str, colour: str = "black", size: float = 8) -> None:
    axes.text(x, y, text, color=colour, fontsize=size, ha="center", va="center", zorder=4)


def arrow(axes, start: Rectangle, end: Rectangle, back: bool = False) -> None:
    """An arrow from box to box; one that leads back is dashed and runs beside the other."""
    (x, y), (to_x, to_y) = start.get_center(), end.get_center()
    aside = 0.1 if back else 0.0
    dx, dy = (aside, 0) if abs(x - to_x) < 1e-6 else (0, aside)
    axes.add_patch(FancyArrowPatch(
        (x - dx, y - dy), (to_x - dx, to_y - dy), patchA=start, patchB=end, shrinkA=0, shrinkB=0,
        arrowstyle="-|>", mutation_scale=8, lw=1, color=BACK if back else "black",
        ls=(0, (3, 2)) if back else "-"))
