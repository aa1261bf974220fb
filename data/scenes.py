"""Ten classes of coloured scenes that evoke CIFAR-10's."""

import numpy as np

from data.cifar10 import CLASSES as LABELS
from data.drawing import Array, Canvas, mix, ramp, rgb

# How many values each takes, all equally often; 0: any number from 0 to 1.
FACTORS = {"class": 10, "mirror": 2, "x": 0, "y": 0, "size": 0, "hue": 0, "light": 0,
           "backdrop": 0, "horizon": 0}
PAINTS = "d03a34 e8a23a 6fae4a 38a0a8 3f62c0 8a4fb0"
COATS = "2e2623 6b4423 a8703a d9b58b 8d8d92"
SKY, GRASS = "3f7fd0 8fbce8 f4b98a", "3f7f3a 7da344 a89a4a"
ROAD, SEA = "50525a 7a7c84 98908a", "14466e 2f7396 4a4a72"
WALL, FLOOR = "e0b0a8 d8d4b0 a8c4d8", "7a4438 6f6a4a 4a5a78"
REEDS, POND = "2f5f3a 4f8a4a 8a8448", "4f9090 5fa070 7a8a70"


def labels(f: dict[str, Array]) -> Array:
    """The classes, (N,) int64."""
    return f["class"].astype(np.int64)


def paint(f: dict[str, Array], page: Canvas) -> None:
    """Draws a scene in each picture, its factors (n, 1, 1)."""
    for number, name in enumerate(LABELS):
        above, below, draw = PICTURES[name]
        rows = np.flatnonzero(f["class"] == number)
        g = {key: value[rows] for key, value in f.items()}
        part = Canvas.blank(len(rows), page.pixels.shape[-1])
        part.pixels[...] = mix(ramp(g["backdrop"], above), rgb("ffffff"), 0.6 * page.y[:, None])
        part.paint(ramp(g["backdrop"], below), part.below(0.4 + 0.3 * g["horizon"]))
        canvas = part.at(0.5 + 0.16 * (g["x"] - 0.5), 0.5 + 0.16 * (g["y"] - 0.5),
                         0.36 + 0.14 * g["size"], 1 - 2 * g["mirror"])
        draw(canvas, ramp(g["hue"], PAINTS), ramp(g["hue"], COATS))
        page.pixels[rows] = part.pixels * (0.7 + 0.35 * g["light"][:, None])


# ---- objects, in units of half their width

def pair(c: Canvas, x: float, y: float, rx: float, ry: float) -> Array:
    """An ellipse on either side of the middle."""
    return np.maximum(c.ellipse(-x, y, rx, ry), c.ellipse(x, y, rx, ry))


def wheels(c: Canvas, y: float, radius: float, *places: float) -> None:
    c.paint(rgb("1b1b1e"), *[c.ellipse(x, y, radius, radius) for x in places])
    c.paint(rgb("b9bdc4"), *[c.ellipse(x, y, radius / 2, radius / 2) for x in places])


def airplane(c: Canvas, colour: Array, coat: Array) -> None:
    c.paint(rgb("aab3bd"), c.polygon((-0.05, -0.1), (-0.3, -0.5), (-0.12, -0.5), (0.3, -0.1)))
    c.paint(colour, c.polygon((-0.9, -0.05), (-1, -0.45), (-0.82, -0.45), (-0.55, -0.05)))
    c.paint(rgb("f4f6f8"), c.ellipse(0, 0, 1, 0.17))
    c.paint(rgb("c9d1d9"), c.polygon((-0.1, 0.03), (0.32, 0.03), (-0.25, 0.55), (-0.5, 0.55)))


def automobile(c: Canvas, colour: Array, coat: Array) -> None:
    c.paint(colour, c.polygon((-0.62, 0.25), (-0.4, -0.15), (0.25, -0.15), (0.6, 0.25)))
    c.paint(rgb("bfe0ee"), c.polygon((-0.48, 0.22), (-0.33, -0.07), (0.2, -0.07), (0.44, 0.22)))
    c.paint(colour, c.box(0, 0.42, 1, 0.2))
    wheels(c, 0.6, 0.2, -0.55, 0.55)


def bird(c: Canvas, colour: Array, coat: Array) -> None:
    c.paint(colour * 0.6, c.polygon((-0.45, -0.02), (-0.35, 0.25), (-1, 0.5), (-1.05, 0.3)))
    c.paint(rgb("f2a93b"), c.polygon((0.68, -0.42), (1, -0.28), (0.68, -0.2)),
            c.box(0, 0.5, 0.04, 0.2))
    c.paint(colour, c.ellipse(0, 0.08, 0.55, 0.38), c.ellipse(0.5, -0.32, 0.27, 0.26))
    c.paint(colour * 0.5, c.ellipse(-0.15, 0.02, 0.36, 0.2), c.ellipse(0.58, -0.37, 0.07, 0.07))


