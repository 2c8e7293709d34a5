"""Packed texts on the processor, with the function of attention's other half, against padded ones."""

from __future__ import annotations

import argparse
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from indexer.embed import Vectors, devices, packed
from indexer.embed import transformer as transformer_module
from indexer.embed.runner import GRAPHS, compile_layers
from indexer.embed.sentence import read_folder
from indexer.embed.thread import EncoderThread
from indexer.embed.tokenized import Input
from indexer.embed.transformer import TransformerEncoder
from tests import tiny_models
from tests.tiny_models import HIDDEN, KINDS, module, sentence, texts

# The bound of the project's specification, and how near they really are in float32.
CLOSE = 0.99999
# Each text of a size, alone, in a crowd, around the edges of windows.
BATCHES = {
    "ragged": texts(1, 23),
    "equal": texts(2, 9, (6,)),
    "one": ["rain fell"],
    "empty": ["", "rain", ""],
    "short and long": [*texts(3, 40, (1, 2)), *texts(4, 2, (60,))],
    "many": texts(5, 150, (1, 2, 3, 4)),
}
RAGGED = BATCHES["ragged"]


@pytest.fixture(scope="module", autouse=True)
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache of our own, and one thread."""
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    transformer_module.stay_offline()
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DRAGOMAN_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def no_device_is_lost() -> Iterator[None]:
    yield
    devices._lost.clear()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {kind: sentence(kind, root / kind) for kind in KINDS}


def load(folder: Path, **more: Any) -> TransformerEncoder:
    return TransformerEncoder(read_folder(folder), "cpu", 1, **more)


def together(folder: Path, **more: Any) -> TransformerEncoder:
    encoder = load(folder, packed_anyway=True, **more)
    assert encoder.packed
    return encoder


def cosine(one: Vectors, other: Vectors) -> float:
    assert one.shape == other.shape
    assert one.dtype == other.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(one, axis=1), 1, atol=1e-5)
    return float((one * other).sum(1).min())


@pytest.mark.parametrize("extras", [(), (GRAPHS,)])
@pytest.mark.parametrize("kind", KINDS)
def test_packed_vectors_are_those_of_padded_texts(
    folders: dict[str, Path], kind: str, extras: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    padded = load(folders[kind])
    assert not padded.packed
    encoder = together(folders[kind], extras=frozenset(extras))
    assert encoder.info == padded.info
    for name, batch in BATCHES.items():
        expected = padded.encode_passages(batch)
        for budget in (1, 40, 300, 100_000):
            encoder._budget = budget
            monkeypatch.setattr(transformer_module, "_AHEAD_FROM", 1 if budget == 40 else 32)
            assert cosine(encoder.encode_passages(batch), expected) >= CLOSE, (name, budget)
        assert cosine(encoder.encode_queries(batch), padded.encode_queries(batch)) >= CLOSE, name
    assert encoder.encode_passages([]).shape == (0, HIDDEN)
    assert encoder.encode_queries([]).shape == (0, HIDDEN)


@pytest.mark.parametrize("kind", KINDS)
def test_packed_vectors_are_those_of_sentence_transformers(folders: dict[str, Path], kind: str) -> None:
    pytest.importorskip("sentence_transformers", reason="the reference; pip install sentence-transformers")
    prompts = tiny_models.prompts_of(kind)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = module("sentence_transformers").SentenceTransformer(
            str(folders[kind]), device="cpu", local_files_only=True
        )
        batch = BATCHES["ragged"]
        passages = model.encode(
            batch,
            prompt=prompts.get("document") or prompts.get("passage"),
            normalize_embeddings=True,
            batch_size=7,
        )
        queries = model.encode(batch, prompt=prompts.get("query"), normalize_embeddings=True, batch_size=7)
    encoder = together(folders[kind])
    assert cosine(encoder.encode_passages(batch), passages) >= CLOSE
    assert cosine(encoder.encode_queries(batch), queries) >= CLOSE


POOLINGS = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken", "cls+max+mean")


@pytest.mark.parametrize("include_prompt", [True, False])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_every_pooling(tmp_path: Path, pooling: str, include_prompt: bool) -> None:
    prompts = {"query": "query: ", "passage": "the passage : "}
    what = {"pooling": pooling, "include_prompt": include_prompt}
    folder = sentence("qwen3", tmp_path / "model", modules=[("Pooling", what)], prompts=prompts)
    padded, batch = load(folder), BATCHES["ragged"]
    for extras in ((), (GRAPHS,)):
        encoder = together(folder, extras=frozenset(extras))
        assert cosine(encoder.encode_passages(batch), padded.encode_passages(batch)) >= CLOSE
        assert cosine(encoder.encode_queries(batch), padded.encode_queries(batch)) >= CLOSE


@pytest.mark.parametrize("dimensions", [32, 40])
def test_shorter_vectors_and_layers_behind_the_pooling(folders: dict[str, Path], dimensions: int) -> None:
    for kind in ("qwen3", "gemma"):  # gemma has two dense layers
        folder = read_folder(folders[kind], dimensions=dimensions)
        padded = TransformerEncoder(folder, "cpu", 1)
        encoder = TransformerEncoder(folder, "cpu", 1, packed_anyway=True)
        assert encoder.packed
        found = encoder.encode_passages(BATCHES["ragged"])
        assert found.shape[1] == dimensions
        assert cosine(found, padded.encode_passages(BATCHES["ragged"])) >= CLOSE


@pytest.mark.parametrize("kind", ["qwen3", "gemma", "modernbert"])
def test_windows_of_attention(tmp_path: Path, kind: str) -> None:
    all_: dict[str, dict[str, Any]] = {
        "qwen3": {
            "layer_types": ["sliding_attention", "full_attention"],
            "sliding_window": 5,
            "use_sliding_window": True,
            "max_window_layers": 1,
        },
        "gemma": {"use_bidirectional_attention": False, "sliding_window": 6},
        "modernbert": {"local_attention": 6},
    }
    more = all_[kind]
    folder = sentence(kind, tmp_path / "model", **more)
    padded, encoder = load(folder), together(folder)
    for name, batch in BATCHES.items():
        assert cosine(encoder.encode_passages(batch), padded.encode_passages(batch)) >= CLOSE, name
    # The window matters: without it the vectors are others.
    wide = more | {"modernbert": {"local_attention": 500}}.get(kind, {"sliding_window": 500})
    other = load(sentence(kind, tmp_path / "wide", **wide))
    batch = BATCHES["short and long"]
    assert cosine(encoder.encode_passages(batch), other.encode_passages(batch)) < CLOSE


@pytest.mark.parametrize(("kind", "can"), [("distilbert", True), ("mpnet", False), ("t5", False)])
def test_what_cannot_be_packed_stays_padded(tmp_path: Path, kind: str, can: bool) -> None:
    folder = tiny_models.transformer(kind, tmp_path / "model")
    padded, encoder = load(folder), load(folder, packed_anyway=True)
    assert encoder.packed == can
    assert cosine(encoder.encode_passages(RAGGED), padded.encode_passages(RAGGED)) >= CLOSE


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_that_packing_changes_stays_padded(
    folders: dict[str, Path], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def one_text(inputs: list[Input], shape: packed.Shape, out: Any, **more: Any) -> None:
        pack(inputs, shape, out, **more)
        out[3 * shape.tokens + 1 : 3 * shape.tokens + shape.texts] = shape.tokens

    def running_positions(inputs: list[Input], shape: packed.Shape, out: Any, **more: Any) -> None:
        pack(inputs, shape, out, **more)
        out[shape.tokens : 2 * shape.tokens] = np.arange(shape.tokens) % 60 + more["first_position"]

    pack = packed.pack
    for wrong in (one_text, running_positions):
        if wrong is running_positions and kind in {"qwen3", "gemma", "modernbert"}:
            continue  # only distances count there
        monkeypatch.setattr(packed, "pack", wrong)
        assert not load(folders[kind], packed_anyway=True).packed


def test_norms_are_replaced_by_torchs_own_only_where_they_are_the_same(folders: dict[str, Path]) -> None:
    import torch

    encoder = together(folders["qwen3"])
    # Before and behind attention and of queries and keys in two layers, and the last.
    assert [type(part) for part in encoder._model.modules()].count(torch.nn.RMSNorm) == 2 * 4 + 1
    # Gemma adds one to its weights.
    gemma = together(folders["gemma"])
    assert not any(isinstance(part, torch.nn.RMSNorm) for part in gemma._model.modules())


def test_rounded_shapes_are_larger_by_little() -> None:
    for tokens in (1, 63, 64, 65, 1000, 1025, 4096):
        for count, longest in ((1, tokens), (min(tokens, 100), 40)):
            shape = packed.Shape(tokens, count, longest)
            larger = packed.rounded(shape)
            assert larger.tokens >= tokens
            assert larger.tokens <= max(64, tokens * 1.25 + 63)
            assert (larger.texts >= count, larger.longest >= longest) == (True, True)
            assert packed.rounded(larger) == larger


def test_packs_keep_to_the_budget_and_lose_nothing() -> None:
    draw = np.random.default_rng(1)
    for budget in (1, 10, 500):
        lengths = draw.integers(1, 60, 200).tolist()
        found = list(packed.packs(lengths, budget))
        assert sorted(at for group in found for at in group) == list(range(200))
        assert all(len(group) == 1 or sum(lengths[at] for at in group) <= budget for group in found)
    assert not list(packed.packs([], 10))


def test_what_was_counted_is_not_tokenized_again(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    padded, encoder = load(folders["xlm-roberta"]), together(folders["xlm-roberta"])
    batch = [*texts(11, 40), *texts(12, 3, (150,)), "rain", "rain"]
    assert encoder.count_tokens(batch) == padded.count_tokens(batch)
    tokenized: list[str] = []

    def passages(some: list[str]) -> Any:
        tokenized.extend(some)
        return original(some)

    original = encoder._passages
    monkeypatch.setattr(encoder, "_passages", passages)
    expected = padded.encode_passages([*batch, "cold"])
    assert cosine(encoder.encode_passages([*batch, "cold"]), expected) >= CLOSE
    assert set(tokenized) == {"cold"} | {one for one in batch if batch.count(one) > 1}
    assert (encoder._counted, encoder._counted_tokens) == ({}, 0)
    monkeypatch.setattr(transformer_module, "_MOST_COUNTED", 50)
    for _ in range(3):
        assert encoder.count_tokens(batch) == padded.count_tokens(batch)
        assert sum(len(one) for windows in encoder._counted.values() for one in windows) <= 50
    assert cosine(encoder.encode_passages(batch), expected[:-1]) >= CLOSE
    assert (encoder._counted, encoder._counted_tokens) == ({}, 0)


class Fails:
    """A device at the boundary: what a model's first so many passes raise."""

    def __init__(self, encoder: TransformerEncoder, *errors: BaseException | None) -> None:
        self._forward = encoder._model.forward
        self._errors = list(errors)
        self.tokens: list[int] = []
        encoder._model.forward = self

    def __call__(self, *args: Any, **more: Any) -> Any:
        self.tokens.append(more["input_ids"].numel())
        error = self._errors.pop(0) if self._errors else None
        if error is not None:
            raise error
        return self._forward(*args, **more)


