"""The judge: a classifier that its seed decides, kept on disk, and distances on its features."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch

import data
from lab import judge, likeness
from lab.files import write_state
from lab.ladder import GRID, blur, blur_at

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


def standin(split, limit=400):
    return data.load("cifar10", split, source="standin", limit=limit)


def make(train, test, folder, **more):
    return judge.Judge("FD-test", train, test, runs=folder, **{
        "device": "cpu", "bf16": False, "epochs": 2, "seed": 0, **more})


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make(standin("train"), standin("test"), tmp_path_factory.mktemp("judge"))


@pytest.fixture(scope="module")
def images():
    return standin("test").images


def test_judge_knows_real_images_from_their_mean(tmp_path):
    train, test = standin("train", 200), standin("test", 200)
    said = []
    made = make(train, test, tmp_path, epochs=1, progress=lambda *what: said.append(what))
    assert said and (made.name, made.n) == ("FD-test", 200) and 0 <= made.accuracy <= 1
    assert made.distance(test.images) == pytest.approx(0, abs=1e-6 + 1e-6 * made.ceiling)
    assert made.floor < made.ceiling
    noise = torch.randint(0, 256, test.images.shape, dtype=torch.uint8, generator=generator())
    assert made.distance(noise) > made.floor


def test_what_is_measured_is_what_the_measures_give(made, images):
    found = made.measure(images[:150])
    described, real = judge.features(made.net, images[:150]), judge.features(made.net, images[200:])
    assert found["distance"] == pytest.approx(made.distance(images[:150]), rel=1e-6)
    value, error = likeness.kid(likeness.directions(real[:150]), likeness.directions(described))
    assert (found["kid"], found["kid_error"]) == pytest.approx((value, error), abs=1e-6)
    assert found["kid_raw"] == pytest.approx(likeness.kid(real[:150], described)[0], abs=1e-5)
    expected = likeness.recall_and_coverage(real[:150], described)
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=0.02)


def test_more_images_than_there_are_real_ones_to_compare_with_are_cut(made, images):
    whole, half = made.measure(images), made.measure(images[:200])
    assert whole["distance"] < half["distance"]                 # only that one is of all images
    assert {key: whole[key] for key in ("kid", "recall", "density", "sharpness")} == pytest.approx(
        {key: half[key] for key in ("kid", "recall", "density", "sharpness")}, abs=1e-6)


def test_other_real_images_are_where_they_belong(made):
    nothing = made.ladder["nothing"]
    assert abs(nothing["kid"]) < 4 * nothing["kid_error"]
    assert nothing["recall"] > 0.5 and nothing["coverage"] > 0.8
    assert made.ends["real"]["distance"] == made.floor
    assert made.ends["mean"]["distance"] == made.ceiling and made.ends["mean"]["recall"] == 0


def test_the_ladder_has_no_image_in_common_with_what_it_is_compared_with(made, images):
    assert torch.equal(made.some, images[:200])
    torch.testing.assert_close(made.reference, judge.features(made.net, images)[200:])


@pytest.mark.parametrize("width", [0.7, 1.2, 2.2])
def test_a_blur_is_read_off_in_its_own_pixels(made, images, width):
    found = made.measure(blur(images[:200], width))
    assert found["blur"] == pytest.approx(width, rel=0.03) and found["blur_end"] == ""
    assert found["blur_sharpness"] == pytest.approx(width, rel=0.03)
    curve, error = made.blur_curve()[1], found["kid_error"]
    at = [blur_at(GRID, curve, found["kid"] + off)[0] for off in (-error, error)]
    assert found["blur_error"] == (None if None in at else pytest.approx((at[1] - at[0]) / 2))
    for rung, width in (("blur 1", 1), ("blur 2", 2)):
        assert made.ladder[rung]["blur"] == pytest.approx(width)
        assert made.ladder[rung]["blur_fd"] == pytest.approx(width)


@pytest.fixture(scope="module")
def textured(tmp_path_factory):
    """A judge of images with grain, which a blur takes away, and other images like them."""
    images, labels = stripes(1200)
    train, test = (as_set(images[i:i + 400], labels[i:i + 400]) for i in (0, 400))
    return make(train, test, tmp_path_factory.mktemp("textured"), epochs=8), images[800:]


def test_the_blur_of_other_images_is_read_off_nearly_as_well(textured):
    made, other = textured
    for width in (0.6, 0.8, 1.0):
        assert made.measure(blur(other, width))["blur"] == pytest.approx(width, rel=0.1)


def test_beyond_the_ladder_the_end_is_said(textured, made, images):
    nothing, negative = textured[0].ladder["nothing"], made.measure(255 - images)
    for found, end in ((nothing, "< 0.5"), (negative, "> 8")):
        assert (found["blur"], found["blur_end"], judge.blur_shown(found)) == (None, end, end)
    assert judge.blur_shown({"blur": 1.5, "blur_end": ""}) == 1.5
    assert judge.blur_shown({"blur": None, "blur_end": ""}) is None


def test_what_cannot_be_measured_of_few_images_is_none(made, images):
    few = made.measure(images[:3])
    assert few["recall"] is None and few["kid_error"] is None and few["distance"] is not None
    grey = made.measure(torch.full((50, 3, 32, 32), 0.5))
    assert all(value is None or isinstance(value, str) or math.isfinite(value)
               for value in grey.values())


def test_a_judge_of_very_few_test_images_says_what_it_can(tmp_path):
    train, test = standin("train", 60), standin("test", 8)
    found = make(train, test, tmp_path, epochs=1).measure(train.images)
    assert found["distance"] is not None and found["recall"] is None
