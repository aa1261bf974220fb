"""A prior that is fitted after training: what it takes off the loss, and what it samples."""

from typing import NamedTuple

import torch
from sklearn.mixture import GaussianMixture
from threadpoolctl import threadpool_limits
from torch import Generator, Tensor
from torch.distributions import Normal

from lab.latent import live
from lab.linear import over_seeds
from lab.notebook import Lab, once
from lab.runs import Run
from lab.show import Table, finite
from lab.training import draw_codes, draw_images, generator
from vae_helpers import kl_divergence

CODES = 30_000          # of training images, at most, that a prior is fitted to
STANDARD = Normal(0.0, 1.0)
FEWEST = 5              # codes that a Gaussian takes for each of its dimensions, at least


class FittedPrior(NamedTuple):
    """Gaussians over the dimensions that a model uses, N(0, 1) in all others."""

    mixture: GaussianMixture
    live: Tensor            # (k,), the dimensions that are used
    latent: int

    def gain(self, z: Tensor) -> Tensor:
        """ln of this density over that of N(0, I) at codes (N, d): nats taken off the KL, (N,)."""
        z = z[:, self.live].double()
        return torch.from_numpy(self.mixture.score_samples(z.numpy())) - STANDARD.log_prob(z).sum(1)

    def sample(self, n: int, draw: Generator | None = None) -> Tensor:
        """n draws (n, latent) in float64."""
        means, covariances = map(torch.from_numpy, (self.mixture.means_, self.mixture.covariances_))
        weights = torch.from_numpy(self.mixture.weights_)
        which = torch.multinomial(weights, n, replacement=True, generator=draw)
        z = torch.randn(n, self.latent, generator=draw, dtype=torch.float64)
        for k, root in enumerate(torch.linalg.cholesky(covariances)):
            rows = (which == k).nonzero()                                   # (m, 1)
            z[rows, self.live] = means[k] + z[rows, self.live] @ root.T
        return z


def fit(mu: Tensor, logvar: Tensor, components: int, seed: int) -> FittedPrior:
    """The prior of so many Gaussians, or of fewer where codes are few, fitted by maximum
    likelihood to a draw from each posterior (N, d)."""
    used = live(kl_divergence(mu, logvar))
    z = draw_codes(mu, logvar, generator("cpu", seed, "fitted prior"))[:, used]
    components = max(1, min(components, len(z) // (FEWEST * len(used))))
    mixture = GaussianMixture(components, random_state=seed)
    with threadpool_limits(1):          # the same bits whatever the number of threads
        return FittedPrior(mixture.fit(z.double().numpy()), used, mu.shape[1])


@once
def fitted(lab: Lab, run: Run, components: int) -> FittedPrior:
    """The prior of so many Gaussians that is fitted to a model's codes of training images."""
    mu, logvar = (part[:CODES] for part in lab.codes(run, "train"))
    return fit(mu, logvar, components, lab.settings.seed)


def gains(lab: Lab) -> Table:
    """What priors of one Gaussian and of eight take off the test loss of `improved`."""
    one, eight = gain_row(lab, 1), gain_row(lab, 8)
    lab.found.keep("priors.gain_one", one["nats off the test loss"], "nats")
    lab.found.keep("priors.gain", eight["nats off the test loss"], "nats")
    lab.found.keep("priors.gain_sd", eight["± over seeds"], "nats")
    return Table([one, eight], {"nats off the test loss": ".2f", "± over seeds": ".2f"})


def gain_row(lab: Lab, components: int) -> dict:
    """The mean gain over seeds and its standard deviation."""
    draw, runs = generator("cpu", lab.settings.seed, "codes of test images"), lab.seeds("improved")
    priors = [fitted(lab, run, components) for run in runs]
    mean, sd = over_seeds([prior.gain(draw_codes(*lab.codes(run), draw)).mean().item()
                           for run, prior in zip(runs, priors, strict=True)])
    return {"Gaussians": priors[0].mixture.n_components, "dimensions": len(priors[0].live),
            "nats off the test loss": mean, "± over seeds": finite(sd), "seeds": len(runs)}


def face_distances(lab: Lab) -> Table:
    """How far samples of `celeba64` from N(0, I) and from fitted priors are from test faces."""
    run, judge, n = lab.run("celeba64"), lab.face_judge, len(lab.faces.test)
    priors = {"N(0, I)": None, "one Gaussian": fitted(lab, run, 1),
              "eight Gaussians": fitted(lab, run, 8)}
    found = {name: judge.measure(draw_images(run.model, n, lab.settings.seed, prior))["distance"]
             for name, prior in priors.items()}
    lab.found.keep("priors.fd_normal", found["N(0, I)"], "", run)
    lab.found.keep("priors.fd", found["eight Gaussians"], "", run)
    return Table([{"samples from": name, judge.name: value} for name, value in found.items()],
                 {judge.name: ".0f"})
