"""Evaluators, strategies and the hub's space map to what archgrad has, by numbers that can be worked out by hand."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import archgrad as ag
import archgrad.nni as nni
from archgrad.errors import DataError, OptionError, RunError
from archgrad.nni_hub_format import format_hub
from archgrad.operations import DropPath
from archgrad.relaxation import SoftGumbel

training = nni.retiarii.evaluator.pytorch
DARTS_SPACE = nni.nas.hub.pytorch.DARTS


def one_weight() -> nn.Linear:
    line = nn.Linear(1, 1, bias=False)
    nn.init.constant_(line.weight, 2.0)
    return line


def test_a_regression_takes_the_step_of_its_optimizer() -> None:
    # y = 2 x with x = 1, t = 0: the gradient of y^2 is 2 y = 4, so w' = 2 - 0.25 * 4 = 1, and then 0.5.
    loader = DataLoader(TensorDataset(torch.ones(4, 1), torch.zeros(4, 1)), batch_size=4)
    options: dict[str, Any] = {"train_dataloaders": loader, "val_dataloaders": loader, "gpus": 0}
    evaluator = training.Regression(
        learning_rate=0.25, optimizer=partial(torch.optim.SGD), max_epochs=2, enable_progress_bar=False, **options
    )
    evaluator.fit(line := one_weight())
    assert line.weight.item() == pytest.approx(0.5)
    assert [row["train_loss"] for row in evaluator.history] == pytest.approx([4.0, 1.0])
    assert evaluator.trainer.callback_metrics["val_mse"] == pytest.approx(0.25)
    clipped = training.Regression(
        learning_rate=0.25, optimizer=torch.optim.SGD, gradient_clip_val=1.0, fast_dev_run=True,
        progress_bar_refresh_rate=0, **options,
    )  # fmt: skip
    clipped.fit(line := one_weight())
    assert line.weight.item() == pytest.approx(1.75)
    with pytest.raises(DataError, match="nothing to train on"):
        training.Regression(max_epochs=1, gpus=0).fit(one_weight())


class Halved(training.RegressionModule):
    """Half the squared error; SGD whose rate halves by the epoch; writes down what was called."""

    def __init__(self, *, returned: Any = None) -> None:
        self.returned, self.called = returned, []
        super().__init__(learning_rate=0.5)

    def configure_optimizers(self) -> Any:
        sgd = torch.optim.SGD(self.parameters(), lr=self.hparams.learning_rate)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(sgd, 0.5)
        return {"optimizer": sgd, "lr_scheduler": scheduler} if self.returned is None else self.returned(sgd, scheduler)

    def on_train_epoch_start(self) -> None:
        self.called.append(self.current_epoch)
        self.log("lr", self.trainer.optimizers[0].param_groups[0]["lr"])

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        inputs, targets = batch
        loss = self.criterion(self(inputs), targets) / 2
        self.log("half", loss, prog_bar=True)
        return loss


def fitted(module: Any, **options: Any) -> tuple[nn.Linear, Any]:
    loader = DataLoader(TensorDataset(torch.ones(4, 1), torch.zeros(4, 1)), batch_size=2)
    trainer = training.Trainer(gpus=0, enable_progress_bar=False, **{"max_epochs": 2, **options})
    evaluator = training.Lightning(module, trainer, train_dataloaders=loader, val_dataloaders=loader)
    evaluator.fit(line := one_weight())
    return line, evaluator


def test_a_training_runs_the_steps_of_a_scripts_own_module() -> None:
    # y = w with t = 0: half the square has the gradient w, so that two steps an epoch multiply w by 1 - lr each:
    # 2 -> 1 -> 0.5 at the rate 0.5, and then by 0.75 twice.
    module = Halved()
    line, evaluator = fitted(module)
    assert line.weight.item() == pytest.approx(0.5 * 0.75**2)
    assert module.called == [0, 1]
    assert module.net is line
    assert [row["lr"] for row in evaluator.history] == [0.5, 0.25]
    assert [row["half"] for row in evaluator.history] == pytest.approx([(2 + 0.5) / 2, (0.125 + 0.375**2 / 2) / 2])
    assert evaluator.history[-1]["val_mse"] == pytest.approx((0.5 * 0.75**2) ** 2)


@pytest.mark.parametrize(
    ("returned", "weight"),
    [
        (lambda sgd, scheduler: sgd, 2 / 2**4),
        (lambda sgd, scheduler: ([sgd], [scheduler]), 0.5 * 0.75**2),
        (
            lambda sgd, scheduler: {"optimizer": sgd, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}},
            2 * 0.5 * 0.75 * 0.875 * 0.9375,
        ),
    ],
)
def test_optimizers_and_schedulers_come_in_lightnings_forms(returned: Any, weight: float) -> None:
    line, _ = fitted(Halved(returned=returned))
    assert line.weight.item() == pytest.approx(weight)


def test_a_module_may_have_nothing_but_steps_of_its_own() -> None:
    class Plain(training.LightningModule):
        def __init__(self, rate: float, power: int = 2) -> None:
            super().__init__()
            self.save_hyperparameters("rate")

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=self.hparams.rate)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.log_dict({"step": self.global_step})
            return {"loss": self(batch[0]).square().mean() / 2} if batch_idx else None  # the first batch is left out

    line, evaluator = fitted(module := Plain(0.5))
    assert line.weight.item() == pytest.approx(2 * 0.5 * 0.5)
    assert vars(module.hparams) == {"rate": 0.5}
    assert [row["step"] for row in evaluator.history] == [0.5, 2.5]
    for method in ("training_step", "configure_optimizers"):
        with pytest.raises(OptionError, match=rf"Less needs {method}\(self"):
            fitted(type("Less", (Plain,), {method: getattr(training.LightningModule, method)})(0.5))


def test_what_a_training_or_a_search_would_not_run_is_refused() -> None:
    class Clips(training.ClassificationModule):
        def configure_gradient_clipping(self, *_: Any) -> None: ...

    class Manual(training.ClassificationModule):
        automatic_optimization = False

    class Steps(training.ClassificationModule):
        def on_before_zero_grad(self, _: Any) -> None: ...

    for kind, what in (
        (Clips, "configure_gradient_clipping"),
        (Manual, "automatic_opt"),
        (Steps, "on_before_zero_grad"),
    ):
        with pytest.raises(OptionError, match=f"{kind.__name__} has {what}.* is not called here"):
            kind()
    for returned in (
        lambda *_: None,
        lambda sgd, _: [sgd, sgd],
        lambda sgd, s: {"optimizer": sgd, "lr_scheduler": [s, s]},
    ):
        with pytest.raises(OptionError, match="must return"):
            fitted(Halved(returned=returned))


def searched(module: Any) -> Any:
    """The result of two epochs of a search with one weight, of two steps each."""
    loader = DataLoader(TensorDataset(torch.ones(4, 1), torch.zeros(4, 1)), batch_size=2)
    trainer = training.Trainer(max_epochs=2, gpus=0, enable_progress_bar=False)
    space = nn.Sequential(ag.LayerChoice([one_weight()], label="only"))
    experiment = nni.nas.experiment.NasExperiment(
        space, training.Lightning(module, trainer, loader, loader), nni.nas.strategy.DARTS()
    )
    experiment.run()
    return experiment.result


def test_a_search_takes_its_loss_and_optimizer_from_the_steps_of_a_scripts_own_module() -> None:
    # As in the training above: w is multiplied by 1 - lr in each of two steps an epoch, at the rates 0.5 and 0.25.
    module = Halved()
    result = searched(module)
    (weight,) = result.supernet.weights.values()
    assert weight.item() == pytest.approx(0.5 * 0.75**2)
    assert module.called == [0, 1]
    line, _ = fitted(module)  # it trains other networks afterwards
    assert line.weight.item() == pytest.approx(0.5 * 0.75**2)


def test_steps_that_a_search_cannot_take_are_refused() -> None:
    class Reads(Halved):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return self.criterion(self(batch[0]), batch[1]) * len(batch[0].shape)

    class Other(Halved):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return self.criterion(self(torch.ones(2, 1)), batch[1])

    class Nothing(Halved):
        def training_step(self, batch: Any, batch_idx: int) -> None: ...  # type: ignore[override]

    class Batches(Halved):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None: ...

    each_step = Halved(returned=lambda o, s: {"optimizer": o, "lr_scheduler": {"scheduler": s, "interval": "step"}})
    for module, message in (
        (Reads(), "asks for their shape"),
        (Other(), "the inputs of the batch alone"),
        (Nothing(), "must return a loss"),
        (Batches(), "has on_train_batch_start, which a search does not call"),
        (each_step, "interval='step'"),
    ):
        with pytest.raises(OptionError, match=message):
            searched(module)


def test_meters_keep_means_over_samples() -> None:
    meters = nni.retiarii.oneshot.pytorch.utils.AverageMeterGroup()
    meters.update({"loss": 2.0, "acc1": 0.5}, n=3)
    meters.update({"loss": torch.tensor(4.0), "acc1": 1.0}, n=1)
    assert (meters.loss.avg, meters.loss.val, meters["acc1"].avg, meters.acc1.count) == (2.5, 4.0, 0.625, 4)
    meter = nni.nas.pytorch.utils.AverageMeter("top1", ":.2f")
    meter.update(0.5, 2)
    assert (str(meter), meter.summary()) == ("top1 0.50 (0.50)", "top1: 0.50")


def test_strategies_are_methods() -> None:
    strategy = nni.nas.strategy
    method = strategy.DARTS(arc_learning_rate=0.01, warmup_epochs=1).method(3)
    assert method.alphas_optimizer.learning_rate == 0.01
    assert [(stage.epochs, stage.alphas_start_epoch) for stage in method.stages] == [(3, 1)]
    assert strategy.DARTS().method(3) == ag.Method()
    falling = strategy.GumbelDARTS(gumbel_temperature=2.0, use_temp_anneal=True, min_temp=0.5)
    assert falling.method(3).relaxation == SoftGumbel(2.0, 0.5)
    assert strategy.GumbelDARTS(temperature=0.7).method(3).relaxation == SoftGumbel(0.7, 0.7)


def test_an_experiment_that_has_not_run_has_nothing_to_export() -> None:
    experiment = nni.nas.experiment.NasExperiment(one_weight(), None, None)
    with pytest.raises(RunError, match=r"Call run\(\) first"):
        experiment.export_top_models(formatter="dict")
    with pytest.raises(OptionError, match="evaluator must be Classification"):
        experiment.run()


def test_the_space_of_the_hub_is_the_papers() -> None:
    arch = ag.architectures.DARTS_V2
    with nni.nas.space.model_context(format_hub(arch.choices, lists=True) | {"width": 16}):
        network = DARTS_SPACE(2, 3, "cifar", auxiliary_loss=True, drop_path_prob=0.3)
    derived = ag.derive(ag.spaces.darts_cifar(2, 3, 10, auxiliary=True, stage="retrain"), arch)
    assert network.state_dict().keys() == derived.state_dict().keys()
    assert {module.p for module in network.modules() if isinstance(module, DropPath)} == {0.3}
    for arguments in (((2, 4), 3, "cifar"), (2, 3, "svhn"), (2, 3, "cifar", True)):
        with pytest.raises(OptionError):
            DARTS_SPACE(*arguments)


def test_a_cell_runs_between_its_two_functions() -> None:
    class Halves(nn.Module):
        def forward(self, states: list[Tensor]) -> list[Tensor]:
            return [state / 2 for state in states]

    with nni.retiarii.fixed_arch({"c/op_1_0": "same", "c/input_1_0": 0}):
        cell = nni.retiarii.nn.pytorch.Cell(
            {"same": nn.Identity(), "other": nn.Tanh()}, 1, label="c", preprocessor=Halves(),
            postprocessor=lambda output, inputs: (output, inputs[-1]),
        )  # fmt: skip
    x = torch.tensor([[4.0, -2.0]])
    output, before = cell(x)
    assert output.tolist() == [[2.0, -1.0]]
    assert before is x
    assert cell.output_node_indices == [1]
