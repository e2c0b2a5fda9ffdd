"""A model that exists becomes a space: at "original" it is that model, and candidates are what they say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import archgrad as ag
from archgrad.errors import SpaceError
from archgrad.spaces import (
    Bottleneck,
    Candidate,
    DepthwiseSeparable,
    Kernels,
    LayerPlace,
    LayerRule,
    OpenKernels,
    Skip,
    from_module,
)
from archgrad.spaces.factored import Conv, keeps_size, low_rank, separable, with_kernel

EVERY = (Kernels((3, 5)), DepthwiseSeparable(), Bottleneck(), Skip())


class Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.bn = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, groups=2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn(self.conv1(x)), inplace=True)
        out = self.conv2(out)
        out += x
        return out


class Net(nn.Module):
    """A functional one: a loop over stages, a shared convolution, two inputs, a dict as its output."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.stages = nn.ModuleList([Block(8), Block(8)])
        self.shared = nn.Conv2d(8, 8, (1, 5), padding=(0, 4), dilation=2)
        self.again = self.shared
        self.read = nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor, scale: Tensor) -> dict[str, Tensor]:
        x = self.stem(x) * scale
        for stage in self.stages:
            x = stage(x)
        x = self.again(self.shared(x))
        x = F.conv2d(x, self.read.weight, self.read.bias)
        return {"logits": self.head(F.adaptive_avg_pool2d(x, 1).flatten(1)), "maps": x}


def inputs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 3, 8, 8, dtype=torch.float64, generator=generator), torch.tensor(0.5, dtype=torch.float64)


def net() -> Net:
    torch.manual_seed(0)
    return Net().double().eval()


def originals(space: nn.Module) -> dict[str, Any]:
    names = {label: row.names[0] for label, row in ag.Supernet(space).rows.items()}
    return {label: int(name) if name.isdigit() else name for label, name in names.items()}


