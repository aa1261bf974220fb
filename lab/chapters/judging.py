"""What the measures of generated images are worth: real images, disturbed, and other judges."""

from statistics import fmean

from torch import Tensor

from lab import samples
from lab.chapters import cifar
from lab.notebook import Lab
from lab.samples import GRID, LADDER, RULES, Judge, power_spectrum
from lab.show import Figure, Table
from vae_helpers import GREY, new_figure, reference_lines, style_of

SHOWN = 1_000       # images behind each power spectrum
LEAD = "VAE less β = 0"     # above 0: that noise is nearer to real images than the VAE's samples
MEASURES = {"distance": "Fréchet distance", "kid": "KID", "recall": "recall",
            "coverage": "coverage", "precision": "precision", "density": "density",
            "sharpness": "sharpness"}
NOISE = {"autoencoder": "small-ae", "β = 0": "small-beta0"}     # to the eye, and who makes it
MODELS = {name: name for name in cifar.THREE} | NOISE
PLACES = (("right", (-7, 10)), ("left", (9, -9)), ("right", (-9, -5)), ("left", (7, -9)),
          ("right", (-7, 5)))       # of names beside their marks, by rising blur: they keep apart
STYLES = {"autoencoder": {"color": "#E69F00", "ls": "-.", "marker": "v", "ms": 4},
          "β = 0": {"color": "#56B4E9", "ls": "-", "marker": "P", "ms": 4}}


def measured(lab: Lab) -> dict[str, dict]:
    """What the judge measures of the samples of five models, two of which are noise to the eye."""
    return {label: cifar.measured(lab, name) for label, name in MODELS.items()}


# ---- the ladder


def ladder(lab: Lab) -> Table:
    """Every measure of real images under each disturbance, then of the models' samples: the record
    behind the rules, which no cell shows."""
    found = {name: lab.judge.ladder[name] for name in LADDER}
    found |= {f"samples of {called(name)}": each for name, each in measured(lab).items()}
    return Table([{"images": name} | {head: each[what] for what, head in MEASURES.items()}
                  for name, each in found.items()], dict.fromkeys(MEASURES.values(), ".2f"),
                 caption="Blur in pixels, noise as a standard deviation, contrast as a factor.")


def rules(lab: Lab) -> Table:
    """Which measure passes which rule, on CIFAR-10 and on faces; none where it cannot be said."""
    rows = []
    for what, head in MEASURES.items():
        images, faces = (
            samples.verdicts({name: judge.ladder[name][what] for name in LADDER},
                             samples.FARTHER[what]) for judge in (lab.judge, lab.face_judge))
        rows.append({"measure": head}
                    | {rule: in_words(images[rule], faces[rule]) for rule in RULES})
    return Table(rows)


def in_words(images: bool | None, faces: bool | None) -> str | None:
    """A rule's outcome on CIFAR-10 and on faces."""
    if images is None or faces is None:
        return None
    if images == faces:
        return "passes" if images else "**fails**"
    return f"**fails** on {'faces' if images else 'CIFAR-10'}"


# ---- other judges


def judges(lab: Lab) -> Table:
    """Fréchet distances on the features of classifiers of three seeds, and of one that was never
    trained, as shares of the distance of the mean image."""
    seeds, keep = (0,) if lab.settings.shortened else (0, 1, 2), lab.found.keep
    rows = [judge_row(lab, f"trained, seed {seed}", lab.judge_of("FD-CIFAR", seed))
            for seed in seeds]
    last = judge_row(lab, "not trained", lab.judge_of("FD-CIFAR", trained=False))
    keep("judges.accuracy", fmean(row["accuracy"] for row in rows), "of test images")
    keep("judges.lead", min(row[LEAD] for row in rows), "of the mean image's distance")
    keep("judges.lead_untrained", last[LEAD], "of the mean image's distance")
    return Table([*rows, last], dict.fromkeys(last, ".1%"))


