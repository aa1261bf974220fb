"""CIFAR-10 and CelebA from tiny files in the official formats, whole and damaged."""

import errno
import hashlib
import io
import os
import pickle
import shutil
import socket
import struct
import subprocess
import sys
import textwrap
import time
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms
from torchvision.datasets import CIFAR10

import data
from data import celeba, cifar10, imagecache, imageset, splits

REPOSITORY = Path(__file__).resolve().parent.parent


# ---- CIFAR-10 in both of its forms

class Python2Pickler(pickle._Pickler):
    """Writes byte strings with the opcode that Python 2 used for str, as the published files do."""

    dispatch = dict(pickle._Pickler.dispatch)

    def save_bytes(self, text):
        self.write(pickle.BINSTRING + struct.pack("<i", len(text)) + text)
        self.memoize(text)

    dispatch[bytes] = save_bytes


def write_batch(path, content):
    """Pickles as Python 2 would; the file's MD5."""
    with open(path, "wb") as file:
        Python2Pickler(file, protocol=2).dump(content)
    return hashlib.md5(path.read_bytes()).hexdigest()


def pixels_and_classes(n, seed):
    """Images (n, 32, 32, 3) uint8, the last one twice, and their classes."""
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 256, (n, 32, 32, 3), np.uint8)
    x[-1] = x[-2]
    return x, rng.integers(0, 10, n, np.uint8)


@pytest.fixture
def arrays():
    x_train, y_train = pixels_and_classes(25, seed=1)
    x_test, y_test = pixels_and_classes(6, seed=2)
    return {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}


def write_npz(root, arrays):
    root.mkdir(exist_ok=True)
    np.savez(root / "cifar10.npz", **arrays)
    return root


def write_batches(root, arrays, monkeypatch):
    """The official folder with five training batches of 5, and the MD5 table that fits it."""
    folder, table = root / "cifar-10-batches-py", {"train": {}, "test": {}}
    folder.mkdir(parents=True)
    for split, n in [("train", 5), ("test", 1)]:
        rows = arrays[f"x_{split}"].transpose(0, 3, 1, 2).reshape(-1, 3072)
        parts = zip(np.split(rows, n), np.split(arrays[f"y_{split}"], n), strict=True)
        for name, (x, y) in zip(cifar10.BATCHES[split], parts, strict=True):
            content = {b"batch_label": name.encode(), b"labels": y.tolist(), b"data": x,
                       b"filenames": [b"a.png"] * len(x)}
            table[split][name] = write_batch(folder / name, content)
    monkeypatch.setattr(cifar10, "BATCHES", table)
    return root


def refused(named, *args, **kwargs):
    """The one sentence that loading ends in, which has to name what is at fault."""
    with pytest.raises(data.DataError) as caught:
        data.load(*args, **kwargs)
    sentence = str(caught.value)
    assert named in sentence and "\n" not in sentence and not sentence.endswith(".")
    return sentence


@pytest.mark.parametrize("split", ["train", "test"])
def test_both_cifar_sources_give_one_set_and_one_fingerprint(tmp_path, arrays, monkeypatch, split):
    official = data.load("cifar10", split, root=write_batches(tmp_path / "a", arrays, monkeypatch))
    npz = data.load("cifar10", split, root=write_npz(tmp_path / "b", arrays))
    assert "cifar-10-batches-py" in official.source and "cifar10.npz" in npz.source
    assert torch.equal(official.images, npz.images) and torch.equal(official.labels, npz.labels)
    assert official.fingerprint == npz.fingerprint and len(npz.fingerprint) == 16
    assert official.real and official.factors is None and official.label_names[0] == "airplane"
    assert official.images.dtype == torch.uint8 and official.images.is_contiguous()


def test_canonical_order_is_by_digest_of_the_pixels_then_by_label(tmp_path, arrays):
    images = data.load("cifar10", root=write_npz(tmp_path, arrays))
    rows = [(x.transpose(2, 0, 1).tobytes(), int(y))
            for x, y in zip(arrays["x_train"], arrays["y_train"], strict=True)]
    rows.sort(key=lambda row: (hashlib.blake2b(row[0], digest_size=16).digest(), row[1]))
    assert [x.numpy().tobytes() for x in images.images] == [x for x, _ in rows]
    assert images.labels.tolist() == [y for _, y in rows]


