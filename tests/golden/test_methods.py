"""Parts of methods against the authors' numbers, in float64 and in the space of NAS-Bench-201."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import torch
from recorded_steps import recorded_step
from safetensors.torch import load_file
from torch import Tensor

import archgrad as ag
from archgrad.choices import Draw
from archgrad.optimizers import Adam, AlphasOptimizer, ExponentiatedGradient
from archgrad.perturbations import Uniform, onto_simplex
from archgrad.regularizers import BetaDecay, DirichletKL
from archgrad.regularizers.dirichlet_kl import kl_to_ones
from archgrad.relaxation import Dirichlet, Relaxation, Simplex, SoftGumbel, Softmax
from archgrad.relaxation.dirichlet import concentration, pathwise_slope
from archgrad.schedules import Linear, Progress

pytestmark = pytest.mark.shared
EDGES = ("1<-0", "2<-0", "2<-1", "3<-0", "3<-1", "3<-2")


@pytest.fixture
def read(shared_dir: Path) -> Any:
    def load(name: str) -> dict[str, Tensor]:
        values = load_file(shared_dir / "golden" / "methods" / f"{name}.safetensors")
        return {key: value.double() if value.is_floating_point() else value for key, value in values.items()}

    return load


def own_name(name: str) -> str:
    """A weight's name here, from the authors'."""
    name = re.sub(
        r"cells\.(\d+)\.edges\.(\d<-\d)\.(\d+)\.",
        lambda m: f"blocks.{m[1]}.graph.edges.{EDGES.index(m[2])}.candidates.{m[3]}.",
        name,
    )
    for theirs, ours in ((r"^cells\.", "blocks."), (r"\.downsample\.", ".shortcut."), (r"^lastact\.", "last.")):
        name = re.sub(theirs, ours, name)
    return name


def supernet_of(golden: dict[str, Tensor], table: str, relaxation: Relaxation) -> ag.Supernet:
    """Return the supernet that a file starts from, with the buffers that the file has."""
    supernet = ag.Supernet(ag.spaces.nasbench201(4, 1, 10).double(), relaxation)
    given = {own_name(k.removeprefix("state/")): v for k, v in golden.items() if k.startswith("state/")}
    with torch.no_grad():
        for name, weight in supernet.weights.items():
            weight.copy_(given[name])
        for name, buffer in supernet.network.named_buffers():
            if name in given:
                buffer.copy_(given[name])
        for alpha, row in zip(supernet.alphas.values(), golden[f"alphas_init/{table}"], strict=True):
            alpha.copy_(row)
    return supernet.train()


def searched(
    golden: dict[str, Tensor],
    *,
    table: str,
    relaxation: Relaxation,
    optimizer: AlphasOptimizer,
    noise: Tensor | None = None,
    progress: tuple[Progress, ...] = (Progress(0, 1),) * 3,
    grad_clip: float = 5.0,
    sgd: Mapping[str, Any] = MappingProxyType({}),
    **parts: Any,
) -> list[dict[str, Tensor]]:
    """Take the three steps of a file; return alphas, their gradients and the losses of each."""
    supernet = supernet_of(golden, table, relaxation)
    weights = torch.optim.SGD(supernet.weights.values(), 0.025, **{"momentum": 0.9, "weight_decay": 3e-4, **sgd})
    alphas = optimizer.first(list(supernet.alphas.values()))
    gradients: list[Tensor] = []
    alphas.register_step_pre_hook(lambda *_: gradients.append(torch.stack([a.grad for a in supernet.alphas.values()])))
    found = []
    for s in range(3):
        if noise is not None:
            parts["perturbation"] = Given(noise[s])
        report = recorded_step(supernet, golden, s, weights, alphas, grad_clip=grad_clip, progress=progress[s], **parts)
        found.append(
            {
                "alphas": torch.stack([alpha.detach().clone() for alpha in supernet.alphas.values()]),
                "gradient": gradients[s],
                "train_loss": torch.tensor(report.train_loss, dtype=torch.float64),
                "valid_loss": torch.tensor(report.valid_loss, dtype=torch.float64),
                "terms": sum(report.regularizers.values(), torch.zeros((), dtype=torch.float64)),
                "grad_norm": torch.tensor(report.weights_gradient_norm, dtype=torch.float64),
            }
        )
    return found


class Given(Uniform):
    """The random perturbation with noise that was drawn elsewhere."""

    def __init__(self, noise: Tensor) -> None:
        super().__init__()
        object.__setattr__(self, "noise", noise)

    def draw(self, mixtures: Any, rows: Any, progress: Any, generator: Any, probe: Any) -> Any:
        return {label: {"noise": row.unsqueeze(0)} for label, row in zip(mixtures, self.noise, strict=True)}


def assert_the_authors(found: list[dict[str, Tensor]], golden: dict[str, Tensor], prefix: str, table: str) -> None:
    for s, step in enumerate(found):
        expected = golden[f"{prefix}alpha_grad/{s}/{table}"]
        assert (step["gradient"] - expected).abs().max() < 1e-9 * expected.abs().max()
        assert (step["alphas"] - golden[f"{prefix}alphas/{s}/{table}"]).abs().max() < 1e-10
        assert (step["train_loss"] - golden[f"{prefix}train_loss"][s]).abs() < 1e-10
        assert (step["valid_loss"] + step["terms"] - golden[f"{prefix}valid_loss"][s]).abs() < 1e-9
        assert (step["grad_norm"] - golden[f"{prefix}grad_norm"][s]).abs() < 1e-9


@pytest.mark.parametrize(("run", "grad_clip"), [("run", 5.0), ("clip1_weights_only", 1.0)])
def test_beta_decay_is_the_authors(read: Any, run: str, grad_clip: float) -> None:
    golden = read("betadarts_nb201_c4_n1")
    progress = tuple(Progress(epoch, 100) for epoch in (0, 10, 50))
    assert [Linear(0.0, 50.0, "end").value(p) for p in progress] == golden["run/lambda"].tolist()
    found = searched(
        golden,
        table="arch_parameters",
        relaxation=Softmax(),
        optimizer=Adam(),
        progress=progress,
        grad_clip=grad_clip,
        regularizers=(BetaDecay(),),
    )
    golden = {**golden, f"{run}/grad_norm": golden[f"{run}/grad_norm_weights"]}  # the authors count the alphas in
    assert_the_authors(found, golden, f"{run}/", "arch_parameters")
    terms = golden[f"{run}/lambda"] * golden[f"{run}/regularizer"]
    assert torch.allclose(torch.stack([step["terms"] for step in found]), terms, rtol=1e-12)


def test_beta_decay_is_a_mean_over_all_rows_of_two_tables(read: Any) -> None:
    golden = read("betadarts_nb201_c4_n1")
    tables = [golden[f"two_tables/alphas_{cell}"].requires_grad_() for cell in ("normal", "reduce")]
    alphas = {str(k): row for k, row in enumerate(torch.cat(tables))}
    rows = dict.fromkeys(alphas, ag.choices.AlphaRow(tuple("abcdefgh")))
    value = BetaDecay().value(alphas, rows, Softmax())
    assert (value.detach() - golden["two_tables/value"]).abs().max() < 1e-12
    for cell, gradient in zip(("normal", "reduce"), torch.autograd.grad(value, tables), strict=True):
        torch.testing.assert_close(gradient, golden[f"two_tables/grad/alphas_{cell}"], rtol=1e-10, atol=1e-14)


def test_the_exponentiated_gradient_on_the_simplex_is_gaeas(read: Any) -> None:
    golden = read("gaea_nb201_c4_n1")
    found = searched(golden, table="alphas", relaxation=Simplex(), optimizer=ExponentiatedGradient())
    assert_the_authors(found, golden, "", "alphas")


@pytest.mark.parametrize("chain", ["edarts5", "edarts8"])
def test_chained_updates_are_gaeas(read: Any, chain: str) -> None:
    golden = read("gaea_chains")
    rows = [torch.nn.Parameter(row.clone()) for row in golden[f"{chain}_in/alphas"]]
    optimizer = ExponentiatedGradient().first(rows)
    for gradients, expected in zip(golden[f"{chain}_in/alpha_grads"], golden[f"{chain}_out/alphas"], strict=True):
        for row, gradient in zip(rows, gradients, strict=True):
            row.grad = gradient.clone()
        optimizer.step()
        assert (torch.stack([row.detach() for row in rows]) - expected).abs().max() < 1e-14


def test_the_random_perturbation_is_smooth_darts(read: Any) -> None:
    golden = read("sdarts_rs_nb201_c4_n1")
    noise = golden["draws/noise/alphas"]
    assert noise.abs().max() <= 0.1
    found = searched(golden, table="alphas", relaxation=Softmax(), optimizer=Adam(), noise=noise)
    golden = {**golden, "grad_norm": golden["grad_norm_weights"]}  # the authors clip the alphas' gradient along
    assert_the_authors(found, golden, "", "alphas")


@pytest.mark.parametrize("rows", ["edge5", "edge8", "noisy5", "noisy8"])
def test_weights_are_brought_back_to_the_simplex_as_the_authors_do(read: Any, rows: str) -> None:
    golden = read("sdarts_clip")
    assert torch.allclose(onto_simplex(golden[f"rows/{rows}"]), golden[f"clipped/{rows}"], rtol=1e-15, atol=0.0)


def given(relaxation: Relaxation, draws: Iterable[Draw]) -> Relaxation:
    """The relaxation with draws that were taken elsewhere: row by row, of the alphas' pass and then of the weights'."""
    found, waiting = copy.copy(relaxation), iter(draws)
    object.__setattr__(found, "draw", lambda alpha, row, progress, generator: next(waiting))
    return found


def drawn_rows(golden: dict[str, Tensor], name: str) -> list[tuple[int, Tensor]]:
    """The rows of a file's draws in the order in which three steps take them, each with its step."""
    passes = [(s, golden[f"draws/{name}_{which}"][s]) for s in range(3) for which in ("valid", "train")]
    return [(s, row) for s, table in passes for row in table]


