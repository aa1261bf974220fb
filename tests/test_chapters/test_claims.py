"""Claims as data: every verdict on planted findings, and the numbers that only a claim asks for."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from lab.chapters.claims import (
    Chapter,
    by_verdict,
    count_verdicts,
    fine_grain,
    ledger,
    moved_by_shift,
    sharpness_kept,
)
from lab.chapters.ledger import CLAIMS, FAILS, HOLDS, IN_PART, UNDECIDED, Claim, near
from lab.products import fast
from lab.recipes import RECIPES
from lab.show import Findings
from vae_helpers import Recipe, build


def found(**numbers):
    findings = Findings()
    for name, value in numbers.items():
        findings.add(name.replace("__", "."), value)
    return findings


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def smooth_images(n=40, side=32):
    """Floats in [0, 1] that change slowly from pixel to pixel, as bytes."""
    coarse = torch.rand(n, 3, side // 4, side // 4, generator=generator())
    return (F.interpolate(coarse, side, mode="bicubic").clamp(0, 1) * 255).to(torch.uint8)


# ---- the ledger


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.sentence)
def test_claim_names_its_findings_and_its_rule_takes_as_many(claim):
    assert isinstance(claim.names, tuple) and all(isinstance(name, str) for name in claim.names)
    assert claim.source and claim.sentence and claim.rule and "\n" not in claim.rule
    if claim.holds is not None:
        assert claim.names and claim.holds(*[1.0] * len(claim.names)) in (True, False, IN_PART)


def test_claims_are_distinct():
    assert len({(claim.source, claim.sentence) for claim in CLAIMS}) == len(CLAIMS)


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.sentence)
def test_claim_without_all_its_findings_is_undecided(claim):
    assert claim.verdict(found()) == UNDECIDED
    for left_out in claim.names:
        some = found(**{name.replace(".", "__"): 1.0 for name in claim.names if name != left_out})
        assert claim.verdict(some) == UNDECIDED


def test_claim_without_a_rule_is_undecided_whatever_was_found():
    claim = Claim("a", "b", ("x",), "nothing decides")
    assert claim.verdict(found(x=1.0)) == UNDECIDED


@pytest.mark.parametrize(("numbers", "verdict"), [((0.05, 0.5), HOLDS), ((0.3, 0.001), IN_PART),
                                                  ((0.3, 0.5), FAILS)])
def test_a_rule_may_hold_fail_or_hold_in_part(numbers, verdict):
    [claim] = [c for c in CLAIMS if "translation invariance" in c.sentence]
    assert claim.verdict(found(shift__conv=numbers[0], shift__layers=numbers[1])) == verdict


@pytest.mark.parametrize(("words", "numbers", "verdict"), [
    ("1824 < 1867", (1824.0, 1867.0, 5.0, 3.0), HOLDS),
    ("1824 < 1867", (1824.0, 1833.0, 5.0, 3.0), FAILS),         # within two spreads
    ("1824 < 1867", (1867.0, 1824.0, 5.0, 3.0), FAILS),
    ("loss is 1824", (1824.4, 0.0), HOLDS), ("loss is 1824", (1823.4, 0.0), FAILS),
    ("loss is 1824", (1830.0, 3.0), HOLDS), ("loss is 1824", (1831.0, 3.0), FAILS),
    ("spatial locality", (25.0, 1.6, 5.0), HOLDS), ("spatial locality", (11.0, -1.6, 5.0), FAILS),
    ("10 epochs are", (150.0, 130.0), HOLDS), ("10 epochs are", (150.0, 140.0), FAILS),
    ("scattered", (0.04, 0.02), HOLDS), ("scattered", (0.01, 0.02), FAILS),
    ("similar objects", (-0.05, 0.02), HOLDS), ("similar objects", (-0.03, 0.02), FAILS),
    ("beyond σ = 2", (0.3, 0.1, 0.2), HOLDS), ("beyond σ = 2", (0.3, 0.3, 0.2), FAILS)], ids=str)
def test_verdicts_on_planted_findings(words, numbers, verdict):
    [claim] = [claim for claim in CLAIMS if words in claim.sentence]
    names = [name.replace(".", "__") for name in claim.names]
    assert claim.verdict(found(**dict(zip(names, numbers, strict=True)))) == verdict


@pytest.mark.parametrize(("ours", "spread", "holds"), [
    (1824.5, 0, True), (1823.5, 0, True), (1824.6, 0, False), (1834.0, 5, True),
    (1834.6, 5, False), (1813.4, 5, False)])
def test_near_is_half_a_unit_and_two_spreads(ours, spread, holds):
    assert near(1824)(ours, spread) is holds


PLANTED = (
    Claim("a", "small", ("x",), "x below 1", lambda x: x < 1),
    Claim("a", "large", ("x",), "x above 1", lambda x: x > 1),
    Claim("b", "half", ("x", "y"), "in part if x is y", lambda x, y: IN_PART if x == y else False),
    Claim("b", "sure", ("x",), "a symmetry", lambda x: True, could_fail=False),
    Claim("c", "absent", ("z",), "z above 0", lambda z: z > 0),
    Claim("c", "no test", ("x",), "nothing here decides it"))


def test_verdicts_stand_by_source_and_every_claim_in_one_cell():
    a, b, c = by_verdict(found(x=0.5, y=0.5), PLANTED)
    assert a == {"source": "a", "holds": "small", "fails": "large", "holds in part": "",
                 "undecided": ""}
    assert (b["holds"], b["holds in part"]) == ("sure", "half")
    assert c["undecided"] == "absent · no test"


def test_verdicts_counted_before_a_number_was_there_are_refused():
    late = found(claims__undecided=3)
    chapter = Chapter(SimpleNamespace(found=late), None, None, None)
    with pytest.raises(RuntimeError, match="claims.undecided was counted before"):
        chapter.ledger()


def test_ledger_shows_findings_rule_and_verdict_of_every_claim():
    table = ledger(found(x=0.5, y=0.5), PLANTED)
    assert table.column("claim") == [claim.sentence for claim in PLANTED]
    assert table.column("rule") == [claim.rule for claim in PLANTED]
    assert table.column("verdict") == [HOLDS, FAILS, IN_PART, HOLDS, UNDECIDED, UNDECIDED]
    assert table.column("this run") == [(0.5,), (0.5,), (0.5, 0.5), (0.5,), None, (0.5,)]
    assert table._repr_markdown_().count("\n") == 1 + len(PLANTED)


def test_verdicts_are_counted_and_so_are_the_tests_that_could_fail():
    assert count_verdicts(found(x=0.5, y=0.5), PLANTED) == {
        "claims": 6, "hold": 2, "fail": 1, "in_part": 1, "undecided": 2, "could_fail": 3}
    assert count_verdicts(found(), PLANTED)["undecided"] == 6
    counts = count_verdicts(found())
    assert counts["claims"] == counts["undecided"] == len(CLAIMS) and counts["could_fail"] == 0


# ---- what a shift moves


@pytest.fixture
def model():
    return fast(build(Recipe("small", side=32, widths=(8, 16), norm=False, latent=6))).eval()


def test_a_convolutions_maps_move_along_with_the_image(model):
    code, maps = moved_by_shift(model, smooth_images())
    assert maps < 1e-5 < 0.01 < code


def test_maps_of_a_layer_that_knows_places_do_not_move_along(model):
    class Placed(torch.nn.Module):
        """The layer, its maps weighed by a random number a place."""

        def __init__(self, layer):
            super().__init__()
            self.layer, self.weights = layer, torch.rand(16, 16, generator=generator())

        def forward(self, x):
            return self.layer(x) * self.weights

    model.encoder[0] = Placed(model.encoder[0])
    assert moved_by_shift(model, smooth_images())[1] > 0.1


def test_constant_code_is_moved_by_nothing(model):
    with torch.no_grad():
        model.to_mu.weight.zero_()
    assert moved_by_shift(model, smooth_images())[0] == 0


# ---- grain and sharpness


def test_white_noise_has_the_share_of_its_frequencies_and_smooth_images_hardly_any():
    noise = torch.randint(0, 256, (200, 3, 32, 32), generator=generator(), dtype=torch.uint8)
    inner = 17 ** 2 / 32 ** 2                   # frequencies -8 ... 8 of 32 along both axes
    assert fine_grain(noise) == pytest.approx(1 - inner, abs=0.01)
    assert fine_grain(smooth_images()) < 0.05


@pytest.mark.parametrize(("steps", "high"), [(4, False), (8, False), (9, True), (15, True)])
@pytest.mark.parametrize("axis", [2, 3])
def test_a_wave_is_fine_above_half_the_highest_frequency(steps, high, axis):
    wave = torch.cos(2 * torch.pi * steps * torch.arange(32) / 32) / 2 + 0.5
    images = wave.view([-1 if i == axis else 1 for i in range(4)]).expand(2, 3, 32, 32)
    assert fine_grain(images) == pytest.approx(float(high), abs=1e-5)


def test_sharpness_kept_is_1_for_a_model_that_gives_its_images_back_and_0_for_grey():
    recipe = RECIPES["small"].but(network="fc", widths=(), side=4, latent=48, link="identity",
                                  reconstruction="sse")
    model, images = build(recipe).eval(), smooth_images(side=16)[..., :4, :4].contiguous()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        assert sharpness_kept(model, images) == 0
        model.to_mu.weight.copy_(torch.eye(48))
        model.decoder[0].weight.copy_(torch.eye(48))
    assert sharpness_kept(model, images) == pytest.approx(1, rel=1e-4)