def test_the_order_in_the_file_and_the_shape_of_the_labels_do_not_matter(tmp_path, arrays):
    before = data.load("cifar10", root=write_npz(tmp_path / "a", arrays))
    order = np.random.default_rng(0).permutation(25)
    arrays["x_train"] = arrays["x_train"][order]
    arrays["y_train"] = arrays["y_train"][order][:, None].astype(np.int64)
    assert data.load("cifar10", root=write_npz(tmp_path / "b", arrays)).fingerprint \
        == before.fingerprint


@pytest.mark.parametrize("change", ["pixel", "label"])
def test_fingerprint_knows_every_pixel_and_label(tmp_path, arrays, change):
    before = data.load("cifar10", root=write_npz(tmp_path, arrays)).fingerprint
    arrays["x_train" if change == "pixel" else "y_train"].flat[0] ^= 1
    assert data.load("cifar10", root=write_npz(tmp_path, arrays)).fingerprint != before


def test_take_and_split_off_are_what_was_loaded(tmp_path, arrays):
    images = data.load("cifar10", root=write_npz(tmp_path, arrays))
    few = data.load("cifar10", root=tmp_path, limit=7)
    assert len(few) == 7 and images.take(7).fingerprint == few.fingerprint != images.fingerprint
    assert images.take(0) is images and images.take(99) is images
    rest, last = images.split_off(5)
    assert torch.equal(torch.cat([rest.images, last.images]), images.images)
    assert torch.equal(torch.cat([rest.labels, last.labels]), images.labels)
    assert rest.fingerprint == images.take(20).fingerprint and last.split == "valid"
    for wrong in (0, 25):
        with pytest.raises(data.DataError, match="cifar10 train"):
            images.split_off(wrong)
    with pytest.raises(data.DataError, match="limit"):
        images.take(-1)


def test_permuted_images_share_one_order_of_positions_and_keep_their_colours(tmp_path, arrays):
    images = data.load("cifar10", root=write_npz(tmp_path, arrays))
    moved = images.permuted(3)
    where = np.random.RandomState(3).permutation(32 * 32)
    for position in (0, 17, 1023):      # position p of the result held position where[p]
        (y, x), (v, u) = divmod(position, 32), divmod(int(where[position]), 32)
        assert torch.equal(moved.images[:, :, y, x], images.images[:, :, v, u])
    assert not torch.equal(moved.images, images.images)
    assert torch.equal(*(part.images.flatten(2).sort().values for part in (moved, images)))
    assert images.permuted(3).fingerprint == moved.fingerprint
    assert moved.fingerprint not in (images.fingerprint, images.permuted(4).fingerprint)
    assert images.take(5).permuted(3).fingerprint == moved.take(5).fingerprint


def test_md5_table_is_the_published_one():
    published = {"train": dict(CIFAR10.train_list), "test": dict(CIFAR10.test_list)}
    assert cifar10.BATCHES == published


def test_wrong_md5_is_refused_before_anything_is_unpickled(tmp_path, arrays, monkeypatch):
    folder = write_batches(tmp_path, arrays, monkeypatch) / "cifar-10-batches-py"
    with open(folder / "data_batch_5", "ab") as file:
        file.write(b"x")
    monkeypatch.setattr(cifar10, "_unpickled", lambda *_: pytest.fail("unpickled"))
    refused("data_batch_5", "cifar10", root=tmp_path)


def test_truncated_or_missing_batch_is_named(tmp_path, arrays, monkeypatch):
    path = write_batches(tmp_path, arrays, monkeypatch) / "cifar-10-batches-py" / "data_batch_3"
    path.write_bytes(path.read_bytes()[:2000])
    refused(path.name, "cifar10", root=tmp_path)
    cifar10.BATCHES["train"][path.name] = hashlib.md5(path.read_bytes()).hexdigest()
    refused(path.name, "cifar10", root=tmp_path)
    path.unlink()
    refused(path.name, "cifar10", root=tmp_path)


class Malicious:
    def __reduce__(self):
        return os.mkdir, ("was here",)


@pytest.mark.parametrize("content", [
    Malicious(), [1, 2], {b"labels": [1]}, {b"data": np.zeros((2, 9), np.uint8), b"labels": [0, 1]},
    {b"data": np.zeros((2, 3072), np.uint8), b"labels": [0]},
    {b"data": np.zeros((2, 3072)), b"labels": [0, 1]},
    {b"data": np.zeros((2, 3072), np.uint8), b"labels": [0, 10]}])
