"""Collapse: closed forms, and a short run."""

import math

import numpy as np
import pytest
from scipy.optimize import minimize
from tiny import short_lab

from lab.chapters import collapse
from lab.recipes import RECIPES
from lab.show import Figure


def test_the_recipes_lie_about_the_critical_beta_as_their_names_say():
    shares = [RECIPES[name].beta / 110.7 for name in collapse.RANDOM + collapse.ALIGNED]
    assert shares == pytest.approx([0.5, 0.9, 1.1, 2.0, 0.5, 0.9])
    assert all(RECIPES[name].start == "linear" for name in collapse.ALIGNED)


@pytest.mark.parametrize("ratio", [1.2, 2.0, 5.0])
def test_a_direction_over_very_many_axes_has_the_kl_of_the_best_such_code(ratio):
    """A variable of variance λ = ratio σ², its mean m times it along u = (1, ..., 1) / √d, and one
    posterior variance v on all d axes; the decoder gives back w u·z."""
    d = 1e6

    def kl(m, v):
        return 0.5 * (m ** 2 * ratio + d * (v - 1 - math.log(v)))

    def loss(x):                                            # in units of σ²
        m, w, v = x[0], x[1], 1 - x[2] / d
        return 0.5 * (ratio * (1 - w * m) ** 2 + w ** 2 * v) + kl(m, v)

    best = minimize(loss, [0.5, 0.5, 0.1], method="Nelder-Mead",
                    options={"xatol": 1e-9, "fatol": 1e-13, "maxiter": 5000}).x
    assert collapse.unaligned_kl(ratio).item() == pytest.approx(kl(best[0], 1 - best[2] / d),
                                                                rel=1e-4)
    assert collapse.unaligned_kl(ratio) < 0.5 * np.log(ratio)
    assert collapse.unaligned_kl(0.9) == 0


def test_a_short_run_has_a_row_for_every_start(tmp_path, monkeypatch):
    for name in collapse.RANDOM + collapse.ALIGNED:
        monkeypatch.setitem(RECIPES, name, RECIPES[name].but(widths=(4, 8, 8)))
    lab = short_lab(tmp_path, 60, EXTENSIONS=True)
    assert isinstance(collapse.figure(lab), Figure)
    assert {f"collapse.kl_{key}" for key in ("05", "09", "11", "20", "05_aligned", "09_aligned")
            } < set(lab.found)
    first = collapse.collapsed(lab, "collapse-05")
    assert first["β over the critical"] == pytest.approx(55.35 / lab.found["collapse.critical"])
    assert lab.found["collapse.kl_05"] == first["KL"]
    aligned = collapse.collapsed(lab, "collapse-05-aligned")
    assert aligned["axes it spreads"] < 2 < first["axes it spreads"]
