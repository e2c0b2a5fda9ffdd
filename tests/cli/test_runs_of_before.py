"""Searches that earlier versions of archgrad began are resumed, by the options that there were."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from .typed import Type

_TRAINING = """
command: search
space: tiny
channels: 2
cells: null
data: digits
image_size: null
train_samples: 100
epochs: 1
batch_size: 32
seed: 0
learning_rate: 0.025
learning_rate_min: 0.001
schedule: cosine
momentum: 0.9
weight_decay: 0.0003
grad_clip: 5.0
weights_fraction: 0.5
accumulation: 1
cutout: 0
precision: '32'
on_nonfinite: stop
sync_batchnorm: false
device: auto
workers: 0
fast: true
activation_checkpointing: false
cuda_graphs: false
checkpoint_minutes: 10.0
checkpoint_steps: null
log_frequency: null
wandb: null
mlflow: null
"""
BEFORE = {
    "no method": """
step: first-order
relaxation: softmax
alphas_learning_rate: 0.0003
alphas_betas: [0.5, 0.999]
alphas_weight_decay: 0.001
weights_first: false
""",
    "few parts": """
method:
  relaxation: {name: softmax}
  step: {name: first-order}
  alphas_optimizer: {name: adam, learning_rate: 0.0003, betas: [0.5, 0.999], weight_decay: 0.001}
  regularizers: []
  perturbation: null
  stopping: null
  selection: {name: likeliest}
  stages: [{epochs: null, alphas_start_epoch: 0, keep: null}]
  weights_first: false
  alphas_grad_clip: 0.0
""",
}
"""The rest of config.yaml as two versions wrote it, the first before there were methods."""


@pytest.mark.parametrize("version", BEFORE)
def test_a_search_of_an_earlier_version_is_resumed(version: str, searched: Path, archgrad: Type) -> None:
    shutil.copytree(searched, "old")
    Path("old", "config.yaml").write_text(_TRAINING + BEFORE[version])
    outcome = archgrad("search", "--resume", "old", "--quiet")
    assert (outcome.status, outcome.err) == (0, "")
    refused = archgrad("search", "--resume", "old", "--quiet", "--step", "exact")
    assert "method.step.name: the run has 'first-order', asked for 'unrolled'" in refused.err
