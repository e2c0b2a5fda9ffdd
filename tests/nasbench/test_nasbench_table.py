"""A table of NAS-Bench-201: cells and text are the same thing, ranks count the better cells, damage is refused."""

import math
import random

import pytest

from archgrad.architecture import Architecture
from archgrad.architectures import DARTS_V2
from archgrad.errors import ArchitectureError, DataError
from archgrad.nasbench import OPERATIONS, format_arch, load_table, parse_arch, query

MIXED = "|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|nor_conv_3x3~0|none~1|skip_connect~2|"
SKIPS = "|skip_connect~0|+|skip_connect~0|skip_connect~1|+|skip_connect~0|skip_connect~1|skip_connect~2|"
NONES = SKIPS.replace("skip_connect", "none")


def test_text_becomes_the_cell_and_back():
    architecture = parse_arch(MIXED)
    assert architecture.space == "nasbench201"
    assert architecture == Architecture(
        {
            "cell": {
                "1": [["avg_pool_3x3", 0]],
                "2": [["nor_conv_1x1", 0], ["skip_connect", 1]],
                "3": [["nor_conv_3x3", 0], ["none", 1], ["skip_connect", 2]],
            }
        },
        space="nasbench201",
    )
    assert format_arch(architecture) == MIXED
    assert parse_arch(f" {MIXED}\n") == architecture


def test_edges_in_order_of_strength_are_written_by_source():
    cell = parse_arch(MIXED).to_dict()["choices"]["cell"]
    strongest_first = {node: edges[::-1] for node, edges in cell.items()}
    assert format_arch(Architecture({"cell": strongest_first})) == MIXED


def test_any_cell_survives_the_round_trip():
    chance = random.Random(0)
    for _ in range(200):
        text = NONES
        for _ in range(6):
            text = text.replace("none", chance.choice(OPERATIONS[1:]), 1)
        assert format_arch(parse_arch(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "|",
        MIXED[:-1],
        MIXED[1:],
        MIXED.replace("+", ""),
        MIXED + "+" + MIXED,
        MIXED.rpartition("+")[0],
        MIXED.replace("~2", "~1"),
        MIXED.replace("~2", "~3"),
        MIXED.replace("none", "conv_9x9"),
        MIXED.replace("none", "None"),
        MIXED.replace("none", ""),
        MIXED.replace("~1", "~-1"),
        MIXED.replace("~1", "~¹"),
        MIXED.replace("|", "| "),
        "|" * 10**6,
        "+" * 10**6,
    ],
)
def test_other_text_is_refused(text):
    with pytest.raises(ArchitectureError, match="NAS-Bench-201"):
        parse_arch(text)


def test_damaged_text_is_read_or_refused_and_nothing_else():
    chance = random.Random(0)
    for _ in range(3000):
        text = MIXED
        for _ in range(chance.randint(1, 3)):
            place = chance.randrange(len(text) + 1)
            text = (
                text[:place]
                + chance.choice(["", "|", "+", "~", "0", "none", "\n", "é"])
                + text[place + chance.randint(0, 2) :]
            )
        try:
            refused = format_arch(parse_arch(text)) != text.strip()
        except ArchitectureError:
            refused = False
        assert not refused, text


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        (DARTS_V2, "one cell 'cell', and .* but this architecture of space 'darts-cifar' decides 'normal, reduce'"),
        (Architecture(parse_arch(MIXED).choices, space="mine"), "of space 'mine'"),
        (Architecture({"cell": "conv"}), "one cell 'cell'"),
        (Architecture({"cell": {"1": [["none", 0]]}}), "nodes 1, 2, 3 with one edge from each"),
        (Architecture({"cell": {"1": [["none", 0]], "2": [["none", 0], ["none", 0]]}}), "nodes 1, 2, 3"),
        (Architecture({"cell": {"2": [["none", 0], ["none", 1]], "3": [["none", 0]]}}), "nodes 1, 2, 3"),
        (Architecture({"cell": {**parse_arch(MIXED).choices["cell"], "concat": [2]}}), "gives out its last node"),
        (
            Architecture(
                {"cell": {"1": [["a", 0]], "2": [["none", 0], ["none", 1]], "3": [["none", s] for s in (0, 1, 2)]}}
            ),
            "has the operations none, .* but the cell has 'a'",
        ),
    ],
)
def test_an_architecture_of_another_space_has_no_text(architecture, message):
    with pytest.raises(ArchitectureError, match=message):
        format_arch(architecture)


