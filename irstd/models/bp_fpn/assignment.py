"""SimOTA (Ge et al. 2021): which cells are to predict which target, decided by what they predict now."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F

from irstd.models.bp_fpn.head import STRIDE
from irstd.models.bp_fpn.similarity import similarity

RADIUS = 2.5
"""Cells around a target's centre that may predict it."""
CANDIDATES = 10
"""The sum of so many largest similarities says how many cells a target gets."""
FAR = 1e5
"""Cost of a cell that lies not both in the box and near its centre."""


class Assignment(NamedTuple):
    """cell_K: indices of the cells that predict a target; target_K: which; overlap_K: their similarity now."""

    cell_K: torch.Tensor
    target_K: torch.Tensor
    overlap_K: torch.Tensor


@torch.no_grad()
def assign(
    targets_M4: torch.Tensor,
    classes_M: torch.Tensor,
    boxes_A4: torch.Tensor,
    objectness_A: torch.Tensor,
    classes_AC: torch.Tensor,
    grid_A2: torch.Tensor,
    kind: str = "iou",
    scale: float = 12.8,
) -> Assignment:
    """Give each target its cheapest cells, and each cell at most one target.

    cost = BCE of the class + 3 (-log similarity) + 1e5 where the cell lies not both in the box and near its centre.
    A target gets as many cells as its ten largest similarities sum to, at least one.

    Args:
        targets_M4, boxes_A4: (centre x, centre y, w, h) in px, of the targets and as predicted by each cell.
        classes_M: class index of each target. objectness_A, classes_AC: logits of each cell.
        grid_A2: column and row of each cell. kind, scale: see `similarity`.
    """
    count = len(targets_M4)
    centres_A2 = (grid_A2 + 0.5) * STRIDE
    away_MA2 = (centres_A2 - targets_M4[:, None, :2]).abs()
    inside_MA = (away_MA2 < targets_M4[:, None, 2:] / 2).all(-1)
    near_MA = (away_MA2 < RADIUS * STRIDE).all(-1)
    cell_K = (inside_MA | near_MA).any(0).nonzero()[:, 0]
    if not count or not len(cell_K):
        empty = torch.zeros(0, dtype=torch.long, device=boxes_A4.device)
        return Assignment(empty, empty, boxes_A4.new_zeros(0))
    overlap_MK = similarity(targets_M4[:, None], boxes_A4[cell_K], kind, scale)
    score_KC = (torch.sigmoid(classes_AC[cell_K]) * torch.sigmoid(objectness_A[cell_K])[:, None]).sqrt()
    wanted_MC = F.one_hot(classes_M, classes_AC.shape[1]).float()
    shape = (count, *score_KC.shape)
    loss_MK = F.binary_cross_entropy(score_KC.expand(shape), wanted_MC[:, None].expand(shape), reduction="none").sum(-1)
    both_MK = (inside_MA & near_MA)[:, cell_K]
    cost_MK = loss_MK - 3 * (overlap_MK + 1e-8).log() + FAR * ~both_MK

    largest = overlap_MK.topk(min(CANDIDATES, len(cell_K)), dim=1).values
    wanted = largest.sum(1).int().clamp(min=1).tolist()
    chosen_MK = torch.zeros_like(both_MK)
    for m, k in enumerate(wanted):
        chosen_MK[m, cost_MK[m].topk(k, largest=False).indices] = True
    # A cell that several targets chose goes to the one that it costs least.
    contested_K = chosen_MK.sum(0) > 1
    cheapest_K = cost_MK.argmin(0)
    chosen_MK[:, contested_K] = False
    chosen_MK[cheapest_K[contested_K], contested_K] = True
    taken_K = chosen_MK.any(0)
    target_K = chosen_MK[:, taken_K].int().argmax(0)
    return Assignment(cell_K[taken_K], target_K, overlap_MK[:, taken_K].gather(0, target_K[None])[0])
