"""Several short searches that decide together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from archgrad.choices import AlphaRow
from archgrad.errors import OptionError
from archgrad.sizes import check_whole

__all__ = ["Ensemble"]


@dataclass(frozen=True)
class Ensemble:
    """Search several times, average the probabilities of each row, and let the choices' own rules decide on the mean.

    Each member is the search that the same options give without an ensemble: of `epochs` epochs, with a seed of its
    own, and so with a split, an order of the data, first weights and alphas of its own. The first member has the seed
    of the search; those of the others follow from it. A space that was built already gives all of them its weights.

    A selection ranks the mean; one that settles choices by itself does so in each member, and its scores are averaged.
    An architecture's provenance has what each member decided under "members", and under "agreement" by row of alphas
    the share of the members that took the same, from 0 to 1: how far the decision can be trusted to come again.

    The members run one after the other in one run folder. After each epoch the architecture is that of all members so
    far, the running one included. `archgrad search --jobs N` runs them side by side, each in a folder of its own, with
    the same result.
    """

    members: int = 8
    """Searches, at least 1."""
    without: tuple[str, ...] | str = ()
    """Names of candidates, such as "none", that are left out when the mean decides, and where members are compared with
    it. They are searched, and averaged, as all others."""

    def __post_init__(self) -> None:
        check_whole("members", self.members, least=1)
        names = (self.without,) if isinstance(self.without, str) else tuple(self.without)
        if not all(isinstance(name, str) and name for name in names):
            raise OptionError(f"without must be names of candidates, but got {self.without!r}.")
        object.__setattr__(self, "without", names)

    def check(self, rows: Mapping[str, AlphaRow]) -> None:
        """Check that what is left out can be, in a space with these rows of alphas, by label.

        Raises:
            OptionError: No row has such a candidate, or a row would have fewer left than it takes.
        """
        for name in self.without:
            if not any(name in row.names for row in rows.values()):
                known = ", ".join(dict.fromkeys(each for row in rows.values() for each in row.names))
                raise OptionError(f"The ensemble decides without {name!r}, but the candidates are {known}.")
        for label, row in rows.items():
            left = [name for name in row.names if name not in self.without]
            if len(left) < row.n_chosen:
                raise OptionError(
                    f"The ensemble decides without {', '.join(self.without)}, but '{label}' then has {len(left)} "
                    f"candidates, of which it takes {row.n_chosen}. Leave fewer out."
                )
