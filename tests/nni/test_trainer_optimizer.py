"""The optimizer of NNI's users: an instance over the model, or what makes one."""

from __future__ import annotations

import functools
from collections.abc import Iterable

import pytest
import torch
from nni_problems import Gate, Line, images, ones_and_zeros, trainer, weight
from torch import Tensor, nn

import archgrad as ag
from archgrad.errors import OptionError


def test_an_instance_over_the_model_trains_the_supernet_at_its_own_learning_rate() -> None:
    model = Line(w=2.0)
    optimizer = torch.optim.SGD(model.parameters(), 0.25)
    made = trainer(model, optimizer)
    held = [p for group in optimizer.param_groups for p in group["params"]]
    assert {id(p) for p in held} == {id(p) for p in made.supernet.weights.values()}
    made.fit()
    assert weight(made) == pytest.approx(2.0 - 0.25 * 2.0)
    assert model.w.item() == 2.0


def test_groups_keep_their_options() -> None:
    # Both gradients are w + v = 2.
    model = Line(w=1.5, v=0.5)
    optimizer = torch.optim.SGD([{"params": [model.v], "lr": 0.01}, {"params": [model.w], "weight_decay": 0.5}], lr=0.1)
    made = trainer(model, optimizer)
    made.fit()
    assert weight(made, "v") == pytest.approx(0.5 - 0.01 * 2.0)
    assert weight(made, "w") == pytest.approx(1.5 - 0.1 * (2.0 + 0.5 * 1.5))


def test_a_parameter_that_the_optimizer_does_not_hold_stays() -> None:
    model = Line(w=2.0, v=1.0)
    made = trainer(model, torch.optim.SGD([model.w], 0.1))
    made.fit()
    assert weight(made, "v") == 1.0
    assert weight(made, "w") == pytest.approx(2.0 - 0.1 * 3.0)


def test_momentum_goes_on() -> None:
    # The user's step: buffer 1, w = 2 - 0.1. The trainer's: buffer 0.9 * 1 + 1.9 = 2.8, w = 1.9 - 0.28.
    model = Line(w=2.0)
    optimizer = torch.optim.SGD([model.w], 0.1, momentum=0.9)
    model.w.grad = torch.ones_like(model.w)
    optimizer.step()
    made = trainer(model, optimizer)
    made.fit()
    assert weight(made) == pytest.approx(1.62)
    assert model.w.item() == pytest.approx(1.9)


def test_the_state_of_adam_goes_on() -> None:
    model = Line(w=2.0)
    optimizer = torch.optim.Adam([model.w], 0.1)
    model.w.grad = torch.ones_like(model.w)
    optimizer.step()
    made = trainer(model, optimizer)
    made.fit()
    state = optimizer.state[made.supernet.network.w]
    assert float(state["step"]) == 2.0
    assert float(state["exp_avg"]) == pytest.approx(0.9 * 0.1 + 0.1 * 1.9)  # w was 1.9 after the first step


def test_a_scheduler_attached_before_goes_on_setting_the_learning_rate() -> None:
    # Learning rates 0.1 and 0.05: w = 2 * 0.9 * 0.95.
    model = Line(w=2.0)
    optimizer = torch.optim.SGD([model.w], 0.1)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
    calls = 0

    def metrics(outputs: Tensor, targets: Tensor) -> dict[str, float]:
        nonlocal calls
        calls += 1
        if calls % 2 == 0:  # once a step: training and validation batch
            scheduler.step()
        return {}

    made = trainer(model, optimizer, metrics=metrics, num_epochs=2)
    made.fit()
    assert weight(made) == pytest.approx(2.0 * 0.9 * 0.95)
    assert optimizer.param_groups[0]["initial_lr"] == 0.1
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.025)
    assert [row["learning_rate"] for row in made.history] == [0.1, 0.05]


def test_a_module_used_twice_is_followed() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = Gate(w=1.0)
            self.again = self.first

        def forward(self, x: Tensor) -> Tensor:
            return self.again(self.first(x))

    model = Twice()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    made = trainer(model, optimizer)
    made.fit()
    assert weight(made, "first.w") != 1.0