def test_an_edge_that_was_left_out_is_none():
    kept = {"1": [["nor_conv_3x3", 0]], "2": [["skip_connect", 1]], "3": [["avg_pool_3x3", 2], ["none", 0]]}
    text = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|none~0|none~1|avg_pool_3x3~2|"
    assert format_arch(Architecture({"cell": kept})) == text


HEAD = "index,arch,cifar10,cifar100\n"


@pytest.fixture
def table_file(tmp_path):
    def write(content):
        (tmp_path / "table.csv").write_text(content, encoding="utf-8")
        return tmp_path / "table.csv"

    return write


def test_rank_counts_the_cells_that_reached_more(table_file):
    table = load_table(table_file(f"{HEAD}7,{MIXED},90,10.5\n8,{SKIPS},90,70\n9,{NONES},95.25,10.5\n"))
    found = query(table, parse_arch(MIXED))
    assert (found.index, found.arch, found.cells) == (7, MIXED, 3)
    assert [(s.column, s.value, s.rank, s.best) for s in found.scores] == [
        ("cifar10", 90.0, 2, 95.25),  # one cell is better, one is equal
        ("cifar100", 10.5, 2, 70.0),
    ]
    assert [s.rank for s in query(table, parse_arch(NONES)).scores] == [1, 2]


def test_the_text_shows_every_column(table_file):
    table = load_table(table_file(f"{HEAD}7,{MIXED},90,10.5\n8,{SKIPS},91,70\n"))
    lines = query(table, parse_arch(MIXED)).to_text().splitlines()
    assert lines[0] == f"cell 7  {MIXED}"
    assert lines[2].split() == ["cifar10", "%", "90.000", "2", "91.000"]
    assert lines[3].split() == ["cifar100", "%", "10.500", "2", "70.000"]


def test_a_cell_that_the_table_lacks_is_an_error(table_file):
    with pytest.raises(ArchitectureError, match="has 1 cells, but not"):
        query(load_table(table_file(f"{HEAD}0,{MIXED},90,70\n")), parse_arch(SKIPS))


BAD_TABLES = {
    "empty": ("", "line 0: it needs different columns"),
    "header only": (HEAD, "has no rows"),
    "no arch": ("index,cifar10\n0,90\n", "arch and values, but has"),
    "no accuracies": (f"index,arch\n0,{MIXED}\n", "different columns"),
    "column twice": (f"index,arch,a,a\n0,{MIXED},1,2\n", "different columns"),
    "row cut": (f"{HEAD}0,{MIXED},90\n", "line 2: a row needs 4 values, but has 3"),
    "row too long": (f"{HEAD}0,{MIXED},90,70,1\n", "line 2: a row needs 4"),
    "cell broken": (f"{HEAD}0,{MIXED[:-1]},90,70\n", "line 2: A cell of NAS-Bench-201 is written"),
    "cell twice": (f"{HEAD}0,{MIXED},90,70\n1,{MIXED},90,70\n", "line 3: a cell may occur once"),
    "index negative": (f"{HEAD}-1,{MIXED},90,70\n", "line 2: an index is a number from 0, but got '-1'"),
    "index huge": (f"{HEAD}{'9' * 5000},{MIXED},90,70\n", "line 2: an index"),
    "accuracy a word": (f"{HEAD}0,{MIXED},high,70\n", "cifar10 must be from 0 to 100, but is 'high'"),
    "accuracy empty": (f"{HEAD}0,{MIXED},,70\n", "cifar10 must be from 0 to 100"),
    "accuracy nan": (f"{HEAD}0,{MIXED},nan,70\n", "cifar10 must be from 0 to 100"),
    "accuracy above 100": (f"{HEAD}0,{MIXED},100.5,70\n", "cifar10 must be from 0 to 100"),
    "quote open": (f'{HEAD}0,"{MIXED},90,70\n', "Take an intact copy"),
    "huge field": (f"{HEAD}0,{'|' * 200_000},90,70\n", "field larger"),
}


@pytest.mark.parametrize(("content", "message"), BAD_TABLES.values(), ids=BAD_TABLES)
def test_a_bad_table_is_refused_with_file_and_line(table_file, content, message):
    with pytest.raises(DataError, match=rf"table\.csv.*{message}"):
        load_table(table_file(content))


