"""Published methods, each a value of its parts with the numbers of its paper."""

from __future__ import annotations

from dataclasses import replace

from archgrad.always_on import AuxiliarySkip
from archgrad.bilevel import Flat, Unrolled
from archgrad.methods.method import Method
from archgrad.methods.stage import Stage
from archgrad.optimizers import Adam, ExponentiatedGradient
from archgrad.perturbations import Adversarial, Uniform
from archgrad.regularizers import BetaDecay, DirichletKL, Entropy, ZeroOne
from archgrad.relaxation import Dirichlet, Gumbel, Sigmoid, Simplex, SoftGumbel, Softmax
from archgrad.selection import Likeliest, PerturbationBased, SkipLimit, Threshold
from archgrad.stopping import HessianEigenvalue, SkipCount
from archgrad.weights_rules import FreezeOperations, LayerAlignment

__all__ = [
    "a2m",
    "beta_darts",
    "darts",
    "darts_exact",
    "darts_minus",
    "darts_plus",
    "darts_pt",
    "darts_second_order",
    "darts_without_none",
    "drnas",
    "drnas_progressive",
    "du_darts",
    "fair_darts",
    "gaea",
    "gaea_pc",
    "gdas",
    "lambda_darts",
    "noisy_darts",
    "oles",
    "p_darts",
    "pc_darts",
    "r_darts",
    "sdarts_adv",
    "sdarts_rs",
    "snas",
    "snas_without_none",
]

DEFAULT = "snas_without_none"
"""The preset that a search takes without a method, and under the name `default`: the best at the cost of DARTS over
several spaces, as far as `docs/results.md` shows one."""

beta_darts = Method(
    regularizers=(BetaDecay(),),
    source="Ye et al. 2022: beta-DARTS; the factor grows from 0 towards 50 over any length (theirs: 100 epochs)",
)
a2m = Method(
    step=Flat(),
    source="Gambella, Pittorino and Roveri 2025: A2M (FlatDARTS), code of AI-Tech-Research-Lab: rho 0.1, radius 0.01",
)
darts = Method(source="Liu, Simonyan and Yang 2019, eq. 7 with xi = 0: DARTS, first order")
darts_exact = Method(
    step=Unrolled(hvp="exact"),
    source="Liu, Simonyan and Yang 2019, eq. 7: DARTS, second order, with the exact product in the place of eq. 8",
)
darts_minus = Method(
    always_on=AuxiliarySkip(),
    source="Chu et al. 2021: DARTS-; the weight of the auxiliary skip falls from 1 to 0 over any length",
)
darts_plus = Method(
    stopping=SkipCount(limit=2),
    source="Liang et al. 2019: DARTS+, criterion 1; every cell is looked at (theirs: label='normal')",
)
darts_pt = Method(
    selection=PerturbationBased(),
    source="Wang et al. 2021: DARTS-PT; 50 epochs of search, then 5 of tuning between two decisions",
)
darts_second_order = Method(step=Unrolled(), source="Liu, Simonyan and Yang 2019, eq. 7 and 8: DARTS, second order")
darts_without_none = Method(
    selection=Likeliest(none=False),
    source="Liu, Simonyan and Yang 2019: DARTS, first order, without `none` in cells of any space; docs/results.md",
)
drnas = Method(
    relaxation=Dirichlet(),
    regularizers=(DirichletKL(),),
    alphas_optimizer=Adam(weight_decay=0.0),
    source="Chen et al. 2021: DrNAS with its distance to the even distribution, without progressive stages",
)
drnas_progressive = replace(
    drnas,
    alphas_optimizer=Adam(learning_rate=6e-4, weight_decay=0.0),
    stages=(
        Stage(epochs=25, alphas_start_epoch=10, space={"partial_channels": 6}),
        Stage(epochs=25, alphas_start_epoch=10, keep=4, space={"partial_channels": 4}, widen=True),
    ),
    source="Chen et al. 2021: DrNAS, progressive, for the space of DARTS (theirs: 36 channels, 20 cells, without "
    "'none'); stages follow the length",
)
du_darts = Method(
    regularizers=(Entropy(),),
    source="DU-DARTS, code of its authors: the entropy of the rows, factor 1; theirs is a space without 'none', with a "
    "weight for each edge",
)
fair_darts = Method(
    relaxation=Sigmoid(),
    regularizers=(ZeroOne(),),
    alphas_optimizer=Adam(learning_rate=3e-3, betas=(0.9, 0.999)),
    selection=Threshold(0.85),
    source="Chu et al. 2020: FairDARTS; theirs is a space without 'none'",
)
gaea = Method(
    relaxation=Simplex(),
    alphas_optimizer=ExponentiatedGradient(),
    source="Li et al. 2021: GAEA, with two levels",
)
gaea_pc = replace(
    gaea,
    edge_weights=Simplex(),
    stages=(Stage(epochs=50, space={"partial_channels": 4}),),
    source="Li et al. 2021: GAEA with the edge weights and partial channels of PC-DARTS, with two levels (their code "
    "leaves edge weights without the floor)",
)
gdas = Method(relaxation=Gumbel(), weights_first=True, source="Dong and Yang 2019: GDAS")
lambda_darts = Method(
    weights_rules=(LayerAlignment(),),
    source="Movahedi et al. 2023: Lambda-DARTS; the factor grows from 0 to 0.125 over any length",
)
noisy_darts = Method(skip_noise=0.2, source="Chu et al. 2020: NoisyDARTS, additive Gaussian noise of factor 0.2")
oles = Method(weights_rules=(FreezeOperations(),), source="Jiang et al. 2023: OLES; threshold 0.4, every 20 steps")
p_darts = Method(
    alphas_optimizer=Adam(learning_rate=6e-4),
    alphas_grad_clip=5.0,
    selection=SkipLimit(limit=2, label="normal"),
    stages=(
        Stage(epochs=25, alphas_start_epoch=10, space={"cells": 5}),
        Stage(epochs=25, alphas_start_epoch=10, keep=5, space={"cells": 11}, skip_dropout=0.4),
        Stage(epochs=25, alphas_start_epoch=10, keep=3, space={"cells": 17}, skip_dropout=0.7),
    ),
    source="Chen et al. 2019: P-DARTS, dropout as for CIFAR-10; stages follow the length",
)
pc_darts = Method(
    edge_weights=Softmax(),
    alphas_optimizer=Adam(learning_rate=6e-4),
    stages=(Stage(epochs=50, alphas_start_epoch=15, space={"partial_channels": 4}),),
    source="Xu et al. 2020: PC-DARTS for CIFAR-10; the alphas wait for 0.3 of any length (theirs: 15 of 50 epochs, "
    "with batches of 256 and weights' learning rates from 0.1 to 0)",
)
sdarts_adv = Method(
    perturbation=Adversarial(), source="Chen and Hsieh 2020: SmoothDARTS with adversarial perturbation, SDARTS-ADV"
)
r_darts = Method(
    step=Unrolled(),
    stopping=HessianEigenvalue(),
    source="Zela et al. 2020: R-DARTS, early stopping; second order as in the authors' scripts",
)
sdarts_rs = Method(
    perturbation=Uniform(),
    source="Chen and Hsieh 2020: SmoothDARTS, random; the radius grows from 0.03 towards 0.3 over any length",
)
snas = Method(
    relaxation=SoftGumbel(),
    source="Xie et al. 2019: SNAS, in the two-level form of the code of Chen et al. 2021 (DrNAS)",
)
snas_without_none = replace(
    snas,
    selection=Likeliest(none=False),
    source="Xie et al. 2019: SNAS, without `none` in cells of any space; docs/results.md",
)
