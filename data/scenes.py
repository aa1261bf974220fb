"""Ten classes of coloured scenes that evoke CIFAR-10's."""

from __future__ import annotations

import numpy as np

from data.cifar10 import CLASSES as LABELS
from data.drawing import Array, Canvas, hue, mix, ramp, rgb

BATCH = 500         # pictures drawn at once by a thread: their layers fit its cache
# Each is uniform in [0, 1], `class` a whole number from 0 to 9 and `mirror` 0 or 1.
FACTORS = ("class", "mirror", "x", "y", "size", "hue", "light", "backdrop", "horizon")


def factors(uniform: Array) -> dict[str, Array]:
    """The factors, each (N,), from uniform numbers (N, 9)."""
    columns = dict(zip(FACTORS, uniform.T.astype(np.float32), strict=True))
    columns["class"] = np.floor(uniform[:, 0] * len(LABELS)).astype(np.float32)
    columns["mirror"] = (uniform[:, 1] < 0.5).astype(np.float32)
    return columns


def labels(columns: dict[str, Array]) -> Array:
    """The classes, (N,) int64."""
    return columns["class"].astype(np.int64)


def paint(columns: dict[str, Array], side: int) -> Array:
    """The pictures (n, 3, side, side), nearly all in [0, 1]."""
    pictures = np.empty((len(columns["class"]), 3, side, side), np.float32)
    for number, name in enumerate(LABELS):
        rows = np.flatnonzero(columns["class"] == number)
        if len(rows):
            scene = Scene({key: value[rows, None, None] for key, value in columns.items()}, side)
            PAINTERS[name](scene)
            pictures[rows] = scene.lit()
    return pictures


class Scene:
    """One class's pictures: a canvas for the backdrop and one in the units of the object."""

    def __init__(self, values: dict[str, Array], side: int):
        self.canvas = Canvas.blank(len(values["class"]), side)
        self.hue, self.backdrop, self.light = values["hue"], values["backdrop"], values["light"]
        self.horizon = 0.45 + 0.2 * values["horizon"]
        self.cx, self.cy = 0.5 + 0.16 * (values["x"] - 0.5), 0.5 + 0.16 * (values["y"] - 0.5)
        self.size = 0.36 + 0.14 * values["size"]
        self.mirror = 1 - 2 * values["mirror"]
        self.coat = ramp(self.hue, "2e2623", "6b4423", "a8703a", "d9a05b", "d8c9b0", "8d8d92")

    def object(self, drop: float = 0.0) -> Canvas:
        """A canvas whose unit is half the object's width, `drop` units below the middle."""
        return self.canvas.at(self.cx, self.cy + drop * self.size, self.size, self.mirror)

    def sky(self) -> None:
        """A sky that goes from clear to evening, with a cloud."""
        self.canvas.fill(ramp(self.backdrop, "3f7fd0", "6aa9e0", "8f7fb8"),
                         ramp(self.backdrop, "b9dcf5", "e3eef5", "f4b98a"))
        for dx, dy, rx in [(0.0, 0.0, 0.24), (0.1, -0.03, 0.15), (-0.11, 0.02, 0.15)]:
            cloud = self.canvas.glow(1.1 - 1.2 * self.horizon + dx, 0.16 + dy, rx, 0.1)
            self.canvas.paint(cloud, rgb("ffffff"))

    def ground(self, near: Array, far: Array) -> None:
        """Everything below the horizon, from the far colour to the near one."""
        depth = np.clip((self.canvas.y - self.horizon) / (1 - self.horizon), 0, 1)
        colour = far + (near - far) * depth[:, None]
        self.canvas.paint(1 - self.canvas.above(self.horizon) * np.ones_like(self.canvas.x), colour)

    def meadow(self) -> None:
        """Sky, a line of trees and grass."""
        self.sky()
        self.canvas.paint(self.canvas.box(0.5, self.horizon, 1, 0.07, 0.05), rgb("2f5d34"))
        self.ground(ramp(self.backdrop, "4f8f3a", "7da344", "a89a4a"), rgb("8fb562"))

    def road(self) -> None:
        """Sky and a grey road with its verge."""
        self.sky()
        self.ground(rgb("55565c"), rgb("84868c"))
        self.canvas.paint(self.canvas.box(0.5, self.horizon, 1, 0.03), ramp(
            self.backdrop, "6f9a4b", "9a9a8a", "c2a878"))

    def room(self) -> None:
        """A wall and a floor, or a cushion, in quiet colours."""
        self.canvas.fill(hue(self.backdrop, 0.3, 0.8), hue(self.backdrop, 0.35, 0.6))
        self.ground(hue(self.backdrop, 0.45, 0.42), hue(self.backdrop, 0.4, 0.55))

    def lit(self) -> Array:
        """The pixels, under the light of the hour."""
        return self.canvas.pixels * (0.7 + 0.35 * self.light[:, None])


