"""The recipes of the field for photographs, as options of a retraining."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

__all__ = ["RECIPES", "RECIPE_IMAGES", "RecipeName"]

RecipeName = Literal["imagenet", "imagenet-1024"]

_OF_BOTH = {
    "epochs": 250,
    "weight_decay": 3e-5,
    "label_smoothing": 0.1,
    "auxiliary_weight": 0.4,
    "drop_path": 0.0,
    "cutout": 0,
    "grad_clip": 5.0,
    "metrics": "accuracy,top5_accuracy",
}
RECIPES: Mapping[str, Mapping[str, Any]] = {
    "imagenet": {**_OF_BOTH, "batch_size": 128, "learning_rate": 0.1, "schedule": "exponential"},
    "imagenet-1024": {
        **_OF_BOTH,
        "batch_size": 1024,
        "learning_rate": 0.5,
        "schedule": "linear",
        "warmup_epochs": 5,
    },
}
"""Options of `archgrad.retrain` by the name of the recipe: "imagenet", that of the DARTS authors, and "imagenet-1024",
that of P-DARTS and PC-DARTS. The batch is that of all processes together; an option `batch_size` is that of each.

Source: Liu et al. 2019 (DARTS), Chen et al. 2019 (P-DARTS) and Xu et al. 2020 (PC-DARTS): train_imagenet.py of each.
"""
RECIPE_IMAGES: Mapping[str, Any] = {"image_size": 224, "augmentation": "imagenet"}
"""Options of `archgrad.data.load` that go with them."""

assert set(RECIPES) == set(get_args(RecipeName))
