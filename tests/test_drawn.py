"""Drawn pictures: the same everywhere, a prefix of themselves, and as their factors say."""

import numpy as np
import pytest
import torch

import data
from data import standin

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
