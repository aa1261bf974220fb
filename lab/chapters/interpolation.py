"""Task 2: what lies between two images, in latent space and in pixels."""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from data import ImageSet, load
from data.standin import render
from lab.latent import ratio_of_means
from lab.notebook import Lab
from lab.samples import blur, evenness, sharpness, smoothness
from lab.show import Figure, Table, finite, labelled_rows
from lab.training import decode_set, encode_set, generator, lerp, slerp
from vae_helpers import VAE, as_pixels

STEPS = 10                  # frames of a path, with both ends
HALF_STEPS = 2 * STEPS - 1  # the same and one between every two
PAIRS = 200                 # of test images, whose paths are measured
FACE_PAIRS = 50
CLASS_PAIRS = 1_500         # of one class, and as many of two
CLAIMED_STEP = 0.000615     # the mean squared step that an earlier submission reports
WIDTH = 2.5                 # pixels of a blur, about that of samples of `conv`
HALFWAY, MORPHS = "sharpness half-way", "*true morphs of drawn scenes*"
BLURRED = f"*the same, blurred by {WIDTH} pixels*"


# ---- pairs and pictures


def farthest(mu: Tensor) -> tuple[int, int]:
    """The two codes that lie farthest apart."""
    return divmod(int(torch.cdist(mu, mu).argmax()), len(mu))


def choose_pairs(mu: Tensor, labels: Tensor) -> dict[str, tuple[int, int]]:
    """Pairs of images by rule: the first two of one class, the first two of different classes that
    are not among those, and the two whose codes lie farthest apart."""
    a, n = 0, len(labels)
    b = next(i for i in range(1, n) if labels[i] == labels[a])
    c = next(i for i in range(1, n) if i != b)
    d = next(i for i in range(c + 1, n) if i != b and labels[i] != labels[c])
    return {"same class": (a, b), "different classes": (c, d), "farthest codes": farthest(mu)}


def beside(frames: Tensor, ends: Tensor | None = None) -> Tensor:
    """Frames (steps, 3, H, W) between the two images of `ends`, or between white ones."""
    ends = torch.ones_like(frames[:2]) if ends is None else as_pixels(ends)
    return torch.cat([ends[:1], frames, ends[1:]])


def positions(steps: int) -> list[str]:
    """Names of the columns of a row that stands between two originals."""
    return ["original", *(f"t = {i / (steps - 1):.2g}" for i in range(steps)), "original"]


def strips(lab: Lab, between: dict[str, tuple[Tensor, Tensor]],
           pairs: dict[str, tuple[int, int]]) -> Figure:
    """Decoded steps, and below them the cross-fade of their ends, for each of `between`. The test
    images of `pairs` stand beside the rows of the same name."""
    rows = {}
    for name, (decoded, fade) in between.items():
        ends = lab.cifar.test.images[list(pairs[name])] if name in pairs else None
        rows |= {name: beside(decoded, ends), f"{name},\ncross-fade": beside(fade)}
    title = "conv between two codes, and below each row the cross-fade of its ends"
    return lab.figure(
        labelled_rows(rows, title, columns=positions(STEPS), zoom=2, label=120),
        "interpolation-conv", "Rows of ten decoded steps between two codes, those of test images "
        "between the originals; below each of them the pixels of its first and last step are mixed",
        picture=True)


def four_faces(lab: Lab, frames: Tensor) -> Figure:
    """Frames (down, across, 3, H, W) between four codes, with the first four test faces, which
    they are of, beside the corners."""
    down, across = frames.shape[:2]
    sides = torch.ones(down, 2, *frames.shape[2:])
    sides[[0, -1]] = as_pixels(lab.faces.test.images[:4]).unflatten(0, (2, 2))
    rows = {f"u = {i / (down - 1):.2g}": beside(frames[i], sides[i]) for i in range(down)}
    return lab.figure(
        labelled_rows(rows, "Between four faces: originals beside their corners",
                      columns=positions(across), zoom=2, label=65),
        "faces-between", "Four rows of six faces decoded between the codes of four test faces, "
        "which stand beside the corners; nearly every one of them is a face", picture=True)


# ---- paths


