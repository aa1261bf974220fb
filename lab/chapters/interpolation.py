"""Task 2: what lies between two images, in latent space and in pixels."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from data import ImageSet
from lab import linear, samples
from lab.runs import Run
from lab.session import Lab
from lab.show import Figure, Table, finite, labelled_rows
from lab.training import decode_set, draw_prior, encode_set, generator, lerp, slerp
from vae_helpers import VAE, as_pixels

STEPS = 10              # frames of a path, with both ends
CLAIMED_STEP = 0.000615     # the mean squared step that an earlier submission reports


# ---- paths


def extremes(mu: Tensor) -> dict[str, tuple[int, int]]:
    """The two codes that are nearest to each other, and the two farthest apart."""
    far = torch.cdist(mu, mu)
    nearest = (far + far.max() * torch.eye(len(mu))).argmin()
    return {"nearest codes": divmod(int(nearest), len(mu)),
            "farthest codes": divmod(int(far.argmax()), len(mu))}


def choose_pairs(mu: Tensor, labels: Tensor) -> dict[str, tuple[int, int]]:
    """Pairs of images by rule: the first two of one class, the first two of others, the extremes.

    No image stands in both of the first two pairs.
    """
    a, n = 0, len(labels)
    b = next(i for i in range(1, n) if labels[i] == labels[a])
    c = next(i for i in range(1, n) if i != b)
    d = next(i for i in range(c + 1, n) if i != b and labels[i] != labels[c])
    return {"same class": (a, b), "different classes": (c, d), **extremes(mu)}


def row_between(model: VAE, images: Tensor, mu: Tensor, pair: tuple[int, int],
                steps: int) -> Tensor:
    """Decoded steps on the line between the codes of two images, which stand at both ends."""
    (a, b), ends = pair, as_pixels(images[list(pair)])
    return torch.cat([ends[:1], decode_set(model, lerp(mu[a], mu[b], steps)), ends[1:]])


def bilinear(corners: Tensor, down: int, across: int) -> Tensor:
    """Codes (down, across, d) between four (4, d): the first two above, the last two below."""
    above, below = lerp(corners[0], corners[1], across), lerp(corners[2], corners[3], across)
    return lerp(above, below, down).transpose(0, 1)


def grid_between(model: VAE, images: Tensor, down: int, across: int) -> Tensor:
    """Rows (down, across + 2, 3, H, W) decoded between the codes of the first four images.

    The originals stand beside their corners, and white beside the other rows.
    """
    codes = bilinear(encode_set(model, images[:4])[0], down, across)
    frames = decode_set(model, codes.flatten(0, 1)).unflatten(0, codes.shape[:2])
    sides = torch.ones(down, 2, *frames.shape[2:])
    sides[[0, -1]] = as_pixels(images[:4]).unflatten(0, (2, 2))
    return torch.cat([sides[:, :1], frames, sides[:, 1:]], 1)


def cross_fade(frames: Tensor) -> Tensor:
    """The pixel mixture of first and last frame in as many steps, (n, steps, 3, H, W)."""
    t = torch.linspace(0, 1, frames.shape[1]).view(1, -1, 1, 1, 1)
    return (1 - t) * frames[:, :1] + t * frames[:, -1:]


def paths_between(model: VAE, images: Tensor, pairs: int, way: Callable = lerp,
                  steps: int = STEPS) -> tuple[Tensor, Tensor]:
    """Codes (pairs, steps, d) and frames between the first images and the ones after those."""
    mu, _ = encode_set(model, images[:2 * pairs])
    half = len(mu) // 2
    codes = way(mu[:half], mu[half:2 * half], steps)
    return codes, decode_set(model, codes.flatten(0, 1)).unflatten(0, codes.shape[:2])


def three_ways(model: VAE, images: Tensor, pairs: int) -> dict[str, tuple[Tensor | None, Tensor]]:
    """Codes and frames of the line, the circle and the cross-fade, which has no codes."""
    line, circle = (paths_between(model, images, pairs, way) for way in (lerp, slerp))
    fade = None, cross_fade(line[1])
    return {"straight line": line, "great circle": circle, "cross-fade": fade}


# ---- numbers of a path


def middle(profile: Tensor) -> float:
    """The two middle frames' mean as a share of the two ends' mean, of values (n, steps)."""
    steps = profile.shape[1]
    halfway = profile[:, [(steps - 1) // 2, steps // 2]].mean()
    return (halfway / profile[:, [0, -1]].mean()).item()


def unrelated_ends(steps: int = STEPS) -> tuple[float, float]:
    """What `middle` gives if the ends have nothing in common: norm of the code on a straight line,
    sharpness of a cross-fade. About 1/√2 and ½, and exactly so for an odd number of steps."""
    t = (steps - 1) // 2 / (steps - 1)
    share = t ** 2 + (1 - t) ** 2
    return math.sqrt(share), share


def sharpness_along(frames: Tensor) -> Tensor:
    """Sharpness of every frame, (n, steps)."""
    return samples.sharpness(frames.flatten(0, 1)).view(frames.shape[:2])


def detour_of(frames: Tensor) -> tuple[float, float]:
    """Mean squared step over that of a cross-fade between the same ends, and its standard error.

    The cross-fade is the straight line in pixels, so nothing is below 1.
    """
    steps, straight = samples.smoothness(frames), samples.smoothness(cross_fade(frames))
    ratio = (steps.mean() / straight.mean()).item()
    _, error = linear.mean_and_error(steps - ratio * straight)    # of a ratio of means
    return ratio, error / straight.mean().item()


def path_numbers(frames: Tensor, codes: Tensor | None = None) -> dict[str, float | None]:
    """The numbers of paths (n, steps, 3, H, W), and of their codes where there are any."""
    smoothness, error = linear.mean_and_error(samples.smoothness(frames))
    detour, detour_error = detour_of(frames)
    numbers = {"smoothness": smoothness, "smoothness_error": error,
               "evenness": samples.evenness(frames).mean(),
               "detour": detour, "detour_error": detour_error,
               "norm_halfway": None if codes is None else middle(codes.norm(dim=-1)),
               "sharpness_halfway": middle(sharpness_along(frames))}
    return {name: finite(value) for name, value in numbers.items()}


def doubling_exponent(few: Tensor, many: Tensor) -> float | None:
    """The power of the number of steps by which the mean squared step falls, from frames with n
    steps and with 2n: 2 on a smooth path, 1 at a jump, 0 for noise; None where nothing moves."""
    ratio = samples.smoothness(few).mean() / samples.smoothness(many).mean()
    return finite(ratio.log2())


def known_doublings(images: Tensor, steps: int, seed: int) -> dict[str, float | None]:
    """The exponents of three made paths between images in [0, 1] (n, 3, H, W) whose exponents are
    known: a cross-fade, a jump half-way, and fresh noise in every frame."""
    ends, draw = torch.stack([images, images.roll(1, 0)], 1), generator("cpu", seed, "doubling")

    def made(kind: str, n: int) -> Tensor:
        if kind == "jump":
            return ends.repeat_interleave(torch.tensor([(n + 1) // 2, n // 2 + 1]), 1)
        between = ends[:, :1].expand(-1, n + 1, -1, -1, -1)
        if kind == "noise":
            return torch.rand(between.shape, generator=draw)
        return cross_fade(torch.cat([between[:, :-1], ends[:, 1:]], 1))

    return {kind: doubling_exponent(made(kind, steps), made(kind, 2 * steps))
            for kind in ("cross-fade", "jump", "noise")}


def intervals_for(smoothness: float, claimed: float, intervals: int = STEPS - 1) -> float:
    """How many intervals would give the claimed mean squared step, which falls as their square."""
    return math.sqrt(smoothness * intervals ** 2 / claimed)


# ---- are pairs of one class different


def least_squares(columns: dict[str, Tensor], y: Tensor) -> dict[str, tuple[float, float]]:
    """Each column's coefficient for y (n,), with a standard error that allows any variances."""
    x, y = torch.stack(list(columns.values()), 1).double(), y.double()
    inverse = torch.linalg.pinv(x.T @ x)
    coefficients = inverse @ x.T @ y
    noisy = x * (y - x @ coefficients)[:, None]
    spare = max(len(x) - x.shape[1], 1)
    errors = (inverse @ noisy.T @ noisy @ inverse).diagonal().mul(len(x) / spare).sqrt()
    return dict(zip(columns, zip(coefficients.tolist(), errors.tolist(), strict=True), strict=True))


