"""What the notebook shows: figures with alt text, tables, and sentences made from a run's numbers."""
from __future__ import annotations

import base64
import inspect
import io
import textwrap
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vae_experiments import Scale, pace, percent, rank_correlation
from vae_helpers import (
    Recipe,
    Run,
    Settings,
    build,
    count_parameters,
    finished_epochs,
    in_notebook,
    seconds_per_image,
    write_atomically,
    write_json,
)
from vae_measures import Gradients, LinearOptimum, RateDistortion, Spectrum

COLOURS = {"conv": "#1f5fa8", "fc": "#d9822b", "improved": "#7b3294", "celeba64": "#3f8f4f", "grey": "#777777"}
MARKERS = {"conv": "o", "fc": "s", "improved": "^", "celeba64": "o"}


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
        for axes in figure.axes:
            axes.set_title(axes.get_title(loc="left") or axes.get_title(), loc="left", fontsize=11, weight="bold")
            axes.set_title("")
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

    def write_results(self, rows: list[dict], runs: list[Run]) -> str:
        """Write the closing table, and the pace of the runs' median epochs, beside the figures; returns where."""
        times = [{"training": run.recipe.name, "images": run.identity["images"], "epochs": len(run.history),
                  "images_per_second": run.identity["images"] / pace(run.history)} for run in runs]
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / "results.json", {"rows": rows, "times": times})
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
    with plt.rc_context({"axes.spines.top": False, "axes.spines.right": False}):
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


def plot_curves(runs: dict[str, Run], scale: Scale, linear: float):
    """Losses by epoch above the floor of their set, with mean image and linear optimum; KL beside them."""
    figure, (left, right) = new_figure(2, width=9)
    for name, run in runs.items():
        colour, epochs = COLOURS[name], run.curve("epoch")
        left.plot(epochs, above(run.curve("loss"), scale.floor), color=colour, lw=1, label=f"{name}, training")
        left.plot(epochs, above(run.curve("test_loss"), scale.test_floor), color=colour, ls="--", marker=MARKERS[name],
                  ms=4, label=f"{name}, test")
        right.plot(epochs, run.curve("test_kl"), color=colour, marker=MARKERS[name], ms=4, label=name)
    reference_lines(left, scale, linear)
    left.set(xlabel="epoch", ylabel="nats per image above the floor", ylim=(0, None), title="Loss above the floor")
    right.set(xlabel="epoch", ylabel="nats per image", ylim=(0, None), title="KL: what the code costs")
    left.legend(fontsize=7, ncols=2)
    right.legend(fontsize=8)
    return figure


def above(losses: list[float], floor: float) -> list[float]:
    return [loss - floor for loss in losses]


def reference_lines(axes, scale: Scale, linear: float) -> None:
    """The mean image and the linear optimum, above the floor."""
    axes.axhline(scale.ceiling, color=COLOURS["grey"], ls=":", label="mean image")
    linear_line(axes, scale, linear)


def linear_line(axes, scale: Scale, linear: float) -> None:
    """The linear optimum's loss, above the floor."""
    axes.axhline(linear - scale.test_floor, color=COLOURS["grey"], ls="-.", label="linear optimum, untrained")


def plot_by_seconds(runs: dict[str, Run], scale: Scale, linear: float):
    """Test loss above the floor against seconds of training, at the pace of each run's median epoch."""
    figure, axes = new_figure(width=7)
    for name, run in runs.items():
        seconds = pace(run.history) * np.array(run.curve("epoch"))
        axes.plot(seconds, above(run.curve("test_loss"), scale.test_floor), color=COLOURS[name], marker=MARKERS[name],
                  ms=4, label=name)
    linear_line(axes, scale, linear)
    axes.set(xscale="log", xlabel="seconds of training, by the median epoch", title="How soon each gets where",
             ylabel="test loss above the floor, nats")
    axes.legend(fontsize=8)
    return figure


