"""Differentiable architecture search over any PyTorch module."""

__version__ = "0.1.0"
