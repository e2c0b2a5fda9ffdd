"""Recorded passes. Where there is no GPU, a tape of operations stands in for a CUDA graph."""

from __future__ import annotations

import copy
import re
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import archgrad as ag
from archgrad.batches import WeightedTargets
from archgrad.bilevel import graph_cache
from archgrad.bilevel.graph_cache import recorded_passes
from archgrad.bilevel.graph_capture import Obstacles, Packed
from archgrad.bilevel.passes import local_pass, without_grad
from archgrad.losses import SampleWeightedLoss
from archgrad.schedules import Progress
from tape import TapeRecorder

STEPS = {
    "first-order": ag.bilevel.FirstOrder(),
    "finite-difference": ag.bilevel.Unrolled(),
    "exact": ag.bilevel.Unrolled(hvp="exact"),
}


class Small(nn.Module):
    """Convolutions with BatchNorm and dropout, a choice between them, and a head."""

    def __init__(self, extra: nn.Module | None = None) -> None:
        super().__init__()
        first = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.3))
        self.choice = ag.LayerChoice({"conv": first, "wide": nn.Conv2d(2, 4, 3)}, label="c")
        self.extra = nn.Identity() if extra is None else extra
        self.head = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"logits": self.head(self.extra(self.choice(x)).mean((2, 3)))}


def logits_loss(outputs: dict[str, torch.Tensor], targets: torch.Tensor, *, reduction: str = "mean") -> torch.Tensor:
    return F.cross_entropy(outputs["logits"], targets, reduction=reduction)


def batches(count: int, samples: int = 6, seed: int = 0) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        (
            torch.randn(samples, 2, 6, 6, generator=generator, dtype=torch.float64),
            torch.randint(0, 3, (samples,), generator=generator),
        )
        for _ in range(count)
    ]


def searcher(space: nn.Module, step: ag.bilevel.BilevelStep, relaxation=None, loss=logits_loss):
    """A supernet and a function that takes one step of its search."""
    supernet = ag.Supernet(copy.deepcopy(space).double(), relaxation, fast="grouped")  # as on CUDA
    weights = torch.optim.SGD(supernet.weights.values(), lr=0.1, momentum=0.9)
    alphas = torch.optim.Adam(supernet.alphas.values(), lr=0.1)

    def take(train, valid, progress=None):
        return ag.search_step(
            supernet,
            train,
            valid,
            step=step,
            weights_optimizer=weights,
            alphas_optimizer=alphas,
            loss=loss,
            progress=progress,
        )

    return supernet, take


def assert_same_state(a: ag.Supernet, b: ag.Supernet) -> None:
    for (name, x), y in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        assert torch.equal(x, y), name


def test_a_recorded_pass_reads_the_weights_of_its_own_samples():
    space, step, weighted = Small(), STEPS["first-order"], SampleWeightedLoss(logits_loss)
    plain, plain_step = searcher(space, step, loss=weighted)
    recorded, recorded_step = searcher(space, step, loss=weighted)
    random = torch.Generator().manual_seed(0)
    data = [
        (inputs, WeightedTargets(targets, torch.rand(len(targets), generator=random))) for inputs, targets in batches(6)
    ]
    torch.manual_seed(0)
    expected = [plain_step(*data[2 * i : 2 * i + 2]).train_loss for i in range(3)]
    torch.manual_seed(0)
    recorder = TapeRecorder()
    with recorded_passes(recorded, recorder, lambda _: None):
        assert [recorded_step(*data[2 * i : 2 * i + 2]).train_loss for i in range(3)] == expected
    assert recorder.recorded == 2
    assert_same_state(plain, recorded)


