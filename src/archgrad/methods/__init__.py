"""Methods of search: what they are made of, and the published ones."""

from archgrad.methods.method import Method, Place
from archgrad.methods.presets import darts, darts_second_order, drnas, fair_darts, gdas, snas
from archgrad.methods.stage import Stage

__all__ = ["Method", "Place", "Stage", "darts", "darts_second_order", "drnas", "fair_darts", "gdas", "snas"]