def test_pickle_of_something_else_is_refused(tmp_path, arrays, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    root = write_batches(tmp_path / "root", arrays, monkeypatch)
    path = root / "cifar-10-batches-py" / "test_batch"
    cifar10.BATCHES["test"][path.name] = write_batch(path, content)
    refused("test_batch", "cifar10", "test", root=root)
    assert not Path("was here").exists()


@pytest.mark.parametrize("named, name, array", [
    ("x_train", "x_train", None), ("y_train", "y_train", None),
    ("x_train", "x_train", np.zeros((25, 3, 32, 32), np.uint8)),
    ("x_train", "x_train", np.zeros((25, 3072), np.uint8)),
    ("x_train", "x_train", np.zeros((25, 32, 32, 3), np.float32)),
    ("x_train", "x_train", np.arange(25 * 3072, dtype=np.uint8).reshape(25, 32, 32, 3) % 2),
    ("0 images", "x_train", np.zeros((0, 32, 32, 3), np.uint8)),
    ("y_train", "y_train", np.zeros(24, np.uint8)),
    ("y_train", "y_train", np.zeros((25, 10), np.uint8)), ("y_train", "y_train", np.zeros(25)),
    ("y_train", "y_train", np.full(25, 10)), ("y_train", "y_train", np.full(25, -1)),
    ("npz", "y_train", np.array([None] * 25))])
def test_array_at_fault_is_named_with_its_file(tmp_path, arrays, named, name, array):
    arrays = {key: value for key, value in {**arrays, name: array}.items() if value is not None}
    assert named in refused("cifar10.npz", "cifar10", root=write_npz(tmp_path, arrays))


def bare_array(whole):
    file = io.BytesIO()
    np.save(file, np.zeros(3))
    return file.getvalue()


@pytest.mark.parametrize("damage", [
    lambda whole: whole[:-5000], lambda whole: whole[:50], lambda whole: b"",
    lambda whole: b"no archive at all", lambda whole: whole[:3000] + b"x" * 50 + whole[3050:],
    bare_array])
def test_damaged_npz_is_named(tmp_path, arrays, damage):
    path = write_npz(tmp_path, arrays) / "cifar10.npz"
    path.write_bytes(damage(path.read_bytes()))
    refused("cifar10.npz", "cifar10", root=tmp_path)


# ---- CIFAR-10's download

def files_under(root):
    return sorted(path.name for path in root.rglob("*") if path.is_file())


def test_download_without_network_leaves_nothing(tmp_path, monkeypatch):
    def no_network(*_, **__):
        raise socket.gaierror("no such host")
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    said = refused("no such host", "cifar10", root=tmp_path, source="real", download=True)
    drawn = data.load("cifar10", root=tmp_path, limit=5, download=True)
    assert not drawn.real and said in drawn.source
    assert files_under(tmp_path) == [] and socket.getdefaulttimeout() is None


def test_download_that_breaks_off_leaves_nothing_and_is_not_tried_for_each_split(
        tmp_path, monkeypatch):
    def breaks_off(root, download):
        tries.append(socket.getdefaulttimeout())
        Path(root, "cifar-10-python.tar.gz").write_bytes(b"half")
        raise TimeoutError("timed out")
    tries = []
    monkeypatch.setattr("torchvision.datasets.CIFAR10", breaks_off)
    refused("timed out", "cifar10", root=tmp_path, source="real", download=True)
    drawn = data.load_splits("cifar10", 32, limit=5, root=tmp_path, download=True)
    assert not drawn.train.real and not drawn.test.real and files_under(tmp_path) == []
    assert tries == [cifar10.PATIENCE] * 2


def test_download_is_used_once_and_only_when_asked_for(tmp_path, arrays, monkeypatch):
    calls = []

    def fetches(root, download):
        calls.append(root)
        shutil.copytree(there / "cifar-10-batches-py", Path(root) / "cifar-10-batches-py")
    there = write_batches(tmp_path / "there", arrays, monkeypatch)
    monkeypatch.setattr("torchvision.datasets.CIFAR10", fetches)
    root = tmp_path / "here"
    assert not data.load("cifar10", root=root, limit=5).real and not calls
    first, second = (data.load("cifar10", root=root, download=True) for _ in range(2))
    assert first.real and first.fingerprint == second.fingerprint and len(calls) == 1


# ---- what is asked for

@pytest.mark.parametrize("fault, request_", [
    ("mnist", dict(name="mnist")), ("dev", dict(name="celeba", split="dev")),
    ("valid", dict(name="cifar10", split="valid")), ("64", dict(name="cifar10", side=64)),
    ("48", dict(name="celeba", side=48)), ("fake", dict(name="cifar10", source="fake")),
    ("limit is -1", dict(name="cifar10", limit=-1)), ("limit", dict(name="cifar10", limit=1.5)),
    ("seed", dict(name="cifar10", seed=-1))])
def test_nonsense_is_refused(fault, request_):
    refused(fault, **request_)


@pytest.mark.parametrize("name", ["cifar10", "celeba"])
def test_absent_data_is_an_error_by_name_and_announced_otherwise(tmp_path, name):
    with pytest.raises(data.AbsentError) as absent:
        data.load(name, root=tmp_path, source="real")
    drawn = data.load(name, root=tmp_path, limit=3)
    assert str(tmp_path) in str(absent.value) and str(absent.value) in drawn.source
    by_name = data.load(name, root=tmp_path, limit=3, source="standin")
    assert by_name.fingerprint == drawn.fingerprint and not by_name.real and not drawn.real


# ---- splits

def test_what_is_chosen_on_is_the_end_of_the_training_images(tmp_path, arrays, monkeypatch):
    write_npz(tmp_path, arrays)
    plain = data.load_splits("cifar10", 32, root=tmp_path)
    fifth = data.load_splits("cifar10", 32, chosen=True, root=tmp_path)
    assert [len(plain.train), plain.heldout, len(plain.test)] == [25, None, 6]
    assert [len(part) for part in fifth] == [20, 5, 6] and fifth.heldout.split == "valid"
    assert torch.equal(torch.cat([fifth.train.images, fifth.heldout.images]), plain.train.images)
    assert fifth.test.fingerprint == plain.test.fingerprint and data.HELDOUT == 2_000
    monkeypatch.setattr(splits, "HELDOUT", 3)
    assert [len(part) for part in data.hold_out(plain.train)] == [22, 3]
    assert plain.permuted(3).heldout is None and isinstance(plain.permuted(3), data.Splits)
    for before, after in zip(fifth, fifth.permuted(3), strict=True):
        assert after.fingerprint == before.permuted(3).fingerprint != before.fingerprint


@pytest.mark.parametrize("chosen, crop", [(False, True), (True, True), (False, False)])
def test_celeba_always_holds_out_its_official_validation_split(root, chosen, crop):
    faces = data.load_splits("celeba", 32, chosen=chosen, root=root, crop=crop)
    assert [len(part) for part in faces] == [5, 2, 1] and faces.train.real
    assert [part.fingerprint for part in faces] == [
        data.load("celeba", split, 32, root=root, crop=crop).fingerprint
        for split in ("train", "valid", "test")]


@pytest.mark.parametrize("name, limit, counts", [
    ("cifar10", 0, (3_200, 800, 800)), ("cifar10", 600, (480, 120, 120)),
    ("cifar10", 200, (160, 40, 100)), ("celeba", 600, (600, 120, 120)),
    ("celeba", 200, (200, 100, 100))])
def test_limit_counts_training_images(name, limit, counts):
    drawn = data.load_splits(name, 32, chosen=True, limit=limit, source="standin")
    assert tuple(map(len, drawn)) == counts and not any(part.real for part in drawn)


# ---- links

@pytest.mark.skipif(os.name == "nt", reason="Windows lets few users make links")
@pytest.mark.parametrize("name, link", [
    ("cifar10", "cifar10.npz"), ("cifar10", "cifar-10-batches-py"), ("cifar10", "."),
    ("celeba", "celeba"), ("celeba", "celeba/img_align_celeba"),
    ("celeba", "celeba/list_attr_celeba.txt"), ("celeba", "celeba/list_eval_partition.txt"),
    ("celeba", "celeba/img_align_celeba/000004.jpg")])
def test_link_is_followed_and_one_that_leads_nowhere_is_no_absence(
        root, arrays, tmp_path, name, link):
    path, elsewhere = (root / link).absolute(), tmp_path / "elsewhere"
    write_npz(root, arrays)
    before = data.load(name, root=root)
    if path.exists():
        path.rename(elsewhere)
        path.symlink_to(elsewhere)
        assert data.load(name, root=root).fingerprint == before.fingerprint
        elsewhere.rename(tmp_path / "gone")
    else:
        path.symlink_to("nowhere")
    refused(str(path), name, root=root)


# ---- CelebA

NAMES = ("Bald", "Bangs", "Smiling")
# image, part, attributes; not in the order of the names
ROWS = [("000012.jpg", 2, (1, -1, 1)), ("000001.jpg", 0, (1, -1, -1)),
        ("000002.jpg", 0, (-1, 1, -1)), ("000003.jpg", 1, (-1, -1, 1)),
        ("000010.jpg", 0, (-1, 1, 1)), ("000004.jpg", 0, (1, 1, 1)),
        ("000011.jpg", 1, (1, 1, -1)), ("000005.jpg", 0, (-1, -1, -1))]
TRAIN = ["000001.jpg", "000002.jpg", "000004.jpg", "000005.jpg", "000010.jpg"]


def picture(seed=0, size=(178, 218), mode="RGB", form="JPEG"):
    """The bytes of a coloured photograph."""
    noise = np.random.default_rng(seed).integers(0, 256, (9, 7, 3), np.uint8)
    image, file = Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC), io.BytesIO()
    (image.convert("L") if mode == "I;16" else image).convert(mode).save(file, form, quality=90)
    return file.getvalue()


