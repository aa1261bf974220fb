"""Task 1: its numbers where the answer is known, and its tables on trainings that never were."""

from __future__ import annotations

import math
from types import SimpleNamespace

import matplotlib.pyplot as plt
import pytest
import torch
from tiny import put_linear

from data import Splits, load
from lab import linear
from lab.chapters import cifar
from lab.chapters.scale import Scale, scale_of
from lab.latent import against_linear, amortisation_gap, rate_and_distortion
from lab.recipes import RECIPES
from lab.runs import Run
from lab.session import Lab
from lab.show import Findings
from lab.training import encode_set
from vae_helpers import Recipe, build

pytestmark = pytest.mark.usefixtures("one_thread")
LINEAR = Recipe("plain", network="fc", widths=(), norm=False, link="identity",
                reconstruction="sse", side=4, latent=3)
NORMED = Recipe("normed", side=8, widths=(4, 8), latent=3)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def grey(n=40, side=4, seed=0):
    return torch.randint(0, 256, (n, 3, side, side), dtype=torch.uint8, generator=generator(seed))


def orthonormal(recipe):
    """x_hat = B z and mu = B^T x with orthonormal columns B: codes and images keep distances."""
    model = build(recipe)
    basis = torch.linalg.qr(torch.randn(48, 3, generator=generator())).Q
    with torch.no_grad():
        model.to_mu.weight.copy_(basis.T)
        model.decoder[0].weight.copy_(basis)
        for layer in (model.to_mu, model.to_logvar, model.decoder[0]):
            layer.bias.zero_()
        model.to_logvar.weight.zero_()
    return model.eval()


def past(name, losses, seconds=10.0, recipe=None, **more):
    """A run with these test losses, never trained."""
    recipe = recipe or RECIPES["fc"].but(name=name, widths=(8,))
    history = [{"epoch": i, "loss": loss + 1.0, "reconstruction": loss - 4.0, "kl": 5.0,
                "test_loss": loss, "test_reconstruction": loss - 6.0, "test_kl": 6.0,
                "seconds": seconds, "start_seconds": 0.0, "device": "CPU"}
               for i, loss in enumerate(losses, 1)]
    for key, values in more.items():
        for h, value in zip(history, values, strict=True):
            h[key] = value
    identity = {"images": 200, "precision": "fp32", "seed": 0}
    return Run(recipe, build(recipe).eval(), history, None, identity, False)


# ---- numbers from models


def linear_vae(images, sigma2, latent):
    """The best linear VAE of these images, and its place in the plane."""
    spectrum = linear.spectrum(images, 2 * latent)
    best = linear.linear_optimum(spectrum, sigma2, latent)
    model = build(Recipe("linear", network="fc", widths=(), norm=False, link="identity",
                         reconstruction="sse", beta=2 * sigma2, latent=latent))
    found = linear.linear_vae_parameters(spectrum, sigma2, latent)
    return put_linear(model, found), best, spectrum


def test_a_linear_optimum_lies_where_its_closed_form_says_and_on_the_line():
    images = load("cifar10", source="standin", limit=400).images
    model, best, spectrum = linear_vae(images, 0.25, 24)
    rate, distortion = rate_and_distortion(model, images, seed=0)
    assert rate == pytest.approx(best.rate, rel=1e-4)
    assert distortion == pytest.approx(best.distortion, rel=0.02)   # less what [0, 1] cuts off
    curve = linear.rate_distortion(spectrum, torch.logspace(-1.5, 1.5, 200).tolist(), 24)
    share = against_linear({"linear": (rate, distortion)}, curve)["linear"]
    assert share == pytest.approx(1, rel=0.02)


def test_points_are_set_against_the_line_at_their_own_rate_and_not_beyond_it():
    curve = linear.RateDistortion(torch.tensor([0.0, 1.0, 3.0]), torch.tensor([9.0, 5.0, 1.0]))
    points = {"on": (1.0, 5.0), "half": (2.0, 1.5), "over": (0.5, 14.0), "beyond": (3.5, 1.0)}
    shares = against_linear(points, curve)
    assert shares.pop("beyond") is None
    assert shares == pytest.approx({"on": 1, "half": 0.5, "over": 2})


