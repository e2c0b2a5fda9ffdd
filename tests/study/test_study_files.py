"""The studies that archgrad brings along, without running them, and what is told of one beforehand."""

from __future__ import annotations

from pathlib import Path

import pytest

from archgrad.cli.main import main
from archgrad.cli.method_options import make_method
from archgrad.cli.study_check import checked, options_of, parts_of, to_text
from archgrad.errors import OptionError
from archgrad.search.short_forms import preset
from archgrad.study import load_study
from archgrad.study.jobs import candidates_of, jobs_of

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "studies").glob("*.yaml"))
SHORT = """
methods:
  - darts
  - {name: three, method: {ensemble: {members: 3}, stopping: {name: epoch-limit, epochs: 1}}}
spaces: [tiny]
data: [{data: digits, train_samples: 128}]
seeds: [0, 1]
search: {epochs: 2, batch_size: 32, device: cpu}
judges: [{name: short, retrain: {epochs: 1, batch_size: 64, device: cpu}}]
random: 2
random_search: {epochs: 1}
"""


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_option_of_a_study_is_one_that_there_is(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARCHGRAD_DATA", str(tmp_path))
    monkeypatch.chdir(ROOT)
    study = load_study(file)
    plain = [entry.name for entry in study.methods if entry.options == {"method": entry.name}]
    for name in plain:
        assert preset(name)
    for name, jobs in parts_of(jobs_of(study, tmp_path / "out")).items():
        if name.rpartition("/")[2] not in plain[1:]:  # whose options are those of the first
            values = options_of(jobs[0])
            assert jobs[0].command != "search" or make_method(values)
    text = file.read_text(encoding="utf-8")
    assert f"archgrad study studies/{file.name}" in text
    assert "minutes" in text  # of all runs together
    assert study.random_search is not None or study.random >= 8


def test_a_study_is_told_before_it_is_run(tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text(SHORT, encoding="utf-8")
    plan = load_study(tmp_path / "plan.yaml")
    parts = {part.name: part for part in checked(plan)}
    assert {name: part.runs for name, part in parts.items()} == {
        "searches/tiny/digits/darts": 2,
        "searches/tiny/digits/three": 2,
        "searches/tiny/digits/random-search": 2,
        "retrainings/short/tiny/digits": 8,
    }
    assert all(part.seconds > 0 for part in parts.values())
    # Three members of one epoch against two epochs, by steps that take alike.
    ratio = parts["searches/tiny/digits/three"].seconds / parts["searches/tiny/digits/darts"].seconds
    assert 0.3 < ratio < 7
    assert parts["searches/tiny/digits/random-search"].seconds == parts["searches/tiny/digits/darts"].seconds
    assert not (tmp_path / "runs").exists()
    text = to_text(plan, list(parts.values()))
    assert "14 runs, about" in text
    assert "darts, three" in text
    kept = [one for one in candidates_of(plan, tmp_path) if (one.method, one.seed) != ("random", 1)]
    assert [(part.name, part.runs) for part in checked(plan, kept)] == [("retrainings/short/tiny/digits", 1)]
    assert "0 runs, about" in to_text(plan, list(checked(plan, candidates_of(plan, tmp_path))))


def test_what_could_not_run_is_told_before(tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text(SHORT.replace("epochs: 2,", "epochs: 2, weights_fraction: 3,"))
    with pytest.raises(OptionError, match="weights_fraction"):
        list(checked(load_study(tmp_path / "plan.yaml")))
    table = tmp_path / "table.csv"
    table.write_text("index,arch,accuracy\n0,|none~0|+|none~0|none~1|+|none~0|none~1|none~2|,1.0\n")
    judge = f"{{table: {table}, columns: other}}"
    (tmp_path / "plan.yaml").write_text(SHORT.replace("{name: short, retrain", judge + ", {name: short, retrain"))
    with pytest.raises(OptionError, match=r"no column 'other'. It has accuracy"):
        list(checked(load_study(tmp_path / "plan.yaml")))


def test_a_study_with_an_option_that_there_is_not_does_not_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("plan.yaml").write_text(SHORT.replace("spaces: [tiny]", "spaces: [{space: tiny, chanels: 2}]"))
    assert main(["study", "plan.yaml"]) == 2
    said = capsys.readouterr().err
    assert "with which searches/tiny/digits/darts/seed-0 cannot run: 'searches/tiny" in said
    assert "holds 'chanels', which is no option of 'archgrad search'. Did you mean 'channels'?" in said
    assert not Path("runs").exists()
