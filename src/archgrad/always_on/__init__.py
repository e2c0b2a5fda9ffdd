"""What runs on every edge beside the candidates that compete: one strategy a file."""

from archgrad.always_on.always_on import AlwaysOn, put_beside
from archgrad.always_on.auxiliary_skip import AuxiliarySkip

__all__ = ["AlwaysOn", "AuxiliarySkip", "put_beside"]
