"""Weights that are shipped: few bits, the loss that they promise, and what visitors see of them."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import Trap

import data
from data import load_splits, standin
from lab import visitors
from lab.__main__ import main
from lab.files import Damaged
from lab.recipes import RECIPES
from lab.runs import Job
from lab.shipped import (
    at_8_bits,
    eight_bits,
    floors,
    kept_of,
    mean_loss,
    read_shipped,
    unpacked,
    write_shipped,
)
from lab.training import decode_set, draw_images, encode_set, evaluate
from vae_helpers import build

TINY = {"improved": RECIPES["improved"].but(widths=(4, 8), latent=5, epochs=1, lr=1e-4),
        "faces": RECIPES["faces"].but(widths=(4, 8), latent=4, epochs=1),
        "celeba32": RECIPES["celeba32"].but(widths=(4, 8), latent=4, epochs=1)}


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A folder with the three files, made of trainings of a second, and one with those runs."""
    folder, runs = (tmp_path_factory.mktemp(name) for name in ("weights", "runs"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(standin, "FEW", {"train": 150, "valid": 60, "test": 100})
        for name, recipe in TINY.items():
            patch.setitem(RECIPES, name, recipe)
            splits = load_splits(recipe.data, recipe.side, source="standin")
            run = Job(recipe, splits, 1, runs=runs, device="cpu", wanted="fp32").train()
            parts, about = kept_of(run, splits, decoder_alone=name == "celeba32")
            write_shipped(folder / f"{name}.npz", parts, about)
        yield folder, runs


def refused(name, folder):
    """The one sentence that reading ends in."""
    with pytest.raises(Damaged) as caught:
        read_shipped(name, folder)
    assert "\n" not in str(caught.value) and str(folder / f"{name}.npz") in str(caught.value)
    return str(caught.value)


# ---- few bits


def test_at_8_bits_every_output_channel_is_right_to_half_a_step_of_its_own():
    model = build(TINY["improved"])
    sizes = 10.0 ** torch.arange(-2, 2)
    with torch.no_grad():
        model.decoder[2].weight *= sizes.view(1, 4, 1, 1)
        model.decoder[0].weight *= torch.linspace(1, 50, len(model.decoder[0].weight))[:, None]
    weights = model.decoder.state_dict()
    packed = at_8_bits(weights)
    for name, axis in (("0.weight", 0), ("2.weight", 1)):
        weight, back = weights[name], unpacked(packed)[name]
        largest = weight.abs().transpose(0, axis).flatten(1).amax(1)
        off = (back - weight).abs().transpose(0, axis).flatten(1).amax(1)
        assert packed[name].dtype == torch.int8 and (off <= largest / 254 * 1.0001).all()
        assert packed[f"{name}.scale"].numel() == weight.shape[axis]
    assert {part.dtype for name, part in packed.items() if "bias" in name} == {torch.float16}
    q, scale = eight_bits(torch.tensor([[0.0, -3.0, 1.5], [0.0, 0.0, 0.0]]), axis=0)
    assert q.tolist() == [[0, -127, 64], [0, 0, 0]] and scale[0] == pytest.approx(3 / 127)


def test_a_file_is_as_good_as_its_text_promises(kept):
    for name in ("improved", "faces"):
        shipped = read_shipped(name, kept[0])
        assert shipped.recipe == TINY[name] and shipped.about["bits"] == 16
        test = data.load(shipped.recipe.data, "test", shipped.recipe.side, source="standin")
        promised = shipped.about["loss"]
        assert mean_loss(shipped.model, test) == pytest.approx(promised["standin"], abs=0.01)
        assert promised["test"] == promised["standin"]              # trained on stand-ins
        assert promised["test"] == pytest.approx(shipped.about["unrounded"], abs=0.05)
        assert not shipped.model.training


def test_of_a_decoder_alone_nothing_is_encoded_and_draws_are_as_promised(kept):
    shipped = read_shipped("celeba32", kept[0])
    draws = draw_images(shipped.model, 64)
    assert draws.mean().item() == pytest.approx(shipped.about["draws"], abs=1e-5)
    assert shipped.model.encoder is None and "losses" not in shipped.arrays
    loss = shipped.about
    assert loss["bits"] == 8 and loss["loss"]["test"] == pytest.approx(loss["unrounded"], abs=2)


# ---- refused


def test_damage_is_one_sentence_and_a_pickled_array_does_nothing(kept, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "is missing" in refused("improved", tmp_path)
    path, arrays = tmp_path / "improved.npz", dict(np.load(kept[0] / "improved.npz"))
    with open(path, "wb") as file:
        np.save(file, np.zeros(3))                      # no archive
    assert "is damaged" in refused("improved", tmp_path)
    np.savez(path, **arrays | {"mean": np.array([Trap()], object)})
    assert "no file of plain arrays" in refused("improved", tmp_path)
    assert not Path("was here").exists()
    arrays["model.to_mu.bias"].view(np.uint16)[0] ^= 1
    np.savez(path, **arrays)
    assert "another digest" in refused("improved", tmp_path)


def test_the_file_of_another_recipe_is_refused(kept, tmp_path, monkeypatch):
    shutil.copy(kept[0] / "faces.npz", tmp_path / "improved.npz")
    assert "another recipe than improved (faces)" in refused("improved", tmp_path)
    monkeypatch.setitem(RECIPES, "faces", TINY["faces"].but(activation="relu"))
    assert "another recipe than faces" in refused("faces", kept[0])


def test_only_what_is_finished_on_real_images_is_shipped(tmp_path, capsys):
    arguments = ["ship", "improved", "--runs", str(tmp_path), "--data", "standin", "--limit", "100"]
    assert main(arguments) == 1 and "real images" in capsys.readouterr().err


# ---- samples


def test_a_class_is_drawn_from_the_gaussian_of_its_codes(kept):
    shipped = read_shipped("improved", kept[0])
    train = data.load("cifar10", "train", 32, source="standin")
    label = int(train.labels.mode().values)
    mu, logvar = encode_set(shipped.model, train.images[train.labels == label])
    mean, root = (shipped.arrays[f"class_{part}"][label] for part in ("mean", "root"))
    variance = mu.var(0) + logvar.exp().mean(0)
    torch.testing.assert_close(mean, mu.mean(0), rtol=0.01, atol=0.01)
    torch.testing.assert_close((root @ root.T).diag(), variance, rtol=0.01, atol=0.01)
    shipped.arrays["class_root"].zero_()
    at_mean = decode_set(shipped.model, mean[None]).expand(3, -1, -1, -1)
    torch.testing.assert_close(visitors.class_draws(shipped, label, 3), at_mean)


def test_a_sheet_has_draws_a_class_and_walks_of_both_models(kept, tmp_path, monkeypatch, capsys):
    rows = visitors.samples_of(read_shipped("improved", kept[0]), seed=3)
    assert [len(row) for row in rows.values()] == [10] * 4
    assert f"class {data.load('cifar10', 'test', limit=1, source='standin').label_names[3]}" in rows
    monkeypatch.setattr(visitors, "read_shipped", lambda name, folder: read_shipped(name, kept[0]))
    assert main(["sample", "--seed", "3", "--out", str(tmp_path / "a.png")]) == 0
    assert Image.open(tmp_path / "a.png").size[0] > 660 and "a.png" in capsys.readouterr().out
    assert main(["sample", "--out", str(tmp_path / "a.jpg")]) == 1
    assert "end in .png" in capsys.readouterr().err


# ---- one's own picture


def test_a_test_image_costs_what_it_costs_among_its_like(kept, tmp_path):
    folder, runs = kept
    shipped = read_shipped("improved", folder)
    images = data.load("cifar10", "test", 32, source="standin").images
    losses = evaluate(shipped.model, images).loss(1.0) - floors(images)
    i = int(losses.argsort()[80])
    Image.fromarray(images[i].permute(1, 2, 0).numpy()).save(tmp_path / "it.png")
    pca, own = visitors.own_picture(tmp_path / "it.png", runs=tmp_path, folder=folder).table.rows
    assert own["nats above its floor"] == pytest.approx(losses[i].item(), abs=10)
    assert own["test images that cost less"] == pytest.approx(0.8, abs=0.05)
    assert (pca["model"], own["model"]) == ("PCA", "improved")
    assert pca["nats above its floor"] > 0


def test_floors_are_the_entropies_of_pixels_and_a_perfect_answer_costs_nothing_above():
    images = torch.tensor([0, 255, 51, 102], dtype=torch.uint8).repeat(2, 3).view(2, 3, 2, 2)
    p = torch.tensor([0.2, 0.4]).double()
    known = 3 * -(p * p.log() + (1 - p) * (1 - p).log()).sum()
    torch.testing.assert_close(floors(images), known.float().expand(2))


def test_finished_runs_stand_beside_it_and_others_do_not(kept, tmp_path, monkeypatch, capsys):
    folder, runs = tmp_path / "w", shutil.copytree(kept[1], tmp_path / "runs")
    shutil.copytree(kept[0], folder)
    splits = load_splits("cifar10", 32, source="standin")
    small = RECIPES["small"].but(widths=(4,), latent=3, epochs=1)
    others = small.but(name="squares", reconstruction="sse"), small.but(name="damaged")
    for recipe in (small, *others):
        Job(recipe, splits, 1, runs=runs, device="cpu", wanted="fp32").train()
    capsys.readouterr()                                 # the trainings' own lines
    [file] = runs.glob("damaged-*/state.pt")
    file.write_bytes(file.read_bytes()[:500])
    (runs / "foreign").mkdir()
    (runs / "foreign" / "run.json").write_text("{}")
    Image.new("RGB", (50, 40), "teal").save(tmp_path / "photo.png")
    monkeypatch.setattr(visitors, "read_shipped", lambda name, _: read_shipped(name, folder))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")           # where the sheet goes, not to the pictures
    assert main(["picture", str(tmp_path / "photo.png"), "--runs", str(runs)]) == 0
    out = capsys.readouterr().out
    assert "small" in out and "squares" not in out and f"{file} is damaged" in out
    assert Path("photo-improved.png").exists() and not (tmp_path / "photo-improved.png").exists()
    assert main(["picture", str(tmp_path / "photo.png"), "--faces", "--runs", str(runs)]) == 0
    assert "eyes" in capsys.readouterr().out and Path("photo-faces.png").exists()
