"""Training: one objective, knobs that act, early stopping, devices, codes and paths."""

import itertools
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tiny import IMAGES, TEST, TINY, generator, grey, run, weights_of

from lab import training
from lab.linear import Spectrum, linear_optimum
from lab.training import evaluate, lerp, make_optimizer, settled, slerp, summary
from lab.training import generator as keyed
from vae_helpers import Recipe, build, elbo_terms, to_pixels, training_step

CPU, CUDA, MPS = map(torch.device, ("cpu", "cuda", "mps"))
FLAT = TINY.but(norm=False)                 # no BatchNorm: images do not depend on each other


def draws(*shape, seed=0):
    return torch.randn(shape, generator=generator(seed))


# ---- one step, one epoch


def train_epoch(model, optimizer, images=IMAGES.images, **more):
    usual = dict(seed=0, epoch=1, epochs=1, precision="fp32", tick=print, folder=Path("nowhere"))
    return training.train_epoch(model, optimizer, images, **usual | more)


def one_epoch(recipe, **more):
    """The record of an epoch of plain gradient descent, how far it moved the weights, its rates."""
    model, rates = build(recipe), []
    before = weights_of(model)
    optimizer = torch.optim.SGD([{"params": list(model.parameters()), "share": 1.0}])
    optimizer.register_step_post_hook(lambda *_: rates.append(optimizer.param_groups[0]["lr"]))
    record = train_epoch(model, optimizer, **more)
    return record, weights_of(model) - before, rates


def batches_and_noise(size, seed=0, epoch=1):
    """What an epoch draws: the batches of indices, each image once, and their noise."""
    order = torch.randperm(35, generator=keyed("cpu", seed, epoch, "order"))
    noise = keyed("cpu", seed, epoch, "noise")
    return [(index, torch.randn(len(index), 3, generator=noise)) for index in order.split(size)]


@pytest.mark.parametrize(("recipe", "key"), [
    (TINY, dict(seed=0, epoch=1)), (TINY, dict(seed=1, epoch=1)),
    (FLAT.but(reconstruction="sse", beta=3, schedule="onecycle"), dict(seed=0, epoch=2))],
    ids=["bce", "another seed", "sse, second epoch"])
def test_an_epochs_record_is_the_mean_over_all_images_in_the_order_and_noise_of_its_key(
        recipe, key):
    standing = recipe.but(lr=1e-30)                     # 10 + 10 + 10 + 5 images, weights stay
    record, moved, rates = one_epoch(standing, epochs=3, **key)
    assert moved.abs().max() < 1e-20 and record["epoch"] == key["epoch"]
    done = [(key["epoch"] - 1 + i / 4) / 3 for i in range(4)]
    assert rates == [training.learning_rate(standing, share) for share in done]
    model = build(standing).train()
    losses = [elbo_terms(model, IMAGES.images[index] / 255, eps).loss(recipe.beta).detach()
              for index, eps in batches_and_noise(10, **key)]
    mean = torch.cat(losses).mean().item()
    assert record["loss"] == pytest.approx(mean, rel=1e-6)
    assert abs(sum(part.mean() for part in losses) / 4 - mean) > 1e-4 * mean    # of the batches


def test_gradient_is_that_of_the_mean_loss_and_clip_bounds_its_length():
    model, [(order, noise)] = build(FLAT), batches_and_noise(35)
    for i, eps in zip(order, noise, strict=True):       # one image at a time: gradients add up
        (elbo_terms(model, IMAGES.images[i: i + 1] / 255, eps[None]).loss(1.0) / 35).backward()
    known = torch.cat([p.grad.flatten() for p in model.parameters()]).double()
    whole = FLAT.but(batch=35, lr=1e-4)
    free, loose, tight = (-one_epoch(whole.but(clip=clip))[1].double() / 1e-4
                          for clip in (0, 1e6, 0.3))
    for gradient in (free, loose, tight * known.norm() / 0.3):
        assert (gradient - known).norm() < 1e-2 * known.norm() and known.norm() > 3


def test_adams_first_step_has_the_length_of_the_rate_and_a_linear_path_its_share():
    model = build(TINY.but(start="linear", linear_lr=0.1, lr=1e-3))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    train_epoch(model, make_optimizer(model), IMAGES.images[:10])
    longest = {name: (p - before[name]).abs().max().item() for name, p in model.named_parameters()}
    for name in ("linear_in.weight", "linear_out.weight", "linear_out.bias"):
        assert longest[name] == pytest.approx(1e-4, rel=1e-2)
    for name in ("to_mu.weight", "to_logvar.bias"):
        assert longest[name] == pytest.approx(1e-3, rel=1e-2)


# ---- schedules and stopping