def test_amortisation_gap_is_that_of_a_linear_decoder():
    """|x - Bz|² + KL is least at mu = 2/3 B^T x, variance 1/3; B^T x loses 3/2 |B^T x / 3|²."""
    model, images = orthonormal(LINEAR), grey(64)
    with torch.no_grad():
        model.to_logvar.bias.fill_(-math.log(3))
    code = encode_set(model, images)[0]
    gap, error = amortisation_gap(model, images, seed=0, steps=300)
    assert gap == pytest.approx((code.square().sum(1) / 6).mean().item(), rel=0.02) and error < gap
    with torch.no_grad():
        model.to_mu.weight.mul_(2 / 3)
    assert amortisation_gap(model, images, seed=0)[0] == pytest.approx(0, abs=0.02)


def test_amortisation_gap_takes_the_sigma_that_the_model_has_learned():
    """|x - Bz|² / 2s² + KL is least at mu = B^T x / (1 + s²); learned, s begins at 1."""
    model, images = orthonormal(LINEAR.but(reconstruction="gaussian")), grey(64)
    with torch.no_grad():
        model.to_logvar.bias.fill_(-math.log(2))
        code = encode_set(model, images)[0]
    gap, _ = amortisation_gap(model, images, seed=0, steps=300)
    assert gap == pytest.approx((code.square().sum(1) / 4).mean().item(), rel=0.03)


def test_a_decoder_without_texture_has_no_neighbour_correlation():
    model = build(RECIPES["fc"].but(widths=(8,))).eval()
    with torch.no_grad():
        model.decoder[-2].weight.zero_()
        model.decoder[-2].bias.zero_()                              # every pixel is a half
    images = grey(30, side=32)
    judge = SimpleNamespace(ends={"real": {"distance": 1.0}, "mean": {"distance": 9.0}},
                            measure=lambda x: {"distance": float(len(x))})
    real, mean, flat = cifar.quality(judge, {"flat": model}, images, images, seed=0)
    assert (real["distance"], mean["distance"], flat["distance"]) == (1, 9, 30)
    assert flat["neighbour correlation"] is None and flat["sharpness, thousandths"] == 0
    assert real["neighbour correlation"] == pytest.approx(0, abs=0.02)  # white noise


# ---- numbers from trainings


@pytest.fixture
def task():
    """The chapter over runs that never were, on a scale of floor 100 and mean image 200."""
    runs = {"conv": past("conv", [150.0, 140.0]), "fc": past("fc", [170.0, 180.0], 2.0),
            "improved": past("improved", [130.0], 30.0), "sprint": past(
                "sprint", [139.0], 5.0, recipe=RECIPES["fc"].but(
                    name="sprint", widths=(8,), start="weights", start_images=10))}
    optional = {"fc, seed 1": past("fc", [183.0]), "fc-wide": past(
        "fc-wide", [160.0, 150.0, 155.0], recipe=RECIPES["fc"].but(name="fc-wide", widths=(16,),
                                                                   patience=5),
        heldout_loss=[3.0, 1.0, 2.0])}
    images = SimpleNamespace(images=grey(12, side=32))
    lab = SimpleNamespace(settings=SimpleNamespace(seed=0), found=Findings(),
                          cifar=Splits(images, None, images), optional=optional.get,
                          train=lambda name, log=True: runs.get(name), DEFAULT=tuple(runs),
                          figure=lambda drawn, *_: plt.close(drawn),
                          wanted=("fc, seed 1", "fc, seed 2", "conv, seed 1", "conv, 30 epochs"))
    spectrum = linear.spectrum(images.images, 128)
    made = cifar.Chapter(lab, SimpleNamespace(cifar=Scale(90.0, 100.0, 200.0, spectrum)), None)
    made.__dict__["pca"] = {"test_loss": 160.0, "test_reconstruction": 120.0, "test_kl": 40.0}
    made.__dict__["pca_gain"] = {"test_loss": 155.0, "test_reconstruction": 115.0, "test_kl": 40.0}
    made.more = optional
    return made


