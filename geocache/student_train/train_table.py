"""The recipe's [train] table: how a student is trained, each key validated by itself and together.

The defaults are plain SGD in float32 on one device; every other key is opt-in and, left out,
changes no bit of the result.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

__all__ = ["TrainTable"]


class TrainTable(BaseModel):
    """How the student is trained."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    epochs: int = Field(default=30, ge=1)
    batch_size: int = Field(default=128, ge=1)
    optimizer: Literal["sgd", "adam"] = "sgd"
    lr: float = Field(default=0.01, gt=0, le=1e38)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    nesterov: bool = False
    weight_decay: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    lr_schedule: Literal["step", "cosine", "one_cycle", "constant"] = "step"
    milestones: tuple[int, ...] = ()
    gamma: float = Field(default=0.1, gt=0, le=1)
    warmup_epochs: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    lr_min: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    clip_norm: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    accumulate: int = Field(default=1, ge=1)
    ema: float | None = Field(default=None, gt=0, lt=1)
    precision: Literal["float32", "bf16", "fp16"] = "float32"
    channels_last: bool = False
    compile: bool = False
    deterministic: bool = False
    seed: int = Field(default=0, ge=0)
    select: Literal["validation", "test", "loss"] = "validation"
    validation: float = Field(default=0.05, gt=0, lt=1)
    eval_every: int = Field(default=1, ge=1)
    save_every: int | None = Field(default=None, ge=1)
    calibration_batches: int = Field(default=8, ge=1)
    tensorboard: bool = False
    device: str = Field(default="auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")
    devices: int = Field(default=1, ge=1)
    threads: int | None = Field(default=None, ge=1)

    @field_validator("milestones")
    @classmethod
    def _milestones_rise(cls, milestones: tuple[int, ...]) -> tuple[int, ...]:
        if any(b <= a for a, b in zip((0, *milestones), milestones, strict=False)):
            raise ValueError("rising numbers of epochs, from 1 up")
        return milestones

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> TrainTable:
        if self.nesterov and (self.optimizer != "sgd" or self.momentum == 0):
            raise ValueError("nesterov only with optimizer 'sgd' and a momentum above 0")
        return self

    @model_validator(mode="after")
    def _schedule_has_its_keys_alone(self) -> TrainTable:
        if self.milestones and self.lr_schedule != "step":
            raise ValueError(f"milestones only with lr_schedule 'step', not '{self.lr_schedule}'")
        if self.lr_min and (self.lr_schedule != "cosine" or self.lr_min >= self.lr):
            raise ValueError("lr_min only with lr_schedule 'cosine', and below lr")
        if self.warmup_epochs and self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs below its epochs, {self.epochs}")
        return self

    @model_validator(mode="after")
    def _several_devices_are_counted(self) -> TrainTable:
        if self.devices > 1 and (self.device == "mps" or ":" in self.device):
            raise ValueError("device 'auto', 'cpu' or 'cuda' with several devices")
        if self.devices > 1 and self.save_every is not None:
            raise ValueError("save_every only with devices = 1")
        if self.devices > self.batch_size:
            raise ValueError(f"a batch_size of at least its devices, {self.devices}")
        return self
