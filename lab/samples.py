"""What generated images are worth: scores of single images, distances of sets, and a judge.

Images are (N, channels, height, width), bytes or floats in [0, 1]. Features are those of a small
classifier that is trained here, so that no Fréchet distance on them is to be called FID.
"""

import contextlib
import math
import os
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from scipy.interpolate import PchipInterpolator
from scipy.ndimage import gaussian_filter
from scipy.optimize import brentq
from sklearn.metrics.pairwise import polynomial_kernel
from torch import Tensor, nn

from data import ImageSet
from lab.density import Gaussian, gaussian_fit, symmetric_root
from lab.files import Damaged, digest_of, read_state, write_state
from lab.linear import mean_and_error, mean_image
from lab.show import finite
from lab.training import generator
from vae_helpers import as_pixels

# ---- scores of single images


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """The structural similarity of each pair of images (N,), a mean over channels and windows.

    As Wang et al. 2004 define it: Gaussian windows of 11 pixels, sigma 1.5, inside the image only.
    """
    def local_mean(x: Tensor) -> Tensor:  # (N, C, H, W) to (N, C, H - 10, W - 10)
        return torch.from_numpy(gaussian_filter(x, 1.5, radius=5, axes=(2, 3))[..., 5:-5, 5:-5])

    a, b = as_pixels(a), as_pixels(b)
    mean_a, mean_b = local_mean(a), local_mean(b)
    variances = local_mean(a * a) - mean_a ** 2 + local_mean(b * b) - mean_b ** 2
    covariance = local_mean(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + 0.01 ** 2) / (mean_a ** 2 + mean_b ** 2 + 0.01 ** 2)
    structure = (2 * covariance + 0.03 ** 2) / (variances + 0.03 ** 2)
    return (luminance * structure).mean((1, 2, 3))


def sharpness(images: Tensor) -> Tensor:
    """The variance over pixels of each grey image's Laplacian (N,): 0 for an even ramp."""
    grey = as_pixels(images).mean(1, keepdim=True)
    kernel = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]]).to(grey)
    return F.conv2d(grey, kernel[None, None]).flatten(1).var(1, unbiased=False)


def smoothness(frames: Tensor) -> Tensor:
    """The mean squared difference of neighbouring frames (..., n, C, H, W), per pixel in [0, 1].

    Less is not better by itself: a decoder that ignores its latent scores 0.
    """
    return _steps(frames).mean(-1)


def evenness(frames: Tensor) -> Tensor:
    """The largest squared step of an interpolation over the mean one: 1 if all are equal."""
    steps = _steps(frames)
    return steps.amax(-1) / steps.mean(-1)


def _steps(frames: Tensor) -> Tensor:
    """The squared difference of each frame to the next (..., n - 1), a mean over pixels."""
    return as_pixels(frames).diff(dim=-4).square().mean((-3, -2, -1))


class Nearest(NamedTuple):
    distance: Tensor  # (Q,), Euclidean over all pixels in [0, 1] (or over features)
    index: Tensor  # (Q,), into the references


def nearest(queries: Tensor, references: Tensor) -> Nearest:
    """Each query's nearest reference, of images or of features; a copy is at 0, as the distance is
    taken afresh from the winner of a search that rounds."""
    def flat(x: Tensor) -> Tensor:
        return as_pixels(x).flatten(1).cpu().float()

    queries = flat(queries)
    apart = torch.cat([torch.cdist(queries, flat(part)) for part in references.split(1024)], 1)
    index = apart.argmin(1)
    return Nearest((queries - flat(references[index])).norm(dim=1), index)


# ---- blur and frequencies


def blur(images: Tensor, width: float) -> Tensor:
    """Images in [0, 1] under a Gaussian blur of this standard deviation in pixels."""
    return torch.from_numpy(gaussian_filter(as_pixels(images), width, axes=(2, 3), mode="mirror"))


def blurred_to(images: Tensor, asked: float) -> Tensor:
    """The images under the blur, of at most 8 pixels, that gives them this mean sharpness."""
    def excess(width: float) -> float:
        return sharpness(blur(images, width)).mean().item() - asked

    if excess(0.1) <= 0:                # so narrow a blur changes nothing
        return as_pixels(images)
    return blur(images, brentq(excess, 0.1, 8, xtol=1e-4) if excess(8) < 0 else 8)


