"""A recording frame by frame: each frame's features are computed once."""

from __future__ import annotations

from collections import deque

import torch

from irstd.errors import InputError
from irstd.models.batch import Batch, normalised, to_device
from irstd.models.bp_fpn.network import BPFPN
from irstd.models.contract import Detections


class Stream:
    """Call it with one frame after the other; the result is that of the clip which ends there.

        stream = model.eval().stream()
        raw_BCHW = stream(frame_BHW)        # grey float [B, H, W], B recordings side by side

    Before the first frame the first frame is repeated, as in clips. Equal to `model(clip)` up to the rounding of batches of
    another size. The frames must be scaled alike (one offset and scale a recording): features of past frames are not
    computed again. No gradients are kept.
    """

    def __init__(self, model: BPFPN) -> None:
        self.model = model
        self._past: deque[torch.Tensor] = deque(maxlen=model.frames - 1)
        self._shape: tuple[int, ...] | None = None

    def reset(self) -> None:
        """Forget the past: the next frame is the first of another recording."""
        self._past.clear()
        self._shape = None

    @torch.no_grad()
    def __call__(self, frame_BHW: torch.Tensor) -> torch.Tensor:
        """Raw predictions [B, 5 + classes, ceil(H / 8), ceil(W / 8)] for this frame.

        Raises: InputError for what the network cannot take, a frame of another size, or a model in training mode.
        """
        model = self.model
        if model.training:
            raise InputError("a stream keeps features, which change while a model trains; call model.eval() first")
        model.check(frame_BHW.unsqueeze(1), 1)
        if self._shape not in (None, tuple(frame_BHW.shape)):
            raise InputError(f"the stream began with frames {self._shape}, got {tuple(frame_BHW.shape)}; call reset()")
        self._shape = tuple(frame_BHW.shape)
        image, grey = model.image(frame_BHW)
        pyramid = model.backbone
        stages = pyramid.backbone(image)
        key = past = pyramid.top_down(stages, grey).p3
        if model.gils_config.frames == "key":
            # As history this frame has no shortcut.
            past = pyramid.top_down(stages, grey, None).p3
        while len(self._past) < model.frames - 1:
            self._past.append(past)
        raw_BCHW = model.coupled(list(self._past), key, *frame_BHW.shape[-2:])
        self._past.append(past)
        return raw_BCHW

    @torch.no_grad()
    def predict(self, batch: Batch) -> list[Detections]:
        """As the model's `predict`, of a batch whose "frames" [B, 1, H, W] are each the next of its recording."""
        batch, placements = self.model.resize(to_device(batch, self.model.device))
        return self.model.decoded(self(normalised(batch)[:, -1]), placements)