def airplane(scene: Scene) -> None:
    scene.sky()
    plane, body = scene.object(), mix(rgb("f4f6f8"), hue(scene.hue, 0.5, 0.9), scene.hue * 0.4)
    plane.paint(plane.polygon((-0.05, -0.1), (-0.3, -0.5), (-0.12, -0.5), (0.3, -0.1)),
                rgb("aab3bd"))
    plane.paint(plane.polygon((-0.9, -0.05), (-1.0, -0.45), (-0.82, -0.45), (-0.55, -0.05)),
                hue(scene.hue, 0.75, 0.8))
    plane.paint(plane.ellipse(0, 0, 1.0, 0.17), body)
    plane.paint(np.minimum(plane.ellipse(0, 0, 1.0, 0.17), 1 - plane.above(0.05)), rgb("9aa4b0"))
    plane.paint(plane.polygon((-0.1, 0.03), (0.32, 0.03), (-0.25, 0.55), (-0.5, 0.55)),
                rgb("c9d1d9"))
    for x in (-0.35, -0.1, 0.15, 0.4, 0.65):
        plane.paint(plane.ellipse(x, -0.05, 0.05, 0.05), rgb("34506e"))


def automobile(scene: Scene) -> None:
    scene.road()
    car, paintwork, glass = scene.object(0.35), hue(scene.hue, 0.8, 0.85), rgb("bfe0ee")
    car.paint(car.ellipse(0, 0.33, 1.0, 0.1), rgb("2b2c30"))
    car.paint(car.polygon((-0.62, -0.1), (-0.4, -0.5), (0.25, -0.5), (0.6, -0.1)), paintwork)
    car.paint(car.polygon((-0.48, -0.12), (-0.33, -0.42), (-0.08, -0.42), (-0.08, -0.12)), glass)
    car.paint(car.polygon((0.0, -0.12), (0.0, -0.42), (0.2, -0.42), (0.44, -0.12)), glass * 0.88)
    car.paint(car.box(0, 0.07, 1.0, 0.2, 0.14), paintwork)
    car.paint(car.box(0, 0.17, 0.98, 0.06, 0.05), paintwork * 0.65)
    car.paint(car.ellipse(0.92, 0.0, 0.08, 0.06), rgb("fff3b8"))
    for x in (-0.55, 0.55):
        wheel(car, x, 0.25, 0.2)


def wheel(canvas: Canvas, x: float, y: float, radius: float) -> None:
    canvas.paint(canvas.ellipse(x, y, radius, radius), rgb("1b1b1e"))
    canvas.paint(canvas.ellipse(x, y, radius * 0.5, radius * 0.5), rgb("b9bdc4"))


def bird(scene: Scene) -> None:
    scene.sky()
    bird, plumage = scene.object(), hue(scene.hue, 0.65, 0.75)
    scene.canvas.paint(scene.canvas.box(0.5, scene.cy + 0.62 * scene.size, 1, 0.025), rgb("5a4028"))
    for x in (-0.08, 0.12):
        bird.paint(bird.line(x, 0.35, x, 0.62, 0.05), rgb("d08a2c"))
    tail = bird.polygon((-0.45, -0.02), (-0.35, 0.25), (-1.0, 0.5), (-1.05, 0.3))
    bird.paint(tail, plumage * 0.6)
    bird.paint(bird.ellipse(0, 0.08, 0.55, 0.38), plumage)
    bird.paint(bird.ellipse(0.15, 0.22, 0.36, 0.22), mix(plumage, rgb("fff4e0"), 0.7))
    bird.paint(bird.polygon((0.68, -0.42), (1.0, -0.28), (0.68, -0.2)), rgb("f2a93b"))
    bird.paint(bird.ellipse(0.5, -0.32, 0.27, 0.26), plumage * 0.9)
    bird.paint(bird.ellipse(-0.15, 0.02, 0.36, 0.2), plumage * 0.55)
    bird.paint(bird.ellipse(0.58, -0.37, 0.06, 0.06), rgb("101010"))