def bomb(side):
    """A PNG of few bytes that announces side × side pixels."""
    png = bytearray(picture(form="PNG"))
    png[16:24] = struct.pack(">II", side, side)
    png[29:33] = struct.pack(">I", zlib.crc32(png[12:29]))
    return bytes(png)


def write_lists(folder, attributes=ROWS, partition=ROWS, count=None, names=NAMES):
    rows = [f"{name} " + " ".join(f"{flag:2d}" for flag in flags) for name, _, flags in attributes]
    (folder / "list_attr_celeba.txt").write_text(
        "\n".join([str(len(rows) if count is None else count), " ".join(names) + " ", *rows, ""]))
    (folder / "list_eval_partition.txt").write_text(
        "".join(f"{name} {part}\n" for name, part, _ in partition))


@pytest.fixture
def root(tmp_path):
    """A whole small CelebA in the official format."""
    faces = tmp_path / "root" / "celeba" / "img_align_celeba"
    faces.mkdir(parents=True)
    for seed, (name, _, _) in enumerate(ROWS):
        (faces / name).write_bytes(picture(seed))
    write_lists(faces.parent)
    return tmp_path / "root"


@pytest.fixture
def decoded(monkeypatch):
    """The names of the images decoded so far; blocks of 2, so that there are several."""
    names, decode = [], celeba._decode

    def counting(path, content, **how):
        names.append(path.name)
        return decode(path, content, **how)
    monkeypatch.setattr(celeba, "_decode", counting)
    monkeypatch.setattr(imagecache, "BLOCK", 2)
    return names


