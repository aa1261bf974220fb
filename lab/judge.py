"""What generated images are judged by: Fréchet distances on a small classifier's features.

The classifier is trained here and nothing is downloaded, so its distances are never to be called
FID. It is kept in a file beside the runs, which says whose it is and is checked when it is read.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data import ImageSet
from lab.files import Damaged, digest_of, unpickled, write_state
from lab.measures import frechet_distance, gaussian_fit, mean_image
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


class Judge:
    """Fréchet distances to the test images, on the features of a classifier of the training set.

    `floor` is that of as many training images, `ceiling` that of their mean image.
    """

    def __init__(self, name: str, train: ImageSet, test: ImageSet, *, runs: str | os.PathLike,
                 device: str | torch.device, bf16: bool, epochs: int, seed: int,
                 progress: Progress | None = None):
        self.name, self.n = name, len(test)
        self.net = feature_net(train, runs, epochs, seed, bf16, device, progress)
        self.accuracy = accuracy(self.net, test.images, test.labels)
        self.test = gaussian_fit(features(self.net, test.images))
        self.floor = self.distance(train.images[: self.n])
        mean = mean_image(train.images).float().view(1, *train.images.shape[1:])
        self.ceiling = self.distance(mean.expand(self.n, -1, -1, -1))

    def distance(self, images: Tensor) -> float:
        """Fréchet distance of these images to the test images."""
        return frechet_distance(features(self.net, images), self.test)
