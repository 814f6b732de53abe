"""Checkpoints in the forms that people save, and weights named by their content."""

from __future__ import annotations

import os
import pickle
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from geocache.errors import CheckpointError, MissingDataError
from geocache.models import Taps, build_model, load_weights, state_digest

REAL = os.environ.get("GEOCACHE_REAL_DATA")


def net(seed: int = 0, n_classes: int = 10) -> nn.Module:
    torch.manual_seed(seed)
    return build_model("cnn1", n_classes=n_classes)


def prefixed(prefix: str) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in net(1).state_dict().items()}


FORMS = {
    "plain": lambda: net(1).state_dict(),
    "state_dict": lambda: {"epoch": 3, "best": 0.5, "state_dict": net(1).state_dict()},
    "model": lambda: {"model": net(1).state_dict(), "optimizer": {"lr": 0.1}},
    "nested": lambda: {"model": {"state_dict": prefixed("module.")}},
    "parallel": lambda: prefixed("module."),
    "compiled": lambda: prefixed("_orig_mod."),
    "both": lambda: prefixed("module._orig_mod."),
    "ordered": lambda: OrderedDict(reversed(net(1).state_dict().items())),
    "transposed in memory": lambda: {
        k: v.T.contiguous().T if v.dim() == 2 else v for k, v in net(1).state_dict().items()
    },
    "without counters": lambda: {
        k: v for k, v in net(1).state_dict().items() if not k.endswith("num_batches_tracked")
    },
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_load_and_give_the_same_digest(form: str, tmp_path: Path) -> None:
    torch.save(FORMS[form](), tmp_path / "w.pt")
    model = net(2)
    load_weights(model, tmp_path / "w.pt")
    assert state_digest(model) == state_digest(net(1))
    for name, tensor in net(1).state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("fc2.bias"), ["1 missing: fc2.bias"]),
        (lambda s: s.update({"extra": torch.zeros(1)}), ["1 unexpected: extra"]),
        (
            lambda s: s.update({"fc2.weight": torch.zeros(3, 64)}),
            ["1 wrong shape: fc2.weight (3, 64) instead of (10, 64)"],
        ),
        (
            lambda s: [s.pop(k) for k in list(s) if k.startswith("block1")],
            ["missing: block1.conv.weight, block1.conv.bias, block1.bn.weight, ..."],
        ),
        (
            lambda s: (s.pop("fc2.bias"), s.update({"other.bias": torch.zeros(10)})),
            ["1 missing: fc2.bias", "1 unexpected: other.bias"],
        ),
    ],
)
def test_mismatch_names_the_keys_and_changes_nothing(
    change: object, words: list[str], tmp_path: Path
) -> None:
    state = dict(net(1).state_dict())
    change(state)  # type: ignore[operator]
    torch.save(state, tmp_path / "w.pt")
    model = net(2)
    with pytest.raises(CheckpointError) as caught:
        load_weights(model, tmp_path / "w.pt")
    for word in [*words, "w.pt"]:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)
    assert state_digest(model) == state_digest(net(2))


class Evil:
    """A pickle that runs a function when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return (Path.touch, (self.path,))


def test_nothing_in_a_checkpoint_is_executed(tmp_path: Path) -> None:
    torch.save({"state_dict": Evil(tmp_path / "ran")}, tmp_path / "w.pt")
    (tmp_path / "raw.pt").write_bytes(pickle.dumps(Evil(tmp_path / "ran")))
    for name in ("w.pt", "raw.pt"):
        with pytest.raises(CheckpointError, match="weights_only") as caught:
            load_weights(net(), tmp_path / name)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "content",
    [
        {},
        [1, 2],
        torch.zeros(3),
        {"epoch": 3},
        {"state_dict": {"conv": "text"}},
        {1: torch.ones(1)},
    ],
    ids=str,
)
def test_files_without_a_state_dict_are_one_line(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match="state dict") as caught:
        load_weights(net(), tmp_path / "w.pt")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("keep", [0, 1, 100, 5_000, -200])
def test_truncated_files_are_one_line(keep: int, tmp_path: Path) -> None:
    torch.save(net(1).state_dict(), tmp_path / "w.pt")
    (tmp_path / "w.pt").write_bytes((tmp_path / "w.pt").read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"w\.pt") as caught:
        load_weights(net(), tmp_path / "w.pt")
    assert "\n" not in str(caught.value)


def test_absent_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match="does not exist"):
        load_weights(net(), tmp_path / "none.pt")
    with pytest.raises(FileNotFoundError, match="is a folder"):
        load_weights(net(), tmp_path)


def test_digest_sees_values_names_shapes_and_types_alone() -> None:
    digest = state_digest(net())
    assert len(digest) == 64
    assert state_digest(nn.DataParallel(net())) == digest
    assert state_digest(net().to(memory_format=torch.channels_last)) == digest

    counted = net()
    counted.block1.bn.num_batches_tracked.fill_(7)  # type: ignore[operator, union-attr]
    assert state_digest(counted) == digest

    with torch.no_grad():
        weight = net()
        next(weight.parameters())[0, 0, 0, 0] += 1e-6
        buffer = net()
        buffer.block1.bn.running_mean[0] += 1e-6  # type: ignore[index, operator, union-attr]
    renamed = nn.Sequential(OrderedDict(body=net()))
    others = [weight, buffer, renamed, net().half(), net().double(), net(1), net(n_classes=11)]
    assert len({digest, *map(state_digest, others)}) == len(others) + 1


def test_digest_is_that_of_its_written_definition() -> None:
    """The golden value: SHA-256 over one header line and the raw bytes, done by hand here."""
    import hashlib
    import struct

    model = nn.Linear(2, 1)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, -2.0]]))
        model.bias.fill_(0.5)
    expected = hashlib.sha256(
        b'["bias", "float32", [1]]\n'
        + struct.pack("<f", 0.5)
        + b'["weight", "float32", [1, 2]]\n'
        + struct.pack("<2f", 1.0, -2.0)
    )
    assert state_digest(model) == expected.hexdigest()


@pytest.mark.real
@pytest.mark.skipif(REAL is None, reason="GEOCACHE_REAL_DATA is not set")
@pytest.mark.parametrize("name", ["resnet20-12fca82f", "resnet56-4bfd9763"])
def test_public_checkpoints_load_and_name_the_planted_mismatch(name: str) -> None:
    path = Path(str(REAL)) / "weights" / f"{name}.th"
    model = build_model(name.split("-")[0], n_classes=10)
    before = state_digest(model)
    load_weights(model, path)
    assert state_digest(model) != before
    with torch.no_grad(), Taps(model.eval(), ["layer2", "layer3"]) as taps:
        logits, features = taps(torch.zeros(2, 3, 32, 32))
    assert logits.isfinite().all()
    assert features["layer2"].shape == (2, 32, 16, 16)
    with pytest.raises(CheckpointError, match=r"1 missing|missing: layer|unexpected: layer"):
        load_weights(build_model("resnet32", n_classes=10), path)
    with pytest.raises(CheckpointError, match=r"linear\.weight"):
        load_weights(build_model(name.split("-")[0], n_classes=100), path)
