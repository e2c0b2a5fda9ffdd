"""Text as data for language modelling: windows of tokens, whose targets are the same tokens one step on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch

from archgrad.checks import check_word
from archgrad.data.dataset import Data
from archgrad.data.samples import TensorSamples
from archgrad.errors import DataError
from archgrad.files import read_file
from archgrad.json_text import shown, shown_text
from archgrad.sizes import check_whole
from archgrad.typed_names import TEXT

__all__ = ["Tokens", "encode_text", "load_text"]

Tokens = Literal["characters", "words"]
_UNKNOWN, _END = "<unk>", "<eos>"  # as the Penn Treebank has them
_MOST_TOKENS = 10_000
"""Most different tokens; rarer ones are unknown."""
_TEST_SHARE = 0.1
_SUFFIXES = (".txt", ".tokens", ".text", ".raw")
_PARTS = {"train": ("train",), "valid": ("valid", "val", "dev"), "test": ("test",)}
_NOT_COUNTED = -100  # what the loss leaves out


def load_text(path: Path, *, tokens: Tokens = "characters", window: int = 35) -> Data:
    """Read a text for language modelling.

    The windows follow each other without overlap, and each is a sample of its own. The vocabulary is that of the
    training part: at most 10,000 tokens, the most frequent ones; others are "<unk>".

    Args:
        path: A file in UTF-8, whose last tenth is the test set, and of which in a search the alphas learn from the
            latest windows of the rest; or a folder with one such file for each part, called train, test and, for the
            alphas, valid, such as ptb.train.txt.
        tokens: "characters", or "words" between blanks, with "<eos>" at the end of each line.
        window: Tokens of a sample, at least 1; in the paper 35.

    Raises:
        DataError: A file cannot be read or is too short, or the folder has no file for training.
        OptionError: An option is outside its range.
    """
    check_word("tokens", tokens, ("characters", "words"))
    check_whole("window", window, least=1)
    if path.is_dir():
        files = _parts_of(path)
        texts = {part: _tokens_of(file, tokens) for part, file in files.items()}
    else:
        whole = _tokens_of(path, tokens)
        cut = len(whole) - round(_TEST_SHARE * len(whole))
        texts = {"train": whole[:cut], "test": whole[cut:]}
    vocabulary = _vocabulary(texts["train"])
    parts = {
        part: _windows(text, vocabulary, window, where=f"The {part} part of '{path}'") for part, text in texts.items()
    }
    count = len(parts["train"])
    return Data(
        name=f"{TEXT}{path}",
        train=parts["train"],
        valid=parts.get("valid"),
        test=parts.get("test"),
        times=torch.arange(count) if "valid" not in parts and count > 1 else None,
        classes=vocabulary,
    )


def encode_text(path: Path, vocabulary: Sequence[str], window: int) -> TensorSamples:
    """Return the windows of a whole file, in the tokens of a vocabulary that `load_text` made.

    Raises:
        DataError: The file cannot be read, or is too short.
    """
    tokens: Tokens = "characters" if all(len(token) == 1 or token == _UNKNOWN for token in vocabulary) else "words"
    return _windows(_tokens_of(path, tokens), vocabulary, window, where=f"'{path}'")


def _parts_of(folder: Path) -> dict[str, Path]:
    """Return the file of each part that there is."""
    found: dict[str, Path] = {}
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in _SUFFIXES)
    for part, words in _PARTS.items():
        fitting = [file for file in files if any(word in file.name.lower() for word in words)]
        if len(fitting) > 1:
            raise DataError(
                f"The folder '{folder}' must have one file for {part}, but has "
                f"{', '.join(shown(file.name) for file in fitting)}. Leave one there."
            )
        if fitting:
            found[part] = fitting[0]
    if "train" not in found:
        raise DataError(
            f"The folder '{folder}' must have a file called train ({', '.join(_SUFFIXES)}), such as train.txt, but has "
            f"{', '.join(shown(file.name) for file in files[:6]) or 'no text'}. Give one file as text:FILE, or rename."
        )
    return found


def _tokens_of(path: Path, tokens: Tokens) -> Sequence[str]:
    try:
        text = read_file(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"The text '{path}' must be UTF-8, but byte {error.start} is not. Save it as UTF-8.") from None
    except (OSError, ValueError) as error:
        raise DataError(f"The text '{path}' cannot be read: {shown_text(str(error))}. Name a text file.") from error
    text = text.replace("\r\n", "\n")
    if tokens == "characters":
        return text
    return [token for line in text.splitlines() for token in (*line.split(), _END)]


def _vocabulary(tokens: Sequence[str]) -> tuple[str, ...]:
    """Return the tokens in order, "<unk>" last."""
    counts = Counter(tokens)
    frequent = sorted(counts, key=lambda token: (-counts[token], token))[: _MOST_TOKENS - 1]
    return (*sorted(token for token in frequent if token != _UNKNOWN), _UNKNOWN)


def _windows(tokens: Sequence[str], vocabulary: Sequence[str], window: int, *, where: str) -> TensorSamples:
    """Return (N, window) token numbers and those one step on; what is missing in the last window is not counted."""
    if len(tokens) < 2:
        raise DataError(f"{where} has {len(tokens)} tokens, but needs 2 at least. Give a longer text.")
    places = {token: number for number, token in enumerate(vocabulary)}
    unknown = places[_UNKNOWN]
    numbers = torch.tensor([places.get(token, unknown) for token in tokens])
    count = -(-(len(numbers) - 1) // window)
    missing = count * window + 1 - len(numbers)
    inputs = torch.cat([numbers, numbers.new_zeros(missing)])[:-1].reshape(count, window)
    targets = torch.cat([numbers[1:], numbers.new_full((missing,), _NOT_COUNTED)]).reshape(count, window)
    return TensorSamples(inputs, targets)
