"""CIFAR-10 and CelebA from tiny files in the official formats, whole and damaged."""

import hashlib
import io
import os
import pickle
import shutil
import socket
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import Trap
from torchvision import transforms
from torchvision.datasets import CIFAR10

import data
from data import celeba, cifar10, imagecache, loading


def refused(named, *args, **kwargs):
    """The one sentence that loading ends in, which has to name what is at fault."""
    with pytest.raises(data.DataError) as caught:
        data.load(*args, **kwargs)
    sentence = str(caught.value)
    assert named in sentence and "\n" not in sentence and not sentence.endswith(".")
    return sentence


def fingerprint(images, labels):
    """By its definition: a digest of shapes, of each image's digest, of the labels."""
    digests = [hashlib.blake2b(x.numpy().tobytes(), digest_size=16).digest() for x in images]
    shapes = f"{tuple(images.shape)} {tuple(labels.shape)}".encode()
    return hashlib.blake2b(
        shapes + b"".join(digests) + struct.pack(f"<{labels.numel()}q", *labels.flatten().tolist()),
        digest_size=8).hexdigest()


# ---- CIFAR-10 in both of its forms

class Python2Pickler(pickle._Pickler):
    """Writes byte strings with the opcode that Python 2 used for str, as the published files do."""

    def save_bytes(self, text):
        self.write(pickle.BINSTRING + struct.pack("<i", len(text)) + text)
        self.memoize(text)

    dispatch = {**pickle._Pickler.dispatch, bytes: save_bytes}


@pytest.fixture
def arrays(tmp_path, monkeypatch):
    """25 training and 6 test images, the last two of each alike, and their classes."""
    monkeypatch.chdir(tmp_path)         # where something malicious would be seen
    rng, made = np.random.default_rng(1), {}
    for split, n in [("train", 25), ("test", 6)]:
        x = made[f"x_{split}"] = rng.integers(0, 256, (n, 32, 32, 3), np.uint8)
        x[-1] = x[-2]
        made[f"y_{split}"] = np.arange(n, 0, -1, dtype=np.uint8) % 10
    return made


def write_npz(root, arrays):
    root.mkdir(exist_ok=True)
    np.savez(root / "cifar10.npz", **arrays)
    return root