def test_a_table_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"gone\.csv.*No such file"):
        load_table(tmp_path / "gone.csv")
    with pytest.raises(DataError, match="must be a file"):
        load_table(tmp_path)
    (tmp_path / "table.csv").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=r"cannot be read: .*utf-8"):
        load_table(tmp_path / "table.csv")
    with open(tmp_path / "huge.csv", "wb") as file:
        file.truncate(1 << 40)  # sparse
    with pytest.raises(DataError, match="at most 67108864 bytes"):
        load_table(tmp_path / "huge.csv")


def test_of_costs_less_is_better(table_file):
    table = load_table(table_file(f"arch,phone_ms,parameters\n{MIXED},2.5,1000\n{SKIPS},1.5,2000\n{NONES},1.5,500\n"))
    found = query(table, parse_arch(MIXED))
    assert found.index == 0  # the place of the row, where there are no numbers
    assert [(s.column, s.value, s.unit, s.rank, s.best) for s in found.scores] == [
        ("phone_ms", 2.5, "ms", 3, 1.5),
        ("parameters", 1000.0, "", 2, 500.0),
    ]
    assert query(table, parse_arch(SKIPS)).scores[0].rank == 1
    assert found.to_text().splitlines()[3].split() == ["parameters", "1,000", "2", "500"]


@pytest.mark.parametrize("value", ["-2", "inf", "nan", "fast", ""])
def test_a_cost_that_is_none_is_refused(table_file, value):
    with pytest.raises(DataError, match="phone_ms must be a number of at least 0"):
        load_table(table_file(f"arch,phone_ms\n{MIXED},{value}\n"))


def test_what_could_not_be_measured_has_no_rank(table_file):
    table = load_table(table_file(f"arch,phone_ms\n{MIXED},-1\n{SKIPS},1.5\n"))
    (missing,) = query(table, parse_arch(MIXED)).scores
    assert (math.isnan(missing.value), missing.rank, missing.best) == (True, 0, 1.5)
    assert "not measured" in query(table, parse_arch(MIXED)).to_text()
    assert query(table, parse_arch(SKIPS)).scores[0].rank == 1


def test_eight_digits_are_a_network_and_back():
    architecture = parse_arch("01201210")
    assert architecture.space == "nasbench-macro"
    assert architecture.choices["layer2"] == "mb6_5x5"
    assert format_arch(architecture) == "01201210"
    for text in ("0120121", "012012103", "01201213"):
        with pytest.raises(ArchitectureError):
            parse_arch(text)
    with pytest.raises(ArchitectureError, match="of space 'mine'"):
        format_arch(Architecture(architecture.choices, space="mine"))


@pytest.mark.shared
def test_the_hardware_table_has_the_same_cells(benchmark, shared_dir):
    hardware = load_table(shared_dir / "data" / "nasbench201-hardware-cifar10.csv")
    assert hardware.rows.keys() == benchmark.rows.keys()
    found = query(hardware, parse_arch(SKIPS))
    assert [score.unit for score in found.scores] == ["ms"] * 6 + ["mJ"] * 3


@pytest.mark.shared
def test_the_best_macro_network_is_the_published_one(shared_dir):
    table = load_table(shared_dir / "data" / "nasbench-macro.csv")
    assert len(table.rows) == 3**8
    score = query(table, parse_arch("22212220")).scores[0]
    assert (score.value, score.rank) == (93.1267, 1)


@pytest.fixture(scope="module")
def benchmark(shared_dir):
    return load_table(shared_dir / "data" / "nasbench201.csv")


@pytest.mark.shared
def test_the_benchmark_has_every_cell_once(benchmark):
    assert len(benchmark.rows) == len(OPERATIONS) ** 6 == 15_625
    assert sorted(index for index, _ in benchmark.rows.values()) == list(range(15_625))
    assert benchmark.columns[:3] == ("cifar10_test_200", "cifar100_test_200", "imagenet16_120_test_200")


@pytest.mark.shared
def test_all_skip_is_where_searches_collapse_to(benchmark):
    found = query(benchmark, parse_arch(SKIPS))
    assert [score.value for score in found.scores[:3]] == [54.297, 15.607, 16.322]


@pytest.mark.shared
def test_two_cells_are_the_best_on_cifar10(benchmark):
    best = [arch for arch in benchmark.rows if query(benchmark, parse_arch(arch)).scores[0].rank == 1]
    assert sorted(query(benchmark, parse_arch(arch)).index for arch in best) == [6111, 13714]
    assert query(benchmark, parse_arch(best[0])).scores[0].value == 94.373