def cross_fade(frames: Tensor) -> Tensor:
    """The pixel mixture of first and last frame in as many steps, (n, steps, 3, H, W)."""
    t = torch.linspace(0, 1, frames.shape[1]).view(1, -1, 1, 1, 1)
    return (1 - t) * frames[:, :1] + t * frames[:, -1:]


def around(ends: Tensor, steps: int) -> Tensor:
    """Straight lines from each of the ends (n, d) to the next and from the last to the first,
    (n * steps, d). They begin in the middle of the first line, so that a picture which stands
    still shows what lies between."""
    lines = lerp(ends, ends.roll(-1, 0), steps + 1)[:, :-1]             # (n, steps, d)
    return lines.flatten(0, 1).roll(-(steps // 2), 0)


def decode_paths(model: VAE, codes: Tensor) -> Tensor:
    """Frames (n, steps, 3, H, W) of codes (n, steps, d)."""
    return decode_set(model, codes.flatten(0, 1)).unflatten(0, codes.shape[:2])


def paths_between(model: VAE, images: Tensor, pairs: int, way: Callable = lerp,
                  steps: int = STEPS) -> tuple[Tensor, Tensor]:
    """Codes (pairs, steps, d) and frames between the first images and the ones after those, of
    fewer pairs where images are few."""
    mu, _ = encode_set(model, images[:2 * pairs])
    half = len(mu) // 2
    codes = way(mu[:half], mu[half:2 * half], steps)
    return codes, decode_paths(model, codes)


def true_morphs(pairs: int, steps: int = STEPS) -> Tensor:
    """Paths (pairs, steps, 3, 32, 32) between drawn scenes that differ in the place of their shape
    alone: every frame is the scene with the shape on its way, drawn anew."""
    truth = load("cifar10", "test", limit=2 * pairs, source="standin").factors
    factors = {name: np.repeat(value[:pairs].numpy(), steps) for name, value in truth.items()}
    for name in ("x", "y"):
        factors[name] = lerp(*truth[name].view(2, pairs, 1), steps).flatten().numpy()
    return torch.from_numpy(render("cifar10", factors, 32)).unflatten(0, (pairs, steps))


# ---- numbers of a path


def detour_of(frames: Tensor) -> tuple[float, float]:
    """Mean squared step over that of a cross-fade between the same ends, and its standard error
    over pairs. The cross-fade is the straight line in pixels, so nothing is below 1."""
    return ratio_of_means(smoothness(frames), smoothness(cross_fade(frames)))


def path_numbers(frames: Tensor) -> dict[str, float]:
    """The numbers of paths (n, steps, 3, H, W), floats in [0, 1]: means over pairs. Half-way is in
    the two middle frames, whose sharpness is a share of that of the two ends."""
    (detour, error), steps = detour_of(frames), frames.shape[1]
    sharp = sharpness(frames.flatten(0, 1)).view(frames.shape[:2])
    halfway = sharp[:, [(steps - 1) // 2, steps // 2]].mean() / sharp[:, [0, -1]].mean()
    return {"mean squared step": smoothness(frames).mean().item(), "detour": detour, "±": error,
            "evenness": evenness(frames).mean().item(), HALFWAY: halfway.item()}


def doubling_exponent(halved: Tensor) -> float | None:
    """The power of the number of steps by which the mean squared step falls, from frames with
    half-steps: 2 on a smooth path, 1 at a jump, 0 for noise; None where nothing moves."""
    return finite((smoothness(halved[:, ::2]).mean() / smoothness(halved).mean()).log2())


def paths(lab: Lab) -> Table:
    """What happens on the way between pairs of test images, by model and way, and in true morphs
    of drawn scenes: means over pairs, with the detour's standard error."""
    images = lab.cifar.test.images
    ways = {name: paths_between(lab.run(name).model, images, PAIRS)[1]
            for name in ("conv", "improved", "small", "small-ae")}
    ways["conv, great circle"] = paths_between(lab.run("conv").model, images, PAIRS, slerp)[1]
    ways["conv, cross-fade"] = cross_fade(ways["conv"])
    ways["improved, cross-fade"] = cross_fade(ways["improved"])
    morphs = as_pixels(true_morphs(len(ways["conv"])))
    ways |= {MORPHS: morphs, BLURRED: blur(morphs.flatten(0, 1), WIDTH).view_as(morphs)}
    numbers = {name: path_numbers(frames) for name, frames in ways.items()}
    keep_paths(lab, numbers)
    return Table([{"path": name} | each for name, each in numbers.items()],
                 {"mean squared step": ".6f", "detour": ".2f", "±": ".3f", "evenness": ".2f",
                  HALFWAY: ".0%"})


def keep_paths(lab: Lab, numbers: dict[str, dict[str, float]]) -> None:
    """Keeps the numbers of paths that claims and prose read."""
    keep, conv = lab.found.keep, lab.run("conv")
    for key, name in {"task2": "conv", "small": "small", "ae": "small-ae"}.items():
        keep(f"{key}.detour", numbers[name]["detour"], run=lab.run(name))
        keep(f"{key}.sharpness_halfway", numbers[name][HALFWAY], run=lab.run(name))
    for key, name in {"small": "small", "ae": "small-ae"}.items():
        keep(f"{key}.evenness", numbers[name]["evenness"], run=lab.run(name))
    keep("task2.circle_sharpness_halfway", numbers["conv, great circle"][HALFWAY], run=conv)
    keep("morph.detour", numbers[MORPHS]["detour"])
    keep("morph.blurred_detour", numbers[BLURRED]["detour"])
    step = numbers["conv"]["mean squared step"]     # it falls as the square of the number of steps
    keep("task2.smoothness", step, run=conv)
    keep("task2.intervals", math.sqrt(step / CLAIMED_STEP) * (STEPS - 1))


def keep_face_detour(lab: Lab) -> None:
    """Keeps the detour between pairs of test faces."""
    run = lab.run("celeba64")
    _, frames = paths_between(run.model, lab.faces.test.images, FACE_PAIRS)
    lab.found.keep("face_paths.detour", detour_of(frames)[0], run=run)


# ---- are pairs of one class different


def class_pairs(test: ImageSet, pairs: int, seed: int) -> tuple[Tensor, Tensor]:
    """Indices (n, 2) of as many pairs of one class as of two, and whether each is of one."""
    draw = generator("cpu", seed, "classes")
    a, b = (torch.randint(len(test), (40 * pairs,), generator=draw) for _ in range(2))
    equal = test.labels[a] == test.labels[b]
    both = [torch.stack([a, b], 1)[chosen][:pairs] for chosen in (equal & (a != b), ~equal)]
    n = min(map(len, both))
    return torch.cat([chosen[:n] for chosen in both]), torch.arange(2 * n) < n


def detours(model: VAE, images: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """The detour of each pair (n, 2) of images, and the distance of its codes."""
    found = []
    for part in index.split(500):
        codes, frames = paths_between(model, images[part.T.flatten()], len(part))
        found.append(torch.stack([smoothness(frames) / smoothness(cross_fade(frames)),
                                  (codes[:, 0] - codes[:, -1]).norm(dim=1)]))
    return tuple(torch.cat(found, 1))


def class_effect(detour: Tensor, distance: Tensor, same: Tensor) -> tuple[float, float]:
    """By how much the detour within a class differs from that between two, at equal distance of
    the codes, by least squares, with a standard error that allows any variances. Negative: one
    class has the straighter way."""
    moved = detour.isfinite()                   # equal images have no way between them
    y, far, same = detour[moved].double(), distance[moved].double().log2(), same[moved]
    x = torch.stack([torch.ones(len(y)), same, far - far.mean()], 1).double()       # (n, 3)
    inverse = torch.linalg.pinv(x.T @ x)
    coefficients = inverse @ x.T @ y
    noisy = x * (y - x @ coefficients)[:, None]
    share = len(x) / max(len(x) - 3, 1)
    errors = (share * inverse @ noisy.T @ noisy @ inverse).diagonal().sqrt()
    return coefficients[1].item(), errors[1].item()


def keep_similar(lab: Lab) -> None:
    """Whether images of one class have the straighter way, at equal distance of the codes."""
    run, test = lab.run("conv"), lab.cifar.test
    index, same = class_pairs(test, min(CLASS_PAIRS, len(test) // 2), lab.settings.seed)
    effect, error = class_effect(*detours(run.model, test.images, index), same)
    lab.found.keep("similar.coefficient", effect, run=run)
    lab.found.keep("similar.error", error, run=run)
