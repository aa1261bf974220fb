"""A file a chapter of the notebook: each asks its questions of trained models and shows answers."""

from lab.chapters import cifar, claims, faces, interpolation, scale, theory

__all__ = ["cifar", "claims", "faces", "interpolation", "scale", "theory"]
