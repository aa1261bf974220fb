"""What the notebook shows: figures with alt text, tables, and sentences made from a run's numbers."""
from __future__ import annotations

import base64
import inspect
import io
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vae_helpers import (
    Recipe,
    Run,
    Settings,
    build,
    count_parameters,
    finished_epochs,
    in_notebook,
    seconds_needed,
    write_atomically,
    write_json,
)

COLOURS = {"conv": "#1f5fa8", "fc": "#d9822b", "celeba64": "#3f8f4f", "data": "#222222", "floor": "#888888"}


def gallery_for(settings: Settings, *sets) -> Gallery:
    """FIGURES for a full run on real images or where another folder was asked for; else beside the runs."""
    earned = settings.full and all(s.real for s in sets)
    return Gallery(settings.figures if earned or settings.figures != "figures" else Path(settings.runs) / "figures")


class Gallery:
    """Shows figures in the notebook and keeps each, numbered as in the text, in a folder."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.count = 0

    def show(self, figure, name: str, alt: str, picture: bool = False) -> None:
        """Display a matplotlib figure with alt text and save the same file; pictures keep all their colours."""
        drawn = io.BytesIO()
        figure.savefig(drawn, dpi=figure.dpi, facecolor="white")
        image = Image.open(drawn).convert("RGB")
        file = io.BytesIO()
        if picture:
            image.save(file, "JPEG", quality=92, subsampling=0, optimize=True)
        else:
            image.quantize(256, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
        self._keep(file.getvalue(), f"{name}.{'jpg' if picture else 'png'}", alt, image.width)
        plt.close(figure)

    def write_results(self, rows: list[dict]) -> str:
        """Write the closing table beside the figures; returns a sentence on where."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / "results.json", {"rows": rows})
        return f"{len(rows)} results written to {(self.folder / 'results.json').as_posix()}"

    def _keep(self, data: bytes, name: str, alt: str, width: int) -> None:
        self.count += 1
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self.folder / f"{self.count:02d}-{name}", lambda file: file.write(data))
        if in_notebook():
            from IPython.display import display
            mime = "image/png" if name.endswith("png") else "image/jpeg"
            display({mime: base64.b64encode(data).decode(), "text/plain": alt},
                    metadata={mime: {"alt": alt, "width": width}}, raw=True)


def new_figure(columns: int = 1, rows: int = 1, width: float = 8.0, height: float = 3.2):
    """A figure of fixed size and its axes, in the notebook's style."""
    with plt.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False,
                         "axes.titlesize": 11, "axes.titleweight": "bold", "axes.titlelocation": "left"}):
        figure, axes = plt.subplots(rows, columns, figsize=(width, height), dpi=110, layout="constrained")
    return figure, axes


