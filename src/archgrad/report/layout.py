"""Places for the nodes, edges and labels of a small directed graph, such that no label touches anything.

The layered method of Sugiyama, Tagawa and Toda (1981): nodes stand in layers; an edge passes through a place of its own
in every layer between its ends, and its label gets one of these places to itself. Edges bend only between the layers,
so none can cross a label or a node, whatever the graph.

All lengths are pixels: `along` the flow from inputs to outputs, and `across` it.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from archgrad.report.settle import Bend, level, settle

__all__ = ["GraphLayout", "LinkPlace", "LinkSize", "NodePlace", "NodeSize", "lay_out"]

_SWEEPS = 12
_STARTS = 6
_STRAIGHT = 8.0  # how much more a bend within an edge counts than one at its ends
_MANY_SPOTS = 150  # in a graph of more, one start must do


@dataclass(frozen=True, kw_only=True)
class NodeSize:
    """A node to place: rank 0 for those that nothing leads to."""

    key: str
    along: float
    across: float


@dataclass(frozen=True, kw_only=True)
class LinkSize:
    """An edge to route, and the room that its label takes; a label of no size is not drawn."""

    source: str
    target: str
    label_along: float = 0.0
    label_across: float = 0.0


@dataclass(frozen=True, kw_only=True)
class NodePlace:
    """The middle of a node, and its size across, grown where many edges meet it."""

    along: float
    across: float
    size_across: float


@dataclass(frozen=True, kw_only=True)
class LinkPlace:
    """The corners of an edge, in pairs: straight from the first of a pair to the second, bent between the pairs."""

    points: tuple[tuple[float, float], ...]
    label: tuple[float, float] | None
    """Middle of the label."""


@dataclass(frozen=True, kw_only=True)
class GraphLayout:
    """Places for the nodes by key and for the edges in the order given."""

    nodes: dict[str, NodePlace]
    links: tuple[LinkPlace, ...]
    along: float
    across: float


@dataclass
class _Spot:
    """A node, or the passage of an edge through a layer."""

    layer: int
    across_size: float
    along_size: float
    node: str | None = None
    before: list[int] = field(default_factory=list)
    after: list[int] = field(default_factory=list)
    place: float = 0.0


def lay_out(
    nodes: Sequence[NodeSize],
    links: Sequence[LinkSize],
    *,
    last: str | None = None,
    channel: float = 26.0,
    gap: float = 8.0,
    port_gap: float = 9.0,
    compact: bool = False,
) -> GraphLayout:
    """Return places for a graph without cycles.

    Args:
        nodes: In an order in which every edge leads forward; those that nothing leads to keep their order.
        links: Edges between `nodes`; the same pair may occur twice.
        last: Key of a node that stands alone behind all others.
        channel: Least room along the flow in which edges bend, between two layers.
        gap: Least room across the flow between two nodes, labels or edges.
        port_gap: Room between two edges that meet the same node.
        compact: Let long edges bend on their way, which takes less room across the flow.
    """
    ranks = _ranks(nodes, links, last)
    spots: list[_Spot] = []
    index: dict[str, int] = {}
    for node in nodes:
        degree = max(sum(link.target == node.key for link in links), sum(link.source == node.key for link in links))
        index[node.key] = len(spots)
        across = max(node.across, (degree - 1) * port_gap + 12.0)
        spots.append(_Spot(2 * ranks[node.key], across, node.along, node.key))
    label_layers = _label_layers(links, ranks)
    used = set(label_layers.values())
    chains = [_chain(link, i, ranks, used, label_layers, index, spots) for i, link in enumerate(links)]
    layers = _order(spots)
    leave, enter = _ports(chains, layers, port_gap)
    sizes = [spot.across_size for spot in spots]
    room = {(i, j): (sizes[i] + sizes[j]) / 2 + gap for layer in layers for i, j in itertools.pairwise(layer)}
    passages = [chain[1:-1] for chain in chains]
    found = settle(len(spots), room, [] if compact else passages, list(_bends(chains, leave, enter)))
    level(found, room, passages)
    top = min(place - size / 2 for place, size in zip(found, sizes, strict=True))
    for spot, place in zip(spots, found, strict=True):
        spot.place = place - top
    starts, widths, total = _columns(spots, layers, channel)
    places = []
    for i, chain in enumerate(chains):
        ends = spots[chain[0]].place + leave[i], spots[chain[-1]].place + enter[i]
        places.append(_route(chain, spots, starts, widths, *ends, label_layers.get(i)))
    return GraphLayout(
        nodes={
            key: NodePlace(
                along=starts[spots[i].layer] + widths[spots[i].layer] / 2,
                across=spots[i].place,
                size_across=spots[i].across_size,
            )
            for key, i in index.items()
        },
        links=tuple(places),
        along=total,
        across=max(spot.place + spot.across_size / 2 for spot in spots),
    )


def _ranks(nodes: Sequence[NodeSize], links: Sequence[LinkSize], last: str | None) -> dict[str, int]:
    """The length of the longest way from an input."""
    ranks = {node.key: 0 for node in nodes}
    for node in nodes:
        ranks[node.key] = max((ranks[link.source] + 1 for link in links if link.target == node.key), default=0)
    if last is not None:
        ranks[last] = 1 + max((rank for key, rank in ranks.items() if key != last), default=0)
    return ranks


def _label_layers(links: Sequence[LinkSize], ranks: dict[str, int]) -> dict[int, int]:
    """For each labelled edge the layer between two ranks that holds its label, so that no layer is crowded."""
    load: dict[int, float] = {}
    chosen: dict[int, int] = {}
    labelled = [i for i, link in enumerate(links) if link.label_across > 0]
    for i in sorted(labelled, key=lambda i: ranks[links[i].target] - ranks[links[i].source]):
        first, final = 2 * ranks[links[i].source] + 1, 2 * ranks[links[i].target] - 1
        options = range(first, final + 1, 2)
        middle = (first + final) / 2
        layer = min(options, key=lambda layer: (load.get(layer, 0.0), abs(layer - middle), layer))
        load[layer] = load.get(layer, 0.0) + links[i].label_across
        chosen[i] = layer
    return chosen


def _chain(
    link: LinkSize,
    number: int,
    ranks: dict[str, int],
    used: set[int],
    label_layers: dict[int, int],
    index: dict[str, int],
    spots: list[_Spot],
) -> list[int]:
    """The spots of one edge from its source to its target; layers without labels take no room and are passed over."""
    chain = [index[link.source]]
    for layer in range(2 * ranks[link.source] + 1, 2 * ranks[link.target]):
        if layer % 2 and layer not in used:
            continue
        labelled = label_layers.get(number) == layer
        spots.append(
            _Spot(layer, link.label_across if labelled else 2.0, link.label_along if labelled else 0.0),
        )
        chain.append(len(spots) - 1)
    chain.append(index[link.target])
    for before, after in itertools.pairwise(chain):
        spots[before].after.append(after)
        spots[after].before.append(before)
    return chain


def _order(spots: list[_Spot]) -> list[list[int]]:
    """The spots of each layer from top to bottom, with few crossings; inputs keep the order given."""
    height = max(spot.layer for spot in spots) + 1
    best: list[list[int]] = []
    fewest = None
    for start in range(_STARTS if len(spots) <= _MANY_SPOTS else 1):
        layers: list[list[int]] = [[] for _ in range(height)]
        for i, spot in enumerate(spots):
            layers[spot.layer].append(i)
        shuffle = random.Random(start)
        for layer in layers[1:] if start else []:
            shuffle.shuffle(layer)
        for sweep in range(_SWEEPS):
            forward = sweep % 2 == 0
            _sweep(layers, spots, forward)
            _swap_neighbours(layers, spots)
            crossings = sum(_crossings(layers, spots))
            if fewest is None or crossings < fewest:
                fewest, best = crossings, [list(layer) for layer in layers]
        if fewest == 0:
            break
    return [layer for layer in best if layer]


def _sweep(layers: list[list[int]], spots: list[_Spot], forward: bool) -> None:
    rank = {i: k / max(len(layer) - 1, 1) for layer in layers for k, i in enumerate(layer)}
    numbers = range(1, len(layers)) if forward else range(len(layers) - 1, 0, -1)
    for number in numbers:
        layer = layers[number]

        def key(i: int) -> float:
            near = spots[i].before if forward else spots[i].after
            return sum(rank[j] for j in near) / len(near) if near else rank[i]

        layer.sort(key=key)
        rank.update({i: k / max(len(layer) - 1, 1) for k, i in enumerate(layer)})


def _swap_neighbours(layers: list[list[int]], spots: list[_Spot]) -> None:
    place = {i: k for layer in layers for k, i in enumerate(layer)}
    better = True
    while better:
        better = False
        for layer in layers[1:]:
            for k in range(len(layer) - 1):
                i, j = layer[k], layer[k + 1]
                gain = 0
                for near_i, near_j in ((spots[i].before, spots[j].before), (spots[i].after, spots[j].after)):
                    for a, b in itertools.product(near_i, near_j):
                        gain += (place[a] > place[b]) - (place[a] < place[b])
                if gain > 0:
                    layer[k], layer[k + 1] = j, i
                    place[i], place[j] = k + 1, k
                    better = True


def _crossings(layers: list[list[int]], spots: list[_Spot]) -> list[int]:
    place = {i: k for layer in layers for k, i in enumerate(layer)}
    counts = []
    for layer in layers:
        ends = [(place[i], place[j]) for i in layer for j in spots[i].after]
        counts.append(sum((a[0] - b[0]) * (a[1] - b[1]) < 0 for a, b in itertools.combinations(ends, 2)))
    return counts


def _columns(
    spots: list[_Spot], layers: list[list[int]], channel: float
) -> tuple[dict[int, float], dict[int, float], float]:
    """Start and width of each layer along the flow; steep edges get more room to bend."""
    starts: dict[int, float] = {}
    widths: dict[int, float] = {}
    u = 0.0
    for number, layer in enumerate(layers):
        key = spots[layer[0]].layer
        starts[key] = u
        widths[key] = max(spots[i].along_size for i in layer)
        rise = max((abs(spots[i].place - spots[j].place) for i in layer for j in spots[i].after), default=0.0)
        u += widths[key] + (min(max(channel, 0.32 * rise), 2.2 * channel) if number < len(layers) - 1 else 0.0)
    return starts, widths, u


def _ports(
    chains: Sequence[Sequence[int]], layers: Sequence[Sequence[int]], port_gap: float
) -> tuple[list[float], list[float]]:
    """Where each edge leaves its source and enters its target, across the flow from the node's middle."""
    order = {i: k for layer in layers for k, i in enumerate(layer)}
    leave, enter = [0.0] * len(chains), [0.0] * len(chains)
    for ends, end, neighbour in ((leave, 0, 1), (enter, -1, -2)):
        by_node: dict[int, list[int]] = {}
        for number, chain in enumerate(chains):
            by_node.setdefault(chain[end], []).append(number)
        for numbers in by_node.values():
            numbers.sort(key=lambda n: order[chains[n][neighbour]])
            for k, n in enumerate(numbers):
                ends[n] = (k - (len(numbers) - 1) / 2) * port_gap
    return leave, enter


