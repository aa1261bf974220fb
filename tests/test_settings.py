"""The notebook's parameters, the command line, and what both draw: paths through the latent space."""

import json

import pytest
import torch

import vae_helpers as helpers
from vae_helpers import RECIPES, Settings, check_settings


@pytest.fixture
def machine(monkeypatch):
    """A machine with a CPU only, whatever this one has."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


# ---------------------------------------------------------------- parameters

GOOD = {"EPOCHS": 1, "CONV_EPOCHS": 2, "FC_EPOCHS": 3, "CELEBA_EPOCHS": 4, "TRAIN_LIMIT": 500, "DATA": "standin",
        "DATA_ROOT": "elsewhere", "RUNS": "r", "FIGURES": "f", "SEED": 7, "DEVICE": "cpu", "PRECISION": "fp32",
        "EXTENSIONS": True}


def test_parameters_arrive_under_their_names():
    settings = check_settings(GOOD)
    assert {name: getattr(settings, name.lower()) for name in GOOD} == GOOD
    assert check_settings({}) == Settings()


@pytest.mark.parametrize(("name", "value"), [
    ("EPOCHS", -1), ("EPOCHS", 1.5), ("EPOCHS", "1"), ("EPOCHS", True), ("EPOCHS", None), ("CONV_EPOCHS", -2),
    ("FC_EPOCHS", -2), ("CELEBA_EPOCHS", "all"), ("TRAIN_LIMIT", -5), ("TRAIN_LIMIT", 1e4), ("SEED", -1), ("SEED", "x"),
    ("DATA", "cifar"), ("DATA", ""), ("DATA", 1), ("DATA_ROOT", 5), ("RUNS", None), ("FIGURES", 3),
    ("DEVICE", "gpu"), ("DEVICE", "cuda"), ("DEVICE", "mps"), ("DEVICE", 0), ("PRECISION", "fp16"), ("PRECISION", 32),
    ("EXTENSIONS", 1), ("EXTENSIONS", "yes")])
def test_nonsense_is_refused_in_one_sentence_that_shows_it(machine, name, value):
    with pytest.raises(ValueError) as refusal:
        check_settings({**GOOD, name: value})
    message = str(refusal.value)
    assert name.lower() in message.lower() and (repr(value) in message or str(value) in message)
    assert "\n" not in message and ". " not in message


def test_unknown_parameter_is_refused_with_the_known_ones():
    with pytest.raises(ValueError) as refusal:
        check_settings({**GOOD, "EPOCH": 1})
    assert str(refusal.value) == f"there is no parameter 'EPOCH'; the parameters are {', '.join(sorted(GOOD))}"


def test_what_else_a_notebook_holds_is_no_parameter():
    namespace = {**GOOD, "_": 3, "__name__": "__main__", "In": [], "Out": {}, "torch": torch, "check": check_settings}
    assert check_settings(namespace) == check_settings(GOOD)


@pytest.mark.parametrize(("given", "conv", "fc", "celeba64", "p1"), [
    ({}, 10, 10, 10, 40), (dict(epochs=1), 1, 1, 1, 1), (dict(conv_epochs=3), 3, 10, 10, 40),
    (dict(epochs=1, fc_epochs=5, celeba_epochs=2), 1, 5, 2, 1)])
def test_a_recipes_own_parameter_goes_before_epochs_and_that_before_its_own_number(given, conv, fc, celeba64, p1):
    settings = Settings(**given)
    assert [settings.epochs_of(RECIPES[n]) for n in ("conv", "fc", "celeba64", "p1-conv")] == [conv, fc, celeba64, p1]


def test_only_a_full_run_is_full_and_downloads():
    assert Settings().full and Settings().sources["download"]
    assert not Settings(data="standin").sources["download"]
    for shorter in (dict(epochs=1), dict(conv_epochs=1), dict(fc_epochs=1), dict(celeba_epochs=1), dict(train_limit=9)):
        assert not Settings(**shorter).full and not Settings(**shorter).sources["download"]


# ---------------------------------------------------------------- device and precision


def test_device_is_chosen_in_one_order(machine, monkeypatch):
    assert helpers.choose_device().type == "cpu"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert helpers.choose_device().type == "mps" and helpers.choose_device("cpu").type == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert helpers.choose_device().type == "cuda" and str(helpers.choose_device("cuda:1")) == "cuda:1"


@pytest.mark.parametrize(("there", "chosen"), [(True, "bf16"), (False, "fp32")])
def test_precision_follows_the_hardware_unless_asked_for(monkeypatch, there, chosen):
    cpu = torch.device("cpu")
    monkeypatch.setattr(helpers, "cpu_has_bf16", lambda: there)
    assert helpers.choose_precision("auto", cpu) == chosen
    assert helpers.choose_precision("fp32", cpu) == "fp32" and helpers.choose_precision("bf16", cpu) == "bf16"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0) if there else (7, 5))
    assert helpers.choose_precision("auto", torch.device("cuda")) == chosen
    assert helpers.choose_precision("auto", torch.device("mps")) == "fp32"


# ---------------------------------------------------------------- command line


def test_list_shows_every_recipe_and_what_is_trained_of_it(tmp_path, capsys):
    how = ["--limit", "200", "--data", "standin", "--precision", "fp32", "--device", "cpu", "--runs", str(tmp_path)]
    assert helpers.main(["p1-fc", "--epochs", "1", *how]) == 0
    trained = capsys.readouterr().out.splitlines()
    assert helpers.main(["--list", "--runs", str(tmp_path)]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert len(listed) == len(RECIPES) + 1
    for line, recipe in zip([line for line in listed if line[0] != " "], RECIPES.values(), strict=True):
        assert line.split()[0] == recipe.name and f"{helpers.count_parameters(helpers.build(recipe)):,}" in line
    folder = next(tmp_path.glob("p1-fc-1-*"))
    last = json.loads((folder / "history.json").read_text())[-1]
    shown = listed[1 + [line.split()[0] for line in listed].index("p1-fc")]
    assert shown.strip() == (f"{folder.name}: 1 of 1 epochs, seed 0, 160 images, fp32, loss {last['loss']:.1f}, "
                             f"KL {last['kl']:.1f}")
    assert "stand-in" in trained[1] and trained[-1].startswith("p1-fc, 1 epochs on 160 images, trained here")


def test_unknown_recipe_is_refused_with_the_known_ones(capsys):
    with pytest.raises(SystemExit) as stop:
        helpers.main(["fc", "cnn"])
    assert stop.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith(f"no recipe 'cnn'; there are {', '.join(RECIPES)}")


@pytest.mark.parametrize(("arguments", "sentence"), [
    (["--epochs", "-1"], "EPOCHS = -1 must not be below 0"),
    (["--limit", "-1"], "TRAIN_LIMIT = -1 must not be below 0"),
    (["--device", "gpu"], "device 'gpu' is not on this machine, which has"),
    (["--precision", "fp8"], "precision 'fp8' is none of"),
    (["--data", "real", "--limit", "9", "--data-root", "nowhere"], "nowhere")])
def test_trouble_is_one_line_and_exit_code_1(tmp_path, capsys, arguments, sentence):
    assert helpers.main(["fc", "--runs", str(tmp_path), *arguments]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and sentence in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_splits_hold_out_what_is_chosen_on_and_nothing_else():
    def sizes(name):
        splits = helpers.load_splits(RECIPES[name], limit=600, source="standin")
        return {kind: part and len(part) for kind, part in splits.items()}, splits

    assert sizes("conv")[0] == {"images": 600, "heldout": None, "test": 120}
    assert sizes("celeba32")[0] == {"images": 600, "heldout": 120, "test": 120}
    counts, splits = sizes("p1-conv")
    assert counts == {"images": 480, "heldout": 120, "test": 120}
    rows = [set(map(bytes, part.images.flatten(1).numpy())) for part in splits.values()]
    assert not (rows[0] & rows[1] or rows[0] & rows[2] or rows[1] & rows[2])


# ---------------------------------------------------------------- samples and paths


def draws(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("path", [helpers.lerp, helpers.slerp])
def test_path_goes_from_one_end_to_the_other(path):
    a, b = draws(5, 16), 2 * draws(5, 16, seed=1)
    steps = path(a, b, 7)
    assert steps.shape == (5, 7, 16)
    torch.testing.assert_close(steps[:, 0], a), torch.testing.assert_close(steps[:, -1], b)
    torch.testing.assert_close(path(a[0], b[0], 7), steps[0])
    torch.testing.assert_close(path(b, a, 7).flip(1), steps)


def test_straight_path_has_equal_steps():
    a, b = draws(16), draws(16, seed=1)
    steps = helpers.lerp(a, b, 5)
    torch.testing.assert_close(steps.diff(dim=0), ((b - a) / 4).expand(4, 16))


def test_great_circle_keeps_the_norm_and_turns_evenly_in_the_plane_of_its_ends():
    a, b = draws(64), draws(64, seed=1)
    b = b * a.norm() / b.norm()
    arc, line = helpers.slerp(a, b, 9), helpers.lerp(a, b, 9)
    torch.testing.assert_close(arc.norm(dim=1), a.norm().expand(9))
    assert line[4].norm() < 0.8 * a.norm()                      # where the straight line leaves the shell
    angles = torch.acos(torch.nn.functional.cosine_similarity(arc[:-1], arc[1:]))
    whole = torch.acos(torch.nn.functional.cosine_similarity(a, b, dim=0))
    torch.testing.assert_close(angles, (whole / 8).expand(8), rtol=1e-3, atol=1e-4)
    assert torch.linalg.matrix_rank(torch.cat([arc, a[None], b[None]]), rtol=1e-4) == 2


def test_great_circle_of_unequal_ends_changes_its_norm_evenly():
    a, b = draws(64), 3 * draws(64, seed=1)
    norms = helpers.slerp(a, b, 5).norm(dim=1)
    torch.testing.assert_close(norms, torch.linspace(a.norm().item(), b.norm().item(), 5))


def test_great_circle_between_parallel_vectors_is_the_line():
    a = draws(16)
    torch.testing.assert_close(helpers.slerp(a, 2 * a, 5), helpers.lerp(a, 2 * a, 5))
    assert helpers.slerp(a, a, 5).isfinite().all()


def test_prior_draws_are_standard_normal_and_repeat():
    z = helpers.prior(500, 128, seed=1)
    assert z.shape == (500, 128) and abs(z.mean()) < 0.02 and abs(z.std() - 1) < 0.02
    assert torch.equal(z, helpers.prior(500, 128, seed=1)) and not torch.equal(z, helpers.prior(500, 128, seed=2))


@pytest.mark.parametrize("link", ["sigmoid", "tanh", "identity"])
def test_reconstruction_is_the_decoded_posterior_mean_in_unit_pixels(link):
    model = helpers.build(RECIPES["p1-conv"].but(side=8, latent=4, widths=(8, 8), link=link)).eval()
    images = torch.randint(0, 256, (7, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    with torch.no_grad():
        mu, logvar = model.encode(images / 255)
        known = helpers.to_pixels(model.recipe, model.decode(mu)).clamp(0, 1)
    torch.testing.assert_close(helpers.reconstruct(model, images), known)
    torch.testing.assert_close(helpers.encode(model, images, batch=3), (mu, logvar))
    torch.testing.assert_close(helpers.decode(model, mu, batch=3), known)