def on_a_device(monkeypatch: pytest.MonkeyPatch, encoder: TransformerEncoder) -> None:
    """Let an encoder believe that it is on a GPU: it is asked nothing but its type and its name."""

    class Cuda:
        type = "cuda"

        def __str__(self) -> str:
            return "cuda:0"

    monkeypatch.setattr(encoder, "_device", Cuda())
    monkeypatch.setattr(encoder, "_free_cache", lambda: None)


def losses() -> list[BaseException]:
    import torch

    return [
        torch.AcceleratorError("CUDA error: unspecified launch failure"),
        RuntimeError("CUDA error: device-side assert triggered"),
        RuntimeError("CUBLAS_STATUS_EXECUTION_FAILED when calling cublasGemmEx"),
    ]


@pytest.mark.parametrize("pack", [True, False])
def test_short_of_memory_halves_the_batches_and_grows_again(
    folders: dict[str, Path], pack: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    encoder = load(folders["bert"], packed_anyway=pack)
    batch = texts(7, 60)
    expected = load(folders["bert"]).encode_passages(batch)
    on_a_device(monkeypatch, encoder)
    encoder._most = encoder._budget = 2_000
    device = Fails(encoder, *[torch.OutOfMemoryError("CUDA out of memory")] * 3)
    monkeypatch.setattr(transformer_module, "_SMALLEST_BUDGET", 40)
    assert cosine(encoder.encode_passages(batch), expected) >= CLOSE
    halved = encoder._budget
    assert halved < 500
    assert max(device.tokens[3:]) < max(device.tokens[:3])
    assert encoder.device == "cuda:0"
    assert not devices.notices()
    monkeypatch.setattr(transformer_module, "_QUIET_BATCHES", 2)
    for _ in range(40):
        before = encoder._budget
        assert cosine(encoder.encode_passages(batch), expected) >= CLOSE
        assert encoder._budget <= before * 2
    assert encoder._budget == 2_000


@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_lost_device_loses_no_text_and_is_told(
    folders: dict[str, Path], pack: bool, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = texts(8, 40)
    expected = load(folders["xlm-roberta"]).encode_passages(batch)
    for number, error in enumerate(losses()):
        devices._lost.clear()
        encoder = load(folders["xlm-roberta"], packed_anyway=pack)
        on_a_device(monkeypatch, encoder)
        encoder._budget = 100
        # Once it is lost it stays so.
        device = Fails(encoder, *[None] * at, *[error] * 1000)
        if number:
            assert cosine(encoder.encode_passages(batch), expected) >= CLOSE
        else:
            assert encoder.encode_queries(batch).shape == expected.shape
        assert len(device.tokens) == at + 1, "a lost device is not asked again"
        assert encoder.device == "cpu"
        assert not encoder.packed
        assert cosine(encoder.encode_passages(batch), expected) >= CLOSE
        (notice,) = devices.notices()
        assert "cuda:0" in notice.message


def test_a_device_that_is_lost_while_it_is_waited_for(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from indexer.embed import runner

    batch = texts(9, 40)
    encoder = together(folders["qwen3"])
    expected = encoder.encode_passages(batch)
    on_a_device(monkeypatch, encoder)
    encoder._budget = 100
    asked = []

    def result(self: runner.Started) -> Vectors:
        asked.append(self)
        if len(asked) > 1:
            raise losses()[0]
        return original(self)

    original = runner.Started.result
    monkeypatch.setattr(runner.Started, "result", result)
    assert cosine(encoder.encode_passages(batch), expected) >= CLOSE
    assert len(asked) == 2
    assert encoder.device == "cpu"


def test_the_status_says_where_a_model_goes_on(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = together(folders["bert"])
    expected = encoder.encode_passages(RAGGED)
    on_a_device(monkeypatch, encoder)
    Fails(encoder, None, *losses()[:1] * 1000)
    thread = EncoderThread(lambda: encoder)
    thread.start()
    try:
        thread.query(["rain"]).result(30)
        assert thread.status.device == "cuda:0"
        assert cosine(thread.passages(RAGGED).result(30), expected) >= CLOSE
        thread.query(["rain"]).result(30)  # by now the thread is done with the one before
        assert (thread.status.state, thread.status.device) == ("ready", "cpu")
    finally:
        thread.stop()


def test_other_errors_are_no_loss_of_the_device(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for pack in (True, False):
        encoder = load(folders["bert"], packed_anyway=pack)
        on_a_device(monkeypatch, encoder)
        Fails(encoder, RuntimeError("shape '[2]' is invalid"))
        with pytest.raises(RuntimeError, match="is invalid"):
            encoder.encode_passages(["rain"])
        assert encoder.device == "cuda:0"
    assert not devices.notices()


def test_a_device_that_fails_at_the_start_is_not_tried_again(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a device that torch knows and that fails at the first use, as a lost one does."""
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    folder = read_folder(folders["bert"])
    # This build of torch has no CUDA, and says so with an AssertionError; a lost one says this.
    failing = []

    def to(self: Any, device: Any = None, *args: Any, **more: Any) -> Any:
        if getattr(device, "type", "") == "cuda":
            failing.append(device)
            raise torch.AcceleratorError("CUDA error: unknown error")
        return original(self, device, *args, **more)

    original = torch.nn.Module.to
    monkeypatch.setattr(torch.nn.Module, "to", to)
    monkeypatch.setattr(transformer_module, "choose_dtype", lambda *_: torch.float32)
    expected = load(folders["bert"]).encode_passages(RAGGED)
    for _ in range(2):
        encoder = TransformerEncoder(folder, "cuda:0", 1)
        assert encoder.device == "cpu"
        np.testing.assert_array_equal(encoder.encode_passages(RAGGED), expected)
    assert len(failing) == 1
    assert len(devices.notices()) == 1


def test_layers_are_compiled_once_for_all_shapes(folders: dict[str, Path]) -> None:
    """What torch makes of a layer is the same for all of them and for every batch."""
    import torch

    encoder = together(folders["qwen3"])
    passes = []

    def count(graph: Any, inputs: Any) -> Any:
        passes.append(inputs)
        return graph.forward

    some = ("ragged", "one", "many")
    expected = {name: encoder.encode_passages(BATCHES[name]) for name in some}
    torch._dynamo.reset()
    assert compile_layers(encoder._model, backend=count) == 2
    for name in some:
        assert cosine(encoder.encode_passages(BATCHES[name]), expected[name]) >= CLOSE
    first = len(passes)
    for seed in range(6):
        encoder.encode_passages(texts(seed, 5 + 9 * seed))
    torch._dynamo.reset()
    assert len(passes) == first


@pytest.mark.parametrize("kind", KINDS)
def test_what_cuda_is_given_is_well_formed_and_waited_for_nowhere(
    folders: dict[str, Path], kind: str
) -> None:
    """On tensors without numbers: torch checks shapes and types, and refuses whatever needs a number.

    What waits for no number can run ahead of the device, and can be recorded.
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    class Count(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __init__(self) -> None:
            super().__init__()  # type: ignore[no-untyped-call]
            self.names: list[str] = []

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.names.append(str(func))
            return func(*args, **(kwargs or {}))

    model = together(folders[kind])._model.to("meta", torch.bfloat16)
    shape = packed.Shape(100, 7, 40)
    flat = torch.empty(shape.size, dtype=torch.int64, device="meta")
    pooling = "cls+lasttoken+max+mean+weightedmean"
    with torch.inference_mode(), Count() as count:
        found = packed.forward(model, flat, shape, pooling)
    assert found.shape == (7, 5 * HIDDEN)
    assert found.dtype == torch.float32
    assert count.names.count("torch_attn._varlen_attn.default") == 2
    # Heads of keys are shared in the kernel.
    assert not any("repeat" in name or "scaled_dot" in name for name in count.names)


def test_the_architecture_of_the_bench(tmp_path: Path) -> None:
    """The bench's model in small, and in full what a token of it takes."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from tests.bench import gpu

    folder = tmp_path / "model"
    gpu._write_model(folder, gpu.TINY, gpu._words()[:3_000])
    encoder, padded = together(folder), load(folder)
    batch = [" ".join(gpu._words()[at : at + 9 * at + 1]) for at in range(9)]
    assert cosine(encoder.encode_passages(batch), padded.encode_passages(batch)) >= CLOSE
    assert encoder.info.max_tokens > 8_000
    transformers = module("transformers")
    with torch.device("meta"):
        model = transformers.Qwen3Model(transformers.Qwen3Config(**gpu.QWEN)).eval()
    # As published: 0.6 billion weights.
    assert sum(weight.numel() for weight in model.parameters()) == 595_776_512
    packed.register()
    model.set_attn_implementation(packed.ATTENTION)
    shape = packed.Shape(1_000, 10, 100)
    flat = torch.empty(shape.size, dtype=torch.int64, device="meta")
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        packed.states(model, flat, shape)
    products = sum(
        flops for name, flops in counter.get_flop_counts()["Global"].items() if "varlen" not in str(name)
    )
    options = argparse.Namespace(device="cpu", tiny=False, seconds=0)
    assert gpu._Bench(options, tmp_path)._flops["linear"] == products / 1_000
