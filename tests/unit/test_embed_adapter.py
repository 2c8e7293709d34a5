"""Adapters: read, checked, and added to the right rows of the right weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save

from indexer.embed import bundled
from indexer.embed.adapter import Adapter, AdapterError, Factors, pack
from indexer.embed.e5s1 import E5S1
from indexer.errors import FatalError
from tests.unit.test_embed_e5s1 import DATA, HIDDEN, WEIGHTS, WIDE

NAME = "encoder.layer.0.output.dense.weight"
RANDOM = np.random.default_rng(3)
# Sixteenths, so that float16 holds them and every sum is exact.
FACTORS: dict[str, Factors] = {
    NAME: (
        (RANDOM.integers(-16, 16, (2, WIDE)) / 16).astype(np.float32),
        (RANDOM.integers(-16, 16, (HIDDEN, 2)) / 16).astype(np.float32),
    )
}


def test_only_the_named_weight_changes_and_by_the_product(tmp_path: Path) -> None:
    for folder in ("one", "two", "plain"):
        (tmp_path / folder).mkdir()
        adapter = None if folder == "plain" else Adapter(pack(FACTORS, {"why": "a test"}))
        bundled.convert(E5S1(DATA), tmp_path / folder, adapter)
    changed, plain = (
        load_file(tmp_path / "one/model.safetensors"),
        load_file(tmp_path / "plain/model.safetensors"),
    )
    a, b = FACTORS[NAME]
    np.testing.assert_array_equal(changed.pop(NAME), WEIGHTS["l0.fo.w"] + b @ a)
    np.testing.assert_array_equal(plain.pop(NAME), WEIGHTS["l0.fo.w"])
    assert changed.keys() == plain.keys()
    for name, values in plain.items():
        np.testing.assert_array_equal(changed[name], values)
    for file in ("model.safetensors", "tokenizer.json", "config.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_rows_in_parts_are_the_rows_at_once() -> None:
    a, b = FACTORS[NAME]
    weight = np.ones((HIDDEN, WIDE), np.float32)
    parts = iter([weight[:5], weight[5:6], weight[6:]])
    np.testing.assert_array_equal(
        np.concatenate(list(Adapter(pack(FACTORS, {})).add(NAME, parts))), weight + b @ a
    )


NOT_A_NUMBER = np.full((2, WIDE), np.nan, np.float16)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff" * 40,
        pack(FACTORS, {})[:-1],
        save({f"{NAME}.lora_A": np.zeros((2, WIDE), np.float16)}),
        save({f"{NAME}.lora_A": np.zeros((3, WIDE)), f"{NAME}.lora_B": np.zeros((HIDDEN, 2))}),
        save({f"{NAME}.lora_A": NOT_A_NUMBER, f"{NAME}.lora_B": np.zeros((HIDDEN, 2), np.float16)}),
        save({NAME: np.zeros((2, WIDE), np.float16)}),
    ],
    ids=["empty", "noise", "cut short", "half", "sizes", "not a number", "no adapter"],
)
def test_what_is_no_adapter_is_refused(data: bytes) -> None:
    with pytest.raises(AdapterError):
        Adapter(data)


@pytest.mark.parametrize("name", ["encoder.layer.9.output.dense.weight", "encoder.layer.0.output.dense.bias"])
def test_an_adapter_of_another_model_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(FatalError, match="the model has no"):
        bundled.convert(E5S1(DATA), tmp_path, Adapter(pack({name: FACTORS[NAME]}, {})))
    assert not list(tmp_path.iterdir())


def test_the_shipped_adapter_is_the_pinned_one_and_small(monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = bundled._read_adapter()
    assert {int(name.split(".")[2]) for name in adapter.factors} == set(range(6, 12))
    assert bundled.ADAPTER.stat().st_size < 3_000_000
    # Another adapter makes another space: neither its folder nor its vectors may pass for this one's.
    key = bundled.key()
    monkeypatch.setattr(bundled, "ADAPTER_SHA256", "0" * 64)
    assert bundled.key() != key
    with pytest.raises(FatalError, match="Install Dragoman again"):
        bundled._read_adapter()


def test_a_missing_adapter_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundled, "ADAPTER", tmp_path / "none.safetensors")
    with pytest.raises(FatalError, match="Install Dragoman again"):
        bundled._read_adapter()
