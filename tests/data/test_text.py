"""Texts for language modelling: windows, vocabularies, parts, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from archgrad.data import load
from archgrad.data.text import encode_text
from archgrad.errors import DataError, OptionError
from archgrad.tasks.choose import chosen_task


def text_of(samples, vocabulary, *, window: int) -> str:
    """The inputs one after the other, as far as their targets count."""
    counted = samples.targets.flatten() != -100
    return "".join(vocabulary[number] for number in samples.inputs.flatten()[counted])


def test_windows_of_characters_follow_each_other_and_targets_are_one_step_on(tmp_path: Path) -> None:
    text = "the cat sat on the mat. " * 5
    (tmp_path / "cats.txt").write_text(text)
    data = load(f"text:{tmp_path / 'cats.txt'}", window=7)
    assert data.classes == (*sorted(set(text[:108])), "<unk>")
    assert (len(data.train), len(data.test)) == (16, 2)  # 107 and 11 targets
    assert text_of(data.train, data.classes, window=7) == text[:107]
    assert text_of(data.test, data.classes, window=7) == text[108:119]
    inputs, targets = data.train.inputs, data.train.targets
    assert inputs.shape == targets.shape == (16, 7)
    assert torch.equal(inputs[:-1].flatten()[1:], targets[:-1].flatten()[:-1])
    assert targets[-1].tolist()[2:] == [-100] * 5
    assert data.takes_tokens
    task = chosen_task(None, data).task
    assert (task.name, task.best, task.labels) == ("sequence", "perplexity", data.classes)


def test_the_alphas_learn_from_the_latest_windows(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("abcdefghij" * 20)
    data = load(f"text:{tmp_path / 'a.txt'}", window=6)
    weights, alphas = data.halves(fraction=0.5, seed=0)
    assert weights.indices.tolist() == list(range(15))
    assert alphas.indices.tolist() == list(range(15, 30))


def test_words_end_lines_and_those_that_the_training_does_not_have_are_unknown(tmp_path: Path) -> None:
    for part, text in {"train": "a b\r\na c\n", "valid": "c c b", "test": "a new b\n"}.items():
        (tmp_path / f"ptb.{part}.txt").write_bytes(text.encode())
    (tmp_path / "readme.md").write_text("training")
    data = load(f"text:{tmp_path}", tokens="words", window=4)
    assert data.classes == ("<eos>", "a", "b", "c", "<unk>")
    assert data.train.inputs.tolist() == [[1, 2, 0, 1], [3, 0, 0, 0]]
    assert data.train.targets.tolist() == [[2, 0, 1, 3], [0, -100, -100, -100]]
    assert data.test.inputs.tolist() == [[1, 4, 2, 0]]
    assert data.test.targets.tolist() == [[4, 2, 0, -100]]
    assert data.valid.targets.tolist() == [[3, 2, 0, -100]]
    again = encode_text(tmp_path / "ptb.test.txt", data.classes, 4)
    assert torch.equal(again.inputs, data.test.inputs)


def test_the_most_frequent_tokens_are_kept(tmp_path: Path) -> None:
    rare = [f"w{number}" for number in range(10_500)]
    (tmp_path / "train.txt").write_text(" ".join(["often", "often", *rare]))
    data = load(f"text:{tmp_path}", tokens="words", window=50)
    assert len(data.classes) == 10_000
    assert "often" in data.classes
    assert (
        data.train.inputs == 9_999
    ).sum() == 10_502 + 1 - 9_999 - 1  # of all tokens but the last those without a place


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "has 0 tokens"), (b"x", "has 1 tokens"), (b"ab\xff" * 20, "UTF-8, but byte 2"), (None, "cannot be read")],
)
def test_a_text_that_cannot_be_used_is_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(DataError, match=message):
        load(f"text:{tmp_path / 'a.txt'}")


def test_a_folder_needs_one_file_for_each_part(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("text")
    with pytest.raises(DataError, match=r"must have a file called train .*'book.txt'"):
        load(f"text:{tmp_path}")
    for name in ("train1.txt", "train2.txt"):
        (tmp_path / name).write_text("text")
    with pytest.raises(DataError, match=r"must have one file for train, but has 'train1.txt', 'train2.txt'"):
        load(f"text:{tmp_path}")


@pytest.mark.parametrize("options", [{"tokens": "bytes"}, {"window": 0}, {"target": "x"}, {"image_size": 8}])
def test_an_option_that_does_not_go_with_a_text_is_refused(tmp_path: Path, options: dict) -> None:
    (tmp_path / "a.txt").write_text("a text")
    with pytest.raises(OptionError, match=next(iter(options))):
        load(f"text:{tmp_path / 'a.txt'}", **options)
    with pytest.raises(OptionError, match="window goes with text:PATH"):
        load("digits", window=3)
    with pytest.raises(DataError, match="a text for language modelling is given as text:PATH"):
        load(str(tmp_path / "a.txt"))
