"""What the earlier submissions claim, and four predictions of this notebook, as data.

A row is a sentence, or a part of one that is judged by itself. It is confirmed or contradicted in
the sense in which it is plainly meant, and undecided where the numbers cannot tell or are not
there. An error is that of seeds where trainings are compared, of images where images are. Most
rules were written or changed when a number of an earlier training was known; one that git shows to
be older than all of its numbers ends on FIRST.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from lab.show import Findings

VERDICTS = CONFIRMED, CONTRADICTED, UNDECIDED = "confirmed", "contradicted", "undecided"


@dataclass(frozen=True)
class Claim:
    """A row: what is said, the findings that decide it, and how."""

    source: str
    sentence: str
    names: tuple[str, ...]          # of findings, in the order in which `judge` takes them
    rule: str                       # what `judge` does, in words
    judge: Callable[..., str] | None = None     # None: nothing here can decide it
    part: str = ""                  # what of the sentence is judged, where it is not the whole
    could_fail: bool = True         # False: no outcome would have refuted it
    matters: bool = False           # whether the page shows it

    def verdict(self, found: Findings) -> str:
        if self.judge is None or not all(name in found for name in self.names):
            return UNDECIDED
        return self.judge(*(found[name] for name in self.names))


# ---- how rows are judged


def said(true: bool) -> str:
    return CONFIRMED if true else CONTRADICTED


def clear(gain: float, error: float) -> str:
    """Confirmed if a gain is above two errors, contradicted if it is below minus two."""
    return UNDECIDED if abs(gain) <= 2 * error else said(gain > 0)


def between(value: float, low: float, high: float) -> str:
    """Confirmed up to `low`, contradicted from `high` on."""
    return CONFIRMED if value <= low else CONTRADICTED if value >= high else UNDECIDED


def ends_at(claimed: float, other: float) -> Callable[[float, float], str]:
    """Whether a loss is the claimed one: to a tenth of what lies between it and the other
    network's; contradicted only if it is farther off by two standard deviations over seeds."""
    near = abs(claimed - other) / 10
    return lambda loss, sd: between(abs(loss - claimed), near, near + 2 * sd)


def slightly_below(share: float, again: float) -> str:
    """Whether a share is below 1, by less than 20 %; `again` is another seed of what it is of."""
    error = 2 * abs(1 - again)
    if 0.8 < share < 1 - error:
        return CONFIRMED
    return UNDECIDED if 0.8 - error <= share <= 1 + error else CONTRADICTED


def far_below(share: float, again: float) -> str:
    """Whether a share is below 1 by more than 20 %."""
    error = 2 * abs(1 - again)
    return between(share, min(0.8, 1 - error), 0.8 + error)


def of_all(*verdicts: str) -> str:
    """Contradicted if one is, confirmed only if every one is."""
    return next((each for each in (CONTRADICTED, UNDECIDED) if each in verdicts), CONFIRMED)


ORIGINAL, COMPARISON, BETA, HERE = "original", "comparison", "β study", "predicted here"
FIRST = " (a rule older than its numbers)"
NEAR = "to a tenth of what lies between both networks' losses, give or take 2 sd over seeds"
MARGIN = ", by 2 standard errors over seeds"
DEMONSTRATION = "10 epochs are enough for a demonstration; quality takes 30 to 50"
INVARIANCE = "convolution has translation invariance"
BLUR = "blur is inherent to the VAE objective"
AVERAGED = "an averaged reconstruction lets the KL be ignored: posterior collapse"
ENDS = "p1, p2, p3 end at 74.7 / 80.7, 74.9 / 78.2, 75.4 / 82.6"
UNSTABLE = "a rate of 1e-3 is unstable"
STABLE = "convolution is remarkably stable over the settings"
STOPPED = "early stopping prevented overfitting"
LINEAR = "a linear model predicts the KL at 128×128, and that all 128 dimensions are used"
COLLAPSE = "CIFAR-10 collapses at β = 110.7 and not before"


