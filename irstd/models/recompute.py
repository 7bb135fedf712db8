"""Activation checkpointing: memory for time.

What a part of the network computes on the way to its output is not kept for the backward pass but computed again there
(Chen et al. 2016, "Training deep nets with sublinear memory cost"). The gradients are the same to the bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def kept(module: nn.Module, *inputs: torch.Tensor) -> torch.Tensor:
    """`module(*inputs)`."""
    return module(*inputs)


def recomputed(module: nn.Module, *inputs: torch.Tensor) -> torch.Tensor:
    """`module(*inputs)` with only the inputs kept for the backward pass; the module must draw no random numbers."""

    def contexts() -> tuple[AbstractContextManager, AbstractContextManager]:
        return nullcontext(), statistics_aside(module)

    return checkpoint(module, *inputs, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)


@contextmanager
def statistics_aside(module: nn.Module) -> Iterator[None]:
    """Running statistics of batch normalisations are as they were afterwards: what is added goes to copies."""
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    own = [dict(norm._buffers) for norm in norms]
    for norm in norms:
        norm._buffers.update({name: value.clone() for name, value in norm._buffers.items() if value is not None})
    try:
        yield
    finally:
        for norm, buffers in zip(norms, own, strict=True):
            norm._buffers.update(buffers)
