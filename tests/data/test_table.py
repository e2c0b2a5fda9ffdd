"""Tables as spreadsheets, databases and loggers write them."""

from __future__ import annotations

import csv
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
import torch

from archgrad.data import load
from archgrad.errors import DataError, OptionError

ROWS = 40


def plain(separator=",", decimal=".", rows=ROWS):
    """Rows of length, colour, weight and kind: the kind tells whether the length is above two."""
    random = np.random.default_rng(0)
    lines = [separator.join(("length", "colour", "weight", "kind"))]
    for _ in range(rows):
        length, weight = random.random() * 4, random.integers(1, 2000)
        colour = ("red", "green", "")[random.integers(3)]
        cells = (f"{length:.3f}".replace(".", decimal), colour, str(weight), "long" if length > 2 else "short")
        lines.append(separator.join(cells))
    return "\n".join(lines) + "\n"


def loaded(tmp_path, text, *, name="table.csv", encoding="utf-8", **options):
    content = text if isinstance(text, bytes) else text.encode(encoding)
    (tmp_path / name).write_bytes(content)
    return load(str(tmp_path / name), **{"target": "kind", **options})


def test_numbers_are_standardised_and_categories_get_an_input_each(tmp_path):
    data = loaded(tmp_path, plain())
    assert data.encoding.inputs == ("length", "colour=green", "colour=red", "weight")
    assert data.classes == ("long", "short")
    assert (data.in_features, data.channels, len(data.train), len(data.test)) == (4, 0, 32, 8)
    inputs, targets = data.train.inputs, data.train.targets
    assert inputs[:, [0, 3]].mean(0).abs().max() < 1e-6
    assert inputs[:, [0, 3]].std(0, unbiased=False) == pytest.approx([1, 1], abs=1e-5)
    assert set(inputs[:, 1:3].sum(1).tolist()) == {0.0, 1.0}  # none where the colour is missing
    assert torch.equal(inputs[:, 0] > inputs[targets == 1][:, 0].max(), targets == 0)


def test_what_is_measured_is_measured_on_the_training_rows_alone(tmp_path):
    """The last fifth in time has other numbers and a colour of its own, which the inputs must not know of."""
    rows = [
        f"{day},{day if day < 80 else 1e6},{'blue' if day >= 80 else ('red', 'green')[day % 2]},{day % 3 % 2}"
        for day in range(100)
    ]
    data = loaded(tmp_path, "\n".join(["day,value,colour,kind", *rows]), time="day")
    assert data.encoding.inputs == ("value", "colour=green", "colour=red")
    assert data.train.inputs[:, 0].std(unbiased=False) == pytest.approx(1, abs=1e-5)
    assert data.test.inputs[:, 0].min() > 1e4
    assert data.test.inputs[:, 1:].sum() == 0
    weights, alphas = data.halves(fraction=0.5, seed=3)
    assert torch.equal(weights.indices, torch.arange(40))
    assert torch.equal(alphas.indices, torch.arange(40, 80))


@pytest.mark.parametrize(
    ("text", "options"),
    [
        (plain(";", ","), {}),
        (plain(";", ",").replace("\n", "\r\n"), {"encoding": "utf-8-sig"}),
        (plain("\t"), {"encoding": "utf-16"}),
        (plain("\t"), {"name": "table.tsv"}),
        (plain("|"), {"name": "Table.CSV"}),
        ("sep=;\n" + plain(";", ","), {}),
        ("# a logger\n# of 2024, in °C\n" + plain(), {"encoding": "cp1252"}),
        (plain().replace("\n", ",\n"), {}),  # lines that end in a separator
        (plain().replace("colour", " colour ").replace(",red", ", red "), {}),
        (plain().replace("\n", "\n\n"), {}),
        (plain().replace("long\n", '"long"\n'), {}),
        ("# " + plain(), {}),  # names as numpy.savetxt writes them
        (plain().replace(",", ";;").replace(";;", " ").replace("  ", " - "), {}),
    ],
)
def test_however_a_table_is_written_it_holds_the_same(tmp_path, text, options):
    expected = loaded(tmp_path, plain(), name="plain.csv")
    data = loaded(tmp_path, text, **options)
    assert data.encoding.inputs == expected.encoding.inputs
    assert data.classes == expected.classes
    assert torch.equal(data.train.inputs, expected.train.inputs)


def columns(**cells):
    count = max(map(len, cells.values()))
    lines = [";".join(cells)] + [
        ";".join(str(column[row % len(column)]) for column in cells.values()) for row in range(count)
    ]
    return "\n".join(lines)