def loss_of_setting(i: int, network: str, claimed: float, other: float) -> Claim:
    return Claim(COMPARISON, ENDS, (f"sweep.p{i}_{network}.loss", f"sweep.sd.loss_{network}"),
                 "held-out loss: " + NEAR, ends_at(claimed, other),
                 f"p{i}, {network}: {claimed}")


def of_factors(sentence: str, betas: tuple[int, ...], sign: int, limit: float) -> Claim:
    """Whether all scores of known factors are below (-1) or above (1) so many turned axes'."""
    names = [f"factors.{score}_{beta}" for beta in betas for score in ("mig", "dci")]
    return Claim(HERE, sentence, tuple(name + end for name in names for end in ("", "_error")),
                 "each, by 2 errors over turns; contradicted if one is not, by as much" + FIRST,
                 lambda *found: of_all(*(clear(sign * (ratio - limit), error) for ratio, error in
                                         zip(found[::2], found[1::2], strict=True))))


CLAIMS = (
    Claim(ORIGINAL, "convolution beats full connection: loss 1824 < 1867",
          ("conv.loss", "fc.loss", "conv.training_sd", "fc.training_sd"), "lower" + MARGIN,
          lambda conv, fc, a, b: clear(fc - conv, math.hypot(a, b)), matters=True),
    Claim(ORIGINAL, "the convolutional model's loss is 1824", ("conv.loss", "conv.training_sd"),
          NEAR, ends_at(1824, 1867)),
    Claim(ORIGINAL, "the fully connected model's loss is 1867", ("fc.loss", "fc.training_sd"),
          NEAR, ends_at(1867, 1824)),
    Claim(ORIGINAL, "convolution exploits spatial locality",
          ("permuted.conv", "permuted.fc", "conv.training_sd", "fc.training_sd"),
          "permuting costs conv more than fc" + MARGIN,
          lambda conv, fc, a, b: clear(conv - abs(fc), math.hypot(a, a, b, b))),
    Claim(ORIGINAL, "full connection treats pixels near and far alike", ("permuted.fc",),
          "true by algebra: its inputs are only renamed, so what permuting costs it is chance",
          lambda cost: CONFIRMED, could_fail=False),
    Claim(ORIGINAL, INVARIANCE, ("shift.layers",), "2 pixels move the first layer's maps along, to "
          "1 %: true by algebra", lambda off: said(off < 0.01), "of its maps", could_fail=False),
    Claim(ORIGINAL, INVARIANCE, ("shift.conv",), "2 pixels move μ by less than 10 % of the "
          "distance of two images", lambda moved: said(moved < 0.1), "of the code"),
    Claim(ORIGINAL, "the convolutional VAE generates spatially coherent objects", (),
          "there is no test for objects here"),
    Claim(ORIGINAL, "the fully connected VAE produces scattered, unstructured pixels",
          ("grain.fc", "grain.blurred"), "more than 1.5 × the power above half the highest "
          "frequency that real images have when blurred to the same sharpness; contradicted if not "
          "more", lambda ours, real: between(-ours / real, -1.5, -1)),
    Claim(ORIGINAL, DEMONSTRATION, ("conv.above_floor", "conv.long_above_floor"),
          "30 epochs take less than 10 % off the test loss above the floor",
          lambda ten, thirty: said(thirty > 0.9 * ten), "10 are enough for a demonstration"),
    Claim(ORIGINAL, DEMONSTRATION, ("conv.above_floor", "conv.long_above_floor"),
          "30 epochs take at least 10 % off the test loss above the floor",
          lambda ten, thirty: said(thirty <= 0.9 * ten), "quality takes 30 to 50"),
    Claim(ORIGINAL, "interpolation washes out fine detail half-way", ("task2.sharpness_halfway",),
          "less than 95 % of the ends' sharpness", lambda kept: said(kept < 0.95)),
    Claim(ORIGINAL, "frame difference 0.000615 on average", ("task2.smoothness", "task2.intervals"),
          "its definition is not given; ours would be it at so many intervals"),
    Claim(ORIGINAL, "similar objects interpolate better",
          ("similar.coefficient", "similar.error"), "one class has the smaller detour at equal "
          "distance of the codes, by 2 standard errors over pairs",
          lambda effect, error: clear(-effect, error)),
    Claim(ORIGINAL, "the face model has about 25M parameters", ("celeba64.parameters",),
          "its widths are not given; those of CIFAR-10 have so many"),
    Claim(ORIGINAL, "CelebA: loss 6290, KL 121",
          ("faces.claimed_above_whole", "celeba64.training_above_floor"), "its number of faces and "
          "its crop are not given; above the floor of whole photographs it is near ours"),
    Claim(ORIGINAL, "dimensions of high variance encode several attributes, not one", (),
          "attributes go together, so one dimension of gender correlates with many"),
    Claim(ORIGINAL, "low σ gives average faces", ("faces.spread.s025",), "at s = ¼ samples differ "
          "less than half as much as at 1, as with any continuous decoder",
          lambda share: said(share < 0.5), could_fail=False),
    Claim(ORIGINAL, "beyond σ = 2 there are artefacts",
          ("faces.saturated.s3", "faces.saturated.real"),
          "more than twice as many saturated pixels at s = 3 as in real faces",
          lambda three, real: said(three > 2 * real)),
    Claim(ORIGINAL, "fine details of faces are missing", ("sharp.faces",),
          "reconstructions keep less than half the sharpness", lambda kept: said(kept < 0.5)),
    Claim(ORIGINAL, "faces need a latent space of 256", ("faces.d128_costs", "faces.d128_error"),
          "128 dimensions cost more than 5 nats of test loss" + MARGIN,
          lambda cost, error: clear(cost - 5, error)),
    Claim(ORIGINAL, BLUR, ("blur.px_kept_2", "blur.px_kept_learned"), "learning σ takes less than "
          "a quarter off the equivalent blur; contradicted if more than half",
          lambda half, learned: between(half - learned, half / 4, half / 2),
          "of reconstructions", matters=True),
    Claim(ORIGINAL, BLUR, ("blur.px_2", "blur.px_learned"), "the same",
          lambda half, learned: between(half - learned, half / 4, half / 2), "of samples"),
    Claim(COMPARISON, AVERAGED, ("averaged.kl",), "averaged, the KL is below 0.01 nats",
          lambda nats: said(nats < 0.01), "posterior collapse"),
    Claim(COMPARISON, AVERAGED, ("averaged.kl", "small.kl"), "averaged, the KL is above the sum's",
          lambda averaged, summed: said(averaged > summed), "the KL is ignored", matters=True),
    Claim(COMPARISON, "an autoencoder's latent space gives noise between codes",
          ("ae.detour", "small.detour", "ae.sharpness_halfway", "small.sharpness_halfway"),
          "of one network, its detour is above the VAE's by 0.1, or it keeps less sharpness",
          lambda ae, vae, ae_sharp, vae_sharp: said(ae > vae + 0.1 or ae_sharp < vae_sharp)),
    Claim(COMPARISON, "a smooth transition confirms that the KL term is working",
          ("ae.detour", "small.detour", "ae.evenness", "small.evenness"),
          "without KL, the same network's detour or evenness is worse by 0.1",
          lambda ae, vae, ae_even, vae_even: said(ae > vae + 0.1 or ae_even > vae_even + 0.1)),
    loss_of_setting(1, "conv", 74.7, 80.7), loss_of_setting(1, "fc", 80.7, 74.7),
    loss_of_setting(2, "conv", 74.9, 78.2), loss_of_setting(2, "fc", 78.2, 74.9),
    loss_of_setting(3, "conv", 75.4, 82.6), loss_of_setting(3, "fc", 82.6, 75.4),
    Claim(COMPARISON, "the convolutional VAE has the lower loss in every setting",
          ("sweep.margin.test_loss", "sweep.error.test_loss"), "test loss" + MARGIN, clear),
    Claim(COMPARISON, "the convolutional VAE stops earlier",
          ("sweep.margin.epochs", "sweep.error.epochs"), "in all three settings" + MARGIN, clear),
    Claim(COMPARISON, "p2 gives the most coherent fully connected images",
          ("sweep.margin.coherent", "sweep.error.coherent"), "the lowest KID of samples, by 2 "
          "standard errors over seeds and of KID itself", clear),
    Claim(COMPARISON, "p3 improves the fully connected VAE most",
          ("sweep.margin.improved", "sweep.error.improved"), "the lowest test loss of the three"
          + MARGIN + "; its own table has it last", clear),
    Claim(COMPARISON, UNSTABLE, ("sweep.margin.unsteady_conv", "sweep.error.unsteady_conv"),
          "after epoch 5 p1's steps of held-out loss spread more than p2's" + MARGIN, clear,
          "conv"),
    Claim(COMPARISON, UNSTABLE, ("sweep.margin.unsteady_fc", "sweep.error.unsteady_fc"),
          "the same", clear, "fc"),
    Claim(COMPARISON, STABLE, ("sweep.margin.stable_test_loss", "sweep.error.stable_test_loss"),
          "test loss differs less over settings than fc's" + MARGIN, clear, "in test loss"),
    Claim(COMPARISON, STABLE, ("sweep.margin.stable_kid", "sweep.error.stable_kid"),
          "the same of KID", clear, "in samples"),
    Claim(COMPARISON, STOPPED, ("sweep.p2_conv_on.rise",), "unstopped for 40 epochs, p2's test "
          "loss rises by more than 0.5, what early stopping counts as a gain" + FIRST,
          lambda rise: said(rise > 0.5), "conv", matters=True),
    Claim(COMPARISON, STOPPED, ("sweep.p1_fc_on.rise",), "the same of p1",
          lambda rise: said(rise > 0.5), "fc"),
    Claim(COMPARISON, "a smooth transition confirms a well-structured latent space",
          ("sweep.path.doubling", "sweep.path_untrained.doubling"), "the exponent is at least 1.9, "
          "and that of the same network untrained is not",
          lambda ours, untrained: said(ours >= 1.9 > untrained)),
    Claim(COMPARISON, "CelebA at 32×32 converges in about 22 epochs", ("sweep.celeba32.epochs",),
          "to the patience of 5 epochs; else undecided, as there are fewer faces here",
          lambda epochs: CONFIRMED if abs(epochs - 22) <= 5 else UNDECIDED),
    Claim(BETA, "the KL stabilises after a few epochs", ("betas.kl_drift",),
          "the test KL of β = 1 changes by less than 5 % from epoch 5 to 10; contradicted from "
          "10 % on", lambda drift: between(drift, 0.05, 0.1)),
    Claim(BETA, "losses decrease and then flatten, showing convergence", ("betas.last_gain",),
          "the tenth epoch takes less than 1 % off the test loss", lambda gain: said(gain < 0.01)),
    Claim(BETA, "β = 10 is a strong bottleneck",
          ("betas.rate_1", "betas.rate_10", "betas.dof_1", "betas.dof_10", "betas.sse_1",
           "betas.sse_10"), "after equal epochs at most half of β = 1's KL, two thirds of its "
          "degrees of freedom, and a squared error above 1.25 times its",
          lambda kl, kl_10, dof, dof_10, sse, sse_10: said(
              kl_10 <= kl / 2 and dof_10 <= 2 / 3 * dof and sse_10 > 1.25 * sse)),
    Claim(BETA, "β = 4: reconstructions slightly blurrier",
          ("betas.halved_sharper_4", "betas.halved_sharper_1_seed1"), "at half size less sharp "
          "than β = 1's by 2 errors over seeds, but not by 20 %; contradicted only from 2 errors "
          "beyond these limits", slightly_below),
    Claim(BETA, "β = 10: reconstructions noticeably smoother",
          ("betas.halved_sharper_10", "betas.halved_sharper_1_seed1"), "at half size less sharp "
          "than β = 1's by 20 % and by 2 errors over seeds; contradicted from 2 errors above 80 % "
          "on", far_below),
    Claim(BETA, "higher β degrades reconstruction",
          ("betas.sse_10", "betas.sse_1", "betas.sse_1_seed1"),
          "after equal epochs β = 10 has the larger squared error, by 2 errors over seeds",
          lambda ten, one, again: clear(ten - one, abs(one - again))),
    Claim(BETA, "higher β gives smoother, more regular transitions",
          ("betas.detour_1", "betas.detour_10", "betas.detour_1_seed1", "betas.detour_error_1",
           "betas.detour_error_10"),
          "after equal epochs β = 10 has the smaller detour, by 2 errors over seeds and pairs",
          lambda one, ten, again, *errors: clear(one - ten, math.hypot(one - again, *errors))),
    Claim(BETA, "smooth morphing shows that the latent space is continuous",
          ("betas.doubling_1_long",), "twice the steps cut the mean squared step by 2 to the power "
          "of at least 1.9, as with any network", lambda exponent: said(exponent > 1.9),
          could_fail=False),
    Claim(BETA, "with β, dimensions show more single-factor effects",
          ("betas.one_factor_excess_10", "betas.one_factor_excess_1",
           "betas.one_factor_excess_1_seed1", "betas.one_factor_error"), "one attribute's share of "
          "what a dimension tells, less that on turned axes, is larger for β = 10 than for 1, by 2 "
          "errors over seeds and turns",
          lambda ten, one, again, turns: clear(ten - one, math.hypot(one - again, turns))),
    Claim(BETA, "a row over β shows one dimension", ("match.same_1_10", "match.turned_1_10"),
          "those of one index in β = 1 and 10 correlate more than matched ones on turned axes",
          lambda same, turned: said(same > turned), matters=True),
    Claim(BETA, "no run of β = 1, 4, 10 collapses: no KL → 0 with flat traversals",
          ("betas.least_rate", "betas.least_moved"), "every KL is above 1 nat, and every strongest "
          "dimension moves a pixel by a grey level",
          lambda rate, moved: said(rate > 1 and moved > 1)),
    Claim(BETA, "128 dimensions are a balance: more are not used", ("faces.d128_costs",),
          "tested at 64×64 alone, where 128 instead of 256 cost so many nats"),
    Claim(HERE, LINEAR, ("betas.rate_gap",), "after equal epochs every KL is within 15 % of it",
          lambda gap: said(gap <= 0.15), "the KL"),
    Claim(HERE, LINEAR, ("betas.least_active",), "128 dimensions carry more than 0.01 nats",
          lambda active: said(active == 128), "all 128 dimensions"),
    Claim(HERE, COLLAPSE, ("collapse.kl_11", "collapse.kl_20"),
          "from a random start the KL is below 0.01 nats at 1.1 and 2 times it",
          lambda a, b: said(max(a, b) < 0.01), "at β = 110.7"),
    Claim(HERE, COLLAPSE, ("collapse.kl_05", "collapse.kl_09"),
          "from a random start the KL is above 0.01 nats at 0.5 and 0.9 of it",
          lambda a, b: said(min(a, b) > 0.01), "not before"),
    Claim(HERE, "from an aligned start it keeps 0.34 ± 0.02 nats at half of that β",
          ("collapse.kl_05_aligned",), "the KL is within these limits" + FIRST,
          lambda nats: said(abs(nats - 0.34) <= 0.02)),
    of_factors("up to β = 4, MIG and DCI are at most 1.3 times those of turned axes", (1, 4), -1,
               1.3),
    of_factors("at β = 16, MIG and DCI are more than twice those of turned axes", (16,), 1, 2.0),
)
