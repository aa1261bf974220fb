"""The ladder: what each disturbance does, rules that tell right from wrong, and a blur read off."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from lab import ladder, measures
from lab.ladder import BLURS, GRID, LADDER, RULES, blur, blur_at, blurred_to, verdicts
from vae_helpers import as_pixels

pytestmark = pytest.mark.usefixtures("one_thread")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def smooth_images(n=40, side=32):
    """Bytes that change slowly from pixel to pixel."""
    coarse = torch.rand(n, 3, side // 4, side // 4, generator=generator())
    return (F.interpolate(coarse, side, mode="bicubic").clamp(0, 1) * 255).to(torch.uint8)


# ---- disturbances


@pytest.mark.parametrize("name", LADDER)
def test_every_rung_is_the_same_each_time_and_leaves_the_originals_alone(name):
    images = smooth_images(6)
    before = images.clone()
    disturbed = LADDER[name](images)
    assert disturbed.shape == images.shape and disturbed.dtype == torch.float32
    assert disturbed.min() >= 0 and disturbed.max() <= 1 + 1e-6
    assert torch.equal(disturbed, LADDER[name](images)) and torch.equal(images, before)
    assert torch.equal(disturbed, images / 255) == (name == "nothing")


def test_noise_is_white_and_of_the_size_asked_for():
    grey = torch.full((50, 3, 16, 16), 0.5)
    added = ladder.noise(grey, 0.1) - grey
    assert added.std().item() == pytest.approx(0.1, rel=0.02)
    assert added.mean().item() == pytest.approx(0, abs=0.002)
    assert measures.neighbour_correlation(added).mean().item() == pytest.approx(0, abs=0.02)


def test_contrast_scales_what_differs_from_an_images_mean():
    images = 0.4 + 0.1 * torch.rand(5, 3, 8, 8, generator=generator())
    level = images.mean((1, 2, 3), keepdim=True)
    for factor in (0.5, 2):
        torch.testing.assert_close(ladder.contrast(images, factor) - level,
                                   factor * (images - level))


def test_all_images_are_permuted_alike_and_lose_no_pixel():
    images = torch.rand(5, 3, 8, 8, generator=generator())
    moved = ladder.permuted(images)
    assert torch.equal(moved.flatten(2).sort(2).values, images.flatten(2).sort(2).values)
    places = torch.arange(64.0).view(1, 1, 8, 8).expand(2, 3, 8, 8)
    order = ladder.permuted(places).flatten(2)
    assert torch.equal(order[0, 0], order[1, 2])
    assert torch.equal(images.flatten(2)[..., order[0, 0].long()], moved.flatten(2))


def test_the_mean_image_is_all_that_is_left():
    images = smooth_images(6)
    left = ladder.only_their_mean(images)
    assert len(left) == 6 and torch.equal(left[0], left[5])
    torch.testing.assert_close(left[0], (images / 255).mean(0))


# ---- blur


def by_convolution(x, width):
    """The same with a padded convolution along either axis."""
    reach = min(int(-(-3 * width // 1)), x.shape[-1] - 1)
    kernel = torch.exp(-torch.arange(-reach, reach + 1).float().square() / (2 * width ** 2))
    kernel = (kernel / kernel.sum()).expand(3, 1, -1)
    x = F.pad(x, (reach,) * 4, mode="reflect")
    return F.conv2d(F.conv2d(x, kernel[:, :, None, :], groups=3), kernel[:, :, :, None], groups=3)


@pytest.mark.parametrize("width", [0.4, 1.0, 2.5, 8.0, 20.0])
def test_blur_is_a_convolution_over_mirrored_borders(width):
    x = torch.rand(3, 3, 16, 16, generator=generator())
    torch.testing.assert_close(blur(x, width), by_convolution(x, width), rtol=0, atol=1e-5)


@pytest.mark.parametrize("width", [0.0, 0.3, 1.0, 2.5, 8.0])
def test_blur_keeps_constants_and_the_mean_of_what_lies_inside(width):
    grey = torch.full((2, 3, 32, 32), 0.37)
    torch.testing.assert_close(blur(grey, width), grey)
    dot = torch.zeros(1, 3, 64, 64)
    dot[..., 32, 32] = 1.0
    blurred = blur(dot, width)
    torch.testing.assert_close(blurred.sum((2, 3)), dot.sum((2, 3)))
    if width >= 1:                              # below, the pixels are too coarse to tell
        spread = (blurred[0, 0].sum(0) * (torch.arange(64.0) - 32).square()).sum().sqrt()
        assert spread.item() == pytest.approx(width, rel=0.02)


@pytest.mark.parametrize("share", [0.9, 0.5, 0.1, 0.02])
def test_images_are_blurred_to_the_sharpness_asked_for(share):
    images = smooth_images()
    asked = share * measures.sharpness(images).mean().item()
    blurred = blurred_to(images, asked)
    assert measures.sharpness(blurred).mean().item() == pytest.approx(asked, rel=0.02)
    assert blurred.shape == images.shape


def test_images_are_never_sharpened():
    images = smooth_images()
    kept = blurred_to(images, 2 * measures.sharpness(images).mean().item())
    torch.testing.assert_close(kept, images / 255, rtol=0, atol=1e-3)


# ---- rules

WIDTH = {"nothing": 0.0, **{f"blur {width:g}": float(width) for width in BLURS},
         "noise 0.05": 0.6, "noise 0.1": 1.3, "noise 0.2": 5.0, "contrast 0.5": 0.9,
         "contrast 2": 0.6, "permuted": 12.0, "mean image": 32.0}


def test_a_measure_that_is_the_width_of_a_blur_passes_every_rule():
    assert set(WIDTH) == set(LADDER)
    assert set(verdicts(WIDTH).values()) == {True}
    assert verdicts({name: -value for name, value in WIDTH.items()}, far=-1) == verdicts(WIDTH)


WRONG = {"real images are nearest": {"contrast 2": -1.0},
         "rises with blur": {"blur 1.5": 2.5},
         "rises with noise": {"noise 0.2": 0.1},
         "permuted pixels behind blur 1": {"permuted": 0.9},
         "mean image behind every blur": {"mean image": 2.9}}


@pytest.mark.parametrize("rule", RULES)
def test_a_measure_with_one_thing_wrong_fails_that_rule_alone(rule):
    failed = [name for name, passed in verdicts(WIDTH | WRONG[rule]).items() if not passed]
    assert failed == [rule]


def test_a_measure_that_rewards_blur_or_does_not_see_it_fails():
    rewards = WIDTH | {f"blur {width:g}": -float(width) for width in BLURS}
    blind = WIDTH | {f"blur {width:g}": 0.0 for width in BLURS}
    assert not verdicts(rewards)["rises with blur"] and not verdicts(blind)["rises with blur"]
    assert not verdicts(rewards)["real images are nearest"]


def test_sharpness_takes_noise_for_sharpness():
    images = torch.rand(40, 3, 32, 32, generator=generator())
    images = (images + 2 * as_pixels(smooth_images())) / 3
    values = {name: measures.sharpness(disturb(images)).mean().item()
              for name, disturb in LADDER.items()}
    passed = verdicts(values, far=-1)
    assert passed["rises with blur"] and not passed["rises with noise"]
    assert not passed["permuted pixels behind blur 1"]


def test_less_than_a_hundredth_of_the_range_is_no_difference():
    assert verdicts(WIDTH | {"blur 0.7": 0.45})["rises with blur"]          # 0.05 of 32 back
    assert not verdicts(WIDTH | {"blur 2": 1.0})["rises with blur"]         # 0.5 back
    assert not verdicts(WIDTH | {"mean image": 12.0, "blur 3": 11.9}
                        )["mean image behind every blur"]


@pytest.mark.parametrize("values", [WIDTH | {"permuted": None}, dict.fromkeys(WIDTH, 0.0),
                                    {"nothing": 1.0}])
def test_without_numbers_or_differences_nothing_is_said(values):
    assert verdicts(values) == dict.fromkeys(RULES)


# ---- reading a blur off


def test_a_width_is_read_off_a_curve_that_rises():
    curve = [width ** 1.5 / (1 + width) for width in GRID]
    for width in (*GRID, 0.55, 1.1, 2.2, 7.0):
        found, end = blur_at(GRID, curve, width ** 1.5 / (1 + width))
        assert found == pytest.approx(width, rel=0.01) and end == ""


def test_beyond_the_ends_there_is_no_width_but_the_end():
    curve = [float(width) for width in GRID]
    assert blur_at(GRID, curve, 0.4) == (None, "< 0.5")
    assert blur_at(GRID, curve, 9.0) == (None, "> 8")
    assert blur_at(GRID, [*curve[:-1], 5.0], 7.0) == (None, "> 6")      # it does not rise after 6


def test_readings_rise_where_the_curve_does_not():
    widths, curve = (1.0, 2.0, 3.0, 4.0, 5.0), [0.0, 2.0, 1.0, 3.0, 4.0]
    read = [blur_at(widths, curve, value / 10)[0] for value in range(41)]
    assert read == sorted(read) and [read[0], read[20], read[40]] == pytest.approx([1, 2, 5])


@pytest.mark.parametrize(("curve", "value"), [([1.0] * 3, 1.0), ([1.0, None, 2.0], 1.5),
                                              ([3.0, 2.0, 1.0], 2.0), ([1.0, 2.0, 3.0], None)])
def test_nothing_is_read_off_what_never_rises_or_has_no_value(curve, value):
    assert blur_at((1.0, 2.0, 3.0), curve, value) == (None, "")
