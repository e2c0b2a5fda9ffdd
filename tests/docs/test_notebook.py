"""The notebook runs from its first cell to its last."""

from __future__ import annotations

from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[2] / "examples" / "first_search.ipynb"
nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed; see the extra 'dev'")
nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed; see the extra 'dev'")
pytest.importorskip("ipykernel", reason="ipykernel is not installed; see the extra 'dev'")


def test_the_notebook_runs_and_its_network_learns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path), "IPYTHONDIR": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    printed = [
        output["text"] for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs
        if output.output_type == "stream" and output.name == "stdout"
    ]  # fmt: skip
    accuracy = next(text for text in printed if text.startswith("test accuracy"))
    assert float(accuracy.split()[-1].rstrip("%")) > 80  # ten classes; chance is 10 %
    assert "report.html" in printed[-1]
    shown = [output["data"].get("text/html", "") for cell in notebook.cells for output in cell.get("outputs", [])
             if output.output_type == "execute_result"]  # fmt: skip
    assert len(shown) == 3  # the search, its architecture, the curves of the retraining
    assert all("<svg" in html for html in shown)


def test_the_notebook_is_kept_without_outputs() -> None:
    for cell in nbformat.read(NOTEBOOK, as_version=4).cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None
