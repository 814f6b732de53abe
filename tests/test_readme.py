"""What the README shows works: the Python example as it stands, the recipe, every link."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from geocache.data.datasets import open_dataset
from geocache.data.images import ImageSpec
from geocache.pipeline.build import BuildRequest, build
from geocache.student_train import load_recipe, parse_recipe
from geocache.targets import parse_target

README = Path(__file__).parents[1] / "README.md"


def test_the_python_example_trains_a_student(tmp_path: Path) -> None:
    """Only the key is put in; a student comes out whose loss has a gradient everywhere."""
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert sum(bool(line.strip()) for line in code.splitlines()) <= 15
    targets = (*parse_target("mst@layer3"), *parse_target("affinity:radius=5@layer3"))
    report = build(
        BuildRequest(
            dataset=open_dataset("fakedata", split="train", options={"n": 40, "classes": 3}),
            model="resnet_cifar",
            options={"depth": 8},
            targets=targets,
            image=ImageSpec((32, 32)),
            store=tmp_path,
            executor="serial",
            batch_size=20,
        )
    )
    key = re.search(r'geocache\.open\("(\w+)"\)', code)
    assert key
    names: dict[str, object] = {}
    exec(code.replace(key[1], str(report.path)), names)
    student = names["student"]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in student.parameters())


def test_the_recipe_is_a_recipe() -> None:
    """It passes the validation that `geocache train` begins with."""
    (text,) = re.findall(r"```toml\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert len(parse_recipe(tomllib.loads(text)).loss) == 3


@pytest.mark.parametrize(
    "path", sorted((README.parent / "recipes").glob("*.toml")), ids=lambda path: path.stem
)
def test_the_recipes_that_come_along_are_valid(path: Path) -> None:
    """Names, keys and layers' spelling; the data need not be there."""
    assert load_recipe(path).teacher


@pytest.mark.parametrize("path", re.findall(r"\]\(([\w./-]+)\)", README.read_text("utf-8")))
def test_what_the_readme_links_to_is_there(path: str) -> None:
    """Links inside the repository lead somewhere."""
    assert (README.parent / path).exists()


@pytest.mark.parametrize("path", re.findall(r"`(\w+/[\w/]+\.py)`", README.read_text("utf-8")))
def test_what_the_readme_says_to_read_is_there(path: str) -> None:
    """The map names files that exist."""
    assert (README.parent / path).exists() or (README.parent / "geocache" / path).exists()
