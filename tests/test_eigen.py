"""The eigenvalues of a covariance against other ways to them, and what must not change them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lab import eigen, measures

pytestmark = pytest.mark.usefixtures("one_thread")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def random_bytes(*shape, seed=0):
    return torch.randint(0, 256, shape, generator=generator(seed), dtype=torch.uint8)


def test_spectrum_of_bytes_equals_numpys():
    images = random_bytes(2500, 3, 4, 4)
    x = images.flatten(1).double().numpy() / 255
    eigenvalues = np.linalg.eigvalsh(np.cov(x.T, bias=True))[::-1]
    found = measures.spectrum(images, top=10)
    np.testing.assert_allclose(found.eigenvalues, eigenvalues[:10], rtol=1e-10)
    assert found.total == pytest.approx(eigenvalues.sum(), rel=1e-10)
    np.testing.assert_allclose(found.mean, x.mean(0), rtol=1e-12)


@pytest.mark.parametrize("kind", ["bytes", "floats"])
def test_krylov_iteration_finds_what_numpy_does(monkeypatch, kind):
    rotation = torch.linalg.qr(torch.randn(300, 300, generator=generator()).double()).Q
    scales = 0.1 * torch.arange(1, 301).double() ** -0.8
    images = 0.5 + (torch.randn(2500, 300, generator=generator()) * scales) @ rotation
    images = images.clamp(0, 1).view(2500, 3, 10, 10)
    images = (255 * images).round().byte() if kind == "bytes" else images
    x = (images.double() / 255 if kind == "bytes" else images.double()).flatten(1).numpy()
    values, axes = np.linalg.eigh(np.cov(x.T, bias=True))
    formed = measures.spectrum(images, top=20)
    monkeypatch.setattr(eigen, "EXACT_SIDE", 0)
    streamed = measures.spectrum(images, top=20)
    for found, off, error in ((formed, 1e-9, 1e-5), (streamed, 1e-3, 0.011)):
        np.testing.assert_allclose(found.eigenvalues, values[::-1][:20], rtol=off)
        assert 0 < found.error < error * found.eigenvalues[-1]
        cosines = (found.components.numpy() * axes.T[::-1][:20]).sum(1)
        assert np.abs(cosines[:10]).min() > 0.9999


@pytest.mark.parametrize("kind", ["bytes", "floats"])
@pytest.mark.parametrize("way", ["few images", "krylov"])
@pytest.mark.parametrize("n", [8, 60])  # fewer images than eigenvalues, and more
def test_each_way_to_a_spectrum_gives_the_same(monkeypatch, n, way, kind):
    images = random_bytes(n, 3, 10, 10)
    images = images if kind == "bytes" else images.double() / 255
    monkeypatch.setattr(eigen, "EXACT_IMAGES", 0)
    exact = measures.spectrum(images, top=20)
    monkeypatch.setattr(eigen, "EXACT_SIDE", 0)
    monkeypatch.setattr(eigen, "EXACT_IMAGES", 1024 if way == "few images" else 0)
    found = measures.spectrum(images, top=20)
    torch.testing.assert_close(found.eigenvalues, exact.eigenvalues, rtol=1e-4, atol=1e-6)
    gram = found.components @ found.components.T
    torch.testing.assert_close(gram, torch.eye(20).double(), atol=1e-9, rtol=0)
    projected = (measures.as_pixels(images).flatten(1) - found.mean) @ found.components.T
    variances = projected.square().mean(0)
    torch.testing.assert_close(variances, found.eigenvalues, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("n", [20, 130])
def test_spectrum_of_few_images_is_that_of_numpys_singular_values(n):
    images = random_bytes(n, 3, 16, 16)
    x = images.flatten(1).double().numpy() / 255
    _, singular, axes = np.linalg.svd(x - x.mean(0), full_matrices=False)
    found = measures.spectrum(images, top=n - 1)  # the mean takes one direction of n
    np.testing.assert_allclose(found.eigenvalues, singular[: n - 1] ** 2 / n, rtol=1e-10)
    cosines = (found.components.numpy() * axes[: n - 1]).sum(1)
    np.testing.assert_allclose(np.abs(cosines), 1, atol=1e-9)


def test_more_eigenvalues_than_images_have_are_zeros_along_orthonormal_axes():
    found = measures.spectrum(random_bytes(5, 3, 4, 4), top=100)
    assert found.components.shape == (48, 48) and found.eigenvalues[:4].min() > 0.01
    assert found.eigenvalues[4:].abs().max() < 1e-12
    gram = found.components @ found.components.T
    torch.testing.assert_close(gram, torch.eye(48).double(), atol=1e-12, rtol=0)


def test_products_of_bytes_are_those_of_integers():
    images = random_bytes(1500, 600)  # two parts, two strips
    images[:, 0], images[:, 1] = 0, 255  # the largest products there can be
    whole = images.long() - 128
    assert torch.equal(eigen._products(images.split(1024), 600), (whole.T @ whole).double())


def test_a_spectrum_leaves_the_number_of_threads_as_it_was():
    torch.set_num_threads(2)
    measures.spectrum(random_bytes(10, 3, 4, 4), top=3)
    after = torch.get_num_threads()
    torch.set_num_threads(1)
    assert after == 2