KIND = ("a", "b")
VALUES = [round(value, 2) for value in np.random.default_rng(1).random(40) * 9]


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["1,5", "2", "1.000,25"] * 14, [1.5, 2, 1000.25]),
        (["1.5", "2", "1e3"] * 14, [1.5, 2, 1000]),
        (["1,000.5", "2", "12,345,678"] * 14, [1000.5, 2, 12345678]),
        (["€ 1.000", "2,5 €", "-3"] * 14, [1000, 2.5, -3]),
        (["45 %", "4 %", "0.5%"] * 14, [45, 4, 0.5]),
        (["1.234.567", "2", "999"] * 14, [1234567, 2, 999]),
        (["12 345,5", "2", "1\u202f000"] * 14, [12345.5, 2, 1000]),
        (["12'345.50", "-$1,000.5", "3"] * 14, [12345.5, -1000.5, 3]),
        (["(1.5)", "2.25-", "\u22123"] * 14, [-1.5, -2.25, -3]),
        (["5 kg", "10.5 kg", "1e3 kg"] * 14, [5, 10.5, 1000]),
        (["20°C", "-3°C", "7.5°C"] * 14, [20, -3, 7.5]),
        (["01.05.2024", "2.5.2024 12:00", "03.05.2024"] * 14, [19844, 19845.5, 19846]),
        (["01/05/2024", "13/05/2024 06:00:00", "03/05/2024"] * 14, [19844, 19856.25, 19846]),
        (["5/1/2024 12:00 AM", "5/13/2024 6:00 PM", "5/3/2024 12:00 PM"] * 14, [19844, 19856.75, 19846.5]),
        (["2024-05-01", "2024-05-02 12:00", "2024/05/03"] * 14, [19844, 19845.5, 19846]),
        (["2024-05-01T00:00:00Z", "2024-05-02", "2024-05-03T06:00:00+00:00"] * 14, [19844, 19845, 19846.25]),
    ],
)
def test_numbers_and_dates_in_the_writings_of_many_lands(tmp_path, cells, expected):
    data = loaded(tmp_path, columns(x=cells, kind=["a", "b", "b", "a", "a"]), task="classification")
    (number,) = data.encoding.columns
    assert number.name == "x"
    inputs = data.encoding.encode(tmp_path / "table.csv")[:3, 0].double() * number.std + number.mean
    assert inputs.tolist() == pytest.approx(expected, abs=1e-6 * number.std)


@pytest.mark.parametrize(
    ("text", "separator", "expected"),
    [
        ('"1,5";"1.234"', ";", [1.5, 1234]),  # the point stands before thousands where another column has the comma
        ('"1,5";"1.25"', ";", [1.5, 1.25]),  # unless a number says otherwise
        ('"2.5";"1.234"', ";", [2.5, 1.234]),
        ('"1,500";"1.25"', ";", [1500, 1.25]),
        ('"1,5","1.234"', ",", [1.5, 1234]),
        ('"1,500","1.25"', ",", [1500, 1.25]),
    ],
)
def test_one_mark_of_decimals_holds_for_a_whole_table(tmp_path, text, separator, expected):
    rows = [f"{text}{separator}a", f"0{separator}0{separator}b"] * 20
    data = loaded(tmp_path, "\n".join([separator.join(("x", "y", "kind")), *rows]))
    inputs = data.encoding.encode(tmp_path / "table.csv")[0]
    found = [
        float(value) * column.std + column.mean for value, column in zip(inputs, data.encoding.columns, strict=True)
    ]
    assert found == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("more", "message"),
    [("\nlength,colour,weight,kind\n1,red,5,long\n2,red,6,short", "1 rows of .* repeat the names"), ("", "units")],
)
def test_names_that_stand_again_and_units_below_them_are_no_rows(tmp_path, more, message):
    text = plain() + more if more else plain().replace("\n", "\nmm,name,g,text\n", 1)
    with pytest.warns(UserWarning, match=message):
        data = loaded(tmp_path, text)
    assert data.classes == ("long", "short")
    assert data.encoding.inputs == ("length", "colour=green", "colour=red", "weight")
    assert len(data.train) + len(data.test) == (ROWS + 2 if more else ROWS)