def plot_permuted(control: dict[str, tuple[Run, Run]], scale: Scale):
    """Last training loss above the floor, with pixels in place and permuted, for each model."""
    figure, axes = new_figure(width=8, height=2.6)
    costs = []
    for i, (name, both) in enumerate(control.items()):
        values = [run.last["loss"] - scale.floor for run in both]
        costs.append(f"{name} {values[1] - values[0]:+.0f} nats")
        for j, (value, label, hatch) in enumerate(zip(values, ("in place", "permuted"), ("", "//"), strict=True)):
            axes.barh(2.4 * i + j, value, color=COLOURS[name], hatch=hatch, edgecolor="white", label=f"{name}, {label}")
            axes.text(value, 2.4 * i + j, f" {value:.1f}", va="center", fontsize=9)
    axes.margins(x=0.15)
    axes.set(xlabel="training loss above the floor, nats", yticks=[],
             title=f"What permuting the pixels costs: {', '.join(costs)}")
    axes.invert_yaxis()
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def plot_rate_distortion(curve: RateDistortion, points: dict[str, tuple[float, float]],
                         marked: dict[str, LinearOptimum]):
    """Models in the plane of rate and squared error, over the curve of the best linear VAEs."""
    figure, axes = new_figure(width=7, height=3.6)
    axes.plot(curve.rate, curve.distortion, color=COLOURS["grey"], label="best linear VAEs, σ² swept")
    for (name, optimum), marker in zip(marked.items(), "x+", strict=True):
        axes.plot(optimum.rate, optimum.distortion, marker, color="black", ms=8, ls="", label=f"linear, {name}")
    for i, (name, (rate, distortion)) in enumerate(sorted(points.items(), key=lambda point: point[1])):
        x, y, side = ((6, 5, "left"), (-6, -12, "right"), (6, 5, "left"), (7, -9, "left"))[i % 4]    # apart by turns
        axes.plot(rate, distortion, MARKERS.get(name, "D"), color=COLOURS.get(name, "black"), ms=6, ls="")
        axes.annotate(name, (rate, distortion), textcoords="offset points", xytext=(x, y), ha=side, fontsize=9)
    axes.set(xlabel="rate: KL, nats per image", ylabel="squared error per image", ylim=(0, None),
             xlim=(-2, 1.15 * max(rate for rate, _ in points.values())), title="What the nats buy")
    axes.legend(fontsize=8)
    return figure


def plot_spectra(spectra: dict[str, Spectrum], lines: dict[str, float]):
    """Eigenvalues of the pixel covariance by rank, and the decoder variance of each loss as a line."""
    figure, axes = new_figure(width=7)
    for (name, spectrum), (colour, style) in zip(spectra.items(), ((COLOURS["conv"], "-"), (COLOURS["celeba64"], "--")),
                                                 strict=False):
        values = spectrum.eigenvalues.numpy()
        axes.plot(np.arange(1, len(values) + 1), values, style, color=colour, label=name)
        for sigma2 in lines.values():
            kept = int((values > sigma2).sum())
            axes.annotate(str(kept), (max(kept, 1), sigma2), textcoords="offset points", xytext=(3, 4), fontsize=9,
                          color=colour)
    for (label, sigma2), style in zip(lines.items(), (":", "-."), strict=False):
        axes.axhline(sigma2, color=COLOURS["grey"], ls=style, label=label)
    axes.set(xscale="log", yscale="log", xlabel="rank", ylabel="eigenvalue, squared pixels in [0, 1]",
             title="How many directions lie above the price of each loss")
    axes.legend(fontsize=8)
    return figure


def plot_gradients(gradients: Gradients):
    """Spread over draws of both estimators of one gradient, in the dimension where it is largest."""
    figure, axes = new_figure(width=7, height=2.8)
    dim = gradients.pathwise.mean(0).abs().argmax()
    names = ("pathwise\n(reparameterised)", "score function\nwith baseline", "score function")
    values = (gradients.pathwise, gradients.score_with_baseline, gradients.score)
    axes.boxplot([v[:, dim].numpy() for v in values], orientation="horizontal", tick_labels=names, whis=(1, 99),
                 showfliers=False, widths=0.6, medianprops={"color": COLOURS["fc"]})
    axes.set(xscale="symlog", xlabel="one draw's estimate of one component of the gradient, nats per unit (symlog)",
             title="The same gradient, estimated from one draw in three ways")
    return figure


def plot_smoothness(kl: Tensor, predicted: int, pairs: tuple[Tensor, Tensor]):
    """KL of every dimension, sorted, with the predicted count; change of decodings against distance of posteriors."""
    figure, (left, right) = new_figure(2, width=9)
    left.bar(range(1, kl.shape[1] + 1), kl.mean(0).sort(descending=True).values, width=1.0, color=COLOURS["conv"])
    left.axvline(predicted + 0.5, color=COLOURS["fc"], ls="--", label=f"linear prediction: {predicted} active")
    left.set(xlabel="latent dimension, sorted", ylabel="KL, nats", title="What each dimension costs")
    left.legend(fontsize=8)
    right.scatter(*pairs, s=3, alpha=0.4, color=COLOURS["conv"], linewidths=0)
    right.set(xlabel="distance of the posteriors, −ln overlap", ylabel="change of the decoding, RMS",
              title=f"Overlap and likeness: rank correlation {rank_correlation(*pairs):.2f}",
              xscale="log")
    return figure


