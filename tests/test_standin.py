"""The drawn stand-in: deterministic, a prefix of itself, and as its factors say."""

import time

import numpy as np
import pytest
import torch

import data
from data import drawing, faces, scenes, standin

BOTH = pytest.mark.parametrize("name", ["cifar10", "celeba"])


def drawn(name, split="train", limit=60, **options):
    return data.load(name, split, limit=limit, source="standin", **options)


@BOTH
def test_seed_and_split_decide_every_pixel(name):
    sets = [drawn(name), drawn(name, seed=1), drawn(name, "test")]
    sets += [drawn(name, "valid")] if name == "celeba" else []
    assert len({each.fingerprint for each in sets}) == len(sets)
    assert drawn(name).fingerprint == sets[0].fingerprint


@pytest.mark.parametrize("name, fingerprint", [
    ("cifar10", "9b38f14a475257de"), ("celeba", "2e23c6eee27c64f7")])
def test_pictures_are_the_same_on_every_machine(name, fingerprint):
    assert drawn(name, limit=200).fingerprint == fingerprint


@BOTH
def test_fewer_pictures_are_the_beginning_of_more(name, monkeypatch):
    monkeypatch.setattr(standin, "CHUNK", 32)
    many = drawn(name, limit=100)
    for limit in (1, 32, 33, 99):
        few = drawn(name, limit=limit)
        assert few.fingerprint == many.take(limit).fingerprint
        assert all(torch.equal(few.factors[key], many.factors[key][:limit]) for key in few.factors)


@BOTH
def test_division_of_the_work_changes_nothing(name, monkeypatch):
    before = drawn(name).fingerprint
    monkeypatch.setattr(standin.ARTISTS[name], "BATCH", 7)
    monkeypatch.setattr("os.cpu_count", lambda: 3)
    assert drawn(name).fingerprint == before


@pytest.mark.parametrize("side", [32, 64, 128])
def test_set_has_the_form_of_the_real_one(side):
    images = drawn("celeba", side=side, limit=5)
    assert images.images.shape == (5, 3, side, side) and images.images.dtype == torch.uint8
    assert images.images.is_contiguous() and not images.real and "stand-in" in images.source
    assert images.labels.shape == (5, len(images.label_names)) and images.labels.dtype == torch.bool
    assert all(value.shape == (5,) for value in images.factors.values())


def test_scenes_have_ten_classes_about_as_often():
    images = drawn("cifar10", limit=2_000)
    assert images.images.shape == (2_000, 3, 32, 32) and images.labels.dtype == torch.int64
    assert images.label_names[3] == "cat" and len(images.label_names) == 10
    counts = torch.bincount(images.labels, minlength=10)
    assert counts.min() > 140 and counts.max() < 260          # 200 expected, ± 4 deviations


@pytest.mark.parametrize("split, most, usual", [
    ("train", 20_000, 4_000), ("valid", 2_000, 800), ("test", 2_000, 800)])
