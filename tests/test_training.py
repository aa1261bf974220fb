"""Training: one objective, knobs that act, early stopping, devices, codes and paths."""

import math
from pathlib import Path

import pytest
import torch
from tiny import IMAGES, TINY, generator, run

import lab.training
import vae_helpers
from lab import measures
from lab.recipes import RECIPES
from lab.training import (
    autocast,
    best_epoch,
    choose_device,
    choose_precision,
    decode_set,
    draw_images,
    draw_prior,
    encode_set,
    evaluate,
    fresh,
    is_finished,
    learning_rate,
    lerp,
    make_optimizer,
    measured_precision,
    reconstruct,
    seconds_per_image,
    slerp,
    stop_early,
    summary,
    train_epoch,
    usable,
)
from lab.training import generator as keyed
from vae_helpers import Recipe, build, elbo_terms, to_pixels

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")
FLAT = TINY.but(norm=False)                 # no BatchNorm: images do not depend on each other
IMPROVED = RECIPES["improved"].but(side=8, widths=(8, 16), latent=6)


def random_bytes(n, side=8, seed=0):
    return torch.randint(0, 256, (n, 3, side, side), generator=generator(seed), dtype=torch.uint8)


# ---- one step, one epoch


class Recorder(torch.optim.SGD):
    """Plain gradient descent, whose steps show the gradient, and the rates that it was given."""

    def __init__(self, model, lr=1.0):
        super().__init__([{"params": list(model.parameters()), "share": 1.0}], lr=lr)
        self.rates = []

    def step(self):
        self.rates.append(self.param_groups[0]["lr"])
        super().step()


