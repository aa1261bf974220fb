"""Task 2: paths whose numbers are known, and a regression that finds what was planted."""

from types import SimpleNamespace

import pytest
import torch
from tiny import LINEAR, assert_shows, generator, grey, short_lab

from data import ImageSet, load
from lab import samples
from lab.chapters import interpolation as ask
from lab.recipes import RECIPES, Training
from lab.show import Figure, Table
from lab.training import encode_set
from vae_helpers import as_pixels, build


@pytest.fixture
def model():
    """x_hat = ½ + B z and mu = 0.1 B^T x with orthonormal columns B: decodings stay in [0, 1]."""
    model = build(LINEAR)
    basis = torch.linalg.qr(torch.randn(48, 3, generator=generator())).Q
    with torch.no_grad():
        model.to_mu.weight.copy_(0.1 * basis.T)
        model.to_mu.bias.zero_()
        model.decoder[0].weight.copy_(basis)
        model.decoder[0].bias.fill_(0.5)
    return model.eval()


# ---- pairs and paths


@pytest.mark.parametrize("labels", [[4, 4, 4, 7, 4] + [7] * 7, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5],
                                    [4, 7, 4, 7] * 3])
def test_pairs_are_what_their_names_say_and_no_image_stands_in_both_of_the_first(labels):
    mu, labels = torch.randn(12, 3, generator=generator()), torch.tensor(labels)
    (a, b), (c, d), (e, f) = ask.choose_pairs(mu, labels).values()
    assert len({a, b, c, d}) == 4
    assert labels[a] == labels[b] and labels[c] != labels[d]
    assert (mu[e] - mu[f]).norm().item() == pytest.approx(torch.pdist(mu).max().item(), rel=1e-4)


def test_straight_ways_of_a_linear_decoder_are_cross_fades(model):
    codes, frames = ask.paths_between(model, grey(), 10)
    assert codes.shape == (10, 10, 3) and frames.shape == (10, 10, 3, 4, 4)
    assert torch.allclose(codes[:, -1], encode_set(model, grey()[10:20])[0])
    fade = ask.cross_fade(frames)
    assert torch.allclose(frames, fade, atol=1e-5)
    assert torch.allclose(samples.evenness(fade), torch.ones(10), atol=1e-3)
    ratio, error = ask.detour_of(fade)
    assert ratio == pytest.approx(1, rel=1e-5) and error == pytest.approx(0, abs=1e-5)


def test_the_way_around_four_ends_is_closed_even_and_begins_between_the_first_two():
    ends = torch.tensor([[0.0, 0.0], [4.0, 0.0], [4.0, 8.0], [0.0, 8.0]])
    path = ask.around(ends, 4)
    assert path[:3].tolist() == [[2, 0], [3, 0], [4, 0]] and path[-1].tolist() == [1, 0]
    assert torch.equal(path[2::4], ends.roll(-1, 0))
    steps = (path.roll(-1, 0) - path).abs().sum(1)
    assert sorted(steps.tolist()) == [1] * 8 + [2] * 8


# ---- detours that are known


def test_a_bar_that_moves_a_pixel_a_step_has_a_detour_of_the_number_of_steps():
    """Each step changes two columns wholly, each of n steps of a cross-fade 2n columns by 1/n."""
    frames = torch.zeros(2, 10, 3, 4, 24)
    for i in range(10):
        frames[:, i, :, :, i:i + 12] = 1
    numbers = ask.path_numbers(frames)
    assert numbers["detour"] == pytest.approx(9) and numbers["evenness"] == pytest.approx(1)
    assert numbers["mean squared step"] == pytest.approx(2 / 24)


def test_true_morphs_begin_with_a_scene_move_only_its_shape_and_take_half_a_detour_more():
    frames = ask.true_morphs(40)
    scenes = load("cifar10", "test", limit=80, source="standin").images
    assert torch.equal(frames[:, 0], scenes[:40])
    assert (frames == frames[:, :1]).all(1).float().mean() > 0.4            # the backdrop stays
    assert ask.detour_of(as_pixels(frames))[0] > 1.5


