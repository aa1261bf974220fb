"""The notebook's questions, on models and images whose answers are known."""
from __future__ import annotations

import math
import statistics

import pytest
import torch

import vae_experiments as ask
import vae_helpers as vae
import vae_measures as measure
from data import image_set, load

LINEAR = vae.Recipe("plain", network="fc", widths=(), norm=False, link="identity", reconstruction="sse", side=4,
                    latent=3)


@pytest.fixture
def model():
    """x_hat = B z and mu = B^T x with orthonormal columns B, so that codes and images keep distances."""
    model = vae.build(LINEAR)
    basis = torch.linalg.qr(torch.randn(48, 3, generator=torch.Generator().manual_seed(0))).Q
    with torch.no_grad():
        model.to_mu.weight.copy_(basis.T)
        model.decoder[0].weight.copy_(basis)
        for bias in (model.to_mu.bias, model.decoder[0].bias):
            bias.zero_()
    return model


def grey(n=40, side=4, seed=0):
    return torch.randint(0, 256, (n, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def test_scale_of_two_grey_levels_is_in_closed_form():
    images = torch.full((6, 3, 4, 4), 51, dtype=torch.uint8)                    # 0.2
    images[3:] = 204                                                            # 0.8
    made = image_set(name="cifar10", split="train", images=images, labels=torch.zeros(6, dtype=torch.long),
                     label_names=("a",), source="made", real=False)
    scale = ask.scale_of({"images": made, "test": made}, top=4)
    entropy = -(0.2 * math.log(0.2) + 0.8 * math.log(0.8))
    assert scale.floor == pytest.approx(48 * entropy) == pytest.approx(scale.test_floor)
    assert scale.test_mean_image == pytest.approx(48 * math.log(2))             # the mean is 1/2 everywhere
    assert scale.spectrum.eigenvalues[0].item() == pytest.approx(48 * 0.3 ** 2)
    assert scale.share(scale.test_floor) == 1 and scale.share(scale.test_mean_image) == 0


def test_linear_terms_lie_between_floor_and_mean_image():
    splits = {kind: load("cifar10", split, source="standin", limit=300)
              for kind, split in (("images", "train"), ("test", "test"))}
    scale = ask.scale_of(splits, top=128)
    terms = ask.linear_terms(vae.RECIPES["fc"], scale, splits["test"].images, seed=0)
    assert scale.test_floor < terms["test_loss"] < scale.test_mean_image
    optimum = measure.linear_optimum(scale.spectrum, vae.RECIPES["fc"].start_sigma2, 128)
    assert terms["test_kl"] == pytest.approx(optimum.rate, rel=0.3)             # its own images' rate, on others


def test_gradient_estimators_of_a_quadratic_agree_and_spread_as_known():
    """f = z², z ~ N(1, 1): pathwise 2z has variance 4, the score function's z²(z - 1) what its moments say."""
    draws = measure.pathwise_and_score_gradients(lambda z: z.square().sum(1), torch.ones(1, dtype=torch.float64),
                                                 torch.zeros(1, dtype=torch.float64), 400_000,
                                                 torch.Generator().manual_seed(1))
    gap, ratio = ask.compare_gradients(draws)
    e = [1, 0, 1, 0, 3, 0, 15]                                                  # moments of a standard normal
    second = sum(math.comb(4, k) * e[k + 2] for k in range(5))                  # E (1 + e)^4 e^2
    assert gap < 3.5
    assert ratio == pytest.approx((second - 2 ** 2) / 4, rel=0.03)


def test_rank_correlation_is_spearmans():
    a = torch.tensor([0.1, 5.0, 2.0, 9.0])
    assert ask.rank_correlation(a, a.exp()) == pytest.approx(1)
    assert ask.rank_correlation(a, -a) == pytest.approx(-1)
    assert ask.rank_correlation(a, torch.tensor([1.0, 2.0, 3.0, 4.0])) == pytest.approx(1 - 6 * 2 / (4 * 15))


def test_compare_needs_two_standard_errors():
    assert ask.compare(1.0, 2.0, "A", "B", 0.3, 0.3) == "A is lower than B, by 1."
    assert ask.compare(1.0, 2.0, "A", "B", 0.6, 0.6) == "A and B cannot be told apart."


def test_overlap_falls_as_decodings_part(model):
    distance, change = ask.overlap_and_change(model, grey(), seed=0)
    assert (distance >= 0).all() and ask.rank_correlation(distance, change) > 0.5


def test_distance_of_nearest_is_that_of_equal_gaussians_on_a_line():
    mu, logvar = torch.tensor([[0.0], [2.0], [5.0]]), torch.zeros(3, 1)         # nearest at 2, 2 and 3
    assert ask.distance_of_nearest(mu, logvar) == pytest.approx(2 ** 2 / 8)     # of unit variances: d² / 8


def test_aggregate_posterior_has_the_mixtures_mean_and_covariance():
    mu, logvar = torch.randn(2, 500, 3, generator=torch.Generator().manual_seed(0))
    draws = mu + (logvar / 2).exp() * torch.randn(4000, 500, 3, generator=torch.Generator().manual_seed(1))
    drawn, exact = measure.gaussian_fit(draws.flatten(0, 1)), ask.aggregate_posterior(mu, logvar)
    torch.testing.assert_close(drawn.mean, exact.mean, atol=0.01, rtol=0)
    torch.testing.assert_close(drawn.covariance, exact.covariance, atol=0.03, rtol=0)


def test_cross_fade_is_even_and_keeps_its_ends():
    ends = torch.rand(5, 10, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    fade = ask.cross_fade(ends)
    assert torch.allclose(fade[:, [0, -1]], ends[:, [0, -1]])
    assert torch.allclose(measure.evenness(fade), torch.ones(5), atol=1e-4)


def test_straight_paths_of_a_linear_decoder_are_cross_fades(model):
    with torch.no_grad():
        model.decoder[0].bias.fill_(0.5)                                        # keeps decodings inside [0, 1]
        model.to_mu.weight.mul_(0.1)
    codes, frames = ask.paths_between(model, grey(), 10)
    assert codes.shape == (10, 10, 3) and frames.shape == (10, 10, 3, 4, 4)
    assert torch.allclose(frames, ask.cross_fade(frames), atol=1e-5)


def test_middle_is_the_share_of_the_ends():
    assert ask.middle(torch.tensor([[4.0, 9.0, 1.0, 3.0, 9.0, 4.0]])) == pytest.approx(0.5)


def test_pairs_are_chosen_as_named(model):
    images = image_set(name="cifar10", split="test", images=grey(), labels=torch.arange(40) % 3,
                       label_names=("a", "b", "c"), source="made", real=False)
    mu, _ = vae.encode(model, images.images)
    pairs = ask.choose_pairs(model, images, 40)
    assert pairs["same class"] == (0, 3) and pairs["different classes"] == (0, 1)
    distances = torch.pdist(mu)
    for name, extreme in (("nearest codes", distances.min()), ("farthest codes", distances.max())):
        a, b = pairs[name]
        assert (mu[a] - mu[b]).norm() == pytest.approx(extreme.item(), rel=1e-4)


def test_same_class_paths_are_shorter_where_classes_are_clusters(model):
    labels = torch.arange(60) % 2
    images = grey(60) // 8 + (labels * 200).to(torch.uint8).view(-1, 1, 1, 1)   # dark and bright
    both = image_set(name="cifar10", split="test", images=images, labels=labels, label_names=("dark", "bright"),
                     source="made", real=False)
    ((same, _), straight), ((other, _), _) = ask.same_or_different(model, both, 30, seed=0)
    assert same < 0.5 * other and straight[0] >= 1 - 1e-6           # nothing is shorter than a straight line


def test_attributes_of_a_planted_dimension_are_named():
    codes = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
    attributes = torch.stack([codes[:, 1] > 0, codes[:, 2] > 0], 1)
    correlation = measure.attribute_correlation(codes, attributes)
    rows = ask.attributes_of(correlation, torch.tensor([1]), ("Hat", "Beard"), strongest=1)
    assert rows[0]["dimension"] == 1 and rows[0]["correlates most with"].startswith("Hat (+0.")


def test_attribute_direction_is_found_where_it_was_planted(model):
    codes = torch.randn(4000, 3, generator=torch.Generator().manual_seed(0))
    hat = torch.rand(4000, generator=torch.Generator().manual_seed(1)) < 0.4
    codes[hat] += torch.tensor([0.0, 2.0, 2.0])                                 # along two dimensions at once
    labels = torch.stack([hat, torch.ones_like(hat)], 1)
    images = image_set(name="celeba", split="test", images=grey(4000), labels=labels, label_names=("Hat", "Face"),
                       source="made", real=False)
    directions = ask.attribute_directions(codes, images, ("Hat", "Face"))
    assert list(directions) == ["Hat"]                                          # a face that all have points nowhere
    assert torch.allclose(directions["Hat"], torch.tensor([0.0, 2.0, 2.0]), atol=0.15)
    (row,) = ask.read_attributes(directions, codes, measure.attribute_correlation(codes, labels), images)
    chance = statistics.NormalDist(0, 2 ** 0.5).cdf                             # that N(d, 1) draws above N(0, 1)
    assert float(row["AUC along its direction"]) == pytest.approx(chance(8 ** 0.5), abs=0.01)
    assert float(row["AUC of one dimension"].split()[0]) == pytest.approx(chance(2), abs=0.02)
    (moved,) = ask.along_directions(model, torch.zeros(1, 3), directions).values()
    assert torch.allclose(moved[[0, -1]], vae.decode(model, torch.tensor([[-2.0], [2.0]]) * directions["Hat"]))


def test_rate_and_distortion_of_a_linear_vae_are_its_closed_form():
    images = load("cifar10", source="standin", limit=400).images
    spectrum = measure.spectrum(images, 40)
    best = measure.linear_optimum(spectrum, 0.25, 24)
    linear = vae.build(vae.Recipe("linear", network="fc", widths=(), norm=False, link="identity",
                                  reconstruction="sse", beta=0.5, latent=24))
    assert linear.recipe.sigma2 == 0.25
    found = measure.linear_vae_parameters(spectrum, 0.25, 24)
    with torch.no_grad():
        linear.to_mu.weight.copy_(found.encoder)
        linear.to_mu.bias.copy_(-found.encoder @ found.mean)
        linear.to_logvar.weight.zero_()
        linear.to_logvar.bias.copy_(found.variance.log())
        linear.decoder[0].weight.copy_(found.decoder)
        linear.decoder[0].bias.copy_(found.mean)
    rate, distortion = ask.rate_and_distortion(linear, images, seed=0)
    assert rate == pytest.approx(best.rate, rel=1e-4)
    assert distortion == pytest.approx(best.distortion, rel=0.02)               # less what [0, 1] cuts off; a draw


def test_points_are_set_against_the_linear_curve_at_their_own_rate():
    curve = measure.RateDistortion(torch.tensor([3.0, 2.0, 1.0]), torch.tensor([0.0, 1.0, 3.0]),
                                   torch.tensor([9.0, 5.0, 1.0]), torch.tensor([0, 1, 2]))
    shares = ask.against_linear({"on": (1.0, 5.0), "half": (2.0, 1.5), "over": (0.5, 14.0)}, curve)
    assert shares == pytest.approx({"on": 1, "half": 0.5, "over": 2})


def test_batch_statistics_are_those_of_training_mode():
    images = load("cifar10", source="standin", limit=64)
    recipe = vae.RECIPES["conv"].but(widths=(4, 8), batch=64)
    run = vae.Run(recipe, vae.build(recipe).eval(), [], None, {"precision": "fp32"}, "", False)
    mine = ask.loss_with_batch_statistics(run, images.images, seed=0)
    assert mine != pytest.approx(vae.summary(recipe, vae.evaluate(run.model, images.images))["loss"], rel=1e-4)
    x = vae.pixels(recipe, images.images, slice(None), torch.device("cpu"))
    eps = torch.randn(64, recipe.latent, generator=vae.generator("cpu", 0, "evaluation"))
    assert mine == pytest.approx(vae.elbo_terms(run.model.train(), x, eps).loss(1).mean().item(), rel=1e-6)


def test_amortisation_gap_is_that_of_a_linear_decoder(model):
    """|x - Bz|² + KL is least at mu = 2/3 B^T x and variance 1/3; from mu = B^T x it loses 3/2 |B^T x / 3|²."""
    images = grey(64)
    with torch.no_grad():
        model.to_logvar.weight.zero_()
        model.to_logvar.bias.fill_(-math.log(3))
    code = vae.encode(model, images)[0]
    gap, error = ask.amortisation_gap(model, images, seed=0, steps=300)
    assert gap == pytest.approx((code.square().sum(1) / 6).mean().item(), rel=0.02) and error < gap
    with torch.no_grad():
        model.to_mu.weight.mul_(2 / 3)
    assert ask.amortisation_gap(model, images, seed=0)[0] == pytest.approx(0, abs=0.02)


def test_trials_are_loaded_when_finished_and_trained_only_when_asked(tmp_path, monkeypatch):
    monkeypatch.setattr(ask, "TRIALS", {"plain": vae.RECIPES["fc"].but(widths=(8,))})
    monkeypatch.setattr(ask, "TRIAL_EPOCHS", 1)
    images = load("cifar10", source="standin", limit=50)
    settings = vae.Settings(data="standin", runs=str(tmp_path), device="cpu")
    assert ask.trials(images, settings) == []
    ((name, recipe, history),) = ask.trials(images, settings, train=True)
    assert name == "plain" and recipe.widths == (8,) and "heldout_loss" in history[0] and len(history) == 1
    assert ask.trials(images, settings) == [(name, recipe, history)]


def test_copies_of_training_images_are_at_distance_zero(model, tmp_path):
    images = load("cifar10", source="standin", limit=200)
    settings = vae.Settings(epochs=1, train_limit=200, data="standin", runs=str(tmp_path), device="cpu",
                            precision="fp32")
    judge = ask.Judge("FD-test", images, images, settings)
    small = vae.build(vae.RECIPES["fc"].but(widths=(8,)))
    rows = {row["from"]: row for row in ask.distances_to_training(small, judge, images.images, images.images[:20], 0)}
    assert rows["held-out images"]["in pixels"] == rows["held-out images"]["in features"] == "0.00 ± 0.00"
    assert float(rows["samples"]["in pixels"].split()[0]) > 1


def test_traversals_change_one_dimension_and_begin_at_the_code(model):
    mu = torch.tensor([[0.3, -0.2, 0.1]])
    rows = ask.regions(model, mu, torch.tensor([2]), seed=0)
    around, along = rows.values()
    assert torch.allclose(around[:1], vae.decode(model, mu), atol=1e-6)
    ends = vae.decode(model, torch.tensor([[0.3, -0.2, -3.0], [0.3, -0.2, 3.0]]))
    assert torch.allclose(along[[0, -1]], ends)


def test_a_model_that_sees_only_the_mean_does_not_notice_a_shift(model):
    with torch.no_grad():
        model.to_mu.weight.fill_(1 / 48)
    flat = (torch.arange(10) * 20).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 4, 4).contiguous()
    assert ask.shift_sensitivity({"mean": model}, flat)["mean"] == pytest.approx(0, abs=1e-5)


def test_extensions_load_what_is_finished_and_train_only_when_asked(tmp_path):
    splits = {"images": load("cifar10", source="standin", limit=40), "heldout": None, "test": None}
    settings = vae.Settings(epochs=1, train_limit=40, data="standin", runs=str(tmp_path), device="cpu")
    wanted = [("fc", 1, 1), ("fc", 2, 1)]
    assert ask.extensions(wanted, splits, settings) == []
    vae.train(vae.RECIPES["fc"], **splits, epochs=1, **(settings.where | {"seed": 2}))
    (found,) = ask.extensions(wanted, splits, settings)
    assert found.identity["seed"] == 2 and not found.trained_here
    both = ask.extensions(wanted, splits, vae.Settings(**{**settings.__dict__, "extensions": True}))
    assert [run.trained_here for run in both] == [True, False]


def past(name, losses, seconds):
    """A run with this past, never trained."""
    history = [{"epoch": i, "test_loss": loss, "seconds": seconds} for i, loss in enumerate(losses, 1)]
    return vae.Run(vae.RECIPES[name], None, history, None, {}, "", False)


def test_how_soon_counts_epochs_to_the_best_of_the_other():
    quick, slow = past("improved", [9, 6, 5], 20), past("conv", [9, 8, 6, 7], 10)
    assert ask.how_soon(quick, {"conv": slow}) == ("improved passes the best test loss of conv, 6.0, in epoch 2, "
                                                   "after 40 s; conv was there in epoch 3, after 30 s.")
    assert ask.how_soon(slow, {"improved": quick}) == "conv does not reach the best test loss of improved, 5.0."


def test_judge_knows_real_images_from_their_mean(tmp_path):
    train, test = (load("cifar10", split, source="standin", limit=200) for split in ("train", "test"))
    settings = vae.Settings(epochs=1, train_limit=200, data="standin", runs=str(tmp_path), device="cpu",
                            precision="fp32")
    judge = ask.Judge("FD-test", train, test, settings)
    assert judge.size == 200 and judge.distance(test.images) == pytest.approx(0, abs=1e-6 + 1e-6 * judge.ceiling)
    assert judge.floor < judge.ceiling
