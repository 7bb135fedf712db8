"""The training-only motion branch of SSTNet: a recurrent view of the raw frames that P3 is pulled towards.

    L_motion = MSE(cat_t P3_t, mapping2(cat_t h_t))        no side detached, weight 1

h_t are the hidden states of a cross-slice ConvLSTM over the frames. Its second state (m_h, m_c) is carried from one slice to
the next. The released network has one slice, so nothing reads that state: 8.86 M of its parameters (attentions and motion
gates), and an unused mapping of 0.08 M, take part in no output and get no gradient. Here a slice has them only where
another one follows.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from irstd.models.bp_fpn.backbone import scaled
from irstd.models.ggl_net.blocks import Float32Conv2d

POOLED = 32
"""Side of the maps between which attention is computed: each channel is a token of 32 x 32 values."""

State = tuple[torch.Tensor, torch.Tensor]


class MotionState(nn.Module):
    """The second state of a slice: attention over all of the slice's inputs decides what it keeps."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.past = nn.MultiheadAttention(POOLED**2, 8, dropout=0.1, batch_first=True)
        self.future = nn.MultiheadAttention(POOLED**2, 8, dropout=0.1, batch_first=True)
        self.past_motion = nn.Conv2d(2 * channels, channels, 1, bias=False)
        self.future_motion = nn.Conv2d(2 * channels, channels, 1, bias=False)
        self.gates = nn.Conv2d(3 * channels, 4 * channels, 3, padding=1)

    def forward(self, head: torch.Tensor, inputs: torch.Tensor, own: State, motion: State) -> State:
        """`head` [B, C, H, W] of this frame, `inputs` [B, T, C, H, W] of all, `own` (h, c), `motion` (m_h, m_c)."""
        m_h, m_c = motion
        tokens = self._tokens(m_h)
        past, _ = self.past(self._tokens(inputs[:, 0]), tokens, tokens, need_weights=False)
        future, _ = self.future(self._tokens(inputs[:, -1]), past, past, need_weights=False)
        maps = [
            conv(torch.cat((torch.sigmoid(self._map(found, m_h)) + m_h, m_h), dim=1))
            for conv, found in ((self.past_motion, past), (self.future_motion, future))
        ]
        i, f, g, o = self.gates(torch.cat((head, *maps), dim=1)).chunk(4, dim=1)
        m_c = torch.sigmoid(f) * m_c + torch.sigmoid(i) * torch.tanh(g) + own[1]
        return torch.sigmoid(o) * torch.tanh(m_c) + own[0], m_c

    @staticmethod
    def _tokens(x_BCHW: torch.Tensor) -> torch.Tensor:
        return F.adaptive_max_pool2d(x_BCHW, POOLED).flatten(2)

    @staticmethod
    def _map(tokens: torch.Tensor, like_BCHW: torch.Tensor) -> torch.Tensor:
        map_BCHW = tokens.unflatten(2, (POOLED, POOLED))
        return F.interpolate(map_BCHW, size=like_BCHW.shape[-2:], mode="bilinear", align_corners=True)


class Slice(nn.Module):
    """One ConvLSTM over the frames, with the gates of [x, h] and of [x, h, x_head, m_h] summed."""

    def __init__(self, channels: int, carries: bool) -> None:
        super().__init__()
        self.gates = nn.Conv2d(2 * channels, 4 * channels, 3, padding=1)
        self.cross_gates = nn.Conv2d(4 * channels, 4 * channels, 3, padding=1)
        self.motion = MotionState(channels) if carries else None

    def forward(self, x: torch.Tensor, head: torch.Tensor, motion: list[State]) -> tuple[torch.Tensor, list[State]]:
        """`x`, `head` [B, T, C, H, W] and the motion state of each frame; the hidden states, and the next motion states."""
        h = c = torch.zeros_like(x[:, 0])
        hidden, carried = [], []
        for t in range(x.shape[1]):
            summed = self.gates(torch.cat((x[:, t], h), dim=1))
            summed = summed + self.cross_gates(torch.cat((x[:, t], h, head[:, t], motion[t][0]), dim=1))
            i, f, o, g = summed.chunk(4, dim=1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
            hidden.append(h)
            if self.motion is not None:
                carried.append(self.motion(head[:, t], head, (h, c), motion[t]))
        return torch.stack(hidden, dim=1), carried


class MotionBranch(nn.Module):
    """L_motion of a clip.

    Args:
        in_channels: of the frames. channels: of P3. frames: T. slices: of the ConvLSTM; 1 as released.
    """

    def __init__(self, in_channels: int, channels: int, frames: int, width: float, slices: int = 1) -> None:
        super().__init__()
        half, hidden = scaled(32, width), scaled(64, width)
        self.mapping1 = nn.Sequential(
            Float32Conv2d(in_channels, half, 5, stride=4, padding=1, bias=False),
            nn.LeakyReLU(),
            nn.Conv2d(half, hidden, 1, bias=False),
            nn.LeakyReLU(),
        )
        self.slices = nn.ModuleList(Slice(hidden, carries=s + 1 < slices) for s in range(slices))
        self.mapping2 = nn.Sequential(nn.Conv2d(frames * hidden, frames * channels, 1, bias=False), nn.LeakyReLU())

    def forward(self, image_BTCHW: torch.Tensor, p3_BTCHW: torch.Tensor) -> torch.Tensor:
        x = self.mapping1(image_BTCHW.flatten(0, 1)).unflatten(0, image_BTCHW.shape[:2])
        head, motion = x, [(torch.zeros_like(x[:, 0]),) * 2] * x.shape[1]
        for part in self.slices:
            x, motion = part(x, head, motion)
            head = torch.stack([m_h for m_h, _ in motion], dim=1) if motion else head
        # 512 px give the released network's 64 cells.
        pooled = F.adaptive_max_pool2d(self.mapping2(x.flatten(1, 2)), p3_BTCHW.shape[-2:])
        return F.mse_loss(p3_BTCHW.flatten(1, 2).float(), pooled.float())
