"""What generated images are judged by: measures on the features of a small classifier.

The classifier is trained here and nothing is downloaded, so its distances are never to be called
FID. It is kept in a file beside the runs, which says whose it is and is checked when it is read.
What the measures are worth is seen on a ladder of disturbed real images (`lab.ladder`).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data import ImageSet
from lab.files import Damaged, digest_of, unpickled, write_state
from lab.ladder import GRID, LADDER, blur, blur_at
from lab.likeness import directions, frechet_distance, kid, recall_and_coverage
from lab.measures import Gaussian, gaussian_fit, mean_image, sharpness
from lab.show import finite
from vae_helpers import as_pixels

FEATURE_NET = 1  # the version of FeatureNet and its training: a new one never loads old weights

Progress = Callable[[int, int, str], None]

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
        """The logits of images in [0, 1]."""
        return self.classify(self.describe(x))


def train_feature_net(images: Tensor, labels: Tensor, epochs: int = 5, seed: int = 0,
                      device: str | torch.device = "cpu", bf16: bool = False,
                      progress: Progress | None = None) -> FeatureNet:
    """A classifier of classes, int64 (N,), or of yes-or-no attributes, bool (N, K).

    The same seed, device and number of threads give the same weights, and the global random state
    is left as it was. `progress(done, total, what)` is called every twenty batches of 256 images.
    """
    net = _untrained_net(images, labels, seed).to(device, memory_format=torch.channels_last)
    optimizer, schedule = _one_cycle(net, steps=epochs * math.ceil(len(images) / 256))
    draw = torch.Generator().manual_seed(seed)
    for epoch in range(1, epochs + 1):
        order = torch.randperm(len(images), generator=draw).split(256)
        for step, index in enumerate(order, 1):
            x = _mirror_half(_batch(images[index], device), draw)
            with torch.autocast(x.device.type, torch.bfloat16, enabled=bf16):
                logits = net(x)
            optimizer.zero_grad()
            _classifier_loss(logits.float(), labels[index].to(device)).backward()
            optimizer.step()
            schedule.step()
            if progress and (step % 20 == 0 or step == len(order)):
                progress(step, len(order), f"batches of epoch {epoch} of {epochs}")
    return net.eval()


def _untrained_net(images: Tensor, labels: Tensor, seed: int) -> FeatureNet:
    """The classifier that fits these images and labels, initialised from `seed`."""
    outputs = labels.shape[1] if labels.dtype == torch.bool else int(labels.max()) + 1
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)
        return FeatureNet(images.shape[-1], outputs)


def _one_cycle(net: nn.Module, steps: int, peak: float = 3e-3):
    """AdamW and a schedule that rises to `peak` in a fifth of the steps and falls to 0."""

    def share_of_peak(step: int) -> float:
        return min((step + 1) / (0.2 * steps + 1), (steps - step) / (0.8 * steps))

    optimizer = torch.optim.AdamW(net.parameters(), lr=peak)
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, share_of_peak)


def _batch(images: Tensor, device: str | torch.device) -> Tensor:
    """Images as floats in [0, 1] on the device, channels last."""
    x = as_pixels(images, device, torch.channels_last)
    return x.float().contiguous(memory_format=torch.channels_last)


def _mirror_half(x: Tensor, draw: torch.Generator) -> Tensor:
    """The batch with a random half of its images mirrored."""
    mirrored = (torch.rand(len(x), 1, 1, 1, generator=draw) < 0.5).to(x.device)
    return torch.where(mirrored, x.flip(3), x)


def _classifier_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """The mean cross-entropy: of classes, or of each yes-or-no attribute by itself."""
    if labels.dtype == torch.bool:
        return F.binary_cross_entropy_with_logits(logits, labels.float())
    return F.cross_entropy(logits, labels)


@torch.no_grad()
def features(net: FeatureNet, images: Tensor) -> Tensor:
    """The last hidden layer's activations (N, 128) of the images, float32 on the CPU."""
    device = next(net.parameters()).device
    return torch.cat([net.describe(_batch(block, device)).cpu() for block in images.split(500)])


@torch.no_grad()
def accuracy(net: FeatureNet, images: Tensor, labels: Tensor) -> float:
    """The share of right answers: of images, or of all attributes of all images."""
    logits = net.classify(features(net, images).to(net.classify.weight.device)).cpu()
    answers = logits > 0 if labels.dtype == torch.bool else logits.argmax(1)
    return (answers == labels.cpu()).double().mean().item()


# ---- kept on disk


def feature_net(train: ImageSet, folder: str | os.PathLike, epochs: int = 5, seed: int = 0,
                bf16: bool = False, device: str | torch.device = "cpu",
                progress: Progress | None = None) -> FeatureNet:
    """train_feature_net's classifier of a set, from `folder` if it was trained there before.

    Where the file is damaged or another classifier's, `progress` says so, and it is made anew.
    """
    identity = {"feature net": FEATURE_NET, "data": train.fingerprint, "epochs": epochs,
                "seed": seed, "precision": "bf16" if bf16 else "fp32"}
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    path = Path(folder) / f"features-{digest[:16]}.pt"
    if path.exists():
        try:
            net = _untrained_net(train.images, train.labels, seed)
            net.load_state_dict(_kept_weights(path, identity))
            return net.to(device, memory_format=torch.channels_last).eval()
        except (Damaged, OSError, RuntimeError):  # RuntimeError: weights of other shapes
            if progress:
                progress(0, epochs, f"{path} is damaged or another's; epochs of training it anew")
    net = train_feature_net(train.images, train.labels, epochs, seed, device, bf16, progress)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_state(path, identity, model=net.state_dict())
    return net


