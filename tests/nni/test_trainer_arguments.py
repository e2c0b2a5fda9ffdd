"""Every argument of the documented class changes what it says."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from nni_problems import Gate, Line, half_square, images, no_metrics, ones_and_zeros, trainer, weight
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset, get_worker_info

import archgrad as ag
from archgrad.data import stratified_halves


def test_the_signature_is_the_documented_one() -> None:
    parameters = inspect.signature(ag.DartsTrainer).parameters
    positional = {n: p.default for n, p in parameters.items() if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD}
    none = inspect.Parameter.empty
    assert list(positional.items()) == [
        ("model", none),
        ("loss", none),
        ("metrics", none),
        ("optimizer", none),
        ("num_epochs", none),
        ("dataset", none),
        ("grad_clip", 5.0),
        ("learning_rate", 0.0025),
        ("batch_size", 64),
        ("workers", 4),
        ("device", None),
        ("log_frequency", None),
        ("arc_learning_rate", 0.0003),
        ("unrolled", False),
    ]
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for n, p in parameters.items() if n not in positional)


def test_all_arguments_go_by_position(capsys: pytest.CaptureFixture[str]) -> None:
    # Gradient 2, clipped to 1, learning rate 0.5.
    model, device = Line(w=2.0), torch.device("cpu")
    made = ag.DartsTrainer(
        model, half_square, no_metrics, torch.optim.SGD, 1, ones_and_zeros(), 1.0, 0.5, 4, 0, device, 1, 0.01, True
    )
    made.fit()
    assert weight(made) == pytest.approx(1.5, abs=1e-6)
    about, line, note = capsys.readouterr().err.splitlines()
    assert about.startswith("Data: ")
    assert line.startswith("search epoch")
    assert note.startswith("Warning: The alphas hardly moved")


def test_the_model_stays_as_it_is() -> None:
    model = ag.spaces.tiny(channels=2, num_classes=3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    made = trainer(model, loss=nn.CrossEntropyLoss(), dataset=images(), learning_rate=0.1)
    made.fit()
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert not torch.equal(made.supernet.network.classifier.weight, model.classifier.weight)


@pytest.mark.parametrize("factor", [1.0, 3.0])
def test_loss_is_what_is_minimised(factor: float) -> None:
    # w' = 2 - 0.1 * factor * 2
    made = trainer(Line(w=2.0), loss=lambda y, t: factor * half_square(y, t), learning_rate=0.1, grad_clip=0)
    made.fit()
    assert weight(made) == pytest.approx(2.0 - 0.2 * factor)
    assert made.history[0]["train_loss"] == pytest.approx(2.0 * factor)


def test_metrics_run_on_both_halves_and_are_averaged_by_sample() -> None:
    # Halves of 7 samples in batches of 4 and 3: the mean of the batch's size over samples is (16 + 9) / 7, not 3.5.
    seen: list[list[float]] = []

    def metrics(outputs: Tensor, targets: Tensor) -> dict[str, float | Tensor]:
        seen.append(targets.tolist())
        return {"size": len(targets), "target": targets.mean(), "one": targets.new_ones(1)}

    targets = torch.arange(14, dtype=torch.float64)
    dataset = TensorDataset(torch.ones(14, dtype=torch.float64), targets)
    made = trainer(Line(), metrics=metrics, dataset=dataset, learning_rate=1e-6)
    made.fit()
    row = made.history[0]
    assert row["train_size"] == row["valid_size"] == pytest.approx(25 / 7)
    assert row["train_one"] == 1.0
    assert len(seen) == 4
    assert sorted(value for batch in seen for value in batch) == targets.tolist()
    train, valid = stratified_halves(targets, fraction=0.5, seed=0)
    assert row["train_target"] == pytest.approx(float(targets[train].mean()))
    assert row["valid_target"] == pytest.approx(float(targets[valid].mean()))


@pytest.mark.parametrize("epochs", [1, 3])
def test_num_epochs_is_the_number_of_epochs(epochs: int) -> None:
    # One step an epoch: w = 2 * 0.9^epochs.
    made = trainer(Line(w=2.0), num_epochs=epochs, learning_rate=0.1)
    made.fit()
    assert [row["epoch"] for row in made.history] == list(range(epochs))
    assert weight(made) == pytest.approx(2.0 * 0.9**epochs)


def test_dataset_is_split_into_halves_with_the_same_share_of_each_class() -> None:
    seen: list[list[int]] = []

    def metrics(outputs: Tensor, targets: Tensor) -> dict[str, float]:
        seen.append(targets.tolist())
        return {}

    # Sorted by class: contiguous halves would never show class 1 to the weights.
    inputs, targets = torch.randn(24, 1, 6, 6), torch.arange(24) // 12
    made = trainer(
        ag.spaces.tiny(channels=2, num_classes=2),
        loss=nn.CrossEntropyLoss(),
        metrics=metrics,
        dataset=TensorDataset(inputs, targets),
    )
    made.fit()
    train = [target for batch in seen[0::2] for target in batch]
    valid = [target for batch in seen[1::2] for target in batch]
    assert sorted(train) == sorted(valid) == [0] * 6 + [1] * 6


@pytest.mark.parametrize(("grad_clip", "moved"), [(5.0, 5.0), (2.0, 2.0), (0, 8.0), (100.0, 8.0)])
def test_grad_clip_bounds_the_norm_and_zero_is_off(grad_clip: float, moved: float) -> None:
    # The gradient is w = 8; the step of learning rate 1 has the clipped norm.
    made = trainer(Line(w=8.0), learning_rate=1.0, grad_clip=grad_clip)
    made.fit()
    assert 8.0 - weight(made) == pytest.approx(moved, rel=1e-6)


def test_grad_clip_is_five_by_default() -> None:
    made = trainer(Line(w=8.0), learning_rate=1.0)
    made.fit()
    assert 8.0 - weight(made) == pytest.approx(5.0, rel=1e-6)


@pytest.mark.parametrize(("batch_size", "steps"), [(2, 4), (4, 2), (8, 1)])
def test_batch_size_is_that_of_each_half(batch_size: int, steps: int) -> None:
    sizes: list[int] = []

    def metrics(outputs: Tensor, targets: Tensor) -> dict[str, float]:
        sizes.append(len(targets))
        return {}

    trainer(Line(), metrics=metrics, dataset=ones_and_zeros(16), batch_size=batch_size).fit()
    assert sizes == [batch_size] * 2 * steps


class Witness(Dataset):
    """x tells who read the sample: 1 a worker process, 0 this process."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x = 0.0 if get_worker_info() is None else 1.0
        return torch.tensor(x, dtype=torch.float64), torch.tensor(0.0, dtype=torch.float64)