def class_pairs(test: ImageSet, pairs: int, seed: int) -> tuple[Tensor, Tensor]:
    """Indices (n, 2) of as many pairs of one class as of two, and whether each is of one."""
    draw = generator("cpu", seed, "classes")
    a, b = (torch.randint(len(test), (40 * pairs,), generator=draw) for _ in range(2))
    equal = test.labels[a] == test.labels[b]
    both = [torch.stack([a[chosen][:pairs], b[chosen][:pairs]], 1)
            for chosen in (equal & (a != b), ~equal)]
    n = min(map(len, both))
    return torch.cat([chosen[:n] for chosen in both]), torch.arange(2 * n) < n


def detours(model: VAE, images: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean squared step, detour, and distance of the codes, of each pair (n, 2) of images."""
    codes, frames = paths_between(model, images[index.T.flatten()], len(index))
    steps, straight = samples.smoothness(frames), samples.smoothness(cross_fade(frames))
    return steps, steps / straight, (codes[:, 0] - codes[:, -1]).norm(dim=1)


def class_effect(detour: Tensor, distance: Tensor, same: Tensor) -> dict[str, tuple[float, float]]:
    """What being of one class changes about a detour: as pairs come, and at equal distance."""
    doublings = distance.double().log2()
    one = torch.ones(len(detour))
    raw = least_squares({"mean": one, "class": same}, detour)
    fair = least_squares({"mean": one, "class": same, "distance": doublings - doublings.mean()},
                         detour)
    return {"as they come": raw["class"], "at equal distance": fair["class"],
            "twice the distance": fair["distance"]}


# ---- the chapter


class Chapter:
    """Interpolation by the models of Task 1, and by one small network with and without a KL."""

    PAIRS = 200

    def __init__(self, lab: Lab, cifar, theory):
        self.lab, self.cifar, self.theory = lab, cifar, theory
        self.test = lab.cifar.test

    @cached_property
    def models(self) -> dict[str, tuple[str, VAE, str]]:
        """How findings call each model: its name in tables, the model, its run."""
        demo = self.theory.demo
        runs = {"task2": ("conv", self.cifar.conv), "fc": ("fc", self.cifar.fc),
                "improved_paths": ("improved", self.cifar.improved),
                "small": ("small VAE", demo["VAE"]),
                "ae": ("small autoencoder", demo["autoencoder"])}
        return {key: (name, run.model, run.hash) for key, (name, run) in runs.items()}

    @cached_property
    def ways(self) -> dict[str, tuple[Tensor | None, Tensor]]:
        """The convolutional model's paths between pairs of test images."""
        return three_ways(self.cifar.conv.model, self.test.images, self.PAIRS)

    def _find(self, key: str, value: float | None, unit: str = "", run=None, note: str = ""):
        """Keeps a finding where there is a finite number."""
        if finite(value) is not None:
            self.lab.found.add(key, value, unit, run=run, note=note)

    def rows(self) -> Figure:
        """Ten steps decoded by the best model between pairs of test images, and two draws."""
        run, among = self.cifar.improved, self.test.images[:500]
        mu, _ = encode_set(run.model, among)
        rows = {name: row_between(run.model, among, mu, pair, STEPS)
                for name, pair in choose_pairs(mu, self.test.labels[:500]).items()}
        draws = draw_prior(2, run.recipe.latent, self.lab.settings.seed)
        drawn = decode_set(run.model, lerp(*draws, STEPS))
        rows["two draws"] = torch.cat([torch.ones_like(drawn[:1]), drawn,
                                       torch.ones_like(drawn[:1])])
        return self.lab.figure(
            labelled_rows(rows, "Between two codes: originals at the ends, ten decoded steps",
                          columns=positions(STEPS), zoom=2, label=120),
            "interpolation", "Four rows of ten decoded steps between pairs of test images, which "
            "stand at both ends, and one between two draws: colours fade into each other",
            picture=True)

    def faces(self, run: Run, test: ImageSet) -> Figure:
        """Four rows of six faces decoded between the codes of the first four test faces."""
        self.face_paths(run, test)                      # its numbers stand in the prose
        frames = grid_between(run.model, test.images, 4, 6)
        rows = {f"u = {u / 3:.2g}": row for u, row in enumerate(frames)}
        return self.lab.figure(
            labelled_rows(rows, "Between four faces: originals beside their corners",
                          columns=positions(6), zoom=2, label=65),
            "faces-between", "Four rows of six faces decoded between the codes of four test faces, "
            "which stand beside the corners; every one of them is a face", picture=True)

    def face_paths(self, run: Run, test: ImageSet) -> Table:
        """The numbers of the three ways between pairs of test faces."""
        pairs = min(50, len(test) // 20)
        twice = {"straight line": lerp, "great circle": slerp}
        twice = {name: paths_between(run.model, test.images, pairs, way, 2 * STEPS - 1)
                 for name, way in twice.items()}
        ways = {name: (codes[:, ::2], frames[:, ::2]) for name, (codes, frames) in twice.items()}
        ways["cross-fade"] = None, cross_fade(ways["straight line"][1])
        rows = []
        for name, (codes, frames) in ways.items():
            numbers, exponent = path_numbers(frames, codes), None
            if name in twice:
                exponent = doubling_exponent(frames, twice[name][1])
                part = "circle_" if name == "great circle" else ""
                self._find(f"face_paths.{part}doubling", exponent, "exponent", run, "9 to 18 steps")
            self._find_path("face_paths", name, numbers, run)
            rows.append(path_row(name, numbers, exponent))
        return Table(rows, PATH_FORMATS)

    def paths(self) -> Table:
        """The numbers of three ways between the same ends for every model, and made paths."""
        self.similar()                                  # its numbers stand in the prose
        rows = []
        for key, (name, model, run) in self.models.items():
            ways = self.ways if key == "task2" else three_ways(model, self.test.images, self.PAIRS)
            for way, (codes, frames) in ways.items():
                numbers, exponent = path_numbers(frames, codes), None
                self._find_path(key, way, numbers, run)
                if way == "straight line":
                    exponent = doubling_exponent(*(
                        paths_between(model, self.test.images, 20, steps=n + 1)[1]
                        for n in (STEPS - 1, 2 * STEPS - 2)))
                    self._find(f"{key}.doubling", exponent, "exponent", run, "9 to 18 steps")
                if way == "straight line" or key == "task2":
                    rows.append(path_row(f"{name}, {way}", numbers, exponent))
        norm, sharpness = unrelated_ends()
        null = dict.fromkeys(("smoothness", "smoothness_error", "evenness", "detour"))
        rows.append(path_row("*ends that have nothing in common*",
                             null | {"norm_halfway": norm, "sharpness_halfway": sharpness}))
        null |= {"norm_halfway": None, "sharpness_halfway": None}
        made = known_doublings(as_pixels(self.test.images[:20]), STEPS - 1, self.lab.settings.seed)
        rows += [path_row(f"*{kind}, made*", null, exponent) for kind, exponent in made.items()]
        intervals = intervals_for(path_numbers(self.ways["straight line"][1])["smoothness"],
                                  CLAIMED_STEP)
        self._find("task2.intervals", intervals, note=f"for a mean squared step of {CLAIMED_STEP}")
        return Table(rows, PATH_FORMATS, unshown=("±",))

    def _find_path(self, key: str, way: str, numbers: dict, run: str) -> None:
        """All numbers of a straight line; of the other ways what happens half-way."""
        if way == "straight line":
            for what, value in numbers.items():
                self._find(f"{key}.{what}", value, run=run, note="straight line")
        else:
            short = {"great circle": "circle", "cross-fade": "fade"}[way]
            for what in ("detour", "sharpness_halfway"):
                self._find(f"{key}.{short}_{what}", numbers[what], run=run, note=way)

    def similar(self) -> Table:
        """Whether images of one class have the straighter path, also at equal distance."""
        run = self.cifar.conv
        index, same = class_pairs(self.test, min(300, len(self.test) // 2), self.lab.settings.seed)
        steps, detour, distance = detours(run.model, self.test.images, index)
        moved = detour.isfinite()                   # equal images have no way between them
        steps, detour, distance, same = (t[moved] for t in (steps, detour, distance, same))
        for name, chosen in (("same", same), ("other", ~same)):
            for what, values in (("steps", steps), ("detour", detour), ("distance", distance)):
                mean, error = linear.mean_and_error(values[chosen])
                self._find(f"similar.{name}_{what}", mean, run=run)
                self._find(f"similar.{name}_{what}_error", error, run=run)
        effects = class_effect(detour, distance, same)
        names = {"as they come": "raw", "at equal distance": "", "twice the distance": "distance"}
        for effect, (value, error) in effects.items():
            prefix = f"{names[effect]}_" if names[effect] else ""
            self._find(f"similar.{prefix}coefficient", value, run=run, note=effect)
            self._find(f"similar.{prefix}error", error, run=run, note=effect)
        heads = {"as they come": "one class less two, as pairs come",
                 "at equal distance": "one class less two, at equal distance of the codes",
                 "twice the distance": "twice the distance, whatever the classes"}
        rows = [{"what changes": heads[effect], "detour": finite(value), "±": finite(error),
                 "in standard errors": finite(value / error) if error else None}
                for effect, (value, error) in effects.items()]
        return Table(rows, {"detour": "+.4f", "±": ".4f", "in standard errors": "+.1f"})


def path_row(name: str, numbers: dict[str, float | None], exponent: float | None = None) -> dict:
    """A row of the table of paths."""
    return {"path": name, "mean squared step": numbers["smoothness"],
            "±": numbers["smoothness_error"], "exponent": exponent,
            "detour": numbers["detour"], "evenness": numbers["evenness"],
            "norm half-way": numbers["norm_halfway"],
            "sharpness half-way": numbers["sharpness_halfway"]}


PATH_FORMATS = {"mean squared step": ".6f", "±": ".6f", "exponent": ".2f", "evenness": ".2f",
                "detour": ".2f", "norm half-way": ".0%", "sharpness half-way": ".0%"}


def positions(steps: int) -> list[str]:
    """Names of the columns of a row that stands between two originals."""
    return ["original", *(f"t = {i / (steps - 1):.2g}" for i in range(steps)), "original"]