def _kept_weights(path: Path, identity: dict) -> dict[str, Tensor]:
    """The weights in a file, once it is whole and of this identity."""
    state = unpickled(path)
    if state.get("identity") != json.dumps(identity, sort_keys=True):
        raise Damaged(path, "belongs to another classifier")
    weights = state.get("model")
    if not isinstance(weights, dict) or state.get("digest") != digest_of({"model": weights}):
        raise Damaged(path, "is damaged (its content has another digest)")
    return weights


# ---- the judge


def blur_shown(found: dict) -> float | str | None:
    """What a table shows of a measured equivalent blur: the pixels, or the end it is beyond."""
    return found["blur"] if found["blur"] is not None else found["blur_end"] or None


COMPARED = 2_000        # images on either side of all measures but the Fréchet distance
FARTHER = {"distance": 1, "kid": 1, "kid_raw": 1, "recall": -1, "coverage": -1, "precision": -1,
       "density": -1, "sharpness": -1}      # -1: it should fall where images get worse


class Judge:
    """Measures of images on the features of a classifier of the training set.

    `floor` is the Fréchet distance of as many training images as there are test images, `ceiling`
    that of their mean image. All else compares up to 2,000 images with as many of the second half
    of the test images; those of the first half are what the ladder disturbs, so that its lowest
    rung has nothing in common with them, and the classifier has seen neither. KID is that of
    features at one length. At their own lengths (`kid_raw`) the cube in its kernel is ruled by the
    longest, and on the ladder it hardly tells blurs above 2 pixels apart.
    """

    def __init__(self, name: str, train: ImageSet, test: ImageSet, *, runs: str | os.PathLike,
                 device: str | torch.device, bf16: bool, epochs: int, seed: int,
                 progress: Progress | None = None):
        self.name, self.n, half = name, len(test), len(test) // 2
        self.net = feature_net(train, runs, epochs, seed, bf16, device, progress)
        self.accuracy = accuracy(self.net, test.images, test.labels)
        described = features(self.net, test.images)
        self.test, self.half = gaussian_fit(described), gaussian_fit(described[half:])
        self.some, self.reference = test.images[:half][:COMPARED], described[half:][:COMPARED]
        mean = mean_image(train.images).float().view(1, *train.images.shape[1:])
        self._ends = {"real": train.images[: self.n], "mean": mean}
        self._described = {"real": features(self.net, self._ends["real"]),
                           "mean": features(self.net, mean).expand(self.n, -1)}
        self.floor, self.ceiling = (frechet_distance(f, self.test)
                                    for f in self._described.values())

    def distance(self, images: Tensor) -> float:
        """Fréchet distance of these images to the test images."""
        return frechet_distance(features(self.net, images), self.test)

    def measure(self, images: Tensor) -> dict[str, float | str | None]:
        """All measures of these images, None where one is not a finite number.

        `distance` (Fréchet), `kid` and its `kid_error`, `kid_raw`, `precision`, `recall`,
        `density`, `coverage`, mean `sharpness`; and the blur of real images, in pixels, at which
        the KID is the same (`blur`, and what its error makes of that, `blur_error`; `blur_end` is
        "< 0.5" or "> 8" where that is beyond the ladder), the distance (`blur_fd`), and the
        sharpness (`blur_sharpness`).
        """
        return self._read(self._measure(images, features(self.net, images), self.test))

    @cached_property
    def ends(self) -> dict[str, dict]:
        """The measures of training images ("real") and of their mean image ("mean")."""
        return {name: self._read(self._measure(self._ends[name], described, self.test))
                for name, described in self._described.items()}

    @cached_property
    def ladder(self) -> dict[str, dict]:
        """The measures of test images under every disturbance."""
        return {name: self._read(self._blurs.get(name) or self._disturbed(disturb))
                for name, disturb in LADDER.items()}

    def blur_curve(self, key: str = "kid") -> tuple[list[float], list[float | None]]:
        """Widths of blur in pixels, and a measure of test images blurred by them."""
        return list(GRID), [self._blurs[f"blur {width:g}"][key] for width in GRID]

    @cached_property
    def _blurs(self) -> dict[str, dict]:
        return {f"blur {width:g}": self._disturbed(lambda x, width=width: blur(x, width))
                for width in GRID}

    def _disturbed(self, disturb: Callable[[Tensor], Tensor]) -> dict:
        images = disturb(self.some)
        return self._measure(images, features(self.net, images), self.half)

    def _measure(self, images: Tensor, described: Tensor, known: Gaussian) -> dict:
        """What needs no ladder, of images and their features."""
        n = min(len(described), len(self.reference))
        made, real = described[:n], self.reference[:n]
        value, error = kid(directions(real), directions(made))
        found = {"distance": frechet_distance(described, known), "kid": value, "kid_error": error,
                 "kid_raw": kid(real, made)[0], **recall_and_coverage(real, made),
                 "sharpness": sharpness(images[:n]).mean().item()}
        return {key: finite(number) for key, number in found.items()}

    def _read(self, found: dict) -> dict:
        """The same, and three readings of the blur that comes to as much."""
        def at(key: str, more: float = 0.0) -> tuple[float | None, str]:
            values = [value and FARTHER[key] * value for value in self.blur_curve(key)[1]]
            return blur_at(GRID, values, found[key] and FARTHER[key] * found[key] + more)

        (blurred, end), off = at("kid"), found["kid_error"] or 0.0
        low, high = at("kid", -off)[0], at("kid", off)[0]
        known = None not in (low, high) and off > 0
        return found | {"blur": blurred, "blur_end": end, "blur_fd": at("distance")[0],
                        "blur_error": (high - low) / 2 if known else None,
                        "blur_sharpness": at("sharpness")[0]}