def test_celeba_comes_by_file_name_in_the_official_splits(root):
    train, valid, test = (data.load("celeba", split, root=root)
                          for split in ("train", "valid", "test"))
    assert (len(train), len(valid), len(test)) == (5, 2, 1)
    assert train.images.shape == (5, 3, 64, 64) and train.images.is_contiguous()
    flags = {name: [flag == 1 for flag in row] for name, _, row in ROWS}
    assert train.labels.dtype == torch.bool
    assert train.labels.tolist() == [flags[name] for name in TRAIN]
    assert test.labels.tolist() == [[True, False, True]] and test.label_names == NAMES
    assert train.real and "absent" not in train.source


@pytest.mark.parametrize("side, crop", [(32, True), (64, True), (128, True), (64, False)])
def test_crop_and_resize_are_torchvisions(root, side, crop):
    reference = transforms.Compose([*[transforms.CenterCrop(178)] * crop,
                                    transforms.Resize((side, side)), transforms.PILToTensor()])
    other = data.load("celeba", side=side, root=root, crop=not crop).fingerprint
    faces = data.load("celeba", side=side, root=root, crop=crop)        # from a cache of its own
    for name, image in zip(TRAIN, faces.images, strict=True):
        with Image.open(root / "celeba" / "img_align_celeba" / name) as face:
            assert torch.equal(image, reference(face))
    assert ("not cropped" in faces.source) != crop and faces.fingerprint != other


def test_cache_is_reused_and_grows(root, decoded):
    few = data.load("celeba", root=root, limit=3)
    assert sorted(decoded) == TRAIN[:3]
    whole = data.load("celeba", root=root)
    assert sorted(decoded) == TRAIN                       # only the other two were decoded
    again, part = data.load("celeba", root=root), data.load("celeba", root=root, limit=3)
    assert sorted(decoded) == TRAIN
    assert whole.fingerprint == again.fingerprint and whole.take(3).fingerprint == few.fingerprint
    assert part.fingerprint == few.fingerprint and torch.equal(part.images, whole.images[:3])


def test_fingerprint_is_of_the_pixels_not_of_the_cache(root):
    images = data.load("celeba", root=root)
    assert np.array_equal(images.digests, imageset.digest_images(images.images.clone()))
    assert images.fingerprint == imageset.image_set(**{
        key: value for key, value in vars(images).items() if key not in ("fingerprint", "digests")
    }).fingerprint


