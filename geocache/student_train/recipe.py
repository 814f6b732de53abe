"""What a training is: the tables of a recipe, validated whole before anything runs.

A recipe is data. It says which targets a cache must hold (`required_targets`), so that `build`
stores those and no more, and it is what a checkpoint remembers of how a student came about.
Reading the file is `recipe_file`'s part.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    field_validator,
    model_validator,
)

from geocache.data.views import ViewSet, build_policy
from geocache.errors import ConfigError
from geocache.student_train.losses import Loss, build_loss
from geocache.student_train.schedules import WeightSchedule
from geocache.student_train.train_table import TrainTable

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "DataTable",
    "LossTable",
    "Recipe",
    "StudentTable",
    "TeacherTable",
    "TrainTable",
    "ViewsTable",
    "required_targets",
    "target_names",
]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Channels = tuple[float, float, float]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


def _with_options(model: type[BaseModel], table: Any) -> Any:
    """Move the keys that are no fields of the table's into its `options`."""
    if not isinstance(table, dict):
        return table
    own = {key: table[key] for key in table if key in model.model_fields and key != "options"}
    rest = {key: table[key] for key in table if key not in model.model_fields}
    return {**own, "options": {**table.get("options", {}), **rest}}


class ViewsTable(_Table):
    """Augmentation that teacher and student see alike: a policy, its options, how many views.

    Epoch e uses view `(e + offset) mod count`; without a teacher every epoch draws a new one.
    """

    policy: str = "identity"
    count: int = Field(default=1, ge=1)
    seed: int = Field(default=0, ge=0, lt=2**63)
    offset: int = Field(default=0, ge=0)
    options: dict[str, Any] = {}

    @model_validator(mode="before")
    @classmethod
    def _gather_options(cls, table: Any) -> Any:
        """Take the keys that are not the table's own for options of the policy."""
        return _with_options(cls, table)

    def build(self) -> ViewSet:
        """Return the views. Raises UnknownNameError and ConfigError as `build_policy` does."""
        return ViewSet(build_policy(self.policy, self.options), self.seed, self.count)


class DataTable(_Table):
    """Which images: a data set, its splits, its size, and how many rows of it."""

    dataset: str
    root: str | None = None
    split: str = "train"
    eval_split: str | None = "test"
    size: int | tuple[int, int] | None = None
    limit: int | None = Field(default=None, ge=1)
    fraction: float | None = Field(default=None, gt=0, le=1)
    subset_seed: int = Field(default=0, ge=0)
    labels: str | None = None
    eval_labels: str | None = None
    mode: Literal["auto", "resident", "stream"] = "auto"
    memory: int | str | None = None
    buffer_rows: int | None = Field(default=None, ge=1)
    views: ViewsTable = ViewsTable()
    options: dict[str, Any] = {}

    @field_validator("size")
    @classmethod
    def _size_positive(cls, size: int | tuple[int, int] | None) -> int | tuple[int, int] | None:
        if size is not None and min(size if isinstance(size, tuple) else (size,)) < 1:
            raise ValueError("a positive number of pixels or [height, width]")
        return size

    def image_size(self) -> tuple[int, int] | None:
        """Return (height, width) in pixels, or None where images keep their own size."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size


class _Normalised(_Table):
    @field_validator("std", check_fields=False)
    @classmethod
    def _std_positive(cls, std: Channels | None) -> Channels | None:
        if std is not None and min(std) <= 0:
            raise ValueError("three positive numbers, on the scale of pixels from 0 to 1")
        return std


class TeacherTable(_Normalised):
    """Whose answers: a network, its weights, and the normalisation it was trained with.

    Where `cache` names them, as for imported targets, the network may be left out.
    """

    name: str = Field(default="teacher", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    model: str | None = None
    weights: str | None = None
    mean: Channels = IMAGENET_MEAN
    std: Channels = IMAGENET_STD
    n_classes: int | None = Field(default=None, ge=1)
    cache: str | None = None
    options: dict[str, Any] = {}


class StudentTable(_Normalised):
    """Which network learns; mean and std only in a recipe without a teacher."""

    model: str
    options: dict[str, Any] = {}
    weights: str | None = None
    seed: int | None = Field(default=None, ge=0)
    mean: Channels | None = None
    std: Channels | None = None


class ScheduleTable(_Table):
    """How a term's weight changes over the epochs."""

    kind: Literal["constant", "exponential", "step", "warmup"] = "constant"
    gamma: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    milestones: tuple[int, ...] = ()
    epochs: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _has_what_its_kind_needs(self) -> ScheduleTable:
        needed = {"exponential": {"gamma"}, "step": {"gamma", "milestones"}, "warmup": {"epochs"}}
        given = {name for name in ("gamma", "milestones", "epochs") if getattr(self, name)}
        if given != needed.get(self.kind, set()):
            names = ", ".join(sorted(needed.get(self.kind, set()))) or "nothing"
            raise ValueError(f"kind '{self.kind}' with {names} beside it")
        return self

    def build(self) -> WeightSchedule:
        """Return the schedule itself."""
        return WeightSchedule(self.kind, self.gamma or 1.0, self.milestones, self.epochs or 1)


