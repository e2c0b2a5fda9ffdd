"""Methods compared over seeds, with random architectures beside them: mean and spread, and one report.

    python examples/compare_methods.py --methods darts gdas drnas --seeds 3

Every method and seed is searched once and retrained once, all under the same budget; so are random architectures of the
same space. A method whose mean lies no further from the random ones than they spread has found nothing here. The same
from the command line is one line a run, and a report of them all:

    archgrad search --space tiny --method gdas --seed 1 --epochs 20 --alphas-learning-rate 0.02 --out runs/gdas-1
    archgrad retrain --arch runs/gdas-1 --seed 1 --epochs 10 --cutout 0 --drop-path 0 --out runs/gdas-1-retrain
    archgrad retrain --arch random --space tiny --seed 1 --epochs 10 --cutout 0 --drop-path 0 --out runs/random-1
    archgrad report runs/gdas-1-retrain runs/random-1
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import torch

import archgrad as ag


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=["darts", "gdas"], help="names as in `archgrad methods`")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each method")
    parser.add_argument("--epochs", type=int, default=20, help="of each search; a retraining has half of them")
    parser.add_argument("--data", default="digits", help="anything that `archgrad search --data` takes")
    parser.add_argument("--out", type=Path, default=Path("runs/compared"), help="folder of the runs")
    options = parser.parse_args()

    data = ag.data.load(options.data)
    found: dict[str, list[float]] = {name: [] for name in (*options.methods, "random")}
    for name, accuracies in found.items():
        for seed in range(options.seeds):
            torch.manual_seed(seed)  # the first weights
            space = ag.spaces.tiny(num_classes=len(data.classes), in_channels=data.channels)
            if name == "random":
                architecture = ag.random_architecture(space, seed=seed, name="tiny")
            else:
                architecture = ag.search(
                    space,
                    data,
                    method=name,
                    epochs=options.epochs,
                    alphas_learning_rate=0.02,
                    seed=seed,
                    run_dir=options.out / f"{name}-{seed}",
                    overwrite=True,
                    quiet=True,
                ).architecture
            trained = ag.retrain(
                ag.derive(space, architecture),
                data,
                architecture=architecture,
                epochs=max(options.epochs // 2, 1),
                cutout=0,
                drop_path=0,
                seed=seed,
                run_dir=options.out / f"{name}-{seed}-retrained",
                overwrite=True,
                quiet=True,
            )
            accuracies.append(trained.test_accuracy)
            print(f"{name}, seed {seed}: {trained.test_accuracy:.1%}  {dict(architecture.choices)}")

    print(f"\n{'method':<16} {'test accuracy':>16}   of {options.seeds} seeds")
    for name, accuracies in found.items():
        spread = statistics.stdev(accuracies) if len(accuracies) > 1 else float("nan")
        print(f"{name:<16} {100 * statistics.mean(accuracies):8.1f} ± {spread * 100:.1f} %")
    runs = [options.out / f"{name}-{seed}-retrained" for name in found for seed in range(options.seeds)]
    print(f"\nReport: {ag.write_report(runs, out=options.out / 'report.html')}")


if __name__ == "__main__":
    main()
