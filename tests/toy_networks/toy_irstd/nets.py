import torch
import toy_beside
from torch import nn

from toy_irstd.parts import block


class Plain(nn.Module):
    """A plain module: images to logits."""

    def __init__(self, width=4, channels=1):
        super().__init__()
        self.body = block(channels, width)
        self.head = nn.Conv2d(width, 1, 1)

    def forward(self, x):
        return self.head(self.body(x)) * toy_beside.SCALE


class Sided(Plain):
    """Deep supervision: a list of maps, the last one the prediction; one part is never used."""

    def __init__(self, width=4):
        super().__init__(width)
        self.side = nn.Conv2d(width, 1, 1)
        self.unused = nn.Conv2d(1, 1, 1)

    def forward(self, x):
        features = self.body(x)
        return [nn.functional.max_pool2d(self.side(features), 2), self.head(features)]


class Probable(Plain):
    def __init__(self, width=4):
        super().__init__(width)
        self.last = nn.Sigmoid()

    def forward(self, x):
        return self.last(super().forward(x))


class Hidden(Plain):
    """Probabilities, and nothing that tells."""

    def forward(self, x):
        return torch.sigmoid(super().forward(x))


class Shy(Plain):
    """Logits that happen to begin within [0, 1]."""

    def __init__(self, width=4):
        super().__init__(width)
        nn.init.normal_(self.head.weight, std=1e-3)
        nn.init.constant_(self.head.bias, 0.5)


class Clips(nn.Module):
    """Clips with an axis of their own: [B, 1, T, H, W]."""

    frames = 3

    def __init__(self, width=4):
        super().__init__()
        self.body = nn.Conv3d(1, width, 3, padding=1)
        self.head = nn.Conv3d(width, 1, 1)

    def forward(self, x):
        return self.head(torch.relu(self.body(x)))[:, :, -1]


class Boxes(nn.Module):
    """One box a frame, as torchvision's detectors answer."""

    task = "detection"

    def __init__(self, width=4):
        super().__init__()
        self.body = block(1, width)
        self.head = nn.Linear(width, 5)

    def forward(self, x, targets=None):
        raw = self.head(self.body(x).mean((2, 3)))
        height, width = x.shape[-2:]
        limit = raw.new_tensor([width, height])
        centre, size = torch.sigmoid(raw[:, :2]) * limit, torch.sigmoid(raw[:, 2:4]) * limit
        boxes = torch.cat((centre - size / 2, centre + size / 2), 1)
        if self.training:
            place = [(b - t["boxes"][:1]).abs().mean() for b, t in zip(boxes, targets, strict=True) if len(t["boxes"])]
            there = torch.tensor([float(len(t["boxes"]) > 0) for t in targets])
            losses = {"objectness": nn.functional.binary_cross_entropy_with_logits(raw[:, 4], there)}
            return losses | ({"box": torch.stack(place).mean() / 10} if place else {"box": boxes.sum() * 0})
        return [{"boxes": b[None], "scores": torch.sigmoid(s[None])} for b, s in zip(boxes, raw[:, 4], strict=True)]


class WrongShape(Plain):
    def forward(self, x):
        return super().forward(x)[:, :, 1:]


class NotANumber(Plain):
    def forward(self, x):
        return super().forward(x) / 0 * 0


class Breaks(Plain):
    def forward(self, x):
        raise RuntimeError("the sizes of tensors do not match\nmore lines")


class Frozen(nn.Module):
    def forward(self, x):
        return x


def wide(width=8):
    return Plain(width)


def nothing():
    return "no module"


try:
    from irstd.models import SegmentationAdapter
except ImportError:
    pass
else:

    class Adapted(SegmentationAdapter):
        def __init__(self, width=4):
            super().__init__(Plain(width), stride=2)


class Hungry(Plain):
    """Asks for more memory than there is when it learns from more than `holds` frames at once."""

    def __init__(self, width=4, holds=1):
        super().__init__(width)
        self.holds = holds

    def forward(self, x):
        if self.training and len(x) > self.holds:
            torch.empty(2**50)
        return super().forward(x)


class Fainting(Plain):
    """The third batch gives what is no number."""

    def __init__(self, width=4):
        super().__init__(width)
        self.seen = 0

    def forward(self, x):
        self.seen += self.training
        return super().forward(x) * (float("nan") if self.seen == 3 else 1.0)
