"""Places across the flow for the spots of a layered graph: edges straight where possible, in the order and room given.

The passages of an edge share one place as far as the order allows; then the places of all nodes and edges minimize the
squared bends at the nodes, a quadratic program that Hildreth's method (1957) solves.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

__all__ = ["Bend", "level", "settle"]

_SWEEPS = 400
_TOLERANCE = 0.02  # pixels

Bend = tuple[int, int, float, float]
"""Two spots, the offset that makes their link straight (place of the second minus that of the first), and a weight."""


def settle(
    n_spots: int,
    room: Mapping[tuple[int, int], float],
    passages: Sequence[Sequence[int]],
    bends: Sequence[Bend],
) -> list[float]:
    """Return the place of each spot.

    Args:
        n_spots: Number of spots.
        room: Least distance of neighbours in a layer, in their order.
        passages: The spots of each edge in adjacent layers that are straight when they share a place.
        bends: Links that should be straight, those of nodes to edges and to each other among them.
    """
    block = _blocks(n_spots, list(room), passages)
    numbers = {representative: k for k, representative in enumerate(dict.fromkeys(block))}
    of_spot = [numbers[representative] for representative in block]
    apart: dict[tuple[int, int], float] = {}
    for (i, j), distance in room.items():
        pair = (of_spot[i], of_spot[j])
        apart[pair] = max(apart.get(pair, 0.0), distance)
    between = [(of_spot[i], of_spot[j], o, w) for i, j, o, w in bends if of_spot[i] != of_spot[j]]
    solved = _solve(len(numbers), apart, between)
    return [float(solved[k]) for k in of_spot]


def level(places: list[float], room: Mapping[tuple[int, int], float], chains: Sequence[Sequence[int]]) -> None:
    """Give runs of passages of an edge the same place wherever their neighbours leave room for that.

    Args:
        places: The place of each spot; changed in place.
        room: Least distance of neighbours in a layer, in their order.
        chains: The passages of each edge in adjacent layers.
    """
    above = {j: (i, distance) for (i, j), distance in room.items()}
    below = {i: (j, distance) for (i, j), distance in room.items()}
    for chain in sorted(chains, key=len, reverse=True):
        start = 0
        while start < len(chain):
            low, high, run = float("-inf"), float("inf"), 0
            for i in chain[start:]:
                least = max(low, places[above[i][0]] + above[i][1]) if i in above else low
                most = min(high, places[below[i][0]] - below[i][1]) if i in below else high
                if least > most:
                    break
                low, high, run = least, most, run + 1
            spots = chain[start : start + run]
            mean = sum(places[i] for i in spots) / max(run, 1)
            for i in spots:
                places[i] = min(max(mean, low), high)
            start += max(run, 1)


def _blocks(n: int, order: Sequence[tuple[int, int]], passages: Sequence[Sequence[int]]) -> list[int]:
    """For each spot the representative of those that share its place: whole edges, unless the order forbids it."""
    block = list(range(n))
    for chain in sorted(passages, key=len, reverse=True):
        for first, second in itertools.pairwise(chain):
            merged = [block[first] if b == block[second] else b for b in block]
            if not _has_cycle(n, [(merged[i], merged[j]) for i, j in order]):
                block = merged
    return block


def _has_cycle(n: int, order: Sequence[tuple[int, int]]) -> bool:
    after: list[list[int]] = [[] for _ in range(n)]
    waiting = [0] * n
    for i, j in order:
        after[i].append(j)
        waiting[j] += 1
    free = [i for i in range(n) if not waiting[i]]
    seen = 0
    while free:
        i = free.pop()
        seen += 1
        for j in after[i]:
            waiting[j] -= 1
            if not waiting[j]:
                free.append(j)
    return seen < n


def _solve(n: int, apart: dict[tuple[int, int], float], bends: Sequence[Bend]) -> np.ndarray:
    """Minimize the squared bends where for each pair the second lies at least so far behind the first."""
    quadratic = np.eye(n) * 1e-4  # a block without links stays near 0
    linear = np.zeros(n)
    for i, j, offset, weight in bends:
        quadratic[[i, j], [i, j]] += weight
        quadratic[i, j] -= weight
        quadratic[j, i] -= weight
        linear[i] -= weight * offset
        linear[j] += weight * offset
    inverse = np.linalg.inv(quadratic)
    places = inverse @ linear
    limits = [(i, j, distance, inverse[:, j] - inverse[:, i]) for (i, j), distance in apart.items()]
    multipliers = [0.0] * len(limits)
    for _ in range(_SWEEPS):
        worst = 0.0
        for k, (i, j, distance, direction) in enumerate(limits):
            missing = distance - (places[j] - places[i])
            step = max(missing / (direction[j] - direction[i]), -multipliers[k])
            if step:
                multipliers[k] += step
                places += step * direction
                worst = max(worst, missing, abs(step) * (direction[j] - direction[i]))
        if worst < _TOLERANCE:
            break
    return _pushed(places, apart)


def _pushed(places: np.ndarray, apart: dict[tuple[int, int], float]) -> np.ndarray:
    """Move what is still too near, so that the room holds exactly."""
    for _ in range(len(places)):
        moved = False
        for (i, j), distance in apart.items():
            if places[j] < places[i] + distance - 1e-9:
                places[j] = places[i] + distance
                moved = True
        if not moved:
            break
    return places
