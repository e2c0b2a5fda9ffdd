"""Run folders as archgrad leaves them, made without running anything."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import yaml
from safetensors.numpy import save_file

from archgrad.architecture import Architecture

OPERATIONS = (
    "none",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
PAIRS = tuple((source, node) for node in range(2, 6) for source in range(node))


def write_search(path: Path, *, epochs: int = 50, planned: int | None = None, seed: int = 0) -> Path:
    """A DARTS search on CIFAR-10: two cells of 14 edges with 8 operations."""
    path.mkdir(parents=True)
    (path / "checkpoints").mkdir()
    rng = np.random.default_rng(seed)
    config = {
        "command": "search",
        "space": "darts-cifar",
        "data": "cifar10",
        "epochs": epochs if planned is None else planned,
        "batch_size": 64,
        "seed": seed,
        "step": {"name": "unrolled", "hvp": "finite-difference"},
        "out": str(path),
    }
    (path / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    write_environment(path, seed)
    labels = [f"{cell}/{source}->{node}" for cell in ("normal", "reduce") for source, node in PAIRS]
    alphas = rng.normal(0.0, 1e-3, (len(labels), len(OPERATIONS)))
    wanted = rng.normal(0.0, 1.0, alphas.shape) + np.array([0.4, 0.1, 0.0, 0.9, 0.6, 0.2, 0.2, 0.0])
    metrics, timings = [], []
    skips = 0
    for epoch in range(epochs):
        alphas += 0.03 * wanted + rng.normal(0.0, 0.02, alphas.shape)
        rows = {label: softmax(row) for label, row in zip(labels, alphas, strict=True)}
        choices = {cell: derive(cell, rows) for cell in ("normal", "reduce")}
        skips = sum(op == "skip_connect" for cell in choices.values() for edges in cell.values() for op, _ in edges)
        save_epoch(path, epoch, choices, dict(zip(labels, alphas.tolist(), strict=True)), rows)
        entropy = float(np.mean([-np.sum(row * np.log(row)) for row in rows.values()]) / math.log(len(OPERATIONS)))
        falling = math.exp(-epoch / 14)
        metrics.append(
            {
                "epoch": epoch,
                "learning_rate": 1e-3 + 0.012 * (1 + math.cos(math.pi * epoch / 50)),
                "train_loss": 0.25 + 1.5 * falling + 0.03 * rng.normal(),
                "train_accuracy": 0.93 - 0.58 * falling + 0.006 * rng.normal(),
                "valid_loss": 0.48 + 1.3 * falling + 0.05 * rng.normal(),
                "valid_accuracy": 0.87 - 0.52 * falling + 0.01 * rng.normal(),
                "alphas_entropy": entropy,
                "alphas_gradient_norm": 0.02 * math.exp(-epoch / 30) * rng.uniform(0.7, 1.3),
                "weights_gradient_norm": 2.1 + rng.uniform(-0.5, 1.5),
                "skip_connections": skips,
                "temperature": "",
            }
        )
        timings.append(
            {
                "epoch": epoch,
                "seconds": 612.0 + 8 * rng.normal(),
                "images_per_second": 40.8 + rng.normal(),
                "peak_memory_mb": 8931.5,
                "waiting_share": 0.011 + 0.002 * rng.uniform(),
                "checkpoint_seconds": 0.31,
            }
        )
    write_csv(path / "metrics.csv", metrics)
    write_csv(path / "timings.csv", timings)
    return path


def write_broken_off(path: Path) -> Path:
    """A search that stopped at epoch 7 of 50: a line half written, a checkpoint cut off, no timings."""
    write_search(path, epochs=8, planned=50)
    (path / "timings.csv").unlink()
    (path / "checkpoints" / "epoch_7.json").write_text('{"format": "archgrad.archi', encoding="utf-8")
    content = (path / "metrics.csv").read_text(encoding="utf-8")
    (path / "metrics.csv").write_text(content.rstrip("\n")[:-14], encoding="utf-8")
    return path


def write_general(path: Path, *, epochs: int = 20, names: tuple[str, ...] = ("conv3", "conv5", "skip")) -> Path:
    """A search in a space of layer and input choices below paths."""
    path.mkdir(parents=True)
    (path / "checkpoints").mkdir()
    config = {"command": "search", "space": "my-space", "epochs": epochs, "seed": 3}
    (path / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    write_environment(path, 3)
    layers = ["stem/conv", "body/0/op", "body/1/op", "body/2/op", "head"]
    rng = np.random.default_rng(3)
    slopes = {label: rng.normal(0.0, 0.12, len(names)) for label in layers}
    joins = rng.normal(0.0, 0.12, 3)
    metrics = []
    for epoch in range(epochs):
        alphas = {
            label: dict(zip(names, ((epoch + 1) * slope).tolist(), strict=True)) for label, slope in slopes.items()
        }
        rows = {label: softmax(np.array(list(row.values()))) for label, row in alphas.items()}
        choices = {label: names[int(row.argmax())] for label, row in rows.items()}
        join = softmax((epoch + 1) * joins)
        provenance = {
            "epoch": epoch,
            "alphas": alphas | {"body/join": ((epoch + 1) * joins).tolist()},
            "probabilities": {k: dict(zip(names, row.tolist(), strict=True)) for k, row in rows.items()}
            | {"body/join": join.tolist()},
        }
        chosen = sorted(np.argsort(-join)[:2].tolist())
        architecture = Architecture(choices | {"body/join": chosen}, space="my-space", provenance=provenance)
        architecture.save(path / "checkpoints" / f"epoch_{epoch}.json")
        metrics.append(
            {
                "epoch": epoch,
                "train_loss": 1.0 / (epoch + 1),
                "valid_loss": 1.2 / (epoch + 1),
                "train_mae": 0.5 / (epoch + 1),
                "valid_mae": 0.6 / (epoch + 1),
                "temperature": 10.0 * 0.7**epoch,
            }
        )
    write_csv(path / "metrics.csv", metrics)
    return path


def write_retrain(path: Path, *, epochs: int = 60, worst: bool = True, seed: int = 0) -> Path:
    """A retraining with predictions and the worst-classified images."""
    path.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    config = {"command": "retrain", "data": "cifar10", "epochs": epochs, "seed": seed, "cutout": 16}
    (path / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    write_environment(path, seed)
    rows = {f"{cell}/{s}->{n}": softmax(rng.normal(size=8)) for cell in ("normal", "reduce") for s, n in PAIRS}
    choices = {cell: derive(cell, rows) for cell in ("normal", "reduce")}
    Architecture(choices, space="darts-cifar").save(path / "architecture.json")
    metrics = [
        {
            "epoch": epoch,
            "learning_rate": 0.0125 * (1 + math.cos(math.pi * epoch / epochs)),
            "drop_path": 0.2 * epoch / epochs,
            "train_loss": 0.1 + 1.7 * math.exp(-epoch / 12),
            "train_accuracy": 0.99 - 0.6 * math.exp(-epoch / 12),
            "test_loss": 0.2 + 1.6 * math.exp(-epoch / 12),
            "test_accuracy": 0.96 - 0.6 * math.exp(-epoch / 12),
            "weights_gradient_norm": 2.0 + rng.uniform(),
        }
        for epoch in range(epochs)
    ]
    write_csv(path / "metrics.csv", metrics)
    targets = rng.integers(0, 10, 2000)
    logits = rng.normal(size=(2000, 10)).astype(np.float32)
    logits[np.arange(2000), targets] += 4.0
    near = rng.integers(0, 10, 10)
    logits[np.arange(2000), near[targets]] += 1.6
    save_file({"targets": targets, "logits": logits}, path / "predictions.safetensors")
    summary = {
        "test_accuracy": float((logits.argmax(1) == targets).mean()),
        "test_loss": 0.21,
        "parameters": 3349342,
        "multiply_adds": 539000000,
        "seconds": 86400.0,
        "classes": list(CLASSES),
        "mean": [0.4914, 0.4822, 0.4465],
        "std": [0.2470, 0.2435, 0.2616],
        "image_shape": [3, 32, 32],
    }
    (path / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    if worst:
        ramp = np.linspace(0, 255, 32)
        shapes = [np.outer(np.sin(ramp / (20 + 7 * k)) ** 2, np.cos(ramp / (30 + 5 * k)) ** 2) for k in range(16)]
        images = np.stack([np.stack([255 * s, 255 * s.T, 255 - 255 * s]) for s in shapes]).astype(np.uint8)
        numbers = np.arange(16)
        save_file(
            {
                "images": images,
                "targets": numbers % 10,
                "predicted": (numbers + 3) % 10,
                "confidence": np.linspace(0.999, 0.81, 16, dtype=np.float32),
            },
            path / "worst.safetensors",
        )
    return path


def write_environment(path: Path, seed: int) -> None:
    record = {
        "started": "2026-01-05T09:30:00+00:00",
        "command_line": "archgrad search --data cifar10 --epochs 50",
        "seed": seed,
        "versions": {"python": "3.11.7", "archgrad": "0.1.0", "torch": "2.6.0"},
        "hardware": {"processor": "a processor", "cores": 2, "gpus": [{"name": "a GPU", "memory_mb": 81920}]},
    }
    (path / "environment.json").write_text(json.dumps(record), encoding="utf-8")


def write_csv(path: Path, rows: list[dict[str, object]]) -> None:
    lines = [",".join(rows[0])] + [",".join(str(value) for value in row.values()) for row in rows]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def softmax(row: np.ndarray) -> np.ndarray:
    shifted = np.exp(row - row.max())
    return shifted / shifted.sum()


def derive(cell: str, rows: dict[str, np.ndarray]) -> dict[str, list[list[object]]]:
    """The paper's rule: per node the two sources with the strongest operation but `none`."""
    decision = {}
    for node in range(2, 6):
        best = []
        for source in range(node):
            row = rows[f"{cell}/{source}->{node}"][1:]
            best.append((float(row.max()), OPERATIONS[1 + int(row.argmax())], source))
        decision[str(node)] = [[op, source] for _, op, source in sorted(best, reverse=True)[:2]]
    return decision


def save_epoch(path: Path, epoch: int, choices: dict, alphas: dict, rows: dict[str, np.ndarray]) -> None:
    named = {label: dict(zip(OPERATIONS, row, strict=True)) for label, row in alphas.items()}
    provenance = {
        "epoch": epoch,
        "alphas": named,
        "probabilities": {label: dict(zip(OPERATIONS, row.tolist(), strict=True)) for label, row in rows.items()},
    }
    architecture = Architecture(choices, space="darts-cifar", provenance=provenance)
    architecture.save(path / "checkpoints" / f"epoch_{epoch}.json")
