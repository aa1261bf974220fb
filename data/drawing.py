"""Antialiased shapes on many pictures at once, in numpy float32.

Only +, -, ×, ÷, √, min and max touch a pixel, each of which IEEE 754 rounds in one way, so that the
same numbers give the same bytes on every machine, however the work is divided.
"""

from __future__ import annotations

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
        centres = (np.arange(side, dtype=np.float32) + np.float32(0.5)) / np.float32(side)
        return cls(np.zeros((n, 3, side, side), np.float32),
                   centres[None, None, :], centres[None, :, None], np.float32(side))

    def at(self, cx: Array, cy: Array, size: Array, mirror: Array | float = 1.0) -> Canvas:
        """The same pictures in units of `size` about (cx, cy), mirrored where `mirror` is -1."""
        return Canvas(self.pixels, (self.x - cx) / size * mirror, (self.y - cy) / size,
                      self.scale * size)

    def window(self, left: float, top: float, right: float, bottom: float) -> Canvas:
        """The part between these fractions of the side: drawing there is cheaper."""
        side = self.pixels.shape[-1]
        rows = slice(max(0, int(top * side)), max(0, int(np.ceil(bottom * side))))
        columns = slice(max(0, int(left * side)), max(0, int(np.ceil(right * side))))
        return Canvas(self.pixels[:, :, rows, columns], self.x[..., columns], self.y[:, rows],
                      self.scale)

    def paint(self, coverage: Array, colour: Array) -> None:
        """Lays a colour over the pictures where the shape covers them."""
        step = colour - self.pixels
        step *= coverage[:, None]
        self.pixels[...] += step

    def fill(self, top: Array, bottom: Array) -> None:
        """Covers everything with a vertical gradient."""
        self.pixels[...] = top + (bottom - top) * self.y[:, None]

    # ---- shapes

    def edge(self, distance: Array) -> Array:
        """The coverage of a shape from the signed distance to it, in units, negative inside."""
        coverage = distance * -self.scale
        coverage += np.float32(0.5)
        return np.clip(coverage, 0, 1, out=coverage)

    def ellipse(self, cx, cy, rx, ry) -> Array:
        """An axis-parallel ellipse with these half axes."""
        radius = ((self.x - cx) / rx) ** 2 + ((self.y - cy) / ry) ** 2
        np.sqrt(radius, out=radius)
        radius -= 1
        return self.edge(radius * np.minimum(rx, ry))

    def box(self, cx, cy, half_width, half_height, corner=0.0) -> Array:
        """An axis-parallel box, its corners rounded."""
        dx = np.abs(self.x - cx) - (half_width - corner)
        dy = np.abs(self.y - cy) - (half_height - corner)
        outside = np.sqrt(np.maximum(dx, 0) ** 2 + np.maximum(dy, 0) ** 2)
        return self.edge(outside + np.minimum(np.maximum(dx, dy), 0) - corner)

    def polygon(self, *points: tuple[float, float]) -> Array:
        """A convex polygon of fixed points, given clockwise as they are seen."""
        distance = None
        for (x0, y0), (x1, y1) in zip(points, points[1:] + points[:1], strict=True):
            length = ((x1 - x0) ** 2 + (y1 - y0) ** 2) ** 0.5
            nx, ny = np.float32((y1 - y0) / length), np.float32((x0 - x1) / length)
            side = (self.x - np.float32(x0)) * nx + (self.y - np.float32(y0)) * ny
            distance = side if distance is None else np.maximum(distance, side)
        return self.edge(distance)

    def line(self, x0: float, y0: float, x1: float, y1: float, width: float) -> Array:
        """A straight stroke with round ends."""
        dx, dy = np.float32(x1 - x0), np.float32(y1 - y0)
        x, y = self.x - np.float32(x0), self.y - np.float32(y0)
        along = np.clip((x * dx + y * dy) / (dx * dx + dy * dy), 0, 1)
        return self.edge(np.sqrt((x - along * dx) ** 2 + (y - along * dy) ** 2)
                         - np.float32(width / 2))

    def arch(self, cx, half_width) -> Array:
        """A curve over the columns: 1 at cx, falling as a parabola to 0 at the half width."""
        return np.maximum(1 - ((self.x - cx) / half_width) ** 2, 0)

    def band(self, middle, half) -> Array:
        """What lies within `half` of a curve; it fades where it is thinner than a pixel."""
        return np.minimum(self.edge(np.abs(self.y - middle) - half),
                          np.minimum(2 * half * self.scale, 1))

    def glow(self, cx, cy, rx, ry) -> Array:
        """A soft spot, 1 in its middle and 0 at the ellipse."""
        inside = (1 - ((self.x - cx) / rx) ** 2) - ((self.y - cy) / ry) ** 2
        np.maximum(inside, 0, out=inside)
        return inside * inside

    def above(self, line) -> Array:
        """Everything above a height or a curve."""
        return self.edge(self.y - line)


# ---- colours

def rgb(code: str) -> Array:
    """The colour of six hex digits, (1, 3, 1, 1) in [0, 1]."""
    levels = [int(code[i:i + 2], 16) for i in (0, 2, 4)]
    return np.array(levels, np.float32).reshape(1, 3, 1, 1) / np.float32(255)


def mix(a: Array, b: Array, share: Array | float) -> Array:
    """The colour that lies this share of the way from a to b."""
    return a + (b - a) * (share[:, None] if isinstance(share, np.ndarray) else share)


def ramp(position: Array, *codes: str) -> Array:
    """The colour at `position` (n, 1, 1) in [0, 1] along evenly spaced colours."""
    stops, place = [rgb(code) for code in codes], position * np.float32(len(codes) - 1)
    colour = stops[0]
    for i, stop in enumerate(stops[1:]):
        colour = mix(colour, stop, np.clip(place - np.float32(i), 0, 1))
    return colour


def hue(position: Array, saturation: float = 0.7, value: float = 0.85) -> Array:
    """The colour at `position` (n, 1, 1) in [0, 1] of the circle from red over green to blue."""
    sixths = position[:, None] * np.float32(6)
    corners = np.array([0, 4, 2], np.float32).reshape(1, 3, 1, 1)
    pure = np.clip(np.abs((sixths + corners) % np.float32(6) - np.float32(3)) - 1, 0, 1)
    return np.float32(value) * (1 + np.float32(saturation) * (pure - 1))