def test_the_losses_table_shows_the_epoch_whose_weights_the_model_has(task):
    rows = {row["model"]: row for row in task.losses().rows}
    assert list(rows)[:3] == ["mean image", "PCA through a sigmoid", "the same with one gain"]
    mean, pca = rows["mean image"], rows["PCA through a sigmoid"]
    wide = rows["fc, one layer of 768"]
    assert (mean["above the floor"], mean["KL"], pca["above the floor"]) == (100, 0, 60)
    conv = rows["conv"]
    assert conv.pop("against linear") > 1               # it was never trained
    assert conv == {
        "model": "conv", "parameters": 3072 * 8 + 8 + 2 * (8 * 128 + 128) + 128 * 8 + 8
        + 8 * 3072 + 3072, "epochs": 2, "test loss": 140, "above the floor": 40,
        "other seeds": None, "KL": 6, "seconds": 20}
    assert (wide["epochs"], wide["test loss"], wide["seconds"]) == (2, 150, 30)  # 3 were trained
    found = task.lab.found
    assert (found["conv.loss"], found["conv.kl"], found["conv.test_kl"]) == (141, 5, 6)
    assert (found["fc_wide.above_floor"], found["pca_gain.above_floor"]) == (50, 55)
    assert found["conv.less_fc"] == 40


def test_seeds_stand_beside_the_first_and_give_a_spread(task):
    rows = {row["model"]: row for row in task.losses().rows}
    assert (rows["fc"]["above the floor"], rows["fc"]["other seeds"]) == (80, (83,))
    found = task.lab.found
    assert found["fc.spread"] == 3 and "conv.spread" not in found


def test_what_is_not_trained_says_so_in_its_row(task):
    rows = task.losses().rows
    absent = [row for row in rows if row["model"].endswith(": not trained here")]
    assert "fc, one cycle of 1e-3: not trained here" in {row["model"] for row in absent}
    assert all(value is None for row in absent for head, value in row.items() if head != "model")


def test_the_start_counts_among_the_seconds_that_a_training_takes(task):
    sprint = task.lab.train("sprint")
    sprint.history[0]["start_seconds"] = 1.0
    assert task.conv.seconds == 20 and sprint.seconds == 6
    task.by_seconds()
    assert task.lab.found["sprint.sooner"] == pytest.approx(20 / 6)


def test_permuting_says_what_is_not_there(task):
    task.lab.absent = lambda *labels: labels
    assert task.permuted_bars() == ("conv, permuted", "fc, permuted", "fc-pca, permuted")
    assert "permuted.conv" not in task.lab.found


def test_permuting_costs_the_difference_of_training_losses(task):
    task.more |= {"conv, permuted": past("conv", [165.0]), "fc, permuted": past("fc", [181.0])}
    task.permuted_bars()
    found = task.lab.found
    assert (found["permuted.conv"], found["permuted.fc"]) == (25, 1)
    assert (found["permuted.lead"], found["permuted.lead_left"]) == (40, 16)


# ---- what was tried


def test_trials_show_what_is_finished_and_say_what_is_not(tmp_path, monkeypatch):
    tried = {name: RECIPES["fc"].but(widths=(width,), trial=True, epochs=1)
             for name, width in (("plain", 8), ("wider", 16))}
    monkeypatch.setattr(cifar, "TRIALS", tried)
    lab = Lab({"TRAIN_LIMIT": 50, "DATA": "standin", "RUNS": str(tmp_path), "DEVICE": "cpu",
               "PRECISION": "fp32"})
    job = cifar.trial_jobs(lab)["wider"]
    assert (len(job.splits.train), len(job.splits.heldout), job.epochs) == (40, 10, 1)
    last = job.train().last
    made = SimpleNamespace(lab=lab)
    plain, wider = cifar.Chapter.trials(made).rows
    assert plain["held-out loss"] is None and plain["note"] == "not trained here"
    assert wider["held-out loss"] == last["heldout_loss"] and wider["note"] == ""
    assert wider["against the first"] is None                       # there is no first to compare
    cifar.trial_jobs(lab)["plain"].train()
    plain, wider = cifar.Chapter.trials(made).rows
    assert plain["against the first"] == 0
    assert wider["against the first"] == wider["held-out loss"] - plain["held-out loss"]


def test_pca_with_the_gain_that_training_images_choose_is_no_worse_on_them():
    splits = Splits(*(load("cifar10", split, source="standin", limit=300)
                      for split in ("train", "train", "test")))
    made, images = scale_of(splits, top=160), splits.train.images
    gain = cifar.best_gain(RECIPES["fc"], made, images, seed=0)
    plain, gained = (cifar.pca_terms(RECIPES["fc"], made, images, 0, g) for g in (1.0, gain))
    assert gained["test_loss"] <= plain["test_loss"] < made.test_mean_image + made.floor
    assert gained["test_kl"] == pytest.approx(plain["test_kl"])     # only the decoder's logits