@pytest.mark.parametrize(("rise", "peak"), [(0.3, 300), (0.15, 150)])
def test_one_cycle_rises_to_its_peak_and_falls_to_nothing(rise, peak):
    recipe = TINY.but(schedule="onecycle", lr=0.02, rise=rise)
    rates = [training.learning_rate(recipe, i / 1000) for i in range(1001)]
    assert rates[0] == pytest.approx(0.04 * 0.02) and rates[1000] == pytest.approx(0, abs=1e-12)
    assert max(rates) == rates[peak] == pytest.approx(0.02)
    assert rates[peak // 2] == pytest.approx(0.52 * 0.02)               # half-way up
    assert rates[(1000 + peak) // 2] == pytest.approx(0.01, rel=3e-3)   # half-way down
    assert all(a < b for a, b in zip(rates[:peak], rates[1: peak + 1], strict=True))
    assert all(a > b for a, b in zip(rates[peak:-1], rates[peak + 1:], strict=True))


@pytest.mark.parametrize(("losses", "stops"), [
    ([100, 99, 98, 97, 96, 95, 94, 93], None),                  # still falling
    ([100, 101, 102, 103, 104], None),                          # four epochs without gain
    ([100, 101, 102, 103, 104, 105], 6),                        # five
    ([100, 99.6, 99.7, 99.8, 99.5, 99.5], 6),                   # half a nat or less is no gain
    ([100, 99.6, 99.4, 99.9, 99.9, 99.9, 99.9, 99.9], 8),       # small falls add up
    ([100, 101, 101, 101, 101, 99, 101, 101, 101, 101], None),  # a gain starts the count anew
    ([100, float("nan"), 100, 100, 100, 100], 6)])
def test_early_stopping_waits_five_epochs_for_half_a_nat(losses, stops):
    recipe = TINY.but(patience=5, min_delta=0.5)
    counts = range(1, len(losses) + 1)
    history = [{"heldout_loss": loss} for loss in losses]
    finished = (n for n in counts if training.is_finished(recipe, history[:n], 40))
    assert next(finished, None) == stops
    assert training.is_finished(recipe, history, len(losses))
    assert not training.is_finished(TINY, history, 40)          # no patience never stops


def test_an_epoch_says_its_pace_every_second(monkeypatch):
    monkeypatch.setattr(training.time, "perf_counter", itertools.count(100.0, 2.0).__next__)
    said, model = [], build(TINY)                       # a batch takes two looks at the clock, 4 s
    record = train_epoch(model, make_optimizer(model), epoch=2, epochs=9, tick=said.append)
    assert said[2] == "tiny: epoch 2/9, 75%, 2 images/s, about 2 min left"      # 7¼ times 16 s
    assert len(said) == 4 and record["seconds"] == 18


# ---- settled batch normalisation


def statistics(model, images, sizes, precision, seed):
    """The means, over batches of these sizes, of the statistics of each batch alone."""
    alone, parts, draw = build(model.recipe), [], keyed("cpu", seed, "settled")
    alone.load_state_dict(model.state_dict())
    for layer in alone.modules():
        layer.momentum = 1.0                            # nothing is left of the batches before
    for index in torch.randperm(len(images), generator=draw)[:sum(sizes)].split(sizes):
        eps = torch.randn(len(index), model.recipe.latent, generator=draw)
        with torch.no_grad(), training.autocast(CPU, precision):
            alone(images[index] / 255, eps)
        parts.append({name: value.clone() for name, value in alone.named_buffers()})
    return {name: sum(part[name] for part in parts) / len(parts)
            for name in parts[0] if "running" in name}


@pytest.fixture
def trained():
    """A model after an epoch of training."""
    model = build(TINY)
    train_epoch(model, make_optimizer(model))
    return model


@pytest.mark.parametrize(("precision", "seed"), [("fp32", 0), ("fp32", 1), ("bf16", 0)])
def test_settled_statistics_are_means_over_a_fifth_of_the_images_as_trained(
        trained, precision, seed):
    before = {name: value.clone() for name, value in trained.state_dict().items()}
    copy, again = (settled(trained, IMAGES.images, precision=precision, seed=seed, batch=3)
                   for _ in range(2))
    found, known = (dict(made.named_buffers()) for made in (copy, again))
    assert all(torch.equal(found[name], known[name]) for name in found)
    for other in ("fp32", "bf16"):
        known = statistics(trained, IMAGES.images, (4, 3), other, seed)     # 7 of 35
        apart = max((found[name] - known[name]).abs().max() for name in known)
        assert (apart < 1e-6) == (other == precision) and len(known) == 6
    assert torch.equal(weights_of(copy), weights_of(trained)) and not copy.training
    assert all(map(torch.equal, before.values(), trained.state_dict().values()))
    assert trained.training and trained.encoder[1].momentum == 0.1


def test_settled_statistics_are_of_ten_thousand_images_at_most():
    images = torch.randint(256, (60_000, 3, 2, 2), dtype=torch.uint8, generator=generator())
    model = build(TINY.but(side=2, widths=(4,)))
    found = settled(model, images, precision="fp32", seed=0).state_dict()
    known = statistics(model, images, [500] * 20, "fp32", 0)
    for name, value in known.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-7)


def test_a_model_without_batch_normalisation_is_settled():
    for model in map(build, (FLAT, TINY.but(network="fc"))):
        assert settled(model, IMAGES.images, precision="fp32", seed=0) is model


# ---- the mean over images, whatever the batches


def test_evaluation_changes_nothing_and_gives_the_mean_over_images_of_ragged_batches():
    recipe, images, noise = TINY.but(beta=3), grey(23, 8), keyed("cpu", 0, "evaluation")
    model = build(recipe).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = summary(recipe, evaluate(model, images, batch=10), "test_")
    assert all(map(torch.equal, before.values(), model.state_dict().values())) and model.training
    model.eval()                        # so that the images of a batch do not depend on each other
    losses = [elbo_terms(model, part / 255, torch.randn(len(part), 3, generator=noise)).loss(3.0)
              for part in images.split(10)]
    assert found["test_loss"] == pytest.approx(torch.cat(losses).mean().item(), rel=1e-6)


def test_in_bf16_layers_are_half_the_loss_is_single_and_evaluation_is_whole(tmp_path, monkeypatch):
    monkeypatch.setattr("lab.runs.has_bf16", lambda device: True)
    done = run(tmp_path, FLAT.but(epochs=1), test=TEST, wanted="bf16")
    x, eps = TEST.images / 255, torch.randn(15, 3, generator=keyed("cpu", 0, "evaluation"))
    with training.autocast(CPU, "bf16"):
        terms = elbo_terms(done.model, x, eps)
        assert done.model.encode(x)[0].dtype == torch.bfloat16
    assert terms.reconstruction.dtype == terms.kl.dtype == torch.float32
    half, whole = (t.loss(1.0).mean().item() for t in (terms, elbo_terms(done.model, x, eps)))
    assert done.last["test_loss"] == pytest.approx(whole, rel=1e-6)
    assert half == pytest.approx(whole, rel=2e-3) and half != pytest.approx(whole, rel=1e-6)
    single = run(tmp_path, FLAT.but(epochs=1)).last["loss"]     # training is not
    assert 1e-6 * single < abs(done.last["loss"] - single) < 2e-3 * single


# ---- the linear optimum


@pytest.mark.parametrize(("changes", "active"), [
    (dict(reconstruction="sse"), 3), (dict(reconstruction="sse", beta=3), 2),
    (dict(reconstruction="gaussian", sigma=0.5), 4)], ids=["sse", "beta-3", "gaussian"])
def test_trained_linear_vae_reaches_the_linear_optimum(changes, active):
    """Loss, rate, active units and posterior variances, from the covariance alone."""
    recipe = Recipe("linear", network="fc", widths=(), side=2, latent=4, link="identity",
                    batch=1000, lr=0.05, schedule="onecycle", **changes)
    axes = torch.linalg.qr(draws(12, 12, seed=1)).Q[:5]
    x = draws(2000, 5) * torch.tensor([8.0, 2.0, 1.0, 0.3, 0.1]).sqrt() @ axes
    x, model, draw = x.view(2000, 3, 2, 2), build(recipe), generator(3)
    optimizer = make_optimizer(model)
    for step in range(1000):
        index = torch.randint(2000, (1000,), generator=draw)
        optimizer.param_groups[0]["lr"] = training.learning_rate(recipe, step / 1000)
        training_step(model, optimizer, x[index], torch.randn(1000, 4, generator=draw))
    with torch.no_grad():
        terms = [elbo_terms(model, x, draws(2000, 4, seed=seed)) for seed in range(200)]
        variances = model.encode(x)[1].exp().mean(0).sort().values
    values, vectors = torch.linalg.eigh(x.flatten(1).double().T.cov(correction=0))
    known = Spectrum(values.flip(0), vectors.T.flip(0), x.mean(0).flatten(), values.sum().item())
    optimum = linear_optimum(known, recipe.sigma2, latent=4)
    constant = 12 * (math.log(0.5) + 0.5 * math.log(2 * math.pi)) if recipe.sigma else 0.0
    least = optimum.loss(recipe.sse_weight, recipe.beta) + constant
    loss = torch.cat([t.loss(recipe.beta) for t in terms]).mean().item()
    assert loss == pytest.approx(least, rel=3e-3)
    assert terms[0].kl.sum(1).mean().item() == pytest.approx(optimum.rate, rel=0.01)
    assert (terms[0].kl.mean(0) > 0.01).sum() == optimum.active == active
    known = sorted(optimum.variances.tolist())
    assert variances[:active].tolist() == pytest.approx(known, rel=0.05)


# ---- device and precision


def test_device_is_chosen_in_one_order_and_one_that_is_not_there_is_refused(monkeypatch):
    there = {"cuda": False, "mps": False}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there["cuda"])
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: there["mps"])
    assert training.choose_device() == CPU
    for name in ("cuda", "mps", "gpu", ""):
        with pytest.raises(training.Refused, match=repr(name)):
            training.choose_device(name)
    there["mps"] = True
    assert training.choose_device() == MPS and training.choose_device("cpu") == CPU
    there["cuda"] = True
    assert training.choose_device() == CUDA and str(training.choose_device("cuda:1")) == "cuda:1"


