"""Networks for inference alone: batch normalisations become part of the convolutions before them.

    fast = folded(model)        # a copy in evaluation mode; the trained model stays as it is

In evaluation mode a batch normalisation multiplies and shifts each channel by constants, so that the convolution before it
can do that. Which modules follow one another a network cannot be asked: `nn.Sequential` says it, and a class that says so
in `chain`, names of its modules in the order in which they are called, with nothing between them.
"""

from __future__ import annotations

from copy import deepcopy
from itertools import pairwise
from typing import TypeVar

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

Network = TypeVar("Network", bound=nn.Module)


def folded(model: Network) -> Network:
    """A copy of `model` in evaluation mode and without gradients, the same function up to float32 rounding.

    It is made from the weights as they are now and cannot be trained; its state_dict is another one.
    """
    found = deepcopy(model).eval().requires_grad_(False)
    for module in found.modules():
        names = list(module._modules) if isinstance(module, nn.Sequential) else getattr(module, "chain", ())
        for first, second in pairwise(names):
            conv, norm = module.get_submodule(first), module.get_submodule(second)
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                module.set_submodule(first, fuse_conv_bn_eval(conv, norm))
                module.set_submodule(second, nn.Identity())
    return found
