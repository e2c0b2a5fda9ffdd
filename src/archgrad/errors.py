"""The errors that archgrad raises; each message says where, which rule, which value, and the remedy."""


class ArchgradError(Exception):
    """Base of every error that archgrad raises on purpose."""


class SpaceError(ArchgradError):
    """A search space, or a choice in it, breaks a rule."""


class ArchitectureError(ArchgradError):
    """An architecture file or text cannot be read, or does not fit its space."""


class DataError(ArchgradError):
    """A data set is missing, empty, corrupt, or too small for what was asked."""


class RunError(ArchgradError):
    """A run folder or checkpoint cannot be used as asked."""


class OptionError(ArchgradError, ValueError):
    """An option has a value outside its range, or does not go with the others."""


class NonFiniteError(ArchgradError, ArithmeticError):
    """A loss or a gradient is NaN or infinite."""


class ExportError(ArchgradError):
    """A network cannot be exported, or an exported one cannot be used."""
