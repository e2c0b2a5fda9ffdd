"""A fit can be interrupted and gone on with, and happens once."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from nni_problems import Line, images, ones_and_zeros, trainer, weight
from torch import Tensor, nn

import archgrad as ag
from archgrad.errors import NonFiniteError, OptionError, RunError
from archgrad.runs import Interrupted


class Metrics:
    """Sends SIGTERM in the given step; each step measures twice."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.calls = 0
        self.stop_at = stop_at

    def __call__(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        self.calls += 1
        if self.calls == self.stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return {"acc1": (outputs.argmax(1) == targets).float().mean()}


def make(run_dir: Path | None, *, stop_at: int | None = None, **options: Any) -> ag.DartsTrainer:
    torch.manual_seed(0)
    model = ag.spaces.tiny(channels=2, num_classes=3)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    given = {"loss": nn.CrossEntropyLoss(), "metrics": Metrics(stop_at), "dataset": images(), "num_epochs": 3}
    return trainer(model, optimizer, **{**given, "run_dir": run_dir, **options})


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> ag.DartsTrainer:
    made = make(tmp_path_factory.mktemp("whole") / "run")
    made.fit()
    return made


def assert_same(made: ag.DartsTrainer, expected: ag.DartsTrainer) -> None:
    assert made.history == expected.history
    theirs = expected.supernet.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in made.supernet.state_dict().items())
    assert made.export() == expected.export()


@pytest.mark.parametrize("stop_at", [3, 20])
def test_a_new_trainer_goes_on_to_the_same_end(tmp_path: Path, uninterrupted: ag.DartsTrainer, stop_at: int) -> None:
    with pytest.raises(Interrupted):
        make(tmp_path / "run", stop_at=stop_at).fit()
    made = make(tmp_path / "run")
    made.fit(resume=True)
    assert_same(made, uninterrupted)


def test_the_path_of_the_run_is_enough_to_go_on(tmp_path: Path, uninterrupted: ag.DartsTrainer) -> None:
    with pytest.raises(Interrupted):
        make(tmp_path / "run", stop_at=6).fit()
    made = make(None)
    result = made.fit(resume=str(tmp_path / "run"))
    assert_same(made, uninterrupted)
    assert result.run_dir == tmp_path / "run"


def test_the_interrupted_trainer_itself_goes_on(tmp_path: Path, uninterrupted: ag.DartsTrainer) -> None:
    made = make(tmp_path / "run", stop_at=6)
    with pytest.raises(Interrupted):
        made.fit()
    made.fit(resume=True)
    assert_same(made, uninterrupted)


def test_auto_begins_and_goes_on(tmp_path: Path, uninterrupted: ag.DartsTrainer) -> None:
    with pytest.raises(Interrupted):
        make(tmp_path / "run", stop_at=6).fit(resume="auto")
    made = make(tmp_path / "run")
    made.fit(resume="auto")
    assert_same(made, uninterrupted)
    with pytest.raises(OptionError, match="needs the trainer's run_dir"):
        make(None).fit(resume="auto")


def test_a_run_folder_holds_an_architecture_an_epoch_and_the_optimizer(uninterrupted: ag.DartsTrainer) -> None:
    run_dir = uninterrupted._run_dir
    assert run_dir is not None
    assert ag.Architecture.load(run_dir / "checkpoints" / "epoch_2.json") == uninterrupted.architecture()
    config = (run_dir / "config.yaml").read_text()
    assert "trainer: DartsTrainer" in config
    assert "name: SGD" in config
    assert "learning_rate: 0.1" in config


def test_another_optimizer_is_refused_on_resume(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        make(tmp_path / "run", stop_at=6).fit()
    made = trainer(
        ag.spaces.tiny(channels=2, num_classes=3),
        torch.optim.Adam,
        loss=nn.CrossEntropyLoss(),
        metrics=Metrics(),
        dataset=images(),
        num_epochs=3,
        run_dir=tmp_path / "run",
    )
    with pytest.raises(RunError, match="optimizer"):
        made.fit(resume=True)


def test_a_run_folder_is_overwritten_only_when_told(tmp_path: Path) -> None:
    options = {"run_dir": tmp_path / "run"}
    trainer(Line(), **options).fit()
    again = trainer(Line(), **options)
    with pytest.raises(RunError, match="not empty"):
        again.fit()
    assert weight(again) == 2.0
    trainer(Line(), **options, overwrite=True).fit()


def test_fit_trains_once_but_may_be_called_again_when_it_had_not_begun(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    made = trainer(Line(), run_dir=tmp_path / "run")
    with pytest.raises(RunError, match="not empty"):
        made.fit()
    (tmp_path / "run" / "notes.txt").unlink()
    made.fit()
    before = weight(made)
    with pytest.raises(RunError, match=r"already.*fit\(resume=True\)"):
        made.fit()
    assert weight(made) == before


def test_a_trainer_that_began_cannot_resume_without_a_checkpoint(tmp_path: Path) -> None:
    made = trainer(Line(), loss=lambda y, t: (y * float("nan")).mean(), run_dir=tmp_path / "run")
    with pytest.raises(NonFiniteError):
        made.fit()
    with pytest.raises(RunError, match="already"):
        made.fit(resume=True)


def test_resume_needs_a_folder(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"resume=True.*run_dir"):
        trainer(Line()).fit(resume=True)
    with pytest.raises(OptionError, match="resume=7"):
        trainer(Line()).fit(resume=7)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="is not the trainer's run_dir"):
        trainer(Line(), run_dir=tmp_path / "a").fit(resume=tmp_path / "b")
    with pytest.raises(RunError, match="no run folder"):
        trainer(Line()).fit(resume=tmp_path / "nothing")


def test_a_loss_that_is_not_a_mean_is_an_error() -> None:
    made = trainer(Line(), loss=nn.MSELoss(reduction="none"))
    with pytest.raises(OptionError, match=r"loss must return a 0-dimensional tensor.*shape \(4,\)"):
        made.fit()
    with pytest.raises(OptionError, match="returned float"):
        trainer(Line(), loss=lambda y, t: 1.0).fit()


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ("high", "metrics must return a dict .* but returned str"),
        ({"loss": 0.5}, "must not return 'loss'"),
        ({"acc1": "high"}, "'acc1': str"),
        ({"acc1": torch.zeros(2)}, "'acc1': Tensor"),
        ({1: 0.5}, "1: float"),
    ],
)
def test_metrics_that_are_no_numbers_by_name_are_an_error(returned: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        trainer(Line(), metrics=lambda y, t: returned).fit()


@pytest.mark.parametrize("steps", [None, 1])
def test_checkpoint_steps_writes_within_an_epoch(tmp_path: Path, steps: int | None) -> None:
    written: list[bool] = []

    def metrics(outputs: Tensor, targets: Tensor) -> dict[str, float]:
        written.append((tmp_path / "run" / "checkpoints" / "last.ckpt").is_file())
        return {}

    options = {"dataset": ones_and_zeros(16), "run_dir": tmp_path / "run", "checkpoint_steps": steps}
    trainer(Line(), metrics=metrics, **options).fit()
    assert written == [False, False, steps is not None, steps is not None]