def tile(images: Tensor, columns: int, zoom: int = 2, gap: int = 2) -> np.ndarray:
    """Images in [0, 1] or uint8 (N, 3, H, W) as one uint8 array (rows, columns, 3) at an exact multiple."""
    if images.dtype != torch.uint8:
        images = (images.clamp(0, 1) * 255).round().to(torch.uint8)
    N, _, H, W = images.shape
    rows = -(-N // columns)
    sheet = torch.full((rows * columns, 3, H + gap, W + gap), 255, dtype=torch.uint8)
    sheet[:N, :, :H, :W] = images
    sheet = sheet.view(rows, columns, 3, H + gap, W + gap).permute(0, 3, 1, 4, 2)    # (rows, H, columns, W, 3)
    sheet = sheet.reshape(rows * (H + gap), columns * (W + gap), 3)[:rows * (H + gap) - gap, :columns * (W + gap) - gap]
    return sheet.repeat_interleave(zoom, 0).repeat_interleave(zoom, 1).numpy()


def picture(panels: dict[str, np.ndarray], title: str, across: bool = True):
    """Tiled arrays, each under its name, pixel for pixel in one figure."""
    dpi, head, label, pad = 100, 34, 22, 14
    heights, widths = zip(*(p.shape[:2] for p in panels.values()), strict=True)
    if across:
        size = sum(widths) + pad * (len(panels) + 1), max(heights) + head + label + pad
    else:
        size = max(widths) + 2 * pad, sum(heights) + head + (label + pad) * len(panels)
    figure = plt.figure(figsize=(size[0] / dpi, size[1] / dpi), dpi=dpi)
    figure.text(pad / size[0], 1 - 10 / size[1], title, va="top", fontsize=11, weight="bold")
    x, y = pad, head
    for name, panel in panels.items():
        h, w = panel.shape[:2]
        figure.text(x / size[0], 1 - (y + label - 6) / size[1], name, va="bottom", fontsize=9)
        axes = figure.add_axes([x / size[0], 1 - (y + label + h) / size[1], w / size[0], h / size[1]])
        axes.imshow(panel, interpolation="none")
        axes.axis("off")
        x, y = (x + w + pad, y) if across else (x, y + h + label + pad)
    return figure


def plot_curves(runs: dict[str, Run], floor: float, test_floor: float, ceiling: float):
    """Losses by epoch as excess over the entropy floor of their set, with the mean image's; KL beside it."""
    figure, (left, right) = new_figure(2)
    for name, run in runs.items():
        colour = COLOURS.get(run.recipe.name, None)
        epochs = run.curve("epoch")
        left.plot(epochs, [v - floor for v in run.curve("loss")], color=colour, label=f"{name}, training")
        left.plot(epochs, [v - test_floor for v in run.curve("test_loss")], color=colour, ls="--", marker=".",
                  label=f"{name}, test")
        right.plot(epochs, run.curve("kl"), color=colour, marker=".", label=name)
    left.axhline(ceiling - test_floor, color=COLOURS["floor"], ls=":", label="mean image, no model")
    left.set(xlabel="epoch", ylabel="nats per image above the floor", ylim=(0, None))
    right.set(xlabel="epoch", ylabel="KL, nats per image", ylim=(0, None))
    left.legend(fontsize=8)
    right.legend(fontsize=8)
    return figure, (left, right)


def source_of(*objects) -> str:
    """The source text of functions or classes as Markdown, so that what is read is what ran."""
    return "\n".join(f"```python\n{inspect.getsource(o).rstrip()}\n```" for o in objects)


def markdown_table(rows: list[dict]) -> str:
    """Rows with equal keys as a Markdown table; numbers to the right."""
    keys = list(rows[0])
    right = [all(isinstance(r[k], (int, float)) or str(r[k])[:1].isdigit() for r in rows) for k in keys]
    lines = ["| " + " | ".join(keys) + " |", "|" + "|".join("---:" if r else "---" for r in right) + "|"]
    return "\n".join(lines + ["| " + " | ".join(str(r[k]) for k in keys) + " |" for r in rows])


def banner(settings: Settings, gallery: Gallery, *splits: dict) -> str:
    """Where the images come from, what this run covers, and where its figures go, as Markdown."""
    sets = [s for split in splits for s in (split["images"], split["test"])]
    kind = "real images" if all(s.real for s in sets) else "**drawn stand-ins, not the real datasets**"
    cover = "the full run" if settings.full else "a shortened run, whose numbers are not the submission's"
    lines = [f"Data: {kind}; {cover}. Figures go to `{gallery.folder.as_posix()}`."]
    lines += [f"- {s.name}, {s.split}: {len(s):,} images ({s.source}), fingerprint `{s.fingerprint}`" for s in sets]
    return "\n".join(lines[:1] + [""] + lines[1:])


def shapes_table(*recipes: Recipe) -> str:
    """What each recipe's layers pass on, and how many parameters it has, as Markdown."""
    return markdown_table([{"recipe": r.name, "encoder": " → ".join(shapes(r, "encoder")), "latent": r.latent,
                            "decoder": " → ".join(shapes(r, "decoder")),
                            "parameters": f"{count_parameters(build(r)):,}"} for r in recipes])


@torch.no_grad()
def shapes(recipe: Recipe, part: str) -> list[str]:
    """The distinct shapes that an image, or a latent vector, takes on its way through a part of the model."""
    x = torch.zeros(1, 3, recipe.side, recipe.side) if part == "encoder" else torch.zeros(1, recipe.latent)
    seen = ["×".join(map(str, x.shape[1:]))]
    for layer in getattr(build(recipe).eval(), part):
        x = layer(x)
        shape = "×".join(map(str, x.shape[1:]))
        seen += [shape] if shape != seen[-1] else []
    return seen


def time_needed(jobs: list[tuple[Recipe, dict]], settings: Settings) -> str:
    """Which trainings lie in RUNS already, and how long the others will take on this machine, as Markdown."""
    rows, total = [], 0.0
    for recipe, splits in jobs:
        epochs, images = settings.epochs_of(recipe), splits["images"]
        done = len(finished_epochs(recipe, **splits, epochs=epochs, **settings.where))
        left = 0.0 if done >= epochs else seconds_needed(recipe, len(images), epochs - done, settings.device,
                                                         settings.precision)
        total += left
        rows.append({"training": recipe.name, "epochs": epochs, "images": f"{len(images):,}", "done": done,
                     "minutes to go": f"{left / 60:.1f}"})
    advice = ("" if total < 300 else " For a look in minutes set `EPOCHS = 1` and `TRAIN_LIMIT = 2000` in the "
              "parameters cell.")
    return markdown_table(rows) + f"\n\nTraining will take about **{total / 60:.0f} minutes** here.{advice}"


def loss_table(runs: dict[str, Run], floor: float, ceiling: float) -> str:
    """Test losses on the scale from entropy floor to mean image, as Markdown."""
    rows = [{"model": "mean image", "test loss": f"{ceiling:.1f}", "above the floor": f"{ceiling - floor:.1f}",
             "KL": "0", "distortion": f"{ceiling - floor:.1f}", "share of the possible gain": "0 %"}]
    for name, run in runs.items():
        loss, kl = run.last["test_loss"], run.last["test_kl"]
        rows.append({"model": name, "test loss": f"{loss:.1f}", "above the floor": f"{loss - floor:.1f}",
                     "KL": f"{kl:.1f}", "distortion": f"{loss - kl - floor:.1f}",
                     "share of the possible gain": f"{(ceiling - loss) / (ceiling - floor):.0%}".replace("%", " %")})
    return markdown_table(rows)


def bullets(*items) -> str:
    return "\n".join(f"- {item}" for item in items)


def result(name: str, claimed: str | None, measured: str, note: str = "", run: Run | None = None) -> dict:
    """One row of the closing table."""
    where = {"run": run.hash, "device": run.device, "trained_here": run.trained_here} if run else {
        "run": None, "device": None, "trained_here": None}
    return {"result": name, "claimed": claimed, "measured": measured, "note": note, **where}