def test_images_cannot_be_changed_through_the_cache(root):
    first = data.load("celeba", root=root)
    first.images.zero_()
    assert data.load("celeba", root=root).images.float().mean() > 10


def test_same_content_under_a_new_time_is_not_decoded_again(root, decoded, monkeypatch):
    first = data.load("celeba", root=root).fingerprint
    for path in (root / "celeba" / "img_align_celeba").iterdir():
        os.utime(path, (1, 1))
    assert data.load("celeba", root=root).fingerprint == first and len(decoded) == 5
    monkeypatch.setattr(imagecache, "_read", lambda path: pytest.fail(f"read {path}"))
    assert data.load("celeba", root=root).fingerprint == first


def test_changed_content_is_decoded_again_and_said(root, decoded):
    before = data.load("celeba", root=root).images.clone()
    (root / "celeba" / "img_align_celeba" / TRAIN[2]).write_bytes(picture(77))
    after = data.load("celeba", root=root)
    assert f"made again because {TRAIN[2]} changed" in after.source
    assert [torch.equal(*pair) for pair in zip(before, after.images, strict=True)] \
        == [True, True, False, True, True]
    assert "made again" not in data.load("celeba", root=root).source


@pytest.mark.skipif(os.name == "nt", reason="Windows keeps mapped files from being replaced")
def test_images_in_use_survive_a_new_cache(root):
    in_use = data.load("celeba", root=root).images
    before = in_use.clone()
    (root / "celeba" / "img_align_celeba" / TRAIN[0]).write_bytes(picture(77))
    assert not torch.equal(data.load("celeba", root=root).images, before)
    assert torch.equal(in_use, before)


def test_added_image_finds_its_place(root, decoded):
    data.load("celeba", root=root)
    (root / "celeba" / "img_align_celeba" / "000003b.jpg").write_bytes(picture(78))
    write_lists(root / "celeba", [*ROWS, ("000003b.jpg", 0, (1, 1, 1))],
                [*ROWS, ("000003b.jpg", 0, (1, 1, 1))])
    grown = data.load("celeba", root=root)
    assert len(grown) == 6 and grown.labels[2].all()
    shutil.rmtree(root / "cache")
    assert data.load("celeba", root=root).fingerprint == grown.fingerprint


@pytest.mark.parametrize("suffix, damage, told", [
    (".images", lambda whole: whole[:-1], True), (".images", lambda whole: b"", True),
    (".images", None, True),
    (".images", lambda whole: bytes([whole[0] ^ 1]) + whole[1:], True),
    (".images", lambda whole: whole + b"more than is needed", False),
    (".rows", lambda whole: whole[:-1], False), (".rows", lambda whole: b"", False),
    (".rows", None, False),
    (".rows", lambda whole: whole[:-1] + bytes([whole[-1] ^ 1]), True),
    (".rows", lambda whole: b"\0" * 480, True)])
def test_damaged_cache_is_made_again(root, decoded, suffix, damage, told):
    first = data.load("celeba", root=root).fingerprint
    path = root / "cache" / f"celeba-train-64{suffix}"
    whole = path.read_bytes()
    path.unlink() if damage is None else path.write_bytes(damage(whole))
    again = data.load("celeba", root=root)
    assert again.fingerprint == first and ("made again" in again.source) == told
    assert path.read_bytes()[:len(whole)] == whole
    assert "made again" not in data.load("celeba", root=root).source


LOAD = """
    import sys, time
    sys.path.insert(0, sys.argv[1])
    import data
    from data import celeba, imagecache
    imagecache.BLOCK, decode = 1, celeba._decode
    def slowly(path, content, **how):
        time.sleep(float(sys.argv[4]) if path.name >= sys.argv[3] else 0)
        return decode(path, content, **how)
    celeba._decode = slowly
    print(data.load("celeba", root=sys.argv[2]).fingerprint)
"""


def load_elsewhere(root, first_slow, seconds):
    """Another process that loads the training faces one by one, slowly from some name on."""
    script = [textwrap.dedent(LOAD), str(REPOSITORY), str(root), first_slow, str(seconds)]
    return subprocess.Popen([sys.executable, "-c", *script], stdout=subprocess.PIPE, text=True)


def wait_for_rows(process, rows, n):
    """Waits until the other process has cached so many images."""
    deadline = time.monotonic() + 60
    while not (rows.exists() and rows.stat().st_size >= n * imagecache.ROW_BYTES):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)