def cat(scene: Scene) -> None:
    scene.room()
    cat, light = scene.object(0.08), mix(scene.coat, rgb("fff8ee"), 0.6)
    cat.paint(cat.ellipse(0, 1.2, 0.75, 0.7), scene.coat * 0.85)
    for sign in (-1, 1):
        ear = [(0.15 * sign, -0.5), (0.72 * sign, -1.0), (0.75 * sign, -0.2)]
        inner = [(0.35 * sign, -0.55), (0.65 * sign, -0.82), (0.66 * sign, -0.4)]
        cat.paint(cat.polygon(*ear[::sign]), scene.coat)
        cat.paint(cat.polygon(*inner[::sign]), rgb("d99a94"))
    cat.paint(cat.ellipse(0, 0, 0.8, 0.68), scene.coat)
    for x in (-0.2, 0, 0.2):
        cat.paint(cat.line(x, -0.62, x * 0.7, -0.36, 0.08), scene.coat * 0.55)
    for x in (-0.36, 0.36):
        cat.paint(cat.ellipse(x, -0.08, 0.18, 0.16), hue(0.2 + 0.25 * scene.hue, 0.6, 0.9))
        cat.paint(cat.ellipse(x, -0.08, 0.06, 0.15), rgb("0c0c0c"))
        cat.paint(cat.ellipse(x * 0.45, 0.3, 0.22, 0.18), light)
    cat.paint(cat.polygon((-0.1, 0.13), (0.1, 0.13), (0, 0.26)), rgb("c96f72"))
    for y in (0.25, 0.37):
        cat.paint(cat.line(0.35, y, 0.95, y * 2 - 0.35, 0.03), rgb("f5f2ee"))
        cat.paint(cat.line(-0.35, y, -0.95, y * 2 - 0.35, 0.03), rgb("f5f2ee"))


def dog(scene: Scene) -> None:
    scene.room()
    dog, light = scene.object(0.05), mix(scene.coat, rgb("fff8ee"), 0.65)
    dog.paint(dog.ellipse(0, 1.25, 0.8, 0.75), scene.coat * 0.85)
    dog.paint(dog.ellipse(0, -0.08, 0.68, 0.72), scene.coat)
    for x in (-0.7, 0.7):
        dog.paint(dog.ellipse(x, -0.02, 0.22, 0.58), scene.coat * 0.55)
    dog.paint(dog.ellipse(0, -0.35, 0.12, 0.4), light)
    dog.paint(dog.ellipse(0, 0.55, 0.13, 0.26), rgb("e0707a"))
    dog.paint(dog.ellipse(0, 0.3, 0.42, 0.32), light)
    dog.paint(dog.ellipse(0, 0.12, 0.18, 0.13), rgb("141214"))
    dog.paint(dog.line(0, 0.2, 0, 0.45, 0.04), rgb("3a2a2a"))
    for x in (-0.3, 0.3):
        dog.paint(dog.ellipse(x, -0.2, 0.13, 0.13), rgb("1c1210"))
        dog.paint(dog.ellipse(x + 0.04, -0.24, 0.04, 0.04), rgb("ffffff"))


def deer(scene: Scene) -> None:
    scene.meadow()
    coat = ramp(scene.hue, "7a4a24", "a5652f", "c98a4b")
    animal(scene, coat, leg=0.07, muzzle=rgb("e8d5b8"))
    deer = scene.object()
    for dx in (-0.12, 0.1):
        deer.paint(deer.line(0.62, -0.62, 0.62 + 2.2 * dx, -1.0, 0.055), rgb("d9c6a0"))
        deer.paint(deer.line(0.62 + 1.2 * dx, -0.82, 0.62 + 3.2 * dx, -0.88, 0.05), rgb("d9c6a0"))
    deer.paint(deer.ellipse(-0.66, -0.12, 0.1, 0.13), rgb("fbf6ea"))
    for x, y in [(-0.4, -0.1), (-0.2, -0.02), (-0.05, -0.14), (0.12, -0.04), (-0.3, 0.05)]:
        deer.paint(deer.ellipse(x, y, 0.05, 0.04), rgb("f0dfc0"))


def horse(scene: Scene) -> None:
    scene.meadow()
    coat = ramp(scene.hue, "231a17", "5a3018", "8a4b22", "cfc6ba")
    animal(scene, coat, leg=0.1, muzzle=coat * 0.6)
    horse, mane = scene.object(), coat * 0.4
    horse.paint(horse.polygon((0.3, -0.2), (0.48, -0.72), (0.6, -0.68), (0.42, -0.1)), mane)
    horse.paint(horse.polygon((-0.62, -0.2), (-0.55, -0.1), (-0.78, 0.5), (-0.95, 0.45)), mane)


def animal(scene: Scene, coat: Array, leg: float, muzzle: Array) -> None:
    """What a deer and a horse have in common: four legs, a body, a neck, a head."""
    animal = scene.object()
    animal.paint(animal.ellipse(0, 0.78, 0.75, 0.08), rgb("3c5a2c"))
    for x, shade in [(-0.42, 0.6), (0.28, 0.6), (-0.55, 0.85), (0.42, 0.85)]:
        animal.paint(animal.box(x, 0.4, leg, 0.4, 0.04), coat * shade)
    animal.paint(animal.ellipse(-0.05, -0.02, 0.65, 0.3), coat)
    animal.paint(animal.polygon((0.2, -0.1), (0.45, -0.65), (0.72, -0.55), (0.58, 0.1)), coat)
    animal.paint(animal.ellipse(0.56, -0.68, 0.07, 0.16), coat * 0.8)
    animal.paint(animal.ellipse(0.72, -0.52, 0.27, 0.15), coat)
    animal.paint(animal.ellipse(0.9, -0.47, 0.11, 0.11), muzzle)
    animal.paint(animal.ellipse(0.68, -0.57, 0.045, 0.045), rgb("0e0c0b"))