@pytest.mark.parametrize(
    ("name", "kinds", "passes"), [("first-order", 2, 2), ("finite-difference", 4, 5), ("exact", 2, 2)]
)
def test_recorded_steps_are_the_steps_to_the_bit(name, kinds, passes):
    space, step = Small(), STEPS[name]
    plain, plain_step = searcher(space, step)
    recorded, recorded_step = searcher(space, step)
    data, recorder, said = batches(8), TapeRecorder(), []
    reports = []
    for take in (plain_step, recorded_step):
        torch.manual_seed(0)
        if take is plain_step:
            reports.append([take(*data[2 * i : 2 * i + 2]) for i in range(4)])
        else:
            with recorded_passes(recorded, recorder, said.append):
                reports.append([take(*data[2 * i : 2 * i + 2]) for i in range(4)])
    assert_same_state(plain, recorded)
    for a, b in zip(*reports, strict=True):
        assert (a.train_loss, a.valid_loss, a.weights_gradient_norm) == (
            b.train_loss,
            b.valid_loss,
            b.weights_gradient_norm,
        )
        assert torch.equal(a.valid_outputs["logits"], b.valid_outputs["logits"])
    assert recorder.recorded == kinds
    # The first pass of a kind is run as usual, and the recording once to be held to it.
    assert recorder.replayed == 4 * passes
    assert sum(line.startswith("Warming up") for line in said) == kinds


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
@pytest.mark.parametrize("fast", ["grouped", "plain"])
def test_recorded_steps_of_the_paper_s_space_are_the_steps(step, fast):
    data = [(torch.randn(4, 3, 8, 8, dtype=torch.float64), torch.randint(0, 10, (4,))) for _ in range(6)]
    found = []
    for recording in (False, True):
        torch.manual_seed(0)
        supernet = ag.Supernet(ag.spaces.darts_cifar(2, 2, nodes=2).double(), fast=fast)
        weights = torch.optim.SGD(supernet.weights.values(), lr=0.1, momentum=0.9)
        alphas = torch.optim.Adam(supernet.alphas.values(), lr=0.1)
        said: list[str] = []
        with recorded_passes(supernet, TapeRecorder(), said.append) if recording else nullcontext():
            for i in range(3):
                ag.search_step(
                    supernet, *data[2 * i : 2 * i + 2], step=step, weights_optimizer=weights, alphas_optimizer=alphas
                )
        assert not any(line.startswith("Cannot") for line in said), said
        found.append(supernet)
    # Not to the bit: weights that look ahead are copies, whose memory order an operation may go by.
    for (name, x), y in zip(found[0].state_dict().items(), found[1].state_dict().values(), strict=True):
        torch.testing.assert_close(y, x, rtol=1e-9, atol=1e-9, msg=name)


def test_under_autocast_a_recording_reads_the_weights_as_they_are():
    supernet = ag.Supernet(Small())
    x, y = torch.randn(6, 2, 6, 6), torch.randint(0, 3, (6,))
    weights = list(supernet.weights.values())
    start = [w.detach().clone() for w in weights]
    found = []
    for way in (nullcontext(), recorded_passes(supernet, TapeRecorder(), lambda _: None)):
        for weight, value in zip(weights, start, strict=True):
            weight.data.copy_(value)
        torch.manual_seed(0)
        losses = []
        with way, torch.autocast("cpu", torch.bfloat16):
            for _ in range(3):
                own = local_pass(supernet, (x, y), logits_loss, weights)
                losses.append(float(own.loss))
                for weight, gradient in zip(weights, own.gradients, strict=True):
                    weight.data.sub_(gradient, alpha=0.5)
                torch.clear_autocast_cache()
        found.append(losses)
    assert found[0] == found[1]
    assert len(set(found[0])) == 3


def test_each_shape_of_batch_and_setting_is_recorded_apart():
    supernet, take = searcher(Small(), STEPS["first-order"])
    recorder = TapeRecorder()
    with recorded_passes(supernet, recorder, lambda _: None):
        for samples in (6, 4, 6, 4):
            take(*batches(2, samples))
        assert recorder.recorded == 4
        for norm in supernet.network.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.eval()
        take(*batches(2))
        assert recorder.recorded == 6
        take(*batches(2))
        assert recorder.recorded == 6


class Cooled(ag.relaxation.Softmax):
    """A softmax whose temperature falls."""

    def draw(self, alpha, row, progress, generator):
        return {"heat": torch.tensor(1.0 - progress.epoch / progress.epochs)}

    def mix(self, alpha, row, draw):
        return super().mix(alpha / draw["heat"].to(alpha), row, draw)


def test_what_changes_with_the_epoch_is_a_tensor_of_the_recording():
    space = Small()
    found = []
    for recording in (False, True):
        supernet, take = searcher(space, STEPS["first-order"], Cooled())
        torch.manual_seed(0)
        recorder = TapeRecorder()
        with recorded_passes(supernet, recorder, lambda _: None) if recording else nullcontext():
            for epoch in range(3):
                progress = Progress(epoch, 3)
                take(*batches(2, seed=epoch), progress), take(*batches(2, seed=epoch), progress)
        found.append(supernet)
    assert recorder.recorded == 2
    assert_same_state(*found)