@pytest.mark.parametrize("workers", [0, 1])
def test_workers_read_the_data(workers: int) -> None:
    outputs_seen: list[float] = []

    def metrics(outputs: Tensor, targets: Tensor) -> dict[str, float]:
        outputs_seen.extend(outputs.tolist())
        return {}

    trainer(Line(w=2.0), metrics=metrics, dataset=Witness(), workers=workers).fit()
    assert {value > 0 for value in outputs_seen} == {workers > 0}


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu")])
def test_device_is_where_the_supernet_lies(device: Any) -> None:
    made = trainer(Line(), device=device)
    assert {p.device.type for p in made.supernet.parameters()} == {"cpu"}


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_without_a_device_cuda_is_taken_and_the_optimizer_follows() -> None:
    model = Line(w=2.0)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    model.w.grad = torch.ones_like(model.w)
    optimizer.step()
    made = trainer(model, optimizer, device=None)
    made.fit()
    # As on the CPU: buffer 0.9 + 1.9 = 2.8, w = 1.9 - 0.28.
    assert weight(made) == pytest.approx(1.62)
    assert {p.device.type for p in made.supernet.parameters()} == {"cuda"}
    assert {p.device.type for group in optimizer.param_groups for p in group["params"]} == {"cuda"}
    assert optimizer.state[made.supernet.network.w]["momentum_buffer"].device.type == "cuda"


@pytest.mark.parametrize(("log_frequency", "lines"), [(None, 2), (1, 8), (2, 4), (3, 4)])
def test_log_frequency_is_the_steps_between_lines(
    log_frequency: int | None, lines: int, capsys: pytest.CaptureFixture[str]
) -> None:
    # Two epochs of 4 steps; the line after an epoch's last step is that of the epoch.
    made = trainer(
        Line(),
        metrics=lambda y, t: {"acc1": 0.25},
        dataset=ones_and_zeros(32),
        num_epochs=2,
        log_frequency=log_frequency,
        quiet=False,
    )
    made.fit()
    _, *written, note = capsys.readouterr().err.splitlines()
    assert len(written) == lines
    assert note.startswith("Warning: The alphas hardly moved")
    assert all("train loss" in line and "train acc1 0.2500" in line and "valid acc1 0.2500" in line for line in written)
    assert not any("train acc -" in line or "skips -" in line for line in written)


def test_quiet_writes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    trainer(Line(), log_frequency=1, quiet=True).fit()
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")


