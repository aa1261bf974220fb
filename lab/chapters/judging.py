"""What the measures of generated images are worth: a ladder of real images, disturbed."""

from __future__ import annotations

import re

from torch import Tensor

from lab.samples import FARTHER, RULES, Judge, blur, blur_shown, power_spectrum, verdicts
from lab.session import Lab
from lab.show import Figure, Table
from lab.training import draw_images
from vae_helpers import GREY, new_figure, reference_lines, style_of

SHOWN = 1_000       # images behind each power spectrum
MEASURES = {"distance": "Fréchet distance", "kid": "KID, features of equal length",
            "kid_raw": "KID, features as they are", "recall": "recall", "coverage": "coverage",
            "precision": "precision", "density": "density", "sharpness": "sharpness"}
NOISE = {"autoencoder": "autoencoder, N(0, I)", "β = 0": "β = 0, N(0, I)"}   # in the theory's words
KEYS = {"autoencoder": "ae", "β = 0": "beta0"}
STYLES = {"autoencoder": {"color": "#E69F00", "ls": "-.", "marker": "v", "ms": 4},
          "β = 0": {"color": "#56B4E9", "ls": "-", "marker": "P", "ms": 4}}


def rules_of(judge: Judge) -> dict[str, dict[str, bool | None]]:
    """Which rules every measure of a judge passes on its ladder; None where it cannot be said."""
    return {key: verdicts({name: found[key] for name, found in judge.ladder.items()}, FARTHER[key])
            for key in MEASURES}


def in_words(images: bool | None, faces: bool | None) -> str | None:
    """A rule's outcome on CIFAR-10 and on faces."""
    if images is None or faces is None:
        return None
    if images == faces:
        return "passes" if images else "**fails**"
    return f"**fails** on {'faces' if images else 'CIFAR-10'}"


def named(model: str) -> str:
    """A model's name, which says where its samples are noise to the eye."""
    return f"{model}: noise" if model in NOISE else model


def plot_ladder(axes, curve: tuple[list, list], models: dict[str, dict],
                lines: dict[str, float]) -> None:
    """KID of blurred real images by the width, models where theirs is the same, and levels."""
    axes.plot(*curve, color=GREY, marker=".", label="real images, blurred")
    for name, found in models.items():
        if found["blur"] is not None:
            style = STYLES.get(name) or style_of(name)
            axes.plot(found["blur"], found["kid"], **style | {"ls": "", "ms": 8}, label=named(name))
    reference_lines(axes, lines)
    axes.set(xscale="log", xlabel="blur of real images, pixels", ylabel="KID",
             title="Samples on the ladder of blur", ylim=(0, None))
    ticks = [width for width in curve[0] if width in (0.5, 1, 2, 4, 8)]
    axes.set_xticks(ticks, [f"{width:g}" for width in ticks])
    axes.minorticks_off()
    axes.set_ylim(0, 1.6 * axes.get_ylim()[1])                  # room for the names
    axes.legend(fontsize=7, ncols=2, loc="upper left")


def plot_power(axes, spectra: dict[str, tuple[Tensor, Tensor]]) -> None:
    """Power by frequency: real images in black, blurred ones in grey, models in their colours."""
    for name, (frequency, power) in spectra.items():
        style = STYLES.get(name) or style_of(name)
        if name.startswith("real"):
            style = {"color": GREY if "blur" in name else "black",
                     "ls": {"1": "--", "2": ":"}.get(name[-1], "-")}
        axes.plot(frequency, power, **style | {"marker": ""}, lw=1.3, label=named(name))
    axes.set(xscale="log", yscale="log", xlabel="frequency, cycles per pixel", ylabel="power",
             ylim=(1e-7, None), title="Where the energy of samples ends")
    axes.set_xticks([1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2], ["1/32", "1/16", "⅛", "¼", "½"])
    axes.minorticks_off()
    axes.legend(fontsize=7)