def with_one_group(parameters: Iterable[nn.Parameter], lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD([{"params": list(parameters)}], lr=lr, momentum=0.5)


@pytest.mark.parametrize(
    "maker",
    [torch.optim.SGD, functools.partial(torch.optim.SGD, momentum=0.9), with_one_group],
    ids=["class", "partial", "function"],
)
@pytest.mark.parametrize("rate", [None, 0.5])
def test_a_class_or_function_is_given_the_learning_rate(maker: object, rate: float | None) -> None:
    # The first step of SGD is the gradient times the learning rate, with or without momentum.
    made = trainer(Line(w=2.0), maker, **({} if rate is None else {"learning_rate": rate}))
    made.fit()
    assert weight(made) == pytest.approx(2.0 - (0.0025 if rate is None else rate) * 2.0)


def test_a_partial_with_a_learning_rate_keeps_it() -> None:
    made = trainer(Line(w=2.0), functools.partial(torch.optim.SGD, lr=0.5))
    made.fit()
    assert weight(made) == pytest.approx(1.0)


@pytest.mark.parametrize("rate", [0.1, 0.01])
def test_a_learning_rate_that_is_the_optimizers_is_accepted(rate: float) -> None:
    model = Line(w=2.0, v=0.0)
    optimizer = torch.optim.SGD([{"params": [model.v], "lr": 0.01}, {"params": [model.w]}], lr=0.1)
    made = trainer(model, optimizer, learning_rate=rate)
    made.fit()
    assert weight(made, "w") == pytest.approx(2.0 - 0.1 * 2.0)


@pytest.mark.parametrize("maker", ["instance", "partial"])
def test_a_learning_rate_that_is_not_the_optimizers_is_an_error(maker: str) -> None:
    model = Line()
    optimizer = functools.partial(torch.optim.SGD, lr=0.1)
    with pytest.raises(OptionError, match=r"learning_rate=0\.5 is not .* own .*, which is 0\.1 and holds\. Leave"):
        trainer(model, optimizer(model.parameters()) if maker == "instance" else optimizer, learning_rate=0.5)


def test_an_error_leaves_the_optimizer_with_its_model() -> None:
    model = Line()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with pytest.raises(OptionError):
        trainer(model, optimizer, learning_rate=0.5)
    with pytest.raises(OptionError):
        trainer(model, optimizer, num_epochs=0)
    assert optimizer.param_groups[0]["params"][0] is model.w


def test_an_optimizer_of_another_model_is_an_error() -> None:
    with pytest.raises(OptionError, match=r"1 parameters that are not the model's.*model\.parameters\(\)"):
        trainer(Line(), torch.optim.SGD(Line().parameters(), 0.1))


def test_a_function_without_lr_is_an_error() -> None:
    with pytest.raises(OptionError, match=r"callable as optimizer\(parameters, lr=learning_rate\).*functools\.partial"):
        trainer(Line(), lambda parameters: torch.optim.SGD(parameters, 0.1))


@pytest.mark.parametrize("given", [None, "sgd", lambda parameters, lr: None])
def test_something_that_is_no_optimizer_is_an_error(given: object) -> None:
    with pytest.raises(OptionError, match=r"optimizer must .* Give for example torch\.optim\.SGD"):
        trainer(Line(), given)


def test_an_optimizer_that_needs_a_closure_is_an_error() -> None:
    with pytest.raises(OptionError, match="LBFGS needs one"):
        trainer(Line(), torch.optim.LBFGS)


def test_unrolled_with_an_optimizer_that_it_cannot_look_through_is_an_error() -> None:
    model = Line()
    with pytest.raises(OptionError, match="RMSprop"):
        trainer(model, torch.optim.RMSprop(model.parameters()), unrolled=True)
    trainer(model, torch.optim.RMSprop(model.parameters()))


def test_a_cosine_schedule_beside_the_users_scheduler_is_an_error() -> None:
    model = Line()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
    with pytest.raises(OptionError, match="scheduler of its own"):
        trainer(model, optimizer, schedule="cosine")


def test_it_learns() -> None:
    # Class k has its pixels around k: any network of this space can tell them apart.
    dataset = images(96)
    inputs, targets = dataset.tensors
    shifted = torch.utils.data.TensorDataset(0.1 * inputs + targets[:, None, None, None], targets)
    torch.manual_seed(0)
    model = ag.spaces.tiny(channels=4, num_classes=3)
    made = trainer(
        model,
        torch.optim.SGD(model.parameters(), 0.1, momentum=0.9),
        loss=nn.CrossEntropyLoss(),
        metrics=lambda y, t: {"acc1": (y.argmax(1) == t).float().mean()},
        dataset=shifted,
        num_epochs=6,
        batch_size=16,
    )
    made.fit()
    assert made.history[-1]["train_loss"] < 0.5 * made.history[0]["train_loss"]
    assert made.history[-1]["valid_acc1"] > 0.8


def test_zero_learning_rate_of_a_warm_up_is_accepted() -> None:
    model = Line(w=2.0)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.0 if epoch == 0 else 1.0)
    made = trainer(model, optimizer, dataset=ones_and_zeros(), learning_rate=0.1)
    made.fit()
    assert weight(made) == 2.0
