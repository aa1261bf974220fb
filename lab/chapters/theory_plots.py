"""The theory's figures; they take numbers as they come and compute none."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from torch import Tensor

from vae_helpers import GREY, STYLES, new_figure


def plot_running(panels: dict[str, dict[str, tuple[Tensor, Tensor]]], known: float,
                 reach: dict[str, float]):
    """Running means and their errors (n,) of estimators, a panel for each title, each as far to
    either side of the known value as its reach."""
    figure, axes = new_figure(len(panels), width=9, height=2.8)
    colours = iter((STYLES["conv"][0], STYLES["fc"][0], STYLES["improved"][0]))
    for ax, (title, estimates) in zip(axes, panels.items(), strict=True):
        for name, (mean, error) in reversed(estimates.items()):
            n, colour = range(1, len(mean) + 1), next(colours)
            ax.fill_between(n, mean - error, mean + error, color=colour, alpha=0.25, lw=0)
            ax.plot(n, mean, color=colour, label=name)
        ax.axhline(known, color="black", ls="--", lw=1, label="pathwise, all draws")
        ax.set(title=title, xlabel="draws n", ylabel="nats per unit",
               ylim=(known - reach[title], known + reach[title]))
        ax.legend(fontsize=8)
    return figure


def plot_map(sheet: np.ndarray, reach: float, points: Tensor, labels: Tensor,
             names: dict[int, str], axes_are: tuple[str, str]):
    """Decodings of a grid of a latent plane, `sheet`, pixel for pixel over -reach to reach; beside
    it images' means (n, 2), the classes in `names` in colours and all others grey."""
    dpi, (h, w) = 100, sheet.shape[:2]
    left, top, bottom, gap, right = 56, 36, 48, 72, 24
    width, height = left + 2 * w + gap + right, top + h + bottom
    figure = plt.figure(figsize=(width / dpi, height / dpi), dpi=dpi)
    place = [left / width, bottom / height, w / width, h / height]
    grid = figure.add_axes(place)
    grid.imshow(sheet, extent=(-reach, reach, -reach, reach), interpolation="none")
    plane = figure.add_axes([(left + w + gap) / width, *place[1:]])
    plane.scatter(*points.T.numpy(), s=5, color="#d0d0d0", lw=0)
    colours = (style[0] for style in (STYLES["conv"], STYLES["fc"], STYLES["celeba64"]))
    for (label, name), colour in zip(names.items(), colours, strict=False):
        plane.scatter(*points[labels == label].T.numpy(), s=7, color=colour, lw=0, label=name)
    plane.axvline(0, color=GREY, lw=0.5)
    plane.axhline(0, color=GREY, lw=0.5)
    for axes, title in ((grid, "Decoded there"), (plane, "Where test images lie")):
        axes.set(xlim=(-reach, reach), ylim=(-reach, reach), title=title, xlabel=axes_are[0],
                 ylabel=axes_are[1])
    if names:
        plane.legend(fontsize=8, loc="upper right", markerscale=2)
    return figure
