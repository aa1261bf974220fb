"""CIFAR-10 and CelebA from tiny files in the official formats, whole and damaged."""

import errno
import hashlib
import importlib.machinery
import os
import pickle
import shutil
import socket
import struct
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms
from torchvision.datasets import CIFAR10

import data
from data import celeba, cifar10, imagecache, imageset

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
    """Pickle as Python 2 would, and return the file's MD5."""
    with open(path, "wb") as file:
        Python2Pickler(file, protocol=2).dump(content)
    return hashlib.md5(path.read_bytes()).hexdigest()


def pixels_and_classes(count, seed):
    """Images (count, 32, 32, 3) uint8, the last one twice, and their classes."""
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 256, (count, 32, 32, 3), np.uint8)
    x[-1] = x[-2]
    return x, rng.integers(0, 10, count, np.uint8)


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
    for split, count in [("train", 5), ("test", 1)]:
        rows = arrays[f"x_{split}"].transpose(0, 3, 1, 2).reshape(-1, 3072)
        parts = zip(np.split(rows, count), np.split(arrays[f"y_{split}"], count), strict=True)
        for name, (x, y) in zip(cifar10.BATCHES[split], parts, strict=True):
            content = {b"batch_label": name.encode(), b"labels": y.tolist(), b"data": x,
                       b"filenames": [b"a.png"] * len(x)}
            table[split][name] = write_batch(folder / name, content)
    monkeypatch.setattr(cifar10, "BATCHES", table)
    return root


def refused(match, *args, **kwargs):
    """The one clear sentence that loading ends in, which has to match."""
    with pytest.raises(data.DataError, match=match) as caught:
        data.load(*args, **kwargs)
    sentence = str(caught.value)
    assert "\n" not in sentence and sentence.endswith(".")
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


def test_valid_is_the_end_of_train(tmp_path, arrays, monkeypatch):
    monkeypatch.setattr(cifar10, "VALID", 4)
    train, valid = (data.load("cifar10", split, root=write_npz(tmp_path, arrays))
                    for split in ("train", "valid"))
    assert len(train) == 25 and valid.split == "valid"
    assert torch.equal(valid.images, train.images[-4:])
    assert valid.fingerprint == train.split_off(4)[1].fingerprint
    assert torch.equal(data.load("cifar10", "valid", limit=2, root=tmp_path).images,
                       train.images[-4:-2])


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
        with pytest.raises(data.DataError, match="cannot be split off the 25"):
            images.split_off(wrong)
    with pytest.raises(data.DataError, match="limit is -1"):
        images.take(-1)


def test_permuted_images_share_one_order_of_positions_and_keep_their_colours(tmp_path, arrays):
    images = data.load("cifar10", root=write_npz(tmp_path, arrays))
    moved = images.permuted(3)
    where = np.random.RandomState(3).permutation(32 * 32)
    for position in (0, 17, 1023):                          # position p of the result held position where[p]
        (y, x), (v, u) = divmod(position, 32), divmod(int(where[position]), 32)
        assert torch.equal(moved.images[:, :, y, x], images.images[:, :, v, u])
    assert not torch.equal(moved.images, images.images)
    assert torch.equal(moved.images.flatten(2).sort().values, images.images.flatten(2).sort().values)
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
    refused(r"data_batch_5 is damaged .*MD5.*: unpack", "cifar10", root=tmp_path)


def test_truncated_pickle_is_named(tmp_path, arrays, monkeypatch):
    path = write_batches(tmp_path, arrays, monkeypatch) / "cifar-10-batches-py" / "data_batch_3"
    path.write_bytes(path.read_bytes()[:2000])
    refused("data_batch_3 is damaged", "cifar10", root=tmp_path)
    cifar10.BATCHES["train"][path.name] = hashlib.md5(path.read_bytes()).hexdigest()
    refused("data_batch_3 is no CIFAR-10 batch", "cifar10", root=tmp_path)


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


def test_missing_batch_is_named(tmp_path, arrays, monkeypatch):
    folder = write_batches(tmp_path, arrays, monkeypatch) / "cifar-10-batches-py"
    (folder / "data_batch_2").unlink()
    refused("data_batch_2 is missing: unpack", "cifar10", root=tmp_path)