def test_the_error_of_a_detour_is_its_spread_over_sets_of_pairs():
    frames = torch.rand(400, 20, 4, 1, 2, 2, generator=generator())     # 400 sets of 20 pairs
    found = torch.tensor([ask.detour_of(each) for each in frames])
    assert found[:, 1].mean().item() == pytest.approx(found[:, 0].std().item(), rel=0.15)


def test_half_way_a_cross_fade_of_noise_keeps_the_sharpness_of_its_mixture():
    noise = torch.rand(300, 10, 3, 16, 16, generator=generator())
    kept = ask.path_numbers(ask.cross_fade(noise))["sharpness half-way"]
    assert kept == pytest.approx((4 / 9) ** 2 + (5 / 9) ** 2, rel=0.01)


@pytest.mark.parametrize("kind, exponent", [("fade", 2), ("jump", 1), ("noise", 0)])
def test_doubling_the_steps_tells_a_line_from_a_jump_from_noise(kind, exponent):
    t = torch.linspace(0, 1, 19).view(1, -1, 1, 1, 1)
    t = {"fade": t, "jump": (t > 0.5).float(),
         "noise": torch.rand(500, 19, 3, 4, 4, generator=generator())}[kind]
    assert ask.doubling_exponent(t.expand(-1, -1, 3, 4, 4)) == pytest.approx(exponent, abs=0.02)


# ---- pairs of one class


def test_a_class_that_is_only_nearer_has_no_effect_at_equal_distance_and_a_planted_one_is_found():
    draw, found, raw = generator(), [], []
    for _ in range(100):
        same = torch.arange(300) < 150
        distance = torch.rand(300, generator=draw) + 1 - 0.4 * same         # one class is nearer
        noise = 0.1 * distance * torch.randn(300, generator=draw)           # of unequal variance
        for planted in (0.0, -0.05):
            detour = 1 + 0.1 * distance.log2() + planted * same + noise
            found.append(ask.class_effect(detour, distance, same))
            raw.append(detour[same].mean() - detour[~same].mean())
    assert torch.stack(raw[::2]).mean() < -0.02             # as pairs come, it seems to have one
    found = torch.tensor(found).view(100, 2, 2)                 # draw, planted, value or error
    assert torch.allclose(found[..., 0].mean(0), torch.tensor([0.0, -0.05]), atol=0.005)
    assert found[:, 0, 1].mean() == pytest.approx(found[:, 0, 0].std().item(), rel=0.2)


def test_pairs_are_of_one_class_or_of_two_as_they_say_and_never_an_image_with_itself(model):
    labels = torch.arange(60) % 3
    made = ImageSet(name="cifar10", split="test", images=grey(60), labels=labels,
                    label_names=("a", "b", "c"), source="made", real=False)
    index, same = ask.class_pairs(made, 30, seed=0)
    assert len(index) == 60 and same.sum() == 30 and (index[:, 0] != index[:, 1]).all()
    assert torch.equal(labels[index[:, 0]] == labels[index[:, 1]], same)
    detour, distance = ask.detours(model, made.images, index)
    assert torch.allclose(detour, torch.ones(60), atol=1e-3) and (distance > 0).all()


# ---- the chapter on few images


def test_everything_shows_itself_and_keeps_what_claims_read(tmp_path, monkeypatch):
    monkeypatch.setattr(ask, "PAIRS", 5)
    monkeypatch.setattr(ask, "CLASS_PAIRS", 10)
    lab = short_lab(tmp_path, 60)
    for name in ("conv", "improved", "small", "small-ae"):                  # untrained
        run = SimpleNamespace(model=build(RECIPES[name]).eval(), hash=name)
        lab.runs[Training(name)] = run
    assert_shows(ask.paths(lab), Table)
    ask.keep_similar(lab)
    assert_shows(ask.four_faces(lab, torch.rand(4, 6, 3, 64, 64)), Figure)
    rows = {"same class": (torch.rand(10, 3, 32, 32),) * 2}
    assert_shows(ask.strips(lab, rows, {"same class": (0, 1)}), Figure)
    assert lab.found["morph.detour"] > 1.5 > lab.found["morph.blurred_detour"] > 1
    assert "similar.error" in lab.found
    step, many = lab.found["task2.smoothness"], lab.found["task2.intervals"]
    assert step * 81 / many ** 2 == pytest.approx(ask.CLAIMED_STEP)
