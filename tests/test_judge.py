"""The judge: a classifier that its seed decides, kept on disk, and distances on its features."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch

import data
from lab import judge
from lab.files import write_state

pytestmark = pytest.mark.usefixtures("one_thread")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def stripes(n=384, side=16):
    """Noisy images of three classes: stripes across, stripes down, none; and the classes."""
    labels = torch.arange(n) % 3
    wave = torch.sin(torch.arange(side) * math.pi / 2).expand(side, side)
    patterns = torch.stack([wave, wave.T, torch.zeros(side, side)])
    noise = 0.1 * torch.randn(n, 3, side, side, generator=generator())
    pixels = (0.5 + 0.2 * patterns[labels][:, None] + noise).clamp(0, 1)
    return (255 * pixels).byte(), labels


def as_set(images, labels):
    return data.image_set(name="cifar10", split="train", images=images, labels=labels,
                          label_names=("a", "b", "c"), source="made", real=False)


@pytest.fixture
def small():
    return as_set(*stripes(96))


def same(a, b):
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(p, q) for p, q in pairs)


# ---- the classifier


def test_feature_net_learns_planted_classes_and_attributes():
    images, labels = stripes()
    attributes = torch.stack([labels == 0, labels != 2], 1)
    for target in (labels, attributes):
        net = judge.train_feature_net(images[:288], target[:288], epochs=12)
        assert judge.accuracy(net, images[288:], target[288:]) > 0.95
    assert judge.features(net, images).shape == (384, 128)


def test_feature_net_is_decided_by_its_seed_and_leaves_the_global_one_alone():
    images, labels = stripes(96)
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    first, again, other = (judge.train_feature_net(images, labels, epochs=1, seed=seed)
                           for seed in (0, 0, 1))
    assert torch.rand(1) == expected
    assert same(first, again) and not same(first, other)


def test_features_do_not_depend_on_what_else_is_in_the_batch():
    images, labels = stripes(96)
    net = judge.train_feature_net(images, labels, epochs=1)
    together, alone = judge.features(net, images)[:2], judge.features(net, images[:2])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)


def test_features_of_bytes_are_those_of_floats():
    images, labels = stripes(96)
    net = judge.train_feature_net(images, labels, epochs=1)
    assert torch.equal(judge.features(net, images), judge.features(net, images.float() / 255))


def test_training_tells_of_every_epoch():
    said = []
    judge.train_feature_net(*stripes(300), epochs=3,
                            progress=lambda done, total, what: said.append((done, total, what)))
    assert [done for done, _, _ in said] == [2, 2, 2]  # of 256 and 44 images
    assert len({what for _, _, what in said}) == 3 and all(total == 2 for _, total, _ in said)


# ---- its file


def test_feature_net_is_trained_once_and_kept(small, tmp_path, monkeypatch):
    first = judge.feature_net(small, tmp_path / "nets", epochs=1)
    monkeypatch.delattr(judge, "train_feature_net")
    kept = judge.feature_net(small, tmp_path / "nets", epochs=1)
    assert same(first, kept) and not kept.training
    assert [path.suffix for path in (tmp_path / "nets").iterdir()] == [".pt"]


def test_the_fingerprint_stands_for_the_images(small, tmp_path, monkeypatch):
    judge.feature_net(small, tmp_path, epochs=1)
    monkeypatch.delattr(judge, "train_feature_net")
    judge.feature_net(replace(small, source="somewhere else"), tmp_path, epochs=1)


DAMAGES = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:1000]),
    "empty": lambda path: path.write_bytes(b""),
    "a pickle": lambda path: path.write_bytes(b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00]."),
    "a list": lambda path: torch.save([1, 2, 3], path),
    "without weights": lambda path: torch.save({"digest": "", "identity": ""}, path),
    "a flipped bit": lambda path: flip_a_bit(path),
    "of a changed weight": lambda path: change_a_weight(path),
    "another classifier's": lambda path: write_state(
        path, {"seed": 8}, model=torch.load(path)["model"]),
    "of other shapes": lambda path: write_state(
        path, identity_in(path), model=judge.FeatureNet(16, 5).state_dict()),
    "a list of weights": lambda path: write_state(path, identity_in(path), model=[1.0]),
}


def identity_in(path):
    return json.loads(torch.load(path)["identity"])


def flip_a_bit(path):
    """Flips one bit of the last layer's weights, which the archive keeps as they are."""
    weights = torch.load(path)["model"]["classify.weight"].numpy().tobytes()
    content = bytearray(path.read_bytes())
    content[content.index(weights) + 100] ^= 64
    path.write_bytes(content)


def change_a_weight(path):
    state = torch.load(path)
    state["model"]["classify.bias"][0] += 1
    torch.save(state, path)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_or_foreign_file_is_said_and_made_anew(small, tmp_path, damage):
    first = judge.feature_net(small, tmp_path, epochs=1)
    (path,) = tmp_path.iterdir()
    DAMAGES[damage](path)
    said = []
    again = judge.feature_net(small, tmp_path, epochs=1,
                              progress=lambda done, total, what: said.append(what))
    assert same(first, again) and path.name in said[0]
    said.clear()
    judge.feature_net(small, tmp_path, epochs=1, progress=lambda *_: said.append(_))
    assert not said and list(tmp_path.iterdir()) == [path]


def test_a_file_that_cannot_be_written_leaves_nothing_half_done(small, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="features-"):
        judge.feature_net(small, tmp_path, epochs=1)
    assert not list(tmp_path.iterdir())


CHANGES = {
    "images": lambda kept: {"train": as_set(kept["train"].images.flip(0), kept["train"].labels)},
    "labels": lambda kept: {"train": as_set(kept["train"].images, kept["train"].labels.flip(0))},
    "epochs": lambda kept: {"epochs": 2},
    "seed": lambda kept: {"seed": 1},
    "bf16": lambda kept: {"bf16": True},
}


@pytest.mark.parametrize("change", CHANGES)
def test_feature_net_of_another_identity_is_another_file(small, tmp_path, monkeypatch, change):
    monkeypatch.setattr(judge, "train_feature_net", lambda *_, **__: judge.FeatureNet(16, 3))
    settings = {"train": small, "epochs": 1, "seed": 0, "bf16": False}
    judge.feature_net(folder=tmp_path, **settings)
    judge.feature_net(folder=tmp_path, **settings | CHANGES[change](settings))
    assert len(list(tmp_path.iterdir())) == 2


# ---- the judge


def test_judge_knows_real_images_from_their_mean(tmp_path):
    train, test = (data.load("cifar10", split, source="standin", limit=200)
                   for split in ("train", "test"))
    said = []
    made = judge.Judge("FD-test", train, test, runs=tmp_path, device="cpu", bf16=False, epochs=1,
                       seed=0, progress=lambda *what: said.append(what))
    assert said and (made.name, made.n) == ("FD-test", 200) and 0 <= made.accuracy <= 1
    assert made.distance(test.images) == pytest.approx(0, abs=1e-6 + 1e-6 * made.ceiling)
    assert made.floor < made.ceiling
    noise = torch.randint(0, 256, test.images.shape, dtype=torch.uint8, generator=generator())
    assert made.distance(noise) > made.floor