def plot_wash_out(paths: dict[str, tuple[Tensor | None, Tensor]]):
    """Norm of the code and sharpness of the frames along paths, as shares of the mean of both ends."""
    figure, (left, right) = new_figure(2, width=9, height=2.8)
    for (name, (norms, sharp)), style in zip(paths.items(), ("-", "--", ":"), strict=False):
        for axes, profile in ((left, norms), (right, sharp)):
            if profile is not None:
                mean = profile.mean(0)
                axes.plot(torch.linspace(0, 1, len(mean)), mean / mean[[0, -1]].mean(), style, color=COLOURS["conv"],
                          label=name)
    left.set(xlabel="position on the path", ylabel="share of the ends", ylim=(0, None), title="Norm of the code")
    right.set(xlabel="position on the path", ylim=(0, None), title="Sharpness of the frames")
    right.legend(fontsize=8)
    return figure


def plot_by_scale(rows: list[dict], floor: float, latent: int):
    """Fréchet distance, and spread and sharpness, of samples by the scale of their latent vectors."""
    figure, (left, right) = new_figure(2, width=9, height=2.8)
    sigma = [r["sigma"] for r in rows]
    left.plot(sigma, [r["fd"] for r in rows], marker="o", color=COLOURS["celeba64"])
    left.axhline(floor, color=COLOURS["grey"], ls=":", label="real against real")
    left.axvline(1, color=COLOURS["grey"], lw=0.8, label=f"the prior: norm √{latent} = {latent ** 0.5:.0f}")
    left.set(xlabel="scale σ of z", ylabel="Fréchet distance", ylim=(0, None), title="Distance from real faces")
    left.legend(fontsize=8)
    for key, style in (("spread", "-"), ("sharpness", "--")):
        right.plot(sigma, [r[key] / rows[0][key] for r in rows], style, marker="o", ms=4, color=COLOURS["celeba64"],
                   label=f"{key}, relative to σ = {sigma[0]}")
    right.set(xlabel="scale σ of z", yscale="log", title="Spread and sharpness of samples")
    right.legend(fontsize=8)
    return figure


def draw_architectures(*recipes: Recipe):
    """The layers of each recipe as boxes whose heights follow the number of values."""
    figure, axes = plt.subplots(len(recipes), 1, figsize=(9, 2.1 * len(recipes)), dpi=110, layout="constrained")
    for ax, recipe in zip(axes, recipes, strict=True):
        ends = [f"μ, ln σ²\n{recipe.latent}", "draw\nz"]
        stages = shapes(recipe, "encoder") + ends + shapes(recipe, "decoder")[1:]
        for i, text in enumerate(stages):
            values = np.prod([int(n) for n in text.split("×")]) if text[0].isdigit() else recipe.latent
            height, latent = 0.25 + 0.16 * np.log10(values), not text[0].isdigit()
            ax.add_patch(plt.Rectangle((i, 0.5 - height / 2), 0.72, height, ec="black", lw=0.8,
                                       fc="#f3e3d3" if latent else "#dbe6f2"))
            ax.text(i + 0.36, 0.5, text.replace("×", "×\n"), ha="center", va="center", fontsize=7.5)
            if i:
                ax.annotate("", (i, 0.5), (i - 0.28, 0.5), arrowprops={"arrowstyle": "->", "lw": 0.8})
        ax.set(xlim=(-0.2, 14), ylim=(-0.05, 1.1),
               title=f"{recipe.name}: {count_parameters(build(recipe)):,} parameters")
        ax.axis("off")
    return figure


def source_of(*objects) -> str:
    """The source text of functions or classes as Markdown, so that what is read is what ran."""
    return "\n".join(f"```python\n{textwrap.dedent(inspect.getsource(o)).rstrip()}\n```" for o in objects)


def markdown_table(rows: list[dict]) -> str:
    """Rows with equal keys as a Markdown table; numbers to the right."""
    keys = list(rows[0])
    right = [all(str(r[k]).lstrip("+-−")[:1].isdigit() or r[k] == "" for r in rows) for k in keys]
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


def time_needed(jobs: dict[str, tuple[Recipe, dict]], settings: Settings) -> str:
    """Which trainings lie in RUNS already, and how long the others will take on this machine, as Markdown."""
    rows, spent, total, rates = [], 0.0, 0.0, {}
    for name, (recipe, splits) in jobs.items():
        epochs, images = settings.epochs_of(recipe), splits["images"]
        history = finished_epochs(recipe, **splits, epochs=epochs, **settings.where)
        done, taken = len(history), sum(h["seconds"] for h in history) / 60
        alike = recipe.but(name="", beta=1.0, noise=True)           # what these cost is the same
        if done < epochs and alike not in rates:
            rates[alike] = seconds_per_image(recipe, len(images), settings.device, settings.precision)
        left = (epochs - done) * len(images) * rates[alike] if done < epochs else 0.0
        total += left
        rows.append({"training": name, "epochs": epochs, "images": f"{len(images):,}", "done": done,
                     "minutes taken": f"{taken:.1f}", "minutes to go": f"{left / 60:.1f}"})
        spent += taken
    advice = ("" if total < 300 else " For a look in minutes set `EPOCHS = 1` and `TRAIN_LIMIT = 2000` in the "
              "parameters cell.")
    return (f"{markdown_table(rows)}\n\nWhat is done took {spent:.0f} minutes; what is left will take about "
            f"**{total / 60:.0f} minutes** here.{advice}")