def test_killed_build_goes_on_where_it_was(root, decoded, tmp_path):
    shutil.copytree(root, tmp_path / "other")
    process = load_elsewhere(root, TRAIN[2], 600)
    wait_for_rows(process, root / "cache" / "celeba-train-64.rows", 2)
    process.kill()
    process.communicate()
    resumed = data.load("celeba", root=root)
    assert sorted(decoded) == TRAIN[2:] and "made again" not in resumed.source
    assert resumed.fingerprint == data.load("celeba", root=tmp_path / "other").fingerprint


def test_two_processes_build_one_cache(root, decoded, tmp_path):
    shutil.copytree(root, tmp_path / "other")
    other, seen = load_elsewhere(root, TRAIN[1], 0.3), []
    wait_for_rows(other, root / "cache" / "celeba-train-64.rows", 1)
    here = data.load("celeba", root=root, progress=lambda *step: seen.append(step[2]))
    assert other.communicate(timeout=60)[0].strip() == here.fingerprint
    assert not decoded and imagecache.WAITING in seen     # all was left to the other one
    assert data.load("celeba", root=tmp_path / "other").fingerprint == here.fingerprint


def cached(root):
    """What the cache holds, file by file."""
    return {path.name: path.read_bytes() for path in (root / "cache").iterdir()
            if path.suffix != ".lock"}


def fill_disk(monkeypatch, after):
    """Lets the disk take `after` more writes."""
    left, fsync = [after], os.fsync

    def fsync_while_there_is_room(descriptor):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)
    monkeypatch.setattr(os, "fsync", fsync_while_there_is_room)


@pytest.mark.parametrize("found, writes", [*((0, writes) for writes in range(6)), (2, 3)])
def test_full_disk_leaves_the_cache_as_it_was(root, decoded, monkeypatch, found, writes):
    before = {}
    if found:
        data.load("celeba", root=root, limit=found)
        before = cached(root)
    with monkeypatch.context() as patch:
        fill_disk(patch, writes)
        assert "No space left" in refused("celeba-train-64.images", "celeba", root=root)
    assert cached(root) == before
    decoded.clear()
    assert len(data.load("celeba", root=root)) == 5 and len(decoded) == 5 - found


def test_full_disk_while_noting_new_times_leaves_the_cache(root, monkeypatch):
    first = data.load("celeba", root=root).fingerprint
    os.utime(root / "celeba" / "img_align_celeba" / TRAIN[0], (1, 1))
    with monkeypatch.context() as patch:
        fill_disk(patch, 0)
        refused("No space left", "celeba", root=root)
    assert "celeba-train-64.new" not in files_under(root)
    assert data.load("celeba", root=root).fingerprint == first


# ---- CelebA's lists and images, absent or damaged

def test_absent_images_are_counted_and_said(root):
    (root / "celeba" / "img_align_celeba" / TRAIN[1]).unlink()
    train = data.load("celeba", root=root)
    assert len(train) == 4 and "4 images, split train, 1 more are listed but absent" in train.source
    assert train.labels.tolist()[1] == [True, True, True]


@pytest.mark.parametrize("whole", ["attributes", "partition"])
def test_one_list_may_be_cut_to_the_images(root, whole):
    path = root / "celeba" / "img_align_celeba" / TRAIN[1]
    path.unlink()
    cut = [row for row in ROWS if row[0] != path.name]
    write_lists(root / "celeba", **{**dict(attributes=cut, partition=cut), whole: ROWS})
    assert len(data.load("celeba", root=root)) == 4


def test_no_image_of_the_split_is_an_error(root):
    (root / "celeba" / "img_align_celeba" / "000012.jpg").unlink()
    assert "'test'" in refused("img_align_celeba", "celeba", "test", root=root)
    assert len(data.load("celeba", "valid", root=root)) == 2


def lists(**rows):
    """Writes lists like these into a folder."""
    return lambda folder: write_lists(folder, **rows)


def attributes(content):
    """Puts these bytes in the place of a folder's attribute list."""
    return lambda folder: (folder / "list_attr_celeba.txt").write_bytes(content)


