"""The running means that scripts for NNI 2 keep in their own training loops."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["AverageMeter", "AverageMeterGroup"]


class AverageMeter:
    """The last value, the sum and the mean of what it was given.

    Args:
        name: For its text.
        fmt: Format of numbers, as ":.3f".
    """

    def __init__(self, name: str, fmt: str = ":f") -> None:
        self.name, self.fmt = name, fmt
        self.reset()

    def reset(self) -> None:
        """Begin anew."""
        self.val = self.sum = self.avg = 0.0
        self.count = 0

    def update(self, val: float, n: int = 1) -> None:
        """Take in a mean over `n` samples."""
        self.val = float(val)
        self.sum += self.val * n
        self.count += n
        self.avg = self.sum / self.count

    def __str__(self) -> str:
        form = self.fmt.removeprefix(":")
        return f"{self.name} {self.val:{form}} ({self.avg:{form}})"

    def summary(self) -> str:
        """Return name and mean."""
        return f"{self.name}: {self.avg:{self.fmt.removeprefix(':')}}"


class AverageMeterGroup:
    """A meter for each name, which are its attributes."""

    def __init__(self) -> None:
        self.meters: dict[str, AverageMeter] = {}

    def update(self, data: Mapping[str, float], n: int = 1) -> None:
        """Take in means over `n` samples by name."""
        for name, value in data.items():
            self.meters.setdefault(name, AverageMeter(name, ":4f")).update(value, n)

    def __getattr__(self, name: str) -> AverageMeter:
        if name != "meters" and name in self.meters:
            return self.meters[name]
        raise AttributeError(name)

    def __getitem__(self, name: str) -> AverageMeter:
        return self.meters[name]

    def __str__(self) -> str:
        return "  ".join(map(str, self.meters.values()))

    def summary(self) -> str:
        """Return names and means."""
        return "  ".join(meter.summary() for meter in self.meters.values())