def _bends(chains: Sequence[Sequence[int]], leave: Sequence[float], enter: Sequence[float]) -> Iterator[Bend]:
    for chain, start, end in zip(chains, leave, enter, strict=True):
        if len(chain) == 2:
            yield chain[0], chain[1], start - end, 1.0
            continue
        yield chain[0], chain[1], start, 1.0
        for before, after in itertools.pairwise(chain[1:-1]):
            yield before, after, 0.0, _STRAIGHT
        yield chain[-2], chain[-1], -end, 1.0


def _route(
    chain: list[int],
    spots: list[_Spot],
    starts: dict[int, float],
    widths: dict[int, float],
    leave: float,
    enter: float,
    label_layer: int | None,
) -> LinkPlace:
    source, target = spots[chain[0]], spots[chain[-1]]
    middle_source = starts[source.layer] + widths[source.layer] / 2
    middle_target = starts[target.layer] + widths[target.layer] / 2
    points = [(middle_source + source.along_size / 2, leave), (starts[source.layer] + widths[source.layer], leave)]
    label = None
    for i in chain[1:-1]:
        start, width = starts[spots[i].layer], widths[spots[i].layer]
        points += [(start, spots[i].place), (start + width, spots[i].place)]
        if spots[i].layer == label_layer:
            label = (start + width / 2, spots[i].place)
    points += [(starts[target.layer], enter), (middle_target - target.along_size / 2, enter)]
    return LinkPlace(points=tuple(points), label=label)