@pytest.mark.parametrize("changes, match", [
    ({"x_train": None}, "no array x_train"),
    ({"x_train": None, "y_train": None}, "no array x_train and no array y_train"),
    ({"x_train": np.zeros((25, 3, 32, 32), np.uint8)}, r"shape \(25, 3, 32, 32\), not \(N, 32"),
    ({"x_train": np.zeros((25, 3072), np.uint8)}, r"shape \(25, 3072\)"),
    ({"x_train": np.zeros((25, 32, 32, 3), np.float32)}, "x_train is float32, not uint8"),
    ({"x_train": np.zeros((0, 32, 32, 3), np.uint8)}, "beside 0 images"),
    ({"y_train": np.zeros(24, np.uint8)}, r"y_train has the shape \(24,\) beside 25 images"),
    ({"y_train": np.zeros((25, 10), np.uint8)}, r"y_train has the shape \(25, 10\)"),
    ({"y_train": np.zeros(25)}, "y_train holds something other"),
    ({"y_train": np.full(25, 10)}, "y_train holds something other"),
    ({"y_train": np.full(25, -1)}, "y_train holds something other"),
    ({"y_train": np.array([None] * 25)}, "no whole npz file of plain arrays"),
])
def test_npz_with_wrong_arrays_is_refused(tmp_path, arrays, changes, match):
    arrays = {name: value for name, value in {**arrays, **changes}.items() if value is not None}
    assert "cifar10.npz" in refused(match, "cifar10", root=write_npz(tmp_path, arrays))


@pytest.mark.parametrize("damage", [lambda whole: whole[:-5000], lambda whole: whole[:50],
                                    lambda whole: b"", lambda whole: b"no archive at all",
                                    lambda whole: whole[:3000] + b"x" * 50 + whole[3050:]])
def test_damaged_npz_is_named(tmp_path, arrays, damage):
    path = write_npz(tmp_path, arrays) / "cifar10.npz"
    path.write_bytes(damage(path.read_bytes()))
    refused("cifar10.npz is no whole npz", "cifar10", root=tmp_path)


def test_bare_array_in_the_place_of_an_npz_is_refused(tmp_path):
    with open(tmp_path / "cifar10.npz", "wb") as file:
        np.save(file, np.zeros(3))
    refused("cifar10.npz is no whole npz", "cifar10", root=tmp_path)


# ---- CIFAR-10's download

def files_under(root):
    return sorted(path.name for path in root.rglob("*") if path.is_file())


def test_download_without_network_leaves_nothing(tmp_path, monkeypatch):
    def no_network(*_, **__):
        raise socket.gaierror("no such host")
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    before = time.monotonic()
    refused("download failed.*no such host.*put the folder", "cifar10", root=tmp_path,
            source="real", download=True)
    drawn = data.load("cifar10", root=tmp_path, limit=5, download=True)
    assert not drawn.real and "download failed" in drawn.source
    assert time.monotonic() - before < 10 and files_under(tmp_path) == []
    assert socket.getdefaulttimeout() is None


def test_download_that_breaks_off_leaves_nothing(tmp_path, monkeypatch):
    def breaks_off(root, download):
        assert socket.getdefaulttimeout() == cifar10.PATIENCE
        Path(root, "cifar-10-python.tar.gz").write_bytes(b"half")
        raise TimeoutError("timed out")
    monkeypatch.setattr("torchvision.datasets.CIFAR10", breaks_off)
    refused("download failed.*timed out", "cifar10", root=tmp_path, source="real", download=True)
    assert files_under(tmp_path) == []


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

@pytest.mark.parametrize("request_, match", [
    (dict(name="mnist"), "dataset is 'mnist': take one of 'cifar10', 'celeba'"),
    (dict(name="cifar10", split="dev"), "split is 'dev': take one of 'train', 'valid', 'test'"),
    (dict(name="cifar10", side=64), "side is 64: take one of 32"),
    (dict(name="celeba", side=48), "side is 48: take one of 64, 32, 128"),
    (dict(name="cifar10", source="fake"), "source is 'fake'"),
    (dict(name="cifar10", limit=-1), "limit is -1"),
    (dict(name="cifar10", limit=1.5), "limit is 1.5"),
    (dict(name="cifar10", seed=-1), "seed is -1"),
])
def test_nonsense_is_refused(request_, match):
    refused(match, **request_)


