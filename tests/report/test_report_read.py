"""Whatever there is of a run is read; what is missing or damaged is left out and told."""

from __future__ import annotations

import json
import math
import random

import numpy as np
import pytest
import run_factory
from safetensors.numpy import save_file

from archgrad.errors import RunError
from archgrad.report.read import read_probabilities, read_run, read_table
from archgrad.report.sections import run_pictures, run_section, run_status


def table(tmp_path, text):
    (tmp_path / "metrics.csv").write_text(text, encoding="utf-8")
    return read_table(tmp_path / "metrics.csv")


def test_a_line_that_is_still_being_written_does_not_count(tmp_path):
    # The last line has all its cells, but 0.12 may be the beginning of 0.125.
    found = table(tmp_path, "epoch,train_loss\n0,0.5\n1,0.12")
    assert found.epochs == (0,)
    assert found.columns == {"train_loss": (0.5,)}


def test_of_two_rows_of_an_epoch_the_later_counts_and_epochs_come_in_order(tmp_path):
    found = table(tmp_path, "epoch,a\n1,1.0\n0,2.0\n1,3.0\n")
    assert found.epochs == (0, 1)
    assert found.columns["a"] == (2.0, 3.0)


def test_empty_cells_are_nan_and_empty_columns_are_left_out(tmp_path):
    found = table(tmp_path, "epoch,a,temperature\n0,,\n1,inf,\n2,0.5,\n")
    assert set(found.columns) == {"a"}
    assert math.isnan(found.columns["a"][0])
    assert found.last("a") == 0.5
    assert found.best("a") == (0.5, 2)
    assert found.last("temperature") is None


@pytest.mark.parametrize(
    "text", ["", "epoch,a\n", "a,b\n1,2\n", "epoch,a\n0\n", "\x00\xff\n", "epoch,a\nx,1\n", "epoch,a\n1e400,1\n-1,2\n"]
)
def test_a_table_without_rows_is_empty(tmp_path, text):
    assert table(tmp_path, text).epochs == ()


def test_a_search_is_read_whole(runs):
    run = read_run(runs["search"])
    assert run.command == "search"
    assert [frame.epoch for frame in run.frames] == list(range(50))
    assert run.architecture == run.frames[-1].architecture
    assert (run.done_epochs, run.planned_epochs, run.notes) == (50, 50, ())
    assert run.environment["versions"]["python"] == "3.11.7"
    for row in run.frames[0].probabilities.values():
        assert sum(row.values()) == pytest.approx(1.0)


def test_a_run_that_broke_off_is_read_as_far_as_it_got(runs):
    run = read_run(runs["broken"])
    assert run.metrics.epochs == tuple(range(7))
    assert [frame.epoch for frame in run.frames] == list(range(7))
    assert (run.done_epochs, run.planned_epochs) == (7, 50)
    assert run.timings.epochs == ()
    (note,) = run.notes
    assert note.startswith("checkpoints/epoch_7.json cannot be read")


def test_many_epochs_are_thinned_out_evenly_with_the_first_and_the_last(runs):
    run = read_run(runs["search"], max_frames=8)
    assert [frame.epoch for frame in run.frames] == [0, 7, 14, 21, 28, 35, 42, 49]
    assert run.n_epochs_saved == 50


def test_alphas_without_probabilities_give_their_softmax():
    provenance = {"alphas": {"a": {"x": 0.0, "y": math.log(3.0)}, "join": [1.0, 1.0]}}
    found = read_probabilities(provenance)
    assert found["a"] == pytest.approx({"x": 0.25, "y": 0.75})
    assert found["join"] == pytest.approx({"0": 0.5, "1": 0.5})


@pytest.mark.parametrize(
    "provenance", [{}, {"alphas": 3}, {"probabilities": {"a": "x"}}, {"alphas": {"a": {"x": None}}}]
)
def test_a_provenance_of_another_shape_has_no_probabilities(provenance):
    assert read_probabilities(provenance) == {}


def test_predictions_give_counts_and_the_surest_mistakes_first(tmp_path):
    run_factory.write_retrain(tmp_path / "run")
    logits = np.log(np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]], dtype=np.float32))
    save_file({"targets": np.array([0, 1, 1, 1]), "logits": logits}, tmp_path / "run" / "predictions.safetensors")
    predictions = read_run(tmp_path / "run").predictions
    assert predictions.counts.tolist() == [[1, 0], [2, 1]]
    assert [mistake[:3] for mistake in predictions.mistakes] == [(1, 1, 0), (3, 1, 0)]
    assert [mistake[3] for mistake in predictions.mistakes] == pytest.approx([0.8, 0.6])