@pytest.mark.parametrize(("device", "capability", "amx", "avx512", "chosen"), [
    (CUDA, (8, 0), False, False, "bf16"), (CUDA, (7, 5), True, True, "fp32"),
    (CPU, (9, 0), True, False, "bf16"), (CPU, (9, 0), False, True, "bf16"),
    (CPU, (9, 0), False, False, "fp32"), (MPS, (9, 0), True, True, "fp32")])
def test_bf16_is_chosen_where_there_are_instructions(
        monkeypatch, device, capability, amx, avx512, chosen):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    asked = [training.choose_precision(name, device) for name in ("auto", "fp32", "bf16")]
    assert asked == [chosen, "fp32", "bf16"]
    with pytest.raises(training.Refused, match="'fp8'"):
        training.choose_precision("fp8", device)


# ---- codes, samples and paths


@pytest.mark.parametrize("link", ["sigmoid", "tanh", "identity"])
def test_reconstruction_is_the_decoded_posterior_mean_in_unit_pixels(link):
    model, images = build(FLAT.but(reconstruction="sse", link=link)), grey(7, 8)
    with torch.no_grad():
        mu, logvar = model.encode(images / 255)
        known = to_pixels(model.recipe, 9 * model.decode(mu)).clamp(0, 1)
        model.decoder[-1].weight *= 9                   # so that there is something to clamp
        model.decoder[-1].bias *= 9
    torch.testing.assert_close(training.reconstruct(model, images), known)
    torch.testing.assert_close(training.encode_set(model, images, batch=3), (mu, logvar))
    torch.testing.assert_close(training.logits_at(model, mu, batch=3), model.decode(mu).detach())