@pytest.mark.filterwarnings("ignore:The derived network gives the same outputs")  # "zero" wins
@pytest.mark.parametrize("options", [{}, {"arc_learning_rate": 0.01}])
def test_arc_learning_rate_is_the_size_of_adams_first_step(options: dict[str, float]) -> None:
    # L = (p w)^2 / 2 falls with p: the alpha of "one" goes down and that of "zero" up, by Adam's learning rate.
    made = trainer(Gate(), **options)
    before = made.supernet.alphas["choice"].detach().clone()
    made.fit()
    moved = made.supernet.alphas["choice"].detach() - before
    rate = options.get("arc_learning_rate", 0.0003)
    assert moved.tolist() == pytest.approx([-rate, rate], rel=1e-3)


@pytest.mark.parametrize(("unrolled", "sign"), [(False, 1.0), (True, -1.0), (1.0, -1.0)])
def test_unrolled_follows_the_second_order_gradient(unrolled: Any, sign: float) -> None:
    # y = p w, w = 1, p = 1/2, one sample each: t = -10 trains, t = 1 validates, learning rate 1.
    # First order:  dL_valid/dp = w (p w - 1) = -1/2, so that p grows.
    # Second order: w' = 1 - p (p w + 10) = -4.25; direct w' (p w' - 1) = 13.3; implicit
    #               -d(p (p w + 10))/dp * p (p w' - 1) = 11 * 1.56 = 17.2; together positive, so that p shrinks.
    x = torch.ones(2, dtype=torch.float64)
    train, valid = stratified_halves(x, fraction=0.5, seed=0)
    t = torch.zeros(2, dtype=torch.float64)
    t[train], t[valid] = -10.0, 1.0
    made = trainer(Gate(w=1.0), dataset=TensorDataset(x, t), batch_size=1, learning_rate=1.0, unrolled=unrolled)
    before = made.supernet.alphas["choice"].detach().clone()
    made.fit()
    moved = made.supernet.alphas["choice"].detach() - before
    assert moved.tolist() == pytest.approx([sign * 0.0003, -sign * 0.0003], rel=1e-3)


@pytest.mark.parametrize("unrolled", [False, True])
def test_training_is_that_of_search(unrolled: bool) -> None:
    space = ag.spaces.tiny(channels=2, num_classes=3)
    result = ag.search(
        space,
        images(),
        method="darts-second-order" if unrolled else "darts",
        epochs=2,
        batch_size=8,
        seed=3,
        momentum=0.9,
        weight_decay=3e-4,
        learning_rate=0.1,
        schedule="constant",
        device="cpu",
        quiet=True,
    )
    optimizer = torch.optim.SGD(space.parameters(), 0.1, momentum=0.9, weight_decay=3e-4)
    made = trainer(
        space,
        optimizer,
        loss=nn.CrossEntropyLoss(),
        metrics=lambda y, t: {"accuracy": (y.argmax(1) == t).float().mean()},
        dataset=images(),
        num_epochs=2,
        batch_size=8,
        seed=3,
        unrolled=unrolled,
    )
    made.fit()
    assert made.history == result.history
    theirs = result.supernet.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in made.supernet.state_dict().items())
    assert made.architecture() == result.architecture


def test_second_order_is_not_first_order() -> None:
    alphas = {}
    for unrolled in (False, True):
        made = trainer(
            ag.spaces.tiny(channels=2, num_classes=3),
            loss=nn.CrossEntropyLoss(),
            dataset=images(),
            learning_rate=0.1,
            unrolled=unrolled,
        )
        torch.manual_seed(0)
        made.fit()
        alphas[unrolled] = made.supernet.alphas["stem"].detach().clone()
    assert not torch.equal(alphas[False], alphas[True])


def test_schedule_is_constant_unless_the_authors_is_asked_for() -> None:
    def rates(**options: Any) -> list[float]:
        made = trainer(Line(), learning_rate=0.01, num_epochs=4, **options)
        made.fit()
        return [row["learning_rate"] for row in made.history]

    assert rates() == [0.01] * 4
    # 0.001 + (0.01 - 0.001) (1 + cos(pi e / 4)) / 2
    assert rates(schedule="cosine") == pytest.approx([0.01, 0.0086820, 0.0055, 0.0023180], abs=1e-7)


def test_seed_is_of_the_alphas_and_the_order() -> None:
    made = [trainer(Gate(), seed=seed) for seed in (0, 0, 1)]
    rows = [m.supernet.alphas["choice"].detach() for m in made]
    assert torch.equal(rows[0], rows[1])
    assert not torch.equal(rows[0], rows[2])