def cat(c: Canvas, colour: Array, coat: Array) -> None:
    c.paint(coat * 0.85, c.ellipse(0, 1.2, 0.75, 0.7))
    c.paint(coat, c.polygon((0.15, -0.5), (0.72, -1), (0.75, -0.2)),
          c.polygon((-0.75, -0.2), (-0.72, -1), (-0.15, -0.5)), c.ellipse(0, 0, 0.8, 0.68))
    c.paint(rgb("9ad05a"), pair(c, 0.36, -0.08, 0.18, 0.16))
    c.paint(rgb("0c0c0c"), pair(c, 0.36, -0.08, 0.06, 0.15))
    c.paint(rgb("f5ece0"), pair(c, 0.16, 0.32, 0.22, 0.18))


def deer(c: Canvas, colour: Array, coat: Array) -> None:
    four_legs(c, coat, 0.07)
    c.paint(rgb("d9c6a0"), c.polygon((0.57, -0.6), (0.37, -1), (0.45, -1), (0.67, -0.6)),
          c.polygon((0.75, -0.6), (0.55, -1), (0.63, -1), (0.85, -0.6)))
    c.paint(rgb("f0dfc0"), *[c.ellipse(x, y, 0.07, 0.06) for x, y in
                      [(-0.4, -0.1), (-0.2, 0), (-0.02, -0.12), (0.16, 0), (-0.68, -0.1)]])


def horse(c: Canvas, colour: Array, coat: Array) -> None:
    four_legs(c, coat * 0.8, 0.1)
    c.paint(coat * 0.35, c.polygon((0.22, -0.2), (0.42, -0.75), (0.58, -0.7), (0.42, -0.1)),
          c.polygon((-0.62, -0.2), (-0.55, -0.1), (-0.78, 0.6), (-0.95, 0.55)))


def four_legs(c: Canvas, coat: Array, leg: float) -> None:
    """What a deer and a horse have in common: four legs, a body, a neck, a head."""
    c.paint(coat * 0.7, *[c.box(x, 0.4, leg, 0.4) for x in (-0.55, -0.36, 0.28, 0.46)])
    c.paint(coat, c.ellipse(-0.05, -0.02, 0.65, 0.3), c.ellipse(0.74, -0.52, 0.3, 0.15),
          c.polygon((0.2, -0.1), (0.45, -0.65), (0.72, -0.55), (0.58, 0.1)))


def dog(c: Canvas, colour: Array, coat: Array) -> None:
    c.paint(coat * 0.85, c.ellipse(0, 1.25, 0.8, 0.75))
    c.paint(coat, c.ellipse(0, -0.08, 0.68, 0.72))
    c.paint(coat * 0.5, pair(c, 0.7, 0, 0.22, 0.58))
    c.paint(rgb("f5ece0"), c.ellipse(0, -0.35, 0.12, 0.4), c.ellipse(0, 0.3, 0.42, 0.32))
    c.paint(rgb("1c1210"), c.ellipse(0, 0.12, 0.18, 0.13), pair(c, 0.3, -0.2, 0.12, 0.12))


def frog(c: Canvas, colour: Array, coat: Array) -> None:
    skin = mix(colour, rgb("5fae3a"), 0.75)
    c.paint(skin * 0.7, pair(c, 0.68, 0.4, 0.36, 0.3))
    c.paint(skin, c.ellipse(0, 0.2, 0.68, 0.52), c.ellipse(0, -0.12, 0.62, 0.36),
          pair(c, 0.36, -0.42, 0.22, 0.21))
    c.paint(rgb("3a2f22"), c.bow(0, 0, 0.42, 0.14, 0.04))
    c.paint(rgb("f6e27a"), pair(c, 0.36, -0.44, 0.14, 0.14), c.ellipse(0, 0.45, 0.42, 0.26))
    c.paint(rgb("0d0d0d"), pair(c, 0.36, -0.44, 0.1, 0.06))


def ship(c: Canvas, colour: Array, coat: Array) -> None:
    c.paint(rgb("f2f3f0"), c.box(-0.05, -0.1, 0.55, 0.2), c.box(-0.15, -0.4, 0.3, 0.16))
    c.paint(colour * 0.7, c.box(-0.25, -0.68, 0.1, 0.2))
    c.paint(colour, c.polygon((-0.95, 0), (1.05, -0.08), (0.75, 0.42), (-0.8, 0.42)))


def truck(c: Canvas, colour: Array, coat: Array) -> None:
    c.paint(mix(colour, rgb("f0f0ea"), 0.6), c.box(-0.3, -0.12, 0.7, 0.55))
    c.paint(colour, c.box(0.7, 0.12, 0.3, 0.36))
    c.paint(rgb("bfe0ee"), c.box(0.76, 0, 0.16, 0.13))
    wheels(c, 0.5, 0.18, -0.75, -0.4, 0.65)


# by class: what is above and below the horizon, and what is before it
PICTURES = {
    "airplane": (SKY, SKY, airplane), "automobile": (SKY, ROAD, automobile),
    "bird": (SKY, GRASS, bird), "cat": (WALL, FLOOR, cat), "deer": (SKY, GRASS, deer),
    "dog": (WALL, FLOOR, dog), "frog": (REEDS, POND, frog), "horse": (SKY, GRASS, horse),
    "ship": (SKY, SEA, ship), "truck": (SKY, ROAD, truck)}
