"""Antialiased shapes on many pictures at once, in numpy float32.

Only +, -, ×, ÷, √, min and max touch a pixel, each of which IEEE 754 rounds in one way, so that the
same numbers give the same bytes on every machine, however the work is divided.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

Array = np.ndarray      # a number for each picture is (n, 1, 1), a colour (n or 1, 3, 1, 1)


@dataclass(frozen=True)
class Canvas:
    """Pictures (n, 3, H, W) in [0, 1], and where their pixels lie in the units of the drawing.

    A shape is its coverage (n, H, W): 1 inside, 0 outside, between them on the edge.
    """

    pixels: Array
    x: Array                # (n or 1, 1, W), growing to the right
    y: Array                # (n or 1, H, 1), growing downwards
    scale: Array | float    # pixels in one unit

    @classmethod
    def blank(cls, n: int, side: int) -> Canvas:
        """`n` black pictures, whose units are the picture's side."""
        centres = (np.arange(side, dtype=np.float32) + 0.5) / side
        return cls(np.zeros((n, 3, side, side), np.float32),
                   centres[None, None, :], centres[None, :, None], float(side))

    def at(self, cx: Array, cy: Array, size: Array, mirror: Array | float = 1.0) -> Canvas:
        """The same pictures in units of `size` about (cx, cy), mirrored where `mirror` is -1."""
        return Canvas(self.pixels, (self.x - cx) / size * mirror, (self.y - cy) / size,
                      self.scale * size)

    def paint(self, colour: Array, *shapes: Array) -> None:
        """Lays a colour over the pictures where the shapes cover them, one after the other."""
        for coverage in shapes:
            step = colour - self.pixels
            step *= coverage[:, None]
            np.add(self.pixels, step, out=self.pixels)

    # ---- shapes

    def edge(self, distance: Array) -> Array:
        """The coverage of a shape from the signed distance to it, in units, negative inside."""
        return np.clip(0.5 - distance * self.scale, 0, 1)

    def below(self, line: Array) -> Array:
        """Everything below a height."""
        return self.edge(line - self.y + np.zeros_like(self.x))

    def ellipse(self, cx, cy, rx, ry) -> Array:
        """An axis-parallel ellipse with these half axes."""
        radius = np.sqrt(((self.x - cx) / rx) ** 2 + ((self.y - cy) / ry) ** 2)
        return self.edge((radius - 1) * np.minimum(rx, ry, dtype=np.float32))

    def box(self, cx, cy, half_width, half_height) -> Array:
        """An axis-parallel box."""
        return self.edge(np.maximum(np.abs(self.x - cx) - half_width,
                                    np.abs(self.y - cy) - half_height))

    def bow(self, cx, cy, half_width, rise, half_height) -> Array:
        """A stroke along a parabola, which is `rise` higher at its ends than in its middle."""
        middle = cy + rise * (0.5 - ((self.x - cx) / half_width) ** 2)
        return self.edge(np.maximum(np.abs(self.x - cx) - half_width,
                                    np.abs(self.y - middle) - half_height))

    def polygon(self, *points: tuple[float, float]) -> Array:
        """A convex polygon of fixed points, given clockwise as they are seen."""
        distances = []
        for (x0, y0), (x1, y1) in zip(points, points[1:] + points[:1], strict=True):
            dx, dy = x1 - x0, y1 - y0
            length = math.sqrt(dx * dx + dy * dy)
            distances.append((self.x - x0) * (dy / length) - (self.y - y0) * (dx / length))
        return self.edge(np.maximum.reduce(distances))


# ---- colours

def rgb(code: str) -> Array:
    """The colour of six hex digits, (1, 3, 1, 1) in [0, 1]."""
    return np.array(list(bytes.fromhex(code)), np.float32).reshape(1, 3, 1, 1) / 255


def mix(a: Array, b: Array, share: Array | float) -> Array:
    """The colour that lies this share of the way from a to b."""
    return a + (b - a) * share


def ramp(position: Array, codes: str) -> Array:
    """The colour at `position` (n, 1, 1) in [0, 1] along evenly spaced colours."""
    first, *rest = map(rgb, codes.split())
    place, colour = position[:, None] * len(rest), first
    for i, stop in enumerate(rest):
        colour = mix(colour, stop, np.clip(place - i, 0, 1))
    return colour
