"""A network from its run folder: the same one, or an error that says why not."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from archgrad import spaces
from archgrad.cli.spaces import SPACES, space_builder
from archgrad.data import TensorSamples, evaluation_batches
from archgrad.derive import derive
from archgrad.discretize import random_architecture
from archgrad.errors import ExportError, OptionError, RunError
from archgrad.export import ModelDescription, describe_run, load_retrained, predict
from archgrad.retrain import RetrainResult, retrain
from archgrad.runs import load_tensors, save_tensors

from .runs import OPTIONS, few_digits, tiny_network


def change_config(run_dir: Path, **changes: object) -> None:
    file = run_dir / "config.yaml"
    config = {**yaml.safe_load(file.read_text()), **changes}
    file.write_text(yaml.safe_dump({name: value for name, value in config.items() if value != "gone"}))


def test_the_loaded_network_gives_the_logits_that_the_run_recorded(finished: RetrainResult) -> None:
    assert finished.run_dir is not None
    data = few_digits()
    assert data.test is not None
    network = load_retrained(finished.run_dir)
    batches = evaluation_batches(data.test, batch_size=60, transform=data.evaluation_transform())
    with torch.no_grad():
        logits = torch.cat([network(inputs) for inputs, _ in batches])
    torch.testing.assert_close(logits, load_tensors(finished.run_dir / "predictions.safetensors")["logits"])
    assert not network.training


def test_best_weights_are_another_file(run_dir: Path) -> None:
    best = load_tensors(run_dir / "weights" / "best.safetensors")
    save_tensors(run_dir / "weights" / "best.safetensors", {name: value + 1 for name, value in best.items()})
    last, found = load_retrained(run_dir).state_dict(), load_retrained(run_dir, weights="best").state_dict()
    assert all(torch.equal(found[name], last[name] + 1) for name in last)
    with pytest.raises(OptionError, match="'last' or 'best', but got 'first'"):
        load_retrained(run_dir, weights="first")  # type: ignore[arg-type]


def test_the_description_is_that_of_the_data(run_dir: Path) -> None:
    data = few_digits()
    assert describe_run(run_dir) == ModelDescription(
        classes=data.classes, input_shape=(1, 8, 8), mean=data.mean, std=data.std
    )


@pytest.mark.parametrize("name", [name for name in SPACES if "channels" in inspect.signature(SPACES[name]).parameters])
def test_every_space_comes_back_with_its_auxiliary_head(name: str, tmp_path: Path) -> None:
    data = few_digits(train=32, test=8)
    sizes = {
        "channels": 4,
        "cells": None if name in ("tiny", "nasbench-macro") else 3 if name.startswith("darts") else 1,
    }
    search, _ = space_builder(name, data, stage="search", **sizes)
    architecture = random_architecture(search(), seed=0, name=name)
    build, found = space_builder(name, data, stage="retrain", auxiliary=True, **sizes)
    network = derive(build(), architecture)
    config = {"space": name, **found}
    retrain(network, data, architecture=architecture, run_dir=tmp_path / "run", config=config, **OPTIONS)
    loaded = load_retrained(tmp_path / "run")
    inputs = torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(loaded(inputs), network(inputs))
    assert loaded.state_dict().keys() == network.state_dict().keys()
    assert any("auxiliary" in weight for weight in loaded.state_dict()) == name.startswith("darts")


def test_options_of_the_space_come_back(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"channels": 2, "cells": 3, "options": {"nodes": 1}}
    data = few_digits(train=32, test=8)
    search, _ = space_builder("darts-cifar", data, stage="search", **sizes)
    build, _ = space_builder("darts-cifar", data, stage="retrain", **sizes)
    architecture = random_architecture(search(), seed=0, name="darts-cifar")
    network = derive(build(), architecture)
    config = {"space": "darts-cifar", "channels": 2, "cells": 3, "space_options": {"nodes": 1}}
    weight = {**OPTIONS, "auxiliary_weight": 0.0}
    retrain(network, data, architecture=architecture, run_dir=tmp_path / "run", config=config, **weight)
    inputs = torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(load_retrained(tmp_path / "run")(inputs), network(inputs))
    change_config(tmp_path / "run", space_options=[1])
    with pytest.raises(RunError, match="are no options"):
        load_retrained(tmp_path / "run")


def test_loading_leaves_random_numbers_alone(run_dir: Path) -> None:
    before = torch.random.get_rng_state()
    load_retrained(run_dir)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_weights_of_another_network_are_refused(run_dir: Path) -> None:
    file = run_dir / "weights" / "last.safetensors"
    weights = load_tensors(file)
    save_tensors(file, {name: value for name, value in weights.items() if "classifier" not in name})
    with pytest.raises(RunError, match=r"last.safetensors' are not those of the network.*'tiny'.*classifier.weight"):
        load_retrained(run_dir)
    save_tensors(file, {**weights, "extra": torch.ones(1)})
    with pytest.raises(RunError, match="extra"):
        load_retrained(run_dir)
    save_tensors(file, weights)
    change_config(run_dir, channels=5)
    with pytest.raises(RunError, match="size mismatch"):
        load_retrained(run_dir)


def test_missing_and_damaged_files_are_named(run_dir: Path) -> None:
    (run_dir / "weights" / "best.safetensors").unlink()
    with pytest.raises(RunError, match=r"no best weights.*weights='last'"):
        load_retrained(run_dir, weights="best")
    (run_dir / "weights" / "last.safetensors").write_bytes(b"\x80\x04pickle")
    with pytest.raises(RunError, match="no intact safetensors file"):
        load_retrained(run_dir)
    (run_dir / "summary.json").write_text('{"classes": ["a"')
    with pytest.raises(RunError, match=r"summary.json' is damaged"):
        describe_run(run_dir)
    (run_dir / "summary.json").write_text('{"image_shape": [1, 8, 8]}')
    with pytest.raises(RunError, match="'classes'"):
        describe_run(run_dir)
    (run_dir / "summary.json").unlink()
    with pytest.raises(RunError, match=r"not finished.*retrain --resume"):
        load_retrained(run_dir)
    change_config(run_dir, space=None)
    with pytest.raises(RunError, match=r"not finished.*archgrad.retrain\(..., run_dir='.*', resume=True\)"):
        describe_run(run_dir)


def test_the_folder_of_a_search_is_told_by_all_that_take_a_retraining(run_dir: Path) -> None:
    (run_dir / "summary.json").unlink()  # which a search has none of
    change_config(run_dir, command="search")
    image = run_dir / "any.png"
    for take in (load_retrained, describe_run, lambda run: predict(run, [image])):
        with pytest.raises(RunError, match=r"folder of a search.*name the folder of that.*archgrad retrain --arch"):
            take(run_dir)
    change_config(run_dir, space=None)  # of Python, whose space and data the command line does not know
    with pytest.raises(RunError, match=r"folder of a search.*archgrad.retrain\(archgrad.derive\(space, '.*'\), data"):
        predict(run_dir, [image])
    (run_dir / "config.yaml").unlink()
    with pytest.raises(RunError, match="no run folder"):
        load_retrained(run_dir)


def test_a_space_of_one_s_own_is_not_run_unless_it_is_given(run_dir: Path, tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text(f"open({str(tmp_path / 'it ran')!r}, 'w')\n")
    change_config(run_dir, space=f"{file}:Net")
    with pytest.raises(RunError, match=r"Python code.*only when you say so.*--space .*own.py:Net.*space=\.\.\."):
        load_retrained(run_dir)
    assert not (tmp_path / "it ran").exists()
    given = spaces.tiny(channels=4)
    before = {name: value.clone() for name, value in given.state_dict().items()}
    network = load_retrained(run_dir, space=given)
    expected = load_tensors(run_dir / "weights" / "last.safetensors")
    assert all(torch.equal(value, expected[name]) for name, value in network.state_dict().items())
    assert all(torch.equal(value, before[name]) for name, value in given.state_dict().items())


def test_a_run_that_does_not_say_how_it_was_built_needs_the_space(run_dir: Path) -> None:
    change_config(run_dir, space="gone", channels="gone")
    with pytest.raises(RunError, match="how many channels"):  # the architecture still names its space
        load_retrained(run_dir)
    assert load_retrained(run_dir, space=spaces.tiny(channels=4))(torch.randn(2, 1, 8, 8)).shape == (2, 10)
    (run_dir / "architecture.json").unlink()
    with pytest.raises(RunError, match=r"no architecture.json.*space="):
        load_retrained(run_dir)
    expected = load_tensors(run_dir / "weights" / "last.safetensors")
    found = load_retrained(run_dir, space=tiny_network(seed=5)).state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_networks_of_other_inputs_than_images(tmp_path: Path) -> None:
    inputs = torch.randn(40, 5)
    network = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 2))
    result = retrain(network, (inputs, (inputs[:, 0] > 0).long()), run_dir=tmp_path / "run", **OPTIONS)
    assert result.run_dir is not None
    assert describe_run(result.run_dir) == ModelDescription(classes=("0", "1"), input_shape=(5,))
    torch.testing.assert_close(load_retrained(result.run_dir, space=network)(inputs), network(inputs))

    tokens = torch.randint(0, 9, (40, 6))
    embedding = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(24, 2))
    result = retrain(embedding, TensorSamples(tokens, tokens[:, 0] % 2), run_dir=tmp_path / "tokens", **OPTIONS)
    assert result.run_dir is not None
    assert describe_run(result.run_dir).input_dtype == "int64"
    summary = json.loads((result.run_dir / "summary.json").read_text())
    (result.run_dir / "summary.json").write_text(json.dumps({**summary, "input_shape": None}))
    with pytest.raises(ExportError, match="does not tell the shape of a sample"):
        describe_run(result.run_dir)
    (result.run_dir / "summary.json").write_text(json.dumps({**summary, "input_dtype": "int16"}))
    with pytest.raises(ExportError, match="type int16, and only those of float32, int64,"):
        describe_run(result.run_dir)
