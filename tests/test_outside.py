"""The measures against other implementations of them, where these are installed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from scipy.special import entr
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from lab import likeness, measures

pytestmark = pytest.mark.usefixtures("one_thread")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def random_bytes(*shape, seed=0):
    return torch.randint(0, 256, shape, generator=generator(seed), dtype=torch.uint8)


def test_entropy_floor_is_scipys():
    images = random_bytes(9, 3, 8, 8)
    x = images.numpy() / 255
    expected = (entr(x) + entr(1 - x)).sum() / 9
    assert measures.entropy_floor(images) == pytest.approx(expected, rel=1e-12)


def test_frechet_distance_is_that_of_scipys_matrix_root():
    a = torch.randn(300, 12, generator=generator()).double()
    turn = torch.randn(12, 12, generator=generator(2)).double() / 3
    b = 0.2 + torch.randn(200, 12, generator=generator(1)).double() @ turn
    cov_a, cov_b = np.cov(a.numpy().T), np.cov(b.numpy().T)
    spread = np.trace(cov_a + cov_b - 2 * sqrtm(cov_a @ cov_b).real)
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum().item() + spread
    assert likeness.frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)


def test_kid_is_torchmetrics():
    image = pytest.importorskip("torchmetrics.image.kid")
    a, b = torch.rand(40, 12, generator=generator()), torch.rand(40, 12, generator=generator(1)) / 2
    for x, y in ((a, b), (likeness.directions(a), likeness.directions(b))):
        expected = image.poly_mmd(x.double(), y.double(), degree=3, gamma=None, coef=1.0)
        assert likeness.kid(x, y)[0] == pytest.approx(float(expected), rel=1e-9)


def test_nearest_is_scikit_learns():
    references, queries = random_bytes(1500, 3, 4, 4), random_bytes(20, 3, 4, 4, seed=1)
    search = NearestNeighbors(n_neighbors=1, algorithm="brute")
    search.fit(references.flatten(1).double().numpy() / 255)
    distance, index = search.kneighbors(queries.flatten(1).double().numpy() / 255)
    found = measures.nearest(queries, references)
    assert found.index.tolist() == index[:, 0].tolist()
    np.testing.assert_allclose(found.distance, distance[:, 0], rtol=1e-6)


def two_alike():
    a = torch.rand(3, 3, 24, 20, generator=generator(), dtype=torch.float64)
    return a, (a + 0.1 * torch.randn(a.shape, generator=generator(1)).double()).clamp(0, 1)


def test_ssim_is_scikit_images():
    metrics = pytest.importorskip("skimage.metrics")
    for a, b, value in zip(*two_alike(), measures.ssim(*two_alike()), strict=True):
        planes = []
        for p, q in zip(a.numpy(), b.numpy(), strict=True):
            _, whole = metrics.structural_similarity(p, q, gaussian_weights=True, data_range=1.0,
                                                     use_sample_covariance=False, full=True)
            planes.append(whole[5:-5, 5:-5].mean())  # where the window is inside the image
        assert value.item() == pytest.approx(np.mean(planes), rel=1e-9)


def test_ssim_is_torchmetrics():
    image = pytest.importorskip("torchmetrics.functional.image")
    a, b = two_alike()
    _, whole = image.structural_similarity_index_measure(a, b, data_range=1.0,
                                                         return_full_image=True)
    inside = whole[..., 5:-5, 5:-5].mean((1, 2, 3))
    torch.testing.assert_close(measures.ssim(a, b), inside, rtol=1e-9, atol=0)


def test_spectrum_is_scikit_learns():
    images = random_bytes(60, 3, 8, 8)
    x = images.flatten(1).double().numpy() / 255
    pca = PCA(20, svd_solver="full").fit(x)
    found = measures.spectrum(images, top=20)
    np.testing.assert_allclose(found.eigenvalues, pca.explained_variance_ * 59 / 60, rtol=1e-10)
    cosines = (found.components.numpy() * pca.components_).sum(1)
    np.testing.assert_allclose(np.abs(cosines), 1, atol=1e-9)