def equal(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.filterwarnings("ignore:Layers of Net")
def test_with_all_choices_at_original_the_space_is_the_model_to_the_bit() -> None:
    model = net()
    before = {name: x.clone() for name, x in model.state_dict().items()}
    random = torch.get_rng_state()
    space = from_module(model, [*EVERY[:3], Skip(at=[nn.Conv2d, Block])], batch=inputs())
    assert torch.equal(torch.get_rng_state(), random)
    assert equal(model.state_dict(), before)
    assert not any(isinstance(part, ag.LayerChoice) for part in model.modules())
    derived = ag.derive(space, originals(space))
    assert equal(derived(*inputs()), model(*inputs()))
    assert equal(derived.state_dict(), before)
    assert [*map(type, derived.modules())] == [*map(type, model.modules())]


def test_labels_are_paths_and_a_shared_layer_is_one_choice_and_what_is_read_stays() -> None:
    with pytest.warns(UserWarning, match=r"Layers of Net that stay as they are: 'read' \(is not called\)\.$"):
        space = from_module(net(), [*EVERY[:3], Skip(at=[nn.Conv2d, Block])], batch=inputs())
    rows = {label: row.names[1:] for label, row in ag.Supernet(space).rows.items()}
    of_block = {
        "": ("skip",),
        "/conv1": ("kernel5", "separable", "bottleneck0.25", "skip"),
        "/conv2": ("kernel5", "separable", "bottleneck0.25", "skip"),
    }
    assert rows == {
        "stem": ("kernel5", "separable", "bottleneck0.25"),
        **{f"stages/{i}{end}": names for i in (0, 1) for end, names in of_block.items()},
        "shared": ("kernel3", "separable", "bottleneck0.25", "skip"),
    }
    assert isinstance(space, Net)
    assert space.shared is space.again


@pytest.mark.filterwarnings("ignore:Layers of Net")
def test_every_candidate_runs_mixed_and_derived_and_skips_leave_their_input_alone() -> None:
    space = from_module(net(), [*EVERY[:3], Skip(at=[nn.Conv2d, Block])], batch=inputs())
    supernet = ag.Supernet(space).eval()
    assert supernet(*inputs())["logits"].shape == (2, 3)
    for place in range(1, 5):
        decisions = {label: row.names[min(place, len(row.names) - 1)] for label, row in supernet.rows.items()}
        decisions |= dict.fromkeys(("stages/0", "stages/1"), "original")
        derived = ag.derive(space, decisions)
        assert derived(*inputs())["logits"].isfinite().all()
    # conv1 and conv2 skipped, a block adds x to relu(bn(x)), and changes x by nothing that works in place
    block = derived.stages[0]
    x = torch.randn(2, 8, 4, 4, dtype=torch.float64)
    assert torch.equal(block(x), F.relu(block.bn(x)) + x)


@pytest.mark.filterwarnings("ignore:Layers of Net")
def test_open_kernels_are_numbers_that_begin_with_the_layers_own() -> None:
    model = net()
    space = from_module(model, [OpenKernels((1, 3, 5, 7)), Skip()], batch=inputs())
    supernet = ag.Supernet(space)
    assert supernet.rows["stem/kernel"].names == ("3", "1", "5", "7")
    assert supernet.rows["shared/kernel"].names == ("5", "1", "3", "7")
    assert "stem" not in supernet.rows
    assert supernet.rows["stages/0/conv2"].names == ("original", "skip")
    derived = ag.derive(supernet, originals(space), keep_weights=True).eval()
    assert equal(derived(*inputs()), model(*inputs()))
    small = ag.derive(supernet, {**originals(space), "shared/kernel": 3}, keep_weights=True)
    assert small.shared.kernel_size == (1, 3)
    assert small.shared.padding == (0, 2)
    assert torch.equal(small.shared.weight, model.shared.weight[..., 1:4])


def conv(**options: Any) -> nn.Conv2d:
    torch.manual_seed(0)
    given = {"in_channels": 4, "out_channels": 8, "kernel_size": 3, "padding": 1, **options}
    return nn.Conv2d(**given, dtype=torch.float64)


LAYERS = {
    "plain": {},
    "strided": {"stride": 2, "bias": False},
    "dilated": {"dilation": 2, "padding": 2},
    "grouped": {"groups": 2},
    "same": {"padding": "same", "dilation": 3},
    "circular": {"padding_mode": "circular"},
    "even": {"kernel_size": 4, "padding": 2, "stride": 2},
    "narrow": {"kernel_size": (1, 3), "padding": (0, 1)},
}


@pytest.mark.parametrize("name", LAYERS)
def test_what_stands_for_a_convolution_has_its_shape_and_its_weights(name: str) -> None:
    layer = conv(**LAYERS[name])
    x = torch.randn(2, 4, 13, 12, dtype=torch.float64)
    expected = layer(x)
    size = 6 if name == "even" else 5
    larger = with_kernel(layer, size)
    assert larger is not None
    assert larger.bias is None or torch.equal(larger.bias, layer.bias)
    torch.testing.assert_close(larger(x), expected)  # zeros around the kernel change nothing
    back = with_kernel(larger, size - 2)
    assert back is not None
    assert torch.equal(back.weight, layer.weight)
    assert back.padding == layer.padding
    for made in (separable(layer), low_rank(layer, 0.5)):
        assert made is not None
        assert made(x).shape == expected.shape
        assert sum(p.numel() for p in made.parameters()) < sum(p.numel() for p in layer.parameters())


def test_what_does_not_fit_is_left_out() -> None:
    assert with_kernel(conv(), 4) is None  # an even kernel has its centre elsewhere
    assert with_kernel(conv(padding=0), 1) is None  # the outputs of a smaller one are larger
    assert with_kernel(conv(kernel_size=1, padding=0), 3) is None
    assert separable(conv(groups=4)) is None
    assert separable(conv(kernel_size=1, padding=0)) is None
    assert low_rank(conv(groups=4, out_channels=4), 0.25) is None
    assert keeps_size(conv(out_channels=4, padding="same"))
    assert not any(map(keeps_size, (conv(), conv(out_channels=4, stride=2), conv(out_channels=4, padding=0))))


@pytest.mark.parametrize("groups", [1, 2])
def test_factors_are_exact_where_the_weight_has_such_factors(groups: int) -> None:
    layer = conv(groups=groups)
    with torch.no_grad():
        kernels = torch.randn(1, 4 // groups, 3, 3, dtype=torch.float64)
        layer.weight.copy_(torch.randn(8, 4 // groups, 1, 1, dtype=torch.float64) * kernels)
    x = torch.randn(2, 4, 6, 6, dtype=torch.float64)
    made = separable(layer)
    assert made is not None
    torch.testing.assert_close(made(x), layer(x))
    layer = conv(groups=groups)
    with torch.no_grad():
        out = 8 // groups
        left, right = torch.randn(groups, out, 2), torch.randn(groups, 2, 9 * 4 // groups)
        layer.weight.copy_((left @ right).reshape(layer.weight.shape))
    narrow = low_rank(layer, 2 / out)
    assert narrow is not None
    torch.testing.assert_close(narrow(x), layer(x), atol=1e-5, rtol=1e-5)


def test_other_dimensions_dtypes_and_frozen_weights_are_kept() -> None:
    layer: Conv = nn.Conv1d(4, 4, 3, padding=1).to(torch.bfloat16).requires_grad_(False)
    rows = from_module(nn.Sequential(layer), EVERY)[0]
    assert rows.names == ("original", "kernel5", "separable", "bottleneck0.25", "skip")
    for candidate in rows.candidates:
        assert all(p.dtype == torch.bfloat16 and not p.requires_grad for p in candidate.parameters())


class Scaled(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def test_layers_that_are_more_than_their_class_stay_and_are_named() -> None:
    layers = [nn.Conv2d(4, 4, 3, padding=1) for _ in range(8)]
    layers[1].register_forward_hook(lambda *_: None)
    nn.utils.parametrizations.weight_norm(layers[2])
    layers[3] = Scaled(4, 4, 3)
    layers[5].weight = layers[4].weight
    computed = nn.Parameter(layers[6].weight.detach())
    del layers[6].weight  # code elsewhere sets it in each pass, as that of many spectral normalisations does
    layers[6].weight_bar = computed
    layers[7].register_buffer("mask", torch.ones(4))
    with pytest.warns(UserWarning, match="that stay as they are") as told:
        space = from_module(nn.Sequential(*layers), EVERY)
    assert [isinstance(part, ag.LayerChoice) for part in space] == [True, *[False] * 7]
    text = str(told[0].message)
    assert "'1' (has hooks), '2' (has parametrizations), '3' (is a Scaled, with its own rules)" in text
    assert "'4' (shares a parameter with '5'), '5' (shares a parameter with '4')" in text
    assert "'6' (has other weights than its class), '7' (has other weights than its class)" in text
    assert space[5].weight is space[4].weight


def test_places_are_chosen_by_class_pattern_or_function_and_labels_join_what_fits_everywhere() -> None:
    model = nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())
    gelu = Candidate("gelu", lambda layer: nn.GELU(), at=nn.ReLU)
    space = from_module(model, [Kernels((5, 7), at="2"), Skip(at=lambda path, layer: path == "2"), gelu])
    rows = {label: row.names for label, row in ag.Supernet(space).rows.items()}
    relu = ("original", "gelu")
    assert rows == {"1": relu, "2": ("original", "kernel5", "kernel7", "skip"), "3": relu}
    together = from_module(model, [Kernels((5, 7)), Skip()], label=lambda path: "all")
    assert ag.Supernet(together).rows["all"].names == ("original", "kernel5", "kernel7")


@dataclass(frozen=True)
class Halved(LayerRule):
    def candidates(self, place: LayerPlace) -> Mapping[str, nn.Module]:
        return {"halved": nn.Sequential(nn.Dropout(0.5), place.conv)} if place.path == "0" else {}


def test_a_rule_of_ones_own_is_a_small_class() -> None:
    space = from_module(nn.Sequential(nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1)), [Halved()])
    assert list(ag.Supernet(space).rows) == ["0"]


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("with_batch", [False, True])
def test_encoder_layers_of_torch_call_their_parts_where_they_predict_too(with_batch: bool) -> None:
    """They read the weights of their parts there, and so does a stack of them of padded sequences."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True, dropout=0.0)
    model = nn.TransformerEncoder(layer, 2).eval()
    wide = Candidate(
        "wide", lambda own: nn.Sequential(own, nn.Linear(own.out_features, own.out_features)), at=nn.Linear
    )
    x, is_padding = torch.randn(2, 3, 4), torch.tensor([[False, False, False], [False, False, True]])
    batch = {"src": x, "src_key_padding_mask": is_padding}
    space = from_module(model, [wide], batch=batch if with_batch else None)
    supernet = ag.Supernet(space).eval()
    assert list(supernet.rows) == [f"layers/{k}/linear{n}" for k in (0, 1) for n in (1, 2)]  # not of the attention
    original, kept = ag.derive(space, dict.fromkeys(supernet.rows, "original")).eval(), ~is_padding
    with torch.no_grad():
        assert supernet(x, src_key_padding_mask=is_padding).isfinite().all()
        torch.testing.assert_close(original(**batch)[kept], model(**batch)[kept])


class Counting(nn.Module):
    """Computes something else in every pass, as a step of a power iteration does."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.register_buffer("passes", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        return self.conv(x) * self.passes


def test_a_model_that_changes_in_every_pass_is_compared_as_it_is() -> None:
    model = Counting()
    space = from_module(model, [Kernels()], batch=torch.randn(1, 4, 5, 5))
    assert space.passes == model.passes == 0


class ReadsAttribute(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) * self.conv.weight.mean()


class CallsElsewhere(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.steps = (self.conv,)

    def forward(self, x: Tensor) -> Tensor:
        return self.steps[0](x)


X = torch.zeros(1, 4, 5, 5)


def mixed() -> nn.Module:
    return nn.Sequential(conv(), conv(kernel_size=5))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: from_module("net", EVERY), "needs a model"),
        (lambda: from_module(conv(), []), "needs a list of rules"),
        (lambda: from_module(conv(), [Kernels]), "needs a list of rules"),
        (lambda: from_module(nn.Sequential(nn.ReLU())), "has no layer in whose place"),
        (lambda: from_module(Scaled(4, 4, 3)), r"These stay as they are: '' \(is a Scaled, with its own rules\)"),
        (lambda: from_module(nn.Sequential(nn.ReLU()), [Skip(at="layer*")]), "is for no layer of Sequential"),
        (lambda: from_module(nn.Sequential(nn.ReLU()), [Skip(at=nn.ReLU)]), "only known from a batch"),
        (lambda: from_module(conv(), [Skip(at=3)]), "Layers are chosen by"),
        (lambda: from_module(conv(), [Kernels((5,)), Kernels((5,))]), "are called 'kernel5'"),
        (lambda: from_module(conv(), [OpenKernels(), OpenKernels((7,))]), "Several rules open numbers"),
        (lambda: from_module(mixed(), [Kernels()], label=lambda _: "a"), "have no candidate in common: '0', '1'"),
        (lambda: from_module(ag.spaces.tiny(), [Kernels()], batch=X), "has choices already"),
        (lambda: from_module(ReadsAttribute(), [Kernels()], batch=X), "reads a layer itself"),
        (lambda: from_module(CallsElsewhere(), [Kernels()], batch=X), "from elsewhere than its modules"),
        (lambda: Kernels(()), "needs whole sizes"),
        (lambda: Kernels((3, 3)), "different sizes"),
        (lambda: Bottleneck(1.5), "0 < ratio < 1"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told(make: Any, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        make()


def test_a_residual_network_of_torchvision_is_the_same_at_original() -> None:
    models = pytest.importorskip("torchvision.models")
    model = models.resnet.ResNet(models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=2).eval()
    x = torch.randn(2, 3, 16, 16)
    block = models.resnet.BasicBlock
    space = from_module(model, [Kernels((5,), at="layer1.*"), Skip(at=block)], batch=x)
    rows = {label: row.names[1:] for label, row in ag.Supernet(space).rows.items()}
    assert rows == {"layer1/0": ("skip",), "layer1/0/conv1": ("kernel5",), "layer1/0/conv2": ("kernel5",)}
    assert torch.equal(ag.derive(space, originals(space)).eval()(x), model(x))
    skipped = ag.derive(space, {"layer1/0": "skip"})
    assert skipped(x).shape == (2, 2)
