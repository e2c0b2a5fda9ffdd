"""Data sets by name or of one's own, split, augmented and served as batches."""

from archgrad.data.augment import Augmentation, BatchTransform, ImageTransform
from archgrad.data.dataset import Data
from archgrad.data.described import Described, described
from archgrad.data.samples import TensorSamples, targets_of
from archgrad.data.sources import NAMES, as_data, load
from archgrad.data.split import stratified_halves
from archgrad.data.stream import InfiniteLoader, evaluation_batches, first_batch, first_inputs

__all__ = [
    "NAMES",
    "Augmentation",
    "BatchTransform",
    "Data",
    "Described",
    "ImageTransform",
    "InfiniteLoader",
    "TensorSamples",
    "as_data",
    "described",
    "evaluation_batches",
    "first_batch",
    "first_inputs",
    "load",
    "stratified_halves",
    "targets_of",
]
