"""How a network learns: the section `train` of the tree."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from irstd.config.networks import Section


class LossConfig(Section):
    """Weighted sums of losses, of networks that give masks and of those that give boxes; a weight of 0 leaves a term out.

    The authors train with soft IoU alone, for hundreds of epochs. From scratch on few targets that tends to stay at an
    empty mask; a share of cross-entropy gets it going (our reading).
    """

    soft_iou: float = Field(1.0, ge=0)
    bce: float = Field(5.0, ge=0)
    edge_hard: float = Field(0.0, ge=0, description="BCE x4 on mask edges, mean over the hardest half")
    focal: float = Field(0.0, ge=0, description="focal loss over all pixels, a sum by the number of target pixels")
    focal_gamma: float = Field(2.0, ge=0, description="how much less what is sure counts; 0: cross-entropy")
    focal_alpha: float = Field(0.25, ge=0, le=1, description="share of targets; 1 minus it is that of background")
    box: float = Field(5.0, ge=0, description="boxes: 1 - similarity^2 of assigned cells")
    objectness: float = Field(1.0, ge=0, description="boxes: BCE over all cells")
    objectness_focal: bool = Field(False, description="boxes: focal loss in place of that BCE")
    classification: float = Field(1.0, ge=0, description="boxes: BCE of the class of assigned cells")
    motion: float = Field(1.0, ge=0, description="boxes: the loss of model.motion_branch")
    similarity: Literal["iou", "gaussian"] = Field(
        "iou", description="boxes: in assignment and loss; 'gaussian' is kinder to targets of a few pixels"
    )
    gaussian_scale: float = Field(12.8, gt=0, description="boxes: px at which 'gaussian' falls to 1/e")

    @model_validator(mode="after")
    def _some(self) -> LossConfig:
        if (
            not self.soft_iou + self.bce + self.edge_hard + self.focal
            or not self.box + self.objectness + self.classification
        ):
            raise ValueError("every loss weight is 0")
        return self


class TrainConfig(Section):
    """The training loop."""

    epochs: int = Field(100, ge=1)
    epoch_share: float = Field(
        1.0, gt=0, le=1, description="an epoch stops after this share of its steps: .2 in the code of SSTNet and others"
    )
    batch: int = Field(8, ge=1, description="key frames in one step over all workers")
    hours: float | None = Field(
        None, gt=0, description="stop after the epoch (or a validation within it) in which so many have passed"
    )
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    lr: float = Field(5e-4, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1, description="of sgd, Nesterov's")
    weight_decay: float = Field(1e-2, ge=0)
    decayed: Literal["all", "kernels"] = Field(
        "all",
        description="what it acts on; 'kernels': not on biases, normalisations and single weights, as YOLOX has it",
    )
    schedule: Literal["constant", "cosine", "yolox", "step"] = Field(
        "cosine", description="of the rate, by step; 'yolox': quadratic warm-up, cosine, a flat end"
    )
    rate_by: Literal["step", "epoch"] = Field(
        "step", description="'epoch': the rate stays through an epoch, as SSTNet's code has it"
    )
    floor: float | None = Field(
        None, ge=0, le=1, description="share of lr at which cosine and yolox end; none: .01 and .05"
    )
    warmup: int = Field(0, ge=0, description="steps of warm-up")
    warmup_epochs: float | None = Field(None, ge=0, description="epochs of it, in place of warmup")
    warmup_from: float | None = Field(
        None, ge=0, lt=1, description="share of lr in the first step; none: as if the step before had had 0"
    )
    milestones: list[float] = Field(
        [0.6, 0.85], description="shares of the training after which 'step' lowers the rate"
    )
    gamma: float = Field(0.1, gt=0, lt=1, description="by which 'step' multiplies it")
    accumulate: int = Field(1, ge=1, description="parts of a step's batch that go through the network one by one")
    precision: Literal["float32", "bf16"] = Field(
        "float32",
        description="bf16: of the layers that bear it; first convolutions, gradient map and losses stay float32",
    )
    compile: bool = Field(False, description="the network as torch.compile makes it; the first steps take minutes")
    init: str | None = Field(
        None, description="weights to start from: a model package, or a file of irstd weights import"
    )
    clip: float | None = Field(None, gt=0, description="largest gradient norm")
    ema: float = Field(0.0, ge=0, lt=1, description="decay of the averaged weights; 0: off")
    ema_ramp: float | None = Field(
        None,
        gt=0,
        description="it rises as 1 - exp(-n / this) over n steps, YOLOX's has 2000; none: n / (n + 10), faster",
    )
    loss: LossConfig = LossConfig()
    val_every: int = Field(1, ge=1, description="epochs between validations")
    val_steps: int | None = Field(None, ge=1, description="steps between them, in place of val_every")
    checkpoint_every: int | None = Field(
        None,
        ge=1,
        description="validations between checkpoints; none: as often as costs at most 1 % of the steps' time",
    )
    keep_every: int | None = Field(None, ge=1, description="epochs between weights that are kept beside the run")
    keep: int | None = Field(None, ge=1, description="how many of these, the newest; none: all")
    patience: int | None = Field(None, ge=1, description="stop after so many validations without a better one")
    channels_last: bool = True
    sync_batch_norm: bool = Field(
        False, description="batch statistics over all workers' key frames, on GPUs; else each worker has its own"
    )
    activation_checkpointing: bool = Field(
        False, description="compute large activations again in the backward pass: less memory, more time, the same bits"
    )
    seed: int = Field(0, ge=0, lt=2**31)
    quick: bool = Field(False, description="marks a run as the quick test of a recipe; --quick sets it")

    @model_validator(mode="after")
    def _sense(self) -> TrainConfig:
        if self.batch % self.accumulate:
            raise ValueError(f"train.batch={self.batch} does not divide into train.accumulate={self.accumulate} parts")
        for name, value, idle, why in (
            ("momentum", self.momentum, self.optimizer != "sgd", f"optimizer={self.optimizer}"),
            ("floor", self.floor, self.schedule not in ("cosine", "yolox"), f"schedule={self.schedule}"),
            ("ema_ramp", self.ema_ramp, not self.ema, "ema=0"),
            ("warmup_from", self.warmup_from, not (self.warmup or self.warmup_epochs), "no warm-up"),
            ("warmup_epochs", self.warmup_epochs, self.warmup > 0, f"warmup={self.warmup}"),
        ):
            if idle and value != type(self).model_fields[name].default:
                raise ValueError(f"train.{name}={value} decides nothing with {why}; remove one of them")
        if self.compile and self.activation_checkpointing:
            raise ValueError(
                "train.compile=true does not go with train.activation_checkpointing=true, whose batch statistics "
                "torch.compile cannot follow; choose one"
            )
        if self.milestones != sorted(self.milestones) or not all(0 < share < 1 for share in self.milestones):
            raise ValueError(
                f"train.milestones={self.milestones}: give shares of the training, rising, between 0 and 1"
            )
        return self
