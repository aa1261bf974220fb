"""Planted factors are found on their dimensions, shuffled and turned ones are not; the chapter's
rows are those of its models."""

import numpy as np
import pytest
import torch
from scipy.stats import entropy
from sklearn.metrics import mutual_info_score
from tiny import generator, short_lab

from lab import factors as measures
from lab.chapters import factors as chapter
from lab.chapters.ledger import CLAIMS
from lab.chapters.scale import principal_axes
from lab.factors import against_turned, dci, mig
from lab.latent import random_axes
from lab.linear import linear_optimum, pca_scores
from lab.recipes import RECIPES


def truth(n=2000, k=6, seed=0):
    """Independent factors (n, k), the first of two values and the others numbers."""
    values = torch.rand(n, k, generator=generator(seed))
    values[:, 0] = (values[:, 0] > 0.5).float()
    return values


def test_what_a_dimension_tells_is_the_closed_form_and_scikit_learns_less_the_bias_of_counts():
    counts = torch.tensor([[30, 10], [10, 50]])
    a, b = (counts > 0).nonzero().repeat_interleave(counts.flatten(), 0).float().T
    joint, apart = counts / 100, torch.outer(counts.sum(1), counts.sum(0)) / 1e4
    known = (joint * (joint / apart).log()).sum().item() - (4 - 2 - 2 + 1) / 200
    assert measures.mutual_information(a[:, None], b[:, None]).item() == pytest.approx(known)
    factors, codes = truth(), truth() + 0.3 * truth(seed=1)
    one, other = measures.binned(codes), measures.binned(factors)
    assert one[:, 3].bincount().tolist() == [100] * 20 and len(other[:, 0].unique()) == 2
    found = [[mutual_info_score(x, y) - (len(set(zip(x, y, strict=True))) - len(set(x))
                                         - len(set(y)) + 1) / 4000
              for y in other.T.tolist()] for x in one.T.tolist()]
    np.testing.assert_allclose(measures.mutual_information(codes, factors), found, atol=1e-7)
    nothing = measures.mutual_information(truth(4000, seed=2), truth(4000, seed=3))
    assert nothing.mean().item() == pytest.approx(0, abs=2e-3) and nothing.max() < 0.03


def test_disentanglement_of_importances_by_hand():
    for rows, known in (([[1, 0], [0, 1]], 1), ([[0.5, 0.5], [0.5, 0.5]], 0),
                        ([[0.9, 0], [0, 0], [0.1, 1]], 0.9 / 2 + 1.1 / 2 * (
                            1 - entropy([1 / 11, 10 / 11], base=2)))):
        assert measures.disentanglement(np.array(rows, float)) == pytest.approx(known, abs=1e-9)


def test_planted_factors_score_one_in_any_order_sign_and_spread_and_shuffled_ones_none():
    factors, noise = truth(), torch.randn(2000, 10, generator=generator(1))
    order, spreads = torch.randperm(16, generator=generator()), torch.tensor([-5.0, 0.2] * 8)
    codes = spreads * torch.cat([noise, torch.sinh(factors)], 1)[:, order]
    assert mig(codes, factors) == pytest.approx(1, abs=0.02)
    assert dci(codes, factors) == pytest.approx(1, abs=0.01)
    places = measures.importances(codes, factors).argmax(0)
    assert order[places].tolist() == list(range(10, 16))
    shuffled = factors[torch.randperm(2000, generator=generator(2))]
    assert mig(shuffled, factors) < 0.01 and dci(shuffled, factors) < 0.1


def test_two_factors_turned_by_45_degrees_score_none_and_a_factor_told_twice_halves_mig_alone():
    factors = torch.randn(2000, 2, generator=generator())
    turn = torch.tensor([[1.0, 1.0], [-1.0, 1.0]]) / 2 ** 0.5
    assert mig(factors @ turn, factors) < 0.02 and dci(factors @ turn, factors) < 0.02
    twice = torch.cat([factors, -factors[:, :1]], 1)
    assert mig(twice, factors) == pytest.approx(0.5, abs=0.01)
    assert dci(twice, factors) == pytest.approx(1, abs=0.01)
    assert mig(factors[:, :1], factors) == pytest.approx(0.5, abs=0.02)     # one dimension alone


def test_a_score_is_held_against_its_mean_over_turns_of_the_codes_as_they_come():
    factors = truth()
    codes = factors * torch.tensor([1.0, 3, 1, 1, 1, 1])
    turns = [mig(codes @ random_axes(6, 7 + k), factors) for k in range(8)]
    found = against_turned(mig, codes, factors, 7, 8)
    mean, sd, own = np.mean(turns), np.std(turns, ddof=1), mig(codes, factors)
    assert found == pytest.approx((own, mean, own / mean, own / mean ** 2 * sd / 8 ** 0.5))
    blind = torch.randn(2000, 6, generator=generator()) @ random_axes(6, 99)
    none = against_turned(mig, blind, blind @ random_axes(6, 98), 0, 20)
    assert 0.3 < none.ratio < 2                            # axes like any others


# ---- the chapter


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A short run with a small network, which is too short for β = 16."""
    with pytest.MonkeyPatch.context() as patch:
        for name in chapter.NEEDED.values():
            patch.setitem(RECIPES, name, RECIPES[name].but(
                widths=(8, 8), latent=16, batch=10, lr=3e-3))
        patch.setattr(chapter, "FIRST", RECIPES["factors-b1"])
        patch.setattr(chapter, "MEASURES", {"MIG": (mig, 2), "DCI": (dci, 2)})
        yield short_lab(tmp_path_factory.mktemp("factors"), 300, EXTENSIONS=True)


def test_a_row_is_of_live_dimensions_and_a_linear_vaes_of_principal_axes(lab):
    assert "factors-b16" in str(chapter.table(short_lab(lab.settings.runs + "-none", 300)))
    table, (images, factors) = chapter.table(lab), chapter.unseen(lab)
    assert len(table.rows) == 7 and table._repr_markdown_()
    known = principal_axes(lab, "factors-b1", 16)
    for row, beta in zip(table.rows[3:6], chapter.NEEDED, strict=True):
        best = linear_optimum(known, beta / 4, 16)
        assert best.active - 2 <= row["dimensions"] <= best.active
        codes = pca_scores(known, images, row["dimensions"])
        assert row["MIG"] == pytest.approx(mig(codes, factors), abs=1e-3)
    trained = table.rows[0]
    codes = chapter.live_codes(lab, lab.run("factors-b1").model)
    score = against_turned(mig, codes, factors, lab.settings.seed, 2)
    assert (trained["MIG"], trained["MIG, over turned axes"]) == (score.own, score.ratio)
    assert lab.found["factors.mig_1"] == score.ratio
    assert set(lab.found) <= {name for claim in CLAIMS for name in claim.names}
