"""Published methods, each a value of its parts with the numbers of its paper."""

from __future__ import annotations

from archgrad.bilevel import Flat, Unrolled
from archgrad.methods.method import Method
from archgrad.relaxation import Gumbel

__all__ = ["a2m", "darts", "darts_second_order", "gdas"]

a2m = Method(step=Flat(), source="A2M (FlatDARTS), AI-Tech-Research-Lab: rho 0.1, radius 0.01")
darts = Method(source="Liu, Simonyan and Yang 2019, eq. 7 with xi = 0: DARTS, first order")
darts_second_order = Method(step=Unrolled(), source="Liu, Simonyan and Yang 2019, eq. 7 and 8: DARTS, second order")
gdas = Method(relaxation=Gumbel(), weights_first=True, source="Dong and Yang 2019: GDAS")
