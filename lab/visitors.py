"""What the shipped weights show whoever has just cloned this: samples, and one's own picture."""

import io
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch import Tensor

from data.picture import read_picture
from lab.files import Refused, Trouble, write_atomically
from lab.latent import traverse
from lab.linear import entropy_floor, linear_model
from lab.runs import kept_identities, kept_model, recipe_of
from lab.shipped import WEIGHTS, Shipped, read_shipped
from lab.show import Table, labelled_rows
from lab.training import decode_set, draw_images, evaluate, generator, reconstruct
from vae_helpers import VAE, Recipe, as_pixels

COLUMNS, REACH, SIDE = 10, 3.0, 64      # images a row, how far a walk goes, pixels
WIDE = 128          # pixels of each image beside one's own
DRAWS = 32          # of the noise, over which a picture's loss is averaged
FRAME = ("frame a face as CelebA does: seen from the front, the eyes on the middle line of the "
         "square and 0.22 of its width apart, the mouth three quarters down, hair and chin inside")
CAPTION = ("PCA is compared with its own losses on the test images, every network with the shipped "
           "one's.")

# ---- samples


def sample_sheet(seed: int = 0, folder: Path = WEIGHTS) -> Figure:
    """A figure of ten samples a row: of the shipped models, of one class of CIFAR-10, which the
    seed chooses, and walks along the two dimensions of each model that cost most nats."""
    rows = {}
    for name in ("improved", "faces"):
        rows |= {f"{name}: {what}": enlarged(images)
                 for what, images in samples_of(read_shipped(name, folder), seed).items()}
    return labelled_rows(rows, f"Drawn from the shipped weights, seed {seed}", zoom=1, label=170)


def samples_of(shipped: Shipped, seed: int) -> dict[str, Tensor]:
    """Rows of ten images in [0, 1], by what they are."""
    rows = {"draws": draw_images(shipped.model, COLUMNS, seed)}
    if "classes" in shipped.about:
        classes = shipped.about["classes"]
        label = seed % len(classes)
        rows[f"class {classes[label]}"] = class_draws(shipped, label, COLUMNS, seed)
    middle = torch.zeros(1, shipped.recipe.latent)
    for dim in shipped.arrays["kl"].topk(2).indices.tolist():
        rows[f"z[{dim}], −3 to 3"] = traverse(shipped.model, middle, dim, REACH, COLUMNS)
    return rows


def class_draws(shipped: Shipped, label: int, n: int, seed: int = 0) -> Tensor:
    """n images decoded from the Gaussian of the codes of one class."""
    mean, root = shipped.arrays["class_mean"][label], shipped.arrays["class_root"][label]
    eps = torch.randn(n, len(mean), generator=generator("cpu", seed, "class", label))
    return decode_set(shipped.model, mean + eps @ root.T)


def enlarged(images: Tensor) -> Tensor:
    """Images at 64×64, every pixel of smaller ones repeated."""
    times = SIDE // images.shape[-1]
    return images.repeat_interleave(times, 2).repeat_interleave(times, 3)


# ---- one's own picture


class Seen(NamedTuple):
    """A picture as models see it: a figure, their losses, and sentences on how it was read."""

    figure: Figure
    table: Table
    said: list[str]


def own_picture(path: str | Path, faces: bool = False, runs: str | Path = "runs",
                folder: Path = WEIGHTS) -> Seen:
    """A picture beside its reconstructions by PCA, the shipped model and finished runs, with what
    each of them costs above the picture's own floor."""
    shipped = read_shipped("faces" if faces else "improved", folder)
    pixels, said = read_picture(Path(path), shipped.recipe.side)
    image, losses = torch.from_numpy(pixels)[None], shipped.arrays["losses"]
    pca, of_pca = linear_model(shipped.recipe, shipped.spectrum), shipped.arrays["losses_pca"]
    trained, troubles = fitting_models(runs, shipped)
    models = {"PCA": pca, shipped.recipe.name: shipped.model, **trained}
    rows = [row_of(name, model, image, of_pca if model is pca else losses)
            for name, model in models.items()]
    columns = ["your picture", *(f"{row['model']}: {row['nats above its floor']:.0f}"
                                 for row in rows)]
    shown = torch.cat([as_pixels(image), *(reconstruct(m, image) for m in models.values())])
    figure = labelled_rows({"": shown}, "Your picture, and the nats above its own floor", columns,
                           zoom=WIDE // shipped.recipe.side, label=0)
    table = Table(rows, {"nats above its floor": ".1f", "KL among them": ".1f",
                         "test images that cost less": ".0%"}, CAPTION)
    return Seen(figure, table, [*said, *troubles, *[FRAME] * faces])


def row_of(name: str, model: VAE, image: Tensor, losses: Tensor) -> dict:
    """A model's loss on a picture, and where it lies among test images' losses, of which these are
    the quantiles."""
    terms = evaluate(model, image.repeat(DRAWS, 1, 1, 1))
    above = terms.loss(model.recipe.beta).mean().item() - entropy_floor(image)
    return {"model": name, "nats above its floor": above, "KL among them": terms.kl[0].sum().item(),
            "test images that cost less": (losses < above).float().mean().item()}


def fitting_models(runs: str | Path, shipped: Shipped) -> tuple[dict[str, VAE], list[str]]:
    """The finished runs that a picture can be compared by, of each recipe the one of most epochs
    and then the first seed, and what is wrong with others."""
    found, troubles = {}, []
    for identity in sorted(kept_identities(runs), key=lambda each: (-each["epochs"], each["seed"])):
        recipe = recipe_of(identity)
        name = f"{recipe.name}, own" if recipe.data == "folder" else recipe.name
        name += " again" if recipe.name == shipped.recipe.name and recipe.data != "folder" else ""
        if name not in found and fits(recipe, identity, shipped):
            try:
                model = kept_model(runs, identity)
            except Trouble as trouble:
                troubles.append(str(trouble))
            else:
                found |= {name: model} if model else {}
    return found, troubles


def fits(recipe: Recipe, identity: dict, shipped: Shipped) -> bool:
    """Whether a run is another one than the shipped, with the same loss, of images of the same side
    that are its images or somebody's own."""
    kept = shipped.about["identity"]
    same_loss = (recipe.reconstruction, recipe.beta, recipe.noise) == ("bce", 1.0, True)
    same_images = identity["data"] == kept["data"] or recipe.data == "folder"
    return (recipe.side == shipped.recipe.side and same_loss and same_images
            and not recipe.trial and identity != kept)


# ---- files


def save_picture(figure: Figure, path: Path) -> None:
    """Writes a figure as a PNG with all its colours, and closes it."""
    if path.suffix.lower() != ".png":
        raise Refused(f"--out {path} is no name of a PNG: let it end in .png")
    file = io.BytesIO()
    figure.savefig(file, dpi=figure.dpi, facecolor="white", format="png")
    plt.close(figure)
    write_atomically(path, file.getbuffer())
