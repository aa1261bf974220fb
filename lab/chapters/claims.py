"""What the earlier submissions claim, as data: the findings that decide, the rule, its threshold.

The rules were fixed before the numbers were seen. A claim whose findings are not there, because
their training is not, is undecided.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lab import measures
from lab.session import Lab
from lab.show import Findings, Table
from lab.training import draw_images, encode_set, reconstruct
from vae_helpers import VAE, as_pixels, to_range

HOLDS, FAILS, IN_PART, UNDECIDED = "**holds**", "**fails**", "in part", "undecided"


@dataclass(frozen=True)
class Claim:
    """One sentence of an earlier submission and how it is decided."""

    source: str
    sentence: str
    names: tuple[str, ...]          # the findings, in the order that `holds` takes them
    rule: str                       # in words, with its threshold
    holds: Callable[..., bool | str] | None = None      # None: nothing here can decide it
    could_fail: bool = True         # False: no outcome would have refuted it

    def verdict(self, found: Findings) -> str:
        if self.holds is None or not all(name in found for name in self.names):
            return UNDECIDED
        outcome = self.holds(*(found[name] for name in self.names))
        return outcome if isinstance(outcome, str) else HOLDS if outcome else FAILS


def near(claimed: float) -> Callable[[float, float], bool]:
    """Within half a unit of its last digit and twice the seeds' spread."""
    return lambda ours, spread: abs(ours - claimed) <= 0.5 + 2 * spread


NEAR = "within 0.5, its rounding, and 2 spreads over seeds"
ORIGINAL, COMPARISON, BETA = "original", "comparison", "β-VAE"
CLAIMS = (
    Claim(ORIGINAL, "convolution beats full connection: loss 1824 < 1867",
          ("conv.loss", "fc.loss", "conv.training_spread", "fc.training_spread"),
          "lower by more than 2 spreads over seeds of either",
          lambda conv, fc, a, b: fc - conv > 2 * max(a, b)),
    Claim(ORIGINAL, "the convolutional model's loss is 1824", ("conv.loss", "conv.training_spread"),
          NEAR, near(1824)),
    Claim(ORIGINAL, "the fully connected model's loss is 1867", ("fc.loss", "fc.training_spread"),
          NEAR, near(1867)),
    Claim(ORIGINAL, "convolution exploits spatial locality",
          ("permuted.conv", "permuted.fc", "conv.training_spread"),
          "permuting costs conv more than it costs fc, by more than 2 spreads",
          lambda conv, fc, spread: conv - abs(fc) > 2 * spread),
    Claim(ORIGINAL, "full connection treats pixels near and far alike",
          ("permuted.fc", "fc.training_spread"), "permuting costs fc at most 2 spreads over three "
          "seeds; its inputs are only renamed, so the expected cost is 0",
          lambda cost, spread: abs(cost) <= 2 * spread),
    Claim(ORIGINAL, "convolution has translation invariance",
          ("shift.conv", "shift.layers"), "2 pixels move μ by less than 10 % of the distance of "
          "two images; in part if only the first layer's maps move along, to 1 %",
          lambda code, maps: True if code < 0.1 else IN_PART if maps < 0.01 else False),
    Claim(ORIGINAL, "the convolutional VAE generates spatially coherent objects", (),
          "there is no test for objects here"),
    Claim(ORIGINAL, "the fully connected VAE produces scattered, unstructured pixels",
          ("grain.fc", "grain.blurred"), "more than 1.5 × the power above half the highest "
          "frequency that real images have when they are blurred to the same sharpness",
          lambda ours, real: ours > 1.5 * real),
    Claim(ORIGINAL, "10 epochs are enough for a demonstration; quality takes 30 to 50",
          ("conv.settled_above_floor", "conv.long_settled_above_floor"),
          "30 epochs take 10 % off the test loss above the floor, both with settled statistics",
          lambda ten, thirty: thirty < 0.9 * ten),
    Claim(ORIGINAL, "blur is inherent to the VAE objective", ("sharp.small", "sharp.small_sharp"),
          "needs a decoder whose variance is learned"),
    Claim(COMPARISON, "an averaged reconstruction lets the KL be ignored",
          ("averaged.kl", "small.kl"), "averaged, the KL grows",
          lambda averaged, summed: averaged > summed),
    Claim(COMPARISON, "p1, p2, p3 end at 74.7 / 80.7, 74.9 / 78.2, 75.4 / 82.6", (),
          "not trained here"),
    Claim(COMPARISON, "an autoencoder's latent space gives noise between codes",
          ("ae.detour", "small.detour", "ae.sharpness_halfway", "small.sharpness_halfway"),
          "of one network, its detour is above the VAE's by 0.1, or it keeps less sharpness",
          lambda ae, vae, ae_sharp, vae_sharp: ae > vae + 0.1 or ae_sharp < vae_sharp),
    Claim(COMPARISON, "a smooth transition confirms that the KL term is working",
          ("ae.detour", "small.detour", "ae.evenness", "small.evenness"),
          "without KL, the same network's detour or evenness is worse by 0.1",
          lambda ae, vae, ae_even, vae_even: ae > vae + 0.1 or ae_even > vae_even + 0.1),
    Claim(ORIGINAL, "interpolation washes out fine detail half-way", ("task2.sharpness_halfway",),
          "less than 95 % of the ends' sharpness", lambda kept: kept < 0.95),
    Claim(ORIGINAL, "frame difference 0.000615 on average", ("task2.smoothness", "task2.intervals"),
          "its definition is not given; ours would be it at so many intervals"),
    Claim(ORIGINAL, "similar objects interpolate better",
          ("similar.coefficient", "similar.error"),
          "the detour within a class is lower at equal distance, by 2 standard errors",
          lambda effect, error: effect < -2 * error),
    Claim(ORIGINAL, "faces need a latent space of 256", ("faces.cost_of_128",),
          "a model with 128 was not trained; in closed form it costs so many nats"),
    Claim(ORIGINAL, "the face model has about 25M parameters", ("celeba64.parameters",),
          "its widths are not given; those of CIFAR-10 have so many"),
    Claim(ORIGINAL, "CelebA: loss 6290, KL 121",
          ("faces.claimed_above_whole", "celeba64.training_above_floor"), "its number of faces and "
          "its crop are not given; above the floor of whole photographs it is near ours"),
    Claim(ORIGINAL, "dimensions of high variance encode several attributes, not one", (),
          "attributes go together, so one dimension of gender correlates with many"),
    Claim(ORIGINAL, "low σ gives average faces", ("faces.spread.s025",),
          "at s = ¼ samples differ less than half as much as at 1; any continuous decoder does so",
          lambda share: share < 0.5, could_fail=False),
    Claim(ORIGINAL, "beyond σ = 2 there are artefacts",
          ("faces.saturated.s3", "faces.saturated.s2", "faces.saturated.real"),
          "more saturated pixels than real faces at s = 3, not at s = 2",
          lambda three, two, real: three > real >= two),
    Claim(ORIGINAL, "fine details of faces are missing", ("sharp.faces",),
          "reconstructions keep less than half the sharpness", lambda kept: kept < 0.5),
    Claim(BETA, "no run of β = 1, 4, 10 collapses",
          ("betas.predicted_1", "betas.predicted_4", "betas.predicted_10"),
          "not trained here; so many of 128 units are active at a linear optimum"),
)