def test_the_soft_sample_is_the_one_of_snas(read: Any) -> None:
    golden = read("snas_nb201_c4_n1")
    temperatures = torch.tensor([10.0, 5.5, 1.0], dtype=torch.float64)  # as the metadata of the file has them
    draws = [{"noise": noise, "temperature": temperatures[s]} for s, noise in drawn_rows(golden, "gumbel")]
    mixed = [
        SoftGumbel().mix(row, ag.choices.AlphaRow(EDGES[:5]), draws[e]).slots[0]
        for e, row in enumerate(golden["alphas_init/alphas"])
    ]
    assert (torch.stack(mixed) - golden["theta_valid"][0]).abs().max() < 1e-12
    found = searched(golden, table="alphas", relaxation=given(SoftGumbel(), draws), optimizer=Adam())
    golden = {**golden, "grad_norm": golden["grad_norm_weights"]}  # the authors clip the alphas' gradient along
    assert_the_authors(found, golden, "", "alphas")


@pytest.mark.parametrize(
    ("name", "regularizers", "weight_decay"), [("drnas_kl", (DirichletKL(),), 0.0), ("drnas_l2", (), 1e-3)]
)
def test_the_dirichlet_sample_and_its_gradient_are_the_ones_of_drnas(
    read: Any, name: str, regularizers: Any, weight_decay: float
) -> None:
    golden = read(f"{name}_nb201_c4_n1")
    waiting = iter(drawn_rows(golden, "theta"))
    relaxation = Dirichlet()

    def draw(alpha: Tensor, row: Any, progress: Any, generator: Any) -> Draw:
        sample = next(waiting)[1]
        return {"sample": sample, "slope": pathwise_slope(sample, concentration(alpha))}

    object.__setattr__(relaxation, "draw", draw)
    optimizer = Adam(weight_decay=weight_decay)
    found = searched(golden, table="alphas", relaxation=relaxation, optimizer=optimizer, regularizers=regularizers)
    total = golden["valid_loss_total"] if regularizers else golden["valid_loss"]
    golden = {**golden, "grad_norm": golden["grad_norm_weights"], "valid_loss": total}
    assert_the_authors(found, golden, "", "alphas")
    if regularizers:
        assert torch.allclose(torch.stack([step["terms"] for step in found]), golden["kl"], rtol=1e-10)


