"""Random spaces with Cells, random changes of their parts, and what a pass of one gives: for plain against fast."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

import archgrad as ag
from archgrad.cell import Cell
from archgrad.operations import DilConv, FactorizedReduce, PoolBN, ReLUConvBN, SepConv, Zero

CHANNELS = 4


class OwnConv(nn.Module):
    """What a person writes; it knows nothing of memory formats."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, groups=random.choice([1, 2]))
        self.drop = nn.Dropout(0.2)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        flatten = Tensor.view if x.is_contiguous() else Tensor.reshape
        shuffled = flatten(x, b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w)
        scale = 1 + flatten(x, b, -1).mean(1).view(b, 1, 1, 1)  # the mean may be rounding alone
        return self.drop(torch.tanh(self.conv(shuffled))) * scale


class Reinforced(nn.Conv2d):
    """A subclass that standardises its weight."""

    def forward(self, input: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return self._conv_forward(input, weight, self.bias)


class WrittenSepConv(nn.Module):
    """A separable convolution as a person writes it, which is known by its structure."""

    def __init__(self, *, affine: bool) -> None:
        super().__init__()
        self.first, self.second = (
            nn.ModuleList(
                [
                    nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, groups=CHANNELS, bias=False),
                    nn.Conv2d(CHANNELS, CHANNELS, 1, bias=False),
                    nn.BatchNorm2d(CHANNELS, affine=affine),
                ]
            )
            for _ in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.first[2](self.first[1](self.first[0](F.relu(x))))
        return self.second[2](self.second[1](self.second[0](torch.relu(x))))


class OtherSepConv(SepConv):
    """A subclass with more to it."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 0.5


class Doubled(nn.Module):
    """A parametrization."""

    def forward(self, weight: Tensor) -> Tensor:
        return 2 * torch.tanh(weight)


class Shortcut(nn.Module):
    """Adds its input to what its layers make of it."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class Block(Shortcut):
    """A shortcut with an activation behind it."""

    def __init__(self, activation: nn.Module, *layers: nn.Module) -> None:
        super().__init__(*layers)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(x + self.layers(x))


def drawn_chain() -> nn.Module:
    """Convolutions of any kernel and groups, BatchNorms behind some of them, activations anywhere; maybe a shortcut."""
    kinds = [nn.ReLU, nn.SiLU, nn.Tanh, nn.GELU, nn.Hardswish, lambda: nn.ELU(0.5), lambda: nn.ReLU(inplace=True)]
    layers: list[nn.Module] = []
    for _ in range(random.randint(1, 4)):
        if random.random() < 0.6:
            layers.append(random.choice(kinds)())
        kernel = random.choice([(1, 1), (1, 1), (3, 3), (3, 3), (5, 5), (1, 3), (3, 1)])
        padding, groups = tuple(k // 2 for k in kernel), random.choice([1, 1, 2, CHANNELS, CHANNELS])
        layers.append(nn.Conv2d(CHANNELS, CHANNELS, kernel, padding=padding, groups=groups, bias=random.random() < 0.4))
        if random.random() < 0.6:
            layers.append(nn.BatchNorm2d(CHANNELS, affine=random.random() < 0.5))
    if random.random() < 0.4:
        layers.append(random.choice(kinds)())
    shortcut = random.random()
    if shortcut < 0.2 and not getattr(layers[0], "inplace", False):
        return Shortcut(*layers)
    return Block(nn.ReLU(), *layers) if shortcut < 0.3 else nn.Sequential(*layers)


def builders() -> dict[str, Callable[[int, int], nn.Module]]:
    """Candidates to choose from; stride is always 1."""
    affine = random.random() < 0.5
    return {
        "none": lambda source, node: Zero(1),
        "skip": lambda source, node: nn.Identity(),
        "max": lambda source, node: PoolBN("max", CHANNELS, 1),
        "avg": lambda source, node: PoolBN("avg", CHANNELS, 1),
        "pool": lambda source, node: nn.AvgPool2d(3, 1, 1, count_include_pad=False),
        "padded": lambda source, node: nn.Sequential(
            nn.AvgPool2d((3, 3), 1, 1), nn.BatchNorm2d(CHANNELS, affine=affine)
        ),
        "shortcut": lambda source, node: Shortcut(
            nn.ReLU(),
            nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, bias=False),
            nn.BatchNorm2d(CHANNELS, affine=affine),
        ),
        "drawn": lambda source, node: drawn_chain(),
        "drawn too": lambda source, node: drawn_chain(),
        "residual": lambda source, node: Block(
            nn.LeakyReLU() if affine else nn.ReLU(),
            nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, bias=affine),
            nn.BatchNorm2d(CHANNELS, affine=affine),
            nn.ReLU(),
            nn.Conv2d(CHANNELS, CHANNELS, 1, bias=False),
            nn.BatchNorm2d(CHANNELS, affine=affine),
        ),
        "block": lambda source, node: nn.Sequential(
            nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, bias=affine),
            nn.BatchNorm2d(CHANNELS, affine=affine),
            nn.ReLU(),
            nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, groups=CHANNELS, bias=False),
            nn.BatchNorm2d(CHANNELS, affine=affine),
            nn.ReLU(inplace=True),
            nn.Conv2d(CHANNELS, CHANNELS, 1, bias=False),
            nn.BatchNorm2d(CHANNELS, affine=affine),
        ),
        "sep3": lambda source, node: SepConv(CHANNELS, CHANNELS, 3, 1, affine=affine),
        "sep5": lambda source, node: SepConv(CHANNELS, CHANNELS, 5, 1, affine=affine),
        "dil3": lambda source, node: DilConv(CHANNELS, CHANNELS, 3, 1, affine=affine),
        "conv1": lambda source, node: ReLUConvBN(CHANNELS, CHANNELS, 1, affine=affine),
        "conv3": lambda source, node: ReLUConvBN(CHANNELS, CHANNELS, 3, padding=1, affine=affine),
        "across": lambda source, node: nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(CHANNELS, CHANNELS, (1, 3), padding=(0, 1), bias=affine),
            nn.Conv2d(CHANNELS, CHANNELS, (3, 1), padding=(1, 0), bias=affine),
            nn.BatchNorm2d(CHANNELS, affine=affine),
        ),
        "smooth": lambda source, node: nn.Sequential(
            nn.SiLU(inplace=affine),
            nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, groups=CHANNELS, bias=False),
            nn.Conv2d(CHANNELS, CHANNELS, 1, bias=False),
            nn.BatchNorm2d(CHANNELS, affine=affine),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(CHANNELS, CHANNELS, 1, bias=True),
            nn.Tanh(),
        ),
        "behind": lambda source, node: nn.Sequential(
            nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, bias=False), nn.BatchNorm2d(CHANNELS, affine=affine), nn.ReLU()
        ),
        "norm": lambda source, node: nn.Sequential(
            nn.Conv2d(CHANNELS, CHANNELS, 5, padding=2, groups=CHANNELS, bias=False),
            nn.Conv2d(CHANNELS, CHANNELS, 1, bias=False),
            nn.BatchNorm2d(CHANNELS, affine=affine),
        ),
        "own": lambda source, node: OwnConv(),
        "written": lambda source, node: WrittenSepConv(affine=affine),
        "other": lambda source, node: OtherSepConv(CHANNELS, CHANNELS, 3, 1, affine=affine),
    }