def frog(scene: Scene) -> None:
    scene.canvas.fill(ramp(scene.backdrop, "2f6f73", "3f7a4a", "6a6a3a"),
                      ramp(scene.backdrop, "4fa0a0", "6fa050", "8f8048"))
    frog, skin = scene.object(), ramp(scene.hue, "2f8f3a", "6fb53a", "b5bb3f", "9a7a3a")
    frog.paint(frog.ellipse(0, 0.62, 1.05, 0.28), rgb("3f8f4f"))
    for x in (-0.68, 0.68):
        frog.paint(frog.ellipse(x, 0.38, 0.34, 0.3), skin * 0.75)
        frog.paint(frog.ellipse(x * 0.6, 0.62, 0.22, 0.09), skin * 0.9)
    frog.paint(frog.ellipse(0, 0.2, 0.68, 0.52), skin)
    frog.paint(frog.ellipse(0, 0.42, 0.45, 0.28), mix(skin, rgb("f5f2c8"), 0.7))
    frog.paint(frog.ellipse(0, -0.12, 0.62, 0.36), skin)
    mouth = np.minimum(frog.ellipse(0, -0.06, 0.45, 0.2), 1 - frog.ellipse(0, -0.12, 0.5, 0.2))
    frog.paint(mouth, rgb("3a2f22"))
    for x in (-0.36, 0.36):
        frog.paint(frog.ellipse(x, -0.42, 0.22, 0.21), skin)
        frog.paint(frog.ellipse(x, -0.44, 0.14, 0.14), rgb("f6e27a"))
        frog.paint(frog.ellipse(x, -0.44, 0.1, 0.06), rgb("0d0d0d"))


def ship(scene: Scene) -> None:
    scene.sky()
    scene.ground(ramp(scene.backdrop, "14466e", "1f5f86", "3a4a72"), rgb("6fa6c4"))
    ship = scene.object(0.15)
    ship.paint(ship.box(-0.05, -0.15, 0.55, 0.18, 0.03), rgb("f2f3f0"))
    ship.paint(ship.box(-0.15, -0.42, 0.3, 0.14, 0.03), rgb("dfe3e4"))
    ship.paint(ship.box(-0.25, -0.68, 0.1, 0.18, 0.02), hue(scene.hue + 0.5, 0.7, 0.75))
    ship.paint(ship.line(0.3, -0.3, 0.3, -0.9, 0.05), rgb("5b5f66"))
    for x in (-0.45, -0.22, 0.01, 0.24):
        ship.paint(ship.box(x, -0.16, 0.06, 0.06), rgb("3a5a78"))
    ship.paint(ship.polygon((-0.95, 0.0), (1.05, -0.08), (0.75, 0.42), (-0.8, 0.42)),
               hue(scene.hue, 0.65, 0.6))
    ship.paint(ship.polygon((-0.9, 0.12), (0.97, 0.06), (0.95, 0.14), (-0.88, 0.2)), rgb("f4f4f4"))
    ship.paint(ship.box(0, 0.46, 1.0, 0.06, 0.05), rgb("dcecf2"))


def truck(scene: Scene) -> None:
    scene.road()
    truck, cab = scene.object(0.12), hue(scene.hue, 0.75, 0.8)
    truck.paint(truck.ellipse(0, 0.62, 1.0, 0.09), rgb("2b2c30"))
    truck.paint(truck.box(-0.3, -0.12, 0.7, 0.55, 0.03), mix(
        rgb("f0f0ea"), hue(scene.hue + 0.4, 0.5, 0.8), scene.backdrop * 0.7))
    truck.paint(truck.box(-0.3, 0.1, 0.7, 0.06), cab)
    truck.paint(truck.box(0.7, 0.12, 0.3, 0.36, 0.08), cab)
    truck.paint(truck.polygon((0.58, -0.14), (0.86, -0.14), (0.95, 0.12), (0.58, 0.12)),
                rgb("bfe0ee"))
    truck.paint(truck.box(0, 0.48, 1.0, 0.07, 0.02), rgb("3a3b40"))
    truck.paint(truck.ellipse(0.96, 0.34, 0.06, 0.06), rgb("fff3b8"))
    for x in (-0.75, -0.4, 0.65):
        wheel(truck, x, 0.52, 0.17)


PAINTERS = {"airplane": airplane, "automobile": automobile, "bird": bird, "cat": cat, "deer": deer,
            "dog": dog, "frog": frog, "horse": horse, "ship": ship, "truck": truck}
