"""What can be chosen of each network: the section `model` of the tree."""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, field_validator, model_validator


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Network(Section, ABC):
    """What is asked of every section `model`, whatever the network."""

    @property
    def slug(self) -> str:
        """What its runs and its registered model are called."""
        return self.name

    @property
    @abstractmethod
    def network(self) -> str:
        """`package.module:Class` of the network."""

    @property
    def stored_gradient(self) -> str | None:
        """Operator of the stored gradient map (border replicated) that the network takes; None: it takes none."""
        return None

    def arguments(self) -> dict[str, Any]:
        """What the network's class is called with."""
        return {name: getattr(self, name) for name in type(self).model_fields if name != "name"}


class GGLNetConfig(Network):
    """GGL-Net (Zhao et al., IEEE GRSL 2023)."""

    task: ClassVar[str] = "segmentation"
    name: Literal["ggl-net"] = "ggl-net"
    in_channels: Literal[1, 3] = Field(3, description="grey is repeated to three channels, as the authors do")
    width: int = Field(16, ge=4, le=64, description="channels of the first stage; 16 is the published network")
    gradient_branch: bool = True
    squeeze_excitation: bool = True
    supplement: Literal["gsm", "add"] = "gsm"
    fusion: Literal["tgfm", "sbam", "add"] = "tgfm"
    guidance: Literal["two-way", "channel", "spatial"] = "two-way"
    operator: Literal["central", "sobel", "scharr"] = "central"
    border: Literal["replicate", "authors"] = Field(
        "replicate", description="'authors': the map is computed in the network, with a border of zeros"
    )

    @property
    def frames(self) -> int:
        """T, the frames of a clip."""
        return 1

    @property
    def network(self) -> str:
        return "irstd.models.ggl_net:GGLNet"

    @property
    def stored_gradient(self) -> str | None:
        return self.operator if self.gradient_branch and self.border == "replicate" else None


class GILSConfig(Section):
    """The gradient-isolated low-level shortcut of BP-FPN. The paper's own choices are not public: docs/bp-fpn.md."""

    source: Literal["none", "stem", "dark2", "stem+dark2", "image"] = Field(
        "dark2", description="fine maps of stride 2, 4, both, or the frame itself; 'none': no shortcut"
    )
    op: Literal["s2d", "maxpool", "avgpool", "conv", "conv3", "blurpool"] = Field(
        "s2d", description="how they shrink: space to depth, pooling, r x r or 3x3 convolution of stride r, blur"
    )
    detach: bool = Field(True, description="False: an ordinary shortcut, with a gradient of its own")
    level: Literal["p3", "p3+p4", "c3_p3", "all"] = Field(
        "p3", description="where they join: level outputs, the lateral input of the last C3 block, or all three"
    )
    fuse: Literal["add", "concat", "gate"] = "add"
    channels: Literal[16, 32, 64, 128] | None = Field(
        None, description="of the shortcut under 'concat' (none: 64), times model.width"
    )
    norm: bool = True
    act: bool = True
    frames: Literal["all", "key"] = Field("all", description="which frames of a clip get the shortcut")

    @model_validator(mode="after")
    def _sense(self) -> GILSConfig:
        if self.source == "none":
            given = [name for name in _changed(self) if name != "source"]
            if given:
                raise ValueError(
                    f"source=none leaves the shortcut out, so {given[0]} decides nothing; remove one of them"
                )
            return self
        if self.source == "image" and not self.detach:
            raise ValueError(
                "detach=false gives the source a gradient, and source=image is the frame itself, which learns nothing; "
                "remove one of them"
            )
        if self.fuse == "concat" and self.level in ("c3_p3", "all"):
            raise ValueError(
                f"fuse=concat always joins at the input of a level's C3 block; level={self.level} would join there twice: "
                "use level=p3 or p3+p4"
            )
        if self.fuse != "concat" and self.channels is not None:
            raise ValueError(
                f"fuse={self.fuse} joins the shortcut to the level's own channels, so channels={self.channels} cannot be "
                "chosen; remove it or use fuse=concat"
            )
        if self.op == "conv3" and (self.source != "dark2" or self.level in ("p3+p4", "all")):
            raise ValueError(
                "op=conv3 strides by 2 only (a 3x3 kernel that strides further skips pixels): it needs source=dark2 and "
                "level=p3 or c3_p3; use op=conv elsewhere"
            )
        return self


