"""Task 1: its numbers where the answer is known, and its tables on trainings that never were."""

from __future__ import annotations

import copy
import math
from types import SimpleNamespace

import pytest
import torch
from tiny import put_linear
from torch import nn

from data import Splits, load
from lab import measures
from lab.chapters import cifar
from lab.chapters.scale import Scale, pca_model, scale_of
from lab.examine import against_linear, amortisation_gap, rate_and_distortion, settled
from lab.recipes import RECIPES
from lab.runs import Run
from lab.session import Lab
from lab.show import Findings
from lab.training import decode_set, encode_set
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
                "seconds": seconds, "device": "CPU"} for i, loss in enumerate(losses, 1)]
    for key, values in more.items():
        for h, value in zip(history, values, strict=True):
            h[key] = value
    identity = {"images": 200, "precision": "fp32", "seed": 0}
    return Run(recipe, build(recipe).eval(), history, None, identity, False)


# ---- numbers from models


def linear_vae(images, sigma2, latent):
    """The best linear VAE of these images, and its place in the plane."""
    spectrum = measures.spectrum(images, 2 * latent)
    best = measures.linear_optimum(spectrum, sigma2, latent)
    model = build(Recipe("linear", network="fc", widths=(), norm=False, link="identity",
                         reconstruction="sse", beta=2 * sigma2, latent=latent))
    found = measures.linear_vae_parameters(spectrum, sigma2, latent)
    return put_linear(model, found), best, spectrum


def test_a_linear_optimum_lies_where_its_closed_form_says_and_on_the_line():
    images = load("cifar10", source="standin", limit=400).images
    model, best, spectrum = linear_vae(images, 0.25, 24)
    rate, distortion = rate_and_distortion(model, images, seed=0)
    assert rate == pytest.approx(best.rate, rel=1e-4)
    assert distortion == pytest.approx(best.distortion, rel=0.02)   # less what [0, 1] cuts off
    curve = measures.rate_distortion(spectrum, torch.logspace(-1.5, 1.5, 200).tolist(), 24)
    share = against_linear({"linear": (rate, distortion)}, curve)["linear"]
    assert share == pytest.approx(1, rel=0.02)


def test_points_are_set_against_the_line_at_their_own_rate_and_not_beyond_it():
    curve = measures.RateDistortion(
        torch.tensor([3.0, 2.0, 1.0]), torch.tensor([0.0, 1.0, 3.0]),
        torch.tensor([9.0, 5.0, 1.0]), torch.tensor([0, 1, 2]))
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


