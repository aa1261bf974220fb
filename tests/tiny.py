"""What is small enough for a test: trainings of a second, a linear model, images of noise."""

import torch

import data
from data import Splits
from lab.runs import Job
from lab.show import Table
from vae_helpers import Recipe

TINY = Recipe("tiny", side=8, widths=(4, 8), latent=3, batch=10, epochs=4)
EARLY = TINY.but(name="early", reconstruction="sse", norm=False, patience=1, min_delta=0.0,
                 lr=1e-2, epochs=8)
LINEAR = Recipe("plain", network="fc", widths=(), norm=False, link="identity",
                reconstruction="sse", side=4, latent=3)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def grey(n=40, side=4, seed=0):
    """Images of white noise, bytes."""
    return torch.randint(0, 256, (n, 3, side, side), dtype=torch.uint8, generator=generator(seed))


def noise_images(n=35, side=8, seed=0):
    """Blotches: each image has a colour of its own, so that there is something to learn."""
    colour = torch.randint(40, 216, (n, 3, 1, 1), generator=generator(seed))
    grain = torch.randint(-20, 21, (n, 3, side, side), generator=generator(seed + 1))
    return data.image_set(
        name="cifar10", split="train", images=(colour + grain).to(torch.uint8),
        labels=torch.zeros(n).long(), label_names=("noise",), source=f"noise of seed {seed}",
        real=False)


IMAGES, HELDOUT, TEST = noise_images(), noise_images(20, seed=5), noise_images(15, seed=8)


def job(runs, recipe=TINY, train=IMAGES, heldout=None, test=None, **more):
    """The job of a recipe on blotches; one that stops early has held-out images."""
    heldout = HELDOUT if heldout is None and recipe.patience else heldout
    return Job(recipe, Splits(train, heldout, test), runs=runs,
               **{"device": "cpu", "wanted": "fp32", **more})


def run(runs, recipe=TINY, **more):
    return job(runs, recipe, **more).train()


def put_linear(model, best):
    """Gives a model without hidden layers the parameters of a closed-form linear VAE."""
    with torch.no_grad():
        model.to_mu.weight.copy_(best.encoder)
        model.to_mu.bias.copy_(-best.encoder @ best.mean)
        model.to_logvar.weight.zero_()
        model.to_logvar.bias.copy_(best.variance.log())
        model.decoder[0].weight.copy_(best.decoder)
        model.decoder[0].bias.copy_(best.mean)
    return model.eval()


def assert_shows(shown, kind):
    """It is of this kind and has something to show: rows, or words for who cannot see it."""
    assert isinstance(shown, kind)
    assert shown._repr_markdown_() if kind is Table else len(shown.alt) > 20


# ---- what a folder holds


def state(folder, name="state.pt"):
    return torch.load(folder / name, weights_only=True)


def flat(value, path=""):
    """Nested dictionaries and lists as one dictionary from path to leaf."""
    if not isinstance(value, (dict, list, tuple)):
        return {path: value}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return {name: leaf for key, part in items for name, leaf in flat(part, f"{path}/{key}").items()}


def without_times(history):
    return [{key: value for key, value in h.items()
             if key not in ("seconds", "images_per_second")} for h in history]


def assert_identical(one, other):
    """Two folders of a run hold the same, every tensor and every number but for times."""
    names = sorted(p.name for p in one.glob("*.pt"))
    assert names == sorted(p.name for p in other.glob("*.pt")) and "state.pt" in names
    for name in names:
        a, b = state(one, name), state(other, name)
        for each in (a, b):
            each["history"] = without_times(each.get("history", []))
            del each["digest"]                  # of times, too
        a, b = flat(a), flat(b)
        assert a.keys() == b.keys()
        for key, value in a.items():
            same = torch.equal(value, b[key]) if torch.is_tensor(value) else value == b[key]
            assert same, key
    assert not list(one.glob("*.tmp")) and not list(other.glob("*.tmp"))


def assert_same_weights(*runs):
    first, *rest = (each.model.state_dict() for each in runs)
    assert all(torch.equal(first[name], other[name]) for other in rest for name in first)
