"""`archgrad convert` between the forms of other programs, and `archgrad doctor`."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import archgrad as ag
from archgrad.architectures import DARTS_V2
from archgrad.cli.main import main
from archgrad.official import network_to_state_dict


@pytest.mark.parametrize("form", ["archgrad", "authors", "pt.darts", "nni-2.4", "nni-2.10", "nni-3"])
def test_an_architecture_goes_out_in_every_form_and_in_again(form: str, tmp_path: Path) -> None:
    out, back = tmp_path / "out.any", tmp_path / "back.json"
    assert main(["convert", "DARTS_V2", str(out), "--to", form]) == 0
    assert main(["convert", str(out), str(back)]) == 0
    assert ag.Architecture.load(back) == DARTS_V2


def test_the_ending_tells_the_form_and_a_log_its_epoch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log.txt"
    log.write_text(f"epoch 0\n{DARTS_V2.to_genotype()}\nepoch 1\n{ag.architectures.DARTS_V1.to_genotype()}\n")
    assert main(["convert", f"{log}@0", str(tmp_path / "out.txt")]) == 0
    assert (tmp_path / "out.txt").read_text() == DARTS_V2.to_genotype() + "\n"
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert main(["convert", str(log), str(tmp_path / "last.json")]) == 0
    assert "2 genotypes; the last was taken, that of epoch 1" in capsys.readouterr().err
    assert main(["convert", f"{log}@5", str(tmp_path / "none.json")]) == 2
    assert "no genotype of the epoch 5" in capsys.readouterr().err


def test_trained_weights_of_the_authors_go_in_and_out(tmp_path: Path) -> None:
    genotype = tmp_path / "small.txt"
    pair = "('skip_connect', 0), ('skip_connect', 1)"
    genotype.write_text(f"Genotype(normal=[{pair}], normal_concat=[2], reduce=[{pair}], reduce_concat=[2])")
    network = ag.derive(ag.spaces.darts_cifar(2, 3, 4, stage="retrain"), str(genotype))
    official = network_to_state_dict(network)
    torch.save({"epoch": 3, "state_dict": official}, tmp_path / "model.pt")
    own, back = tmp_path / "own.safetensors", tmp_path / "back.pt"
    for target in (own, back):
        assert main(["convert", str(tmp_path / "model.pt"), str(target), "--arch", str(genotype)]) == 0
    assert load_file(own).keys() == network.state_dict().keys()
    read = torch.load(back, weights_only=True)
    assert read.keys() == official.keys()
    assert all(torch.equal(read[name], official[name]) for name in read)


def test_a_pickle_with_code_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(torch.nn.Linear(1, 1), tmp_path / "module.pt")
    assert main(["convert", str(tmp_path / "module.pt"), str(tmp_path / "out.pt"), "--arch", "DARTS_V2"]) == 2
    assert "cannot be read as tensors alone" in capsys.readouterr().err
    assert not (tmp_path / "out.pt").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["DARTS_V2", "out.json", "--arch", "DARTS_V1"], "--arch goes with weights"),
        (["model.pt", "out.pt"], "Give --arch"),
        (["AmoebaNet", "out.json", "--to", "nni-3"], "joins all nodes"),
        (["nowhere.json", "out.json"], "no architecture 'nowhere.json'"),
    ],
)
def test_what_cannot_be_converted_is_said(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["convert", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_doctor_says_what_there_is_and_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from archgrad.cli import doctor_command

    known = doctor_command._version
    monkeypatch.setattr(doctor_command, "_version", lambda name: None if name == "submitit" else known(name))
    monkeypatch.setattr(doctor_command, "instruction_set", lambda: None)
    monkeypatch.setattr(doctor_command, "why_missing", lambda: "cannot be loaded (libgomp.so.1: no such file)")
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    for part in ("archgrad ", "python ", f"torch {known('torch')}", "threads ", "GB free at", "devices "):
        assert part in said
    assert "the compiled kernels cannot be loaded (libgomp.so.1: no such file)" in said
    assert "install libgomp (Debian" in said
    monkeypatch.setattr(doctor_command, "why_missing", lambda: "were not built")
    main(["doctor"])
    assert "the compiled kernels were not built" in capsys.readouterr().out
    assert "pip install 'archgrad[slurm]'" in said
