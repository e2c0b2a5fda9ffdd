"""Scores of networks that were not trained, from one batch: baselines that a search should beat.

They rank the networks of architectures (`derive`), higher is better; the numbers of parameters and multiply-adds
(`archgrad.cost`) are two more. Each works on a copy of the network, in training mode, and leaves random states alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from archgrad.calling import run_on
from archgrad.copying import copied
from archgrad.errors import OptionError
from archgrad.losses import Loss
from archgrad.nested import map_tensors, tensors_in

__all__ = ["gradient_norm", "naswot", "snip", "synflow"]


def gradient_norm(network: nn.Module, inputs: Any, targets: Any, *, loss: Loss = F.cross_entropy) -> float:
    """Return the L2 norm of the gradient of the loss in all weights.

    Args:
        network: Stays as it is.
        inputs: A batch that it takes.
        targets: Of the batch.
        loss: Function of (outputs, targets).

    Source: the "grad_norm" of Abdelfattah et al. 2021.
    """
    with _copied(network) as copied:
        pairs = _gradients(copied, loss(run_on(copied, inputs), targets))
        return float(sum(gradient.double().square().sum() for _, gradient in pairs)) ** 0.5


def snip(network: nn.Module, inputs: Any, targets: Any, *, loss: Loss = F.cross_entropy) -> float:
    """Return the sum over all weights of |weight * d loss / d weight|: how much the loss depends on each.

    Arguments are those of `gradient_norm`.

    Source: Lee et al. 2019 (SNIP, eq. 5, for pruning); Abdelfattah et al. 2021 sum it over a network.
    """
    with _copied(network) as copied:
        pairs = _gradients(copied, loss(run_on(copied, inputs), targets))
        return float(sum((weight * gradient).double().abs().sum() for weight, gradient in pairs))


def synflow(network: nn.Module, inputs: Any) -> float:
    """Return the sum over all weights of weight * dR / d weight, R being the sum of the outputs for inputs of ones.

    All parameters are taken by their absolute values and BatchNorm is left out, in float64, so that R adds up every
    path from an input to an output; a linear network of L layers without biases has L times R. Unlike the other scores
    it sees no data.

    Args:
        network: Stays as it is.
        inputs: A batch that it takes; its first sample gives the shapes.

    Source: Tanaka et al. 2020 (SynFlow, for pruning); Abdelfattah et al. 2021 sum it over a network, without BatchNorm.
    """
    with _copied(network) as copied:
        _without_norms(copied).double().eval()
        with torch.no_grad():
            for tensor in [*copied.parameters(), *copied.buffers()]:
                tensor.abs_()
        ones = map_tensors(inputs, lambda x: torch.ones_like(x[:1], dtype=_double(x)))
        flow = sum((output.sum() for output in tensors_in(run_on(copied, ones))), start=torch.zeros(()))
        return float(sum((weight * gradient).sum() for weight, gradient in _gradients(copied, flow)))


def naswot(network: nn.Module, inputs: Any) -> float:
    """Return log |det K|, where K[i, j] counts the ReLUs that are both on or both off for samples i and j.

    A network that tells the samples of a batch apart before it is trained has a large determinant; -inf where two
    samples have the same pattern.

    Args:
        network: With ReLU modules; stays as it is.
        inputs: A batch that it takes, of at least 2 samples, along the first dimension of every ReLU's output.

    Raises:
        OptionError: No ReLU module ran.

    Source: Mellor et al. 2021 (NASWOT), the logarithm of the determinant of the kernel of Hamming distances.
    """
    kernels: list[Tensor] = []

    def count(module: nn.Module, args: Any, output: Tensor) -> None:
        on = (output.detach() > 0).flatten(1).double()
        kernels.append(on @ on.T + (1.0 - on) @ (1.0 - on).T)

    with _copied(network) as copied, torch.no_grad():
        for module in copied.modules():
            if isinstance(module, nn.ReLU):
                module.register_forward_hook(count)
        run_on(copied, inputs)
    if not kernels:
        raise OptionError(f"naswot looks at ReLU modules, but none ran in {type(network).__name__}. Take synflow.")
    return float(torch.linalg.slogdet(torch.stack(kernels).sum(0))[1])


@contextmanager
def _copied(network: nn.Module) -> Iterator[nn.Module]:
    devices = {tensor.device for tensor in network.parameters() if tensor.is_cuda}
    with torch.random.fork_rng(devices=list(devices)), torch.enable_grad():
        yield copied(network).train()


def _gradients(network: nn.Module, value: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return (weight, gradient) of the weights that the value depends on; in Python's sums, nothing is 0."""
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    if not weights or not value.requires_grad:
        return []
    gradients = torch.autograd.grad(value, weights, allow_unused=True)
    return [
        (weight.detach(), gradient) for weight, gradient in zip(weights, gradients, strict=True) if gradient is not None
    ]


def _without_norms(network: nn.Module) -> nn.Module:
    for module in network.modules():
        for name, child in module._modules.items():
            if isinstance(child, _NormBase):
                module._modules[name] = nn.Identity()
    return network


def _double(x: Tensor) -> torch.dtype:
    return torch.float64 if x.is_floating_point() else x.dtype
