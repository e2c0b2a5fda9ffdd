"""BatchNorm over the batch of all processes, on CPU and GPU, differentiable twice.

Let process r hold n_r samples, N in all. What a process differentiates is its summand of the whole loss, up to a factor
that all share (`archgrad.losses`). So the gradient of the mean over processes y = sum_r (n_r / N) x_r by x_r is n_r / N
times the sum over the processes of their gradients by y; and the gradient of that is the mean again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from archgrad.distributed.messages import answered, world_size
from archgrad.errors import OptionError

__all__ = [
    "SynchronisedBatchNorm1d",
    "SynchronisedBatchNorm2d",
    "SynchronisedBatchNorm3d",
    "is_synchronised",
    "statistics_over_ranks",
    "synchronised_norms",
]


class _MeanOverRanks(torch.autograd.Function):
    """The mean over the processes of a tensor, weighted by this process's share, (1,), of all samples."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, share: Tensor) -> Tensor:
        ctx.save_for_backward(share)
        return _sum(x * share)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (share,) = ctx.saved_tensors
        return _ShareOfSum.apply(gradients[0], share), None


class _ShareOfSum(torch.autograd.Function):
    """This process's share, (1,), of the sum over the processes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, share: Tensor) -> Tensor:
        ctx.save_for_backward(share)
        return _sum(x.clone()) * share

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (share,) = ctx.saved_tensors
        return _MeanOverRanks.apply(gradients[0], share), None


def _sum(own: Tensor) -> Tensor:
    if world_size() > 1:
        with answered():
            dist.all_reduce(own)
    return own


class _CountedMeanOverRanks(torch.autograd.Function):
    """The same where the shares are not known yet: counts travel with the values, and their sum is returned, too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, count: int) -> tuple[Tensor, Tensor]:
        flat = _sum(torch.cat([x.reshape(-1) * count, x.new_tensor([float(count)])]))
        total = flat[-1:].clone()
        ctx.save_for_backward(count / total)
        ctx.mark_non_differentiable(total)
        return (flat[:-1] / total).view_as(x), total

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (share,) = ctx.saved_tensors
        return _ShareOfSum.apply(gradients[0], share), None


def statistics_over_ranks(mean: Tensor, variance: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean and biased variance over all processes, and the number of values behind them; one message.

    Args:
        mean: Of this process's values, any shape.
        variance: Of this process's values, biased.
        count: Number of this process's values behind each.

    Returns:
        Mean and variance like the arguments, and the number, (1,) float64.
    """
    # In double precision, where the difference below loses nothing of what single precision holds.
    wide = mean.double()
    moments, total = _CountedMeanOverRanks.apply(torch.stack([wide, variance.double() + wide * wide]), count)
    first, second = moments
    return first.to(mean.dtype), (second - first * first).clamp_min(0).to(variance.dtype), total


class _Synchronised(_BatchNorm):
    """BatchNorm whose statistics in training are those of the batch over all processes."""

    def forward(self, x: Tensor) -> Tensor:
        if world_size() == 1 or not (self.training or self.running_mean is None):
            return super().forward(x)
        self._check_input_dim(x)
        values = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        over = [0, *range(2, x.dim())]
        variance, mean = torch.var_mean(values, over, correction=0)
        mean, variance, total = statistics_over_ranks(mean, variance, values.numel() // values.shape[1])
        if self.training and self.track_running_stats and self.running_mean is not None:
            self._track(mean.detach(), variance.detach(), total)
        scale = (variance + self.eps).rsqrt()
        if self.weight is not None:
            scale = scale * self.weight
        shift = -mean * scale if self.bias is None else self.bias - mean * scale
        shape = (1, -1, *(1 for _ in over[1:]))
        return torch.addcmul(shift.view(shape), values, scale.view(shape)).to(x.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor, total: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        weight = self.momentum if self.momentum is not None else 1.0 / float(self.num_batches_tracked)
        unbiased = variance * (total / (total - 1)).to(variance.dtype)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), weight)
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), weight)


class SynchronisedBatchNorm1d(_Synchronised, nn.BatchNorm1d):
    """`nn.BatchNorm1d` over all processes."""


class SynchronisedBatchNorm2d(_Synchronised, nn.BatchNorm2d):
    """`nn.BatchNorm2d` over all processes."""


class SynchronisedBatchNorm3d(_Synchronised, nn.BatchNorm3d):
    """`nn.BatchNorm3d` over all processes."""


_KINDS: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm1d: SynchronisedBatchNorm1d,
    nn.BatchNorm2d: SynchronisedBatchNorm2d,
    nn.BatchNorm3d: SynchronisedBatchNorm3d,
}


def is_synchronised(module: nn.Module) -> bool:
    """Return whether the module is a BatchNorm over all processes."""
    return isinstance(module, _Synchronised)


@contextmanager
def synchronised_norms(network: nn.Module, *, enabled: bool) -> Iterator[None]:
    """Let every BatchNorm of a network take its statistics from the batch of all processes, for the time of the block.

    Modules, parameters and buffers stay the same objects. Each norm then sends one message forward and one backward.

    Args:
        network: Changed in place, and back again.
        enabled: False changes nothing.

    Raises:
        OptionError: The network has a BatchNorm of a kind of its own, which cannot be synchronised.
    """
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)] if enabled else []
    for norm in norms:
        if type(norm) not in _KINDS and not isinstance(norm, nn.SyncBatchNorm):
            raise OptionError(
                f"sync_batchnorm knows BatchNorm1d, 2d and 3d, but the network has a {type(norm).__name__}. "
                f"Use one of these, or sync_batchnorm=False."
            )
    changed = [norm for norm in norms if type(norm) in _KINDS] if world_size() > 1 else []
    plain = [type(norm) for norm in changed]
    for norm in changed:
        norm.__class__ = _KINDS[type(norm)]  # type: ignore[assignment]
    try:
        yield
    finally:
        for norm, kind in zip(changed, plain, strict=True):
            norm.__class__ = kind
