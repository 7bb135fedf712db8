"""DGR as an edit of the gradient that crosses from one pyramid level to the next (variants V5 and V6).

Both leave the forward pass as it is, have no parameters and cost nothing at inference.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F


def scale_gradient(x: torch.Tensor, beta: float) -> torch.Tensor:
    """`x` itself, bit for bit; its gradient is multiplied by `beta`."""
    fixed = x.detach()
    return fixed + beta * (x - fixed)


def project_gradient(low_NCHW: torch.Tensor, high_NChw: torch.Tensor, over: str = "vector") -> None:
    """Take from the gradient of the coarse map what opposes that of the fine one.

        g <- g - min(0, <g, d>) / |d|^2 d

    g is the gradient that reaches `high_NChw` from finer levels; d, the reference, that of `low_NCHW`, averaged over 2x2
    cells. over: <,> at each place over the channels ("vector") or over the whole map of a frame ("map"). Both maps have
    the same channels. Hooks are set on both tensors; nothing happens where they have no gradient.
    """
    if not (low_NCHW.requires_grad and high_NChw.requires_grad):
        return
    reference: list[torch.Tensor] = []
    low_NCHW.register_hook(lambda gradient: reference.append(gradient))
    high_NChw.register_hook(lambda gradient: projected(gradient, F.avg_pool2d(reference.pop(), 2), over))


def projected(g_NCHW: torch.Tensor, d_NCHW: torch.Tensor, over: str) -> torch.Tensor:
    """g without its component against d; unchanged where it has none, or where d is 0."""
    dims = 1 if over == "vector" else (1, 2, 3)
    dot = (g_NCHW * d_NCHW).sum(dims, keepdim=True)
    square = d_NCHW.square().sum(dims, keepdim=True)
    # Gradients are small: an epsilon that mattered would leave the opposing part in.
    share = dot.clamp(max=0) / square.clamp(min=torch.finfo(square.dtype).tiny)
    return g_NCHW - share * d_NCHW
