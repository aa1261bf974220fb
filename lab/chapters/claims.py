"""The ledger of claims, and the numbers that nothing but a claim asks for."""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor

from lab import samples as sampled
from lab.chapters.ledger import AFTER, CLAIMS, FAILS, HOLDS, IN_PART, UNDECIDED, Claim
from lab.samples import blurred_to
from lab.session import Lab
from lab.show import Findings, Table
from lab.training import draw_images, encode_set, reconstruct
from vae_helpers import VAE, as_pixels, to_range


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
    decided = sum(claim.could_fail and AFTER not in claim.rule and verdict != UNDECIDED
                  for claim, verdict in zip(claims, verdicts, strict=True))
    return {"claims": len(claims), "hold": tally[HOLDS], "fail": tally[FAILS],
            "in_part": tally[IN_PART], "undecided": tally[UNDECIDED], "could_fail": decided}


def by_verdict(found: Findings, claims: tuple[Claim, ...] = CLAIMS) -> list[dict]:
    """A row for each source: its claims in one cell for each verdict."""
    heads = {HOLDS: "holds", FAILS: "fails", IN_PART: "holds in part", UNDECIDED: "undecided"}
    rows = []
    for source in dict.fromkeys(claim.source for claim in claims):
        cells: dict[str, list[str]] = {head: [] for head in heads.values()}
        for claim in claims:
            if claim.source == source:
                cells[heads[claim.verdict(found)]].append(claim.sentence)
        rows.append({"source": source} | {head: " · ".join(cell) for head, cell in cells.items()})
    return rows


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


def sharpness_kept(model: VAE, images: Tensor) -> float:
    """Sharpness of the reconstructions as a share of the images' own."""
    kept = sampled.sharpness(reconstruct(model, images)).mean()
    return (kept / sampled.sharpness(images).mean()).item()


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
        alike = blurred_to(images, sampled.sharpness(samples).mean().item())
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
        """All claims with findings, rules and verdicts; as many of each as were counted before."""
        found = self.lab.found
        for name, n in count_verdicts(found).items():
            if found.get(f"claims.{name}", n) != n:
                raise RuntimeError(f"claims.{name} was counted before all numbers were there: "
                                   f"{found[f'claims.{name}']:g} then, {n} now; show the verdicts "
                                   "after the chapters that they need")
        return ledger(found)

    def verdicts(self) -> Table:
        """Every claim by its source and its verdict, and in the last row how many they are."""
        self.single()
        counts = count_verdicts(self.lab.found)
        for name, n in counts.items():
            self.lab.found.add(f"claims.{name}", n, "claims")
        rows = by_verdict(self.lab.found)
        last = {"source": "**in all**"} | {head: counts[key] for head, key in zip(
            list(rows[0])[1:], ("hold", "fail", "in_part", "undecided"), strict=True)}
        return Table([*rows, last])
