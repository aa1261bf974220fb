"""Cartoon faces with CelebA's names for what can be seen in them."""

from __future__ import annotations

import numpy as np

from data.drawing import Array, Canvas, hue, mix, ramp, rgb

# Each is uniform in [0, 1] and says how far, from the first word to the second.
SLIDERS = ("x",             # left, right
           "y",             # high, low
           "size",          # small, large
           "yaw",           # the features look left, right
           "light",         # comes from the left, the right
           "backdrop",      # its hue
           "clothes",       # their hue
           "skin",          # dark, pale
           "hair",          # black, brown, blond
           "eyes",          # brown, green, blue
           "smile",         # sad, happy
           "mouth")         # shut, open
# Each is 0 or 1, and this often 1; none depends on another.
SWITCHES = {"Bangs": 0.3, "Eyeglasses": 0.25, "Male": 0.5, "Mustache": 0.15, "Wearing_Hat": 0.2,
            "Wearing_Lipstick": 0.35}
FACTORS = (*SLIDERS, *SWITCHES)
BATCH = 50          # pictures drawn at once by a thread: their layers fit its cache
LABELS = ("Bangs", "Black_Hair", "Blond_Hair", "Brown_Hair", "Eyeglasses", "Male",
          "Mouth_Slightly_Open", "Mustache", "Pale_Skin", "Smiling", "Wearing_Hat",
          "Wearing_Lipstick")

SMALL, LARGE = 0.29, 0.35           # half the head's height, in sides of the picture
SHIFT_X, SHIFT_Y = 0.06, 0.04       # how far the head's middle may be from (0.5, 0.53)


def factors(uniform: Array) -> dict[str, Array]:
    """The factors, each (N,) float32, from uniform numbers (N, 18)."""
    columns = dict(zip(FACTORS, uniform.T.astype(np.float32), strict=True))
    for name, share in SWITCHES.items():
        columns[name] = (columns[name] < share).astype(np.float32)
    return columns


def labels(columns: dict[str, Array]) -> Array:
    """The attributes in the order of LABELS, (N, 12) bool: switches, and sliders past a mark."""
    hair = columns["hair"]
    marks = {"Black_Hair": hair < 0.33, "Brown_Hair": (hair >= 0.33) & (hair < 0.67),
             "Blond_Hair": hair >= 0.67, "Pale_Skin": columns["skin"] > 0.75,
             "Smiling": columns["smile"] > 0.5, "Mouth_Slightly_Open": columns["mouth"] > 0.5}
    return np.stack([marks[name] if name in marks else columns[name] > 0.5 for name in LABELS], 1)


def paint(columns: dict[str, Array], side: int) -> Array:
    """The pictures (n, 3, side, side), from the back of the scene to the front."""
    face = Face({key: value[:, None, None] for key, value in columns.items()}, side)
    for layer in (backdrop, long_hair, body, head, cheeks, eyes, nose, mouth, mustache, hairline,
                  brows, eyeglasses, hat):
        layer(face)
    return face.page.pixels


class Face:
    """The factors, the colours made of them, and a canvas in units of half the head's height."""

    def __init__(self, values: dict[str, Array], side: int):
        self.__dict__.update(values)
        self.page = Canvas.blank(len(values["x"]), side)
        self.canvas = self.page.at(0.5 + SHIFT_X * (2 * values["x"] - 1),
                                   0.53 + SHIFT_Y * (2 * values["y"] - 1),
                                   SMALL + (LARGE - SMALL) * values["size"])
        self.turn = 0.3 * (values["yaw"] - 0.5)         # of the features on the head
        self.jaw = 0.74 + 0.05 * values["Male"]
        self.skin_colour = ramp(values["skin"], "6b4026", "a8703f", "d9a066", "f0c39a", "fbe3d3")
        self.hair_colour = ramp(
            values["hair"], "1a1514", "2a1c16", "6b3f20", "8a5a2c", "d9b05a", "f0d58a")

    def part(self, left: float, top: float, right: float, bottom: float) -> Canvas:
        """The canvas between these units only, wherever the head may be and whatever its size."""
        return self.canvas.window(0.5 - SHIFT_X + min(left * SMALL, left * LARGE),
                                  0.53 - SHIFT_Y + min(top * SMALL, top * LARGE),
                                  0.5 + SHIFT_X + max(right * SMALL, right * LARGE),
                                  0.53 + SHIFT_Y + max(bottom * SMALL, bottom * LARGE))


