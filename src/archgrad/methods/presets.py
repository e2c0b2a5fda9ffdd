"""Published methods, each a value of its parts with the numbers of its paper."""

from __future__ import annotations

from archgrad.bilevel import Unrolled
from archgrad.methods.method import Method
from archgrad.relaxation import Gumbel, SoftGumbel

__all__ = ["darts", "darts_second_order", "gdas", "snas"]

darts = Method(source="Liu, Simonyan and Yang 2019, eq. 7 with xi = 0: DARTS, first order")
darts_second_order = Method(step=Unrolled(), source="Liu, Simonyan and Yang 2019, eq. 7 and 8: DARTS, second order")
gdas = Method(relaxation=Gumbel(), weights_first=True, source="Dong and Yang 2019: GDAS")
snas = Method(
    relaxation=SoftGumbel(),
    source="Xie et al. 2019: SNAS, in the two-level form of the code of Chen et al. 2021 (DrNAS)",
)
