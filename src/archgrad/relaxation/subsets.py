"""The softmax over all k-subsets of n candidates, where a subset's logit is the sum of its members' alphas.

For k = 1 this is the ordinary softmax; for k = n every candidate has probability one. Sums over subsets are elementary
symmetric polynomials of exp(alpha), built up from the left and from the right in log space, where no entry underflows.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["inclusion_probabilities", "slot_probabilities"]


def slot_probabilities(alpha: Tensor, k: int) -> Tensor:
    """Return (k, n): entry (j, i) is the probability that i is the j-th smallest member of the drawn subset.

    Args:
        alpha: (n,), logits.
        k: Size of the subsets, from 1 to n.
    """
    if k == 1:
        return torch.softmax(alpha, 0).unsqueeze(0)
    n = alpha.shape[0]
    logits = list((alpha - alpha.detach().max()).unbind())  # a common shift cancels, and small numbers round less
    before = _log_polynomials(logits, k)
    after = _log_polynomials(logits[::-1], k)
    never = torch.full_like(logits[0], float("-inf"))
    # i stands in place j when j members come from the i candidates before it and k - 1 - j from those after it.
    places = [
        torch.stack(
            [logits[i] + before[i][j] + after[n - 1 - i][k - 1 - j] if j <= i <= n - k + j else never for i in range(n)]
        )
        for j in range(k)
    ]
    return torch.softmax(torch.stack(places), 1)


def inclusion_probabilities(alpha: Tensor, k: int) -> Tensor:
    """Return (n,), the probability that each candidate is in the drawn subset; sums to k."""
    return slot_probabilities(alpha, k).sum(0)


def _log_polynomials(logits: list[Tensor], k: int) -> list[list[Tensor]]:
    """Return for each prefix length m the log of the polynomials of order 0 to min(m, k)."""
    zero = torch.zeros_like(logits[0])
    table = [[zero]]
    for logit in logits:
        last = table[-1]
        row = [zero]
        for order in range(1, min(len(last), k) + 1):
            taken = logit + last[order - 1]
            row.append(torch.logaddexp(last[order], taken) if order < len(last) else taken)
        table.append(row)
    return table