def power_spectrum(images: Tensor) -> tuple[Tensor, Tensor]:
    """Frequencies in cycles per pixel, up to ½, and the grey images' mean power on their rings.

    White noise has its variance everywhere. The window fades out the jumps of the borders.
    """
    grey = as_pixels(images).mean(1).double()
    side = grey.shape[-1]
    fade = torch.hann_window(side + 2, periodic=False, dtype=torch.float64)[1:-1]
    window = fade[:, None] * fade
    level = (grey * window).sum((1, 2), keepdim=True) / window.sum()
    power = torch.fft.fft2((grey - level) * window).abs().square().mean(0) / window.square().sum()
    steps = torch.fft.fftfreq(side) * side                  # cycles over the image
    ring = torch.hypot(steps[:, None], steps).round().long().flatten()
    mean = torch.bincount(ring, power.flatten()) / torch.bincount(ring)
    return torch.arange(1, side // 2 + 1) / side, mean[1 : side // 2 + 1]


# ---- distances of sets of features (N, d), those of real images first


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """The Fréchet (squared Wasserstein) distance of the Gaussians that were fitted to two sets.

    Finite sets of one distribution are not at 0: state the distance of two such sets beside it.
    """
    root = symmetric_root(a.covariance)
    cross = torch.linalg.eigvalsh(root @ b.covariance @ root).clamp(min=0).sqrt().sum()
    spread = a.covariance.trace() + b.covariance.trace() - 2 * cross
    return ((a.mean - b.mean).square().sum() + spread).item()


def kid(a: Tensor, b: Tensor) -> tuple[float, float]:
    """The kernel distance of Bińkowski et al. 2018, and its standard error.

    It is the unbiased squared MMD under the kernel (x·y / d + 1)³, of all features at once: 0 on
    average where both sets come from one distribution, nan of fewer than four images. The error is
    that of the mean over ten disjoint subsets: the whole's where the distributions differ, three
    times that where not.
    """
    if min(len(a), len(b)) < 4:
        return math.nan, math.nan
    a, b = a.double(), b.double()
    parts = min(10, len(a) // 2, len(b) // 2)               # a subset needs two images
    pairs = zip(a.tensor_split(parts), b.tensor_split(parts), strict=True)
    return _mmd(a, b), mean_and_error(torch.tensor([_mmd(*pair) for pair in pairs]))[1]


def _mmd(a: Tensor, b: Tensor) -> float:
    """The unbiased squared MMD of two sets: no image is compared with itself."""
    def within(points: Tensor) -> float:
        pairs, n = polynomial_kernel(points), len(points)   # scikit-learn's defaults are KID's
        return (pairs.sum() - pairs.trace()) / (n * (n - 1))

    return float(within(a) + within(b) - 2 * polynomial_kernel(a, b).mean())


def directions(features: Tensor) -> Tensor:
    """The features at one length, so that x·y / d is the cosine of two; zeros stay zeros."""
    return F.normalize(features, dim=1) * math.sqrt(features.shape[1])


def recall_and_coverage(real: Tensor, made: Tensor) -> dict[str, float]:
    """Precision and recall (Kynkäänniemi et al. 2019), density and coverage (Naeem et al. 2020).

    A point's ball reaches to its fifth nearest neighbour in its own set. Precision: the share of
    made images in some real image's ball; recall: of real ones in some made image's; density: how
    many real balls hold a made image, over five; coverage: the share of real balls that hold one.
    Of a set with no more than five images all are nan.
    """
    if min(len(real), len(made)) <= 5:
        return dict.fromkeys(("precision", "recall", "density", "coverage"), math.nan)
    real, made = real.double(), made.double()
    reach_real, reach_made = (                              # the nearest of all is the point itself
        torch.cdist(t, t).topk(5 + 1, largest=False).values[:, -1]
        * (1 + 1e-6) for t in (real, made))                 # rounding puts no neighbour outside
    apart = torch.cdist(real, made)                         # (real, made)
    inside, reached = apart <= reach_real[:, None], apart <= reach_made
    found = {"precision": inside.any(0), "recall": reached.any(1), "density": inside.sum(0) / 5,
             "coverage": inside.any(1)}
    return {name: each.double().mean().item() for name, each in found.items()}


# ---- the ladder: what is true of these images is known without a measure


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


BLURS, NOISES = (0.5, 0.7, 1, 1.5, 2, 3), (0.05, 0.1, 0.2)     # in pixels; in [0, 1]
# What a blur of less than half a pixel changes is within the error of 2,000 images.
GRID = (0.5, 0.6, 0.7, 0.85, 1, 1.25, 1.5, 2, 2.5, 3, 4, 5, 6, 8)
LADDER: dict[str, Callable[[Tensor], Tensor]] = {
    "nothing": as_pixels,
    **{f"blur {width:g}": partial(blur, width=width) for width in BLURS},
    **{f"noise {sigma:g}": partial(noise, sigma=sigma) for sigma in NOISES},
    "contrast 0.5": partial(contrast, factor=0.5), "contrast 2": partial(contrast, factor=2),
    "permuted": permuted, "mean image": only_their_mean}
RULES = ("real images are nearest", "rises with blur", "rises with noise",
         "permuted pixels behind blur 1", "mean image behind every blur")


def verdicts(values: Mapping[str, float | None], far: int = 1) -> dict[str, bool | None]:
    """Which rules a measure passes; `far` is -1 for one that falls where images get worse.

    Less than a hundredth of what it covers on the ladder is no difference. None where it has no
    number for some disturbance, or the same for all, as of too few images.
    """
    known = {name: far * value for name, value in values.items() if value is not None}
    if set(known) != set(LADDER) or len(set(known.values())) == 1:
        return dict.fromkeys(RULES)
    least, margin = min(known.values()), (max(known.values()) - min(known.values())) / 100
    blurs = [known[f"blur {width:g}"] for width in BLURS]
    noises = [known[f"noise {sigma:g}"] for sigma in NOISES]

    def rises(values: list[float]) -> bool:
        never_falls = all(b >= a - margin for a, b in zip(values, values[1:], strict=False))
        return never_falls and values[-1] > values[0] + margin

    passed = (least >= known["nothing"] - margin,
              rises([known["nothing"], *blurs]), rises([known["nothing"], *noises]),
              known["permuted"] > known["blur 1"] + margin,
              known["mean image"] > max(blurs) + margin)
    return dict(zip(RULES, passed, strict=True))


def blur_at(values: list[float | None], value: float | None) -> tuple[float | None, str]:
    """The least width at which a measure, whose values at GRID are given, comes up to this value.

    Beyond the ends None, and which end: "< 0.5"; None and "" where there is no number.
    """
    if value is None or None in values:
        return None, ""
    if value < values[0]:
        return None, f"< {GRID[0]:g}"
    widths = PchipInterpolator(GRID, values).solve(value, extrapolate=False)
    return (float(widths[0]), "") if len(widths) else (None, f"> {GRID[-1]:g}")


def blur_shown(found: dict) -> float | str | None:
    """What a table shows of a measured blur: the pixels, or the end that it is beyond."""
    return found["blur"] if found["blur"] is not None else found["blur_end"] or None


# ---- a small classifier


class FeatureNet(nn.Module):
    """A small convolutional classifier whose last hidden layer serves as features of an image."""

    def __init__(self, side: int, outputs: int, features: int = 128):
        super().__init__()
        layers, width = [], 3
        while side > 4:  # halve to 4×4
            wider = 32 if width == 3 else min(2 * width, 128)
            norm = nn.BatchNorm2d(wider, momentum=0.2)  # so that a few dozen steps are enough
            layers += [nn.Conv2d(width, wider, 4, 2, 1, bias=False), norm, nn.ReLU()]
            side, width = side // 2, wider
        layers += [nn.Flatten(), nn.Linear(width * side * side, features), nn.ReLU()]
        self.describe = nn.Sequential(*layers)
        self.classify = nn.Linear(features, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.describe(x))


def train_feature_net(net: FeatureNet, images: Tensor, labels: Tensor, epochs: int, seed: int,
                      progress: Callable[[int, int, str], None] | None = None) -> None:
    """Trains it on classes, int64 (N,), or on yes-or-no attributes, bool (N, K)."""
    loss_of, device = F.cross_entropy, net.classify.weight.device
    if labels.dtype == torch.bool:
        loss_of, labels = F.binary_cross_entropy_with_logits, labels.float()
    steps = math.ceil(len(images) / 256)
    optimizer = torch.optim.AdamW(net.parameters())
    # It rises for 0.3 of the steps; for a fifth of them, five steps would make it divide by 0.
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 3e-3, epochs * steps, anneal_strategy="linear", cycle_momentum=False)
    draw = torch.Generator().manual_seed(seed)
    for epoch in range(epochs):
        if progress:
            progress(epoch, epochs, "epochs of the classifier")
        for index in torch.randperm(len(images), generator=draw).split(256):
            x = as_pixels(images[index], device, torch.channels_last)
            mirrored = torch.rand(len(x), 1, 1, 1, generator=draw) < 0.5
            logits = net(torch.where(mirrored.to(device), x.flip(3), x))
            optimizer.zero_grad()
            loss_of(logits, labels[index].to(device)).backward()
            optimizer.step()
            schedule.step()


@torch.no_grad()
def features(net: FeatureNet, images: Tensor) -> Tensor:
    """The last hidden layer's activations (N, 128) of the images, float32 on the CPU."""
    device = next(net.parameters()).device
    return torch.cat([net.describe(as_pixels(block, device, torch.channels_last)).cpu()
                      for block in images.split(500)])


@torch.no_grad()
def accuracy(net: FeatureNet, images: Tensor, labels: Tensor) -> float:
    """The share of right answers: of images, or of all attributes of all images."""
    logits = net.classify(features(net, images).to(net.classify.weight.device)).cpu()
    answers = logits > 0 if labels.dtype == torch.bool else logits.argmax(1)
    return (answers == labels.cpu()).double().mean().item()


def feature_net(train: ImageSet, folder: str | os.PathLike, epochs: int, seed: int,
                device: str | torch.device, progress: Callable | None = None) -> FeatureNet:
    """The classifier of a set's labels, from `folder` if it was trained there before.

    The same seed, device and number of threads give the same weights, and the global random state
    is left as it was; with epochs=0 it stays untrained. A damaged file is made anew.
    """
    images, labels = train.images, train.labels
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)
        outputs = labels.shape[1] if labels.dtype == torch.bool else int(labels.max()) + 1
        net = FeatureNet(images.shape[-1], outputs).to(device, memory_format=torch.channels_last)
    if epochs == 0:
        return net.eval()
    identity = {"feature net": 1, "data": train.fingerprint, "epochs": epochs, "seed": seed}
    path = Path(folder) / f"features-{digest_of(identity)[:16]}.pt"
    with contextlib.suppress(Damaged):              # or missing
        net.load_state_dict(read_state(path, identity)["model"])
        return net.eval()
    train_feature_net(net, images, labels, epochs, seed, progress)
    write_state(path, identity, model=net.state_dict())
    return net.eval()


