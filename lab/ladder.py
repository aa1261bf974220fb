"""The ladder: real images disturbed more and more, which every measure of images is tried on.

What is true of these images is known without a measure, so a measure can be wrong about them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from lab import measures
from lab.training import generator
from vae_helpers import as_pixels

# ---- disturbances


def blur(images: Tensor, width: float) -> Tensor:
    """Images in [0, 1] under a Gaussian blur of this standard deviation in pixels."""
    x = as_pixels(images)
    down, across = (_weights(side, width).to(x) for side in x.shape[2:])
    return down @ (x @ across.T)


def _weights(side: int, width: float) -> Tensor:
    """The matrix (side, side) whose rows average their surroundings; the border is a mirror."""
    reach = min(math.ceil(3 * width), side - 1)
    at = torch.arange(-reach, reach + 1).double()
    kernel = torch.exp(-at.square() / (2 * max(width, 1e-3) ** 2))
    place = (torch.arange(side)[:, None] + at.long()).abs()             # -1 is 1, and
    place = torch.minimum(place, 2 * (side - 1) - place)                # side is side - 2
    weights = torch.zeros(side, side, dtype=torch.float64)
    return weights.scatter_add_(1, place, (kernel / kernel.sum()).expand(side, -1))


def blurred_to(images: Tensor, sharpness: float) -> Tensor:
    """The images under the Gaussian blur that gives them this mean sharpness."""
    low, high = 0.0, 8.0                                                # pixels
    for _ in range(20):
        width = (low + high) / 2
        sharper = measures.sharpness(blur(images, width)).mean().item() > sharpness
        low, high = (width, high) if sharper else (low, width)
    return blur(images, (low + high) / 2)


def noise(images: Tensor, sigma: float) -> Tensor:
    """The images and white noise of this standard deviation, cut off at 0 and 1."""
    x = as_pixels(images)
    draw = generator("cpu", 0, "ladder", sigma)
    return (x + sigma * torch.randn(x.shape, generator=draw)).clamp(0, 1)


def contrast(images: Tensor, factor: float) -> Tensor:
    """Every image's deviations from its mean times this factor, cut off at 0 and 1."""
    x = as_pixels(images)
    level = x.mean((1, 2, 3), keepdim=True)
    return (level + factor * (x - level)).clamp(0, 1)


def permuted(images: Tensor) -> Tensor:
    """The images under one permutation of their pixels' places."""
    places = images.shape[2] * images.shape[3]
    order = torch.randperm(places, generator=generator("cpu", 0, "ladder", "permuted"))
    return as_pixels(images).flatten(2)[..., order].view(images.shape)


def only_their_mean(images: Tensor) -> Tensor:
    """As many times the images' mean."""
    return as_pixels(images).mean(0, keepdim=True).expand(images.shape)


def untouched(images: Tensor) -> Tensor:
    return as_pixels(images)


BLURS = (0.5, 0.7, 1, 1.5, 2, 3)        # pixels
NOISES = (0.05, 0.1, 0.2)
LADDER: dict[str, Callable[[Tensor], Tensor]] = {
    "nothing": untouched,
    **{f"blur {width:g}": lambda x, width=width: blur(x, width) for width in BLURS},
    **{f"noise {sigma:g}": lambda x, sigma=sigma: noise(x, sigma) for sigma in NOISES},
    "contrast 0.5": lambda x: contrast(x, 0.5), "contrast 2": lambda x: contrast(x, 2),
    "permuted": permuted, "mean image": only_their_mean}

# ---- what a measure must get right


Values = Mapping[str, float]            # by disturbance; larger is farther from real images


def margin(values: Values) -> float:
    """A hundredth of what the measure covers on the ladder: less than that is no difference."""
    return (max(values.values()) - min(values.values())) / 100


def rises(values: Values, *names: str) -> bool:
    """Whether it never falls along these disturbances, and rises from the first to the last."""
    steps = [values[b] - values[a] for a, b in zip(names, names[1:], strict=False)]
    return min(steps) >= -margin(values) and sum(steps) > margin(values)


def real_images_are_nearest(values: Values) -> bool:
    """Whether nothing is nearer to real images than other real images."""
    return min(values.values()) >= values["nothing"] - margin(values)


def rises_with_blur(values: Values) -> bool:
    return rises(values, "nothing", *(f"blur {width:g}" for width in BLURS))


def rises_with_noise(values: Values) -> bool:
    return rises(values, "nothing", *(f"noise {sigma:g}" for sigma in NOISES))


def permuted_pixels_are_behind_a_blur(values: Values) -> bool:
    """Whether permuted pixels are farther than a blur of 1 pixel."""
    return values["permuted"] > values["blur 1"] + margin(values)


def mean_image_is_far(values: Values) -> bool:
    """Whether the mean image is farther than every blur."""
    return values["mean image"] > max(values[f"blur {w:g}"] for w in BLURS) + margin(values)


RULES: dict[str, Callable[[Values], bool]] = {
    "real images are nearest": real_images_are_nearest,
    "rises with blur": rises_with_blur,
    "rises with noise": rises_with_noise,
    "permuted pixels behind blur 1": permuted_pixels_are_behind_a_blur,
    "mean image behind every blur": mean_image_is_far}


def verdicts(values: Mapping[str, float | None], far: int = 1) -> dict[str, bool | None]:
    """Which rules a measure passes; `far` is -1 for one that falls where images get worse.

    None where it has no number for some disturbance, or the same for all, as of too few images.
    """
    known = {name: far * value for name, value in values.items() if value is not None}
    if set(known) != set(LADDER) or margin(known) == 0:
        return dict.fromkeys(RULES)
    return {name: rule(known) for name, rule in RULES.items()}


# ---- reading a blur off


# Pixels. What a blur of less than half a pixel changes is within the error of 2,000 images.
GRID = (0.5, 0.6, 0.7, 0.85, 1, 1.25, 1.5, 2, 2.5, 3, 4, 5, 6, 8)


def blur_at(widths: tuple[float, ...], values: list[float | None], value: float | None,
            ) -> tuple[float | None, str]:
    """The width of blur at which a measure that rises with it has this value; monotone, by PCHIP.

    None beyond the ends, and then which: "< 0.5". Where the measure falls in between, what is not
    above all before it is passed over; None and no end where it has no value or never rises.
    """
    from scipy.interpolate import PchipInterpolator  # here, as it takes a while

    if value is None or None in values:
        return None, ""
    pairs = list(zip(values, widths, strict=True))
    rising = [pair for i, pair in enumerate(pairs)
              if all(pair[0] > before for before, _ in pairs[:i])]
    (lowest, _), (highest, _) = rising[0], rising[-1]
    if len(rising) < 2:
        return None, ""
    if not lowest <= value <= highest:
        return None, f"< {widths[0]:g}" if value < lowest else f"> {rising[-1][1]:g}"
    return float(PchipInterpolator(*zip(*rising, strict=True))(value)), ""
