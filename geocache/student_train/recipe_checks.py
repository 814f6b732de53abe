"""What the tables of a recipe say about each other, and the names they use: held before it runs."""

from __future__ import annotations

from geocache.data.datasets import dataset_names
from geocache.data.views import CELL_ROWS
from geocache.errors import ConfigError, UnknownNameError, nearest
from geocache.models import model_names
from geocache.student_train.losses import loss_options
from geocache.student_train.recipe import LossTable, Recipe, required_targets

__all__ = ["check_recipe"]

_OWN = ("binary", "values")


def check_recipe(recipe: Recipe) -> None:
    """Raise ConfigError or UnknownNameError for what cannot run, in one line, without a file."""
    _check_names(recipe)
    _check_terms(recipe)
    _check_labels(recipe)
    _check_mixing(recipe)
    required_targets(recipe)


def _check_names(recipe: Recipe) -> None:
    _known(recipe.data.dataset, dataset_names(), "data.dataset")
    _known(recipe.student.model, model_names(), "student.model")
    recipe.data.views.build()
    for teacher in recipe.teacher:
        if teacher.model is not None:
            _known(teacher.model, model_names(), f"[teacher] '{teacher.name}' model")
        elif teacher.cache is None:
            raise ConfigError(
                f"[teacher] '{teacher.name}' must have a model, or the cache of imported targets, "
                "got neither. Write model = 'NAME', or cache = 'KEY'."
            )
        elif teacher.weights or teacher.options or teacher.n_classes:
            raise ConfigError(
                f"[teacher] '{teacher.name}' must have a model beside weights, options or "
                "n_classes, got none. Add it, or leave the cache alone."
            )
    names = [teacher.name for teacher in recipe.teacher]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(
            f"[[teacher]] tables must have different names, got '{twice}' twice. Give each a name."
        )
    if recipe.teacher and (recipe.student.mean or recipe.student.std):
        raise ConfigError(
            "[student] must not have mean or std beside a [teacher], whose normalisation the "
            "student shares. Remove them."
        )


def _known(name: str, known: tuple[str, ...], kind: str) -> None:
    if ":" not in name and name not in known:
        raise UnknownNameError(
            f"{kind} must be one of {', '.join(known)} or MODULE:CALLABLE, got '{name}'."
            f"{nearest(name, known)}"
        )


def _check_terms(recipe: Recipe) -> None:
    names = tuple(teacher.name for teacher in recipe.teacher)
    for number, term in enumerate(recipe.loss, 1):
        place = f"[[loss]] {number}, '{term.name}'"
        own = tuple(key for key in LossTable.model_fields if key != "options")
        known = (*own, *loss_options(term.name))
        for key in term.options:
            if key not in known:
                raise UnknownNameError(
                    f"{place} must have keys among {', '.join(known)}, got '{key}'."
                    f"{nearest(key, known)}"
                )
        loss = term.build()
        if term.weight is not None and term.share is not None:
            raise ConfigError(f"{place} must have weight or share, got both. Remove one.")
        if term.share is not None and (term.name == "cross_entropy" or loss.reads_labels in _OWN):
            raise ConfigError(
                f"{place} must have a weight, got share = {term.share}: shares are measured "
                "against cross-entropy itself, or the loss of own labels. Write weight instead."
            )
        if loss.needs_layer and not loss.targets() and term.student and not term.teacher:
            continue  # it looks at the student and the labels alone
        if loss.needs_layer and not (term.student and term.teacher):
            raise ConfigError(
                f"{place} must name the layers it compares, got student = {term.student!r} and "
                f"teacher = {term.teacher!r}. `geocache layers MODEL` lists them."
            )
        if recipe.train.devices > 1 and not loss.row_by_row:
            raise ConfigError(
                f"{place} must have one device, got train.devices = {recipe.train.devices}: it "
                "compares the rows of a batch with each other, and each device would see a part."
            )
        if not loss.needs_layer and term.student is not None:
            raise ConfigError(
                f"{place} must not name a layer, got student = '{term.student}': it compares "
                "logits. Remove it."
            )
        teacher, layer = term.teacher_layer()
        if loss.targets(layer) and not names:
            raise ConfigError(
                f"{place} must have a teacher, got a recipe without [teacher]. Add it."
            )
        if teacher is not None and teacher not in names:
            raise UnknownNameError(
                f"{place} must name a [teacher] of this recipe ({', '.join(names) or 'none'}), "
                f"got '{teacher}'.{nearest(teacher, names)}"
            )


def _check_mixing(recipe: Recipe) -> None:
    """Refuse what cannot go with views that mix two images."""
    data, policy = recipe.data, recipe.data.views.policy
    if recipe.data.views.build().mixing is None:
        return
    for term in recipe.loss:
        loss = term.build()
        if loss.reads_labels == "class" and not loss.reads_both_labels:
            raise ConfigError(
                f"loss '{term.name}' must have one class an image, got views by '{policy}', which "
                "mix two. Leave the loss out, or take views that show one image."
            )
    if data.fraction is not None:
        raise ConfigError(
            f"data.fraction must not stand beside views by '{policy}', got {data.fraction}: images "
            "outside the fraction would be mixed in. Build a data set of that fraction."
        )
    if data.limit is not None and data.limit % CELL_ROWS:
        raise ConfigError(
            f"data.limit must be a multiple of {CELL_ROWS} beside views by '{policy}', which mix "
            f"rows of such cells, got {data.limit}. "
            f"Take {-(-data.limit // CELL_ROWS) * CELL_ROWS}."
        )


def _check_labels(recipe: Recipe) -> None:
    kinds = {term.name: term.build().reads_labels for term in recipe.loss}
    own = [name for name, kind in kinds.items() if kind in _OWN]
    if recipe.data.labels is None:
        if own:
            raise ConfigError(
                f"data.labels must name a .npy file for loss '{own[0]}', got none. Add it."
            )
        return
    if not own or len({kinds[name] for name in own}) > 1 or "class" in kinds.values():
        raise ConfigError(
            "data.labels must go with losses of one kind of own labels, binary_cross_entropy or "
            f"mean_squared_error, and none of classes, got {', '.join(kinds)}."
        )
