"""`geocache train` and `eval`: find the cache, train, say what is missing."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import users_own

import geocache
from geocache.data.catalog import list_caches
from geocache.demo import SETTING, run_demo


def test_a_missing_cache_names_the_command_that_builds_it(run: Any, recipe: Path) -> None:
    """Running just that command, then the same training again, works."""
    train = ("train", recipe, "--set", "train.epochs=1")
    refused = run(*train)
    assert refused.code == 1
    command = refused.error.split("`")[1]
    assert command == f"geocache build {recipe} --set train.epochs=1"
    assert run(*command.split()[1:], "--executor", "serial").code == 0
    trained = run(*train)
    assert trained.code == 0 and "last" in trained.out
    names = {"best.pt", "confusion.csv", "curves.png", "last.pt", "metrics.csv", "metrics.jsonl",
             "recipe.json"}  # fmt: skip
    assert {path.name for path in Path("runs/small").iterdir()} == names


def test_a_missing_target_names_the_command_and_the_target(run: Any, recipe: Path) -> None:
    """A change of the recipe that needs more targets appears in the command."""
    run("build", recipe, "--executor", "serial")
    refused = run("train", recipe, "--set", "loss.1.radius=3", "--out", "other")
    assert refused.code == 1 and "but layer2/affinity.r3 is missing" in refused.error
    assert f"`geocache build {recipe} --set loss.1.radius=3`" in refused.error
    more = run("train", recipe, "--set", "data.limit=70", "--out", "other")
    assert more.code == 1 and "for 70 rows" in more.error


def test_building_resuming_and_evaluating(run: Any, recipe: Path, tmp_path: Path) -> None:
    """`--build` trains from nothing; the run is kept from overwriting, resumed, evaluated."""
    first = run("train", recipe, "--build", "--json")
    assert first.code == 0
    assert json.loads(first.out)["n_epochs"] == 2
    again = run("train", recipe)
    assert again.code == 1 and "--resume" in again.error
    longer = run("train", recipe, "--resume", "--set", "train.epochs=3", "--json")
    result = json.loads(longer.out)
    assert result["n_epochs"] == 3
    shown = json.loads(run("eval", "runs/small", "--which", "last", "--json").out)
    assert shown["n_rows"] == 360
    assert shown["accuracy"] == pytest.approx(result["last_test_accuracy"])
    student = geocache.load_student("runs/small", "last")[1]
    given = ("--model", "simple_cnn", "--weights", "runs/small/last.pt", "--dataset", "digits")
    mean, std = (",".join(map(str, student[name])) for name in ("mean", "std"))
    plain = run("eval", *given, "--mean", mean, "--std", std)
    assert plain.code == 0 and f"{100 * shown['accuracy']:.2f} %" in plain.out


def test_classes_and_exports_of_a_run(run: Any, recipe: Path, tmp_path: Path) -> None:
    """What `eval` prints and writes of each class; `export` writes a file that loads elsewhere."""
    assert run("train", recipe, "--build", "--set", "train.epochs=1").code == 0
    shown = json.loads(run("eval", "runs/small", "--json", "--confusion", "c.csv").out)
    assert shown["classes"] == [str(digit) for digit in range(10)]
    counts = shown["confusion"]
    right = sum(counts[digit][digit] for digit in range(10))
    assert right / sum(map(sum, counts)) == pytest.approx(shown["accuracy"])
    assert shown["accuracy"] <= shown["top5_accuracy"] <= 1
    assert shown["class_accuracy"][3] == pytest.approx(counts[3][3] / sum(counts[3]))
    assert len(Path("c.csv").read_text().splitlines()) == 11
    plain = run("eval", "runs/small", "--classwise").out
    assert "top-5" in plain and len(plain.splitlines()) == 4 + 11
    done = json.loads(run("export", "runs/small", "--out", "s.pt", "--json").out)
    assert json.loads(Path(done["about"]).read_text())["model"] == "simple_cnn"
    again = run("eval", "--model", "simple_cnn", "--weights", "s.pt", "--dataset", "digits")
    assert f"{100 * shown['accuracy']:.2f} %" in again.out
    assert run("export", tmp_path).code == 1


def test_without_the_data_set_the_only_fitting_cache_serves(
    run: Any, recipe: Path, pictures: Path, tmp_path: Path
) -> None:
    """With two that fit the user must choose; with --cache any serves."""
    (tmp_path / "root").mkdir()
    pictures.rename(tmp_path / "root" / "train")
    sets = ["data.dataset='imagefolder'", f"data.root='{tmp_path / 'root'}'", "train.epochs=1",
            "data.eval_split='train'", "train.validation=0.5"]  # fmt: skip
    flags = [part for one in sets for part in ("--set", one)]
    built = run("build", recipe, *flags, "--executor", "serial", "--json")
    assert built.code == 0
    (tmp_path / "root").rename(tmp_path / "moved")
    assert run("train", recipe, *flags, "--out", "first").code == 0
    other = ("--dataset", "digits", "--teacher", "resnet_cifar", "--teacher-option", "depth=8")
    run("build", *other, "--target", "mst@layer2", "--limit", 20, "--executor", "serial")
    assert len(list_caches(tmp_path / "store")) == 2
    # A teacher without a checkpoint has other weights for other classes, so the model alone fits.
    refused = run("train", recipe, *flags, "--out", "second")
    assert refused.code == 1 and "--cache" in refused.error
    key = json.loads(built.out)["key"][:8]
    assert run("train", recipe, *flags, "--out", "second", "--cache", key).code == 0


def test_cross_entropy_alone_trains_from_the_data_set(run: Any, tmp_path: Path) -> None:
    """A teacher that is yet to be trained needs no cache, and builds none."""
    text = (
        "data = {dataset = 'digits', limit = 50}\nstudent = {model = 'simple_cnn'}\n"
        "loss = [{name = 'cross_entropy'}]\ntrain = {epochs = 1, device = 'cpu'}\n"
    )
    Path("plain.toml").write_text(text, encoding="utf-8")
    assert run("train", "plain.toml").code == 0
    assert not (tmp_path / "store").exists()
    refused = run("build", "plain.toml")
    assert refused.code == 1 and "[teacher]" in refused.error


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("train.epoch=3", ["epoch", "Did you mean 'epochs'?"]),
        ("loss.1.name=affinity_contrst", ["Did you mean 'affinity_contrast'?"]),
        ("student.model=simple_cn", ["Did you mean 'simple_cnn'?"]),
        ("teacher.model=resnet21", ["resnet21"]),
        ("loss.1.radios=2", ["radios"]),
        ("train.lr=fast", ["lr", "fast"]),
    ],
)
def test_bad_recipes_are_one_line(run: Any, recipe: Path, change: str, words: list[str]) -> None:
    """Exit code 1, and one line that names the key and the nearest known one."""
    result = run("train", recipe, "--set", change)
    assert result.code == 1
    assert all(word in result.error for word in words)


def test_layers_that_do_not_fit_are_named(run: Any, recipe: Path) -> None:
    """An unknown student layer, and a pair whose grids differ."""
    run("build", recipe, "--executor", "serial")
    unknown = run("train", recipe, "--set", "loss.1.student=conv9")
    assert unknown.code == 1 and "conv9" in unknown.error
    grids = run("train", recipe, "--set", "loss.1.student=conv1")
    assert grids.code == 1
    assert "8x8" in grids.error and "4x4" in grids.error and "conv2" in grids.error


def test_ctrl_c_keeps_whole_epochs(run: Any, recipe: Path) -> None:
    """Exit code 130; the command in the line continues the run to its end."""
    flags = ("--set", "student.model=users_own:stopping", "--set", "train.calibration_batches=1")
    run("build", recipe, "--executor", "serial")
    only_ce = ("--set", "loss=[{name = 'cross_entropy'}]")
    users_own.Stopping.n_calls = 0
    stopped = run("train", recipe, *flags, *only_ce, "--out", "stopped")
    assert stopped.code == 130
    command = stopped.error.split("`")[1]
    assert shlex.split(command)[-1] == "--resume"
    resumed = run(*shlex.split(command)[1:])
    assert resumed.code == 0
    assert len(geocache.load_student("stopped", "last")[1]["epochs"]) == 2


def test_what_cannot_be_evaluated(run: Any, tmp_path: Path) -> None:
    """A folder without a run is a user's error, half a checkpoint's options are wrong usage."""
    empty = run("eval", tmp_path)
    assert empty.code == 1 and "best.pt" in empty.error
    assert run("eval").code == 2
    assert run("eval", "--model", "simple_cnn", "--dataset", "digits").code == 2
    assert run("eval", "runs/x", "--model", "simple_cnn").code == 2


def test_the_demo_runs_and_refuses_other_folders(run: Any, tmp_path: Path) -> None:
    """With fewer epochs: every figure is there and the picture is one; files are not deleted."""
    small = dict.fromkeys(SETTING, 1) | {"size": 8, "rows": 40, "depth": 8}
    result = run_demo(tmp_path / "demo", **small)
    assert result.picture.read_bytes().startswith(b"\x89PNG")
    assert [len(student.accuracies) for student in result.students] == [1, 1]
    assert result.target_bytes_per_row > 0
    assert run_demo(tmp_path / "demo", **small).students[0].accuracies == (
        result.students[0].accuracies
    )
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    refused = run("demo", "--out", tmp_path / "mine")
    assert refused.code == 1 and (tmp_path / "mine" / "thesis.tex").exists()


def test_two_teachers_are_built_found_and_trained_from(run: Any, recipe: Path) -> None:
    """One command builds both caches, the student's pixels stand in the first alone."""
    text = recipe.read_text().replace("[teacher]\n", '[[teacher]]\nname = "deep"\n', 1)
    second = '[[teacher]]\nname = "wide"\nmodel = "nin"\n[student]'
    text = text.replace("[student]", second).replace('"layer2"', '"deep/layer2"')
    text = text.replace("[train]", '[[loss]]\nname = "distillation"\nteacher = "wide"\n[train]')
    recipe.write_text(text)
    refused = run("train", recipe)
    assert refused.code == 1 and "cache of teacher 'deep'" in refused.error
    built = json.loads(run("build", recipe, "--executor", "serial", "--json").out)
    assert [report["rows_built"] for report in built] == [60, 60]
    assert {report["key"] for report in built} == {c.key for c in list_caches(Path("store"))}
    assert run("train", recipe, "--cache", built[0]["key"]).code == 1
    assert run("train", recipe).code == 0
    shown = json.loads(run("eval", "runs/small", "--json").out)
    assert shown["n_rows"] == 360
