"""Imports flow one way: a room imports only from rooms above it in this list, and no two modules from each other."""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

import archgrad

PACKAGE = Path(archgrad.__file__).parent

FLOW = (
    # no room of archgrad's needed
    ("cost_names", "errors"),
    ("machine",),
    ("nested", "options"),
    ("calling",),
    (
        *("batches", "buffers", "copying", "exactness", "files", "input_checks", "json_text", "isolation"),
        *("full_precision", "schedules", "terminal", "typed_names"),
    ),
    ("checks",),
    ("paths", "sizes", "decision"),  # what an architecture says of one choice
    # what a person writes: a module with open choices
    ("added_noise", "derived_cell", "mixture", "nested_sum", "partial_channels", "recompute"),
    ("choices", "connection"),
    # numbers that are open, and the layers that take them
    ("values",),
    ("channel_blocks", "valued"),
    ("nn", "repeat"),
    ("cell",),
    ("operations", "labels"),
    ("spaces",),
    # what many processes share
    ("distributed",),
    ("losses", "loss_scale"),
    ("loss_checks",),
    # the continuous relaxation
    ("relaxation", "fast"),
    # what moves the alphas, and what is added to their loss and to the mixing weights
    (
        *(
            "alphas",
            "always_on",
            "edge_weights",
            "named_weights",
            "optimizers",
            "perturbations",
            "pruned",
            "regularizers",
        ),
        *("skip_dropout", "weights_rules"),
    ),
    ("supernet",),
    ("skip_noise",),
    # the gradient of the alphas
    ("bilevel",),
    # the result, as plain data
    ("genotype", "nni_format", "nni_hub_format"),
    ("genotype_texts",),
    ("architecture",),
    ("architectures", "margins", "nasbench"),
    ("show",),
    ("discretize", "derive", "dependence"),
    # when a search ends and what it takes, and a method as data
    ("epoch_end",),
    ("selection", "stopping"),
    ("methods",),
    ("weight_names",),
    ("official",),
    # what a run is made of
    ("data", "cost", "cost_parts", "equal_layers", "latency", "zero_cost"),
    ("named_space", "expected_cost"),
    ("table_cost",),
    ("runs",),
    ("rank_state",),
    ("tasks",),
    ("report",),  # drawn from run files alone; the search logs a picture of its cell
    # the loop, and what it runs
    ("engine",),
    ("search",),
    ("retrain",),
    ("export",),
    ("random_search",),
    # searches and retrainings of a study are processes of their own
    ("study",),
    # thin fronts
    ("nni",),
    ("cli",),
    # for tests of parts, spaces and choices, also those of users
    ("testing",),
    ("__init__",),
    ("__main__",),
)
PLACE = {room: place for place, rooms in enumerate(FLOW) for room in rooms}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported_rooms(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the flow"
            if node.module == "archgrad":
                yield from (alias.name if alias.name in PLACE else "__init__" for alias in node.names)
            elif node.module and node.module.startswith("archgrad."):
                yield node.module.split(".")[1]
        elif isinstance(node, ast.Import):
            for alias in node.names:
                parts = alias.name.split(".")
                if parts[0] == "archgrad":
                    yield parts[1] if len(parts) > 1 else "__init__"


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_from_earlier_rooms(path: Path) -> None:
    own = room_of(path)
    assert own in PLACE, f"'{own}' has no place in the flow"
    version_only = own == "cli"  # reads archgrad.__version__
    for other in set(imported_rooms(path)):
        if other == own or (version_only and other == "__init__"):
            continue
        assert PLACE[other] < PLACE[own], f"{path.relative_to(PACKAGE)} imports {other}, which comes later"


def test_every_room_of_the_flow_exists() -> None:
    assert {room_of(path) for path in FILES} == set(PLACE)


def module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in FILES}


def imported_modules(path: Path) -> Iterator[str]:
    """The modules that are imported anywhere in a module, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                yield submodule if submodule in MODULES else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def cycle_in(imports: dict[str, set[str]]) -> list[str] | None:
    try:
        graphlib.TopologicalSorter(imports).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return None


def test_no_module_imports_itself_by_way_of_others() -> None:
    # The package itself gives its version to modules, and names that it takes from them.
    imports = {
        name: {other for other in imported_modules(path) if other in MODULES and other != "archgrad"} - {name}
        for name, path in MODULES.items()
    }
    assert len(imports) > 100
    assert cycle_in(imports) is None
    assert cycle_in({"a": {"b"}, "b": {"c"}, "c": {"a"}}) is not None
