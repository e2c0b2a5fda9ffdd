"""Windows of a sensor: the vibration of motors, three classes, searched and retrained from an .npz file.

    python examples/sensor_windows.py

The signals are made here, by formulas: a motor that is well, one that is out of balance (its own speed is loud), one
with a worn bearing (short bursts, several a turn). Each motor has its own speed, loudness and noise, and the motors of
the test set are others than those of the training set, so that the network cannot know them. With a file of your own
(arrays x and y, or with x_test and y_test as well), the same from the command line:

    archgrad search --data FILE.npz --space examples/sensor_windows.py:SensorNet --epochs 20 --out runs/windows
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import nn

import archgrad as ag

LENGTH, RATE = 256, 2000.0  # samples of a window; samples a second


def record(motors: int, windows: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return x (N, 1, LENGTH) float32 and y (N,), `windows` windows of each of `motors` motors a class."""
    x, y = [], []
    seconds = np.arange(LENGTH) / RATE
    for kind in range(3):
        for _ in range(motors):
            speed, loudness, noise = random.uniform(20, 40), random.uniform(0.5, 2), random.uniform(0.8, 1.6)
            for _ in range(windows):
                turns = speed * (seconds + random.uniform(0, 1))
                signal = (1.2 if kind == 1 else 0.6) * np.sin(2 * np.pi * turns) + noise * random.normal(size=LENGTH)
                if kind == 2:
                    since = (3.6 * turns % 1) / (3.6 * speed)  # seconds since the last of 3.6 bursts a turn
                    signal += 2.5 * np.exp(-since / 0.002) * np.sin(2 * np.pi * 400 * since)
                x.append(loudness * signal[None])
                y.append(kind)
    return np.array(x, dtype=np.float32), np.array(y)


class SensorNet(nn.Module):
    """Two convolutions over time, of chosen reach, and a chosen way to sum up the window."""

    def __init__(self, num_classes: int = 3, sensors: int = 1, channels: int = 12) -> None:
        super().__init__()

        def over_time(c_in: int, label: str) -> nn.Module:
            candidates = {f"{k} long": nn.Conv1d(c_in, channels, k, padding=k // 2) for k in (3, 9, 31)}
            candidates["9 of 33"] = nn.Conv1d(c_in, channels, 9, padding=16, dilation=4)
            return nn.Sequential(ag.LayerChoice(candidates, label=label), nn.BatchNorm1d(channels), nn.ReLU())

        self.body = nn.Sequential(over_time(sensors, "first"), nn.MaxPool1d(2), over_time(channels, "second"))
        self.pool = ag.LayerChoice({"mean": nn.AdaptiveAvgPool1d(1), "max": nn.AdaptiveMaxPool1d(1)}, label="pool")
        self.head = nn.Linear(channels, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (B, num_classes) of windows (B, sensors, time)."""
        x = x / x.std((1, 2), keepdim=True)  # how loud a motor is says nothing
        return self.head(self.pool(self.body(x)).flatten(1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/windows"), help="folder of the data and the runs")
    parser.add_argument("--motors", type=int, default=20, help="of each class to learn from")
    parser.add_argument("--epochs", type=int, default=20, help="of the search, and of the retraining")
    options = parser.parse_args()

    random = np.random.default_rng(0)
    (x, y), (x_test, y_test) = record(options.motors, 12, random), record(10, 12, random)
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "windows.npz"
    np.savez(file, x=x, y=y, x_test=x_test, y_test=y_test)

    torch.manual_seed(0)  # the first weights
    space = SensorNet()
    common = {"epochs": options.epochs, "batch_size": 32, "overwrite": True}
    found = ag.search(space, str(file), alphas_learning_rate=0.02, run_dir=options.out / "search", **common)
    print(found)
    print("Margins:", {label: round(margin, 2) for label, margin in found.margins.items()})

    trained = ag.retrain(
        ag.derive(space, found),
        str(file),
        architecture=found.architecture,
        drop_path=0,
        run_dir=options.out / "retrain",
        **common,
    )
    print(f"Test accuracy on {len(y_test)} windows of motors never heard: {trained.test_accuracy:.1%} (chance: 33 %)")


if __name__ == "__main__":
    main()
