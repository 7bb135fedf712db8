"""What every network offers: `loss(batch)` and `predict(batch)`. Training, evaluation and registry know no more.

`batch` is what `irstd.data.loader.ClipLoader` yields, as arrays or moved to a device.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import cv2
import numpy as np
import torch
from torch import nn

from irstd.config import LossConfig
from irstd.errors import InputError
from irstd.models.batch import Batch, ignored, normalised, replicate_padding, to_device, true_part
from irstd.models.losses import segmentation_loss
from irstd.models.resize import Placement, Resize


@dataclass(frozen=True)
class Detections:
    """Targets found in one key frame, in the pixels of the original frame.

    boxes_N4: float32 [N, 4], x, y, w, h (edges, 0-based). scores_N: float32 [N], descending.
    mask_HW: uint8 {0, 1} [H, W] where the network segments, else None. probability_HW: float32 [H, W] or None.
    """

    boxes_N4: np.ndarray
    scores_N: np.ndarray
    mask_HW: np.ndarray | None = None
    probability_HW: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.scores_N)

    def above(self, threshold: float) -> Detections:
        """Those with a greater score; a mask stays as it is."""
        kept_N = self.scores_N > threshold
        return replace(self, boxes_N4=self.boxes_N4[kept_N], scores_N=self.scores_N[kept_N])


class Model(nn.Module, ABC):
    """All that training, evaluation, registry and inference know of a network, besides `loss` and `predict`.

    task: "segmentation", where `predict` gives masks and their components as boxes, or "detection", where it gives boxes.
    frames: T of the clips that it takes. progress: share of the training that is done, for losses that change on the
    way; the training loop sets it. resize: what the network gets of the frames. spares: whether a loss may leave
    parameters without a gradient. activation_checkpointing: whether training computes activations again rather than keep
    them; `checkpoints` says whether a network can.
    """

    task: str
    frames: int = 1
    spares: bool = False
    threshold: float = 0.5
    loss_config: LossConfig = LossConfig()
    progress: float = 1.0
    resize: Resize = Resize()
    checkpoints: ClassVar[bool] = False
    activation_checkpointing: bool = False

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def compiled_parts(self) -> list[nn.Module]:
        """What of the network `train.compile` compiles, each on its own: modules that `loss` calls."""
        return [self]

    def arrived(self, batch: Batch) -> Batch:
        """The batch on the network's device; `InputError` for one that no loader makes, or with clips of another length."""
        batch = to_device(batch, self.device)
        if batch["frames"].shape[1] != self.frames:
            raise InputError(
                f"{type(self).__name__} takes clips of T={self.frames} frames, got {batch['frames'].shape[1]} in "
                f"{tuple(batch['frames'].shape)}"
            )
        return batch

    @abstractmethod
    def loss(self, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The training loss of a batch and its parts."""

    @abstractmethod
    def detect(self, batch: Batch, placements: list[Placement]) -> list[Detections]:
        """One `Detections` for each key frame of a batch as the network gets it, in original pixels."""

    def folded(self) -> Model:
        """This network for inference alone, the same function up to rounding; itself where nothing can be gained."""
        return self

    def stream(self) -> Any | None:
        """One recording frame by frame, past frames' features kept: an object whose `predict` takes batches of single
        frames; None where the network has no such form."""
        return None

    @torch.no_grad()
    def predict(self, batch: Batch) -> list[Detections]:
        """One `Detections` for each key frame, in original pixels.

        Native frames of one true size go together, each without its padding; resized ones have one size and all go
        together, a letterbox with its padding.
        """
        batch, placements = self.resize(self.arrived(batch))
        if not self.resize.native:
            return self.detect(batch, placements)
        groups: dict[tuple[int, int], list[int]] = {}
        for index, placement in enumerate(placements):
            groups.setdefault(placement.original, []).append(index)
        found: dict[int, Detections] = {}
        for indices in groups.values():
            part = self.detect(true_part(batch, indices), [placements[index] for index in indices])
            found |= zip(indices, part, strict=True)
        return [found[index] for index in range(len(placements))]


class SegmentationModel(Model):
    """A network with `forward(image_B1HW, gradient_B1HW=None) -> logit_B1HW`, turned into the contract.

    Only the key frame of a clip is used. `takes_gradient`: whether the stored gradient map is handed to forward.
    """

    task = "segmentation"
    takes_gradient: bool = True

    def inputs(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor | None]:
        """image float32 [B, 1, H, W] of the key frames in x units, and the stored gradient map [B, 1, H, W] or None."""
        gradient = batch.get("gradient") if self.takes_gradient else None
        if gradient is not None:
            gradient = replicate_padding(gradient.float(), batch.get("size")).unsqueeze(1)
        return normalised(batch)[:, -1:], gradient

    def loss(self, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The training loss of a batch and its parts. `InputError` where the batch has no masks."""
        self.require_masks(batch)
        batch, _ = self.resize(self.arrived(batch))
        return self.loss_of(self(*self.inputs(batch)), batch)

    def loss_of(self, logit_B1HW: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The same of logits for the key frames of a batch as the network gets it."""
        ignored_BHW = ignored(batch)
        ignored_B1HW = None if ignored_BHW is None else ignored_BHW.unsqueeze(1)
        return segmentation_loss(logit_B1HW, batch["masks"].unsqueeze(1), self.loss_config, ignored_B1HW)

    def require_masks(self, batch: Batch) -> None:
        if batch.get("masks") is None:
            raise InputError(
                f"{type(self).__name__} learns from masks, and a chosen set has none; choose with data.sets=[...]"
            )

    def detect(self, batch: Batch, placements: list[Placement]) -> list[Detections]:
        logit_B1HW = self(*self.inputs(batch))
        probability_BHW = torch.sigmoid(logit_B1HW[:, 0].float()).cpu().numpy()
        found = []
        for placement, probability_HW in zip(placements, probability_BHW, strict=True):
            item = detections_of(placement.part(probability_HW), self.threshold)
            found.append(item if self.resize.native else placed_back(item, placement))
        return found


def placed_back(found: Detections, placement: Placement) -> Detections:
    """Detections of a resized key frame in original pixels: one for one, boxes to a fraction of a pixel."""
    assert found.mask_HW is not None and found.probability_HW is not None
    return Detections(
        placement.boxes_back(found.boxes_N4),
        found.scores_N,
        placement.back(found.mask_HW),
        placement.back(found.probability_HW),
    )


def detections_of(probability_HW: np.ndarray, threshold: float) -> Detections:
    """8-connected components of probability > threshold as boxes; the score is a component's largest probability."""
    mask_HW = (probability_HW > threshold).astype(np.uint8)
    _, labels, stats, _ = cv2.connectedComponentsWithStatsWithAlgorithm(mask_HW, 8, cv2.CV_32S, cv2.CCL_BBDT)
    boxes, scores = [], []
    for label, (x, y, w, h, _) in enumerate(stats[1:], 1):
        part = np.s_[y : y + h, x : x + w]
        boxes.append((x, y, w, h))
        scores.append(float(probability_HW[part][labels[part] == label].max()))
    order = np.argsort([-s for s in scores], kind="stable")
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4)[order],
        np.array(scores, np.float32)[order],
        mask_HW,
        probability_HW,
    )


