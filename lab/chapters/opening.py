"""The first page: what the trained models make, and how to read a loss; nothing is trained here."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from lab.chapters.scale import pca_terms
from lab.recipes import RECIPES
from lab.runs import Run
from lab.session import Lab
from lab.show import Figure, Table, labelled_rows
from lab.training import decode_set, draw_images, encode_set, lerp
from vae_helpers import GREY, as_pixels, new_figure, style_of

STRIP = {"fc": "fc, samples", "conv": "conv, samples", "improved": "improved, samples",
         "celeba64": "faces, samples"}


def at_size(images: Tensor, side: int) -> Tensor:
    """Images in [0, 1], drawn at this size."""
    return F.interpolate(as_pixels(images), (side, side), mode="bilinear", antialias=True)


def plot_losses(losses: dict[str, float], names: dict[str, str]):
    """Horizontal bars of losses above the floor, each with its number; `names` gives colours."""
    figure, axes = new_figure(width=8, height=0.4 + 0.3 * len(losses))
    colours = [style_of(names[label])["color"] if label in names else GREY for label in losses]
    bars = axes.barh(list(losses), list(losses.values()), color=colours)
    axes.bar_label(bars, fmt=" %.0f", fontsize=9)
    axes.invert_yaxis()
    axes.set(title="What is left above the floor, nats per test image", xticks=[])
    axes.spines["bottom"].set_visible(False)
    return figure


class Chapter:
    """What is shown before anything is trained: pictures and losses of what lies in RUNS."""

    def __init__(self, lab: Lab, scale):
        self.lab, self.scale = lab, scale

    def finished(self, *names: str) -> dict[str, Run] | None:
        """The runs of these recipes if all are finished, else None."""
        jobs = [self.lab.job(name) for name in names]
        return ({name: self.lab.train(name, log=False) for name in names}
                if all(job.finished for job in jobs) else None)

    def later(self) -> Table:
        """What stands here before the first training."""
        return Table([{"note": "the models of this picture are trained further down; run this "
                               "cell again then"}])

    def strip(self, columns: int = 12, side: int = 64) -> Figure | Table:
        """Test images, samples of every model, and a way between two faces."""
        runs, seed = self.finished(*STRIP), self.lab.settings.seed
        if not runs:
            return self.later()
        rows = {"CIFAR-10, real": self.lab.cifar.test.images[:columns]}
        rows |= {STRIP[name]: draw_images(run.model, columns, seed) for name, run in runs.items()}
        model = runs["celeba64"].model
        ends = encode_set(model, self.lab.faces.test.images[[0, 3]])[0]
        rows["between two faces"] = decode_set(model, lerp(*ends, columns))
        drawn = labelled_rows({name: at_size(images, side) for name, images in rows.items()},
                              "Real images, samples that no one chose, and a way between two "
                              "faces", zoom=1, label=145)
        return self.lab.figure(drawn, "strip", "Rows of twelve: photographs of CIFAR-10; samples "
                               "of fc, conv and improved, patches of colour without things; "
                               "sampled faces, soft but faces; a face that turns into another",
                               picture=True)

    def bars(self) -> Figure | Table:
        """Test losses above the floor, of models and of what needs no training."""
        names = {"fc: fully connected": "fc", "conv: convolutional": "conv",
                 "fc-pca: fc, started from PCA": "fc-pca", "improved": "improved"}
        runs, scale = self.finished(*names.values()), self.scale.cifar
        if not runs:
            return self.later()
        pca = pca_terms(RECIPES["fc"], scale, self.lab.cifar.test.images, self.lab.settings.seed)
        losses = {"the mean image, no model": scale.test_mean_image,
                  "PCA, no training": pca["test_loss"]}
        losses |= {label: runs[name].chosen["test_loss"] for label, name in names.items()}
        above = {label: loss - scale.test_floor for label, loss in losses.items()}
        above = dict(sorted(above.items(), key=lambda item: -item[1]))
        return self.lab.figure(plot_losses(above, names), "losses",
                               "Bars of test losses above the floor: the mean image far above "
                               "all, fc above PCA, conv a little below it, fc-pca and improved "
                               "lowest")