def backdrop(face: Face) -> None:
    face.page.fill(hue(face.backdrop, 0.35, 0.85), hue(face.backdrop, 0.5, 0.55))


def long_hair(face: Face) -> None:
    canvas, long = face.canvas, 1 - face.Male
    canvas.paint(canvas.box(0, 0.35, 0.98, 1.25, 0.75) * long, face.hair_colour * 0.75)


def body(face: Face) -> None:
    canvas = face.part(-2, 0.5, 2, 2)
    canvas.paint(canvas.box(0, 1.1, 0.34, 0.5, 0.1), face.skin_colour * 0.78)
    shoulders = canvas.ellipse(0, 2.05, 1.35 + 0.15 * face.Male, 0.85)
    canvas.paint(shoulders, hue(face.clothes, 0.6, 0.7))
    canvas.paint(canvas.ellipse(0, 1.28, 0.36, 0.2), face.skin_colour * 0.85)


def head(face: Face) -> None:
    for x in (-1, 1):
        ear = face.part(x * 0.78 - 0.22, -0.25, x * 0.78 + 0.22, 0.4)
        ear.paint(ear.ellipse(x * face.jaw, 0.08, 0.14, 0.22), face.skin_colour * 0.82)
    canvas = face.part(-0.9, -1.2, 0.9, 1.05)
    canvas.paint(canvas.ellipse(0, -0.22, face.jaw + 0.09, 0.93), face.hair_colour)
    shade = (0.97 - 0.18 * canvas.x / face.jaw * (1 - 2 * face.light)) - 0.1 * canvas.y * canvas.y
    canvas.paint(canvas.ellipse(0, 0, face.jaw, 1), face.skin_colour * shade[:, None])


def cheeks(face: Face) -> None:
    blush = mix(face.skin_colour, rgb("d8584e"), 0.05 + 0.5 * face.smile)    # who smiles glows
    for x in (-0.42, 0.42):
        canvas = face.part(x - 0.45, 0.1, x + 0.45, 0.54)
        canvas.paint(canvas.glow(x + face.turn, 0.32, 0.3, 0.22), blush)


def eyes(face: Face) -> None:
    iris = ramp(face.eyes, "4a2a14", "7a5a2a", "4f8a4a", "3f7fb8", "7fb8e0")
    for x in (-0.33, 0.33):
        canvas = face.part(x - 0.38, -0.26, x + 0.38, 0.06)
        cx, look = x + face.turn, x + 1.3 * face.turn
        canvas.paint(canvas.ellipse(cx, -0.1, 0.19, 0.12), face.skin_colour * 0.55)
        canvas.paint(canvas.ellipse(cx, -0.085, 0.17, 0.1), rgb("fbfbf8"))
        canvas.paint(canvas.ellipse(look, -0.09, 0.095, 0.1), iris)
        canvas.paint(canvas.ellipse(look, -0.09, 0.045, 0.05), rgb("0c0a0a"))
        canvas.paint(canvas.ellipse(look + 0.035, -0.125, 0.03, 0.03), rgb("ffffff"))


def brows(face: Face) -> None:
    thick = 0.045 + 0.035 * face.Male
    for x in (-0.34, 0.34):
        canvas = face.part(x - 0.45, -0.46, x + 0.45, -0.15)
        arch = canvas.arch(x + face.turn, 0.26)
        canvas.paint(canvas.band(-0.27 - 0.07 * arch, thick * arch), face.hair_colour * 0.6)


