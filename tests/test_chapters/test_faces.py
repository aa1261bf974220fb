"""Task 3: closed forms, planted attributes, planted copies, and a short run from end to end."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from tiny import LINEAR, generator, grey

from lab import linear
from lab.chapters import faces as ask
from lab.chapters import interpolation, scale
from lab.latent import traverse
from lab.samples import FeatureNet
from lab.session import Lab
from lab.show import Figure, Table
from lab.training import decode_set
from vae_helpers import build

pytestmark = pytest.mark.usefixtures("one_thread")


def planted(eigenvalues, total=None):
    """A spectrum of these eigenvalues, of as many pixels."""
    values = torch.tensor(eigenvalues, dtype=torch.float64)
    n = len(values)
    return linear.Spectrum(values, torch.eye(n, dtype=torch.float64),
                           torch.full((n,), 0.5, dtype=torch.float64),
                           total or values.sum().item())


@pytest.fixture
def model():
    """x_hat = ½ + B z / 20 with orthonormal columns B, so that decodings stay inside [0, 1]."""
    model = build(LINEAR)
    with torch.no_grad():
        basis = torch.linalg.qr(torch.randn(48, 3, generator=generator())).Q
        model.decoder[0].weight.copy_(basis / 20)
        model.decoder[0].bias.fill_(0.5)
    return model.eval()


# ---- closed forms


def test_fewer_dimensions_cost_what_their_directions_were_worth():
    """A direction kept costs ½ ln(λ/σ²) + ½ nats, one left out λ/2σ²; only kept ones count."""
    spectrum = planted([9.0, 4.0, 1.0, 0.5, 0.1])
    worth = [(x - 1 - math.log(x)) / 2 for x in (1 / 0.25, 0.5 / 0.25)]
    assert ask.cost_of_fewer(spectrum, 0.25, 2, 4) == pytest.approx(sum(worth))
    assert ask.cost_of_fewer(spectrum, 0.25, 4, 5) == 0
    assert ask.cost_of_fewer(spectrum, 0.25, 3, 3) == 0


def test_the_prediction_at_twice_the_side_is_that_of_four_times_the_eigenvalues():
    spectrum = planted([40.0, 8.0, 1.0, 0.2, 0.05, 0.01])
    doubled = replace(spectrum, eigenvalues=4 * spectrum.eigenvalues, total=4 * spectrum.total)
    for beta in (1, 4, 10):
        there = linear.linear_optimum(doubled, beta / 8, 6)
        here = ask.predicted(spectrum, beta, 6)
        assert here.active == there.active
        assert here.rate == pytest.approx(there.rate) and here.dof == pytest.approx(there.dof)


def test_prediction_counts_directions_above_beta_over_32_up_to_the_latent_size():
    spectrum = planted([1.0, 0.3, 0.1, 0.01])
    assert [ask.predicted(spectrum, beta).active for beta in (1, 4, 10)] == [3, 2, 1]
    assert ask.predicted(spectrum, 1, latent=2).active == 2
    assert ask.predicted(spectrum, 33).active == 0


# ---- regions


def test_saturated_values_are_counted_where_they_were_planted():
    images = torch.full((2, 3, 4, 4), 100, dtype=torch.uint8)
    images[0, 0, 0] = torch.tensor([0, 2, 3, 252], dtype=torch.uint8)       # two of them saturated
    images[1, 0, 0] = torch.tensor([253, 255, 1, 128], dtype=torch.uint8)   # three
    for kind in (images, images / 255):
        assert torch.allclose(ask.saturated(kind), torch.tensor([2 / 48, 3 / 48]))


def test_scaled_draws_of_a_linear_decoder_spread_as_far(model):
    measured = {"distance": 1.0, "blur": None, "blur_end": "> 8"}
    judge = SimpleNamespace(measure=lambda images: measured)
    z = torch.randn(500, 3, generator=generator())
    quarter, one, two = ask.by_scale(model, judge, z, (0.25, 1.0, 2.0))
    assert (one["fd"], one["blur_px"], one["shown"]) == (1.0, None, "> 8")
    assert quarter["spread"] == pytest.approx(one["spread"] / 4, rel=1e-3)
    assert two["norm"] == pytest.approx(2 * one["norm"])
    assert two["sharpness"] == pytest.approx(4 * one["sharpness"], rel=1e-2)


def test_the_first_of_the_draws_around_a_code_is_the_code(model):
    mu = torch.tensor([[0.3, -0.2, 0.1]])
    around = ask.around_code(model, mu, 7, 0.7, seed=0)
    assert len(around) == 7 and torch.allclose(around[:1], decode_set(model, mu), atol=1e-6)
    assert not torch.allclose(around[1], around[2])


def test_a_traversal_changes_one_dimension(model):
    along = traverse(model, torch.tensor([[0.3, -0.2, 0.1]]), 2, 3.0)
    ends = decode_set(model, torch.tensor([[0.3, -0.2, -3.0], [0.3, -0.2, 0.0], [0.3, -0.2, 3.0]]))
    assert torch.allclose(along[[0, 3, 6]], ends, atol=1e-6)


# ---- attributes


def test_an_attribute_is_found_and_read_where_it_was_planted(model):
    codes = torch.randn(4000, 3, generator=generator())
    hat = torch.rand(4000, generator=generator(1)) < 0.4
    codes[hat] += torch.tensor([0.0, 2.0, 2.0])                     # along two dimensions at once
    labels = torch.stack([hat, torch.ones_like(hat)], 1)
    directions = ask.attribute_directions(codes, labels, ("Hat", "Face"))
    assert list(directions) == ["Hat"]                  # a face that all have points nowhere
    assert torch.allclose(directions["Hat"], torch.tensor([0.0, 2.0, 2.0]), atol=0.15)
    chance = statistics.NormalDist(0, 2 ** 0.5).cdf     # that N(d, 1) draws above N(0, 1)
    both = ask.read_attribute(codes @ directions["Hat"], hat)
    assert both == pytest.approx(chance(8 ** 0.5), abs=0.01)
    assert ask.read_attribute(codes[:, 1], hat) == pytest.approx(chance(2), abs=0.02)
    moved = ask.along_direction(model, torch.zeros(1, 3), directions["Hat"])
    known = decode_set(model, torch.tensor([[-1.0], [0.0], [1.0], [2.0]]) * directions["Hat"])
    assert torch.allclose(moved, known, atol=1e-6)


@pytest.mark.parametrize("value", [True, False])
def test_what_all_faces_share_cannot_be_read(value):
    assert ask.read_attribute(torch.randn(9), torch.full((9,), value)) is None


def test_the_direction_most_alike_may_point_the_other_way():
    directions = {"a": torch.tensor([1.0, 0.0]), "b": torch.tensor([1.0, 1.0]),
                  "c": torch.tensor([-2.0, 0.1])}
    other, cosine = ask.most_alike(directions, "a")
    assert other == "c" and cosine == pytest.approx(-2 / math.hypot(2, 0.1))


# ---- memory


def test_planted_copies_are_at_distance_zero_and_found():
    training, net = grey(50, side=16), FeatureNet(16, 2).eval()
    groups = {"copies": training[[7, 3]], "others": grey(20, side=16, seed=1)}
    found = ask.distances_to_training(groups, training, net)
    assert found["copies"]["index"].tolist() == [7, 3]
    assert found["copies"]["pixels"] == found["copies"]["pixels_error"] == 0
    assert found["copies"]["features"] == pytest.approx(0, abs=1e-5)
    assert found["others"]["pixels"] > 1 and found["others"]["features"] > 0


# ---- the chapter, with PCA in the place of a training


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    return Lab({"EPOCHS": 1, "TRAIN_LIMIT": 160, "DATA": "standin", "DEVICE": "cpu",
                "PRECISION": "fp32", "RUNS": str(tmp_path_factory.mktemp("runs"))})


def pretended(name, known):
    """A run whose model is PCA through a sigmoid, with a past that never was."""
    model = scale.pca_model(scale.RECIPES[name], known)
    past = [{"epoch": i, "loss": known.floor + 300 / i, "kl": 50.0, "test_kl": 50.0,
             "reconstruction": known.floor, "test_loss": known.test_floor + 300 / i,
             "test_reconstruction": known.test_floor + 200 / i} for i in (1, 2)]
    return SimpleNamespace(model=model, recipe=model.recipe, hash="0123abcd", chosen=past[-1],
                           identity={"images": 160}, pace=1.0, seconds=2.0,
                           curve=lambda key: [epoch[key] for epoch in past])


@pytest.fixture(scope="module")
def chapters(lab):
    """Task 2 and Task 3, of models that are PCA."""
    scales = scale.Chapter(lab)
    task3 = ask.Chapter(lab, scales)
    task3.celeba = pretended("celeba64", scales.faces)
    conv = pretended("conv", scales.cifar)
    task2 = interpolation.Chapter(lab, SimpleNamespace(conv=conv, fc=conv, improved=conv),
                                  SimpleNamespace(demo={"VAE": conv, "autoencoder": conv}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ask, "best_gain", lambda *_: 1.1)     # it has tests of its own
        assert task3.pca
    return task2, task3


@pytest.fixture(scope="module")
def tables(chapters):
    """Every table of both chapters, by its method."""
    return {name: getattr(chapter, name)() for chapter, names in zip(
        chapters, (TABLES2, TABLES3), strict=True) for name in names}


FIGURES3 = ("examples", "by_distance", "regions", "attributes",
            "neighbours")
TABLES2 = ("paths", "similar")
TABLES3 = ("losses", "table_by_scale", "dimensions", "reading", "densities", "memory", "units",
           "cropping")


@pytest.mark.parametrize("name", FIGURES3)
def test_every_figure_of_task_3_is_drawn_with_alt_text(chapters, name):
    drawn = getattr(chapters[1], name)()
    assert isinstance(drawn, Figure) and len(drawn.alt) > 20


def test_every_figure_of_task_2_is_drawn(chapters, lab):
    task2, task3 = chapters
    for drawn in (task2.rows(), task2.faces(task3.celeba, lab.faces.test)):
        assert isinstance(drawn, Figure)


@pytest.mark.parametrize("name", TABLES2 + TABLES3)
def test_every_table_holds_numbers_and_gaps_but_no_nan(tables, name):
    rows = tables[name].rows
    assert isinstance(tables[name], Table) and all(list(row) == list(rows[0]) for row in rows)
    values = [value for row in rows for value in row.values()]
    assert all(value is None or isinstance(value, str) or math.isfinite(value) for value in values)


def test_a_constant_attribute_has_no_auc_and_no_finding(chapters, tables, lab):
    task3 = chapters[1]
    constant = replace(task3.test, labels=task3.test.labels.clone())
    constant.labels[:, constant.label_names.index("Smiling")] = True
    lab.found.kept.pop("auc.smiling", None)
    task3.test, before = constant, task3.test
    row = task3.reading().rows[0]
    task3.test = before
    assert row["attribute"] == "Smiling" and row["AUC, its direction"] is None
    assert row["share of test faces"] == 1 and "auc.smiling" not in lab.found


def test_a_path_of_pca_has_the_numbers_of_a_line(tables, lab):
    """The sigmoid bends it a little; twice the steps still quarter their squares."""
    assert 1 <= lab.found["task2.detour"] < 1.05 and lab.found["task2.doubling"] > 1.98
    assert lab.found["task2.circle_sharpness_halfway"] > lab.found["task2.sharpness_halfway"]


def test_a_remembered_face_would_stand_out(tables, lab):
    """PCA keeps the faces that it was computed from: they are the positive control."""
    assert lab.found["memory.control_own"] == 1
    assert lab.found["memory.control_pixels"] < lab.found["memory.reconstructed_pixels"]


def test_findings_that_other_chapters_quote_are_there(tables, lab):
    for name in ("smoothness", "smoothness_error", "evenness", "detour", "sharpness_halfway",
                 "norm_halfway", "doubling"):
        assert all(f"{key}.{name}" in lab.found
                   for key in ("task2", "small", "ae", "fc", "improved_paths"))
    for name in ("task2.intervals task2.fade_sharpness_halfway similar.coefficient similar.error "
                 "celeba64.loss celeba64.kl celeba64.above_floor celeba64.training_above_floor "
                 "celeba64.parameters faces_pca.above_floor faces.fd.real faces.fd.aggregate "
                 "faces.fd.s025 faces.spread.s025 faces.saturated.s3 faces.saturated.real "
                 "faces.units_001 faces.dof faces.cost_of_128 faces.claimed_above_whole "
                 "memory.samples_pixels").split():
        assert name in lab.found
    assert lab.found.kept["faces.whole_floor"]["run"] is None
    assert lab.found.kept["celeba64.loss"]["run"] == "0123abcd"