@pytest.mark.parametrize(
    "tensors",
    [
        {"targets": np.array([0, 5]), "logits": np.zeros((2, 2), np.float32)},
        {"targets": np.array([0]), "logits": np.zeros((2, 2), np.float32)},
        {"logits": np.zeros((2, 2), np.float32)},
        {"targets": np.zeros(0, np.int64), "logits": np.zeros((0, 2), np.float32)},
    ],
)
def test_predictions_of_another_shape_are_told_and_left_out(tmp_path, tensors):
    run_factory.write_retrain(tmp_path / "run")
    save_file(tensors, tmp_path / "run" / "predictions.safetensors")
    run = read_run(tmp_path / "run")
    assert run.predictions is None
    assert "predictions.safetensors" in run.notes[0]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.yaml", b"a: [1"),
        ("config.yaml", b"- a list"),
        ("environment.json", b"{"),
        ("environment.json", b"[" * 100_000),
        ("summary.json", b"\xff\xfe"),
        ("predictions.safetensors", b"\xff" * 64),
        ("worst.safetensors", b""),
        ("architecture.json", b'{"format": "other"}'),
    ],
)
def test_a_damaged_file_is_told_and_the_rest_is_read(tmp_path, name, content):
    run_factory.write_retrain(tmp_path / "run")
    (tmp_path / "run" / name).write_bytes(content)
    run = read_run(tmp_path / "run")
    assert len(run.notes) == 1
    assert run.notes[0].startswith(name)
    assert len(run.metrics.epochs) == 60


@pytest.mark.parametrize("seed", range(12))
def test_no_damage_stops_the_report(tmp_path, seed):
    make = (run_factory.write_general, run_factory.write_retrain, run_factory.write_search)[seed % 3]
    path = make(tmp_path / "run", epochs=3)
    rng = random.Random(seed)
    for file in sorted(file for file in path.rglob("*") if file.is_file()):
        content = file.read_bytes()
        if rng.random() < 0.3:
            content = content[: rng.randrange(len(content))]
        for _ in range(rng.randrange(4)):
            place = rng.randrange(len(content) + 1)
            content = content[:place] + rng.choice([b"1e999", b"-1", b"null", b'"', b",", b"\n"]) + content[place + 2 :]
        file.write_bytes(content)
    run = read_run(path)
    assert run_section(run, "run", 1, run_pictures(run)).endswith("</section>")


def test_a_folder_without_a_run_is_an_error_that_names_it(tmp_path):
    with pytest.raises(RunError, match="has none of these"):
        read_run(tmp_path)
    with pytest.raises(RunError, match="is no folder"):
        read_run(tmp_path / "missing")
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "config.yaml").touch()
    with pytest.raises(RunError, match=r"There are runs in it, such as '.*one'\."):
        read_run(tmp_path)


def test_a_run_that_has_just_begun_is_read(tmp_path):
    (tmp_path / "config.yaml").write_text("command: search\nepochs: 50\n", encoding="utf-8")
    run = read_run(tmp_path)
    assert (run.done_epochs, run.planned_epochs, run.architecture) == (0, 50, None)


def test_a_retraining_is_told_from_its_files_where_its_configuration_is_lost(tmp_path):
    run_factory.write_retrain(tmp_path / "run")
    (tmp_path / "run" / "config.yaml").unlink()
    assert read_run(tmp_path / "run").command == "retrain"


def test_large_images_become_thumbnails(tmp_path):
    run_factory.write_retrain(tmp_path / "run")
    tensors = {
        "images": np.zeros((2, 1, 300, 200), np.uint8),
        "targets": np.zeros(2, np.int64),
        "predicted": np.ones(2, np.int64),
        "confidence": np.ones(2, np.float32),
    }
    save_file(tensors, tmp_path / "run" / "worst.safetensors")
    assert read_run(tmp_path / "run").worst.images.shape == (2, 75, 50, 3)


def test_names_of_classes_come_from_the_summary(tmp_path):
    run_factory.write_retrain(tmp_path / "run")
    assert read_run(tmp_path / "run").classes == run_factory.CLASSES
    (tmp_path / "run" / "summary.json").write_text(json.dumps({"classes": 3}), encoding="utf-8")
    assert read_run(tmp_path / "run").classes == ()


def test_a_search_that_its_rule_stopped_is_over_and_shows_what_the_rule_returned(tmp_path):
    path = run_factory.write_search(tmp_path / "stopped", epochs=7, planned=50)
    assert run_status(read_run(path)) == (False, "search at 7 of 50 epochs: still going, or broke off")
    returned = (path / "checkpoints" / "epoch_4.json").read_bytes()
    (path / "architecture.json").write_bytes(returned)
    run = read_run(path)
    assert run_status(run) == (True, "search stopped by its rule after 7 of 50 epochs")
    assert run.architecture == run.frames[4].architecture