def nose(face: Face) -> None:
    canvas, cx = face.part(-0.4, -0.28, 0.4, 0.52), 1.35 * face.turn
    canvas.paint(canvas.glow(cx, 0.12, 0.16, 0.36), face.skin_colour * 1.08)
    canvas.paint(canvas.ellipse(cx, 0.29, 0.13, 0.05), face.skin_colour * 0.68)
    canvas.paint(canvas.ellipse(cx, 0.25, 0.12, 0.07), face.skin_colour * 1.02)


def mouth(face: Face) -> None:
    canvas = face.part(-0.62, 0.3, 0.62, 0.9)
    arch = canvas.arch(1.1 * face.turn, 0.3 + 0.1 * face.smile)
    middle = 0.57 + 0.6 * (face.smile - 0.38) * (arch - 0.55)
    gap, lip = 0.12 * face.mouth * arch, (0.045 + 0.03 * face.Wearing_Lipstick) * np.sqrt(arch)
    lips = mix(face.skin_colour * 0.72, rgb("c0182c"), 0.25 + 0.6 * face.Wearing_Lipstick)
    canvas.paint(canvas.band(middle, gap + lip), lips)
    canvas.paint(canvas.band(middle, gap), rgb("5a1218"))
    canvas.paint(canvas.band(middle - 0.45 * gap, 0.5 * gap), rgb("fdfcf6"))


def mustache(face: Face) -> None:
    canvas = face.part(-0.62, 0.3, 0.62, 0.6)
    arch = canvas.arch(1.2 * face.turn, 0.4)
    whiskers = canvas.band(0.48 - 0.1 * arch, 0.085 * arch)
    canvas.paint(whiskers * face.Mustache, face.hair_colour * 0.75)


def hairline(face: Face) -> None:
    canvas = face.part(-0.92, -1.25, 0.92, 0.1)
    cap = canvas.ellipse(0, -0.14, face.jaw + 0.07, 1.02)
    high = canvas.above(-0.62 + 0.75 * canvas.x * canvas.x)
    low = canvas.above(-0.3 - 0.12 * canvas.x * canvas.x)
    fringe = high + (np.maximum(high, low) - high) * face.Bangs
    canvas.paint(np.minimum(cap, fringe), face.hair_colour)
    shine = canvas.glow(-0.25 + 0.5 * face.light, -0.95, 0.5, 0.25)
    canvas.paint(np.minimum(cap, shine * 0.5), mix(face.hair_colour, rgb("ffffff"), 0.5))


def eyeglasses(face: Face) -> None:
    rim, reach = rgb("20202a"), (face.jaw - 0.62) / 2
    for x in (-0.35, 0.35):
        lens = face.part(x - 0.48, -0.36, x + 0.48, 0.2)
        outer = lens.ellipse(x + face.turn, -0.08, 0.29, 0.25)
        inner = lens.ellipse(x + face.turn, -0.08, 0.235, 0.195)
        lens.paint(inner * (0.18 * face.Eyeglasses), rgb("d8ecf8"))
        lens.paint((outer - inner) * face.Eyeglasses, rim)
    canvas = face.part(-0.95, -0.19, 0.95, -0.05)
    arms = [canvas.box(sign * (0.64 + reach) + face.turn * 0.5, -0.12, reach + 0.06, 0.03)
            for sign in (-1, 1)]
    bridge = canvas.box(face.turn, -0.12, 0.09, 0.03)
    canvas.paint(np.maximum(bridge, np.maximum(*arms)) * face.Eyeglasses, rim)


def hat(face: Face) -> None:
    canvas, colour = face.part(-1.25, -1.6, 1.25, -0.35), hue(face.clothes + 0.45, 0.65, 0.6)
    crown = np.minimum(canvas.ellipse(0, -0.55, 0.88, 0.98), canvas.above(-0.48))
    canvas.paint(crown * face.Wearing_Hat, colour)
    band = np.minimum(crown, 1 - canvas.above(-0.72))
    canvas.paint(band * face.Wearing_Hat, colour * 0.5)
    canvas.paint(canvas.box(0, -0.47, 1.18, 0.085, 0.08) * face.Wearing_Hat, colour * 0.8)