@pytest.mark.parametrize("perturbation", [ag.perturbations.Uniform(), ag.perturbations.Adversarial(steps=2)])
def test_a_perturbed_pass_is_recorded_with_its_draw_as_an_input(perturbation):
    space, found = Small(), []
    for recording in (False, True):
        supernet, _ = searcher(space, STEPS["first-order"])
        options = {
            "step": STEPS["first-order"],
            "weights_optimizer": torch.optim.SGD(supernet.weights.values(), lr=0.1),
            "alphas_optimizer": torch.optim.Adam(supernet.alphas.values(), lr=0.1),
            "loss": logits_loss,
            "perturbation": perturbation,
            "regularizers": (ag.regularizers.BetaDecay(),),
        }
        torch.manual_seed(0)
        recorder = TapeRecorder()
        with recorded_passes(supernet, recorder, lambda _: None) if recording else nullcontext():
            for epoch in range(3):
                ag.search_step(supernet, *batches(2, seed=epoch), progress=Progress(epoch, 3), **options)
        found.append(supernet)
    assert (recorder.recorded, recorder.replayed) == (2, 6)
    assert_same_state(*found)


def test_another_relaxation_or_fewer_candidates_are_recorded_anew():
    supernet, take = searcher(Small(), STEPS["first-order"])
    recorder = TapeRecorder()
    with recorded_passes(supernet, recorder, lambda _: None):
        take(*batches(2))
        supernet.relaxation = ag.relaxation.Softmax()
        take(*batches(2))
        supernet.prune(1, supernet.probabilities())
        take(*batches(2))
    assert recorder.recorded == 6


def test_a_supernet_that_is_moved_is_recorded_anew():
    supernet, take = searcher(Small(), STEPS["first-order"])
    recorder = TapeRecorder()
    with recorded_passes(supernet, recorder, lambda _: None):
        take(*batches(2))
        for parameter in supernet.parameters():
            parameter.data = parameter.data.clone()
        take(*batches(2))
    assert recorder.recorded == 4


class Scales(nn.Module):
    factor = 1.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.factor


def test_a_module_that_changes_later_is_noticed_and_recorded_anew(monkeypatch):
    monkeypatch.setattr(graph_cache, "_HELD_EVERY", 3)
    space = Small(Scales())
    plain, plain_step = searcher(space, STEPS["first-order"])
    recorded, recorded_step = searcher(space, STEPS["first-order"])
    recorder, said = TapeRecorder(), []
    for supernet, take in ((plain, plain_step), (recorded, recorded_step)):
        torch.manual_seed(0)
        with recorded_passes(recorded, recorder, said.append):
            for seed in range(10):
                supernet.network.extra.factor = 1.0 if seed < 6 else 3.0  # held to before uses 3, 6 and 9
                take(*batches(2, seed=seed))
    assert recorder.recorded == 4
    changed = [line for line in said if "has changed since it was recorded" in line]
    assert [line.partition(" has")[0] for line in changed] == ["The pass for alphas", "The pass for weights"]
    assert_same_state(plain, recorded)


def test_only_so_many_are_kept(monkeypatch):
    monkeypatch.setattr(graph_cache, "_MOST", 2)
    supernet, take = searcher(Small(), STEPS["first-order"])
    recorder = TapeRecorder()
    with recorded_passes(supernet, recorder, lambda _: None):
        for samples in (6, 6, 4, 6):
            take(*batches(2, samples))
    assert recorder.recorded == 6


