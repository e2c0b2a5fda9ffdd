"""Published methods, each a value of its parts with the numbers of its paper."""

from __future__ import annotations

from archgrad.bilevel import Unrolled
from archgrad.methods.method import Method
from archgrad.perturbations import Adversarial
from archgrad.relaxation import Gumbel
from archgrad.stopping import HessianEigenvalue

__all__ = ["darts", "darts_second_order", "gdas", "r_darts", "sdarts_adv"]

darts = Method(source="Liu, Simonyan and Yang 2019, eq. 7 with xi = 0: DARTS, first order")
darts_second_order = Method(step=Unrolled(), source="Liu, Simonyan and Yang 2019, eq. 7 and 8: DARTS, second order")
gdas = Method(relaxation=Gumbel(), weights_first=True, source="Dong and Yang 2019: GDAS")
sdarts_adv = Method(
    perturbation=Adversarial(), source="Chen and Hsieh 2020: SmoothDARTS with adversarial perturbation, SDARTS-ADV"
)
r_darts = Method(
    step=Unrolled(),
    stopping=HessianEigenvalue(),
    source="Zela et al. 2020: R-DARTS, early stopping; second order as in the authors' scripts",
)