class Space(nn.Module):
    """A stem, preprocessing, one or two cells, and a head that flattens by `view`."""

    def __init__(self) -> None:
        super().__init__()
        names = random.sample(sorted(set(builders())), random.randint(1, 5))
        self.stem = nn.Sequential(nn.Conv2d(2, CHANNELS, 3, padding=1, bias=False), nn.BatchNorm2d(CHANNELS))
        self.pre = random.choice([nn.Identity, lambda: ReLUConvBN(CHANNELS, CHANNELS, 1)])()
        self.cells = nn.ModuleList()
        output = random.choice(["last", "concat"])
        for k in range(random.randint(1, 2)):
            built = builders()
            chosen = {name: built[name] for name in names}
            if set(names) == {"none"}:
                chosen["skip"] = built["skip"]
            nodes = random.randint(1, 3)
            self.cells.append(
                Cell(nodes, chosen, n_inputs=2, n_kept=random.choice([1, None]), output=output, label=f"c{k}")
            )
            width = CHANNELS * (nodes if output == "concat" else 1)
            if k == 0:
                self.squeeze = nn.Conv2d(width, CHANNELS, 1)
        self.reduce = FactorizedReduce(CHANNELS, CHANNELS) if random.random() < 0.4 else nn.Identity()
        width = CHANNELS if len(self.cells) == 1 else width
        self.head = nn.Linear(4 * width, 3)

    def forward(self, x: Tensor) -> Tensor:
        flatten = Tensor.view if x.is_contiguous() else Tensor.reshape
        x = self.pre(self.stem(x))
        y = self.squeeze(self.cells[0]([x, x.tanh()]))
        y = self.reduce(y)
        if len(self.cells) > 1:
            y = self.cells[1]([y, 0.5 * y])
        return self.head(flatten(F.adaptive_avg_pool2d(y, 2), len(y), -1))


