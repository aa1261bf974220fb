"""What the notebook shows: pictures pixel for pixel, tables as written."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

import vae_report as report
from vae_helpers import Settings


def random_bytes(n, side=4):
    return torch.randint(0, 256, (n, 3, side, side), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.mark.parametrize("gap", [0, 1, 2])
@pytest.mark.parametrize("zoom", [1, 3])
def test_tiles_hold_every_pixel_at_an_exact_multiple(zoom, gap):
    images, step = random_bytes(5), 4 + gap
    sheet = report.tile(images, columns=3, zoom=zoom, gap=gap)
    assert sheet.dtype == np.uint8 and sheet.shape == (zoom * (2 * step - gap), zoom * (3 * step - gap), 3)
    small = sheet[::zoom, ::zoom]
    np.testing.assert_array_equal(sheet, small.repeat(zoom, 0).repeat(zoom, 1))
    white = np.ones(small.shape[:2], bool)
    for i, image in enumerate(images):
        y, x = step * (i // 3), step * (i % 3)
        np.testing.assert_array_equal(small[y: y + 4, x: x + 4], image.permute(1, 2, 0))
        white[y: y + 4, x: x + 4] = False
    assert (small[white] == 255).all()


def test_tiles_of_floats_are_those_of_their_bytes():
    images = random_bytes(4)
    np.testing.assert_array_equal(report.tile(images / 255, columns=2), report.tile(images, columns=2))
    beyond = report.tile(torch.tensor([-0.5, 1.5]).view(2, 1, 1, 1).expand(2, 3, 1, 1), columns=2, zoom=1, gap=0)
    assert beyond[0, :, 0].tolist() == [0, 255]


def test_table_is_markdown_with_numbers_to_the_right():
    rows = [{"name": "conv", "loss": "1,824.1", "epochs": 10}, {"name": "mean image", "loss": "2,117.8", "epochs": ""}]
    assert report.markdown_table(rows).splitlines() == [
        "| name | loss | epochs |", "|---|---:|---:|", "| conv | 1,824.1 | 10 |", "| mean image | 2,117.8 |  |"]


# ---------------------------------------------------------------- where figures go

REAL, DRAWN = SimpleNamespace(real=True), SimpleNamespace(real=False)


@pytest.mark.parametrize("changed, sets, folder", [
    ({}, (REAL, REAL), "figures"),                                              # a full run on real images
    ({}, (REAL, DRAWN), "elsewhere/figures"),                                   # one set drawn
    ({"epochs": 1}, (REAL, REAL), "elsewhere/figures"),                         # papermill -p EPOCHS 1
    ({"conv_epochs": 3}, (REAL, REAL), "elsewhere/figures"),
    ({"train_limit": 100}, (REAL, REAL), "elsewhere/figures"),
    ({"epochs": 1, "figures": "asked/for"}, (REAL, REAL), "asked/for")])
def test_only_full_runs_on_real_images_write_to_figures(changed, sets, folder):
    gallery = report.gallery_for(Settings(runs="elsewhere", **changed), *sets)
    assert gallery.folder.as_posix() == folder
