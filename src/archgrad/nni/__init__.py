"""The class that DARTS on NNI documented."""

from archgrad.nni.trainer import DartsTrainer

__all__ = ["DartsTrainer"]
