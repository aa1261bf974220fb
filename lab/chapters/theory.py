"""The theory questions: what KL, noise and price do, shown on five variants of a small VAE."""

import math
from collections.abc import Callable
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Generator, Tensor
from torch.distributions import Normal

from lab import density, latent, linear
from lab.chapters.cifar import distances, measured
from lab.chapters.scale import scale
from lab.linear import mean_and_error, running_means
from lab.notebook import Lab
from lab.runs import Run
from lab.show import Figure, Table, finite, labelled_rows, number
from lab.training import draw_codes, draw_images, encode_set, generator
from vae_helpers import GREY, STYLES, as_pixels, kl_divergence, new_figure

IMAGES = 2_000          # test images whose codes are looked at
FITTED = 10_000         # training images whose codes a density is fitted to
TOLD, NEAR = 500, 2_500         # codes at which the mixture of all posteriors is worked out
COUNTS = (1, 10, 100, 400)      # weighted draws in a bound
WIDER = 1.3             # factor on the linear posterior's variances whose gap is known
COLOURS = {"pathwise": "conv", "score function, baseline": "fc", "score function": "improved"}
PRIOR, FIT = "N(0, I)", "a Gaussian fitted to training images' codes"
VARIANTS = {"small": "β = 1", "small-sharp": "β = 0.1", "small-beta0": "β = 0",
            "small-mean": "reconstruction averaged"}

USED = 0.1              # nats of KL from which on a dimension counts as used
NOISE, STEP = "median σ of these", "grey levels by half a unit"     # of the used dimensions


def drawing(lab: Lab, *key) -> Generator:
    """Random numbers of this chapter, by what they are for."""
    return generator("cpu", lab.settings.seed, "theory", *key)


def codes_of(lab: Lab, name: str) -> tuple[Run, Tensor, Tensor]:
    """A training, and mu and logvar (N, d) of the first test images."""
    mu, logvar = lab.codes(lab.run(name))
    return lab.run(name), mu[:IMAGES], logvar[:IMAGES]


# ---- Q1: the mixture of all posteriors


def mixture(lab: Lab) -> Table:
    """The KL split into what codes tell of their images and how far the mixture of all training
    images' posteriors is from the prior, and by how much new images and draws differ in it."""
    names = ("small", "small-sharp", "small-beta0")
    one, sharp, none = (mixture_row(lab, name) for name in names)
    keep, run = lab.found.keep, lab.run("small")
    keep("q1.kl", one["KL"], "nats", run)
    keep("q1.gap", one["gap"], "nats", run)
    keep("q1.sharp.gap", sharp["gap"], "nats", lab.run("small-sharp"))
    keep("q1.beta0.kl", none["KL"], "nats", lab.run("small-beta0"))
    mu, _ = lab.codes(lab.run("small-beta0"), "train")
    keep("q1.beta0.kl_of_means", mu.square().sum(1).mean() / 2, "nats", lab.run("small-beta0"))
    return Table([one, sharp, none], {
        "KL": ",.1f", "I(x; z)": ".3f", "ln N": ".3f", "KL(q_N‖p)": ",.1f",
        "at test codes": ",.1f", "at draws of p": ",.1f", "gap": ",.1f", "±": ",.1f"},
        caption="The two columns *at …* are means of ln q_N(z) − ln p(z).")


def mixture_row(lab: Lab, name: str) -> dict:
    """The numbers of one model, whose mixture is that of all training posteriors."""
    draw, (mu, logvar) = drawing(lab, "mixture", name), lab.codes(lab.run(name), "train")
    kl = kl_divergence(mu, logvar).sum(1).mean().item()
    told, _ = density.information(mu, logvar, TOLD, draw)
    test = draw_codes(*(part[:NEAR] for part in lab.codes(lab.run(name))), draw)
    prior = torch.randn(test.shape, generator=draw)
    (at_test, error), (at_prior, other) = (
        mean_and_error(density.log_mixture(z, mu, logvar) - Normal(0, 1).log_prob(z).sum(1))
        for z in (test, prior))
    return {"model": VARIANTS[name], "KL": kl, "I(x; z)": told, "ln N": math.log(len(mu)),
            "KL(q_N‖p)": kl - told, "at test codes": at_test, "at draws of p": at_prior,
            "gap": at_test - at_prior, "±": math.hypot(error, other)}


