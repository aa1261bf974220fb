"""The verdicts on what was claimed, and the numbers that nothing but a claim asks for."""

import torch
from torch import Tensor

from lab.chapters.ledger import CLAIMS, UNDECIDED, VERDICTS, Claim
from lab.notebook import Lab
from lab.samples import blurred_to, sharpness
from lab.show import Findings, Table
from lab.training import draw_images, encode_set, reconstruct
from vae_helpers import VAE, as_pixels, to_range

FORMATS = {"this run": ",.4g"}


def verdicts(lab: Lab) -> Table:
    """How many sentences and rows there are, how many of each verdict, and the rows that matter."""
    counts = count(lab.found)
    for name, n in counts.items():
        lab.found.keep(f"claims.{name}", n, "sentences" if name == "sentences" else "rows")
    caption = (f"{counts['sentences']} sentences in {counts['rows']} rows: "
               + ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS)
               + ". Five of them:")
    return Table([row_of(claim, lab.found) for claim in CLAIMS if claim.matters], FORMATS, caption)


def ledger(lab: Lab) -> Table:
    """All rows with findings, rule and verdict; as many of each verdict as were counted before."""
    for name, n in count(lab.found).items():
        if lab.found.get(f"claims.{name}", n) != n:
            raise RuntimeError(f"claims.{name} was counted before all numbers were there: "
                               f"{lab.found[f'claims.{name}']:g} then, {n} now; show the verdicts "
                               "after the chapters that they need")
    return Table([row_of(claim, lab.found) for claim in CLAIMS], FORMATS,
                 fold=f"All {len(CLAIMS)} rows")


def row_of(claim: Claim, found: Findings) -> dict:
    """A row with its findings, in the order in which its rule names them."""
    numbers = tuple(found[name] for name in claim.names if name in found)
    sentence = f"{claim.sentence} (*{claim.part}*)" if claim.part else claim.sentence
    return {"source": claim.source, "claim": sentence, "this run": numbers or None,
            "rule": claim.rule, "verdict": claim.verdict(found)}


def count(found: Findings) -> dict[str, int]:
    """Sentences and rows, rows of each verdict, and those decided that could have failed."""
    made = [claim.verdict(found) for claim in CLAIMS]
    return {"sentences": len({claim.sentence for claim in CLAIMS}), "rows": len(CLAIMS),
            **{verdict: made.count(verdict) for verdict in VERDICTS},
            "could_fail": sum(claim.could_fail and verdict != UNDECIDED
                              for claim, verdict in zip(CLAIMS, made, strict=True))}


# ---- what only a claim asks for


def keep_numbers(lab: Lab) -> None:
    """What a shift of the image moves, the grain of samples of fc, beside that of real images that
    are as blurred, and the sharpness that reconstructions of faces keep."""
    conv, fc, celeba, keep = lab.run("conv"), lab.run("fc"), lab.run("celeba64"), lab.found.keep
    images, faces = lab.cifar.test.images[:1000], lab.faces.test.images[:1000]
    keep("shift.conv", code_moved(conv.model, images), "of two images' distance", conv)
    keep("shift.layers", maps_left_behind(conv.model, images), "of the maps' size", conv)
    samples = draw_images(fc.model, 1000, lab.settings.seed)
    keep("grain.fc", fine_grain(samples), "of the power", fc)
    blurred = blurred_to(images, sharpness(samples).mean().item())
    keep("grain.blurred", fine_grain(blurred), "of the power")
    kept = sharpness(reconstruct(celeba.model, faces)).mean() / sharpness(faces).mean()
    keep("sharp.faces", kept, "of the faces'", celeba)


def shifted(images: Tensor) -> Tensor:
    """The images moved to the right by 2 pixels, their left column repeated."""
    return torch.cat([images[..., [0, 0]], images[..., :-2]], 3)


def code_moved(model: VAE, images: Tensor) -> float:
    """How far a shift by 2 pixels moves the codes, as a share of two images' distance."""
    mu, moved = (encode_set(model, x)[0] for x in (images, shifted(images)))
    apart = (mu - mu.roll(1, 0)).norm(dim=1).mean().clamp(min=1e-12)     # a code may be constant
    return ((mu - moved).norm(dim=1).mean() / apart).item()


@torch.no_grad()
def maps_left_behind(model: VAE, images: Tensor) -> float:
    """How far the first layer's maps are from moving along with 2 pixels, as a share of their size
    away from the borders; its stride is 2, so that they should move by one place."""
    layer, device = model.encoder[0], next(model.parameters()).device
    there, back = (layer(to_range(model.recipe, as_pixels(x, device)))[..., 2:-2, :]
                   for x in (images, shifted(images)))
    gap = there[..., 1:-3] - back[..., 2:-2]
    return (gap.norm() / there[..., 2:-2].norm()).item()


def fine_grain(images: Tensor) -> float:
    """The share of the images' power above half the highest frequency, along either axis."""
    x = as_pixels(images).mean(1)
    power = torch.fft.fft2(x - x.mean((1, 2), keepdim=True)).abs().square().mean(0)
    high = torch.fft.fftfreq(x.shape[-1]).abs() > 0.25
    return (power[high[:, None] | high[None, :]].sum() / power.sum()).item()