def load_weights(model: nn.Module, tensors: dict[str, torch.Tensor], where: object, partial: bool = False) -> None:
    """Copy `tensors` into the model; `InputError` that names what is missing, unknown, or of another shape.

    where: what the line begins with, a file. partial: the model's other tensors may keep their values.
    """
    own = model.state_dict()
    missing = [] if partial else [name for name in own if name not in tensors]
    unknown = [name for name in tensors if name not in own]
    other = [
        f"{name} {list(value.shape)} for {list(own[name].shape)}"
        for name, value in tensors.items()
        if name in own and value.shape != own[name].shape
    ]
    wrong = [f"{kind} {_some(names)}" for kind, names in _kinds(missing, unknown, other) if names]
    if wrong:
        raise InputError(f"{where}: not the weights of this {type(model).__name__}: {'; '.join(wrong)}")
    model.load_state_dict(tensors, strict=False)


def _kinds(missing: list[str], unknown: list[str], other: list[str]) -> list[tuple[str, list[str]]]:
    return [("it lacks", missing), ("it has, and the network has not,", unknown), ("of another shape are", other)]


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def memory_format(model: nn.Module, channels_last: bool) -> torch.memory_format:
    """The layout in which the model runs: channels last is for images, and not for clips with an axis of their own."""
    if channels_last and all(value.dim() < 5 for value in model.parameters()):
        return torch.channels_last
    return torch.contiguous_format


def parameter_count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def state(model: nn.Module) -> dict[str, Any]:
    """Weights and buffers on the CPU, contiguous: what safetensors takes."""
    found = {}
    for name, value in model.state_dict().items():
        copy = value.detach().cpu().contiguous()
        found[name] = copy.clone() if copy.data_ptr() == value.data_ptr() else copy
    return found