@pytest.mark.parametrize("file, named, plant", [
    ("img_align", "", lambda folder: shutil.rmtree(folder / "img_align_celeba")),
    ("img_align", ".jpg", lambda folder: [f.unlink() for f in folder.glob("*/*.jpg")]),
    ("list_attr", "", lambda folder: (folder / "list_attr_celeba.txt").unlink()),
    ("list_eval", "", lambda folder: (folder / "list_eval_partition.txt").unlink()),
    ("list_attr", "", attributes(b"")), ("list_attr", "", attributes(b"3\nBald\n")),
    ("list_attr", "", attributes(b"\xff\xfe\x00")),
    ("list_attr", "'9'", lists(count=9)), ("list_attr", "'many'", lists(count="many")),
    ("list_attr", "Bangs", lists(names=("Bald", "Bangs", "Bangs"))),
    ("list_attr", "000012.jpg", lists(attributes=ROWS[1:])),
    ("list_eval", "000005.jpg", lists(partition=ROWS[:-2])),
    ("list_attr", "000003.jpg", lists(attributes=[*ROWS, ROWS[3]])),
    ("list_eval", "000003.jpg", lists(partition=[*ROWS, ROWS[3]])),
    ("list_eval", "000005.jpg", lists(partition=[*ROWS[:-1], ("000005.jpg", 3, ())])),
    ("list_attr", "000005.jpg", lists(attributes=[*ROWS[:-1], ("000005.jpg", 0, (1, 1))])),
    ("list_attr", "000005.jpg", lists(attributes=[*ROWS[:-1], ("000005.jpg", 0, (1, 1, 0))])),
    ("list_eval", "b.jpg", lists(attributes=[*ROWS, ("a.jpg", 0, (1, 1, 1))],
                                 partition=[*ROWS, ("b.jpg", 0, ())]))])
def test_file_at_fault_is_named_with_its_row(root, file, named, plant):
    plant(root / "celeba")
    assert named in refused(file, "celeba", root=root)
    assert not (root / "cache").exists()


NO_FACES = {
    "cut": picture()[:2000], "empty": b"", "text": b"<html>quota exceeded</html>",
    "another size": picture(size=(400, 300)), "a bomb": bomb(20_000),
    **{mode: picture(mode=mode, form="PNG") for mode in ("I;16", "P", "RGBA", "1")}}


@pytest.mark.parametrize("kind", NO_FACES)
def test_image_that_is_no_aligned_face_is_named(root, decoded, kind):
    path = root / "celeba" / "img_align_celeba" / TRAIN[3]
    whole = path.read_bytes()
    path.write_bytes(NO_FACES[kind])
    refused(TRAIN[3], "celeba", root=root)
    path.write_bytes(whole)
    assert len(data.load("celeba", root=root)) == 5
    assert sorted(set(decoded)) == TRAIN and decoded.count(TRAIN[0]) == 1  # whole blocks are kept


@pytest.mark.parametrize("side, action", [(400, "error"), (12_000, "ignore"), (12_000, "error"),
                                          (20_000, "error")])
def test_no_pixel_of_another_size_is_ever_decoded(monkeypatch, side, action):
    content = bomb(side)
    monkeypatch.setattr(Image.Image, "convert", lambda *_: pytest.fail("decoded"))
    with warnings.catch_warnings(), pytest.raises(data.DataError, match="a.jpg"):
        warnings.simplefilter(action, Image.DecompressionBombWarning)
        celeba._decode(Path("a.jpg"), content, 64, True)


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_grey_and_printers_faces_look_like_their_coloured_selves(mode):
    face, colour = (celeba._decode(Path("a.jpg"), picture(mode=each), 64, True).astype(float)
                    for each in (mode, "RGB"))
    grey = np.tensordot([0.299, 0.587, 0.114], colour, 1)
    assert np.abs(face - (grey if mode == "L" else colour)).mean() < 4


@pytest.mark.parametrize("owner, reads, named", [
    (os, "scandir", "img_align_celeba"), (Path, "read_bytes", TRAIN[0]),
    (Path, "read_text", "list_eval_partition.txt")])
def test_what_may_not_be_read_is_named(root, monkeypatch, owner, reads, named):
    def denied(path, *_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))
    monkeypatch.setattr(owner, reads, denied)
    assert "Permission denied" in refused(named, "celeba", root=root)


@pytest.mark.timing
def test_whole_lists_over_few_images_are_fast(root):
    names = [f"{i:06d}.jpg" for i in range(1, 202_600)]
    write_lists(root / "celeba", [(name, 0, (1, -1, 1)) for name in names],
                [(name, i % 3, ()) for i, name in enumerate(names)])
    before = time.process_time()
    valid = data.load("celeba", "valid", root=root)       # every third, from 000002.jpg on
    assert time.process_time() - before < 5
    assert len(valid) == 3 and "67,530 more are listed but absent" in valid.source


def test_progress_counts_to_the_end(root, decoded):
    seen = []
    data.load("celeba", root=root, progress=lambda *step: seen.append(step))
    assert [done for done, _, _ in seen] == [0, 2, 4, 5]
    assert {(total, what) for _, total, what in seen} == {(5, "decoding faces to 64×64")}