def parts(net: nn.Module, *kinds: type[nn.Module]) -> list[tuple[nn.Module, str, nn.Module]]:
    """(owner, name, part) of all parts of these kinds."""
    return [
        (owner, name, part)
        for owner in net.modules()
        for name, part in owner._modules.items()
        if part is not None and isinstance(part, kinds)
    ]


def _pick(net: nn.Module, *kinds: type[nn.Module]) -> Iterator[tuple[nn.Module, str, Any]]:
    found = parts(net, *kinds)
    if found:
        yield from random.sample(found, min(len(found), random.choice([1, 1, 2, len(found)])))


def replace_activation(net: nn.Module) -> None:
    new = random.choice([nn.SiLU, nn.ReLU6, lambda: nn.LeakyReLU(0.2), nn.Identity, nn.Softplus])
    for owner, name, _ in _pick(net, nn.ReLU):
        owner._modules[name] = new()


def replace_norm(net: nn.Module) -> None:
    kind = random.choice(["group", "identity", "instance", "other eps", "untracked", "affine", "more features"])
    for owner, name, norm in _pick(net, nn.BatchNorm2d):
        features = norm.num_features
        owner._modules[name] = {
            "group": lambda n=features: nn.GroupNorm(random.choice([1, 2]), n),
            "identity": lambda n=features: nn.Identity(),
            "instance": lambda n=features: nn.InstanceNorm2d(n, affine=True),
            "other eps": lambda n=features: nn.BatchNorm2d(n, eps=random.choice([1e-2, 1e-9, 0.0])),
            "untracked": lambda n=features: nn.BatchNorm2d(n, track_running_stats=False, affine=False),
            "affine": lambda n=features: _lively(nn.BatchNorm2d(n, momentum=random.choice([None, 0.3]))),
            "more features": lambda n=features: nn.BatchNorm2d(n + 1),
        }[kind]()


def _lively(norm: nn.BatchNorm2d) -> nn.BatchNorm2d:
    nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    return norm


def replace_convolution(net: nn.Module) -> None:
    kind = random.choice(["bias", "same", "reflect", "own class", "groups", "sequence"])
    for owner, name, c in _pick(net, nn.Conv2d):
        names = ("stride", "padding", "dilation", "groups")
        settings: dict[str, Any] = {name: getattr(c, name) for name in names} | {"bias": c.bias is not None}
        cls: type[nn.Conv2d] = nn.Conv2d
        if kind == "bias":
            settings["bias"] = True
        elif kind == "same" and c.stride == (1, 1):
            settings["padding"] = "same"
        elif kind == "reflect":
            settings["padding_mode"] = random.choice(["reflect", "circular", "replicate"])
        elif kind == "own class":
            cls = Reinforced
        elif kind == "groups" and c.in_channels % 2 == c.out_channels % 2 == 0:
            settings["groups"] = 2
        new: nn.Module = cls(c.in_channels, c.out_channels, c.kernel_size, **settings)
        owner._modules[name] = nn.Sequential(new) if kind == "sequence" else new