# ---- the judge

COMPARED = 2_000        # images on either side of all measures but the Fréchet distance
FARTHER = {"distance": 1, "kid": 1, "recall": -1, "coverage": -1, "precision": -1, "density": -1,
           "sharpness": -1}     # -1: it should fall where images get worse


class Judge:
    """Measures of images on the features of a classifier of the training set.

    All but the Fréchet distance compare up to 2,000 images with as many of the second half of the
    test images; the first half is what the ladder disturbs. The classifier has seen neither.
    `floor` is the Fréchet distance of the two halves, about twice that of as many new real images
    as there are test images. KID is of features at one length, as its cube is ruled by the longest.
    """

    def __init__(self, name: str, train: ImageSet, test: ImageSet, *, runs: str | os.PathLike,
                 device: str | torch.device, epochs: int, seed: int,
                 progress: Callable | None = None):
        self.name, half = name, len(test) // 2
        self.net = feature_net(train, runs, epochs, seed, device, progress)
        self.accuracy = accuracy(self.net, test.images, test.labels)
        described = features(self.net, test.images)
        self.test, self.half = gaussian_fit(described), gaussian_fit(described[half:])
        self.first, self.reference = test.images[:half], described[half:][:COMPARED]
        self.some = self.first[:COMPARED]
        self.mean = mean_image(train.images).float().view(1, *train.images.shape[1:])
        self.floor = frechet_distance(gaussian_fit(described[:half]), self.half)

    def distance(self, images: Tensor) -> float:
        """The Fréchet distance of these images from all test images."""
        return frechet_distance(gaussian_fit(features(self.net, images)), self.test)

    def measure(self, images: Tensor) -> dict[str, float | str | None]:
        """All measures of these images, None where one is not a finite number.

        Beside those of FARTHER: `kid_error`, its standard error; `blur`, the blur of real images,
        in pixels, at which the KID is the same; and `blur_end` ("< 0.5") where that blur is beyond
        the ladder.
        """
        return self._with_blur(self._measure(images, self.test))

    @cached_property
    def ends(self) -> dict[str, dict]:
        """The measures of a half of the test images ("real"), and of the training mean ("mean")."""
        mean = self.mean.expand_as(self.some)
        return {"real": self._with_blur(self._measure(self.first, self.half)),
                "mean": self._with_blur(self._measure(mean, self.test))}

    @cached_property
    def ladder(self) -> dict[str, dict]:
        """The measures of test images under every disturbance, and under every blur of GRID."""
        blurs = {f"blur {width:g}": partial(blur, width=width) for width in GRID}
        return {name: self._measure(disturb(self.some), self.half)
                for name, disturb in (LADDER | blurs).items()}

    @cached_property
    def blur_curve(self) -> list[float | None]:
        """KID of test images at every blur of GRID."""
        return [self.ladder[f"blur {width:g}"]["kid"] for width in GRID]

    def _measure(self, images: Tensor, known: Gaussian) -> dict[str, float | None]:
        """What needs no ladder, of images; `known` is what their Fréchet distance is from."""
        described = features(self.net, images)
        n = min(len(described), len(self.reference))
        made, real = described[:n], self.reference[:n]
        value, error = kid(directions(real), directions(made))
        found = {"distance": frechet_distance(gaussian_fit(described), known),
                 "kid": value, "kid_error": error, **recall_and_coverage(real, made),
                 "sharpness": sharpness(images[:n]).mean().item()}
        return {key: finite(number) for key, number in found.items()}

    def _with_blur(self, found: dict) -> dict:
        """The same, and the blur of real images that comes to as much."""
        width, end = blur_at(self.blur_curve, found["kid"])
        return found | {"blur": width, "blur_end": end}
