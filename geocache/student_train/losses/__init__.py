"""Losses, one a module; the module's name is the registered name."""

from geocache.student_train.losses._base import Loss, full_precision
from geocache.student_train.losses._registry import build_loss, loss_names, loss_options

__all__ = ["Loss", "build_loss", "full_precision", "loss_names", "loss_options"]