def set_pool(net: nn.Module) -> None:
    for _, _, pool in _pick(net, nn.MaxPool2d, nn.AvgPool2d):
        name, value = random.choice(
            [
                ("kernel_size", 5),
                ("padding", (1, 1)),
                ("ceil_mode", True),
                ("padding", 2),
                ("stride", 2),
                ("stride", (1, 1)),
            ]
        )
        setattr(pool, name, value)
        if name == "kernel_size":
            pool.padding = 2


def set_convolution(net: nn.Module) -> None:
    for _, _, c in _pick(net, nn.Conv2d):
        name, value = random.choice(
            [
                ("stride", (2, 2)),
                ("padding", (0, 0)),
                ("padding", (2, 1)),
                ("dilation", (2, 1)),
                ("padding_mode", "circular"),
            ]
        )
        setattr(c, name, value)


def set_norm(net: nn.Module) -> None:
    for _, _, norm in _pick(net, nn.BatchNorm2d):
        change = random.choice(["eval", "eps", "momentum", "none", "half", "track", "moved"])
        if change == "eval":
            norm.eval()
        elif change == "eps":
            norm.eps = random.choice([0.3, 1e-12])
        elif change == "momentum":
            norm.momentum = random.choice([None, 0.0, 1.0])
        elif change == "none":
            norm.running_mean = norm.running_var = None
        elif change == "half":
            norm.running_var = None
        elif change == "track":
            norm.track_running_stats = False
        elif norm.running_mean is not None:
            norm.running_mean.normal_(), norm.running_var.uniform_(0.5, 2)


def hook(net: nn.Module) -> None:
    """Hooks that change what passes, of every kind that runs in a forward or backward pass."""
    owners = [m for m in net.modules() if not isinstance(m, nn.ModuleList)]
    for module in random.sample(owners, random.randint(1, 3)):
        kind = random.randrange(5)
        if kind == 0:
            module.register_forward_hook(lambda m, i, o: o * 1.1 if isinstance(o, Tensor) else None)
        elif kind == 1:
            module.register_forward_pre_hook(lambda m, i: (i[0] * 0.9, *i[1:]) if isinstance(i[0], Tensor) else None)
        elif kind == 2:
            module.register_full_backward_hook(lambda m, i, o: tuple(None if g is None else g * 1.2 for g in i))
        elif kind == 3:
            module.register_full_backward_pre_hook(lambda m, o: tuple(None if g is None else g * 0.8 for g in o))
        else:
            module.register_forward_hook(
                lambda m, a, k, o: o + 0.1 if isinstance(o, Tensor) else None, with_kwargs=True
            )


def share(net: nn.Module) -> None:
    """One instance in several places: an operation, a BatchNorm, its buffers, a convolution, a weight."""
    kind = random.choice(["operation", "norm", "convolution", "buffers", "weight", "edge"])
    lists = [m.candidates for m in net.modules() if isinstance(m, ag.LayerChoice)]
    if kind == "operation":
        places = [(part, k) for part in lists for k in range(len(part))]
        (first, i), *rest = random.sample(places, min(len(places), random.randint(2, 4)))
        for other, k in rest:
            other[k] = first[i]
        return
    if kind == "edge":
        cell = next(m for m in net.modules() if isinstance(m, Cell))
        if len(cell.edges) > 1:
            cell.edges[1].candidates = cell.edges[0].candidates
        return
    found = parts(net, nn.BatchNorm2d if kind in ("norm", "buffers") else nn.Conv2d)
    if len(found) < 2:
        return
    (_, _, one), (owner, name, other) = random.sample(found, 2)
    if kind in ("norm", "convolution"):
        owner._modules[name] = one
    elif kind == "buffers" and one.num_features == other.num_features:
        other.running_mean = one.running_mean
    elif kind == "weight" and one.weight.shape == other.weight.shape:
        other.weight = one.weight


