"""What a page shows of a retrained network's test set, whatever the network has learnt."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from archgrad.report.charts import format_value
from archgrad.report.elements import details, figure, table
from archgrad.report.outcomes import Outputs
from archgrad.report.pictures import class_names, unit_of
from archgrad.report.read import Run
from archgrad.report.scene import LIGHT, SERIES, Picture
from archgrad.report.svg import escape, png_data_uri

__all__ = ["imbalance_facts", "test_set_section"]

_MOST_ROWS = 100
_UNCOUNTED = (120, 120, 120)
"""Colour of pixels that do not count."""


def test_set_section(run: Run, pictures: Sequence[Picture]) -> str:
    """Return the section on the test set; nothing where the run tells nothing of it."""
    return _of_classes(run, pictures) + _of_outputs(run, pictures) + _worst(run) + _masks(run)


def imbalance_facts(counts: np.ndarray) -> dict[str, float]:
    """Return balanced accuracy and F1, both as means over the classes that there are, of a confusion matrix."""
    totals, predicted, right = counts.sum(axis=1), counts.sum(axis=0), counts.diagonal()
    seen = totals > 0
    recall = right[seen] / totals[seen]
    f1 = 2 * right[seen] / (totals[seen] + predicted[seen])
    return {"balanced accuracy": float(recall.mean()), "F1": float(f1.mean())} if seen.any() else {}


def _of_classes(run: Run, pictures: Sequence[Picture]) -> str:
    if run.predictions is None:
        return ""
    counts, unit = run.predictions.counts, unit_of(run)
    names = class_names(run, len(counts))
    totals = counts.sum(axis=1)
    right = f"{int(counts.trace())} of {int(counts.sum())} test {unit}s right"
    balanced = "; ".join(
        f"{name} {format_value(value, percent=True)}" for name, value in imbalance_facts(counts).items()
    )
    said = (f"{right}; {balanced}" if balanced else right).replace(" %", "\u00a0%")
    rows = []
    for k in sorted(range(len(names)), key=lambda k: counts[k, k] / max(totals[k], 1)):
        if totals[k]:
            overlap = counts[k, k] / (totals[k] + counts[:, k].sum() - counts[k, k])
            shares = [counts[k, k] / totals[k], *([overlap] if run.shows == "positions" else [])]
            rows.append(
                [escape(names[k]), str(int(totals[k])), *(format_value(share, percent=True) for share in shares)]
            )
    head = ["class", f"{unit}s", "accuracy", *(["overlap (IoU)"] if run.shows == "positions" else [])]
    classes = table(head, rows[:_MOST_ROWS], name="Accuracy of each class, worst first", kind="numbers")
    mistakes = [
        [str(index), escape(names[target]), escape(names[predicted]), format_value(confidence, percent=True)]
        for index, target, predicted, confidence in run.predictions.mistakes
    ]
    surest = table([unit, "true", "predicted", "probability"], mistakes, name="Surest mistakes") if mistakes else ""
    return (
        f'<h3>Test set</h3><p class="hint">{escape(said)}</p><div class="pair">{"".join(map(figure, pictures))}'
        f"<div>{details('Accuracy of each class, worst first', classes, opened=len(rows) <= 20)}"
        f"{details('Surest mistakes', surest)}</div></div>"
    )


def _of_outputs(run: Run, pictures: Sequence[Picture]) -> str:
    if run.outputs is None:
        return ""
    labels = run.shows == "labels"
    names = class_names(run, run.outputs.targets.shape[1])
    body = _label_scores(run.outputs, names, run.threshold) if labels else _value_scores(run.outputs, names)
    hint = f"{len(run.outputs.targets)} test {unit_of(run)}s"
    drawn = "".join(map(figure, pictures))
    title = "Scores of each label, worst first" if labels else "Errors of each value"
    return (
        f'<h3>Test set</h3><p class="hint">{escape(hint)}</p><div class="pair">{drawn}'
        f"<div>{details(title, body, opened=len(names) <= 20)}</div></div>"
    )


def _label_scores(outputs: Outputs, names: Sequence[str], threshold: float) -> str:
    taken = outputs.outputs >= np.log(threshold / (1 - threshold))  # of probabilities, without computing them
    true = outputs.targets > 0.5
    both, said, there = (part.sum(axis=0) for part in (taken & true, taken, true))
    f1 = 2 * both / np.maximum(said + there, 1)
    rows = [
        [
            escape(names[k]),
            str(int(there[k])),
            format_value(both[k] / said[k], percent=True) if said[k] else "–",
            format_value(both[k] / there[k], percent=True) if there[k] else "–",
            format_value(f1[k], percent=True) if said[k] + there[k] else "–",
        ]
        for k in np.argsort(f1, kind="stable").tolist()
    ]
    return table(
        ["label", "samples", "precision", "recall", "F1"],
        rows[:_MOST_ROWS],
        name="Scores of each label",
        kind="numbers",
    )


def _value_scores(outputs: Outputs, names: Sequence[str]) -> str:
    residuals = outputs.outputs - outputs.targets
    spread = ((outputs.targets - outputs.targets.mean(axis=0)) ** 2).sum(axis=0)
    rows = []
    for k, name in enumerate(names):
        own = residuals[:, k]
        explained = f"{1 - (own**2).sum() / spread[k]:.3f}" if spread[k] > 0 else "–"
        numbers = [own.mean(), np.abs(own).mean(), np.sqrt((own**2).mean())]
        rows.append([escape(name), *(format_value(float(number)) for number in numbers), explained])
    head = ["value", "mean residual", "mean absolute error", "root of the mean squared error", "R²"]
    return table(head, rows[:_MOST_ROWS], name="Errors of each value")


def _worst(run: Run) -> str:
    if run.worst is None or not len(run.worst.images):
        return ""
    known = run.classes
    figures = []
    for image, target, predicted, confidence in zip(
        run.worst.images, run.worst.targets, run.worst.predicted, run.worst.confidence, strict=True
    ):
        names = [known[k] if 0 <= k < len(known) else str(k) for k in (target, predicted)]
        text = f"{names[0]}, taken for {names[1]}"
        figures.append(
            f'<figure><img src="{png_data_uri(image)}" alt="{escape(text)}" width="72" height="72">'
            f"<figcaption><b>{escape(names[0])}</b> → {escape(names[1])}<br>"
            f"{format_value(confidence, percent=True)}</figcaption></figure>"
        )
    hint = "True class → predicted class, and the probability that the network gave the latter."
    return f'<h3>Worst-classified images</h3><p class="hint">{hint}</p><div class="gallery">{"".join(figures)}</div>'


def _masks(run: Run) -> str:
    if run.masks is None or not len(run.masks.images):
        return ""
    figures = []
    for number, parts in enumerate(zip(run.masks.images, run.masks.targets, run.masks.predicted, strict=True)):
        image, target, predicted = parts
        share = float((target == predicted).mean())
        pixels = [("image", image), ("true mask", mask_pixels(target)), ("predicted mask", mask_pixels(predicted))]
        drawn = "".join(
            f'<img src="{png_data_uri(part)}" alt="{name} {number}" title="{name}" width="96" height="96">'
            for name, part in pixels
        )
        figures.append(
            f"<figure>{drawn}<figcaption>test image {number}: {format_value(share, percent=True)} of its pixels as in "
            f"the true mask</figcaption></figure>"
        )
    classes = sorted({*np.unique(run.masks.targets).tolist(), *np.unique(run.masks.predicted).tolist()})
    named = class_names(run, len(run.classes))
    texts = {k: named[k] if 0 <= k < len(named) else f"{k}: not counted" for k in classes[:_MOST_ROWS]}
    keys = "".join(
        f'<span><i style="background:rgb{_colour(k)}"></i>{escape(text)}</span>' for k, text in texts.items()
    )
    return (
        f'<h3>Masks</h3><p class="hint">Image, true mask and predicted mask of the first test images.</p>'
        f'<p class="keys">{keys}</p><div class="masks">{"".join(figures)}</div>'
    )


def mask_pixels(mask: np.ndarray) -> np.ndarray:
    """Return the colours (height, width, 3) uint8 of class numbers (height, width)."""
    numbers, places = np.unique(mask, return_inverse=True)
    colours = np.array([_colour(int(number)) for number in numbers], dtype=np.uint8)
    return np.ascontiguousarray(colours[places.reshape(mask.shape)])


def _colour(number: int) -> tuple[int, int, int]:
    """Return a colour for each class: black for the first, as masks have it by custom, then those of series."""
    if number == 0:
        return (0, 0, 0)
    if number < 0 or number == 255:
        return _UNCOUNTED
    colour = LIGHT[SERIES[(number - 1) % len(SERIES)]]
    shade = 1.0 - 0.25 * ((number - 1) // len(SERIES) % 3)  # after all of them, again and darker
    red, green, blue = (int(int(colour[i : i + 2], 16) * shade) for i in (1, 3, 5))
    return (red, green, blue)