def write_batches(root, arrays, monkeypatch):
    """The official folder, whose MD5s become the published ones."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for split, table in cifar10.BATCHES.items():
        rows = arrays[f"x_{split}"].transpose(0, 3, 1, 2).reshape(-1, 3072)
        for name, x, y in zip(table, np.split(rows, len(table)),
                              np.split(arrays[f"y_{split}"], len(table)), strict=True):
            write_batch(folder / name, {b"labels": y.tolist(), b"data": x}, table, monkeypatch)
    return root


def write_batch(path, content, table, monkeypatch):
    with open(path, "wb") as file:
        Python2Pickler(file, protocol=2).dump(content)
    monkeypatch.setitem(table, path.name, hashlib.md5(path.read_bytes()).hexdigest())


@pytest.mark.parametrize("split", ["train", "test"])
def test_both_sources_give_one_set_in_the_order_of_digests_then_labels(
        tmp_path, arrays, monkeypatch, split):
    official = data.load("cifar10", split, root=write_batches(tmp_path / "a", arrays, monkeypatch))
    x, y = arrays[f"x_{split}"][::-1], arrays[f"y_{split}"][::-1]
    arrays |= {f"x_{split}": x, f"y_{split}": y[:, None].astype(np.int64)}
    npz = data.load("cifar10", split, root=write_npz(tmp_path / "b", arrays))
    rows = [(image.transpose(2, 0, 1).tobytes(), int(label))
            for image, label in zip(x, y, strict=True)]
    rows.sort(key=lambda row: (hashlib.blake2b(row[0], digest_size=16).digest(), row[1]))
    for images in (official, npz):
        assert [image.numpy().tobytes() for image in images.images] == [row[0] for row in rows]
        assert images.labels.tolist() == [row[1] for row in rows] and images.real
        assert images.fingerprint == fingerprint(images.images, images.labels)
    assert "cifar-10-batches-py" in official.source and "cifar10.npz" in npz.source


def test_what_is_taken_and_held_out_is_what_was_loaded(tmp_path, arrays):
    images = data.load("cifar10", root=write_npz(tmp_path, arrays))
    few = data.load("cifar10", root=tmp_path, limit=7)
    assert len(few) == 7 and images.take(7).fingerprint == few.fingerprint != images.fingerprint
    assert images.take(0) is images and images.take(25) is images
    rest, last = data.hold_out(images)
    assert torch.equal(torch.cat([rest.images, last.images]), images.images)
    assert torch.equal(torch.cat([rest.labels, last.labels]), images.labels)
    assert (len(last), last.split, rest.split) == (5, "valid", "train")
    with pytest.raises(data.DataError, match="4 images of cifar10"):
        data.hold_out(images.take(4))


def test_permuted_images_share_one_order_of_positions_and_keep_their_colours(tmp_path, arrays):
    images = data.load("cifar10", root=write_npz(tmp_path, arrays))
    moved, where = images.permuted(3), np.random.RandomState(3).permutation(32 * 32)
    assert torch.equal(moved.images.flatten(2), images.images.flatten(2)[:, :, where])
    assert moved.fingerprint == fingerprint(moved.images, moved.labels)


def test_md5_table_is_the_published_one():
    published = {"train": dict(CIFAR10.train_list), "test": dict(CIFAR10.test_list)}
    assert cifar10.BATCHES == published


def test_batches_are_refused_by_their_md5_by_their_absence_and_by_what_they_would_run(
        tmp_path, arrays, monkeypatch):
    folder = write_batches(tmp_path, arrays, monkeypatch) / "cifar-10-batches-py"
    write_batch(folder / "test_batch", Trap(), cifar10.BATCHES["test"], monkeypatch)
    refused("mkdir", "cifar10", "test", root=tmp_path)
    assert not Path("was here").exists()
    (folder / "data_batch_5").write_bytes(b"another file")
    refused("data_batch_5", "cifar10", root=tmp_path)
    (folder / "data_batch_5").unlink()
    refused("data_batch_5", "cifar10", root=tmp_path)


@pytest.mark.parametrize("named, array", [
    ("y_train", None), ("x_train", np.zeros((25, 32, 32, 3))), ("y_train", np.zeros(24, int)),
    ("y_train", np.full(25, 10)), ("y_train", np.full(25, Trap()))])
def test_array_at_fault_is_named_with_its_file(tmp_path, arrays, named, array):
    arrays = {key: value for key, value in {**arrays, named: array}.items() if value is not None}
    assert named in refused("cifar10.npz", "cifar10", root=write_npz(tmp_path, arrays))
    assert not Path("was here").exists()


def test_download_comes_when_asked_for_and_leaves_nothing_when_it_breaks_off(
        tmp_path, arrays, monkeypatch):
    def download(root, download):
        tries.append(socket.getdefaulttimeout())
        if len(tries) < 3:
            Path(root, "half").write_bytes(b"half")
            raise TimeoutError("timed out")
        shutil.copytree(there / "cifar-10-batches-py", Path(root) / "cifar-10-batches-py")
    tries, there, here = [], write_batches(tmp_path / "a", arrays, monkeypatch), tmp_path / "b"
    monkeypatch.setattr("torchvision.datasets.CIFAR10", download)
    assert not data.load("cifar10", root=here, limit=5).real and not tries
    refused("timed out", "cifar10", root=here, source="real", download=True)
    drawn = data.load_splits("cifar10", 32, limit=5, root=here, download=True)
    assert not drawn.train.real and "timed out" in drawn.train.source and not any(here.iterdir())
    got = data.load_splits("cifar10", 32, root=here, download=True)
    assert got.train.real and got.test.real and tries == [cifar10.PATIENCE] * 3
    assert socket.getdefaulttimeout() is None


def test_a_download_that_another_process_has_finished_first_is_read(tmp_path, arrays, monkeypatch):
    there, here = write_batches(tmp_path / "a", arrays, monkeypatch), tmp_path / "b"

    def download(root, download):
        for folder in (here, Path(root)):
            shutil.copytree(there / "cifar-10-batches-py", folder / "cifar-10-batches-py")

    monkeypatch.setattr("torchvision.datasets.CIFAR10", download)
    assert data.load("cifar10", root=here, limit=5, download=True).real
    assert [path.name for path in here.iterdir()] == ["cifar-10-batches-py"]


# ---- what is asked for

@pytest.mark.parametrize("fault, request_", [
    ("mnist", dict(name="mnist")), ("valid", dict(name="cifar10", split="valid")),
    ("48", dict(name="celeba", side=48)), ("limit is -1", dict(name="drawn", limit=-1))])
def test_nonsense_is_refused(fault, request_):
    refused(fault, **request_)


@pytest.mark.parametrize("name", ["cifar10", "celeba"])
def test_absent_data_is_an_error_by_name_and_announced_otherwise(tmp_path, name):
    with pytest.raises(data.AbsentError, match=name) as absent:
        data.load(name, root=tmp_path / name, source="real")
    drawn = data.load(name, root=tmp_path / name, limit=3)
    assert str(absent.value) in drawn.source
    by_name = data.load(name, limit=3, source="standin")
    assert by_name.fingerprint == drawn.fingerprint and not by_name.real and not drawn.real


def test_what_is_chosen_on_is_the_end_of_the_training_images(tmp_path, arrays, monkeypatch):
    plain = data.load_splits("cifar10", 32, root=write_npz(tmp_path, arrays))
    fifth = data.load_splits("cifar10", 32, chosen=True, root=tmp_path)
    assert [len(plain.train), plain.heldout, len(plain.test)] == [25, None, 6]
    assert [len(part) for part in fifth] == [20, 5, 6] and data.HELDOUT == 2_000
    assert torch.equal(torch.cat([fifth.train.images, fifth.heldout.images]), plain.train.images)
    monkeypatch.setattr(loading, "HELDOUT", 3)
    assert [len(part) for part in data.hold_out(plain.train)] == [22, 3]
    assert plain.permuted(3).heldout is None
    for before, after in zip(fifth, fifth.permuted(3), strict=True):
        assert after.fingerprint == before.permuted(3).fingerprint != before.fingerprint


@pytest.mark.parametrize("name, limit, counts", [
    ("cifar10", 600, (480, 120, 120)), ("cifar10", 200, (160, 40, 100)),
    ("celeba", 600, (600, 120, 120))])
def test_limit_counts_training_images(name, limit, counts):
    drawn = data.load_splits(name, 32, chosen=True, limit=limit, source="standin")
    assert tuple(map(len, drawn)) == counts and not any(part.real for part in drawn)


# ---- CelebA

FACES = Path("celeba", "img_align_celeba")
# image, part, attributes; not in the order of the names
ROWS = [("000012.jpg", 2, (1, -1, 1)), ("000001.jpg", 0, (1, -1, -1)),
        ("000002.jpg", 0, (-1, 1, -1)), ("000003.jpg", 1, (-1, -1, 1)),
        ("000010.jpg", 0, (-1, 1, 1)), ("000004.jpg", 0, (1, 1, 1)),
        ("000011.jpg", 1, (1, 1, -1)), ("000005.jpg", 0, (-1, -1, -1))]
TRAIN = ["000001.jpg", "000002.jpg", "000004.jpg", "000005.jpg", "000010.jpg"]


def picture(seed=0, size=(178, 218)):
    """The bytes of a coloured photograph, as many for each."""
    noise = np.random.default_rng(seed).integers(0, 256, (9, 7, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue().ljust(30_000, b"\0")


def write_lists(folder, attributes=ROWS, partition=ROWS, count=None):
    rows = [f"{name} " + " ".join(f"{flag:2d}" for flag in flags) for name, _, flags in attributes]
    (folder / "list_attr_celeba.txt").write_text(
        "\n".join([str(count or len(rows)), "Bald Bangs Smiling ", *rows, ""]))
    (folder / "list_eval_partition.txt").write_text(
        "".join(f"{name} {part}\n" for name, part, _ in partition))


@pytest.fixture
def root(tmp_path):
    """A whole small CelebA in the official format."""
    (tmp_path / FACES).mkdir(parents=True)
    for seed, (name, _, _) in enumerate(ROWS):
        (tmp_path / FACES / name).write_bytes(picture(seed))
    write_lists(tmp_path / "celeba")
    return tmp_path


@pytest.fixture
def decoded(monkeypatch):
    """The names of the images decoded so far; blocks of 2, so that there are several."""
    names, decode = [], celeba._decode
    monkeypatch.setattr(celeba, "_decode", lambda path, **how: (
        names.append(path.name) or decode(path, **how)))
    monkeypatch.setattr(imagecache, "BLOCK", 2)
    return names


def cached(root):
    """All files of the cache but for locks."""
    return [path for path in (root / "cache").iterdir() if path.suffix != ".lock"]


def test_celeba_comes_by_file_name_in_the_official_splits(root):
    faces = data.load_splits("celeba", 64, root=root)
    flags = {name: [flag == 1 for flag in row] for name, _, row in ROWS}
    assert all(part.real for part in faces) and faces.train.images.shape == (5, 3, 64, 64)
    assert faces.train.labels.tolist() == [flags[name] for name in TRAIN]
    assert faces.heldout.labels.tolist() == [flags["000003.jpg"], flags["000011.jpg"]]
    assert faces.test.labels.tolist() == [[True, False, True]]
    assert faces.test.label_names == ("Bald", "Bangs", "Smiling")
    assert faces.train.fingerprint == fingerprint(faces.train.images, faces.train.labels)


@pytest.mark.parametrize("side, crop", [(32, True), (64, True), (128, True), (64, False)])
def test_crop_and_resize_are_torchvisions(root, side, crop):
    reference = transforms.Compose([*[transforms.CenterCrop(178)] * crop,
                                    transforms.Resize((side, side)), transforms.PILToTensor()])
    data.load("celeba", side=side, root=root, crop=not crop)    # which has a cache of its own
    faces = data.load("celeba", side=side, root=root, crop=crop)
    for name, image in zip(TRAIN, faces.images, strict=True):
        with Image.open(root / FACES / name) as face:
            assert torch.equal(image, reference(face))


def test_faces_are_decoded_once_and_no_more_than_are_used(root, decoded):
    seen = []
    few = data.load("celeba", root=root, limit=3)
    assert sorted(decoded) == TRAIN[:3] and few.source.startswith("the first 3 of: CelebA")
    whole = data.load("celeba", root=root, progress=lambda *step: seen.append(step[:2]))
    assert seen == [(0, 5), (0, 5), (2, 5), (4, 5), (5, 5)]
    again, part = data.load("celeba", root=root), data.load("celeba", root=root, limit=3)
    assert len(decoded) == 3 + 5 and again.fingerprint == whole.fingerprint
    assert part.fingerprint == few.fingerprint == whole.take(3).fingerprint
    again.images.zero_()                                # changes nothing in the cache
    assert torch.equal(data.load("celeba", root=root).images, whole.images)


def test_other_files_make_the_cache_anew_and_leave_nothing_of_the_old_one(root):
    first = data.load("celeba", root=root, limit=3)
    before, kept, old = first.images, first.images.clone(), cached(root)
    (root / FACES / TRAIN[0]).unlink()                  # the files are as long as one another
    other = data.load("celeba", root=root, limit=3)
    assert torch.equal(other.images[:2], kept[1:]) and torch.equal(before, kept)
    assert torch.equal(other.labels[:2], first.labels[1:])
    assert len(cached(root)) == 1 and cached(root) != old
    assert "4 images, split train, 1 more are listed but absent" in other.source
    (root / FACES / TRAIN[2]).write_bytes(picture(77) + b"longer")
    changed = data.load("celeba", root=root, limit=3).images
    assert [torch.equal(*pair) for pair in zip(changed, other.images, strict=True)] \
        == [True, False, True]


@pytest.mark.parametrize("damage", [
    lambda whole: whole[:-1], lambda whole: pickle.dumps(Trap())])
def test_damaged_cache_is_made_again(root, monkeypatch, damage):
    monkeypatch.chdir(root)
    first, [path] = data.load("celeba", root=root).fingerprint, cached(root)
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert data.load("celeba", root=root).fingerprint == first
    assert path.read_bytes() == whole and not Path("was here").exists()


def test_of_two_at_once_one_decodes(root, decoded):
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: data.load("celeba", root=root), range(2))
    assert sorted(decoded) == TRAIN and torch.equal(first.images, second.images)


def test_full_disk_leaves_nothing_half_written(root, monkeypatch):
    monkeypatch.setattr(os, "fsync", Mock(side_effect=OSError(28, "No space left on device")))
    assert "that there is room" in refused("No space left", "celeba", root=root)
    assert cached(root) == []


@pytest.mark.parametrize("file, named, plant", [
    ("img_align", "'train'", lambda folder: [f.unlink() for f in folder.glob("*/*.jpg")]),
    ("list_attr", "", lambda folder: (folder / "list_attr_celeba.txt").unlink()),
    ("cache", "", lambda folder: (folder.parent / "cache").write_text("no folder")),
    ("list_attr", "8", dict(count=9)), ("list_attr", "000012.jpg", dict(attributes=ROWS[1:])),
    ("list_eval", "000005.jpg", dict(partition=ROWS[:-2])),
    ("list_eval", "'3'", dict(partition=[*ROWS[:-1], ("000005.jpg", 3, ())])),
    ("list_attr", "000005.jpg", dict(attributes=[*ROWS[:-1], ("000005.jpg", 0, (1, 1))]))])
def test_file_at_fault_is_named_with_its_row(root, file, named, plant):
    plant(root / "celeba") if callable(plant) else write_lists(root / "celeba", **plant)
    assert named in refused(file, "celeba", root=root)
    assert not (root / "cache").is_dir()


@pytest.mark.parametrize("content", [picture()[:2000], picture(size=(400, 300))])
def test_image_that_is_no_aligned_face_is_named(root, content):
    (root / FACES / TRAIN[3]).write_bytes(content)
    refused(TRAIN[3], "celeba", root=root)
    assert cached(root) == []
