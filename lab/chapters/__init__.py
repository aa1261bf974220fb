"""A file a chapter of the notebook: each asks its questions of trained models and shows answers."""

from lab.chapters import (
    betas,
    blur,
    cifar,
    claims,
    exercises,
    faces,
    interpolation,
    judging,
    opening,
    points,
    probes,
    scale,
    sweep,
    theory,
)

__all__ = ["betas", "blur", "cifar", "claims", "exercises", "faces", "interpolation", "judging",
           "opening", "points", "probes", "scale", "sweep", "theory"]