def ledger(found: Findings, claims: tuple[Claim, ...] = CLAIMS) -> Table:
    """Every claim with its findings, its rule and the verdict."""
    rows = []
    for claim in claims:
        numbers = tuple(found[name] for name in claim.names if name in found)
        rows.append({"source": claim.source, "claim": claim.sentence, "this run": numbers or None,
                     "rule": claim.rule, "verdict": claim.verdict(found)})
    return Table(rows, {"this run": ",.4g"})


def count_verdicts(found: Findings, claims: tuple[Claim, ...] = CLAIMS) -> dict[str, int]:
    """How many claims hold, fail and so on, and how many were decided that could have failed."""
    verdicts = [claim.verdict(found) for claim in claims]
    tally = Counter(verdicts)
    decided = sum(claim.could_fail and verdict != UNDECIDED
                  for claim, verdict in zip(claims, verdicts, strict=True))
    return {"claims": len(claims), "hold": tally[HOLDS], "fail": tally[FAILS],
            "in_part": tally[IN_PART], "undecided": tally[UNDECIDED], "could_fail": decided}


# ---- what only a claim asks for


@torch.no_grad()
def moved_by_shift(model: VAE, images: Tensor, by: int = 2) -> tuple[float, float]:
    """How far a shift moves the codes, as a share of two images' distance; and how far the first
    layer's maps are from having moved along, as a share of their size away from the borders."""
    shifted = torch.cat([images[..., :1].expand(*images.shape[:3], by), images[..., :-by]], 3)
    mu, moved = encode_set(model, images)[0], encode_set(model, shifted)[0]
    apart = (mu - mu.roll(1, 0)).norm(dim=1).mean().clamp(min=1e-12)     # a code may be constant
    code = (mu - moved).norm(dim=1).mean() / apart
    device = next(model.parameters()).device
    layer = model.encoder[0]
    there, back = (layer(to_range(model.recipe, as_pixels(x, device))) for x in (images, shifted))
    inner = slice(2, -2)
    gap = there[..., inner, 1:-3] - back[..., inner, 2:-2]      # stride 2: 2 pixels are 1 place
    return code.item(), (gap.norm() / there[..., inner, inner].norm()).item()


