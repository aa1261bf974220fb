"""Verdicts on planted findings, and the numbers that only claims ask for on planted images."""

from types import SimpleNamespace

import pytest
import torch
from tiny import generator, short_lab

from lab.chapters import claims
from lab.chapters.ledger import CLAIMS, CONFIRMED, CONTRADICTED, UNDECIDED, between, clear
from lab.products import fast
from lab.recipes import RECIPES
from lab.samples import blur
from lab.show import Findings
from vae_helpers import Recipe, build


def found(numbers):
    made = Findings()
    for name, value in numbers.items():
        made.keep(name, value)
    return made


def smooth_images(n=60):
    noise = torch.rand(n, 3, 32, 32, generator=generator())
    wide = blur(noise, 3.0)
    wide = (wide - wide.amin((2, 3), True)) / (wide.amax((2, 3), True) - wide.amin((2, 3), True))
    return (255 * wide).to(torch.uint8)


# ---- verdicts


def test_a_gain_counts_from_two_errors_on_either_way():
    assert [clear(x, 1) for x in (2.1, 2, 0, -2, -2.1)] == [
        CONFIRMED, UNDECIDED, UNDECIDED, UNDECIDED, CONTRADICTED]
    assert [between(x, 1, 2) for x in (1, 1.5, 2)] == [CONFIRMED, UNDECIDED, CONTRADICTED]


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: f"{claim.sentence} {claim.part}")
def test_a_row_takes_as_many_numbers_as_it_names_and_without_one_is_undecided(claim):
    assert claim.verdict(found(dict.fromkeys(claim.names, 1.0))) in (
        CONFIRMED, CONTRADICTED, UNDECIDED)
    assert claim.verdict(found(dict.fromkeys(claim.names[1:], 1.0))) == UNDECIDED


@pytest.mark.parametrize(("words", "numbers", "verdict"), [
    ("1824 < 1867", (1824, 1867, 3, 4), CONFIRMED), ("1824 < 1867", (1830, 1824, 3, 4), UNDECIDED),
    ("1824 < 1867", (1824, 1800, 3, 4), CONTRADICTED),
    ("loss is 1867", (1865.1, 0.2), CONFIRMED), ("loss is 1867", (1860, 2), UNDECIDED),
    ("loss is 1867", (1860, 0.2), CONTRADICTED),
    ("locality", (25, 1.6, 0.3, 0.2), CONFIRMED), ("locality", (2, -1.6, 0.3, 0.2), UNDECIDED),
    ("similar objects", (-0.0072, 0.0054), UNDECIDED), ("similar objects", (0.02, 0.005),
                                                        CONTRADICTED),
    ("similar objects", (-0.02, 0.005), CONFIRMED),
    ("beyond σ = 2", (0.23, 0.04), CONFIRMED), ("beyond σ = 2", (0.07, 0.04), CONTRADICTED),
    ("strong bottleneck", (240, 72, 120, 60, 444, 632), CONFIRMED),
    ("strong bottleneck", (240, 150, 120, 60, 444, 632), CONTRADICTED),
    ("slightly blurrier", (0.9, 1.03), CONFIRMED), ("slightly blurrier", (0.76, 1.12), UNDECIDED),
    ("slightly blurrier", (0.6, 1.03), CONTRADICTED),
    ("slightly blurrier", (1.1, 0.97), CONTRADICTED),
    ("noticeably smoother", (0.73, 1.1), CONFIRMED),
    ("noticeably smoother", (0.79, 0.85), UNDECIDED),
    ("noticeably smoother", (0.95, 1.05), CONTRADICTED),
    ("single-factor", (0.0137, 0.0029, -0.0024, 0.002), UNDECIDED),
    ("single-factor", (0.03, 0.0029, -0.0024, 0.002), CONFIRMED),
    ("smoother, more regular", (1.156, 1.167, 1.18, 0.01, 0.01), UNDECIDED),
    ("aligned start", (0.33,), CONFIRMED), ("aligned start", (0.213,), CONTRADICTED),
    ("at most 1.3", (1.1, 0.05, 0.9, 0.1, 1.0, 0.1, 1.2, 0.04), CONFIRMED),
    ("at most 1.3", (1.1, 0.05, 0.9, 0.1, 1.0, 0.1, 1.2, 0.06), UNDECIDED),
    ("at most 1.3", (1.1, 0.05, 0.9, 0.1, 1.5, 0.09, 1.2, 0.06), CONTRADICTED),
    ("more than twice", (4, 0.5, 2.3, 0.1), CONFIRMED),
    ("more than twice", (4, 0.5, 1.9, 0.1), UNDECIDED),
    ("more than twice", (4, 0.5, 1.7, 0.1), CONTRADICTED)], ids=str)
def test_a_sentence_is_judged_as_it_is_meant(words, numbers, verdict):
    [claim] = [claim for claim in CLAIMS if words in claim.sentence]
    assert claim.verdict(found(dict(zip(claim.names, map(float, numbers), strict=True)))) == verdict


def test_sentences_and_rows_are_counted_and_a_count_that_came_too_early_is_refused():
    lab = SimpleNamespace(found=found({"permuted.fc": 1.6, "shift.conv": 0.3}))
    assert claims.count(lab.found) == {
        "sentences": len({claim.sentence for claim in CLAIMS}), "rows": len(CLAIMS),
        CONFIRMED: 1, CONTRADICTED: 1, UNDECIDED: len(CLAIMS) - 2, "could_fail": 1}
    shown = claims.verdicts(lab)
    assert len(shown.rows) == 5 and "1 confirmed, 1 contradicted" in shown.caption
    assert len(claims.ledger(lab).rows) == len(CLAIMS) == lab.found["claims.rows"]
    lab.found.keep("sharp.faces", 0.1)
    with pytest.raises(RuntimeError, match="claims.confirmed was counted before"):
        claims.ledger(lab)


# ---- what only claims ask for


def test_maps_move_along_with_the_image_unless_the_layer_knows_places():
    model = fast(build(Recipe("small", side=32, widths=(8, 16), norm=False, latent=6))).eval()
    assert claims.maps_left_behind(model, smooth_images()) < 1e-5 < 0.01 < claims.code_moved(
        model, smooth_images())
    weights = torch.rand(16, 16, generator=generator())
    model.encoder[0].register_forward_hook(lambda layer, x, maps: maps * weights)
    assert claims.maps_left_behind(model, smooth_images()) > 0.1


def test_a_wave_is_fine_above_half_the_highest_frequency_along_either_axis():
    for steps, high in ((4, 0), (8, 0), (9, 1), (15, 1)):
        wave = torch.cos(2 * torch.pi * steps * torch.arange(32) / 32) / 2 + 0.5
        for images in (wave.view(1, 1, 32, 1), wave.view(1, 1, 1, 32)):
            assert claims.fine_grain(images.expand(2, 3, 32, 32)) == pytest.approx(high, abs=1e-5)
    noise = torch.randint(0, 256, (200, 3, 32, 32), generator=generator(), dtype=torch.uint8)
    assert claims.fine_grain(noise) == pytest.approx(1 - 17 ** 2 / 32 ** 2, abs=0.01)  # but −8 … 8


def test_a_short_run_keeps_the_numbers_of_claims(tmp_path, monkeypatch):
    for name in ("conv", "fc", "celeba64"):
        monkeypatch.setitem(RECIPES, name, RECIPES[name].but(widths=(4, 8)))
    lab = short_lab(tmp_path, 60)
    claims.keep_numbers(lab)
    named = {name for claim in CLAIMS for name in claim.names}
    assert set(lab.found) <= named and len(lab.found) == 5