def own_forward(net: nn.Module) -> None:
    """An instance that has a forward of its own, or a method that its class's forward calls."""
    for _, _, part in _pick(
        net, nn.ReLU, nn.Conv2d, nn.BatchNorm2d, SepConv, DilConv, PoolBN, ag.LayerChoice, nn.Identity
    ):
        inner = type(part).forward
        part.forward = MethodType(lambda self, x, _inner=inner: _inner(self, x) * 0.7, part)
        return


def parametrized(net: nn.Module) -> None:
    for _, _, c in _pick(net, nn.Conv2d):
        how = random.choice(["parametrize", "weight_norm", "spectral"])
        if how == "parametrize":
            parametrize.register_parametrization(c, "weight", Doubled())
        elif how == "weight_norm":
            torch.nn.utils.parametrizations.weight_norm(c)
        else:
            with torch.random.fork_rng():
                torch.nn.utils.spectral_norm(c)
        return


def mode(net: nn.Module) -> None:
    change = random.choice(["eval", "frozen", "dropout", "half", "inplace"])
    if change == "eval":
        net.eval()
    elif change == "frozen":
        for parameter in list(net.parameters())[:: random.randint(2, 4)]:
            parameter.requires_grad_(False)
    elif change == "half":
        for _, _, part in _pick(net, nn.Conv2d):
            part.float()
            return
    elif change == "inplace":
        for _, _, relu in parts(net, nn.ReLU):
            if random.random() < 0.3:
                relu.inplace = True


def swap_operation(net: nn.Module) -> None:
    lists = [m.candidates for m in net.modules() if isinstance(m, ag.LayerChoice)]
    for part in random.sample(lists, random.randint(1, len(lists))):
        part[random.randrange(len(part))] = random.choice(
            [
                OwnConv,
                lambda: nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1),
                lambda: nn.Sequential(nn.ReLU(), nn.Conv2d(CHANNELS, CHANNELS, 1), nn.BatchNorm2d(CHANNELS)),
                lambda: nn.Conv2d(CHANNELS, 1, 1),  # broadcasts, or is refused
                lambda: SepConv(CHANNELS, CHANNELS, 3, 2),  # another size
                lambda: nn.Identity(),
                lambda: nn.Dropout(0.5),
            ]
        )()


def set_activation(net: nn.Module) -> None:
    for _, _, activation in _pick(net, nn.ReLU, nn.LeakyReLU, nn.SiLU):
        if isinstance(activation, nn.LeakyReLU):
            activation.negative_slope = random.choice([0.0, 0.7, torch.tensor(0.3).item()])
        else:
            activation.inplace = not activation.inplace


CHANGES = (
    set_activation, replace_activation, replace_norm, replace_convolution, set_pool, set_convolution, set_norm,
    hook, share, own_forward, parametrized, mode, swap_operation,
)  # fmt: skip


def batch(kind: str) -> Tensor:
    """A batch of images, (B, 2, H, W), of a kind that passes meet."""
    size = random.choice([(6, 6), (7, 5), (8, 8)])
    x = torch.randn(0 if kind == "empty" else random.choice([1, 3]), 2, *size, dtype=torch.float64)
    if kind == "channels_last":
        return x.contiguous(memory_format=torch.channels_last)
    if kind == "other type":
        return x.float()
    if kind == "no batch":
        return x[0]
    if kind == "tiny":
        return x[:1, :, :1, :1]
    if kind in ("inf", "-inf", "nan"):
        x[0, 0, 0, 0] = float(kind)
    return x
