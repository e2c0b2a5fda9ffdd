"""Builds the supernet of a stage with a network of its own, and what moves its weights and alphas."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from archgrad.bilevel import cuda_graphs as recorded_on_cuda
from archgrad.bilevel.graph_cache import check_recordable
from archgrad.bilevel.step import check_parts
from archgrad.data.seeds import seed_of
from archgrad.distributed import broadcast_tensors, raise_on_all_ranks, rank, synchronised_norms, world_size
from archgrad.errors import OptionError
from archgrad.expected_cost import ExpectedCost
from archgrad.json_text import shown
from archgrad.labels import alpha_rows, label_choices
from archgrad.latency import Latency, LatencyTable
from archgrad.named_space import SpaceBuilder
from archgrad.nasbench import Table, load_table
from archgrad.rank_state import send_state
from archgrad.regularizers.cost_penalty import SpaceCost
from archgrad.runs import RunFolder, seeded
from archgrad.search.members import member_seed
from archgrad.search.optimizers import optimizer_for_weights
from archgrad.search.search_options import SearchOptions
from archgrad.search.widening import StageState, check_widening, widen
from archgrad.skip_dropout import add_skip_dropout, identities
from archgrad.skip_noise import noisy_skips
from archgrad.supernet import Supernet
from archgrad.table_cost import TableCost, column_of

__all__ = ["LATENCIES", "StageBuilder"]

LATENCIES = "latency.json"
"""Of a run folder: how long operations take."""


class StageBuilder(ExitStack):
    """Builds the supernets of stages, and their optimizers; as a context, it undoes what the last one needed.

    Args:
        space: What is searched; a supernet is searched in place.
        options: Of the search; the stages of its method say which have a network of their own.
        device: Where the networks compute.
        sample: Returns a batch of one sample, as a supernet takes it.

    Raises:
        OptionError: The space cannot be built as a stage asks for, or would have other rows.
    """

    def __init__(
        self,
        space: nn.Module | SpaceBuilder,
        options: SearchOptions,
        device: torch.device,
        sample: Callable[[Supernet], Any],
    ) -> None:
        super().__init__()
        self._sample = sample
        self._space, self._method, self._options, self._device = space, options.chosen_method, options, device
        self._recorded = False
        self.latencies = self._opened_latencies()
        """How long operations take: of a file, of the run that goes on, or empty."""
        self._table = self._opened_table()
        self._kept = 0
        self._costs: dict[tuple[int, str], SpaceCost] = {}
        """What the networks of a stage cost, which is the same for all members of an ensemble."""
        self._check()

    def _opened_latencies(self) -> LatencyTable:
        options = self._options
        if options.latency_table is not None:
            if "latency" not in self._asked_costs():
                raise OptionError(
                    "latency_table tells how long operations take, but no part of the method asks for it. Leave it "
                    "out, or give budget='latency<=8ms' or the regulariser CostPenalty(cost='latency')."
                )
            return LatencyTable.read(options.latency_table, self._device, complete=True)
        before = None if options.run_dir is None or options.overwrite else Path(options.run_dir) / LATENCIES
        if before is not None and before.is_file():
            return LatencyTable.read(before, self._device, complete=False)
        return LatencyTable(self._device)

    def _asked_costs(self) -> list[str]:
        costs = [getattr(part, "cost", None) for part in self._method.regularizers]
        return [cost for cost in costs if isinstance(cost, str)]

    def _opened_table(self) -> Table | None:
        path = self._options.cost_table
        if path is None:
            return None
        table = load_table(path)
        if all(column_of(cost, table) is None for cost in self._asked_costs()):
            raise OptionError(
                f"cost_table tells what networks cost, but no part of the method asks for one of its columns "
                f"({', '.join(table.columns)}). Leave it out, or give a budget, such as 'raspi4_ms<=8'."
            )
        return table

    def _check(self) -> None:
        stages = self._method.stages
        own = [number for number, stage in enumerate(stages) if stage.space]
        several = self._method.ensemble is not None and self._method.ensemble.members > 1
        if several and isinstance(self._space, Supernet):
            raise OptionError(
                "Each member of an ensemble begins anew, but a supernet is searched in place. Give the space."
            )
        if own and isinstance(self._space, nn.Module):
            asked = ", ".join(f"{name}={value!r}" for name, value in stages[own[0]].space.items())
            raise OptionError(
                f"Stage {own[0] + 1} of the method builds the space with {asked}, but the space is a "
                f"{type(self._space).__name__} that is built already. Give its name, or the function or class that "
                f"builds it, if it takes {', '.join(stages[own[0]].space)}; or a method that searches any space as it "
                f"is, such as darts, gdas or drnas."
            )
        if (several or own[-1:] > [0]) and isinstance(self._options.weights_optimizer, Optimizer):
            which = "Each member of the ensemble" if several else f"Stage {own[-1] + 1} of the method"
            raise OptionError(
                f"{which} begins with new weights, which an optimizer that is made already does not hold. Give "
                f"weights_optimizer as a function of the weights."
            )
        for number in own:
            assert isinstance(self._space, SpaceBuilder)
            self._space.check_options(stages[number].space, first=number == 0)
        if own[-1:] > [0] or any(stage.skip_dropout for stage in stages):
            self._check_networks({number: self._built(number) for number in sorted({0, *own})})

    def _check_networks(self, networks: Mapping[int, nn.Module]) -> None:
        """Check what stages say of the networks that they would begin with, by the stages' numbers."""
        first, *others = [alpha_rows(label_choices(network)) for network in networks.values()]
        if any(rows != first for rows in others):
            raise OptionError(
                "The stages of the method build spaces that differ in what they decide, so that no stage could go "
                "on with what is left by the one before. Let them set sizes alone."
            )
        for number, stage in enumerate(self._method.stages):
            network = networks[self._method.network_stage(number)]
            if stage.widen:
                check_widening(networks[self._method.network_stage(number - 1)], network)
            if stage.skip_dropout and not any(identities(network)):
                raise OptionError(
                    f"Stage {number + 1} of the method has skip_dropout={stage.skip_dropout:g}, but no candidate of "
                    f"the space is an identity. Leave it out."
                )

    def seed(self, number: int, member: int) -> int:
        """Return the seed of a stage's network, so that each has first weights, alphas and noise of its own."""
        own = member_seed(self._options.seed, member)
        return own if number == 0 else seed_of(own, "stage", number) % 2**32

    def _built(self, number: int, member: int = 0) -> nn.Module:
        if isinstance(self._space, nn.Module):
            return self._space
        with seeded(self.seed(number, member)):  # the first weights follow from the seed, too
            return self._space(**self._method.stages[number].space)

    def build(self, number: int, member: int = 0) -> StageState:
        """Return the supernet of a stage, and its optimizers; the one from before is given up.

        Args:
            number: Of a stage that has a network of its own, from 0.
            member: Of the ensemble, from 0.
        """
        self.close()
        self._recorded = False
        method, options, space = self._method, self._options, self._built(number, member)
        supernet = (
            space
            if isinstance(space, Supernet)
            else Supernet(
                space,
                method.relaxation,
                seed=self.seed(number, member),
                fast=options.fast,
                activation_checkpointing=options.activation_checkpointing,
                edge_weights=method.edge_weights,
                always_on=method.always_on,
            )
        )
        stages = enumerate(method.stages)
        if any(stage.skip_dropout and method.network_stage(k) == number for k, stage in stages):
            add_skip_dropout(supernet.network)
        supernet.to(self._device, torch.float64 if options.precision == "64" else None).train()
        optimizer = optimizer_for_weights(
            supernet,
            supernet.network if supernet is space else space,
            options.weights_optimizer,
            learning_rate=options.learning_rate,
            momentum=options.momentum,
            weight_decay=options.weight_decay,
        )
        method.step.check(optimizer)
        if method.ensemble is not None:
            method.ensemble.check(supernet.rows)
        check_parts(
            supernet,
            method.step,
            method.regularizers,
            method.perturbation,
            method.weights_rules,
            weights_first=method.weights_first,
        )
        regularizers = tuple(
            part.bound(lambda cost: self._cost(supernet, number, cost), lambda: supernet.memory)
            for part in method.regularizers
        )
        alphas_optimizer = method.alphas_optimizer.first(list(supernet.alphas.values()))
        broadcast_tensors([*supernet.parameters(), *supernet.buffers()])
        self.enter_context(noisy_skips(supernet, method.skip_noise))
        self.enter_context(synchronised_norms(supernet.network, enabled=options.sync_batchnorm))
        if options.cuda_graphs:
            check_recordable(supernet, self._device)
        return StageState(supernet, optimizer, alphas_optimizer, regularizers)

    def _cost(self, supernet: Supernet, number: int, cost: str) -> SpaceCost:
        """Return what the networks of a stage cost, worked out once."""
        if (number, cost) not in self._costs:
            if self._table is not None and column_of(cost, self._table) is not None:
                self._costs[number, cost] = TableCost(supernet, self._table, cost)
            else:
                self._costs[number, cost] = self._measured(supernet, cost)
        return self._costs[number, cost]

    def _measured(self, supernet: Supernet, cost: str) -> ExpectedCost:
        """Return what the networks of a space cost; process 0 alone times what is not known, for all."""
        if cost != "latency":
            return ExpectedCost(supernet, self._sample(supernet), cost)
        with raise_on_all_ranks():
            if rank() == 0:
                made = ExpectedCost(supernet, self._sample(supernet), cost, latencies=self.latencies)
        if world_size() == 1:
            return made
        known = send_state({key: asdict(latency) for key, latency in self.latencies.known.items()})
        self.latencies.known = {key: Latency(**latency) for key, latency in known.items()}
        return made if rank() == 0 else ExpectedCost(supernet, self._sample(supernet), cost, latencies=self.latencies)

    def keep_latencies(self, folder: RunFolder | None) -> None:
        """Write how long operations take into the run folder, if that is known and not there already."""
        if folder is not None and len(self.latencies.known) > self._kept:
            self._kept = len(self.latencies.known)
            folder.save_json(LATENCIES, self.latencies.to_json())

    def begin(self, number: int, before: StageState, say: Callable[[str], None], member: int = 0) -> StageState:
        """Return what a stage goes on with: what the one before had, with rows pruned, or a network of its own.

        Args:
            number: Of the stage, from 0.
            before: Of the stage before it; of the first stage, what was built for it.
            say: Is told of a new network.
            member: Of the ensemble, from 0.
        """
        stage, supernet = self._method.stages[number], before.supernet
        if stage.keep is not None:
            supernet.prune(stage.keep, supernet.probabilities())
        if not (stage.space and number):
            return before
        after = self.build(number, member)
        if stage.widen:
            widen(before, after, seed=self.seed(number, member), rules=self._method.weights_rules)
        after.supernet.kept = supernet.kept
        after.supernet.fed_channels_last = supernet.fed_channels_last
        sizes = ", ".join(f"{name}={shown(value)}" for name, value in stage.space.items())
        how = "goes on" if stage.widen else "begins anew"
        say(f"Stage {number + 1} of {len(self._method.stages)} {how} with {sizes}.")
        return after

    def record(self, supernet: Supernet, say: Callable[[str], None]) -> None:
        """Let the passes of the supernet that was built last be recorded as CUDA graphs, if that is asked for."""
        if not self._recorded:
            self.enter_context(self.recorded(supernet, say))
            self._recorded = True

    def recorded(self, supernet: Supernet, say: Callable[[str], None]) -> AbstractContextManager[None]:
        """Return a context in which passes are recorded, if that is asked for."""
        return recorded_on_cuda(supernet, say=say) if self._options.cuda_graphs else nullcontext()
