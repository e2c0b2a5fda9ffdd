"""The best network below a limit: the likeliest candidates that together have no more than so many parameters.

    python examples/limit_parameters.py --limit 8000

A selection is the part of a method that ranks candidates when an architecture is derived. The one below goes through
the choices and keeps, of all that can be taken so far, what no other beats in both parameters and probability. It is a
part like those that come with archgrad, so the command line takes it, too:

    archgrad search --space examples/limit_parameters.py:Layers --epochs 20 --alphas-learning-rate 0.02 \\
        --selection examples/limit_parameters.py:WithinLimit --selection.limit 8000 --out runs/limit
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

import archgrad as ag


@dataclass(frozen=True)
class WithinLimit(ag.selection.Selection):
    """The likeliest of all architectures whose network is within the limit."""

    limit: int
    """Most parameters of the whole network."""

    def scores(self, supernet: ag.Supernet) -> dict[str, list[float]]:
        """Return 1 for what is taken and else 0; every choice must be a `LayerChoice` with a label of its own."""
        sizes = {e.label: [ag.cost.count_parameters(e.choice[name]) for name in e.choice] for e in supernet.choices}
        rest = sum(weight.numel() for weight in supernet.weights.values()) - sum(map(sum, sizes.values()))
        front = [(rest, 1.0, ())]  # parameters, probability, what is taken: none is both larger and less likely
        for label, row in supernet.probabilities().items():
            longer = [
                (parameters + size, probability * p, (*taken, place))
                for parameters, probability, taken in front
                for place, (size, p) in enumerate(zip(sizes[label], row, strict=True))
            ]
            front = []
            for option in sorted(longer, key=lambda option: (option[0], -option[1])):
                if option[0] <= self.limit and (not front or option[1] > front[-1][1]):
                    front.append(option)
        if not front:
            raise ag.errors.OptionError(f"No network of the space has limit={self.limit} parameters or less.")
        best = zip(supernet.probabilities().items(), front[-1][2], strict=True)
        return {label: [float(place == taken) for place in range(len(row))] for (label, row), taken in best}


class Layers(nn.Sequential):
    """Three layers, each one of five kinds, cheap and dear."""

    def __init__(self, in_channels: int = 1, num_classes: int = 10, channels: int = 16) -> None:
        def conv(size: int) -> nn.Module:
            return nn.Conv2d(channels, channels, size, padding=size // 2)

        def layer(label: str) -> nn.Module:
            thin = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, groups=channels), conv(1))
            candidates = {"conv5": conv(5), "conv3": conv(3), "thin3": thin, "conv1": conv(1), "skip": nn.Identity()}
            return nn.Sequential(ag.LayerChoice(candidates, label=label), nn.BatchNorm2d(channels), nn.ReLU())

        super().__init__(
            nn.Conv2d(in_channels, channels, 3, padding=1),
            *[layer(f"layer{number}") for number in range(3)],
            nn.AdaptiveMaxPool2d(1),
            nn.Flatten(),
            nn.Linear(channels, num_classes),
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=8000, help="most parameters")
    parser.add_argument("--epochs", type=int, default=20, help="of the search; a retraining has half of them")
    parser.add_argument("--out", type=Path, default=Path("runs/limit"), help="folder of the runs")
    options = parser.parse_args()

    torch.manual_seed(0)  # the first weights
    space = Layers()
    method = ag.Method(selection=WithinLimit(options.limit))
    common = {"overwrite": True, "quiet": True}
    found = ag.search(
        space,
        "digits",
        method=method,
        alphas_learning_rate=0.02,
        epochs=options.epochs,
        run_dir=options.out / "search",
        **common,
    )
    unlimited = ag.discretize(found.supernet)  # what the same alphas say without a limit
    for name, architecture in (("limited", found.architecture), ("unlimited", unlimited)):
        network = ag.derive(space, architecture)
        trained = ag.retrain(
            network,
            "digits",
            architecture=architecture,
            epochs=max(options.epochs // 2, 1),
            cutout=0,
            drop_path=0,
            run_dir=options.out / name,
            **common,
        )
        print(f"{name}: {', '.join(architecture.choices.values())}")
        print(f"  {ag.cost.count_parameters(network):,} parameters, test accuracy {trained.test_accuracy:.1%}")


if __name__ == "__main__":
    main()
