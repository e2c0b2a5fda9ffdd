"""Fixtures that choose between the compiled kernels and what stands in for them."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from archgrad.fast import native_cell, path_names
from archgrad.fast.native import library


@pytest.fixture(scope="module")
def built() -> None:
    """What needs the compiled kernels fails in CI where they were not built, and skips elsewhere."""
    if not library.is_built():
        message = "the compiled kernels were not built when archgrad was installed (a C++ compiler with OpenMP does it)"
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail(message)
        pytest.skip(message)


@pytest.fixture(params=["kernels", "stages", "operations", "gathered"])
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run with the compiled kernels, with these but no cell as a whole, with operations in their place, and with cells
    in few large operations, as beside the CPU."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param in ("operations", "gathered"):
            patch.setattr(library, "is_built", lambda: False)
            path = "grouped" if request.param == "gathered" else "torch"
            patch.setattr(path_names, "usual_path", lambda _: path)
        else:
            request.getfixturevalue("built")
        if request.param == "stages":
            patch.setattr(native_cell, "evaluate", lambda *_: None)
        yield request.param
