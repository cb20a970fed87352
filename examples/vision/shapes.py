"""Drawn images of ten shapes, the same for the same seed."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

CLASSES = ("disc", "ring", "square", "frame", "triangle", "cross", "bar", "corner", "stripes", "checks")
SIZE = 32


def draw(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images f32[count, 3, 32, 32], about -1 to 1, and their classes i64[count].

    Every shape has its own place, size, angle, color and background, under noise.
    """
    random = np.random.Generator(np.random.Philox(seed))
    labels = random.integers(0, len(CLASSES), count)
    images = np.stack([_image(CLASSES[label], random) for label in labels])
    return torch.from_numpy(images), torch.from_numpy(labels)


def _image(shape: str, random: np.random.Generator) -> npt.NDArray[np.float32]:
    angle, radius = random.uniform(-0.4, 0.4), random.uniform(7, 12)
    center = SIZE / 2 + random.uniform(-4, 4, 2)
    y, x = np.mgrid[:SIZE, :SIZE] - center[:, None, None] + 0.5
    u = (x * np.cos(angle) + y * np.sin(angle)) / radius
    v = (y * np.cos(angle) - x * np.sin(angle)) / radius
    inside = np.clip(_depth(shape, u, v) * radius + 0.5, 0, 1)  # soft edges, one pixel wide
    back, front = random.uniform(-1, 1, 3), random.uniform(-1, 1, 3)
    while np.abs(front - back).max() < 0.7:
        front = random.uniform(-1, 1, 3)
    image = back[:, None, None] + (front - back)[:, None, None] * inside
    return (image + random.normal(0, 0.1, image.shape)).astype(np.float32)


def _depth(shape: str, u: npt.NDArray[np.float64], v: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """How far inside the shape a point is, in radii; negative outside."""
    far, reach = np.hypot(u, v), np.maximum(np.abs(u), np.abs(v))
    box = 1 - reach
    depths = {
        "disc": 1 - far,
        "ring": 0.25 - np.abs(far - 0.75),
        "square": 0.8 - reach,
        "frame": 0.2 - np.abs(reach - 0.7),
        "triangle": np.minimum(0.7 - v, (v + 1 - 2 * np.abs(u)) / 2.2),
        "cross": np.minimum(box, 0.28 - np.minimum(np.abs(u), np.abs(v))),
        "bar": np.minimum(box, 0.3 - np.abs(v)),
        "corner": np.minimum(box, np.maximum(-0.4 - u, v - 0.4)),
        "stripes": np.minimum(box, 0.25 * np.sin(7 * u)),
        "checks": np.minimum(box, 0.4 * np.sin(5 * u) * np.sin(5 * v)),
    }
    return depths[shape]
