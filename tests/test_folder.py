"""Anybody's picture as it is read, and a folder of them as a dataset."""

import hashlib
import json

import numpy as np
import pytest
import torch
from PIL import Image

import data
from data.folder import FEWEST
from data.picture import read_picture
from lab.__main__ import main

RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)


def halves(size, mode="RGB", top=RED, below=BLUE):
    """A picture whose upper half has one colour and whose lower half another."""
    image = Image.new(mode, size, below)
    image.paste(top, (0, 0, size[0], size[1] // 2))
    return image


def colour(picture, row, column=4):
    return tuple(picture.pixels[:, row, column].tolist())


# ---- a picture


@pytest.mark.parametrize("size", [(8, 8), (800, 600), (31, 777)])
def test_the_middle_square_is_taken(tmp_path, size):
    halves(size).save(tmp_path / "a.png")
    seen = read_picture(tmp_path / "a.png", 8)
    assert seen.pixels.shape == (3, 8, 8) and seen.pixels.dtype == np.uint8 and seen.notes == []
    assert (colour(seen, 1), colour(seen, 6)) == (RED, BLUE)
    Image.new("RGB", (1, 1), RED).save(tmp_path / "b.png")
    assert (read_picture(tmp_path / "b.png", 8).pixels.reshape(3, -1).T == RED).all()


def test_exif_decides_what_is_up(tmp_path):
    exif = Image.Exif()
    exif[274] = 3                                       # upside down
    halves((64, 64)).save(tmp_path / "a.jpg", exif=exif, quality=95)
    seen = read_picture(tmp_path / "a.jpg", 8)
    assert seen.pixels[2, 1].min() > 240 and seen.pixels[0, 6].min() > 240


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "LA", "RGBA"])
def test_whatever_its_mode_it_becomes_colours(tmp_path, mode):
    halves((16, 16), top=WHITE, below=(0, 0, 0)).convert(mode).save(tmp_path / "a.tif")
    seen = read_picture(tmp_path / "a.tif", 8)
    assert (colour(seen, 1), colour(seen, 6)) == (WHITE, (0, 0, 0)) and seen.notes == []


def test_16_bits_of_grey_become_the_nearest_8(tmp_path):
    levels = np.repeat(np.arange(0, 65536, 8191, dtype=np.uint16)[:8, None], 8, 1)
    Image.fromarray(levels).save(tmp_path / "a.png")
    seen = read_picture(tmp_path / "a.png", 8)
    assert np.array_equal(seen.pixels[0], np.round(levels / 257)) and "16 bits" in seen.notes[0]


def test_white_shows_through_and_of_several_frames_the_first_is_taken(tmp_path):
    halves((16, 16), "RGBA", (255, 0, 0, 0), (0, 0, 255, 255)).save(tmp_path / "a.png")
    seen = read_picture(tmp_path / "a.png", 8)
    assert (colour(seen, 1), colour(seen, 6)) == (WHITE, BLUE) and "transparent" in seen.notes[0]
    frames = [Image.new("RGB", (16, 16), each) for each in (RED, BLUE, WHITE)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    seen = read_picture(tmp_path / "a.gif", 8)
    assert colour(seen, 4) == RED and seen.notes == ["the first of its 3 frames is taken"]


def test_what_is_no_picture_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "text.jpg").write_text("no picture")
    halves((64, 64)).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:70])
    (tmp_path / "folder.png").mkdir()
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2_000)           # twice as many are refused
    halves((64, 64)).save(tmp_path / "huge.png")
    for name in ("text.jpg", "cut.png", "folder.png", "huge.png", "absent.png"):
        with pytest.raises(data.DataError) as caught:
            read_picture(tmp_path / name, 8)
        assert str(tmp_path / name) in str(caught.value) and "\n" not in str(caught.value)


# ---- a folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """As many different pictures as are needed, one in a folder of its own, and what is none."""
    root = tmp_path_factory.mktemp("pictures")
    (root / "more").mkdir()
    for i in range(FEWEST):
        path = root / ("more" if i == 0 else ".") / f"{i}.png"
        Image.new("RGB", (9, 7), (i, 255 - i, 99)).save(path)
    (root / "notes.txt").write_text("no picture")
    (root / "._1.jpg").write_text("what one system leaves for another")
    return root


def loaded(folder):
    return data.load_splits("folder", 32, root=folder)


def test_a_digest_says_what_is_a_test_image(folder):
    sets = loaded(folder)
    files = {int(hashlib.sha256(path.read_bytes()).hexdigest(), 16): path
             for path in folder.rglob("*.png")}
    for images, test in ((sets.train, False), (sets.test, True)):
        known = [np.asarray(Image.open(files[digest]).resize((32, 32))).transpose(2, 0, 1)
                 for digest in sorted(files) if (digest % 6 == 0) == test]
        assert np.array_equal(images.images, np.stack(known)) and images.real
    assert sets.heldout is None and len(sets.train) + len(sets.test) == FEWEST
    assert "is a test image" in sets.train.source and "resized to 32×32" in sets.test.source


def test_neither_names_nor_copies_change_it_and_a_new_picture_moves_no_other(folder, tmp_path):
    before = loaded(folder)
    for i, path in enumerate(sorted(folder.rglob("*.png"))):
        (tmp_path / f"renamed {FEWEST - i}.PNG").write_bytes(path.read_bytes())
    (tmp_path / "copy.png").write_bytes(path.read_bytes())
    after = loaded(tmp_path)
    assert after.train.fingerprint == before.train.fingerprint
    assert after.test.fingerprint == before.test.fingerprint
    Image.new("RGB", (5, 5), "white").save(tmp_path / "new.png")
    sizes = [len(part) for splits in (before, loaded(tmp_path)) for part in splits if part]
    assert sorted(np.subtract(sizes[2:], sizes[:2])) == [0, 1]


def test_too_few_are_refused_in_one_sentence(folder, tmp_path, capsys):
    command = ["train", "small", "--data", "folder", "--runs", str(tmp_path / "runs")]
    Image.new("RGB", (5, 5)).save(tmp_path / "only.png")
    for root, named in ((tmp_path, f"1 different pictures where {FEWEST}"),
                        (tmp_path / "absent", "is no folder")):
        assert main([*command, "--data-root", str(root)]) == 1
        error = capsys.readouterr().err
        assert named in error and str(root) in error and error.count("\n") == 1
    assert main(command) == 1 and "wants --data-root" in capsys.readouterr().err
    assert main([*command, "--data-root", str(folder), "--permuted"]) == 1
    assert main(["list", *command[2:]]) == 1            # for `train` alone


def test_a_recipe_trains_on_it_as_a_run_of_its_own(folder, tmp_path, capsys):
    assert main(["train", "p1-fc", "--data", "folder", "--data-root", str(folder), "--epochs", "1",
                 "--device", "cpu", "--runs", str(tmp_path)]) == 0
    [path] = tmp_path.glob("p1-fc-1-*/run.json")
    identity = json.loads(path.read_text())["identity"]
    train = data.hold_out(loaded(folder).train)[0]
    assert identity["recipe"]["data"] == "folder" and identity["data"] == train.fingerprint
    assert torch.equal(train.images[0], loaded(folder).train.images[0])
    assert "is a test image" in capsys.readouterr().out
    assert main(["list", "--data", "standin", "--limit", "200", "--runs", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"{path.parent.name}: of pictures of your own" in lines
    assert not any(line.startswith("orphan") for line in lines)
