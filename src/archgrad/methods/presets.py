"""Published methods, each a value of its parts with the numbers of its paper."""

from __future__ import annotations

from archgrad.bilevel import Unrolled
from archgrad.methods.method import Method
from archgrad.optimizers import Adam
from archgrad.regularizers import DirichletKL, ZeroOne
from archgrad.relaxation import Dirichlet, Gumbel, Sigmoid, SoftGumbel
from archgrad.selection import Threshold

__all__ = ["darts", "darts_second_order", "drnas", "fair_darts", "gdas", "snas"]

darts = Method(source="Liu, Simonyan and Yang 2019, eq. 7 with xi = 0: DARTS, first order")
darts_second_order = Method(step=Unrolled(), source="Liu, Simonyan and Yang 2019, eq. 7 and 8: DARTS, second order")
drnas = Method(
    relaxation=Dirichlet(),
    regularizers=(DirichletKL(),),
    alphas_optimizer=Adam(weight_decay=0.0),
    source="Chen et al. 2021: DrNAS with its distance to the even distribution, without progressive stages",
)
fair_darts = Method(
    relaxation=Sigmoid(),
    regularizers=(ZeroOne(),),
    alphas_optimizer=Adam(learning_rate=3e-3, betas=(0.9, 0.999)),
    selection=Threshold(0.85),
    source="Chu et al. 2020: FairDARTS; theirs is a space without 'none'",
)
gdas = Method(relaxation=Gumbel(), weights_first=True, source="Dong and Yang 2019: GDAS")
snas = Method(
    relaxation=SoftGumbel(),
    source="Xie et al. 2019: SNAS, in the two-level form of the code of Chen et al. 2021 (DrNAS)",
)