def judge_row(lab: Lab, name: str, judge: Judge) -> dict:
    """A judge's accuracy, and how far half of the test images and samples are from the others."""
    mean = judge.distance(judge.mean.repeat(2, 1, 1, 1))        # two have a covariance, 0
    shares = {label: judge.distance(cifar.samples(lab, name)) / mean
              for label, name in ({"conv": "conv", "VAE": "small"} | NOISE).items()}
    return {"judge": name, "accuracy": judge.accuracy, "real images": judge.floor / mean, **shares,
            LEAD: shares["VAE"] - shares["β = 0"]}


# ---- where the energy of samples ends


def called(model: str) -> str:
    """A model's name, which says where its samples are noise to the eye."""
    return f"{model}: noise" if model in NOISE else model


def spectrum(lab: Lab) -> Figure:
    """The curve that gives a KID its equivalent blur, and how the power of samples falls off."""
    real = lab.judge.some[:SHOWN]
    sets = {"real": real, **{f"real, blur {width}": samples.blur(real, width) for width in (1, 2)}}
    sets |= {label: cifar.samples(lab, name)[:SHOWN] for label, name in MODELS.items()}
    spectra = {name: power_spectrum(images) for name, images in sets.items()}
    middle = {name: power[len(power) // 2 - 1] for name, (_, power) in spectra.items()}
    lab.found.keep("spectrum.conv", middle["conv"] / middle["real"], "of real power",
                   lab.run("conv"))
    lab.found.keep("spectrum.beta0", middle["β = 0"] / middle["real"], "of real power",
                   lab.run("small-beta0"))
    figure, (left, right) = new_figure(2, width=9.5, height=3.4)
    plot_blurs(left, lab.judge, measured(lab))
    plot_power(right, spectra)
    return lab.figure(
        figure, "ladder", "Left: KID of real images rises with the width of a blur, and each "
        "model is placed on that curve by the KID of its samples; the noise of two models comes to "
        "no more blur than the best samples. Right: at high frequencies the power of the "
        "models' samples falls far below that of real images, that of the noise does not")


def plot_blurs(axes, judge: Judge, models: dict[str, dict]) -> None:
    """KID of blurred real images by the width of the blur, and the models where theirs is equal."""
    axes.plot(GRID, judge.blur_curve, color=GREY, marker=".")
    there = {name: found for name, found in models.items() if found["blur"] is not None}
    for i, name in enumerate(sorted(there, key=lambda name: there[name]["blur"])):
        place = there[name]["blur"], there[name]["kid"]
        style = STYLES.get(name) or style_of(name)
        axes.plot(*place, **style | {"ls": "", "ms": 8})
        side, offset = PLACES[i % len(PLACES)]
        axes.annotate(called(name), place, offset, textcoords="offset points", ha=side, fontsize=8,
                      color=style["color"])
    reference_lines(axes, {"real, noise 0.1": judge.ladder["noise 0.1"]["kid"]})
    axes.set(xscale="log", xlabel="blur of real images, pixels", ylabel="KID", ylim=(0, None),
             title="Equivalent blur is read off this curve")
    axes.set_xticks([0.5, 1, 2, 4, 8], ["0.5", "1", "2", "4", "8"])
    axes.minorticks_off()


def plot_power(axes, spectra: dict[str, tuple[Tensor, Tensor]]) -> None:
    """Power by frequency: real images in black, blurred ones in grey, models in their colours."""
    lines = {"real": ("black", "-"), "real, blur 1": (GREY, "--"), "real, blur 2": (GREY, ":")}
    for name, found in spectra.items():
        style = STYLES.get(name) or style_of(name)
        colour, dash = lines.get(name, (style["color"], style["ls"]))
        axes.plot(*found, color=colour, ls=dash, lw=1.3, label=called(name))
    axes.set(xscale="log", yscale="log", xlabel="frequency, cycles per pixel", ylabel="power",
             ylim=(1e-7, None), title="Where the energy of samples ends")
    axes.set_xticks([1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2], ["1/32", "1/16", "⅛", "¼", "½"])
    axes.minorticks_off()
    axes.legend(fontsize=7, loc="lower left")
