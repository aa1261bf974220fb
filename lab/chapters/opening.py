"""The first page: what the trained models make, and how to read a loss."""

import torch
import torch.nn.functional as F
from torch import Tensor

from lab.chapters.cifar import above
from lab.chapters.scale import untrained
from lab.notebook import Lab, needs
from lab.show import Figure, labelled_rows
from lab.training import decode_set, draw_images, encode_set, lerp
from vae_helpers import GREY, as_pixels, new_figure, style_of

SAMPLED = {"conv": "conv, samples", "fc": "fc, samples", "improved": "improved, samples",
           "celeba64": "faces, samples"}
LOSSES = {"conv: convolutional": "conv", "fc: fully connected": "fc",
          "fc-pca: fc, started from PCA": "fc-pca", "improved": "improved"}


def strip(lab: Lab) -> Figure:
    """Test images, samples of every model, and a way between two faces."""
    drawn = labelled_rows(
        {label: F.interpolate(as_pixels(images), (64, 64), mode="bilinear", antialias=True)
         for label, images in rows(lab).items()},
        "Real images, samples that no one chose, and a way between two faces", zoom=1, label=145)
    return lab.figure(drawn, "strip", "Rows of twelve: photographs of CIFAR-10; samples of conv, "
                      "fc and improved, patches of colour without things; sampled faces, soft but "
                      "faces; a face that turns into another, the photographs at both ends",
                      picture=True)


def rows(lab: Lab, columns: int = 12) -> dict[str, Tensor]:
    """The strip's images by their labels, bytes or floats in [0, 1]."""
    model, ends = lab.run("celeba64").model, lab.faces.test.images[[0, 3]]
    way = decode_set(model, lerp(*encode_set(model, ends)[0], columns - 2))
    first, last = as_pixels(ends).split(1)
    samples = {label: draw_images(lab.run(name).model, columns, lab.settings.seed)
               for name, label in SAMPLED.items()}
    return {"CIFAR-10, real": lab.cifar.test.images[:columns], **samples,
            "from one real face\nto another": torch.cat([first, way, last])}


@needs("fc-pca")
def bars(lab: Lab) -> Figure:
    """Test losses above the floor, the longest bar first, of models and of what needs no
    training."""
    known = untrained(lab, "cifar")
    terms = {"the mean image, no model": known["mean image"], "PCA, no training": known["PCA"]}
    terms |= {label: lab.run(name).chosen for label, name in LOSSES.items()}
    left = {label: above(lab, each) for label, each in terms.items()}
    labels = sorted(left, key=left.get, reverse=True)
    colours = [style_of(LOSSES[label])["color"] if label in LOSSES else GREY for label in labels]
    figure, axes = new_figure(width=8, height=0.4 + 0.3 * len(labels))
    drawn = axes.barh(labels, [left[label] for label in labels], color=colours)
    axes.bar_label(drawn, fmt=" %.0f", fontsize=9)
    axes.invert_yaxis()
    axes.set(title="What is left above the floor, nats per test image", xticks=[])
    axes.spines["bottom"].set_visible(False)
    return lab.figure(figure, "losses", "Bars of test losses above the floor, from the mean image, "
                      "far above all others, down to the best model")