class LossTable(_Table):
    """One term of the total loss: a loss, its options, its layers and its weight."""

    name: str
    student: str | None = None
    teacher: str | None = None
    weight: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    share: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    schedule: ScheduleTable = ScheduleTable()
    options: dict[str, Any] = {}

    @model_validator(mode="before")
    @classmethod
    def _gather_options(cls, table: Any) -> Any:
        """Take the keys that are not a term's own for options of its loss."""
        return _with_options(cls, table)

    def build(self) -> Loss:
        """Return the loss itself. Raises UnknownNameError and ConfigError as `build_loss` does."""
        return build_loss(self.name, self.options)

    def teacher_layer(self) -> tuple[str | None, str | None]:
        """Split `teacher` into (the teacher's name, the layer), each None where not given."""
        if self.teacher is None:
            return None, None
        name, slash, layer = self.teacher.rpartition("/")
        if self.build().needs_layer:
            return (name if slash else None), layer
        return self.teacher, None

    def compares_with(self, teachers: tuple[str, ...]) -> str | None:
        """Return where a batch holds what the term compares with: a layer, a teacher, or both.

        With one teacher that is the layer; with several, `NAME/LAYER`, or `NAME` for logits.
        """
        name, layer = self.teacher_layer()
        if len(teachers) < 2 or not self.build().targets(layer):
            return layer
        return "/".join(part for part in (name, layer) if part)


class Recipe(_Table):
    """Everything that decides a training; `recipe_file.load_recipe` reads one from TOML."""

    data: DataTable
    teacher: tuple[TeacherTable, ...] = ()
    student: StudentTable
    loss: tuple[LossTable, ...] = Field(min_length=1)
    train: TrainTable = TrainTable()
    _path: str | None = PrivateAttr(default=None)

    @field_validator("teacher", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return [value] if isinstance(value, dict) else value

    def build_command(self) -> str:
        """Return the command that completes the caches this recipe needs.

        What a teacher without a model lacks has to be imported; then both commands are named.
        """
        commands = [
            f"geocache import FILE --cache {teacher.cache} --target KIND@LAYER"
            for teacher in self.teacher
            if teacher.model is None
        ]
        if not commands or len(commands) < len(self.teacher):
            commands.insert(0, f"geocache build {self._path or 'RECIPE.toml'}")
        return "` or `".join(commands)

    def term_labels(self) -> tuple[str, ...]:
        """Name each loss term for logs: its loss, `@` its student layer, `#2` for a second one."""
        labels: list[str] = []
        for term in self.loss:
            label = f"{term.name}@{term.student}" if term.student else term.name
            count = sum(known.split("#")[0] == label for known in labels)
            labels.append(f"{label}#{count + 1}" if count else label)
        return tuple(labels)

    def normalisation(self) -> tuple[Channels, Channels]:
        """Return the mean and std that images are normalised with: the (first) teacher's."""
        if self.teacher:
            return self.teacher[0].mean, self.teacher[0].std
        return self.student.mean or IMAGENET_MEAN, self.student.std or IMAGENET_STD


def target_names(recipe: Recipe) -> tuple[str, ...]:
    """Return the names that training reads; with several teachers they are `NAME/TARGET`."""
    required = required_targets(recipe)
    if len(required) == 1:
        return next(iter(required.values()))
    return tuple(f"{teacher}/{name}" for teacher, names in required.items() for name in names)


def required_targets(recipe: Recipe) -> dict[str, tuple[str, ...]]:
    """Return, for each teacher's name, the cache's targets that the recipe's losses need.

    The names are the cache's own (`logits`, `layer2/mst`), each once, in the order of the losses.
    """
    needed: dict[str, list[str]] = {teacher.name: [] for teacher in recipe.teacher}
    for term in recipe.loss:
        name, layer = term.teacher_layer()
        targets = term.build().targets(layer)
        if not targets:
            continue
        if name is None and len(needed) != 1:
            raise ConfigError(
                f"loss '{term.name}' must say whose answers it compares with, got "
                f"{len(needed)} [teacher] tables. Write teacher = 'NAME' or 'NAME/LAYER'."
            )
        of_teacher = needed[name or next(iter(needed))]
        of_teacher.extend(target for target in targets if target not in of_teacher)
    return {name: tuple(targets) for name, targets in needed.items()}