class DGRConfig(Section):
    """Directional gradient regularisation of BP-FPN. The paper's own form is not public: docs/bp-fpn.md."""

    variant: Literal["none", "feature", "gradient", "projection", "scaling", "auxiliary"] = Field(
        "feature",
        description="a loss on adjacent maps (V1-V3) or on their gradients (V4), an edit of the gradient (V5 projection, "
        "V6 scaling), or an objectness loss on each level (V7)",
    )
    pairs: Literal["a", "b", "a+b"] = Field("a+b", description="a: levels 4 and 5; b: levels 3 and 4")
    direction: Literal["high-to-low", "low-to-high", "both"] = Field(
        "high-to-low", description="the first one is the target and gets no gradient"
    )
    distance: Literal["cosine", "l2", "smooth_l1"] = "cosine"
    mask: Literal["all", "foreground", "weighted"] = Field(
        "all", description="places that count; 'weighted': the mean of the other two"
    )
    hard_isolation: bool = Field(False, description="the finer map is recomputed without what comes down to it")
    projection: Literal["vector", "map"] = Field("vector", description="V5: at each place, or over a whole map")
    beta: float = Field(0.5, ge=0, le=1, description="V6: share of the gradient that passes")
    weight: float = Field(0.1, ge=0, description="lambda of the loss")
    warmup: float = Field(0.05, ge=0, le=1, description="share of the steps over which the weight rises from 0")

    @model_validator(mode="after")
    def _sense(self) -> DGRConfig:
        loss = {"direction", "distance", "mask", "pairs", "weight", "warmup"}
        used = {
            "none": set(),
            "feature": loss | {"hard_isolation"},
            "gradient": loss,
            "projection": {"pairs", "projection"},
            "scaling": {"pairs", "beta"},
            "auxiliary": {"weight", "warmup"},
        }[self.variant]
        for name in _changed(self):
            if name != "variant" and name not in used:
                raise ValueError(
                    f"{name} decides nothing in variant={self.variant}; remove it or choose another variant"
                )
        if self.hard_isolation and self.direction != "high-to-low":
            raise ValueError(
                f"hard_isolation makes the flow from high to low one-way; with direction={self.direction} the finer map is "
                "a fixed target already"
            )
        return self


def _changed(section: Section) -> list[str]:
    """Names of the values that are not the defaults."""
    return [name for name, field in type(section).model_fields.items() if getattr(section, name) != field.default]


class BPFPNConfig(Network):
    """BP-FPN (Zhang et al., arXiv 2511.13013) on its host SSTNet."""

    task: ClassVar[str] = "detection"
    name: Literal["bp-fpn"] = "bp-fpn"
    frames: int = Field(5, ge=1, le=64, description="T: frames of a clip, the key frame last; 1: no motion neck")
    in_channels: Literal[1, 3] = Field(3, description="grey is repeated to three channels, as the authors do")
    bp: bool = Field(True, description="False: the plain host, without GILS and DGR")
    width: float = Field(1.0, ge=0.03125, le=4, description="multiple of the published numbers of channels")
    motion_branch: bool = Field(False, description="the host's training-only motion loss")
    motion_slices: int = Field(1, ge=1, le=4, description="of its ConvLSTM; 1 as released")
    frame_weights: Literal["trained", "fixed"] = Field(
        "trained",
        description="of the neck; 'fixed': they stay 1 / (T - 1), as the host's optimizer was never given them",
    )
    batch_statistics: Literal["clip", "place"] = Field(
        "clip",
        description="in training over all frames at once; 'place': over each place in the clip, as the host; slower",
    )
    prior: float | None = Field(
        None, gt=0, lt=1, description="what objectness and class start at (YOLOX: .01); none: about .5, as the host"
    )
    gils: GILSConfig = GILSConfig()
    dgr: DGRConfig = DGRConfig()
    min_score: float = Field(0.001, ge=0, lt=1, description="detections below are dropped before anything else")
    nms: float = Field(0.65, gt=0, le=1, description="of two detections that overlap more (IoU) the better one stays")

    @model_validator(mode="after")
    def _sense(self) -> BPFPNConfig:
        if not self.bp and (_changed(self.gils) or _changed(self.dgr)):
            raise ValueError("bp=false is the host without GILS and DGR; remove gils and dgr, or set bp=true")
        if self.bp and self.gils.source == "none" and self.dgr.variant == "none":
            raise ValueError("gils.source=none with dgr.variant=none is the host; say so with bp=false")
        if self.frames == 1 and self.motion_branch:
            raise ValueError("motion_branch needs frames of a clip, and frames=1 has no past")
        if self.motion_slices > 1 and not self.motion_branch:
            raise ValueError("motion_slices is a part of motion_branch=true")
        for name in ("frame_weights", "batch_statistics"):
            if self.frames == 1 and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(
                    f"{name}={getattr(self, name)} says nothing with frames=1, which has no past; remove it"
                )
        if self.frames == 1 and self.gils.frames == "key":
            raise ValueError("gils.frames=key says nothing with frames=1, where every frame is the key frame")
        return self

    @property
    def network(self) -> str:
        return "irstd.models.bp_fpn:BPFPN"

    def arguments(self) -> dict[str, Any]:
        return super().arguments() | ({} if self.bp else {"gils": None, "dgr": None})


