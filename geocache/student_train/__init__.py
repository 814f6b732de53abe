"""Train students from a cache: losses, loader, trainer, evaluation, recipes, reports."""

from geocache.student_train.evaluate import evaluate, evaluate_run, load_student
from geocache.student_train.loop import TrainResult, train
from geocache.student_train.losses import Loss, build_loss, loss_names
from geocache.student_train.measure import Evaluation
from geocache.student_train.metrics import read_records
from geocache.student_train.progress import Progress
from geocache.student_train.recipe import Recipe, required_targets
from geocache.student_train.recipe_file import load_recipe, parse_recipe
from geocache.student_train.report import plot_runs
from geocache.student_train.source import ArraySource, Source, dataset_source
from geocache.student_train.stream import Batch, Loader

__all__ = [
    "ArraySource",
    "Batch",
    "Evaluation",
    "Loader",
    "Loss",
    "Progress",
    "Recipe",
    "Source",
    "TrainResult",
    "build_loss",
    "dataset_source",
    "evaluate",
    "evaluate_run",
    "load_recipe",
    "load_student",
    "loss_names",
    "parse_recipe",
    "plot_runs",
    "read_records",
    "required_targets",
    "train",
]