class Reads(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2 if x.sum().item() > 0 else x


class Picks(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + x[x > 0].mean()


class Counts(nn.Module):
    """Does something else every time."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return x * self.calls


class Replaces(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros((), dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen = self.seen + 1
        return x


@pytest.mark.parametrize(
    ("extra", "why"),
    [
        (Reads, r"_local_scalar_dense reads from the device \(test_graphs.py, line \d+\)"),
        (Picks, r"index reads from the device \(test_graphs.py"),
        (Counts, "done again it gives something else"),
        (Replaces, "new buffers in the place"),
    ],
)
def test_what_cannot_be_recorded_is_said_and_runs_as_usual(extra, why):
    space = Small(extra())
    plain, plain_step = searcher(space, STEPS["first-order"])
    recorded, recorded_step = searcher(space, STEPS["first-order"])
    recorder, said = TapeRecorder(), []
    for take in (plain_step, recorded_step):
        torch.manual_seed(0)
        with recorded_passes(recorded, recorder, said.append):
            for seed in range(3):
                take(*batches(2, seed=seed))
    refused = [line for line in said if line.startswith("Cannot record")]
    assert len(refused) == 2  # each pass once
    for line in refused:
        assert re.search(why, line), line
    if extra is not Counts:
        assert_same_state(plain, recorded)
    assert recorder.replayed == (2 if extra is Counts else 0)


@pytest.mark.parametrize(
    "space", [ag.spaces.darts_cifar(4, 3, nodes=2), ag.spaces.nasbench201(4, 1)], ids=["darts", "nb201"]
)
@pytest.mark.parametrize("fast", ["auto", "plain"])
def test_nothing_in_a_published_space_keeps_a_device_waiting(space, fast):
    supernet = ag.Supernet(space, fast=fast).to("meta")
    batch = (torch.empty(2, 3, 8, 8, device="meta"), torch.empty(2, dtype=torch.long, device="meta"))
    alphas, weights = list(supernet.alphas.values()), list(supernet.weights.values())
    for wanted, other in ((alphas, weights), (weights, alphas), (alphas + weights, [])):
        with without_grad(other), Obstacles() as obstacles:
            local_pass(supernet, batch, F.cross_entropy, wanted)
        assert obstacles.first is None


def test_a_tensor_of_the_cpu_is_an_obstacle():
    with Obstacles() as obstacles:
        torch.ones(2).to("meta")
    assert obstacles.first.startswith("_to_copy reads a tensor of the CPU (test_graphs.py, line")


def test_packed_tensors_keep_their_shapes_types_and_memory_orders():
    like = [
        torch.randn(3, 4, 5, 6).to(memory_format=torch.channels_last),
        torch.randn(()),
        torch.arange(7),
        torch.randn(2, 3).t(),
    ]
    packed = Packed(like)
    packed.fill(like)
    copies = packed.copies()
    packed.fill([torch.zeros_like(x) for x in like])
    for copied, x in zip(copies, like, strict=True):
        assert torch.equal(copied, x)
        assert (copied.dtype, copied.stride()) == (x.dtype, x.stride())
    assert not any(x.any() for x in packed.copies())


@pytest.mark.parametrize(
    ("supernet", "message"),
    [
        (lambda: ag.Supernet(ag.spaces.tiny()), "needs a CUDA device"),
        (lambda: ag.Supernet(ag.spaces.tiny(), activation_checkpointing=True), "activation_checkpointing"),
    ],
)
def test_options_that_do_not_go_together_are_refused(supernet, message):
    device = torch.device("cpu" if "CUDA" in message else "cuda")
    with pytest.raises(ag.errors.OptionError, match=message):
        graph_cache.check_recordable(supernet(), device)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
def test_cuda_graphs_give_what_the_passes_give(step):
    data = [(x.cuda(), y.cuda()) for x, y in batches(8)]
    space = Small().cuda()
    found, said = [], []
    for recording in (False, True):
        supernet, take = searcher(space, step)
        torch.manual_seed(0)
        with ag.bilevel.cuda_graphs(supernet, say=said.append) if recording else nullcontext():
            for i in range(4):
                take(*data[2 * i : 2 * i + 2])
        found.append(supernet)
    assert not any(line.startswith("Cannot") for line in said)
    for (name, x), y in zip(found[0].state_dict().items(), found[1].state_dict().values(), strict=True):
        torch.testing.assert_close(y, x, rtol=1e-6, atol=1e-8, msg=name)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("bf16", [False, True])
def test_the_published_space_is_recorded_whole(bf16):
    supernet = ag.Supernet(ag.spaces.darts_cifar(8, 3)).cuda()
    said: list[str] = []
    batch = (torch.randn(8, 3, 16, 16, device="cuda"), torch.randint(0, 10, (8,), device="cuda"))
    alphas, weights = list(supernet.alphas.values()), list(supernet.weights.values())
    with ag.bilevel.cuda_graphs(supernet, say=said.append), torch.autocast("cuda", torch.bfloat16, enabled=bf16):
        for _ in range(3):
            for wanted, other in ((alphas, weights), (weights, alphas)):
                with without_grad(other):
                    local_pass(supernet, batch, F.cross_entropy, wanted)
    assert sum(line.startswith("Recorded") for line in said) == 2
    assert not any(line.startswith("Cannot") for line in said)