@pytest.mark.parametrize("name, what", [("cifar10", "put the folder cifar-10-batches-py"),
                                        ("celeba", "put img_align_celeba/.*by hand.*quota")])
def test_absent_data_is_an_error_by_name_and_announced_otherwise(tmp_path, name, what):
    assert str(tmp_path) in refused(f"not in .*{what}", name, root=tmp_path, source="real")
    drawn = data.load(name, root=tmp_path, limit=3)
    assert not drawn.real and "stand-in" in drawn.source and "not in" in drawn.source
    by_name = data.load(name, root=tmp_path, limit=3, source="standin")
    assert by_name.fingerprint == drawn.fingerprint


def test_dataset_folders_beside_the_code_do_not_hide_it(tmp_path):
    (tmp_path / "celeba").mkdir()
    shutil.copy(celeba.__file__, tmp_path)
    found = importlib.machinery.PathFinder.find_spec("celeba", [str(tmp_path)])
    assert found.origin == str(tmp_path / "celeba.py")


# ---- CelebA

NAMES = ("Bald", "Bangs", "Smiling")
# image, part, attributes; not in the order of the names
ROWS = [("000012.jpg", 2, (1, -1, 1)), ("000001.jpg", 0, (1, -1, -1)),
        ("000002.jpg", 0, (-1, 1, -1)), ("000003.jpg", 1, (-1, -1, 1)),
        ("000010.jpg", 0, (-1, 1, 1)), ("000004.jpg", 0, (1, 1, 1)),
        ("000011.jpg", 1, (1, 1, -1)), ("000005.jpg", 0, (-1, -1, -1))]
TRAIN = ["000001.jpg", "000002.jpg", "000004.jpg", "000005.jpg", "000010.jpg"]


def write_face(path, seed, size=(178, 218)):
    noise = np.random.default_rng(seed).integers(0, 256, (9, 7, 3), np.uint8)
    Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).save(path, quality=90)


def write_lists(folder, attributes=ROWS, partition=ROWS, count=None):
    rows = [f"{name} " + " ".join(f"{flag:2d}" for flag in flags) for name, _, flags in attributes]
    (folder / "list_attr_celeba.txt").write_text(
        "\n".join([str(len(rows) if count is None else count), " ".join(NAMES) + " ", *rows, ""]))
    (folder / "list_eval_partition.txt").write_text(
        "".join(f"{name} {part}\n" for name, part, _ in partition))


@pytest.fixture
def root(tmp_path):
    """A whole small CelebA in the official format."""
    faces = tmp_path / "root" / "celeba" / "img_align_celeba"
    faces.mkdir(parents=True)
    for seed, (name, _, _) in enumerate(ROWS):
        write_face(faces / name, seed)
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
    train, valid, test = (data.load("celeba", split, root=root) for split in data.SPLITS)
    assert (len(train), len(valid), len(test)) == (5, 2, 1)
    assert train.images.shape == (5, 3, 64, 64) and train.images.is_contiguous()
    flags = {name: [flag == 1 for flag in row] for name, _, row in ROWS}
    assert train.labels.dtype == torch.bool
    assert train.labels.tolist() == [flags[name] for name in TRAIN]
    assert test.labels.tolist() == [[True, False, True]] and test.label_names == NAMES
    assert train.real and "absent" not in train.source


@pytest.mark.parametrize("side", [32, 64, 128])
def test_crop_and_resize_are_torchvisions(root, side):
    reference = transforms.Compose([
        transforms.CenterCrop(178), transforms.Resize(side), transforms.PILToTensor()])
    images = data.load("celeba", side=side, root=root).images
    for name, image in zip(TRAIN, images, strict=True):
        with Image.open(root / "celeba" / "img_align_celeba" / name) as face:
            assert torch.equal(image, reference(face))


