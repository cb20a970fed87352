"""Orthogonal matrices that spread a value over all channels: randomized Hadamard, or uniformly random.

A Hadamard matrix H of order n has entries +1 and -1 and H Hᵀ = n I. Orders here are 2^k m, by Sylvester's doubling of
Paley's constructions (Paley, "On orthogonal matrices", 1933): m = q + 1 for a prime q = 3 mod 4 (4, 8, 12, 20, 24, …),
and m = 2 (q + 1) for a prime q = 1 mod 4 (12, 28, 36, 60, …). That gives the widths models have: 576 = 8 * 72,
768 = 2 * 384, 896 = 32 * 28, 960 = 2 * 480, 1600 = 8 * 200, 2560 = 128 * 20, 3584 = 128 * 28.

Randomized: `Q = diag(s) H / sqrt(n)` with random signs s (Ashkboos et al., "QuaRot", 2024).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

KINDS = ("auto", "hadamard", "random")


@dataclass(frozen=True)
class Rotation:
    """An orthogonal matrix and what it is.

    Attributes:
        matrix: Q, float64 [n, n], Q Qᵀ = I.
        kind: `hadamard` or `random`.
    """

    matrix: Tensor
    kind: str


def draw_rotation(width: int, seed: int, kind: str = "auto") -> Rotation:
    """A random orthogonal matrix, the same for the same arguments.

    Args:
        width: n.
        seed: of the signs, or of the whole matrix.
        kind: `hadamard`, `random` (uniform over all orthogonal matrices), or `auto`: Hadamard where n allows.

    Raises:
        ValueError: no Hadamard matrix of this order is known here, and `kind` asks for one; or no such kind.
    """
    if kind not in KINDS:
        raise ValueError(f"there is no kind {kind!r}; there are {', '.join(KINDS)}")
    generator = torch.Generator().manual_seed(seed)
    table = hadamard(width) if kind != "random" else None
    if table is not None:
        signs = torch.randint(0, 2, (width, 1), generator=generator, dtype=torch.float64) * 2 - 1
        return Rotation(signs * table / math.sqrt(width), "hadamard")
    if kind == "hadamard":
        raise ValueError(f"no Hadamard matrix of order {width} is known here")
    # QR of a Gaussian matrix is uniform once R's diagonal is made positive (Mezzadri, 2007).
    noise = torch.randn(width, width, generator=generator, dtype=torch.float64)
    q, r = torch.linalg.qr(noise)
    return Rotation(q * torch.sign(r.diagonal()), "random")


def hadamard(order: int) -> Tensor | None:
    """A Hadamard matrix, float64 [order, order] of +1 and -1; None where the constructions above give none."""
    core, doublings = order, 0
    while True:
        table = _core(core)
        if table is not None:
            break
        if core % 2:
            return None
        core, doublings = core // 2, doublings + 1
    for _ in range(doublings):
        table = torch.cat((torch.cat((table, table), 1), torch.cat((table, -table), 1)))
    return table


def _core(order: int) -> Tensor | None:
    """A matrix that needs no doubling."""
    if order == 1:
        return torch.ones(1, 1, dtype=torch.float64)
    if order % 4:
        return None
    if _is_prime(order - 1):
        return _paley_first(order - 1)
    half = order // 2
    return _paley_second(half - 1) if half % 4 == 2 and _is_prime(half - 1) else None


def _is_prime(n: int) -> bool:
    return n > 1 and all(n % d for d in range(2, math.isqrt(n) + 1))


def _jacobsthal(q: int) -> Tensor:
    """[i, j] is 1 if i - j is a square modulo the prime q, -1 if it is not, 0 on the diagonal."""
    character = -torch.ones(q, dtype=torch.float64)
    character[torch.arange(1, q).square() % q] = 1.0
    character[0] = 0.0
    place = torch.arange(q)
    return character[(place[:, None] - place[None, :]) % q]


def _paley_first(q: int) -> Tensor:
    """For q = 3 mod 4: I + S with S skew-symmetric, order q + 1."""
    table = torch.ones(q + 1, q + 1, dtype=torch.float64)
    table[1:, 0] = -1.0
    table[1:, 1:] = _jacobsthal(q) + torch.eye(q, dtype=torch.float64)
    return table


def _paley_second(q: int) -> Tensor:
    """For q = 1 mod 4: each entry of a symmetric conference matrix becomes a block of 2 x 2, order 2 (q + 1)."""
    conference = torch.ones(q + 1, q + 1, dtype=torch.float64)
    conference[0, 0] = 0.0
    conference[1:, 1:] = _jacobsthal(q)
    block = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    diagonal = torch.tensor([[1.0, -1.0], [-1.0, -1.0]], dtype=torch.float64)
    return torch.kron(conference, block) + torch.kron(torch.eye(q + 1, dtype=torch.float64), diagonal)