def fine_grain(images: Tensor) -> float:
    """The share of the images' power above half the highest frequency, along either axis."""
    x = as_pixels(images).mean(1)
    power = torch.fft.fft2(x - x.mean((1, 2), keepdim=True)).abs().square().mean(0)
    high = torch.fft.fftfreq(x.shape[-1]).abs() > 0.25
    return (power[high[:, None] | high[None, :]].sum() / power.sum()).item()


def blurred_to(images: Tensor, sharpness: float) -> Tensor:
    """The images under the Gaussian blur that gives them this mean sharpness."""
    low, high = 0.0, 8.0                                        # pixels
    for _ in range(20):
        width = (low + high) / 2
        sharper = measures.sharpness(blur(images, width)).mean().item() > sharpness
        low, high = (width, high) if sharper else (low, width)
    return blur(images, (low + high) / 2)


def blur(images: Tensor, width: float) -> Tensor:
    """Images in [0, 1] under a Gaussian blur of this standard deviation in pixels."""
    x = as_pixels(images)
    reach = min(math.ceil(3 * width), x.shape[-1] - 1)
    at = torch.arange(-reach, reach + 1).float()
    kernel = torch.exp(-at.square() / (2 * max(width, 1e-3) ** 2))
    kernel = (kernel / kernel.sum()).expand(x.shape[1], 1, -1)
    x = F.pad(x, (reach,) * 4, mode="reflect")
    x = F.conv2d(x, kernel[:, :, None, :], groups=x.shape[1])
    return F.conv2d(x, kernel[:, :, :, None], groups=x.shape[1])


def sharpness_kept(model: VAE, images: Tensor) -> float:
    """Sharpness of the reconstructions as a share of the images' own."""
    kept = measures.sharpness(reconstruct(model, images)).mean()
    return (kept / measures.sharpness(images).mean()).item()


class Chapter:
    """The ledger of claims, over all findings of the chapters before it."""

    def __init__(self, lab: Lab, theory, cifar, faces):
        self.lab, self.theory, self.cifar, self.faces = lab, theory, cifar, faces

    def single(self) -> Table:
        """Numbers that nothing but a claim asks for."""
        lab, found, conv, fc = self.lab, self.lab.found, self.cifar.conv, self.cifar.fc
        images, faces = lab.cifar.test.images[:1000], lab.faces.test.images[:1000]
        code, maps = moved_by_shift(conv.model, images)
        found.add("shift.conv", code, "of two images' distance", conv, "2 pixels")
        found.add("shift.layers", maps, "of the maps' size", conv, "first layer, 2 pixels")
        samples = draw_images(fc.model, 1000, lab.settings.seed)
        alike = blurred_to(images, measures.sharpness(samples).mean().item())
        found.add("grain.fc", fine_grain(samples), "of the power", fc)
        found.add("grain.blurred", fine_grain(alike), "of the power")
        runs = {"small": self.theory.demo["VAE"], "small_sharp": self.theory.demo["β = 0.1"]}
        for name, run in runs.items():
            found.add(f"sharp.{name}", sharpness_kept(run.model, images), "of the images'", run)
        run = self.faces.celeba
        found.add("sharp.faces", sharpness_kept(run.model, faces), "of the faces'", run)
        words = {"shift.conv": "2 pixels move μ, as a share of the distance of two images",
                 "shift.layers": "the first layer's maps fail to move along, as a share",
                 "grain.fc": "power above half the highest frequency: samples of fc",
                 "grain.blurred": "the same, real images blurred to equal sharpness",
                 "sharp.small": "sharpness kept by reconstructions, β = 1",
                 "sharp.small_sharp": "the same, β = 0.1",
                 "sharp.faces": "the same, faces"}
        return Table([{"number": text, "share": found[name]} for name, text in words.items()],
                     {"share": ".2%"})

    def ledger(self) -> Table:
        """All claims with findings, rules and verdicts."""
        return ledger(self.lab.found)

    def verdicts(self) -> Table:
        """How many claims hold, fail, and were decided by a test that could fail."""
        counts = count_verdicts(self.lab.found)
        for name, n in counts.items():
            self.lab.found.add(f"claims.{name}", n, "claims")
        return Table([{"claims": counts["claims"], "hold": counts["hold"], "fail": counts["fail"],
                       "in part": counts["in_part"], "undecided": counts["undecided"],
                       "decided by a test that could fail": counts["could_fail"]}])