def test_whole_faces_are_torchvisions_and_cached_beside_the_cropped_ones(root):
    reference = transforms.Compose([transforms.Resize((64, 64)), transforms.PILToTensor()])
    cropped = data.load("celeba", root=root)
    whole = data.load("celeba", root=root, crop=False)
    for name, image in zip(TRAIN, whole.images, strict=True):
        with Image.open(root / "celeba" / "img_align_celeba" / name) as face:
            assert torch.equal(image, reference(face))
    assert "not cropped" in whole.source and "not cropped" not in cropped.source
    assert data.load("celeba", root=root).fingerprint == cropped.fingerprint != whole.fingerprint


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


def test_unchanged_files_are_not_even_read(root, decoded, monkeypatch):
    first = data.load("celeba", root=root).fingerprint
    monkeypatch.setattr(imagecache, "_read", lambda path: pytest.fail(f"read {path}"))
    assert data.load("celeba", root=root).fingerprint == first


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
    write_face(root / "celeba" / "img_align_celeba" / TRAIN[2], seed=77)
    after = data.load("celeba", root=root)
    assert f"made again because {TRAIN[2]} changed" in after.source
    assert [torch.equal(*pair) for pair in zip(before, after.images, strict=True)] \
        == [True, True, False, True, True]
    assert "made again" not in data.load("celeba", root=root).source


@pytest.mark.skipif(os.name == "nt", reason="Windows keeps mapped files from being replaced")
def test_images_in_use_survive_a_new_cache(root):
    in_use = data.load("celeba", root=root).images
    before = in_use.clone()
    write_face(root / "celeba" / "img_align_celeba" / TRAIN[0], seed=77)
    assert not torch.equal(data.load("celeba", root=root).images, before)
    assert torch.equal(in_use, before)


def test_added_image_finds_its_place(root, decoded):
    data.load("celeba", root=root)
    write_face(root / "celeba" / "img_align_celeba" / "000003b.jpg", seed=78)
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


def wait_for_rows(process, rows, count):
    """Return when the other process has cached so many images."""
    deadline = time.monotonic() + 60
    while not (rows.exists() and rows.stat().st_size >= count * imagecache.ROW_BYTES):
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


def fill_disk(monkeypatch, after):
    """Let the disk take `after` more writes."""
    left, fsync = [after], os.fsync

    def fsync_while_there_is_room(descriptor):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)
    monkeypatch.setattr(os, "fsync", fsync_while_there_is_room)


@pytest.mark.parametrize("writes", range(6))
def test_full_disk_is_one_sentence_and_leaves_nothing(root, decoded, monkeypatch, writes):
    with monkeypatch.context() as patch:
        fill_disk(patch, writes)
        refused("celeba-train-64.images could not be written .No space left on device.: make room",
                "celeba", root=root)
    assert files_under(root / "cache") == ["celeba-train-64.lock"]
    assert len(data.load("celeba", root=root)) == 5


def test_full_disk_keeps_what_was_cached_before(root, decoded, monkeypatch):
    few = data.load("celeba", root=root, limit=2).fingerprint
    before = {path.name: path.read_bytes() for path in (root / "cache").iterdir()}
    with monkeypatch.context() as patch:
        fill_disk(patch, 3)
        refused("could not be written", "celeba", root=root)
    assert {path.name: path.read_bytes() for path in (root / "cache").iterdir()} == before
    decoded.clear()
    assert data.load("celeba", root=root, limit=2).fingerprint == few and not decoded


def test_full_disk_while_noting_new_times_leaves_the_cache(root, monkeypatch):
    first = data.load("celeba", root=root).fingerprint
    os.utime(root / "celeba" / "img_align_celeba" / TRAIN[0], (1, 1))
    with monkeypatch.context() as patch:
        fill_disk(patch, 0)
        refused("cannot be used .No space left", "celeba", root=root)
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


def test_no_image_at_all_is_an_error(root):
    shutil.rmtree(root / "celeba" / "img_align_celeba")
    refused("has no img_align_celeba: put", "celeba", root=root)
    (root / "celeba" / "img_align_celeba").mkdir()
    refused("img_align_celeba holds no .jpg file: put", "celeba", root=root)


def test_no_image_of_the_split_is_an_error(root):
    (root / "celeba" / "img_align_celeba" / "000012.jpg").unlink()
    refused("none of the 1 images .*'test'", "celeba", "test", root=root)
    assert len(data.load("celeba", "valid", root=root)) == 2


