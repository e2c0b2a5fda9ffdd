"""The whole main job in a few minutes: search on real digits, retrain, compare with a random architecture, report.

python examples/demo.py [--out runs/demo] [--seed 0]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

import archgrad as ag
from archgrad.report import write_report
from archgrad.show import to_text

CHANNELS, CELLS = 8, 3
SEARCH_EPOCHS, RETRAIN_EPOCHS = 6, 40


def retrain(architecture: ag.Architecture, out: Path, seed: int) -> float:
    torch.manual_seed(seed)
    space = ag.spaces.darts_cifar(2 * CHANNELS, CELLS, num_classes=10, in_channels=1, stage="retrain")
    result = ag.retrain(
        ag.derive(space, architecture),
        "digits",
        architecture=architecture,
        epochs=RETRAIN_EPOCHS,
        batch_size=32,
        cutout=0,
        drop_path=0.0,
        weight_decay=3e-3,  # ten times the paper's, for 1,437 images instead of 50,000; smoothing for the same reason
        label_smoothing=0.1,
        seed=seed,
        run_dir=out,
        overwrite=True,
        log_frequency=None,
    )
    assert result.test_accuracy is not None
    return result.test_accuracy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder of the three runs")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    began = time.perf_counter()

    print("1. Search: 8 operations on 14 edges, first order, on 1,437 real digits of 8x8 pixels")
    torch.manual_seed(options.seed)  # the space's first weights
    space = ag.spaces.darts_cifar(CHANNELS, CELLS, num_classes=10, in_channels=1)
    found = ag.search(
        space,
        "digits",
        step=ag.bilevel.FirstOrder(),
        epochs=SEARCH_EPOCHS,
        alphas_learning_rate=0.02,  # this search takes a hundredth of the paper's steps, and so larger ones
        seed=options.seed,
        run_dir=options.out / "search",
        overwrite=True,
    ).architecture
    print(to_text(found))

    print("2. Retrain it from scratch, and a random architecture of the same space with the same budget")
    accuracy = retrain(found, options.out / "retrain", options.seed)
    random = ag.random_architecture(space, seed=options.seed, name="darts-cifar")
    random_accuracy = retrain(random, options.out / "retrain-random", options.seed)

    print("3. Report")
    runs = [options.out / name for name in ("search", "retrain", "retrain-random")]
    report = write_report(runs, out=options.out / "report.html")

    print()
    print(f"Test accuracy on 360 digits: {100 * accuracy:.2f} % (searched), {100 * random_accuracy:.2f} % (random)")
    print(f"Architecture: {options.out / 'search' / 'checkpoints' / f'epoch_{SEARCH_EPOCHS - 1}.json'}")
    print(f"Weights:      {options.out / 'retrain' / 'weights' / 'last.safetensors'}")
    print(f"Report:       {report} (open it in a browser)")
    print(f"Took {time.perf_counter() - began:.0f} s.")


if __name__ == "__main__":
    main()
