"""Drawn pictures: the same everywhere, a prefix of themselves, and as their factors say."""

import numpy as np
import pytest
import torch

import data
from data import drawing, faces, scenes, standin

NAMES = pytest.mark.parametrize("name", ["cifar10", "celeba", "drawn"])


def drawn(name, split="train", limit=60):
    return data.load(name, split, limit=limit, source="standin")


@pytest.mark.parametrize("name, fingerprint", [
    ("cifar10", "16255a0c8fdf25e2"), ("celeba", "e2c41a38bce2b130"),
    ("drawn", "61ba4051cda37fba")])
def test_pictures_are_the_same_on_every_machine(name, fingerprint):
    assert drawn(name, limit=200).fingerprint == fingerprint


@NAMES
def test_fewer_pictures_are_the_beginning_of_more_however_the_work_is_divided(name, monkeypatch):
    monkeypatch.setattr(standin, "CHUNK", 32)
    many = drawn(name, limit=100)
    assert drawn(name, "test", 100).fingerprint != many.fingerprint
    monkeypatch.setattr(standin, "BATCH", 7)
    for limit in (1, 32, 33):
        few = drawn(name, limit=limit)
        assert few.fingerprint == many.take(limit).fingerprint
        assert all(torch.equal(few.factors[key], many.factors[key][:limit]) for key in few.factors)


def test_drawn_faces_never_look_for_files_and_are_many(tmp_path, monkeypatch):
    monkeypatch.setattr(standin, "render", lambda name, factors, side, progress: np.zeros(
        (len(factors["x"]), 3, 1, 1), np.uint8))
    many = data.load_splits("drawn", 32, limit=99_999, source="real", root=tmp_path)
    assert [len(part) for part in many] == [20_000, 2_000, 2_000]
    assert not any(part.real for part in many) and "stand-in" not in many.train.source


# ---- the truth behind the pictures

@NAMES
def test_factors_redraw_their_pictures(name):
    images = drawn(name)
    columns = {key: value.numpy() for key, value in images.factors.items()}
    again = standin.render(name, columns, images.images.shape[-1])
    assert np.array_equal(again, images.images.numpy())


@NAMES
def test_factors_are_uniform_and_independent(name):
    columns = standin._factors(name, "train", 4_000)
    correlation = np.corrcoef(np.stack(list(columns.values())))
    assert np.abs(correlation - np.eye(len(columns))).max() < 4.5 / 4_000 ** 0.5
    for factor, k in standin.ARTISTS[name].FACTORS.items():
        assert abs(columns[factor].mean() - max(k - 1, 1) / 2) < 0.03 * max(k, 1)
        assert set(columns[factor]) == set(range(k)) if k else len(set(columns[factor])) > 3_900


def test_labels_say_what_the_factors_say():
    images = drawn("drawn", limit=500)
    flag = dict(zip(images.label_names, images.labels.T, strict=True))
    hair, black, blond = images.factors["hair"], flag.pop("Black_Hair"), flag.pop("Blond_Hair")
    assert torch.equal(black, hair < 0.33) and torch.equal(blond, hair >= 0.67)
    assert torch.equal(flag.pop("Brown_Hair"), ~black & ~blond)
    marks = {"Smiling": ("smile", 0.5), "Mouth_Slightly_Open": ("mouth", 0.5),
             "Pale_Skin": ("skin", 0.75)}
    for name, value in flag.items():
        factor, mark = marks.get(name, (name, 0))
        assert torch.equal(value, images.factors[factor] > mark)
    pictures = drawn("cifar10")
    assert torch.equal(pictures.labels, pictures.factors["class"].long())


@pytest.mark.parametrize("name, factor", [
    *[("drawn", factor) for factor in faces.FACTORS],
    *[("cifar10", factor) for factor in scenes.FACTORS]])
def test_every_factor_can_be_seen_at_32_pixels(name, factor):
    columns = standin._factors(name, "train", 40)
    before, after = (standin.render(name, {**columns, factor: np.full(40, value, np.float32)}, 32)
                     .astype(int) for value in (0, 1))
    seen = np.abs(after - before).max((1, 2, 3)) > 16
    assert seen.all() or factor == "mirror" and seen.mean() > 0.5   # a cat is its own mirror image


# ---- the shapes

def test_areas_are_geometrys():
    canvas = drawing.Canvas.blank(1, 200)
    for shape, area in [
            (canvas.ellipse(0.5, 0.4, 0.3, 0.15), np.pi * 0.045),
            (canvas.box(0.5, 0.5, 0.2, 0.1), 0.08), (canvas.below(0.3), 0.7),
            (canvas.polygon((0.1, 0.9), (0.5, 0.1), (0.9, 0.9)), 0.32),
            (canvas.bow(0.5, 0.5, 0.3, 0.2, 0.05), 0.06),
            (canvas.at(0.5, 0.5, 0.1).ellipse(0, 0, 1, 1), np.pi * 0.01)]:
        assert shape.mean() == pytest.approx(area, rel=5e-3)


def test_a_bow_smiles_and_paint_mixes_by_coverage():
    canvas = drawing.Canvas.blank(1, 100)
    bow = canvas.bow(0.5, 0.5, 0.4, 0.2, 0.03)[0]
    assert bow[59, 50] == bow[41, 88] == bow[41, 12] == 1 and bow[50, 50] == 0
    canvas.paint(drawing.rgb("ff0080"), np.full((1, 100, 100), 0.25, np.float32))
    assert canvas.pixels[0, :, 7, 5] == pytest.approx([0.25, 0, 0.25 * 128 / 255])