def test_settled_statistics_are_the_mean_and_variance_over_the_images():
    images = grey(24, side=8)
    run = past("normed", [1.0], recipe=NORMED)
    before = copy.deepcopy(run.model.state_dict())
    model = settled(run, images)
    with torch.no_grad():
        maps = run.model.encoder[0](images.float() / 255)           # what the first layer norms
    norm = next(m for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    torch.testing.assert_close(norm.running_mean, maps.mean((0, 2, 3)))
    torch.testing.assert_close(norm.running_var, maps.var((0, 2, 3)))
    halves = [settled(run, part).encoder[1].running_mean for part in images.split(12)]
    torch.testing.assert_close(settled(run, images, batch=12).encoder[1].running_mean,
                               (halves[0] + halves[1]) / 2)
    assert not model.training
    for name, value in run.model.state_dict().items():
        assert torch.equal(value, before[name])                     # the run keeps its own


def test_a_model_without_norm_is_settled_as_it_is():
    run, images = past("fc", [1.0]), grey(10, side=32)
    for mine, other in zip(encode_set(settled(run, images), images),
                           encode_set(run.model, images), strict=True):
        assert torch.equal(mine, other)


def test_the_fully_connected_network_contains_pca():
    """relu(x) - relu(-x) = x: pairs of units carry a linear map through the hidden layers."""
    images = load("cifar10", source="standin", limit=60).images
    recipe = Recipe("fc", network="fc", widths=(20, 16), norm=False, latent=8)
    one = Scale(0.0, 0.0, 1.0, measures.spectrum(images, 64))
    linear = pca_model(recipe, one, gain=1.25)
    fc, pair = build(recipe).eval(), torch.tensor([[1.0], [-1.0]])
    k = recipe.latent

    def pairs(weight):                                              # (k, n) -> (2k, n)
        return (pair * weight[:, None]).flatten(0, 1)

    with torch.no_grad():
        for parameter in fc.parameters():
            parameter.zero_()
        fc.encoder[1].weight[:2 * k] = pairs(linear.linear_in.weight)
        join = torch.kron(torch.eye(k), torch.tensor([[1.0, -1.0]]))    # (k, 2k): x from its pair
        fc.encoder[3].weight[:, :2 * k] = pairs(join)
        fc.to_mu.weight.copy_(join)
        fc.to_mu.bias.copy_(linear.to_mu.bias)
        fc.to_logvar.bias.copy_(linear.to_logvar.bias)
        fc.decoder[0].weight.copy_(pairs(torch.eye(k)))
        fc.decoder[2].weight[:2 * k] = pairs(join)
        fc.decoder[4].weight[:, :2 * k] = linear.linear_out.weight @ join
        fc.decoder[4].bias.copy_(linear.linear_out.bias)
    for mine, other in zip(encode_set(fc, images), encode_set(linear, images), strict=True):
        torch.testing.assert_close(mine, other, atol=1e-4, rtol=1e-4)
    z = torch.randn(20, k, generator=generator())
    torch.testing.assert_close(decode_set(fc, z), decode_set(linear, z), atol=1e-5, rtol=0)


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


def test_how_soon_counts_epochs_to_the_best_of_the_other():
    quick, slow = past("improved", [9, 6, 5], 20.0), past("conv", [9, 8, 6, 7], 10.0)
    assert cifar.how_soon(quick, slow) == {"goal": 6, "epoch": 2, "seconds": 40,
                                           "their seconds": 30}
    assert cifar.how_soon(slow, quick) == {"goal": 5, "epoch": None, "seconds": None,
                                           "their seconds": 60}


@pytest.fixture
def task():
    """The chapter over runs that never were, on a scale of floor 100 and mean image 200."""
    runs = {"conv": past("conv", [150.0, 140.0]), "fc": past("fc", [170.0, 180.0], 2.0),
            "improved": past("improved", [130.0], 30.0)}
    optional = {"fc, seed 1": past("fc", [183.0]), "fc-wide": past(
        "fc-wide", [160.0, 150.0, 155.0], recipe=RECIPES["fc"].but(name="fc-wide", widths=(16,),
                                                                   patience=5),
        heldout_loss=[3.0, 1.0, 2.0])}
    labels = ("conv, permuted", "fc, permuted", "fc, seed 1", "fc, seed 2", "conv, seed 1",
              "fc-wide", "conv, 30 epochs")
    images = SimpleNamespace(images=grey(12, side=32))
    lab = SimpleNamespace(settings=SimpleNamespace(seed=0), found=Findings(), optional=None,
                          cifar=Splits(images, None, images), train=runs.get,
                          wanted={label: label for label in labels})
    lab.optional = optional.get
    spectrum = measures.spectrum(images.images, 8)
    made = cifar.Chapter(lab, SimpleNamespace(cifar=Scale(90.0, 100.0, 200.0, spectrum)), None)
    made.__dict__["pca"] = {"test_loss": 160.0, "test_reconstruction": 120.0, "test_kl": 40.0}
    made.__dict__["pca_gain"] = {"test_loss": 155.0, "test_reconstruction": 115.0, "test_kl": 40.0}
    made.more = optional
    return made


def test_the_losses_table_shows_the_epoch_whose_weights_the_model_has(task):
    rows = {row["model"]: row for row in task.losses().rows}
    assert list(rows) == ["mean image", "PCA through a sigmoid", "the same with one gain",
                          "conv", "fc", "improved", "fc-wide"]
    mean, pca, wide = rows["mean image"], rows["PCA through a sigmoid"], rows["fc-wide"]
    assert mean["above the floor"] == 100 and mean["share of the way"] == 0 and mean["KL"] == 0
    assert (pca["above the floor"], pca["distortion"], pca["share of the way"]) == (60, 20, 0.4)
    assert rows["conv"] == {
        "model": "conv", "parameters": 3072 * 8 + 8 + 2 * (8 * 128 + 128) + 128 * 8 + 8
        + 8 * 3072 + 3072, "epoch": 2, "training loss": 141, "test loss": 140,
        "above the floor": 40, "KL": 6, "distortion": 34, "share of the way": 0.6,
        "images/s": 20, "seconds": 20}
    assert (wide["epoch"], wide["test loss"], wide["seconds"]) == (2, 150, 30)  # 3 epochs trained
    found = task.lab.found
    assert (found["conv.loss"], found["conv.kl"], found["conv.test_kl"]) == (141, 5, 6)
    assert (found["fc_wide.above_floor"], found["pca_gain.above_floor"]) == (50, 55)
    assert (found["fc.behind_pca"], found["fc.behind_pca_gain"]) == (20, 25)


def test_without_the_wide_one_its_row_is_left_out(task):
    del task.more["fc-wide"]
    assert [row["model"] for row in task.losses().rows][-1] == "improved"


def test_passings_hold_every_pair_and_say_what_is_not_reached(task):
    rows = {(row["model"], row["at the best loss of"]): row for row in task.passings().rows}
    assert len(rows) == 6
    assert rows["conv", "fc"]["in epoch"] == 1 and rows["conv", "fc"]["after seconds"] == 10
    assert rows["fc", "conv"]["in epoch"] is None and rows["fc", "conv"]["note"] == "not reached"
    assert task.lab.found["improved.seconds_over_conv"] == 1.5


def test_the_spread_is_that_of_the_seeds_that_are_there(task):
    conv, fc, improved, long = task.seeds().rows
    assert (fc["seeds"], fc["lowest"], fc["highest"], fc["spread"]) == (2, 80, 83, 3)
    assert fc["note"] == "fc, seed 2: not trained here"
    assert conv["spread"] is None and conv["note"] == "conv, seed 1: not trained here"
    assert (long["model"], long["lowest"], long["note"]) == ("conv, 30 epochs", None,
                                                             "not trained here")
    assert task.lab.found["fc.spread"] == 3 and "conv.spread" not in task.lab.found
    assert "conv.long_above_floor" not in task.lab.found


def test_permuting_says_what_is_not_there(task):
    task.lab.absent = lambda *labels: labels
    assert task.permuted_bars() == ("conv, permuted", "fc, permuted")
    table = task.permuting()
    assert table.column("permuted") == [None] * 3 and table.column("cost") == [None] * 3
    assert "permuted.conv" not in task.lab.found


def test_permuting_costs_the_difference_of_training_losses(task):
    task.more |= {"conv, permuted": past("conv", [165.0]), "fc, permuted": past("fc", [181.0])}
    conv, fc, lead = task.permuting().rows
    assert (conv["in place"], conv["permuted"], conv["cost"]) == (51, 76, 25)
    assert (fc["cost"], lead["in place"], lead["permuted"], lead["cost"]) == (1, 40, 16, -24)
    found = task.lab.found
    assert (found["permuted.conv"], found["permuted.fc"]) == (25, 1)
    assert (found["permuted.lead"], found["permuted.lead_left"]) == (40, 16)


# ---- what was tried


def test_trials_show_what_is_finished_and_say_what_is_not(tmp_path, monkeypatch):
    tried = {"plain": RECIPES["fc"].but(widths=(8,)), "wider": RECIPES["fc"].but(widths=(16,))}
    monkeypatch.setattr(cifar, "TRIALS", tried)
    monkeypatch.setattr(cifar, "TRIAL_EPOCHS", 1)
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