@pytest.mark.parametrize("name", ["list_attr_celeba.txt", "list_eval_partition.txt"])
def test_missing_list_is_named(root, name):
    (root / "celeba" / name).unlink()
    refused(f"celeba has no {name}: put", "celeba", root=root)


@pytest.mark.parametrize("lists, match", [
    (dict(attributes=ROWS[1:]), "list_attr_celeba.txt has no row for 000012.jpg"),
    (dict(partition=ROWS[:-2]), "partition.txt has no row for 000005.jpg .2 of the images"),
    (dict(count=9), "attr_celeba.txt announces '9' images in its first line and has 8 rows"),
    (dict(count="many"), "attr_celeba.txt announces 'many' images"),
    (dict(attributes=[*ROWS, ROWS[3]]), "attr_celeba.txt line 11 lists 000003.jpg a second time"),
    (dict(partition=[*ROWS, ROWS[3]]), "partition.txt line 9 lists 000003.jpg a second time"),
    (dict(partition=[*ROWS[:-1], ("000005.jpg", 3, ())]), "gives 000005.jpg the part '3'"),
    (dict(attributes=[*ROWS[:-1], ("000005.jpg", 0, (1, 1))]), "row for 000005.jpg .*not 3 times"),
    (dict(attributes=[*ROWS[:-1], ("000005.jpg", 0, (1, 1, 0))]), "for 000005.jpg .*not 3 times"),
    (dict(attributes=[*ROWS, ("a.jpg", 0, (1, 1, 1))], partition=[*ROWS, ("b.jpg", 0, ())]),
     "list_eval_partition.txt alone lists b.jpg and list_attr_celeba.txt alone lists a.jpg"),
])
def test_lists_that_lie_are_refused(root, lists, match):
    write_lists(root / "celeba", **lists)
    refused(match, "celeba", root=root)
    assert not (root / "cache").exists()


@pytest.mark.parametrize("content, match", [
    (b"", "ends before its first row"), (b"3\nBald\n", "ends before its first row"),
    (b"\xff\xfe\x00", "is not plain text")])
def test_list_that_is_no_list_is_refused(root, content, match):
    (root / "celeba" / "list_attr_celeba.txt").write_bytes(content)
    refused(f"list_attr_celeba.txt {match}", "celeba", root=root)


@pytest.mark.parametrize("damage", [lambda whole: whole[:len(whole) // 2], lambda whole: b"",
                                    lambda whole: b"<html>quota exceeded</html>"])
def test_jpeg_that_does_not_decode_is_named(root, decoded, damage):
    path = root / "celeba" / "img_align_celeba" / TRAIN[3]
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    refused(f"{TRAIN[3]} does not decode", "celeba", root=root)
    path.write_bytes(whole)
    assert len(data.load("celeba", root=root)) == 5
    assert sorted(set(decoded)) == TRAIN and decoded.count(TRAIN[0]) == 1  # whole blocks are kept


def test_image_that_is_not_aligned_is_named(root):
    write_face(root / "celeba" / "img_align_celeba" / TRAIN[0], 0, size=(400, 300))
    refused(f"{TRAIN[0]} is 400×300 pixels where aligned faces are 178×218", "celeba", root=root)
    assert files_under(root / "cache") == ["celeba-train-64.lock"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0,
                    reason="root and Windows read every folder")
@pytest.mark.parametrize("folder", ["celeba", "celeba/img_align_celeba", "."])
def test_unreadable_folder_is_named(root, folder):
    (root / folder).chmod(0)
    try:
        refused(f"{(root / folder).resolve().name}.* cannot be used .*Permission denied",
                "celeba", root=root)
    finally:
        (root / folder).chmod(0o755)


def test_unreadable_folder_is_named_whoever_runs_this(root, monkeypatch):
    def denied(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))
    monkeypatch.setattr(os, "scandir", denied)
    refused("img_align_celeba cannot be used .Permission denied.", "celeba", root=root)


def test_unreadable_image_is_named(root, monkeypatch):
    def denied(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))
    monkeypatch.setattr(Path, "read_bytes", denied)
    refused(f"{TRAIN[0]} cannot be read .Permission denied.", "celeba", root=root)


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