@pytest.mark.parametrize("gone", ["", "NA", "n/a", "NaN", "null", "None", "?", "-", "#DIV/0!", "#N/A", "inf"])
def test_missing_numbers_are_the_mean_and_told_to_the_network(tmp_path, gone):
    cells = [gone, *VALUES[1:]]
    data = loaded(tmp_path, columns(x=cells, kind=KIND))
    assert data.encoding.inputs == ("x", "x is missing")
    assert data.encoding.encode(tmp_path / "table.csv")[0].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ({"x": VALUES, "id": range(1, 41)}, r"'id' \(running numbers\)"),
        ({"x": VALUES, "": range(40)}, r"'column 3' \(running numbers\)"),
        ({"x": VALUES, "Unnamed: 0": [7 * row % 40 for row in range(40)]}, r"'Unnamed: 0' \(running numbers\)"),
        ({"x": VALUES, "ID": [row + row // 5 for row in range(40)]}, r"'ID' \(running numbers\)"),
        ({"x": VALUES, "file": [f"{row}.jpg" for row in range(40)]}, r"'file' \(names of image files.*folder:PATH"),
        ({"x": VALUES, "unit": ["mm"]}, r"'unit' \(one value\)"),
        ({"x": VALUES, "note": ["NA"]}, r"'note' \(no values\)"),
        ({"x": VALUES, "name": [f"Mr. {row}" for row in range(40)]}, r"'name' \(32 different texts in 32 rows\)"),
        ({"x": VALUES, "day": [f"0{d}/03/2024" for d in range(1, 10)]}, "'day' .* begin with the day or the month"),
        ({"x": [*VALUES[:-1], "(mm)"]}, r"'x' holds numbers, but other things in 1 of 40 rows, such as '\(mm\)'"),
        ({"x": VALUES, "kind": [*(KIND * 19), "a", ""]}, "1 of 40 rows of .* have no target and are left out\\."),
        (
            {"x": VALUES, "kind": ["scratch", "none", "dent", "dent"]},
            "no target and are left out; 'none' in 10 of them",
        ),
        ({"x": VALUES, "kind": ["Cat", "dog", "dog", "cat"]}, r"classes of nearly the same name, \['Cat', 'cat'\]"),
        ({"x": [-999, *VALUES[2:], -999]}, "'x' .* holds -999 in 2 of 40 rows, far from all others"),
    ],
)
def test_what_cannot_be_learnt_from_or_is_odd_is_told(tmp_path, cells, message):
    with pytest.warns(UserWarning, match=message):
        data = loaded(tmp_path, columns(**{"kind": KIND, **cells}))
    assert data.encoding.inputs[0] == "x"


def test_times_that_nothing_is_split_by_are_told_of(tmp_path):
    text = columns(x=VALUES, seconds=[1.5e9 + 60 * row for row in range(40)], kind=KIND)
    with pytest.warns(UserWarning, match=r"\['seconds'\] .* change one way from row to row.*--time"):
        loaded(tmp_path, text)
    loaded(tmp_path, text, time="seconds")


@pytest.mark.parametrize(
    ("cells", "options", "classes"),
    [
        ({"y": [0, 1]}, {}, ("0", "1")),
        ({"y": ["3", "5", "9"]}, {}, ("3", "5", "9")),
        ({"y": ["3", "5", "9"]}, {"task": "regression"}, ()),
        ({"y": [True, False]}, {}, ("False", "True")),
        ({"y": ["class A", "class B"]}, {}, ("class A", "class B")),
        ({"y": VALUES}, {}, ()),
        ({"y": range(40, 0, -1)}, {}, ()),
    ],
)
def test_a_target_is_classes_or_values(tmp_path, cells, options, classes):
    data = loaded(tmp_path, columns(x=VALUES, **cells), target="y", **options)
    assert data.classes == classes
    assert data.train.targets.is_floating_point() == (not classes)
    assert data.train.targets.ndim == 1


def test_several_targets_are_values_side_by_side(tmp_path):
    data = loaded(tmp_path, columns(x=VALUES, y=VALUES[::-1], z=VALUES[1:]), target="y, z")
    assert data.train.targets.shape == (32, 2)


def test_groups_are_on_one_side_of_each_split(tmp_path):
    patients = [f"p{row % 10}" for row in range(40)]
    data = loaded(tmp_path, columns(x=VALUES, patient=patients, kind=["a", "b", "b"]), group="patient")
    assert data.encoding.inputs == ("x",)
    weights, alphas = data.halves(fraction=0.5, seed=0)
    groups = [set(data.groups[half.indices].tolist()) for half in (weights, alphas)]
    assert not groups[0] & groups[1]
    assert len(data.train) == 32
    assert len(groups[0] | groups[1]) == 8  # the other two patients are the test


@pytest.mark.parametrize(
    ("text", "options", "error", "message"),
    [
        (plain(), {"target": None}, OptionError, "--target.* length, colour, weight, kind"),
        (plain(), {"target": "kinds"}, DataError, "no column 'kinds'. Did you mean 'kind'"),
        (plain(), {"group": "who"}, DataError, "no column 'who'"),
        (plain(), {"target": "kind", "task": "regression"}, DataError, r"must be numbers, but \['kind'\]"),
        (plain(), {"target": "length", "group": "colour", "time": "weight"}, OptionError, "Give one of them"),
        (plain(), {"group": "colour"}, DataError, "'colour' has rows without a value"),
        (plain(), {"time": "kind", "target": "length"}, DataError, "must hold numbers or dates"),
        (plain(), {"fit": "pad"}, OptionError, "fit goes with folder:PATH"),
        ("1,2,3\n4,5,6\n", {}, DataError, "first row .* holds numbers"),
        ("a,a,kind\n1,2,x\n", {}, DataError, "two columns called 'a'"),
        ("a,kind\n", {}, DataError, "no rows"),
        ("", {}, DataError, "no rows"),
        ("report of May\na,kind\n1,x\n2,y\n", {}, DataError, "cells as its first, 1, but line 2 has 2, line 3 has 2"),
        (plain() + "Total;1\n", {}, DataError, "line 42 has 1"),
        (b"PK\3\4\0\0\0", {}, DataError, "no table of text"),
        (
            columns(name=[f"n{row}" for row in range(9)], x=VALUES[:9]),
            {"target": "name"},
            DataError,
            "9 different texts in 9 rows",
        ),
        (columns(x=["NA"], kind=KIND * 2), {}, DataError, r"no column to learn from: 'x' \(no values\)"),
        (columns(x=VALUES, kind=["a"]), {}, DataError, "'kind' of .* is 'a' in each row"),
        (plain().replace("colour", "カ").encode("shift-jis"), {"target": "カテ"}, DataError, "save it as UTF-8"),
    ],
)
@pytest.mark.filterwarnings("ignore:Columns of")
def test_tables_that_cannot_be_used_are_refused(tmp_path, text, options, error, message):
    with pytest.raises(error, match=message):
        loaded(tmp_path, text, **options)


def test_new_rows_are_encoded_as_the_first(tmp_path):
    data = loaded(tmp_path, plain())
    (tmp_path / "new.csv").write_text("weight,length,colour,more\n100,2.5,violet,1\n")
    encoded = data.encoding.encode(tmp_path / "new.csv")
    assert encoded.shape == (1, 4)
    assert encoded[0, 1:3].tolist() == [0, 0]
    (tmp_path / "new.csv").write_text("weight,colour\n100,red\n")
    with pytest.raises(DataError, match=r"lacks the columns \['length'\]"):
        data.encoding.encode(tmp_path / "new.csv")


def test_a_parquet_file_holds_the_same(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    expected = loaded(tmp_path, plain())
    rows = [line.split(",") for line in plain().splitlines()[1:]]
    lengths, colours, weights, kinds = zip(*rows, strict=True)
    columns = {
        "length": [float(text) for text in lengths],
        "colour": [text or None for text in colours],
        "weight": [int(text) for text in weights],
        "kind": list(kinds),
    }
    parquet.write_table(arrow.table(columns), tmp_path / "table.parquet")
    data = load(str(tmp_path / "table.parquet"), target="kind")
    assert data.encoding.inputs == expected.encoding.inputs
    assert torch.equal(data.train.inputs, expected.train.inputs)
    others = {"kind": [kind.encode() for kind in kinds], "weight": [timedelta(seconds=int(text)) for text in weights]}
    parquet.write_table(arrow.table({**columns, **others}), tmp_path / "table.parquet")
    data = load(str(tmp_path / "table.parquet"), target="kind")
    assert data.classes == expected.classes
    assert torch.equal(data.train.inputs, expected.train.inputs)
    parquet.write_table(arrow.table({**columns, "words": [[1, 2]] * ROWS}), tmp_path / "nested.parquet")
    with pytest.raises(DataError, match=r"columns \['words'\] .* hold lists"):
        load(str(tmp_path / "nested.parquet"), target="kind")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(DataError, match="cannot be read"):
        load(str(tmp_path / "broken.parquet"), target="kind")


def test_without_pyarrow_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    (tmp_path / "table.parquet").write_bytes(b"PAR1")
    with pytest.raises(OptionError, match=r"needs pyarrow.* archgrad\[tables\]"):
        load(str(tmp_path / "table.parquet"), target="kind")


def test_the_numbers_of_a_search_are_standardised_over_the_samples_for_the_weights_alone(tmp_path):
    rows = [f"{'' if n % 7 == 3 else n * n},{'abc'[n % 3]},{n},{n / 2}" for n in range(40)]
    (tmp_path / "t.csv").write_text("\n".join(["square,kind,day,y", *rows]))
    data = load(str(tmp_path / "t.csv"), target="y", time="day")
    weights, alphas = data.halves(fraction=0.5, seed=0)
    assert weights.samples is alphas.samples
    days = torch.arange(32)  # the test set is the latest fifth
    assert data.encoding.inputs[:2] == ("square", "square is missing")
    missing = days % 7 == 3
    known = weights.indices[~missing[weights.indices]]
    squares = (days**2).double()
    expected = (squares - squares[known].mean()) / squares[known].std(correction=0)
    found = weights.samples.inputs
    torch.testing.assert_close(found[~missing, 0].double(), expected[~missing], atol=1e-5, rtol=1e-5)
    assert not found[missing, 0].any()
    assert torch.equal(found[:, 1:], data.train.inputs[:, 1:])
    assert not torch.equal(found[:, 0], data.train.inputs[:, 0])
    assert abs(float(data.train.inputs[~missing, 0].mean())) < 1e-6  # a retraining has all training rows
    assert torch.equal(weights.samples.targets, data.train.targets)

    # The same where the halves are given, as the folds of a cross-validation are.
    train, valid = data.take(weights.indices), data.take(alphas.indices)
    fold = replace(train, valid=valid.train, times=None)
    for part, indices in zip(fold.halves(fraction=0.5, seed=0), (weights.indices, alphas.indices), strict=True):
        torch.testing.assert_close(part.samples.inputs, found[indices])
        assert part.given == (indices is alphas.indices)


def test_categories_and_missing_values_of_the_other_half_are_unknown_in_a_search(tmp_path):
    """Of 100 days the alphas have those from 40 to 79, with a colour and with gaps that days before do not have."""
    rows = [
        f"{day},{value},{'blue' if 50 <= day < 60 else ('red', 'green')[day % 2]},{day % 2}"
        for day, value in enumerate([*(day % 11 for day in range(60)), *["", 5] * 20])
    ]
    data = loaded(tmp_path, "\n".join(["day,value,colour,kind", *rows]), time="day")
    assert data.encoding.inputs == ("value", "value is missing", "colour=blue", "colour=green", "colour=red")
    weights, alphas = data.halves(fraction=0.5, seed=0)
    seen, unseen = (half.samples.inputs[half.indices] for half in (weights, alphas))
    assert not seen[:, [1, 2]].any()
    assert not unseen[:, [1, 2]].any()
    assert unseen[10:20, 2:].sum() == 0  # blue is none of the colours
    assert torch.equal(unseen[20::2, 0], torch.zeros(10))  # what is missing is the mean
    numbers = torch.tensor([float(day % 11) for day in range(40)])
    torch.testing.assert_close(seen[:, 0], (numbers - numbers.mean()) / numbers.std(correction=0))
    assert data.train.inputs[:, [1, 2]].any(0).all()  # a retraining knows of both


def test_a_category_that_the_weights_do_not_have_is_a_rare_one_where_there_are_rare_ones(tmp_path):
    names = [f"c{day % 52:02}" for day in range(120)] + ["late"] * 30 + ["c00"] * 45
    rows = [f"{day},{name},{day % 2}" for day, name in enumerate(names)]
    data = loaded(tmp_path, "\n".join(["day,name,kind", *rows]), time="day")
    assert {"name=late", "name=other"} <= set(data.encoding.inputs)
    late, other = (data.encoding.inputs.index(f"name={name}") for name in ("late", "other"))
    _, alphas = data.halves(fraction=0.6, seed=0)
    inputs = alphas.samples.inputs[120:150]
    assert not inputs[:, late].any()
    assert torch.equal(inputs[:, other], torch.ones(30))


def test_values_that_only_test_rows_lack_make_no_input(tmp_path):
    rows = [f"{day},{day * day % 7 if day < 45 else ''},{'ab'[day % 2]}" for day in range(50)]
    data = loaded(tmp_path, "\n".join(["day,value,kind", *rows]), time="day")
    assert data.encoding.inputs == ("value",)
    assert not data.test.inputs[5:].any()  # the mean


def test_reading_a_table_leaves_the_limit_of_other_readers_as_it_was(tmp_path):
    before = csv.field_size_limit()
    loaded(tmp_path, plain())
    assert csv.field_size_limit() == before