@pytest.mark.parametrize("pair", range(9))
def test_the_parts_of_the_dirichlet_distribution_are_the_authors(read: Any, pair: int) -> None:
    golden = {
        key.removeprefix(f"pair{pair}/"): value
        for key, value in read("dirichlet").items()
        if key.startswith(f"pair{pair}/")
    }
    c = golden["concentration"]
    slope = pathwise_slope(golden["sample"], c.expand_as(golden["sample"]))
    torch.testing.assert_close(slope, golden["raw_grad"], rtol=1e-8, atol=0.0)
    alpha = torch.where(c > 1, c - 1, c.log())  # where ELU(alpha) + 1 is c
    rate = torch.where(alpha > 0, 1.0, c)
    for sample, cotangent, vjp, r in zip(golden["sample"], golden["cotangent"], golden["vjp"], slope, strict=True):
        at = alpha.clone().requires_grad_()
        mixed = Dirichlet().mix(at, ag.choices.AlphaRow(("",) * len(c)), {"sample": sample, "slope": r}).slots[0]
        assert torch.equal(mixed.detach(), sample)
        (gradient,) = torch.autograd.grad((mixed * cotangent).sum(), [at])
        torch.testing.assert_close(gradient, rate * vjp, rtol=1e-8, atol=1e-12)
    c.requires_grad_()
    kl = kl_to_ones(c)
    torch.testing.assert_close(kl, golden["kl_to_ones"], rtol=1e-8, atol=1e-12)
    (gradient,) = torch.autograd.grad(kl, [c])
    torch.testing.assert_close(gradient, golden["kl_to_ones_grad"], rtol=1e-8, atol=1e-12)


def test_the_concentration_is_elu_and_ranks_as_the_authors_do(read: Any) -> None:
    golden = read("dirichlet")
    alphas = golden["elu/alphas"].requires_grad_()
    c = concentration(alphas)
    torch.testing.assert_close(c, golden["elu/concentration"], rtol=1e-9, atol=1e-15)
    (gradient,) = torch.autograd.grad(c.sum(), [alphas])
    torch.testing.assert_close(gradient, golden["elu/grad"], rtol=1e-9, atol=1e-15)
    assert bool((c > 0).all())
    torch.testing.assert_close(concentration(golden["derive/alphas"]), golden["derive/concentration"])
    expected = [
        Dirichlet().expected(row, ag.choices.AlphaRow(EDGES[:5])) for row in golden["derive/alphas"].flatten(0, 1)
    ]
    assert torch.equal(torch.stack(expected).argmax(-1), golden["derive/softmax"].flatten(0, 1).argmax(-1))