class AdapterConfig(Section):
    """How a plain module, one that does not keep the contract of networks, is fed and read: docs/MODELS.md."""

    in_channels: int | None = Field(
        None, ge=1, description="channels of each frame, grey repeated; none: as the first convolution takes them"
    )
    stack: bool | None = Field(
        None, description="of clips: frames are channels; False: an axis of their own, [B, C, T, H, W]; none: as above"
    )
    stride: int = Field(32, ge=1, le=256, description="height and width are padded to multiples of this")
    output: Literal["logits", "probability"] | None = Field(
        None, description="masks: what it gives; none: probabilities where its last layer is a sigmoid, else logits"
    )
    pick: int | str = Field(-1, description="masks: of a list or a dict of maps, which one is the prediction")
    deep: bool = Field(False, description="masks: the loss is the mean over all maps, not that of the prediction")
    label: int = Field(
        1, ge=0, description="boxes: the number by which the module knows targets; 0 is background to some"
    )


class ForeignConfig(Network):
    """Anyone's network, `package.module:Class`: docs/MODELS.md."""

    name: str = Field("package.module:Class", pattern=r"^[\w.]+:\w+$", description="package.module:Class")
    task: Literal["segmentation", "detection"] = "segmentation"
    frames: int = Field(1, ge=1, le=64, description="T: frames of a clip, the key frame last")
    gradient: Literal["none", "central", "sobel", "scharr"] = Field(
        "none", description="operator of the stored gradient map that its class takes"
    )
    options: dict[str, Any] = Field({}, description="what its class is called with")
    adapter: AdapterConfig = AdapterConfig()

    @field_validator("options")
    @classmethod
    def _plain(cls, given: dict[str, Any]) -> dict[str, Any]:
        try:
            json.dumps(given, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(f"options are numbers, strings, lists and mappings as JSON has them ({error})") from None
        return given

    @model_validator(mode="after")
    def _sense(self) -> ForeignConfig:
        idle = {"segmentation": {"label"}, "detection": {"output", "pick", "deep"}}[self.task]
        for name in _changed(self.adapter):
            if name in idle:
                raise ValueError(f"adapter.{name} decides nothing of {self.task}; remove it, or set task")
        return self

    @property
    def slug(self) -> str:
        """The class's name in small letters."""
        return re.sub(r"[^a-z0-9_]", "-", self.name.partition(":")[2].lower())

    @property
    def network(self) -> str:
        return self.name

    @property
    def stored_gradient(self) -> str | None:
        return None if self.gradient == "none" else self.gradient

    def arguments(self) -> dict[str, Any]:
        return dict(self.options)


def kind(name: str) -> str:
    """Which section the network `name` has: its own, or that of everyone else's."""
    return "foreign" if ":" in name else name


def _kind(value: Any) -> str:
    """Which network a section `model` is of, by its name; GGL-Net where it has none."""
    return kind(str(value.get("name", "ggl-net") if isinstance(value, Mapping) else getattr(value, "name", "?")))


ModelConfig = Annotated[
    Annotated[GGLNetConfig, Tag("ggl-net")]
    | Annotated[BPFPNConfig, Tag("bp-fpn")]
    | Annotated[ForeignConfig, Tag("foreign")],
    Discriminator(_kind),
]
NETWORKS: dict[str, type[Network]] = {"ggl-net": GGLNetConfig, "bp-fpn": BPFPNConfig, "foreign": ForeignConfig}
MODELS = ("ggl-net", "bp-fpn")