def test_drawn_images_are_decoded_draws_of_the_prior_or_of_a_density():
    model, place = build(FLAT).eval(), torch.tensor([1.0, -2.0, 3.0])
    density = SimpleNamespace(sample=lambda n, draw: place.double().expand(n, 3))
    z = training.draw_prior(2000, 3, seed=1)
    assert abs(z.mean()) < 0.05 and abs(z.std() - 1) < 0.05
    for given, known in ((None, z), (density, place.expand(2000, 3))):
        drawn = training.draw_images(model, 2000, 1, given)
        torch.testing.assert_close(drawn, training.decode_set(model, known))
    codes = training.draw_codes(place.expand(2000, 3), torch.full((2000, 3), -2.0), generator())
    torch.testing.assert_close(codes.mean(0), place, atol=0.05, rtol=0)
    torch.testing.assert_close(codes.std(0), torch.full((3,), math.exp(-1)), atol=0.03, rtol=0)


@pytest.mark.parametrize("path", [lerp, slerp])
def test_path_goes_from_one_end_to_the_other(path):
    a, b = draws(5, 16), 2 * draws(5, 16, seed=1)
    steps = path(a, b, 7)
    assert steps.shape == (5, 7, 16)
    torch.testing.assert_close((steps[:, 0], steps[:, -1]), (a, b))
    torch.testing.assert_close(path(a[0], b[0], 7), steps[0])
    parallel = path(a, 2 * a, 5)                        # on both paths the straight line
    torch.testing.assert_close(parallel.diff(dim=1), (a / 4)[:, None].expand(5, 4, 16))


def test_great_circle_turns_evenly_in_the_plane_of_its_ends_and_changes_its_norm_evenly():
    a, b = draws(64), 3 * draws(64, seed=1)
    arc = slerp(a, b, 9)
    even = torch.linspace(a.norm().item(), b.norm().item(), 9)
    torch.testing.assert_close(arc.norm(dim=1), even)
    angles = torch.acos(torch.nn.functional.cosine_similarity(arc[:-1], arc[1:]))
    whole = torch.acos(torch.nn.functional.cosine_similarity(a, b, dim=0))
    torch.testing.assert_close(angles, (whole / 8).expand(8), rtol=1e-3, atol=1e-4)
    assert torch.linalg.matrix_rank(torch.cat([arc, a[None], b[None]]), rtol=1e-4) == 2