def test_few_are_drawn_where_nobody_asked_for_a_number(split, most, usual):
    def number(limit, side=64):
        return standin._number("celeba", split, side, limit)
    assert (number(0), number(0, 128)) == (usual, usual // 4)
    assert (number(1_500), number(1_500, 128), number(99_999)) == (1_500, 1_500, most)
    assert standin._number("cifar10", "train", 32, 99_999) == 50_000


def test_source_says_how_many():
    assert "1,234 pictures" in drawn("cifar10", limit=1_234).source


# ---- the truth behind the pictures

@BOTH
def test_factors_redraw_their_pictures(name):
    images = drawn(name)
    columns = {key: value.numpy() for key, value in images.factors.items()}
    again = standin.render(name, columns, images.images.shape[-1])
    assert np.array_equal(again, images.images.numpy())


@BOTH
def test_factors_are_independent(name):
    columns = standin._factors(name, "train", 4_000, seed=0)
    correlation = np.corrcoef(np.stack(list(columns.values())))
    assert np.abs(correlation - np.eye(len(columns))).max() < 4.5 / 4_000 ** 0.5


def test_attributes_say_what_the_factors_say():
    images = drawn("celeba", limit=500)
    flag = dict(zip(images.label_names, images.labels.T, strict=True))
    assert tuple(sorted(images.label_names)) == images.label_names
    assert torch.equal(flag["Smiling"], images.factors["smile"] > 0.5)
    assert torch.equal(flag["Pale_Skin"], images.factors["skin"] > 0.75)
    hair = flag["Black_Hair"].int() + flag["Brown_Hair"].int() + flag["Blond_Hair"].int()
    assert (hair == 1).all()
    for name in faces.SWITCHES:
        assert torch.equal(flag[name], images.factors[name] == 1)


def changed_pixels(factor, low, high, side=64):
    """Where (side, side) faces in the middle of the picture differ when one factor does."""
    columns = standin._factors("celeba", "train", 40, seed=0)
    columns.update(x=np.full(40, 0.5, np.float32), y=np.full(40, 0.5, np.float32),
                   Wearing_Hat=np.zeros(40, np.float32))
    before, after = (standin.render("celeba", {**columns, factor: np.full(40, value, np.float32)},
                                    side).astype(int) for value in (low, high))
    assert (np.abs(after - before).max((1, 2, 3)) > 8).all()    # in each of the faces
    return (np.abs(after - before) > 2).any((0, 1))


@pytest.mark.parametrize("factor, top, bottom", [
    ("Eyeglasses", 24, 40), ("Mustache", 34, 47), ("Wearing_Lipstick", 38, 55), ("smile", 34, 55),
    ("mouth", 38, 55), ("eyes", 26, 38), ("Bangs", 10, 34), ("Wearing_Hat", 0, 31)])
def test_each_factor_changes_its_own_part_of_the_face(factor, top, bottom):
    rows = np.flatnonzero(changed_pixels(factor, 0, 1).any(1))
    assert top <= rows.min() and rows.max() < bottom


@pytest.mark.parametrize("factor", faces.FACTORS)
def test_every_factor_can_be_seen_in_every_face(factor):
    assert changed_pixels(factor, 0.0, 1.0 if factor in faces.SWITCHES else 0.9).any()


@pytest.mark.parametrize("factor", scenes.FACTORS)
def test_every_factor_can_be_seen_in_some_scene(factor):
    columns = standin._factors("cifar10", "train", 40, seed=0)
    other = {**columns, factor: 1 - columns[factor] if factor == "mirror" else
             (columns[factor] + 4) % 10 if factor == "class" else 1 - columns[factor]}
    assert (standin.render("cifar10", columns, 32) != standin.render("cifar10", other, 32)).any()


def test_attributes_can_be_read_from_unseen_faces():
    """A linear map of the pixels, fitted to 1,000 faces, tells them in 500 others."""
    images = drawn("celeba", side=32, limit=1_500)
    x, y = images.images.flatten(1).double() / 255, images.labels.double() * 2 - 1
    x = torch.cat([x - x.mean(0), torch.ones(len(x), 1)], 1)
    gram = x[:1_000] @ x[:1_000].T + 3 * torch.eye(1_000)
    weights = x[:1_000].T @ torch.linalg.solve(gram, y[:1_000])
    right = ((x[1_000:] @ weights).sign() == y[1_000:]).double().mean(0).tolist()
    right = dict(zip(images.label_names, right, strict=True))
    assert min(right[name] for name in ("Eyeglasses", "Male", "Wearing_Hat")) > 0.95
    assert right["Blond_Hair"] > 0.9 and right["Smiling"] > 0.7


# ---- the shapes

@pytest.fixture
def canvas():
    return drawing.Canvas.blank(1, 200)


def area(coverage):
    """The area of a shape, the picture's being 1."""
    return float(np.broadcast_to(coverage, (1, 200, 200)).mean())


def test_areas_are_geometrys(canvas):
    assert area(canvas.ellipse(0.5, 0.4, 0.2, 0.2)) == pytest.approx(np.pi * 0.04, rel=2e-3)
    assert area(canvas.ellipse(0.5, 0.4, 0.3, 0.15)) == pytest.approx(np.pi * 0.045, rel=5e-3)
    assert area(canvas.box(0.5, 0.5, 0.2, 0.1)) == pytest.approx(0.08, rel=2e-3)
    assert area(canvas.box(0.5, 0.5, 0.2, 0.1, 0.1)) == pytest.approx(
        0.08 - (4 - np.pi) * 0.01, rel=2e-3)
    assert area(canvas.polygon((0.1, 0.9), (0.5, 0.1), (0.9, 0.9))) == pytest.approx(0.32, rel=2e-3)
    assert area(canvas.line(0.2, 0.5, 0.8, 0.5, 0.1)) == pytest.approx(
        0.06 + np.pi * 0.0025, rel=5e-3)
    assert area(canvas.band(np.float32(0.5), np.float32(0.001))) == pytest.approx(0.002, rel=0.5)
    assert area(canvas.above(np.float32(0.3))) == pytest.approx(0.3, rel=1e-5)
    assert area(canvas.at(0.5, 0.5, 0.1).ellipse(0, 0, 1, 1)) == pytest.approx(
        np.pi * 0.01, rel=2e-3)


def test_paint_mixes_by_coverage(canvas):
    canvas.paint(np.full((1, 200, 200), 0.25, np.float32), drawing.rgb("ff0080"))
    assert canvas.pixels[0, :, 7, 9] == pytest.approx([0.25, 0, 0.25 * 128 / 255])


@pytest.mark.parametrize("position, colour", [
    (0, (1, 0, 0)), (1 / 6, (1, 1, 0)), (1 / 3, (0, 1, 0)), (1 / 2, (0, 1, 1)), (2 / 3, (0, 0, 1)),
    (1, (1, 0, 0)), (1.5, (0, 1, 1))])
def test_hue_goes_round_the_circle(position, colour):
    place = np.full((1, 1, 1), position, np.float32)
    assert drawing.hue(place, 1.0, 1.0)[0, :, 0, 0] == pytest.approx(colour, abs=1e-6)
    assert drawing.hue(place, 0.0, 0.4)[0, :, 0, 0] == pytest.approx([0.4] * 3)


def test_ramp_passes_through_its_colours():
    for place, code in [(0, "102030"), (0.5, "ff0000"), (1, "00ff10")]:
        colour = drawing.ramp(np.full((1, 1, 1), place, np.float32), "102030", "ff0000", "00ff10")
        assert colour == pytest.approx(drawing.rgb(code))


@pytest.mark.parametrize("side", [32, 64, 128])
def test_windows_cut_nothing_off(side, monkeypatch):
    columns = standin._factors("celeba", "train", 64, seed=0)
    for i, name in enumerate(("x", "y", "size", "yaw")):        # and all of their corners
        columns[name][:16] = np.arange(16) >> i & 1
    within = faces.paint(columns, side)
    monkeypatch.setattr(faces.Face, "part", lambda face, *bounds: face.canvas)
    assert np.array_equal(faces.paint(columns, side), within)


@pytest.mark.timing
@BOTH
def test_drawing_is_fast(name):
    before = time.process_time()
    drawn(name, limit=500)
    assert time.process_time() - before < 3     # a tenth of it where nothing else runs