def recipe_table(*recipes: Recipe) -> str:
    """Every recipe with what decides it, as Markdown."""
    return markdown_table([{
        "recipe": r.name, "data": f"{r.data} {r.side}×{r.side}",
        "network": f"{r.network} {'-'.join(map(str, r.widths))}",
        "latent": r.latent, "loss": f"{r.link}, {r.reconstruction}", "batch": r.batch, "rate": f"{r.lr:g}",
        "epochs": f"≤ {r.epochs}" if r.patience else r.epochs, "parameters": f"{count_parameters(build(r)):,}"}
        for r in recipes])


def loss_table(runs: dict[str, Run], scale: Scale, linear: dict[str, float]) -> str:
    """Losses on the scale from entropy floor to mean image, and what they took, as Markdown."""
    rows = [loss_row("mean image", scale.test_mean_image, 0.0, scale),
            loss_row("linear optimum, untrained", linear["test_loss"], linear["test_kl"], scale)]
    rows += [loss_row(name, run.last["test_loss"], run.last["test_kl"], scale, run) for name, run in runs.items()]
    return markdown_table(rows)


def loss_row(name: str, loss: float, kl: float, scale: Scale, run: Run | None = None) -> dict:
    return {"model": name, "parameters": f"{count_parameters(run.model):,}" if run else "",
            "training loss": f"{run.last['loss']:.1f}" if run else "", "test loss": f"{loss:.1f}",
            "above the floor": f"{loss - scale.test_floor:.1f}", "KL": f"{kl:.1f}",
            "distortion": f"{loss - kl - scale.test_floor:.1f}", "of the possible gain": percent(scale.share(loss)),
            "images/s": f"{run.identity['images'] / pace(run.history):,.0f}" if run else "",
            "seconds": f"{len(run.history) * pace(run.history):,.0f}" if run else ""}


def trials_table(tried: list[tuple[str, Recipe, list[dict]]]) -> str:
    """What was tried for the improvement and what it gave on held-out images, as Markdown."""
    if not tried:
        return "None of the trials lies in `RUNS`."
    first = tried[0][2][-1]["heldout_loss"]
    rows = [{"tried": name, "parameters": f"{count_parameters(build(recipe)):,}", "epochs": len(history),
             "held-out loss": f"{history[-1]['heldout_loss']:.1f}",
             "against the first": f"{history[-1]['heldout_loss'] - first:+.1f}",
             "training loss": f"{history[-1]['loss']:.1f}", "seconds an epoch": f"{pace(history):.0f}"}
            for name, recipe, history in tried]
    return markdown_table(rows)


def spread_table(runs: dict[str, list[Run]], more: list[Run], scale: Scale) -> str:
    """Test losses by recipe, epochs and seed, as Markdown, with the largest difference between seeds."""
    groups: dict[tuple[str, int], list[Run]] = {(name, len(r[0].history)): list(r) for name, r in runs.items()}
    for run in more:
        groups.setdefault((run.recipe.name, len(run.history)), []).append(run)
    rows = []
    for (name, epochs), group in groups.items():
        above_floor = [run.last["test_loss"] - scale.test_floor for run in group]
        rows.append({"model": name, "epochs": epochs, "seeds": len(group),
                     "test loss above the floor": ", ".join(f"{v:.1f}" for v in above_floor),
                     "spread": f"{max(above_floor) - min(above_floor):.1f}" if len(group) > 1 else ""})
    return markdown_table(rows)


def bullets(*items) -> str:
    return "\n".join(f"- {item}" for item in items)


def listing(values: dict[str, float]) -> str:
    """Names with their values, in words."""
    return ", ".join(f"{name} {value:.2f}" for name, value in values.items())


def claim(source: str, sentence: str, number: str, holds: bool | str | None) -> dict:
    """One row of the ledger: who says what, the number that tests it, and the verdict (None: not tested)."""
    verdict = {None: "not tested", True: "**holds**", False: "**fails**"}.get(holds, holds)
    return {"source": source, "claim": sentence, "this run": number, "verdict": verdict}


def result(name: str, claimed: str | None, measured: str, note: str = "", run: Run | None = None) -> dict:
    """One row of the closing table."""
    where = dict.fromkeys(("run", "device", "trained_here"))
    if run:
        where = {"run": run.hash, "device": f"{run.device}, {run.precision}", "trained_here": run.trained_here}
    return {"result": name, "claimed": claimed, "measured": measured, "note": note, **where}
