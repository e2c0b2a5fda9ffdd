"""Scripts that are written the way NNI's tutorials are run as they are, from the search to predictions."""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from nni_problems import Line, trainer

import archgrad as ag
from archgrad.cli.main import main
from archgrad.errors import OptionError

SCRIPTS = Path(__file__).parent / "scripts"


@pytest.fixture
def own_nni(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder to work in, and no module called nni before and after."""
    monkeypatch.chdir(tmp_path)
    state = torch.get_rng_state()
    yield tmp_path
    torch.set_rng_state(state)
    for name in [name for name in sys.modules if name == "nni" or name.startswith("nni.")]:
        del sys.modules[name]


def lines_of(printed: str) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in printed.splitlines() if ": " in line)


def test_a_script_of_nni_2_4_searches_retrains_and_predicts(own_nni: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nni-run", str(SCRIPTS / "darts_2_4.py"), "--epochs", "1"]) == 0
    said = lines_of(capsys.readouterr().out)
    exported = json.loads((own_nni / "checkpoint.json").read_text())
    assert ast.literal_eval(said["Final architecture"]) == exported
    assert set(exported) == {f"normal_n{n}_p{i}" for n in (2, 3) for i in range(n)} | {
        "normal_n2_switch",
        "normal_n3_switch",
    }
    assert float(said["Accuracy"]) >= 0.9
    # The plain network has no parameters of candidates that were not taken.
    kept = {name.split(".")[3] for name in torch.load("retrained.pt", weights_only=True) if name.startswith("nodes.1.")}
    assert kept == {str(i) for i in range(3) if exported[f"normal_n3_p{i}"] == "conv"}


def test_a_script_of_nni_2_10_with_its_own_space(own_nni: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nni-run", str(SCRIPTS / "own_space_2_10.py")]) == 0
    said = lines_of(capsys.readouterr().out)
    exported = ast.literal_eval(said["Exported"])
    assert exported["model_1"] in ("0", "1")
    assert exported["skip"] in (0, 1)
    assert exported["model_2"] in (1, 2)
    assert exported["feature"] in (4, 8)
    assert {exported["cell/input_2_0"], exported["cell/input_2_1"]} == {0, 1}
    assert {exported[f"cell/op_{n}_{k}"] for n in (2, 3) for k in (0, 1)} <= {"pool", "conv"}
    assert float(said["Accuracy"]) >= 0.9


def test_a_script_of_nni_3_0_on_the_space_of_the_hub(own_nni: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nni-run", str(SCRIPTS / "hub_3_0.py")]) == 0
    said = lines_of(capsys.readouterr().out)
    exported = ast.literal_eval(said["Exported"])
    assert len(exported) == 2 * 4 * 2 * 2
    assert all(type(exported[key]) is (list if "/input_" in key else str) for key in exported)
    assert len(ast.literal_eval(said["Predicted"])) == 3
    assert said["Layer"] == {"0": "Linear", "1": "Identity"}[ast.literal_eval(said["Tiny"])["model/1"]]
    (own_nni / "exported.json").write_text(json.dumps(exported))
    assert ag.Architecture.load("exported.json").space == "darts-cifar"


def test_a_script_of_nni_2_10_retrains_with_a_module_of_its_own(
    own_nni: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["nni-run", str(SCRIPTS / "hub_retrain_2_10.py")]) == 0
    said = lines_of(capsys.readouterr().out)
    # The cosine over two epochs: 0.001 + 0.024 * (1 + cos(pi e / 2)) / 2.
    assert ast.literal_eval(said["Rates"]) == pytest.approx([0.025, 0.013])
    assert len(ast.literal_eval(said["Predicted"])) == 3


def test_a_script_with_its_imports_changed_needs_no_command(own_nni: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = (SCRIPTS / "own_space_2_10.py").read_text()
    changed = script.replace("import nni\n", "import archgrad.nni as nni\n")
    changed = changed.replace("import nni.", "import archgrad.nni.").replace("from nni.", "from archgrad.nni.")
    assert sum(a != b for a, b in zip(script.split("\n"), changed.split("\n"), strict=True)) == 6
    exec(compile(changed, "changed.py", "exec"), {"__name__": "__main__"})
    assert float(lines_of(capsys.readouterr().out)["Accuracy"]) >= 0.9
    assert "nni" not in sys.modules


def test_what_is_not_provided_says_what_to_use() -> None:
    import archgrad.nni as nni

    with pytest.raises(OptionError, match=r"nni\.retiarii\.strategy\.Random.*random_search"):
        from archgrad.nni.retiarii.strategy import Random  # noqa: F401
    with pytest.raises(OptionError, match=r"nni\.nas\.evaluator\.FunctionalEvaluator.*archgrad\.search"):
        nni.nas.evaluator.FunctionalEvaluator  # noqa: B018
    with pytest.raises(ImportError):
        from archgrad.nni.retiarii import no_such_name  # noqa: F401


def test_an_experiment_with_a_trainer_exports_what_the_trainer_does() -> None:
    from archgrad.nni.retiarii.experiment.pytorch import RetiariiExperiment

    made = trainer(Line())
    experiment = RetiariiExperiment(Line(), made)
    experiment.run()
    assert made.history
    assert experiment.export_top_models() == made.export() == {"choice": "a"}


def test_a_script_that_is_not_there_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nni-run", "nowhere.py"]) == 2
    assert "no script 'nowhere.py'" in capsys.readouterr().err
