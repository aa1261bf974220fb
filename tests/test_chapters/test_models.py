"""The recipes' table, and a drawing that is found by running the layers."""

import matplotlib.pyplot as plt
import pytest
import torch
from matplotlib.patches import FancyArrowPatch

from lab.chapters import models
from lab.recipes import RECIPES
from vae_helpers import build


def test_recipes_say_what_an_autoencoder_lacks():
    small, ae = models.recipes(["small", "small-ae"]).rows
    assert (small["β"], ae["β"]) == (1.0, None)
    assert small["parameters"] == ae["parameters"] == 1_119_811


def test_stages_of_the_convolutional_model_halve_the_side():
    encoder = build(RECIPES["conv"]).eval().encoder
    found = models.stages(encoder, torch.zeros(1, 3, 32, 32))
    assert [stage.shape for stage in found] == [(64, 16, 16), (128, 8, 8), (256, 4, 4), (2048,)]
    assert {stage.layer for stage in found} == {"Conv2d\n4×4, stride 2"}
    assert found[-1].follows.split() == ["BatchNorm2d", "ReLU", "Flatten"]


@pytest.mark.parametrize("name", ["conv", "fc", "celeba64"])
def test_gradients_reach_all_but_what_is_given(name):
    figure = models.drawing(build(RECIPES[name]))
    arrows = [patch for patch in figure.axes[0].patches if isinstance(patch, FancyArrowPatch)]
    back = [patch for patch in arrows if patch.get_linestyle() != "-"]
    assert len(arrows) - 2 * len(back) == 3         # from x to the first layer and loss; from ε
    plt.close(figure)
