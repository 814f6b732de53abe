"""Recipes: what they mean, and that whatever is wrong is said in one line with its place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from geocache.errors import ConfigError, GeocacheError, UnknownNameError
from geocache.student_train import Recipe, load_recipe, parse_recipe, required_targets
from geocache.student_train.recipe_file import apply_overrides
from geocache.targets import parse_target, target_from_name

TOML = """
[data]
dataset = "imagefolder"
root = "pictures"
[teacher]
model = "resnet20"
weights = "r20.th"
[student]
model = "simple_cnn"
[[loss]]
name = "cross_entropy"
[[loss]]
name = "affinity_contrast"
student = "conv3"
teacher = "layer3"
radius = 5
share = 0.5
[[loss]]
name = "affinity_contrast"
student = "conv3"
teacher = "teacher/layer3"
k = 16
[[loss]]
name = "distillation"
temperature = 6.0
[train]
epochs = 120
milestones = [40, 80]
"""


def _write(folder: Path, text: str = TOML) -> Path:
    path = folder / "r.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_recipe_says_which_targets_to_build(tmp_path: Path) -> None:
    recipe = load_recipe(_write(tmp_path))
    assert required_targets(recipe) == {
        "teacher": (
            "layer3/mst", "layer3/affinity.r5", "layer3/knn.k16", "layer3/affinity.k16", "logits",
        )
    }  # fmt: skip
    assert recipe.term_labels() == (
        "cross_entropy", "affinity_contrast@conv3", "affinity_contrast@conv3#2", "distillation",
    )  # fmt: skip
    assert recipe.build_command() == f"geocache build {tmp_path / 'r.toml'}"
    assert recipe.loss[1].options == {"radius": 5}


def test_a_grid_for_smaller_students_goes_into_the_targets_name(tmp_path: Path) -> None:
    text = TOML.replace('name = "affinity_contrast"', 'name = "neuron_selectivity"', 1)
    text = text.replace("radius = 5", "grid = [4, 8]")
    (name, *_) = required_targets(load_recipe(_write(tmp_path, text)))["teacher"]
    assert name == "layer3/gram.g4x8"
    assert parse_target("gram:grid=4x8@layer3")[0] == target_from_name(name)


def test_cross_entropy_alone_needs_no_teacher_and_no_targets(tables: dict[str, Any]) -> None:
    del tables["teacher"]
    tables["loss"] = [{"name": "cross_entropy"}]
    assert required_targets(parse_recipe(tables)) == {}


def test_a_recipe_survives_json(recipe: Recipe) -> None:
    again = Recipe.model_validate_json(recipe.model_dump_json())
    assert again == recipe
    assert json.loads(recipe.model_dump_json())["loss"][1]["options"] == {"temperature": 2.0}


def test_paths_mean_the_recipes_folder_then_the_current_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, here = tmp_path / "home", tmp_path / "here"
    for folder in (home / "pictures", here / "pictures", here):
        folder.mkdir(parents=True, exist_ok=True)
    (here / "r20.th").touch()
    monkeypatch.chdir(here)
    recipe = load_recipe(_write(home))
    assert recipe.data.root == str(home / "pictures")
    assert recipe.teacher[0].weights == str(here / "r20.th")
    (here / "r20.th").unlink()
    assert load_recipe(_write(home)).teacher[0].weights == str(home / "r20.th")
    text = TOML.replace('"imagefolder"', '"imagefolder:pictures"')
    assert load_recipe(_write(home, text)).data.dataset == f"imagefolder:{home / 'pictures'}"


def test_overrides_are_toml_values(tmp_path: Path) -> None:
    recipe = load_recipe(
        _write(tmp_path),
        ["train.epochs=5", "train.optimizer=adam", "train.milestones=[1, 2]", "loss.1.share=0.25",
         'loss.3={name = "cross_entropy"}', "data.views.count=1", "student.options.width = 3"],
    )  # fmt: skip
    assert recipe.train.epochs == 5 and recipe.train.optimizer == "adam"
    assert recipe.train.milestones == (1, 2)
    assert recipe.loss[1].share == 0.25 and recipe.loss[3].name == "cross_entropy"
    assert recipe.student.options == {"width": 3}


def test_overrides_leave_the_tables_alone() -> None:
    tables = {"loss": [{"name": "x"}]}
    assert apply_overrides(tables, ["loss.0.name=y"]) == {"loss": [{"name": "y"}]}
    assert tables == {"loss": [{"name": "x"}]}


@pytest.mark.parametrize(("override", "message"), [
    ("train.epochs", "must have the form table.key=value, got 'train.epochs'"),
    ("loss.9.weight=1", "got '9' where there is 0 to 3"),
    ("loss.first.weight=1", "got 'first' where there is 0 to 3"),
    ("train.epochs.more=1", "got 'epochs', a value"),
    ("train.epoch=1", r"got 'epoch' \(\[train\] of .*r.toml\). Did you mean 'epochs'\?"),
])  # fmt: skip
def test_bad_overrides_are_refused(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(GeocacheError, match=message):
        load_recipe(_write(tmp_path), [override])


def _with(tables: dict[str, Any], place: str, value: Any) -> dict[str, Any]:
    *parts, key = place.split(".")
    table: Any = tables
    for part in parts:
        table = table[int(part)] if part.isdigit() else table.setdefault(part, {})
    table[int(key) if key.isdigit() else key] = value
    return tables


BAD = [
    ("trian", {}, UnknownNameError, r"got 'trian' \(recipe\). Did you mean 'train'\?"),
    ("train.epoch", 3, UnknownNameError, r"\(\[train\] of recipe\). Did you mean 'epochs'\?"),
    ("train.epochs", "many", ConfigError, "'epochs' must be a valid integer.*got 'many'"),
    ("train.lr", -1, ConfigError, "'lr' must be greater than 0, got -1"),
    ("train.optimizer", "sdg", ConfigError, "'optimizer' must be 'sgd' or 'adam', got 'sdg'"),
    ("train.milestones", [4, 2], ConfigError, "'milestones' must be rising numbers of epochs"),
    ("train.milestones", [1, "x"], ConfigError, "'milestones' must be a valid integer.*got 'x'"),
    ("train.validation", 1.0, ConfigError, "'validation' must be less than 1"),
    ("train.device", "gpu", ConfigError, "'device' must"),
    ("train.lr_schedule", "cosin", ConfigError, "'lr_schedule' must be 'step', 'cosine', 'one_c"),
    ("train.lr_schedule", "cosine", ConfigError, "milestones only with lr_schedule 'step', not 'c"),
    ("train.lr_min", 0.001, ConfigError, "lr_min only with lr_schedule 'cosine'"),
    ("train.warmup_epochs", 4, ConfigError, "warmup_epochs below its epochs, 4"),
    ("train.precision", "bf61", ConfigError, "'precision' must be 'float32', 'bf16' or 'fp16'"),
    ("train.clip_norm", 0, ConfigError, "'clip_norm' must be greater than 0"),
    ("train.accumulate", 0, ConfigError, "'accumulate' must be greater than or equal to 1"),
    ("train.ema", 1.0, ConfigError, "'ema' must be less than 1"),
    ("train.save_every", 0, ConfigError, "'save_every' must be greater than or equal to 1"),
    ("train.devices", 17, ConfigError, "a batch_size of at least its devices, 17"),
    ("train.select", "train", ConfigError, "'select' must be 'validation', 'test' or 'loss'"),
    ("train.devices", [2], ConfigError, "'devices' must be a valid integer"),
    ("data.fraction", 1.5, ConfigError, "'fraction' must be less than or equal to 1"),
    ("loss.0.label_smoothing", 1.0, ConfigError, "label_smoothing must be at least 0 and below 1"),
    ("data.size", "big", ConfigError, "'size' must be"),
    ("data.size", 0, ConfigError, "'size' must be a positive number of pixels"),
    ("data.views", {"policy": "crop_flop"}, UnknownNameError, "'crop_flop'. Did you mean 'crop_f"),
    ("data.views", {"count": 4}, ConfigError, r"must be 1 with policy 'identity'.*\(recipe\)"),
    ("data.views", {"count": 0}, ConfigError, r"'count' must be .* \(\[data.views\] of recipe\)"),
    ("data.views", {"policy": "flip", "pad": 4}, UnknownNameError, "among none, got 'pad'"),
    ("data.dataset", "cifar", UnknownNameError, "data.dataset must be one of .*got 'cifar'"),
    ("teacher.modle", "x", UnknownNameError, r"\[teacher\].*Did you mean 'model'\?"),
    ("teacher.model", "resnet21", UnknownNameError, "model must.*got 'resnet21'. Did you mean 're"),
    ("teacher.std", [1, 1, 0], ConfigError, "'std' must be three positive numbers"),
    ("teacher.std", [1, 1], ConfigError, "'std' must be a list of more values, got"),
    ("student.model", "simple_cn", UnknownNameError, r"Did you mean 'simple_cnn'\?"),
    ("student", {}, ConfigError, r"must have 'model', got none \(\[student\] of recipe\)"),
    ("student.mean", [0, 0, 0], ConfigError, r"\[student\] must not have mean or std"),
    ("loss", [], ConfigError, "'loss' must"),
    ("loss.0.name", "cros_entropy", UnknownNameError, r"Did you mean 'cross_entropy'\?"),
    ("loss.1.temprature", 3, UnknownNameError, r"\[\[loss\]\] 2.*Did you mean 'temperature'\?"),
    ("loss.1.wieght", 3, UnknownNameError, r"\[\[loss\]\] 2.*Did you mean 'weight'\?"),
    ("loss.1.weight", -3, ConfigError, r"'weight' must be .*got -3 \(\[loss\] 2 of recipe\)"),
    ("loss.1.temperature", "hot", ConfigError, "temperature must be a valid number.*got 'hot'"),
    ("loss.1.temperature", -1.0, ConfigError, "temperature must be a positive number, got -1.0"),
    ("loss.1.share", 1.0, ConfigError, "must have weight or share, got both"),
    ("loss.1.student", "block2", ConfigError, "must not name a layer, got student = 'block2'"),
    ("loss.1.teacher", "layer2", UnknownNameError, r"name a \[teacher\].*got 'layer2'"),
    ("loss.0.share", 1.0, ConfigError, "shares are measured against cross-entropy"),
    ("loss.2.k", 3, ConfigError, "exactly one of radius"),
    ("loss.2.student", None, ConfigError, "must name the layers it compares"),
    ("loss.2.teacher", "other/layer2", UnknownNameError, "got 'other'"),
    ("teacher", [{"model": "resnet20", "name": "a"}, {"model": "resnet20", "name": "a"}],
     ConfigError, r"must have different names, got 'a' twice"),
    ("teacher", [{"model": "resnet20", "name": "a"}, {"model": "resnet20", "name": "b"}],
     ConfigError, r"must say whose answers it compares with, got 2 \[teacher\] tables"),
    ("teacher", [], ConfigError, r"must have a teacher, got a recipe without \[teacher\]"),
]  # fmt: skip


@pytest.mark.parametrize(("place", "value", "kind", "message"), BAD, ids=[str(b[0]) for b in BAD])
def test_whatever_is_wrong_is_one_line_with_its_place(
    tables: dict[str, Any], place: str, value: Any, kind: type[GeocacheError], message: str
) -> None:
    with pytest.raises(kind, match=message) as caught:
        parse_recipe(_with(tables, place, value))
    assert "\n" not in str(caught.value) and "recipe" in str(caught.value)


@pytest.mark.parametrize("name", ["pkt", "metric_transfer", "hybrid_kernel", "contrastive"])
def test_losses_between_rows_refuse_several_devices(tables: dict[str, Any], name: str) -> None:
    tables["loss"].append({"name": name, "student": "block2", "teacher": "layer2"})
    parse_recipe(tables)
    tables["train"]["devices"] = 2
    with pytest.raises(ConfigError, match=r"\[\[loss\]\] 4, .* must have one device, got .* = 2"):
        parse_recipe(tables)


def test_files_that_are_no_recipe(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"readable file, got '.*none.toml': No such file"):
        load_recipe(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match=r"valid TOML, got: .*line 2"):
        load_recipe(_write(tmp_path, "[data]\ndataset = \n"))
    (tmp_path / "r.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="UTF-8"):
        load_recipe(tmp_path / "r.toml")


def test_a_teacher_is_a_network_or_the_cache_of_imported_targets(tmp_path: Path) -> None:
    text = TOML.replace('model = "resnet20"\nweights = "r20.th"\n', 'cache = "0123abcd"\n')
    recipe = load_recipe(_write(tmp_path, text))
    assert recipe.teacher[0].model is None
    assert "geocache import FILE --cache 0123abcd" in recipe.build_command()
    for teacher, words in (
        ("", "must have a model, or the cache of imported targets"),
        ('cache = "0123abcd"\nweights = "r20.th"\n', "must have a model beside weights"),
    ):
        changed = TOML.replace('model = "resnet20"\nweights = "r20.th"\n', teacher)
        with pytest.raises(ConfigError, match=words):
            load_recipe(_write(tmp_path, changed))


def test_views_stand_in_the_recipe(tables: dict[str, Any]) -> None:
    tables["data"]["views"] = {"policy": "crop_flip", "pad": 2, "count": 4, "seed": 7}
    views = parse_recipe(tables).data.views
    assert (views.count, views.offset, views.build().policy.configuration) == (4, 0, {"pad": 2})
    assert views.build().identity().parameters == {"pad": 2, "seed": 7}
