"""Genotypes as they lie around: forks' forms, logs with one an epoch, files with many; nothing of them is evaluated."""

from __future__ import annotations

from pathlib import Path

import pytest

from archgrad.architecture import Architecture
from archgrad.architectures import DARTS_V1, DARTS_V2
from archgrad.errors import ArchitectureError

ONE = "Genotype(normal=[{a}], normal_concat=range(2, 4), reduce=[{a}], reduce_concat=[2, 3])"
FLAT = "('a', 0), ('b', 1), ('c', 2), ('d', 0)"
FORMS = {
    "nested": "[('a', 0), ('b', 1)], [('c', 2), ('d', 0)]",
    "nested tuples": "(('a', 0), ('b', 1)), (('c', 2), ('d', 0),)",
    "triples": "('a', 0, 2), ('b', 1, 2), ('c', 2, 3), ('d', 0, 3)",
    "triples in any order": "('c', 2, 3), ('a', 0, 2), ('d', 0, 3), ('b', 1, 2)",
    "scores": "('a', 0, 0.25), ('b', 1, 1.5e-3), ('c', 2, -.5), ('d', 0, +0.0)",
    "nested with scores": "[('a', 0, 0.25), ('b', 1, 0.1)], [['c', 2, 0.3], ('d', 0, 0.2)]",
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_the_forms_of_forks_mean_the_same(form: str) -> None:
    plain = Architecture.from_genotype(ONE.format(a=FLAT))
    assert Architecture.from_genotype(ONE.format(a=form)) == plain
    assert plain.choices["normal"]["3"] == (("c", 2), ("d", 0))


def test_nodes_of_any_number_of_edges_go_round_nested() -> None:
    read = Architecture.from_genotype(ONE.format(a="[('a', 0)], [('b', 0), ('c', 1), ('d', 2)]"))
    assert len(read.choices["normal"]["3"]) == 3
    assert Architecture.from_genotype(read.to_genotype(nested=True)) == read
    with pytest.raises(ArchitectureError, match="2 edges a node"):
        read.to_genotype()


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """The way the authors' search logs, with another genotype each epoch."""
    lines = []
    for epoch in range(3):
        lines += [
            f"11/02 01:23:45 PM epoch {epoch} lr 2.5e-02",
            f"11/02 01:23:46 PM genotype = {ONE.format(a=FLAT.replace('a', f'epoch{epoch}', 1))}",
            "tensor([[0.1, 0.2]], grad_fn=<SoftmaxBackward>)",
        ]
    file = tmp_path / "log.txt"
    file.write_text("\n".join(lines))
    return file


def test_the_last_genotype_of_a_log_is_taken_and_said(log: Path) -> None:
    with pytest.warns(UserWarning, match=r"3 genotypes; the last was taken, that of epoch 2.*FILE@0"):
        read = Architecture.load(log)
    assert read.choices["normal"]["2"][0].operation == "epoch2"
    assert read.provenance == {"genotype": "3 of 3", "epoch": 2}


def test_the_genotype_of_an_epoch_is_taken(log: Path) -> None:
    assert Architecture.load(f"{log}@1").choices["normal"]["2"][0].operation == "epoch1"
    with pytest.raises(ArchitectureError, match=r"no genotype of the epoch 7\. It has epochs 0, 1, 2"):
        Architecture.load(f"{log}@7")


def test_a_log_without_epochs_is_counted(tmp_path: Path) -> None:
    file = tmp_path / "log.txt"
    file.write_text("\n".join(f"genotype = {ONE.format(a=FLAT.replace('a', name, 1))}" for name in "xyz"))
    assert Architecture.load(f"{file}@1").choices["normal"]["2"][0].operation == "y"


def test_a_file_of_many_is_asked_by_name(tmp_path: Path) -> None:
    file = tmp_path / "genotypes.py"
    named = "\n\n".join(f"{name} = {arch.to_genotype()}" for name, arch in (("V1", DARTS_V1), ("V2", DARTS_V2)))
    head = "from collections import namedtuple\n\nGenotype = namedtuple('Genotype', 'normal normal_concat')\n"
    file.write_text(f"{head}PRIMITIVES = ['none']\n{named}\n\nDARTS = V2\n")
    assert Architecture.load(f"{file}:V1") == DARTS_V1
    with pytest.raises(ArchitectureError, match=r"no genotype of the name 'V3'\. It has names V1, V2"):
        Architecture.load(f"{file}:V3")
    with pytest.warns(UserWarning, match="the last was taken, 'V2'"):
        assert Architecture.load(file) == DARTS_V2


def test_a_file_whose_name_has_the_sign_is_read_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "log@1"
    file.write_text(DARTS_V1.to_genotype())
    assert Architecture.load(file) == DARTS_V1


def test_what_is_chosen_goes_with_text_alone(tmp_path: Path) -> None:
    DARTS_V1.save(tmp_path / "v1.json")
    with pytest.raises(ArchitectureError, match="JSON has one architecture"):
        Architecture.load(f"{tmp_path / 'v1.json'}@3")


@pytest.mark.parametrize(
    ("genotype", "message"),
    [
        (ONE.format(a="__import__('os').mkdir('proof')"), "holds names, numbers"),
        (ONE.format(a="[" * 100_000), "at most 8 brackets"),
        (ONE.format(a=f"('a', {'9' * 5000})" + ", ('b', 0)"), "counts states from 0 to 999"),
        (ONE.format(a="('a', 0), " * 20_000), "within 65536 characters"),
        (ONE.format(a=FLAT)[:-20], "Take an intact file"),
        (ONE.format(a=FLAT.replace("'a'", 'f\'{open("proof", "w")}\'')), "holds names, numbers"),
    ],
    ids=["code", "deep", "huge number", "long", "cut off", "code in a string"],
)
def test_hostile_genotypes_in_a_log_are_refused(
    genotype: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "log.txt"
    file.write_text(f"epoch 0\ngenotype = {ONE.format(a=FLAT)}\nepoch 1\ngenotype = {genotype}\n")
    with pytest.raises(ArchitectureError, match=message):
        Architecture.load(f"{file}@1")
    assert Architecture.load(f"{file}@0").choices["normal"]["3"][1].operation == "d"
    assert not (tmp_path / "proof").exists()
