"""Weights of samples in the loss: what they do, where they come from, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, Dataset, TensorDataset

import archgrad as ag
from archgrad.batches import WeightedTargets, cut
from archgrad.data import Data, TensorSamples, evaluation_batches, load
from archgrad.data.samples import sample_weights_of, targets_of
from archgrad.errors import DataError, OptionError
from archgrad.losses import Loss, SampleWeightedLoss, in_parts
from archgrad.tasks import Classification, Multilabel, Regression, Segmentation, Sequence

GENERATOR = torch.Generator().manual_seed(0)
CLASSES = torch.tensor([0, 2, 1, 2])
LOGITS = torch.randn(4, 3, generator=GENERATOR)
VALUES = torch.randn(4, 3, generator=GENERATOR)
PIXELS = torch.randn(4, 3, 2, 2, generator=GENERATOR)
MASKS = torch.tensor([[[0, 1], [2, 255]], [[255, 255], [1, 1]], [[0, 0], [0, 1]], [[2, 1], [0, 255]]])


def without_mean(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).abs()


def losses() -> Iterator[tuple[str, Loss, Tensor, Tensor]]:
    weights = torch.tensor([1.0, 2.0, 0.5])
    classes = Classification(labels=("a", "b", "c")).weighted(weights)
    yield "classes", F.cross_entropy, LOGITS, CLASSES
    yield "class weights, smoothed", classes.smoothed(0.1), LOGITS, CLASSES
    yield "module", nn.CrossEntropyLoss(weights, ignore_index=1), LOGITS, CLASSES
    yield "probabilities", F.cross_entropy, LOGITS, VALUES.softmax(1)
    yield "pixels", Segmentation(ignore_index=255).fitted(MASKS, ()).weighted(weights).loss, PIXELS, MASKS
    yield "positions", Sequence().fitted(MASKS[:, 0] % 255, ()).loss, PIXELS[:, :, 0], MASKS[:, 0] % 255
    yield "value", Regression().fitted(VALUES[:, 0], ()).loss, LOGITS[:, :1], VALUES[:, 0]
    yield "values", Regression(loss=nn.HuberLoss()).fitted(VALUES, ()).loss, LOGITS, VALUES
    yield "labels", Multilabel().loss, LOGITS, (VALUES > 0).float()
    yield "labels, weighted", Multilabel().weighted(weights).loss, LOGITS, (VALUES > 0).float()
    yield "batch mean", nn.KLDivLoss(reduction="batchmean"), LOGITS.log_softmax(1), VALUES.softmax(1)


CASES = {name: tuple(case) for name, *case in losses()}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_sample_of_weight_two_counts_as_two_and_equal_weights_are_none(case: tuple[Loss, Tensor, Tensor]) -> None:
    loss, outputs, targets = case
    weighted = SampleWeightedLoss(loss)
    plain = loss(outputs, targets)
    torch.testing.assert_close(weighted(outputs, WeightedTargets(targets, torch.full((4,), 0.3))), plain)
    torch.testing.assert_close(weighted(outputs, targets), plain)
    twice = [0, 0, 1, 2, 3, 3]
    given = WeightedTargets(targets, torch.tensor([2.0, 1.0, 1.0, 2.0]))
    expected = loss(outputs[twice], targets[twice])
    torch.testing.assert_close(weighted(outputs, given), expected)
    # In parts, as with accumulation and on several processes: sum of numerators over sum of denominators.
    parts, sums = in_parts(weighted), []
    for part_outputs, part in cut(outputs, given, 2):
        sums.append(torch.stack([parts(part_outputs, part), torch.as_tensor(parts.denominator(part))]))
    total = torch.stack(sums).sum(0)
    torch.testing.assert_close(total[0] / total[1], expected)


def test_a_sum_is_one_of_weighted_samples_and_a_batch_that_does_not_count_gives_zero() -> None:
    weights = torch.tensor([2.0, 0.0, 1.0, 1.0])
    total = SampleWeightedLoss(nn.MSELoss(reduction="sum"))(LOGITS, WeightedTargets(VALUES, weights))
    torch.testing.assert_close(total, (((LOGITS - VALUES) ** 2).sum(1) * weights).sum())
    outputs = LOGITS.clone().requires_grad_()
    nothing = SampleWeightedLoss(F.cross_entropy)(outputs, WeightedTargets(CLASSES, torch.zeros(4)))
    nothing.backward()
    assert nothing.item() == 0.0
    assert outputs.grad is not None
    assert not outputs.grad.any()


def test_a_loss_of_ones_own_returns_a_number_a_sample() -> None:
    given = WeightedTargets(VALUES, torch.tensor([1.0, 0.0, 0.0, 3.0]))
    each = (LOGITS - VALUES).abs().mean(1)
    expected = (each[0] + 3 * each[3]) / 4
    torch.testing.assert_close(SampleWeightedLoss(without_mean)(LOGITS, given), expected)
    with pytest.raises(OptionError, match=r"one number a sample, of shape \(4, ...\), but 'mean' returned a tensor of"):
        SampleWeightedLoss(lambda_named_mean())(LOGITS, given)

    def takes_reduction(outputs: Tensor, targets: Tensor, *, power: int = 1, reduction: str = "mean") -> Tensor:
        values = (outputs - targets).abs() ** power
        return values.mean() if reduction == "mean" else values

    torch.testing.assert_close(SampleWeightedLoss(partial(takes_reduction, power=1))(LOGITS, given), expected)


def lambda_named_mean() -> Loss:
    def mean(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets).abs().mean()

    return mean


class Line(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = ag.LayerChoice({"one": nn.Linear(3, 2), "other": nn.Linear(3, 2, bias=False)}, label="body")

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


X = torch.randn(6, 3, generator=GENERATOR)
Y = torch.tensor([0, 1, 0, 1, 1, 0])
TWICE = torch.tensor([0, 1, 1, 2, 3, 4, 5, 5])
WEIGHTS = torch.tensor([1.0, 2, 1, 1, 1, 2])


def data(*, weighted: bool) -> Data:
    if weighted:
        part = TensorSamples(X, Y, WEIGHTS)
        return Data.from_datasets(part, part, valid=part)
    part = TensorSamples(X[TWICE], Y[TWICE])
    return Data.from_datasets(part, part, valid=part)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_search_and_retraining_learn_as_from_samples_that_are_there_twice(accumulation: int) -> None:
    found, trained = [], []
    for weighted in (True, False):
        size = 6 if weighted else 8
        given = {"epochs": 2, "quiet": True, "class_weights": [1.0, 3.0], "device": "cpu", "accumulation": accumulation}
        torch.manual_seed(0)
        result = ag.search(Line(), data(weighted=weighted), batch_size=size, **given)  # type: ignore[arg-type]
        found.append([[row["train_loss"], row["valid_loss"]] for row in result.history])
        torch.manual_seed(0)
        network = nn.Linear(3, 2)
        again = ag.retrain(network, data(weighted=weighted), batch_size=2 * size, **given)  # type: ignore[arg-type]
        trained.append([[row["train_loss"], row["test_loss"]] for row in again.history])
    torch.testing.assert_close(torch.tensor(found[0]), torch.tensor(found[1]))
    torch.testing.assert_close(torch.tensor(trained[0]), torch.tensor(trained[1]))
    assert trained[0][0] != trained[0][1]


class Lengths(Dataset):
    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> Any:
        return torch.arange(1 + index % 3), int(Y[index]), WEIGHTS[index]


def padded(pairs: list[Any]) -> tuple[Tensor, Tensor]:
    words, labels = zip(*pairs, strict=True)
    return nn.utils.rnn.pad_sequence(list(words), batch_first=True), torch.tensor(labels)


class Triples(Dataset):
    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> Any:
        return X[index], int(Y[index]), float(WEIGHTS[index])


def test_data_sets_give_weights_only_where_that_is_said() -> None:
    for given in (Triples(), TensorDataset(X, Y, WEIGHTS)):
        weighted = Data.from_datasets(given, weighted=True)
        assert torch.equal(sample_weights_of(weighted.train), WEIGHTS)  # type: ignore[arg-type]
        assert torch.equal(targets_of(weighted.train), Y)
        part = weighted.take(torch.tensor([4, 1]))
        assert sample_weights_of(part.train).tolist() == [1.0, 2.0]  # type: ignore[union-attr]
    lengths = Data.from_datasets(Lengths(), weighted=True, collate=padded)
    ((inputs, batch),) = evaluation_batches(lengths.train, batch_size=6, weighted=True)
    assert inputs.shape == (6, 3)
    assert torch.equal(batch.sample_weights, WEIGHTS)
    assert torch.equal(batch.targets, Y)
    with pytest.raises(DataError, match=r"a tuple of 3\. .* weighted=True"):
        Data.from_datasets(Triples())
    with pytest.raises(DataError, match=r"\(input, target, weight\), but sample 0 .* of 2"):
        Data.from_datasets(TensorDataset(X, Y), weighted=True)
    for wrong in (WEIGHTS[:5], WEIGHTS - 2, WEIGHTS * 0, WEIGHTS / 0):
        with pytest.raises(DataError, match="must be 6 finite numbers of at least 0"):
            TensorSamples(X, Y, wrong)
    mixed = Data.from_datasets(ConcatDataset([TensorSamples(X, Y, WEIGHTS), TensorSamples(X, Y)]))
    assert sample_weights_of(mixed.train).tolist() == [*WEIGHTS.tolist(), *[1.0] * 6]  # type: ignore[union-attr]
    with pytest.raises(DataError, match="both have weights in the loss, or neither"):
        Data.from_datasets(TensorSamples(X, Y, WEIGHTS), valid=TensorSamples(X, Y))


def test_a_column_of_a_table_weighs_its_rows(tmp_path: Any) -> None:
    table = tmp_path / "table.csv"
    rows = [f"{row * row % 7},{'ab'[row % 2]},{row / 4}" for row in range(20)]
    table.write_text("\n".join(["size,kind,counts", *rows]))
    found = load(str(table), target="kind", sample_weight="counts")
    assert found.encoding is not None
    assert found.encoding.inputs == ("size",)
    parts = [sample_weights_of(part) for part in (found.train, found.test) if part is not None]
    assert sorted(torch.cat(parts).tolist()) == [row / 4 for row in range(20)]  # type: ignore[arg-type]
    for row, weights in zip(found.train.targets, parts[0], strict=True):  # type: ignore[attr-defined, arg-type]
        assert int(weights * 4) % 2 == int(row)
    table.write_text("\n".join(["size,kind,counts", *rows, "3,a,-1"]))
    with pytest.raises(DataError, match="'counts' must hold a number of at least 0 in each row"):
        load(str(table), target="kind", sample_weight="counts")
