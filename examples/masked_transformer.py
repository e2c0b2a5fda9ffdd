"""A small transformer over sentences of different length: several inputs in a dict, and a mask over the padding.

    python examples/masked_transformer.py

A batch is what your data gives: here {"words": (B, L) int64, "is_word": (B, L) bool}. The sentences are made here, of
good, bad and dull words and of "not", which turns the next word round; asked is whether a sentence is more good than
bad. Who only counts words cannot know. Whether attention or a look at the neighbours helps is searched.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn

import archgrad as ag

WORDS = ("", "good", "fine", "bad", "poor", "not", "the", "film", "was", "and", "so")
MOOD = torch.tensor([0, 1, 1, -1, -1, 0, 0, 0, 0, 0, 0])
LENGTH = 16


def sentences(count: int, seed: int) -> tuple[dict[str, Tensor], Tensor]:
    """Return inputs and targets (count,): 1 for sentences that are more good than bad, 0 for the reverse."""
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(1, len(WORDS), (4 * count, LENGTH), generator=generator)
    words[torch.rand(words.shape, generator=generator) < 0.2] = WORDS.index("not")
    words *= torch.arange(LENGTH) < torch.randint(5, LENGTH + 1, (4 * count, 1), generator=generator)
    turned = nn.functional.pad(words[:, :-1] == WORDS.index("not"), (1, 0))
    mood = (MOOD[words] * (1 - 2 * turned.long())).sum(1)
    kept = mood.nonzero().flatten()[:count]  # a draw has no answer
    return {"words": words[kept], "is_word": words[kept] > 0}, (mood[kept] > 0).long()


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(self, x: Tensor, is_word: Tensor) -> Tensor:
        return self.attention(x, x, x, key_padding_mask=~is_word, need_weights=False)[0]


class Neighbours(nn.Conv1d):
    def forward(self, x: Tensor, is_word: Tensor) -> Tensor:
        return super().forward((x * is_word[:, :, None]).transpose(1, 2)).transpose(1, 2)


class Nothing(nn.Module):
    def forward(self, x: Tensor, is_word: Tensor) -> Tensor:
        return torch.zeros_like(x)


class Transformer(nn.Module):
    """Two blocks, each of a chosen mixing of the words and a feed-forward part; all candidates take x and the mask."""

    def __init__(self, width: int = 24, num_classes: int = 2) -> None:
        super().__init__()
        self.word, self.place = nn.Embedding(len(WORDS), width), nn.Parameter(torch.randn(LENGTH, width) / 10)
        self.mixings, self.feed_forward = nn.ModuleList(), nn.ModuleList()
        for block in range(2):
            mixings = {"1 head": Attention(width, 1), "4 heads": Attention(width, 4)}
            others = {"neighbours": Neighbours(width, width, 3, padding=1), "nothing": Nothing()}
            self.mixings.append(ag.LayerChoice({**mixings, **others}, label=f"block{block}"))
            activation = ag.LayerChoice({"relu": nn.ReLU(), "gelu": nn.GELU()}, label="activation")  # one for both
            layers = nn.Linear(width, 2 * width), activation, nn.Linear(2 * width, width)
            self.feed_forward.append(nn.Sequential(nn.LayerNorm(width), *layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, num_classes)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        is_word = batch["is_word"]
        x = self.word(batch["words"]) + self.place[: is_word.shape[1]]
        for mixing, feed_forward in zip(self.mixings, self.feed_forward, strict=True):
            x = x + mixing(self.norm(x), is_word)
            x = x + feed_forward(x)
        return self.head((x * is_word[:, :, None]).sum(1) / is_word.sum(1, keepdim=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/transformer"), help="folder of the runs")
    parser.add_argument("--sentences", type=int, default=1200, help="to learn from")
    parser.add_argument("--epochs", type=int, default=20, help="of the search, and of the retraining")
    options = parser.parse_args()

    parts = [ag.data.TensorSamples(*sentences(count, seed)) for seed, count in enumerate((options.sentences, 500))]
    data = ag.Data.from_datasets(*parts, classes=["bad", "good"], name="sentences")
    torch.manual_seed(0)  # the first weights
    space = Transformer()
    common = {"epochs": options.epochs, "batch_size": 32, "overwrite": True}
    found = ag.search(space, data, alphas_learning_rate=0.02, run_dir=options.out / "search", **common)
    print(found)

    recipe = {"optimizer": "adamw", "learning_rate": 0.003, "drop_path": 0}
    network = ag.derive(space, found)
    trained = ag.retrain(
        network, data, architecture=found.architecture, run_dir=options.out / "retrain", **recipe, **common
    )
    print(f"Test accuracy: {trained.test_accuracy:.1%}")

    sentence = ["the", "film", "was", "not", "bad", "and", "so", "fine"]
    words = torch.tensor([[WORDS.index(word) for word in sentence]])
    with torch.no_grad():
        good = network({"words": words, "is_word": words > 0}).softmax(1)[0, 1]
    print(f"'{' '.join(sentence)}' is good: {good:.0%}")


if __name__ == "__main__":
    main()
