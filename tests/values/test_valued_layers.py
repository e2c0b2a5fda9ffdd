"""Laws of layers with open numbers: their mixture is the sum of layers computed apart, and derived ones are plain."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import archgrad as ag
from archgrad.errors import SpaceError
from archgrad.nested import tensors_in
from toys import relaxed


class Case(NamedTuple):
    values: dict[str, list[Any]]
    build: Callable[..., nn.Module]
    """Of the choices, by label."""
    inputs: Callable[..., tuple[Tensor, ...]]
    """Of the values, by label: what the plain layer gets, given what the widest gets."""
    shape: tuple[int, ...]
    derived: type[nn.Module]


def first(dim: int, label: str, per: int = 1) -> Callable[..., tuple[Tensor, ...]]:
    return lambda x, **at: (x.narrow(dim, 0, at[label] * per),) if label in at else (x,)


def whole(x: Tensor, **at: Any) -> tuple[Tensor, ...]:
    return (x,)


def conv(**options: Any) -> Callable[..., nn.Module]:
    return lambda o, k: ag.nn.Conv2d(3, o, k, padding=k // 2, **options)


CASES = {
    "kernel": Case({"k": [1, 3, 5]}, lambda k: ag.nn.Conv2d(3, 4, k, padding=k // 2), whole, (2, 3, 6, 6), nn.Conv2d),
    "kernel, same": Case(
        {"k": [2, 3, 4]}, lambda k: ag.nn.Conv1d(3, 4, k, padding="same"), whole, (2, 3, 9), nn.Conv1d
    ),
    "kernel of one side": Case(
        {"k": [1, 5]}, lambda k: ag.nn.Conv2d(3, 4, (3, k), padding=(1, k // 2)), whole, (2, 3, 6, 6), nn.Conv2d
    ),
    "dilated, strided": Case(
        {"k": [1, 3]}, lambda k: ag.nn.Conv1d(3, 4, k, 2, padding=k - 1, dilation=2), whole, (2, 3, 9), nn.Conv1d
    ),
    "reflected": Case({"o": [2, 4], "k": [1, 3]}, conv(padding_mode="reflect"), whole, (2, 3, 6, 6), nn.Conv2d),
    "channels out": Case({"o": [2, 5], "k": [1, 3]}, conv(), whole, (2, 3, 6, 6), nn.Conv2d),
    "channels in and out": Case(
        {"i": [1, 3], "o": [2, 4], "k": [1, 3]},
        lambda i, o, k: ag.nn.Conv2d(i, o, k, padding=k // 2),
        first(1, "i"),
        (2, 3, 5, 5),
        nn.Conv2d,
    ),
    "one width in and out": Case(
        {"w": [1, 2, 4]}, lambda w: ag.nn.Conv1d(w, 2 * w, 1), first(1, "w"), (2, 4, 5), nn.Conv1d
    ),
    "depthwise": Case(
        {"w": [2, 4], "k": [3, 5]},
        lambda w, k: ag.nn.Conv2d(w, w, k, padding=k // 2, groups=w),
        first(1, "w"),
        (2, 4, 6, 6),
        nn.Conv2d,
    ),
    "groups of two": Case(
        {"w": [2, 4]}, lambda w: ag.nn.Conv1d(2 * w, 4 * w, 1, groups=w), first(1, "w", 2), (2, 8, 5), nn.Conv1d
    ),
    "groups": Case(
        {"g": [1, 2, 4]}, lambda g: ag.nn.Conv2d(4, 8, 3, padding=1, groups=g), whole, (2, 4, 4, 4), nn.Conv2d
    ),
    "groups and channels": Case(
        {"w": [4, 8], "g": [2, 4]}, lambda w, g: ag.nn.Conv1d(w, 8, 1, groups=g), first(1, "w"), (2, 8, 4), nn.Conv1d
    ),
    "linear": Case({"i": [2, 4], "o": [1, 3]}, lambda i, o: ag.nn.Linear(i, o), first(-1, "i"), (2, 5, 4), nn.Linear),
    "linear without bias": Case(
        {"w": [2, 4]}, lambda w: ag.nn.Linear(w, w // 2, bias=False), first(-1, "w"), (3, 4), nn.Linear
    ),
    "batch norm": Case({"w": [1, 2, 4]}, lambda w: ag.nn.BatchNorm2d(w), first(1, "w"), (3, 4, 2, 2), nn.BatchNorm2d),
    "layer norm": Case({"w": [2, 3, 6]}, lambda w: ag.nn.LayerNorm(w), first(-1, "w"), (3, 4, 6), nn.LayerNorm),
    "layer norm of two": Case(
        {"w": [2, 3]}, lambda w: ag.nn.LayerNorm((2, w)), first(-1, "w"), (3, 2, 3), nn.LayerNorm
    ),
    "group norm": Case(
        {"w": [4, 8], "g": [2, 4]}, lambda w, g: ag.nn.GroupNorm(g, w), first(1, "w"), (3, 8, 2), nn.GroupNorm
    ),
    "average pool": Case(
        {"k": [1, 3]},
        lambda k: ag.nn.AvgPool2d(k, 1, padding=k // 2, count_include_pad=False),
        whole,
        (2, 3, 4, 4),
        nn.AvgPool2d,
    ),
    "maximum pool": Case(
        {"k": [2, 4]}, lambda k: ag.nn.MaxPool1d(k, 2, padding=k // 2 - 1), whole, (2, 3, 8), nn.MaxPool1d
    ),
    "dilated maximum pool": Case({"k": [2]}, lambda k: ag.nn.MaxPool2d(k, 1, 1, 2), whole, (2, 3, 5, 6), nn.MaxPool2d),
    "average pool with a divisor": Case(
        {"k": [1, 3]},
        lambda k: ag.nn.AvgPool3d(k, 1, k // 2, divisor_override=2),
        whole,
        (2, 3, 4, 4, 3),
        nn.AvgPool3d,
    ),
    "attention": Case(
        {"w": [4, 8], "h": [1, 2]},
        lambda w, h: ag.nn.MultiheadAttention(w, h, batch_first=True),
        lambda x, w=None, h=None: (x.narrow(-1, 0, w or 8),) * 3,
        (2, 3, 8),
        nn.MultiheadAttention,
    ),
    "transposed": Case(
        {"i": [1, 3], "o": [2, 4], "k": [2, 4]},
        lambda i, o, k: ag.nn.ConvTranspose2d(i, o, k, 2, padding=k // 2 - 1),
        first(1, "i"),
        (2, 3, 4, 4),
        nn.ConvTranspose2d,
    ),
    "transposed, dilated, of channels that were concatenated": Case(
        {"a": [1, 2], "k": [1, 3]},
        lambda a, k: ag.nn.ConvTranspose1d(3 + a, a, k, 2, k - 1, output_padding=1, dilation=2),
        lambda x, a=2, **at: (x.narrow(1, 0, 3 + a),),
        (2, 5, 6),
        nn.ConvTranspose1d,
    ),
    "instance norm": Case(
        {"w": [1, 2, 4]}, lambda w: ag.nn.InstanceNorm1d(w, affine=True), first(1, "w"), (3, 4, 5), nn.InstanceNorm1d
    ),
    "root mean square norm": Case({"w": [2, 3, 6]}, lambda w: ag.nn.RMSNorm(w), first(-1, "w"), (3, 4, 6), nn.RMSNorm),
    "embedding": Case(
        {"w": [2, 3, 6]},
        lambda w: ag.nn.Embedding(5, w, padding_idx=0),
        lambda x, **at: (x.abs().mul(3).long() % 5,),
        (3, 4),
        nn.Embedding,
    ),
    "activation with weights": Case({"w": [2, 4]}, lambda w: ag.nn.PReLU(w), first(1, "w"), (3, 4, 2), nn.PReLU),
    "maximum pool of volumes": Case(
        {"k": [1, 3]}, lambda k: ag.nn.MaxPool3d(k, 1, padding=k // 2), whole, (2, 3, 4, 4, 4), nn.MaxPool3d
    ),
    "no open number": Case(
        {"o": [2]}, lambda o: nn.Sequential(ag.nn.Linear(3, 4), ag.nn.Linear(4, o)), whole, (5, 3), nn.Sequential
    ),
}


def filled(y: Any, like: Any) -> list[Tensor]:
    """The tensors, filled up with zeros behind to the shapes of others."""
    return [
        F.pad(a, [n for have, want in zip(reversed(a.shape), reversed(b.shape), strict=True) for n in (0, want - have)])
        for a, b in zip(tensors_in(y), tensors_in(like), strict=True)
    ]


def fresh(case: Case) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return case.build(**{n: ag.ValueChoice(v, label=n) for n, v in case.values.items()}), torch.randn(
        case.shape
    ).double()


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_the_mixture_is_the_sum_of_layers_that_are_computed_apart(name: str, fast: bool) -> None:
    # y = sum over (a, b, ...) of p_a q_b ... L_ab(x), filled up with zeros
    case = CASES[name]
    layer, x = fresh(case)
    supernet = ag.Supernet(layer, seed=1, fast=fast).double()
    with torch.no_grad():
        for alpha in supernet.alphas.values():
            alpha.copy_(torch.randn(alpha.shape, dtype=torch.float64))
    inputs = case.inputs(x)
    y = supernet(*inputs)
    rows = {label: torch.softmax(alpha, 0) for label, alpha in supernet.alphas.items()}
    total = [torch.zeros_like(tensor) for tensor in tensors_in(y)]
    for places in itertools.product(*(range(len(values)) for values in case.values.values())):
        at = {label: values[k] for (label, values), k in zip(case.values.items(), places, strict=True)}
        weight = torch.stack([rows[label][k] for label, k in zip(case.values, places, strict=True)]).prod()
        plain = ag.derive(supernet, at, keep_weights=True)
        assert type(plain) is case.derived
        part = filled(plain(*case.inputs(x, **at)), y)
        total = [a + weight * b for a, b in zip(total, part, strict=True)]
    for a, b in zip(tensors_in(y), total, strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-12)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("name", CASES)
def test_where_each_row_takes_one_value_the_layer_is_the_plain_one(name: str) -> None:
    case = CASES[name]
    layer, x = fresh(case)
    for values in itertools.product(*case.values.values()):
        at = dict(zip(case.values, values, strict=True))
        one_hot = {label: [0.0 if v == at[label] else -1e5 for v in values] for label, values in case.values.items()}
        for relaxation in (None, ag.Gumbel()):
            supernet = relaxed(layer, one_hot, relaxation=relaxation)
            y = supernet(*case.inputs(x))
            plain = ag.derive(supernet, at, keep_weights=True)
            for a, b in zip(tensors_in(y), filled(plain(*case.inputs(x, **at)), y), strict=True):
                assert torch.allclose(a, b, rtol=0, atol=1e-10)


def test_values_that_did_not_run_get_the_constant_gradient_of_gdas() -> None:
    # y = L_drawn(x) + sum of the other weights, which are zero: each row's weights w have dy/dw = 1 where not drawn.
    supernet = relaxed(ag.nn.Linear(ag.ValueChoice([1, 2], "i"), ag.ValueChoice([1, 3], "o")), relaxation=ag.Gumbel())
    y = supernet(torch.randn(4, 2, dtype=torch.float64))
    assert y.shape == (4, 3)
    y.sum().backward()
    assert all(bool(alpha.grad.any()) for alpha in supernet.alphas.values())


def test_a_narrow_pass_leaves_no_trace_in_the_statistics_of_other_channels() -> None:
    widths = ag.ValueChoice([1, 3], "a"), ag.ValueChoice([1, 2], "b")
    for given, channels in ((widths[0], [0]), (widths[0] + widths[1], [0, 3])):
        supernet = relaxed(
            ag.nn.BatchNorm1d(given), {c.label: [0.0, -1e5] for c in given.choices()}, relaxation=ag.Gumbel()
        )
        norm = supernet.network.layer
        supernet(torch.full((4, norm.num_features), 2.0, dtype=torch.float64) + torch.arange(4.0)[:, None])
        assert norm.running_mean.nonzero().flatten().tolist() == channels
        assert norm.running_mean[channels].tolist() == pytest.approx([0.1 * 3.5] * len(channels))


def test_channels_that_were_concatenated_are_a_sum() -> None:
    class Joined(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            a, b = ag.ValueChoice([1, 3], "a"), ag.ValueChoice([2, 4], "b")
            self.left, self.right = ag.nn.Conv1d(2, a, 1), ag.nn.Conv1d(2, b, 1)
            self.norm, self.layer = ag.nn.BatchNorm1d(a + b + 2), ag.nn.Conv1d(a + b + 2, a, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(torch.sigmoid(self.norm(torch.cat([self.left(x), self.right(x), x], 1))))

    torch.manual_seed(0)
    space, x = Joined().double(), torch.randn(3, 2, 4, dtype=torch.float64)
    for a, b in itertools.product((0, 1), (0, 1)):
        supernet = relaxed(space, {"a": [-1e5 * a, -1e5 * (1 - a)], "b": [-1e5 * b, -1e5 * (1 - b)]})
        plain = ag.derive(supernet, ag.discretize(supernet), keep_weights=True)
        y = supernet(x)
        assert torch.allclose(filled(plain(x), y)[0], y, rtol=0, atol=1e-10)


def test_dropout_mixes_what_each_probability_leaves() -> None:
    # E y = x; an entry that the one value keeps and the other drops is p_k x / (1 - v_k), and 0.0 drops nothing.
    supernet = relaxed(ag.nn.Dropout(ag.ValueChoice([0.0, 0.5], "p")), {"p": [0.0, 0.0]})
    y = supernet(torch.ones(4000, dtype=torch.float64))
    assert sorted(set(y.tolist())) == [0.5, 1.5]
    assert y.mean().item() == pytest.approx(1.0, abs=0.05)
    assert supernet.eval()(torch.ones(3)).tolist() == [1.0] * 3


def test_a_number_in_forward_is_the_mean_of_its_values() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = ag.nn.Scalar(2 * ag.ValueChoice([0.5, 1.5], "s"))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.scale()

    # (1 * 1/4 + 3 * 3/4) x
    supernet = relaxed(Scaled(), {"s": [0.0, float(torch.tensor(3.0).log())]})
    assert supernet(torch.ones(2)).tolist() == pytest.approx([2.5, 2.5])
    assert ag.derive(supernet, {"s": 1.5})(torch.ones(2)).tolist() == [3.0, 3.0]


@pytest.mark.parametrize(
    ("build", "message"),
    {
        "outputs of two sizes": (
            lambda k: ag.nn.Conv2d(1, 1, k),
            r"needs outputs of one size, but kernel 1 .*padding=kernel // 2",
        ),
        "even beside odd": (lambda k: ag.nn.Conv1d(1, 1, k + k // 3, padding=k // 2), "needs outputs of one size"),
        "even beside odd, with a dilation": (
            lambda k: ag.nn.Conv1d(1, 1, 3 + k // 2, padding=2 + k // 2, dilation=2),
            "even and odd kernels, 3 and 4, with a dilation, whose centres do not meet",
        ),
        "a transposed convolution of the same size": (
            lambda k: ag.nn.ConvTranspose1d(k, 1, 3, padding="same"),
            "takes a padding of so many pixels",
        ),
        "no whole number": (lambda k: ag.nn.Linear(k / 2, 1), r"in_features k / 2 must be a whole number, but is 0.5"),
        "no channels": (lambda k: ag.nn.Linear(k - 1, 1), r"in_features must be at least 1, but k - 1 may be 0"),
        "groups that do not divide": (
            lambda k: ag.nn.Conv1d(4, 4, 1, groups=k),
            r"cannot be built with .*groups=3.*divisible",
        ),
        "heads that do not divide": (lambda k: ag.nn.MultiheadAttention(4, k), r"cannot be built with .*num_heads=3"),
        "an open stride": (
            lambda k: ag.nn.Conv1d(1, 1, 1, stride=k),
            "cannot have an open stride.*LayerChoice of whole",
        ),
        "nothing reads it": (
            lambda k: nn.ModuleDict({"width": k, "a": nn.Linear(1, 1)}),
            "No layer reads the value choice 'k'",
        ),
        "a layer of torch": (
            lambda k: nn.Sequential(*(nn.ReLU() for _ in range(k))),
            "k is open, and no number yet. Give it to a layer of archgrad.nn",
        ),
        "a branch": (lambda k: nn.Linear(1, 1) if k else nn.Identity(), "k is open, and no number yet"),
        "a comparison": (lambda k: nn.Linear(1, 1) if k == 1 else nn.Identity(), "k is open, and no number yet"),
        "another comparison": (lambda k: nn.Linear(1, 1) if 2 * k > 2 else nn.Identity(), "2 . k is open"),
        "a division by zero": (lambda k: ag.nn.Linear(1, 6 // (k - 1)), "cannot be computed: 6 // 0"),
        "a text": (lambda k: k + "1", "takes numbers and value choices, but got '1' in 'k . '1''"),
    }.values(),
    ids=lambda value: "",
)
def test_what_cannot_be_is_refused_when_the_space_is_written(build: Callable[[Any], Any], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        ag.Supernet(build(ag.ValueChoice([1, 3], label="k")))


def test_inputs_of_another_width_are_refused_before_they_are_mixed() -> None:
    supernet = ag.Supernet(nn.Sequential(nn.Linear(3, 3), ag.nn.Linear(ag.ValueChoice([2, 4], "w"), 1)))
    with pytest.raises(SpaceError, match=r"in_features=w reads 4 channels while it is open.*\(2, 3\).*value choice"):
        supernet(torch.ones(2, 3))


def test_constants_that_a_space_sets_are_those_of_the_derived_layer_which_is_built_anew() -> None:
    width = ag.ValueChoice([2, 4], "w")
    space = nn.Sequential(ag.nn.Linear(3, width), ag.nn.BatchNorm1d(width), ag.nn.Linear(width, 1))
    nn.init.zeros_(space[1].layer.weight)  # a block that begins as the identity
    nn.init.constant_(space[0].layer.bias, 0.5)
    plain = ag.derive(space, {"w": 2})
    assert plain[1].weight.tolist() == [0.0, 0.0]
    assert plain[0].bias.tolist() == [0.5, 0.5]
    assert not torch.equal(plain[0].weight, space[0].layer.weight[:2])  # of the scale of its own size


def test_a_layer_says_where_its_weights_are() -> None:
    layer = ag.nn.Conv1d(1, ag.ValueChoice([2, 4], "w"), 1)
    with pytest.raises(AttributeError, match=r"no attribute 'weight', since its numbers may be open.*layer\.weight"):
        layer.weight.data.zero_()
    with pytest.raises(AttributeError, match=r"no attribute 'weights'$"):
        layer.weights.data.zero_()
