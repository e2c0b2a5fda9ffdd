"""Watching a search and ending it: figures to loggers, a stopping rule of one's own, and a limit of time.

    python examples/own_stopping.py --max-minutes 0.2    # ends in time, with status 124; the same line again goes on

Three ways, from the loosest to the strictest:

  on_epoch      a function that sees each epoch, writes what it likes, and may answer True to end the run there
  stopping      a rule as a part of the method: what it measures is in metrics.csv, and a resumed search obeys it alike
  max_minutes   saves and ends the run, to be resumed

The rule below is one file's class like any of archgrad's, so the command line takes it as well:

    archgrad search --space tiny --epochs 40 --alphas-learning-rate 0.02 --max-minutes 10 --out runs/stopped \\
        --stopping examples/own_stopping.py:Settled --stopping.patience 5
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.tensorboard import SummaryWriter

import archgrad as ag
from archgrad.engine import EpochState
from archgrad.epoch_end import EpochEnd


@dataclass(frozen=True)
class Settled(ag.stopping.Stopping):
    """Stop when the validation loss has not become lower for some epochs; the result is the epoch with the lowest."""

    patience: int = 5
    """Epochs without a lower loss, at least 1."""

    def probe(self, end: EpochEnd) -> Mapping[str, float | None]:
        """Measure the smallest margin of a decision, to be seen beside the loss."""
        best = [sorted(row) for row in end.supernet.probabilities().values()]
        return {"smallest_margin": min(row[-1] - row[-2] for row in best)}

    def decide(self, history: Sequence[Mapping[str, Any]]) -> ag.Stop | None:
        """Compare the last epochs with the best one."""
        best = min(history, key=lambda row: row["valid_loss"])
        since = history[-1]["epoch"] - best["epoch"]
        return ag.Stop(best["epoch"], f"no lower loss for {since} epochs") if since >= self.patience else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patience", type=int, default=5, help="epochs without a lower validation loss")
    parser.add_argument("--epochs", type=int, default=40, help="at most")
    parser.add_argument("--max-minutes", type=float, default=5.0, help="then save and end; the same line goes on")
    parser.add_argument("--out", type=Path, default=Path("runs/stopped"), help="folder of the run")
    options = parser.parse_args()

    writer = SummaryWriter(options.out / "own")  # TensorBoard's; archgrad's own figures lie beside it

    def watch(state: EpochState) -> bool:
        """Note what is decided and how large it is, and end the run once the training images are known by heart."""
        network = ag.derive(state.network, state.architecture, keep_weights=True)
        writer.add_scalar("parameters", ag.cost.count_parameters(network), state.epoch)
        with (options.out / "decisions.csv").open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow([state.epoch + 1, *state.architecture.choices.values()])
        return state.row["train_accuracy"] == 1.0

    torch.manual_seed(0)  # the first weights
    result = ag.search(
        ag.spaces.tiny(),
        "digits",
        method=ag.Method(stopping=Settled(options.patience)),
        alphas_learning_rate=0.02,
        epochs=options.epochs,
        on_epoch=watch,
        max_minutes=options.max_minutes,
        run_dir=options.out / "search",
        resume="auto",
    )
    writer.close()
    print(result)
    print("Ended early:", result.stop.reason if result.stop else "no rule asked for it")
    print(f"Curves: tensorboard --logdir {options.out}")


if __name__ == "__main__":
    main()
