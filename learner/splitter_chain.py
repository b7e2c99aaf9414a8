"""The splitter's loss: words are a chain of parts, and what is not known of an example is summed over."""

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from learner.concatenate import SplitExample
from router.splitter import GOES_ON, OUTSIDE, STARTS

if TYPE_CHECKING:
    import torch

_NEVER = -1e4


def allowed_parts(example: SplitExample, starts: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Which part each word may have, (W, 3): one, or where a segment's end is not known, going on or outside.

    Args:
        example: a query and where it is to be split.
        starts: (W,) characters at which its words start.
    """
    starting = np.isin(starts, example.starts)
    starting[:1] = True
    outside, unknown = np.zeros(len(starts), bool), np.zeros(len(starts), bool)
    if example.ends is None:
        unknown = ~starting & (starts < max(example.starts, default=0))
    for end, start in zip(example.ends or (), example.starts, strict=False):
        outside |= (starts >= end) & (starts < start)
    allowed = np.zeros((len(starts), 3), bool)
    allowed[:, STARTS] = starting
    allowed[:, OUTSIDE] = ~starting & (outside | unknown)
    allowed[:, GOES_ON] = ~starting & (~outside | unknown)
    return allowed


def chain_loss(
    scores: "torch.Tensor", transitions: "torch.Tensor", real: "torch.Tensor", allowed: "torch.Tensor"
) -> "torch.Tensor":
    """Negative log-likelihood (n,) of the allowed ways to tag each query's words, of all that there are.

    log sum over all tags of exp(score) - log sum over the allowed ones, with the chain's first word starting a segment
    and its last in one (Lafferty et al. 2001; the sum over what is unknown is Tsuboi et al. 2008).

    Args:
        scores: (n, W, 3) of each word's parts.
        transitions: (3, 3), from part (row) to part.
        real: (n, W), false where a row is padded at its end.
        allowed: (n, W, 3) parts that agree with the example.
    """
    import torch

    barred = torch.zeros(3, 3, dtype=torch.bool)
    barred[OUTSIDE, GOES_ON] = True
    step = transitions.masked_fill(barred, _NEVER)
    wanted = scores.masked_fill(~allowed, _NEVER)
    # Both sums in one pass: all ways in the first n rows, the allowed ones in the last n.
    both, real = torch.cat([scores, wanted]), torch.cat([real, real])
    first = torch.full_like(both[:, 0], _NEVER)
    first[:, STARTS] = 0
    total = first + both[:, 0]
    for i in range(1, both.shape[1]):
        reached = torch.logsumexp(total.unsqueeze(2) + step, dim=1) + both[:, i]
        total = torch.where(real[:, i : i + 1], reached, total)
    logs = torch.logsumexp(total[:, [STARTS, GOES_ON]], dim=1)
    every, some = logs.chunk(2)
    return every - some