class Chapter:
    """The ladder for CIFAR-10, its rules on faces too, and where the samples lie on it.

    With the theory's chapter the noise of its autoencoder and of β = 0 stands beside the models.
    """

    def __init__(self, lab: Lab, cifar, theory=None):
        self.lab, self.cifar, self.theory, self.keep = lab, cifar, theory, lab.found.keep

    @property
    def models(self) -> dict[str, dict]:
        """What is measured of the samples of each model."""
        noise = {name: self.theory.measured[said] for name, said in NOISE.items()
                 } if self.theory else {}
        return {name: self.cifar.measured[name] for name in self.cifar.three} | noise

    def _run(self, name: str):
        return self.cifar.three.get(name) or self.theory.demo[name]

    def ladder(self) -> Table:
        """Every measure of real images under each disturbance, then of samples, and the blur that
        comes to as much: by KID, by Fréchet distance, and in sharpness alone."""
        rows = []
        for name, found in self.lab.judge.ladder.items():
            key = re.sub(r"\W+", "_", name.replace(".", ""))
            for what in MEASURES:
                self.keep(f"ladder.{what}.{key}", found[what])
            rows.append(self._row(name, found))
        for name, found in self.models.items():
            key, run = KEYS.get(name, name), self._run(name)
            for what in ("fd", "sharpness"):
                self.keep(f"blur_{what}.{key}", found[f"blur_{what}"], "pixels", run)
            rows.append(self._row(f"samples of {named(name)}", found))
        two = {head: ".2f" for head in rows[0] if head != "real images, disturbed by"}
        return Table(rows, two | {self.lab.judge.name: ".3g", "KID, raw": ".3g"}
                     | {head: ".1f" for head in rows[0] if head.startswith("blur by")},
                     caption="Blur in pixels, noise as a standard deviation, contrast as a factor.")

    def _row(self, name: str, found: dict) -> dict:
        return {"real images, disturbed by": name, self.lab.judge.name: found["distance"],
                "KID": found["kid"], "KID, raw": found["kid_raw"],
                **{what: found[what] for what in ("recall", "coverage", "precision", "density")},
                "blur by KID": blur_shown(found), "blur by FD": found["blur_fd"],
                "blur by sharpness": found["blur_sharpness"]}

    def rules(self) -> Table:
        """Which measure passes which rule, on CIFAR-10 and on faces."""
        images, faces = rules_of(self.lab.judge), rules_of(self.lab.face_judge)
        rows = []
        for key, name in MEASURES.items():
            rows.append({"measure": name} | {rule: in_words(images[key][rule], faces[key][rule])
                                             for rule in RULES})
            for where, passed in (("", images), ("_faces", faces)):
                if None not in passed[key].values():
                    self.keep(f"rules.{key}{where}", sum(passed[key].values()), "rules",
                              note=f"of {len(RULES)}")
        return Table(rows)

    def spectrum(self) -> Figure:
        """The ladder of blur with the models on it, and how the power of samples falls off."""
        judge, seed = self.lab.judge, self.lab.settings.seed
        real = judge.some[:SHOWN]
        sets = {"real": real, **{f"real, blur {w}": blur(real, w) for w in (1, 2)}}
        sets |= {name: draw_images(run.model, len(real), seed)
                 for name, run in self.cifar.three.items()}
        if self.theory:
            sets |= {name: self.theory.samples[said][:SHOWN] for name, said in NOISE.items()}
        spectra = {name: power_spectrum(images) for name, images in sets.items()}
        for name, (_, power) in spectra.items():
            share = power[len(power) // 2 - 1] / spectra["real"][1][len(power) // 2 - 1]
            key = KEYS.get(name, re.sub(r"\W+", "_", name))
            self.keep(f"spectrum.{key}", share, "of real power", note="at half the top frequency")
        figure, (left, right) = new_figure(2, width=9.5, height=3.2)
        lines = {f"real, {name}": judge.ladder[name]["kid"]
                 for name in ("mean image", "noise 0.1")}
        plot_ladder(left, judge.blur_curve(), self.models, lines)
        plot_power(right, spectra)
        return self.lab.figure(
            figure, "ladder", "Left: KID of real images rises with the width of a blur; the "
            "models' samples lie high on that curve, the noise of two below all three. Right: the "
            "power of the models' samples falls far below that of real images at high "
            "frequencies, that of the noise does not")
