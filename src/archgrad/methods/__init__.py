"""Methods of search: what they are made of, and the published ones."""

from archgrad.methods.method import Method, Place
from archgrad.methods.presets import (
    a2m,
    beta_darts,
    darts,
    darts_plus,
    darts_second_order,
    drnas,
    fair_darts,
    gaea,
    gdas,
    r_darts,
    sdarts_adv,
    sdarts_rs,
    snas,
)
from archgrad.methods.stage import Stage

__all__ = [
    "Method",
    "Place",
    "Stage",
    "a2m",
    "beta_darts",
    "darts",
    "darts_plus",
    "darts_second_order",
    "drnas",
    "fair_darts",
    "gaea",
    "gdas",
    "r_darts",
    "sdarts_adv",
    "sdarts_rs",
    "snas",
]