# ---- Q1: how tight the bound is


def tightness(lab: Lab) -> Table:
    """What weighted draws of each posterior gain over the ELBO: of a linear VAE, whose ln p(x) is
    known exactly, and of the improvement."""
    test, run = lab.splits("improved").test, lab.run("improved")
    images = test.images[:min(300, len(test) // 10)]
    counts = [n for n in COUNTS if n <= len(test)]
    rows = [linear_row(lab, "linear, its exact posterior", images[:50], counts, 1.0),
            linear_row(lab, f"linear, variances × {WIDER}", images[:50], counts, WIDER),
            tight_row(lab, "`improved`", partial(latent.errors_at, run.model, images),
                      *encode_set(run.model, images), counts)]
    gain = rows[-1][f"{counts[-1]} draws"]
    lab.found.keep("improved.tightness", gain, "nats", run)
    lab.found.keep("improved.tightness_error", rows[-1]["±"], "nats", run)
    return Table(rows, {head: ".2f" for head in rows[0] if head not in ("model", "images")})


def linear_row(lab: Lab, name: str, images: Tensor, counts: list[int], wider: float) -> dict:
    """Of the best linear VAE with Gaussian pixels, its posterior variances taken so much wider,
    which makes a gap of ½ (wider - 1 - ln wider) for each."""
    known, size = scale(lab, "cifar").spectrum, lab.run("improved").recipe.latent
    sigma2 = density.learned_sigma2(known, size)
    best = linear.linear_vae_parameters(known, sigma2, size)

    def error(z: Tensor) -> Tensor:
        x_hat = best.mean + z @ best.decoder.T
        return density.density_nats(images.flatten(1), x_hat, sigma2 ** 0.5)

    mu = (as_pixels(images).flatten(1) - best.mean) @ best.encoder.T
    logvar = (wider * best.variance).log().expand(mu.shape)
    return tight_row(lab, name, error, mu, logvar, counts, size * (wider - 1 - math.log(wider)) / 2)


def tight_row(lab: Lab, name: str, error: Callable, mu: Tensor, logvar: Tensor,
              counts: list[int], gap: float | None = None) -> dict:
    """What more draws gain over one, nats; the standard error is that of the most."""
    bounds = density.importance_bounds(error, mu, logvar, counts, drawing(lab, "tightness", name))
    gains = {f"{n} draws": mean_and_error(bounds[1] - bounds[n]) for n in counts[1:]}
    return {"model": name, "images": len(mu), "known gap": gap,
            **{head: gain for head, (gain, _) in gains.items()},
            "±": gains[f"{counts[-1]} draws"][1]}


# ---- Q2: gradients


def cost_of_a_code(lab: Lab) -> tuple[Callable[[Tensor], Tensor], Tensor, Tensor]:
    """The reconstruction error f of the first test image as a function of codes (n, d), and mu and
    sigma (d,) of its posterior."""
    run, mu, logvar = codes_of(lab, "small")
    f = latent.cost_of_codes(run.model, lab.cifar.test.images[:1])
    return f, mu[0], (logvar[0] / 2).exp()


def plot_running(pathwise: Tensor, baseline: Tensor, score: Tensor):
    """Running means, with a band of one standard error, of three estimates (n, d) of one gradient,
    in the dimension where it is largest; the last has an axis of its own."""
    dim = pathwise.mean(0).abs().argmax()
    near = {"score function, baseline": running_means(baseline[:, dim]),
            "pathwise": running_means(pathwise[:, dim])}
    far = {"score function": running_means(score[:, dim])}
    known, (left, right) = near["pathwise"][0][-1], (
        8 * max(error[-1] for _, error in means.values()) for means in (near, far))
    figure, axes = new_figure(2, width=9, height=2.8)
    running_panel(axes[0], near, known, left, "Two that can be used")
    running_panel(axes[1], far, known, right,
                  f"No baseline, an axis {right / left:,.0f} × as long")
    return figure


def running_panel(axes, means: dict[str, tuple[Tensor, Tensor]], known: float, reach: float,
                  title: str) -> None:
    """Running means and their errors (n,), as far to either side of the known value as `reach`."""
    for name, (mean, error) in means.items():
        n, colour = range(1, len(mean) + 1), STYLES[COLOURS[name]][0]
        axes.fill_between(n, mean - error, mean + error, color=colour, alpha=0.25, lw=0)
        end = f"{number(mean[-1], '.2f')} ± {error[-1]:.2f}"
        axes.plot(n, mean, color=colour, label=f"{name}: {end}")
    axes.axhline(known, color="black", ls="--", lw=1, label="pathwise, all draws")
    axes.set(title=title, xlabel="draws n", ylabel="nats per unit",
             ylim=(known - reach, known + reach))
    axes.legend(fontsize=8)


def draws_needed(lab: Lab, most: int = 100, samples: int = 300) -> Table:
    """How many draws of the score function with a baseline are worth one pathwise draw, over test
    images: the ratio of summed variances, beside the variance of f that it goes with."""
    run, mu, logvar = codes_of(lab, "small")
    draw, n = drawing(lab, "draws needed"), min(most, len(mu) // 10)
    ratios, variances = torch.empty(n), torch.empty(n, dtype=torch.float64)
    for i in range(n):
        f = latent.cost_of_codes(run.model, lab.cifar.test.images[i:i + 1])
        found = latent.pathwise_and_score_gradients(f, mu[i], logvar[i], samples, draw)
        ratios[i] = found.score_with_baseline.var(0).sum() / found.pathwise.var(0).sum()
        variances[i] = found.value.double().var()
    rows = [quartiles("draws with a baseline for one pathwise draw", ratios),
            quartiles("variance of f within the posterior, nats²", variances)]
    lab.found.keep("q2.ratio_baseline", rows[0]["median"], "", run)
    rank = spearmanr(ratios, variances).statistic
    return Table(rows, dict.fromkeys(("lower quartile", "median", "upper quartile"), ".1f"),
                 caption=f"{n} test images. Where f varies more, more draws are needed: "
                         f"the rank correlation is {rank:.2f}.",
                 fold="Quartiles over images")


def quartiles(name: str, values: Tensor) -> dict:
    """A row with the median and the quartiles of one number over images."""
    low, middle, high = values.double().quantile(torch.tensor([0.25, 0.5, 0.75]).double()).tolist()
    return {"of one image": name, "lower quartile": low, "median": middle, "upper quartile": high}


# ---- Q3: noise


def loss_at(run: Run, images: Tensor, z: Tensor) -> Tensor:
    """The reconstruction loss of images decoded from codes (N, d), nats above their floor, (N,)."""
    return latent.errors_at(run.model, images, z) - linear.entropy_floor(images)


def robust(lab: Lab, rows: dict[str, Tensor]) -> Figure:
    """Images decoded from codes without and with noise, a row for each share and model."""
    drawn = labelled_rows(rows, "Decoded from codes with noise of s times their own spread", zoom=2,
                          label=150)
    return lab.figure(
        drawn, "q3-robust", "Test images decoded by the VAE and by the autoencoder, without noise "
        "in the code and with it: the VAE's stay smooth while they lose the image, the "
        "autoencoder's break up into blotches", picture=True)


def noise_losses(lab: Lab) -> Table:
    """What noise on the codes' own scale costs, in each dimension and with their covariance."""
    rows = {"robust_vae": noise_row(lab, "VAE", "small"),
            "robust_ae": noise_row(lab, "autoencoder", "small-ae"),
            "shaped_vae": noise_row(lab, "VAE", "small", together=True),
            "shaped_ae": noise_row(lab, "autoencoder", "small-ae", together=True)}
    for key, row in rows.items():
        lab.found.keep(f"q3.{key}", row["added by s = ½"], "nats")
    return Table(list(rows.values()), {
        "at s = 0": ",.0f", "added by s = ½": ",.0f", "±": ".0f", "added by s = 1": ",.0f",
        "± ": ".0f"}, fold="Both kinds of noise")


def noise_row(lab: Lab, label: str, name: str, together: bool = False, n: int = 1_000) -> dict:
    """The loss of one model without noise, and what two sizes of it add, with errors over images;
    the draws are those of the cell with the picture."""
    run, images = lab.run(name), lab.cifar.test.images[:n]
    mu, root = lab.codes(run)[0][:n], lab.codes(run)[0][:n].std(0).diag()
    if together:
        root = density.symmetric_root(density.gaussian_fit(mu).covariance)

    def noisy(s: float) -> Tensor:
        draw = torch.Generator().manual_seed(lab.settings.seed)
        return loss_at(run, images, latent.shaken(mu, root, s, draw))

    still = loss_at(run, images, mu)
    (half, error), (whole, other) = (mean_and_error(noisy(s) - still) for s in (0.5, 1))
    return {"model": label,
            "noise": "as the codes vary together" if together else "in each dimension",
            "at s = 0": still.mean().item(), "added by s = ½": half, "±": error,
            "added by s = 1": whole, "± ": other}


def law(lab: Lab) -> Table:
    """Whether posterior variances are β / (β + H_jj), as the slope of their logarithms over
    dimensions, and whether noise costs β/2 for each degree of freedom."""
    one, sharp = law_row(lab, "small"), law_row(lab, "small-sharp")
    keep, run = lab.found.keep, lab.run("small")
    keep("q3.law_slope", one["slope"], "", run)
    keep("q3.sharp.law_slope", sharp["slope"], "", lab.run("small-sharp"))
    keep("q3.noise", one["noise costs"], "nats", run)
    keep("q3.noise_known", one["predicted"], "nats", run)
    return Table([one, sharp], {"slope": ".3f", "±": ".3f", "noise costs": ".2f", "± ": ".2f",
                                "predicted": ".2f"})


def law_row(lab: Lab, name: str) -> dict:
    """Both tests of one model; curvatures take two decodings for each image and dimension."""
    run, mu, logvar = codes_of(lab, name)
    images, beta, n = lab.cifar.test.images[:len(mu)], run.recipe.beta, min(64, len(mu) // 30)
    curvature = latent.curvatures(run.model, images[:n], mu[:n], logvar[:n])
    found = latent.curvature_law(curvature, logvar[:n], beta)
    cost = latent.noise_cost(run.model, images, mu, logvar, drawing(lab, "noise", name))
    mean, error = mean_and_error(cost)
    return {"model": VARIANTS[name], "images": n, "slope": finite(found.slope),
            "±": finite(found.error), "noise costs": mean, "± ": error,
            "predicted": beta / 2 * latent.degrees_of_freedom(logvar)}


# ---- Q3: a fixed code, sampled


def sample_distances(lab: Lab) -> Table:
    """Samples of three models, and of the autoencoder from a density that is fitted to its codes,
    beside half of the test images, as the judge sees them."""
    judge, plain = lab.judge, lab.run("small-ae")
    fitted = density.gaussian_fit(lab.codes(plain, "train")[0])
    drawn = draw_images(plain.model, len(lab.cifar.test), lab.settings.seed, fitted)
    vae, none = measured(lab, "small"), measured(lab, "small-beta0")
    lab.found.keep("q3.fd.vae", vae["distance"], "", lab.run("small"))
    lab.found.keep("q3.fd.beta0", none["distance"], "", lab.run("small-beta0"))
    lab.found.keep("q3.blur_px.beta0", none["blur"], "pixels", lab.run("small-beta0"))
    return distances(judge, "images", {
        "half of the test images": judge.ends["real"], "VAE, N(0, I)": vae,
        "autoencoder, N(0, I)": measured(lab, "small-ae"),
        "autoencoder, fitted Gaussian": judge.measure(drawn), "β = 0, N(0, I)": none},
        fold="Distances of five sets of images")


def two_sample(lab: Lab) -> Table:
    """How well a classifier tells test images' codes from a density that one would sample."""
    pairs, rows = [*vae_pairs(lab), *autoencoder_pairs(lab)], []
    for codes, told_from, a, b in pairs:
        auc, error = latent.two_sample_auc(a, b)
        rows.append({"codes": codes, "dimensions": a.shape[1], "told from": told_from, "AUC": auc,
                     "±": error})
    lab.found.keep("q3.auc_vae_used_means", rows[2]["AUC"], "", lab.run("small"))
    lab.found.keep("q3.auc_ae_fitted", rows[4]["AUC"], "", lab.run("small-ae"))
    return Table(rows, {"AUC": ".3f", "±": ".3f"})


def vae_pairs(lab: Lab) -> list[tuple[str, str, Tensor, Tensor]]:
    """The VAE's codes and draws that they are told from, with the names of both, in the dimensions
    that are used: the others are noise, in which a difference of these would drown."""
    draw, (run, mu, logvar) = drawing(lab, "two samples"), codes_of(lab, "small")
    used = latent.live(kl_divergence(mu, logvar), USED)
    mu, logvar = mu[:, used], logvar[:, used]
    train = [part[:FITTED, used] for part in lab.codes(run, "train")]
    z = draw_codes(mu, logvar, draw)
    return [("VAE, z ~ q(z|x)", PRIOR, z, torch.randn(z.shape, generator=draw)),
            ("VAE, z ~ q(z|x)", FIT, z, density.aggregate_posterior(*train).sample(len(z), draw)),
            ("VAE, μ", FIT, mu, density.gaussian_fit(train[0]).sample(len(mu), draw))]


def autoencoder_pairs(lab: Lab) -> list[tuple[str, str, Tensor, Tensor]]:
    """The same of the autoencoder, and last two sets of draws of one density."""
    draw, (run, mu, _) = drawing(lab, "two samples, autoencoder"), codes_of(lab, "small-ae")
    train = lab.codes(run, "train")[0][:FITTED]
    n, fitted = len(mu), density.gaussian_fit(train)
    again = density.gaussian_fit(fitted.sample(len(train), draw))
    return [("autoencoder", PRIOR, mu, torch.randn(mu.shape, generator=draw)),
            ("autoencoder", FIT, mu, fitted.sample(n, draw)),
            ("draws from that Gaussian: ½ is right", "one fitted to other such draws",
             fitted.sample(n, draw), again.sample(n, draw))]


# ---- Q4: the price


def price(lab: Lab) -> Table:
    """What the weight of the KL does to the code."""
    rows = [price_row(lab, name) for name in VARIANTS]
    one, sharp, none, averaged = rows
    keep, run, sharp_run = lab.found.keep, lab.run("small"), lab.run("small-sharp")
    keep("q4.dof", one["degrees of freedom"], "", run)
    keep("q4.near", one["to the nearest"], "nats", run)
    keep("q4.sharp.dof", sharp["degrees of freedom"], "", sharp_run)
    keep("q4.sharp.near", sharp["to the nearest"], "nats", sharp_run)
    keep("q4.used", one["used dimensions"], "dimensions", run)
    keep("q4.step", one[STEP], "grey levels", run)
    keep("q4.sharp.step", sharp[STEP], "grey levels", sharp_run)
    keep("q4.beta0.step", none[STEP], "grey levels", lab.run("small-beta0"))
    keep("q4.sigma", one[NOISE], "", run)
    keep("q4.beta0.sigma", none[NOISE], "", lab.run("small-beta0"))
    keep("small.kl", one["KL"], "nats", run)
    keep("averaged.kl", averaged["KL"], "nats", lab.run("small-mean"))
    return Table(rows, {"KL": ",.1f", "degrees of freedom": ".1f", "to the nearest": ",.1f",
                        NOISE: ".2g", STEP: ".1f"})


def price_row(lab: Lab, name: str) -> dict:
    """Of one model; the nearest posterior is the median one, by -ln of the overlap."""
    run, mu, logvar = codes_of(lab, name)
    kl = kl_divergence(mu, logvar)
    used = latent.live(kl, USED)
    return {"model": VARIANTS[name], "KL": kl.sum(1).mean().item(),
            "degrees of freedom": latent.degrees_of_freedom(logvar), "to the nearest":
            density.median_nearest(density.posterior_distances(mu, logvar)),
            "used dimensions": len(used), NOISE: finite((logvar[:, used] / 2).exp().median()),
            STEP: latent.step_size(run.model, mu, used, drawing(lab, "steps"))}


def plot_plane(lab: Lab, name: str, dims: Tensor, sheet: np.ndarray, reach: float):
    """Decodings of a grid of two dimensions, `sheet`, from -reach to reach; beside it the means of
    test images, the three classes farthest from the middle in colours."""
    run, mu, logvar = codes_of(lab, name)
    kl, points = kl_divergence(mu, logvar).mean(0), mu[:, dims]
    figure, (grid, plane) = two_squares(sheet)
    half = reach * (1 + 1 / (sheet.shape[0] // run.recipe.side - 1))    # to the tiles' edges
    grid.imshow(sheet, extent=(-half, half, -half, half), interpolation="none")
    scatter_classes(plane, points, lab.cifar.test.labels[:len(mu)], lab.cifar.test.label_names)
    across, up = (f"dimension {dim}, {kl[dim]:.1f} of {kl.sum():.1f} nats" for dim in dims.tolist())
    for axes, title in ((grid, "Decoded there"), (plane, "Where test images lie")):
        axes.set(xlim=(-half, half), ylim=(-half, half), title=title, xlabel=across, ylabel=up)
    return figure


def two_squares(sheet: np.ndarray):
    """A figure with two axes of the sheet's size, pixel for pixel."""
    dpi, (h, w) = 100, sheet.shape[:2]
    left, top, bottom, gap, right = 56, 36, 48, 72, 24
    width, height = left + 2 * w + gap + right, top + h + bottom
    figure = plt.figure(figsize=(width / dpi, height / dpi), dpi=dpi)
    return figure, [figure.add_axes([x / width, bottom / height, w / width, h / height])
                    for x in (left, left + w + gap)]


def scatter_classes(axes, points: Tensor, labels: Tensor, names: tuple[str, ...]) -> None:
    """Points (n, 2) in grey, and the three classes whose means lie farthest out in colours."""
    centres = {k: points[labels == k].mean(0) for k in labels.unique().tolist()}
    out = sorted(centres, key=lambda k: -(centres[k] - points.mean(0)).norm().item())[:3]
    axes.scatter(*points.T.numpy(), s=5, color="#d0d0d0", lw=0)
    for label, style in zip(out, ("conv", "fc", "celeba64"), strict=False):
        axes.scatter(*points[labels == label].T.numpy(), s=7, color=STYLES[style][0], lw=0,
                     label=names[label])
    axes.axvline(0, color=GREY, lw=0.5)
    axes.axhline(0, color=GREY, lw=0.5)
    axes.legend(fontsize=8, loc="upper right", markerscale=2)


# ---- why the loss is summed


def averaging(lab: Lab) -> Table:
    """What averaging one term or both makes of the KL's weight, and of a linear VAE's code."""
    recipe, known = lab.run("small").recipe, scale(lab, "cifar").spectrum
    weights = {"both summed": 1.0, "reconstruction averaged": float(recipe.pixels),
               "both averaged": recipe.pixels / recipe.latent, "KL averaged": 1 / recipe.latent}
    rows = []
    for loss, beta in weights.items():
        sigma2 = recipe.but(beta=beta).sigma2
        best = linear.linear_optimum(known, sigma2, recipe.latent)
        rows.append({"loss": loss, "weight of the KL": beta, "σ²": sigma2,
                     "directions above σ²": best.active, "KL of a linear VAE": best.rate})
    lab.found.keep("averaged.sigma2", rows[1]["σ²"])
    lab.found.keep("averaged.largest_eigenvalue", known.eigenvalues[0])
    return Table(rows, {"weight of the KL": ",.4g", "σ²": ",.4g", "KL of a linear VAE": ",.1f"})
