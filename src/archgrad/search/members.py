"""Where a search stands among the members of its ensemble; a search without one is its only member."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from archgrad.architecture import Architecture
from archgrad.data.seeds import seed_of
from archgrad.errors import OptionError
from archgrad.json_text import shown
from archgrad.methods import Method
from archgrad.runs import count_in
from archgrad.search.together import decided_together
from archgrad.stopping import Stop
from archgrad.supernet import Supernet

__all__ = ["Members", "member_seed"]


def member_seed(seed: int, member: int) -> int:
    """Return the seed of a member's search: that of the whole search for the first, 0, and others that follow from it.

    Args:
        seed: Of the whole search.
        member: Number of the member, from 0.
    """
    return seed if member == 0 else seed_of(seed, "member", member) % 2**32


class Members:
    """The members that have ended, and the one that runs.

    Args:
        method: Of the search, with its ensemble.
        epochs: That each member is planned for.
        seed: Of the whole search.

    Attributes:
        first_epoch: The running member's first, 0-based, of all.
    """

    def __init__(self, method: Method, epochs: int, *, seed: int) -> None:
        self._method, self._seed = method, seed
        self._epochs = epochs if method.stopping is None else method.stopping.longest(epochs)
        self._count = 1 if method.ensemble is None else method.ensemble.members
        self._ended: list[Architecture] = []  # what each decided alone
        self._past: list[str] = []  # each epoch's architecture as JSON, where a stopping rule may return an earlier one
        self.first_epoch = 0

    @property
    def epochs(self) -> int:
        """That all members have together at most."""
        return self._count * self._epochs

    @property
    def number(self) -> int:
        """Of the running member, from 0."""
        return len(self._ended)

    @property
    def seed(self) -> int:
        """Of the running member."""
        return member_seed(self._seed, self.number)

    @property
    def column(self) -> dict[str, int]:
        """What metrics.csv says of an epoch; nothing without an ensemble."""
        return {} if self._method.ensemble is None else {"member": self.number}

    def stop(self, history: Sequence[Mapping[str, Any]]) -> Stop | None:
        """Return why the running member ends before its last epoch, counted from its first, if it does.

        Args:
            history: One row an epoch, of all members.

        Raises:
            OptionError: The stopping rule decides for something else.
        """
        if self._method.stopping is None:
            return None
        rows = [{**row, "epoch": row["epoch"] - self.first_epoch} for row in history[self.first_epoch :]]
        stop = self._method.stopping.decide(rows) if rows else None
        if stop is not None and not (isinstance(stop, Stop) and stop.epoch in range(len(rows))):
            raise OptionError(
                f"{type(self._method.stopping).__name__} must decide for None, or for Stop(epoch, reason) with an "
                f"epoch from 0 to the last, {len(rows) - 1}, but decided for {stop!r}."
            )
        return stop

    def over(self, history: Sequence[Mapping[str, Any]]) -> bool:
        """Return whether the running member has ended."""
        return len(history) - self.first_epoch >= self._epochs or self.stop(history) is not None

    def all_over(self, history: Sequence[Mapping[str, Any]]) -> bool:
        """Return whether the last member has ended."""
        return self.number + 1 >= self._count and self.over(history)

    def remember(self, architecture: Architecture) -> None:
        """Keep what the running member has after an epoch, if it may be gone back to."""
        if self._method.stopping is not None:
            self._past.append(architecture.to_json())

    def remembered(self, epoch: int) -> Architecture:
        """Return what the running member had after an epoch, counted from its first."""
        return Architecture.from_json(self._past[epoch])

    def next(self, ended: Architecture, epoch: int) -> str:
        """Go on with the next member, and return what to say of it.

        Args:
            ended: What the running one came to.
            epoch: The next member's first, 0-based, of all.
        """
        self.first_epoch = epoch
        self._ended.append(ended)
        self._past = []
        return f"Member {self.number + 1} of {self._count} begins, with seed {self.seed}."

    def together(self, running: Architecture, supernet: Supernet) -> Architecture:
        """Return what the members so far decide together; without an ensemble, what the running one decides.

        Args:
            running: That of the running member.
            supernet: Of the running member.
        """
        if self._method.ensemble is None:
            return running
        evidence = ("epoch", "seed", "search")
        provenance = {name: running.provenance[name] for name in evidence if name in running.provenance}
        return decided_together(
            [*self._ended, running],
            self._method.ensemble,
            self._method.selection,
            supernet,
            space=running.space,
            provenance={**provenance, "seed": self._seed},
        )

    def state_dict(self) -> dict[str, Any]:
        """Return plain data for a checkpoint."""
        return {
            "past": self._past,
            "members": [member.to_json() for member in self._ended],
            "first_epoch": self.first_epoch,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave; checkpoints of earlier versions have less of it.

        Raises:
            ValueError: It is something else, or has more members.
        """
        ended = state.get("members", [])
        if not isinstance(ended, list) or len(ended) >= self._count:
            raise ValueError(f"members must be less than {self._count}, but are {shown(ended)}")
        self._ended = [Architecture.from_json(text) for text in ended]
        self._past = list(state.get("past", []))
        self.first_epoch = count_in({"first_epoch": 0, **state}, "first_epoch")
