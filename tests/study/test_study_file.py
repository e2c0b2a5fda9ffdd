"""What a study's file says, and what it may not say."""

from __future__ import annotations

from pathlib import Path

import pytest

from archgrad.errors import OptionError
from archgrad.study import Entry, Judge, Study, load_study

WHOLE = """
methods: [darts, {name: quick-alphas, method: darts, alphas_learning_rate: 0.003}]
spaces: tiny
data: [digits, {data: "folder:$PLACE/photos", image_size: 16}]
seeds: [3, 4]
search: {epochs: 2}
judges:
  - {table: table.csv, columns: accuracy}
  - {name: short, retrain: {epochs: 1}}
random: 5
architectures: {all-conv: "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|none~0|none~1|nor_conv_3x3~2|"}
"""


def load(folder: Path, text: str) -> Study:
    file = folder / "study.yaml"
    file.write_text(text, encoding="utf-8")
    return load_study(file)


def test_a_whole_file_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLACE", "/somewhere")
    monkeypatch.chdir(tmp_path)
    study = load(tmp_path, WHOLE)
    assert study.methods == (
        Entry(name="darts", options={"method": "darts"}),
        Entry(name="quick-alphas", options={"method": "darts", "alphas_learning_rate": 0.003}),
    )
    assert study.spaces == (Entry(name="tiny", options={"space": "tiny"}),)
    assert study.data[1] == Entry(name="photos", options={"data": "folder:/somewhere/photos", "image_size": 16})
    assert study.judges == (
        Judge(name="table", table=str(tmp_path / "table.csv"), columns=("accuracy",)),
        Judge(name="short", retrain={"epochs": 1}),
    )
    assert (study.seeds, study.random, study.search) == ((3, 4), 5, {"epochs": 2})


def test_each_method_is_searched_under_each_budget(tmp_path: Path) -> None:
    budgets = "[null, parameters<=2k, 'multiply_adds <= 1M, parameters<=9k']"
    study = load(tmp_path, f"{WHOLE.replace('folder:$PLACE/photos', 'cifar10')}\nbudgets: {budgets}\n")
    assert [entry.name for entry in study.methods[:3]] == [
        *("darts", "darts-parameters-2k", "darts-multiply_adds-1M+parameters-9k"),
    ]
    assert study.methods[4].options == {"method": "darts", "alphas_learning_rate": 0.003, "budget": "parameters<=2k"}
    assert len(study.methods) == 6


BASE = {"methods": "[darts]", "spaces": "[tiny]", "data": "[digits]", "judges": "[{retrain: {epochs: 1}}]"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"budgets": "[parameters<2k]"}, "takes COST<=NUMBER"),
        ({"budgets": "[parameters<=2k, parameters<=2k]"}, "each of another name"),
        ({"method": "[darts]"}, "'method', which a study does not have"),
        ({"methods": "[]"}, "needs methods"),
        ({"methods": "[darts, darts]"}, "each of another name"),
        ({"methods": "[random]"}, "'random' is taken"),
        ({"methods": "[{method: 3}]"}, "needs a name or method"),
        ({"methods": "[{name: 'a b', method: darts}]"}, "'a b'. Give one with name"),
        ({"judges": "[{name: nothing}]"}, "a table or a retraining"),
        ({"judges": "[{retrain: {epochs: 1}, columns: [x]}]"}, "columns are those of a table"),
        ({"judges": "[{train: {epochs: 1}}]"}, "a mapping of name, table, columns, retrain"),
        ({"seeds": "[1, 1]"}, "none twice"),
        ({"seeds": "[-1]"}, "seed"),
        ({"random": "1"}, "random"),
        ({"search": "[1]"}, "search must be options"),
        ({"architectures": "{darts: x}"}, "'darts' is taken"),
        ({"data": "['folder:$NOT_SET_AT_ALL/x']"}, "NOT_SET_AT_ALL"),
    ],
)
def test_what_a_study_cannot_have_is_refused(tmp_path: Path, change: dict[str, str], message: str) -> None:
    text = "".join(f"{name}: {value}\n" for name, value in (BASE | change).items())
    with pytest.raises(OptionError, match=message):
        load(tmp_path, text)