def weights_of(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def one_epoch(recipe, epoch=1, epochs=1, seed=0):
    """The record of an epoch of gradient descent, how far it moved the weights, its rates."""
    model = build(recipe)
    before, optimizer = weights_of(model), Recorder(model)
    record = train_epoch(model, optimizer, IMAGES.images, seed=seed, epoch=epoch, epochs=epochs,
                         precision="fp32", tick=lambda text: None, folder=Path("nowhere"))
    return record, weights_of(model) - before, optimizer.rates


def gradient(recipe):
    """That of the loss over all images in one batch."""
    recipe = recipe.but(batch=len(IMAGES), lr=1e-4)
    return -one_epoch(recipe)[1].double() / 1e-4


def batches_and_noise(size):
    """What the first epoch of seed 0 draws: the batches of indices, and their noise."""
    order = torch.randperm(35, generator=keyed("cpu", 0, 1, "order"))
    noise = keyed("cpu", 0, 1, "noise")
    return [(index, torch.randn(len(index), 3, generator=noise)) for index in order.split(size)]


@pytest.mark.parametrize("recipe", [TINY, FLAT.but(reconstruction="sse", beta=3)],
                         ids=["bce", "sse"])
def test_an_epochs_record_is_the_mean_over_images_also_with_a_ragged_last_batch(recipe):
    standing = recipe.but(lr=1e-30)                     # 10 + 10 + 10 + 5 images, weights stay
    record, moved, rates = one_epoch(standing)
    assert moved.abs().max() < 1e-20 and len(rates) == 4
    model = build(standing).train()
    losses = [elbo_terms(model, IMAGES.images[index] / 255, eps).loss(recipe.beta).detach()
              for index, eps in batches_and_noise(10)]
    mean = torch.cat(losses).mean().item()
    assert record["loss"] == pytest.approx(mean, rel=1e-6)
    assert record["loss"] == pytest.approx(record["reconstruction"] + recipe.beta * record["kl"])
    assert abs(sum(part.mean() for part in losses) / 4 - mean) > 1e-4 * mean    # of the batches


def test_gradient_is_that_of_the_mean_loss():
    model, [(order, noise)] = build(FLAT), batches_and_noise(35)
    for i, eps in zip(order, noise, strict=True):       # one image at a time: gradients add up
        (elbo_terms(model, IMAGES.images[i: i + 1] / 255, eps[None]).loss(1.0) / 35).backward()
    known = torch.cat([p.grad.flatten() for p in model.parameters()]).double()
    assert (gradient(FLAT) - known).norm() < 2e-3 * known.norm()


def test_gradient_is_linear_in_beta():
    without, once, thrice = (gradient(FLAT.but(beta=beta)) for beta in (0, 1, 3))
    kl = once - without
    assert kl.norm() > 0.1
    assert (thrice - without - 3 * kl).norm() < 0.02 * kl.norm()


def test_clip_bounds_the_length_of_a_step_and_keeps_its_direction():
    free = gradient(FLAT)
    for clip in (0.1, 0.3):
        clipped = gradient(FLAT.but(clip=clip))
        assert clipped.norm().item() == pytest.approx(clip, rel=0.02)
        assert free.norm() > 10 * clip
        assert torch.nn.functional.cosine_similarity(clipped, free, dim=0) > 0.999
    assert (gradient(FLAT.but(clip=1e6)) - free).norm() < 1e-6 * free.norm()


@pytest.mark.parametrize(("batch", "steps"), [(1, 35), (10, 4), (35, 1), (1000, 1)])
def test_batch_sets_the_number_of_steps(batch, steps):
    assert len(one_epoch(FLAT.but(batch=batch, lr=1e-6))[2]) == steps


@pytest.mark.parametrize("lr", [1e-3, 2e-3])
def test_adams_first_step_has_the_length_of_the_learning_rate(tmp_path, lr):
    recipe = FLAT.but(reconstruction="sse", lr=lr, batch=35, epochs=1)
    moved = run(tmp_path, recipe).model.to_mu.bias - build(recipe).to_mu.bias
    assert moved.abs().tolist() == pytest.approx([lr] * 3, rel=1e-3)


def test_linear_path_learns_at_its_share_of_the_rate():
    model = build(TINY.but(start="linear", linear_lr=0.1, lr=1e-3))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    train_epoch(model, make_optimizer(model), IMAGES.images[:10], seed=0, epoch=1, epochs=1,
                precision="fp32", tick=lambda text: None, folder=Path("nowhere"))
    longest = {name: (p - before[name]).abs().max().item() for name, p in model.named_parameters()}
    for name in ("linear_in.weight", "linear_out.weight", "linear_out.bias"):
        assert longest[name] == pytest.approx(1e-4, rel=1e-2)
    for name in ("to_mu.weight", "to_logvar.bias"):
        assert longest[name] == pytest.approx(1e-3, rel=1e-2)


def test_order_and_noise_differ_between_epochs_and_seeds_and_repeat():
    def losses():
        keys = (dict(epoch=1), dict(epoch=2), dict(epoch=1, seed=1))
        return [one_epoch(TINY.but(lr=1e-30), epochs=9, **key)[0]["loss"] for key in keys]

    assert len(set(losses())) == 3 and losses() == losses()


def test_every_image_is_seen_once_an_epoch(monkeypatch):
    seen, original = [], lab.training.batch_of

    def batch_of(recipe, images, index, device):
        seen.append(index)
        return original(recipe, images, index, device)

    monkeypatch.setattr(lab.training, "batch_of", batch_of)
    one_epoch(TINY)
    assert sorted(torch.cat(seen).tolist()) == list(range(35)) != torch.cat(seen).tolist()


def test_the_step_that_is_shown_is_the_step_that_is_trained_with(monkeypatch):
    steps, original = [], vae_helpers.training_step

    def training_step(model, optimizer, x, eps, bf16, together):
        steps.append((bf16, together))
        return original(model, optimizer, x, eps, bf16, together)

    monkeypatch.setattr(lab.training, "training_step", training_step)
    one_epoch(TINY)
    assert steps == [(False, None)] * 4


# ---- schedules and stopping


def test_one_cycle_rises_to_its_peak_at_three_tenths_and_falls_to_nothing():
    recipe = TINY.but(schedule="onecycle", lr=0.02)
    rates = [learning_rate(recipe, i / 1000) for i in range(1001)]
    assert rates[0] == pytest.approx(0.04 * 0.02) and rates[1000] == pytest.approx(0, abs=1e-12)
    assert max(rates) == rates[300] == pytest.approx(0.02)
    assert rates[150] == pytest.approx(0.52 * 0.02)             # half-way up
    assert rates[650] == pytest.approx(0.01)                    # half-way down
    assert all(a < b for a, b in zip(rates[:300], rates[1:301], strict=True))
    assert all(a > b for a, b in zip(rates[300:-1], rates[301:], strict=True))
    assert {learning_rate(TINY, done / 10) for done in range(11)} == {TINY.lr}


def test_each_step_uses_the_scheduled_rate():
    recipe = TINY.but(schedule="onecycle", lr=1e-6)
    rates = [rate for epoch in (1, 2, 3) for rate in one_epoch(recipe, epoch=epoch, epochs=3)[2]]
    assert rates == [learning_rate(recipe, step / 12) for step in range(12)]
    assert one_epoch(TINY.but(lr=1e-6))[2] == [1e-6] * 4


@pytest.mark.parametrize(("losses", "stops"), [
    ([100, 99, 98, 97, 96, 95, 94, 93], None),                  # still falling
    ([100, 101, 102, 103, 104], None),                          # four epochs without gain
    ([100, 101, 102, 103, 104, 105], 6),                        # five
    ([100, 99.6, 99.7, 99.8, 99.6, 99.5], 6),                   # half a nat or less is no gain
    ([100, 99.6, 99.4, 99.9, 99.9, 99.9, 99.9], None),          # small falls that add up are one
    ([100, 99.6, 99.4, 99.9, 99.9, 99.9, 99.9, 99.9], 8),
    ([100, 101, 101, 101, 101, 99, 101, 101, 101, 101], None),  # a gain starts the count anew
    ([100, float("nan"), 100, 100, 100, 100], 6)])
def test_early_stopping_waits_five_epochs_for_half_a_nat(losses, stops):
    recipe = RECIPES["p1-conv"]
    assert (recipe.patience, recipe.min_delta) == (5, 0.5)
    found = next((n for n in range(1, len(losses) + 1) if stop_early(recipe, losses[:n])), None)
    assert found == stops
    history = [{"heldout_loss": loss} for loss in losses]
    assert is_finished(recipe, history, 40) == (stops == len(losses))
    assert is_finished(recipe, history, len(losses)) and not is_finished(recipe, [], 40)


def test_no_patience_never_stops():
    assert not stop_early(TINY, [1.0, 2.0, 3.0] * 10)
    assert not is_finished(TINY, [{"loss": 1.0}] * 30, 40)


def test_best_epoch_is_the_first_of_the_lowest_heldout_loss():
    history = [{"epoch": i, "heldout_loss": loss} for i, loss in enumerate([3.0, 1.0, 2.0, 1.0])]
    assert best_epoch(history)["epoch"] == 1


# ---- the mean over images, whatever the batches


def test_evaluation_covers_every_image_once_whatever_the_batch():
    model, images = build(TINY.but(noise=False)).train(), random_bytes(23)
    known = evaluate(model, images, batch=23).reconstruction
    assert model.training
    for size in (1, 7, 500):
        found = evaluate(model, images, batch=size).reconstruction
        torch.testing.assert_close(found, known)


def test_summary_of_ragged_batches_is_the_mean_over_images():
    recipe, images = FLAT.but(beta=3), random_bytes(23)
    model, noise, losses = build(recipe), keyed("cpu", 0, "evaluation"), []
    for start, end in ((0, 10), (10, 20), (20, 23)):
        x, eps = images[start:end] / 255, torch.randn(end - start, 3, generator=noise)
        losses += elbo_terms(model, x, eps).loss(3.0).tolist()
    found = summary(recipe, evaluate(model, images, batch=10), "test_")
    assert found["test_loss"] == pytest.approx(sum(losses) / 23, rel=1e-6)
    both = found["test_reconstruction"] + 3 * found["test_kl"]
    assert found["test_loss"] == pytest.approx(both)
    uneven = [sum(part) / len(part) for part in (losses[:10], losses[10:20], losses[20:])]
    assert abs(sum(uneven) / 3 - sum(losses) / 23) > 1e-3       # or this test would show nothing


def test_evaluation_uses_the_running_statistics_of_batchnorm():
    model, images = build(TINY.but(noise=False)), random_bytes(20)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    alone = torch.cat([evaluate(model, image[None]).reconstruction for image in images])
    torch.testing.assert_close(alone, evaluate(model, images).reconstruction)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_loss_is_in_single_precision_under_bf16():
    model = build(FLAT)
    x, eps = random_bytes(32) / 255, torch.randn(32, 3, generator=generator(1))
    single = elbo_terms(model, x, eps)
    with autocast(CPU, "bf16"):
        assert model.encode(x)[0].dtype == torch.bfloat16
        half = elbo_terms(model, x, eps)
    assert half.reconstruction.dtype == half.kl.dtype == torch.float32
    torch.testing.assert_close(half.loss(1.0), single.loss(1.0), rtol=2e-3, atol=0)


# ---- the linear optimum


def gaussian_images(variances, n=2000):
    """Floats (n, 3, 2, 2) around 0 whose variance along random axes is as given."""
    axes = torch.linalg.qr(torch.randn(12, 12, generator=generator(1))).Q[: len(variances)]
    spread = torch.tensor(variances).sqrt()
    return (torch.randn(n, len(variances), generator=generator()) * spread @ axes).view(n, 3, 2, 2)


def train_on(x, model, steps=1000):
    """Trains a model on floats, in batches drawn with replacement."""
    recipe, optimizer, draw = model.recipe, make_optimizer(model), generator(3)
    for step in range(steps):
        index = torch.randint(len(x), (recipe.batch,), generator=draw)
        eps = torch.randn(recipe.batch, recipe.latent, generator=draw)
        optimizer.param_groups[0]["lr"] = learning_rate(recipe, step / steps)
        vae_helpers.training_step(model, optimizer, x[index], eps)


@pytest.mark.parametrize(("changes", "active"), [
    (dict(reconstruction="sse"), 3), (dict(reconstruction="sse", beta=3), 2),
    (dict(reconstruction="gaussian", sigma=0.5), 4)], ids=["sse", "beta-3", "gaussian"])
def test_trained_linear_vae_reaches_the_linear_optimum(changes, active):
    """Loss, rate, distortion, active units and posterior variances, from the covariance alone."""
    recipe = Recipe("linear", network="fc", widths=(), side=2, latent=4, link="identity",
                    batch=1000, lr=0.05, schedule="onecycle", **changes)
    x, model = gaussian_images([8.0, 2.0, 1.0, 0.3, 0.1]), build(recipe)
    optimum = measures.linear_optimum(measures.spectrum(x), recipe.sigma2, latent=4)
    assert optimum.active == active
    train_on(x, model)
    with torch.no_grad():
        noise = torch.randn(200, len(x), 4, generator=generator(4))
        terms = [elbo_terms(model, x, eps) for eps in noise]
        variances = model.encode(x)[1].exp().mean(0).sort().values
    a, beta = recipe.sse_weight, recipe.beta
    constant = 12 * (math.log(0.5) + 0.5 * math.log(2 * math.pi)) if recipe.sigma else 0.0
    error = torch.cat([t.reconstruction for t in terms]).mean().item()
    distortion, rate = (error - constant) / a, terms[0].kl.sum(1).mean().item()
    assert a * distortion + beta * rate == pytest.approx(optimum.loss(a, beta), rel=3e-3)
    assert rate == pytest.approx(optimum.rate, rel=0.01)
    assert distortion == pytest.approx(optimum.distortion, rel=0.01)
    assert measures.active_units(terms[0].kl) == active
    known = sorted(optimum.variances.tolist())
    assert variances[:active].tolist() == pytest.approx(known, rel=0.05)


# ---- device, precision, time


@pytest.fixture
def machine(monkeypatch):
    """A machine with a CPU only, whatever this one has."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


def test_device_is_chosen_in_one_order(machine, monkeypatch):
    assert choose_device().type == "cpu"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device().type == "mps" and choose_device("cpu").type == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device().type == "cuda" and str(choose_device("cuda:1")) == "cuda:1"


@pytest.mark.parametrize("name", ["cuda", "mps", "gpu", ""])
def test_device_that_is_not_there_is_refused(machine, name):
    with pytest.raises(ValueError, match=repr(name)):
        choose_device(name)


@pytest.mark.parametrize(("there", "chosen"), [(True, "bf16"), (False, "fp32")])
def test_precision_follows_the_hardware_unless_asked_for(monkeypatch, there, chosen):
    for test in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, test, lambda: there, raising=False)
    monkeypatch.setattr(torch.cuda, "get_device_capability",
                        lambda device: (8, 0) if there else (7, 5))
    for device in (CPU, torch.device("cuda")):
        assert choose_precision("auto", device) == usable("bf16", device) == chosen
    assert choose_precision("fp32", CPU) == "fp32" and choose_precision("bf16", CPU) == "bf16"
    assert choose_precision("auto", torch.device("mps")) == "fp32"
    with pytest.raises(ValueError, match="'fp8'"):
        choose_precision("fp8", CPU)


@pytest.mark.parametrize("faster", ["bf16", "fp32"])
def test_measured_precision_is_the_one_whose_steps_took_less_time(monkeypatch, faster):
    monkeypatch.setattr(lab.training, "seconds_per_image",
                        lambda recipe, device, precision: 1.0 + (precision != faster))
    assert measured_precision(CPU) == faster


@pytest.mark.parametrize("batch", [1, 3, 4, 10, 128])
def test_time_is_estimated_for_batches_of_any_size(batch):
    assert 0 < seconds_per_image(TINY.but(batch=batch, norm=False), CPU, "fp32") < 60


@pytest.mark.timing
def test_seconds_per_image_are_those_of_a_training(tmp_path):
    """Up to what a busy machine does to milliseconds; seconds a batch would be further off."""
    estimate = seconds_per_image(TINY, CPU, "fp32")
    measured = min(h["seconds"] for h in run(tmp_path).history) / len(IMAGES)
    assert 1 / 9 < estimate / measured < 9


# ---- codes, samples and paths


def draws(*shape, seed=0):
    return torch.randn(shape, generator=generator(seed))


@pytest.mark.parametrize("link", ["sigmoid", "tanh", "identity"])
def test_reconstruction_is_the_decoded_posterior_mean_in_unit_pixels(link):
    model = build(RECIPES["p1-conv"].but(side=8, latent=4, widths=(8, 8), link=link)).eval()
    images = random_bytes(7)
    with torch.no_grad():
        mu, logvar = model.encode(images / 255)
        known = to_pixels(model.recipe, model.decode(mu)).clamp(0, 1)
    torch.testing.assert_close(reconstruct(model, images), known)
    torch.testing.assert_close(encode_set(model, images, batch=3), (mu, logvar))
    torch.testing.assert_close(decode_set(model, mu, batch=3), known)


def test_prior_draws_are_standard_normal_and_repeat():
    z = draw_prior(500, 128, seed=1)
    assert z.shape == (500, 128) and abs(z.mean()) < 0.02 and abs(z.std() - 1) < 0.02
    assert torch.equal(z, draw_prior(500, 128, seed=1))
    assert not torch.equal(z, draw_prior(500, 128, seed=2))


def test_drawn_images_are_decoded_draws_of_the_prior_or_of_a_density():
    class Density:
        def sample(self, n, generator):
            return 3 + torch.randn(n, 3, generator=generator, dtype=torch.float64)

    model = fresh(FLAT, CPU).eval()
    assert torch.equal(draw_images(model, 5, 1), decode_set(model, draw_prior(5, 3, 1)))
    z = Density().sample(5, keyed("cpu", 1, "density")).float()
    assert torch.equal(draw_images(model, 5, 1, Density()), decode_set(model, z))


@pytest.mark.parametrize("path", [lerp, slerp])
def test_path_goes_from_one_end_to_the_other(path):
    a, b = draws(5, 16), 2 * draws(5, 16, seed=1)
    steps = path(a, b, 7)
    assert steps.shape == (5, 7, 16)
    torch.testing.assert_close(steps[:, 0], a), torch.testing.assert_close(steps[:, -1], b)
    torch.testing.assert_close(path(a[0], b[0], 7), steps[0])
    torch.testing.assert_close(path(b, a, 7).flip(1), steps)


def test_straight_path_has_equal_steps():
    a, b = draws(16), draws(16, seed=1)
    torch.testing.assert_close(lerp(a, b, 5).diff(dim=0), ((b - a) / 4).expand(4, 16))


def test_great_circle_keeps_the_norm_and_turns_evenly_in_the_plane_of_its_ends():
    a, b = draws(64), draws(64, seed=1)
    b = b * a.norm() / b.norm()
    arc, line = slerp(a, b, 9), lerp(a, b, 9)
    torch.testing.assert_close(arc.norm(dim=1), a.norm().expand(9))
    assert line[4].norm() < 0.8 * a.norm()              # where the straight line leaves the shell
    angles = torch.acos(torch.nn.functional.cosine_similarity(arc[:-1], arc[1:]))
    whole = torch.acos(torch.nn.functional.cosine_similarity(a, b, dim=0))
    torch.testing.assert_close(angles, (whole / 8).expand(8), rtol=1e-3, atol=1e-4)
    assert torch.linalg.matrix_rank(torch.cat([arc, a[None], b[None]]), rtol=1e-4) == 2


def test_great_circle_of_unequal_ends_changes_its_norm_evenly():
    a, b = draws(64), 3 * draws(64, seed=1)
    even = torch.linspace(a.norm().item(), b.norm().item(), 5)
    torch.testing.assert_close(slerp(a, b, 5).norm(dim=1), even)


def test_great_circle_between_parallel_vectors_is_the_line():
    a = draws(16)
    torch.testing.assert_close(slerp(a, 2 * a, 5), lerp(a, 2 * a, 5))
    assert slerp(a, a, 5).isfinite().all()
