"""Task 2: paths whose numbers are known, and a regression that finds what was planted."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from tiny import LINEAR, generator, grey

from data import ImageSet
from lab import samples
from lab.chapters import interpolation as ask
from lab.recipes import RECIPES
from lab.session import Lab
from lab.show import Figure
from lab.training import decode_set, encode_set, lerp, reconstruct, slerp
from vae_helpers import build

pytestmark = pytest.mark.usefixtures("one_thread")


def made_set(images, labels, names):
    return ImageSet(name="cifar10", split="test", images=images, labels=labels, label_names=names,
                     source="made", real=False)


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


@pytest.fixture
def frames():
    """Ten frames of noise each, between unrelated ends."""
    return torch.rand(5, 10, 3, 8, 8, generator=generator())


# ---- paths


def test_a_cross_fade_is_even_and_keeps_its_ends(frames):
    fade = ask.cross_fade(frames)
    assert torch.allclose(fade[:, [0, -1]], frames[:, [0, -1]])
    assert torch.allclose(samples.evenness(fade), torch.ones(5), atol=1e-4)


def test_straight_paths_of_a_linear_decoder_are_cross_fades(model):
    codes, frames = ask.paths_between(model, grey(), 10)
    assert codes.shape == (10, 10, 3) and frames.shape == (10, 10, 3, 4, 4)
    assert torch.allclose(frames, ask.cross_fade(frames), atol=1e-5)


def test_three_ways_have_the_same_ends(model):
    ways = ask.three_ways(model, grey(), 10)
    ends = [frames[:, [0, -1]] for _, frames in ways.values()]
    assert all(torch.allclose(each, ends[0], atol=1e-5) for each in ends)
    assert ways["cross-fade"][0] is None


def test_pairs_are_chosen_as_named(model):
    images, labels = grey(), torch.arange(40) % 3
    mu, _ = encode_set(model, images)
    pairs = ask.choose_pairs(mu, labels)
    assert pairs["same class"] == (0, 3) and pairs["different classes"] == (1, 2)
    distances = torch.pdist(mu)
    for name, extreme in (("nearest codes", distances.min()), ("farthest codes", distances.max())):
        a, b = pairs[name]
        assert (mu[a] - mu[b]).norm() == pytest.approx(extreme.item(), rel=1e-4)


def test_no_image_stands_in_two_of_the_first_rows():
    mu = torch.randn(12, 3, generator=generator())
    for labels in (torch.tensor([4, 4, 4, 7, 4] + [7] * 7), torch.arange(12) // 2,
                   torch.tensor([4, 7, 4, 7] * 3)):
        pairs = ask.choose_pairs(mu, labels)
        (a, b), (c, d) = pairs["same class"], pairs["different classes"]
        assert len({a, b, c, d}) == 4
        assert labels[a] == labels[b] and labels[c] != labels[d]


def test_a_row_begins_and_ends_with_the_originals(model):
    images = grey()
    mu, _ = encode_set(model, images)
    row = ask.row_between(model, images, mu, (3, 5), 6)
    assert torch.equal(row[[0, -1]], images[[3, 5]] / 255)
    assert torch.allclose(row[1:-1], decode_set(model, lerp(mu[3], mu[5], 6)))


# ---- four images


def test_the_corners_of_a_grid_are_the_reconstructions_and_their_originals_stand_beside(model):
    images = grey()
    grid = ask.grid_between(model, images, 4, 5)
    assert grid.shape == (4, 7, 3, 4, 4)
    corners, beside = grid[[0, 0, 3, 3], [1, 5, 1, 5]], grid[[0, 0, 3, 3], [0, 6, 0, 6]]
    assert torch.allclose(corners, reconstruct(model, images[:4]), atol=1e-5)
    assert torch.equal(beside, images[:4] / 255)
    assert (grid[1:3, [0, 6]] == 1).all()                       # white


def test_the_centre_of_a_grid_is_the_decoding_of_the_mean_code(model):
    images = grey()
    mu, _ = encode_set(model, images[:4])
    centre = ask.grid_between(model, images, 3, 5)[1, 3]
    assert torch.allclose(centre, decode_set(model, mu.mean(0, keepdim=True))[0], atol=1e-5)


def test_the_edges_of_a_grid_are_straight_lines_between_their_corners():
    corners = torch.randn(4, 7, generator=generator())
    codes = ask.bilinear(corners, 4, 6)
    for edge, (a, b) in ((codes[0], (0, 1)), (codes[-1], (2, 3)), (codes[:, 0], (0, 2)),
                         (codes[:, -1], (1, 3))):
        assert torch.allclose(edge, lerp(corners[a], corners[b], len(edge)))


# ---- numbers of a path


def test_middle_is_the_share_of_the_ends():
    assert ask.middle(torch.tensor([[4.0, 9.0, 1.0, 3.0, 9.0, 4.0]])) == pytest.approx(0.5)
    assert ask.middle(torch.tensor([[4.0, 9.0, 3.0, 9.0, 8.0]])) == pytest.approx(0.5)


@pytest.mark.parametrize("steps", [10, 11])
def test_unrelated_ends_do_half_way_what_the_null_says(steps):
    norm, sharpness = ask.unrelated_ends(steps)
    codes = torch.randn(2, 2000, 50, generator=generator())
    assert ask.middle(lerp(*codes, steps).norm(dim=-1)) == pytest.approx(norm, rel=0.01)
    noise = torch.rand(300, steps, 3, 16, 16, generator=generator(1))
    kept = ask.middle(ask.sharpness_along(ask.cross_fade(noise)))
    assert kept == pytest.approx(sharpness, rel=0.01)


def test_unrelated_ends_are_at_a_root_of_a_half_and_at_a_half():
    assert ask.unrelated_ends(11) == pytest.approx((math.sqrt(0.5), 0.5))
    assert ask.unrelated_ends(10) == pytest.approx((math.sqrt(41) / 9, 41 / 81))    # t = 4/9, 5/9


def test_the_detour_of_a_straight_line_is_one_and_its_error_none(frames):
    ratio, error = ask.detour_of(ask.cross_fade(frames))
    assert ratio == pytest.approx(1, rel=1e-5) and error == pytest.approx(0, abs=1e-5)


def test_the_detour_of_a_linear_decoders_line_is_one(model):
    numbers = ask.path_numbers(*reversed(ask.paths_between(model, grey(), 10)))
    assert numbers["detour"] == pytest.approx(1, rel=1e-4)
    assert numbers["evenness"] == pytest.approx(1, rel=1e-3)


def test_a_way_there_and_back_and_there_is_three_times_as_long():
    """Thrice the way in as many steps: each step is three times as long, its square nine times."""
    t = torch.tensor([0, 1 / 3, 2 / 3, 1, 2 / 3, 1 / 3, 0, 1 / 3, 2 / 3, 1]).view(1, -1, 1, 1, 1)
    frames = t.expand(4, -1, 3, 4, 4) * torch.rand(4, 1, 3, 4, 4, generator=generator())
    assert ask.detour_of(frames)[0] == pytest.approx(9, rel=1e-4)


def test_the_error_of_a_detour_is_its_spread_over_sets_of_pairs():
    frames = torch.rand(400, 20, 4, 1, 2, 2, generator=generator())    # 400 sets of 20 pairs
    found = torch.tensor([ask.detour_of(each) for each in frames])
    assert found[:, 1].mean().item() == pytest.approx(found[:, 0].std().item(), rel=0.15)


def test_a_great_circle_of_equal_norms_keeps_them():
    a, b = torch.nn.functional.normalize(torch.randn(2, 30, 20, generator=generator()), dim=-1)
    assert ask.middle(slerp(a, b).norm(dim=-1)) == pytest.approx(1, rel=1e-5)


# ---- twice the steps


def test_doubling_the_steps_tells_a_line_from_a_jump_from_noise():
    images = torch.rand(30, 3, 8, 8, generator=generator())
    for steps in (9, 18):
        found = ask.known_doublings(images, steps, seed=0)
        assert found["cross-fade"] == pytest.approx(2, abs=1e-4)
        assert found["jump"] == pytest.approx(1, abs=1e-5)
        assert found["noise"] == pytest.approx(0, abs=0.02)


def test_a_smooth_curve_has_an_exponent_near_two():
    def circle(n):
        angle = torch.linspace(0, 2, n + 1).view(1, -1, 1, 1, 1)
        return torch.cat([0.5 + angle.cos() / 2, 0.5 + angle.sin() / 2], 2)

    assert ask.doubling_exponent(circle(9), circle(18)) == pytest.approx(2, abs=0.02)


def test_as_many_intervals_as_the_square_law_says_give_the_claimed_step():
    ends = torch.rand(3, 2, 3, 4, 4, generator=generator())
    nine, thirteen = (samples.smoothness(ask.cross_fade(
        torch.cat([ends[:, :1].expand(-1, n, -1, -1, -1), ends[:, 1:]], 1))).mean().item()
        for n in (9, 13))
    assert ask.intervals_for(nine, thirteen) == pytest.approx(13, rel=1e-4)


# ---- pairs of one class


def test_least_squares_finds_planted_coefficients_with_their_errors():
    draw, slopes, errors = generator(), [], []
    for _ in range(200):
        x, same = torch.randn(150, generator=draw), torch.rand(150, generator=draw) < 0.5
        noise = (1 + x.abs()) * torch.randn(150, generator=draw)        # of unequal variance
        found = ask.least_squares({"mean": torch.ones(150), "x": x, "same": same},
                                  3 + 2 * x - 0.7 * same + noise)
        slopes.append([found[name][0] for name in ("mean", "x", "same")])
        errors.append([found[name][1] for name in ("mean", "x", "same")])
    slopes, errors = torch.tensor(slopes), torch.tensor(errors)
    assert torch.allclose(slopes.mean(0), torch.tensor([3.0, 2.0, -0.7]), atol=0.1)
    assert torch.allclose(errors.mean(0), slopes.std(0), rtol=0.15)


def test_a_class_that_is_only_nearer_has_no_effect_at_equal_distance():
    draw = generator()
    same = torch.arange(2000) < 1000
    distance = torch.rand(2000, generator=draw) + 1 - 0.4 * same        # one class is nearer
    detour = 1 + 0.1 * distance.log2() + 0.01 * torch.randn(2000, generator=draw)
    effects = ask.class_effect(detour, distance, same)
    raw, fair, slope = (effects[name] for name in ("as they come", "at equal distance",
                                                   "twice the distance"))
    assert raw[0] < -20 * raw[1]
    assert abs(fair[0]) < 3 * fair[1]
    assert slope[0] == pytest.approx(0.1, abs=3 * slope[1])


def test_pairs_are_of_one_class_or_of_two_as_they_say_and_never_an_image_with_itself():
    labels = torch.arange(60) % 3
    index, same = ask.class_pairs(made_set(grey(60), labels, ("a", "b", "c")), 30, seed=0)
    assert len(index) == 60 and same.sum() == 30
    assert torch.equal(labels[index[:, 0]] == labels[index[:, 1]], same)
    assert (index[:, 0] != index[:, 1]).all()


def test_classes_that_are_clusters_have_shorter_steps_within_than_between(model):
    labels = torch.arange(60) % 2
    images = grey(60) // 8 + (labels * 200).to(torch.uint8).view(-1, 1, 1, 1)    # dark and bright
    index, same = ask.class_pairs(made_set(images, labels, ("dark", "bright")), 30, seed=0)
    steps, detour, distance = ask.detours(model, images, index)
    assert steps[same].mean() < 0.5 * steps[~same].mean()
    assert distance[same].mean() < distance[~same].mean()
    assert torch.allclose(detour, torch.ones(60), atol=1e-3)            # of a linear decoder


# ---- the chapter on faces of which there are few


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """The chapter, a model that nothing has trained, and drawn faces."""
    lab = Lab({"TRAIN_LIMIT": 160, "DATA": "standin", "DEVICE": "cpu", "PRECISION": "fp32",
               "RUNS": str(tmp_path_factory.mktemp("faces"))})
    run = SimpleNamespace(model=build(RECIPES["celeba64"]).eval(), hash="0123abcd")
    return ask.Chapter(lab, None, None), run, lab.faces.test


def test_faces_between_faces_are_drawn_with_alt_text(faces):
    chapter, run, test = faces
    drawn = chapter.faces(run, test)
    assert isinstance(drawn, Figure) and len(drawn.alt) > 20


def test_paths_between_faces_have_numbers_and_a_cross_fade_takes_no_detour(faces):
    chapter, run, test = faces
    rows = {row["path"]: row for row in chapter.face_paths(run, test).rows}
    assert rows["cross-fade"]["detour"] == pytest.approx(1)
    assert rows["cross-fade"]["exponent"] is None
    assert rows["straight line"]["exponent"] == pytest.approx(2, abs=0.1)
    found = chapter.lab.found
    assert found["face_paths.detour"] >= 1 and found["face_paths.fade_detour"] == pytest.approx(1)
