"""Models of every kind, as tiny random ones, against sentence-transformers on the same folders."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from indexer.embed import ModelChoice, Vectors
from indexer.embed import transformer as transformer_module
from indexer.embed.load import info_of, load_encoder
from indexer.embed.sentence import read_folder
from indexer.embed.transformer import TransformerEncoder
from indexer.embed.windows import most_windows
from indexer.errors import FatalError, IndexerError
from indexer.settings import Instructions, Settings
from tests import tiny_models
from tests.tiny_models import HIDDEN, KINDS, WORDS, module, sentence, texts

pytest.importorskip("sentence_transformers", reason="the reference; pip install sentence-transformers")

# The bound of the project's specification, and how near the two really are in float32.
BOUND = 0.9999
CLOSE = 0.99999
# Bfloat16 has 8 bits of precision, and random weights amplify what is lost.
BFLOAT16 = 0.995
SETTINGS = Settings(device="cpu")


@pytest.fixture(scope="module", autouse=True)
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache of our own, and one thread: for models so small, more do nothing but wait for one another."""
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    transformer_module.stay_offline()
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DRAGOMAN_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {kind: sentence(kind, root / kind) for kind in KINDS}


def reference(folder: Path, dimensions: int = 0, dtype: str = "float32") -> Any:
    """The folder, loaded by sentence-transformers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return module("sentence_transformers").SentenceTransformer(
            str(folder),
            device="cpu",
            local_files_only=True,
            truncate_dim=dimensions or None,
            model_kwargs={"dtype": getattr(module("torch"), dtype)},
        )


def ours(folder: Path, dimensions: int = 0, **more: Any) -> TransformerEncoder:
    encoder = load_encoder(Settings(device="cpu", **more), ModelChoice(str(folder), dimensions))
    assert isinstance(encoder, TransformerEncoder)
    return encoder


def theirs(model: Any, what: list[str], prompt: str = "", batch: int = 7) -> Vectors:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found: Vectors = model.encode(
            what, prompt=prompt or None, batch_size=batch, normalize_embeddings=True, convert_to_numpy=True
        )
    return np.asarray(found, np.float32)


def cosines(ours: Vectors, theirs: Vectors) -> float:
    """The worst; both must be of unit length and of the same shape."""
    assert ours.shape == theirs.shape
    assert ours.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-5)
    return float((ours * theirs).sum(1).min())


def spread(vectors: Vectors) -> float:
    """How unlike the vectors of different texts are: without that, agreeing would show nothing."""
    return float(1 - (vectors @ vectors.T).min())


RAGGED = texts(1, 23)
EQUAL = texts(2, 9, (6,))


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_are_those_of_sentence_transformers(
    folders: dict[str, Path], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folders[kind]
    prompts = tiny_models.prompts_of(kind)
    passage = prompts.get("document") or prompts.get("passage") or ""
    model = reference(folder)
    expected = theirs(model, RAGGED, passage)
    assert spread(expected) > 0.1
    assert ours(folder).info == info_of(SETTINGS, ModelChoice(str(folder)))
    for budget in (1, 40, 300, 100_000):
        monkeypatch.setattr(transformer_module, "_BUDGET_CPU", budget)
        encoder = ours(folder)
        assert cosines(encoder.encode_passages(RAGGED), expected) >= CLOSE
        assert cosines(encoder.encode_passages(EQUAL), theirs(model, EQUAL, passage)) >= CLOSE
        for text in RAGGED[:3]:
            assert cosines(encoder.encode_passages([text]), theirs(model, [text], passage)) >= CLOSE
    queries = encoder.encode_queries(RAGGED)
    assert cosines(queries, theirs(model, RAGGED, prompts.get("query", ""))) >= CLOSE
    if prompts:
        assert cosines(queries, expected) < BOUND
    assert encoder.encode_queries([]).shape == (0, HIDDEN)


def test_what_a_tokenizer_says_of_padding_and_truncation_does_not_matter(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = sentence("bert", tmp_path / "model")
    tokenizer = module("tokenizers").Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_padding(direction="left", pad_id=3, length=40)
    tokenizer.enable_truncation(17)
    tokenizer.save(str(folder / "tokenizer.json"))
    expected = ours(folders["bert"]).encode_passages(RAGGED)
    np.testing.assert_array_equal(ours(folder).encode_passages(RAGGED), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_padding_changes_no_vector(folders: dict[str, Path], kind: str) -> None:
    encoder = ours(folders[kind])
    short, long = "rain fell", " ".join(WORDS * 2)
    alone = encoder.encode_passages([short])[0]
    among = encoder.encode_passages([long, short, "cold", short])
    np.testing.assert_allclose(among[1], alone, atol=2e-6)
    np.testing.assert_allclose(among[3], alone, atol=2e-6)


POOLINGS = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken", "cls+max+mean")


@pytest.mark.parametrize("include_prompt", [True, False])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_every_pooling(tmp_path: Path, pooling: str, include_prompt: bool) -> None:
    prompts = {"query": "query: ", "passage": "the passage : "}
    for kind in ("bert", "qwen3"):
        what = {"pooling": pooling, "include_prompt": include_prompt}
        folder = sentence(kind, tmp_path / kind, modules=[("Pooling", what)], prompts=prompts)
        model, encoder = reference(folder), ours(folder)
        for prompt, found in (
            ("query: ", encoder.encode_queries(RAGGED)),
            ("the passage : ", encoder.encode_passages(RAGGED)),
        ):
            assert cosines(found, theirs(model, RAGGED, prompt)) >= CLOSE
        assert encoder.info.dim == HIDDEN * (pooling.count("+") + 1)


@pytest.mark.parametrize("dimensions", [32, 33, 40, 47, 48])
def test_shorter_vectors(folders: dict[str, Path], dimensions: int) -> None:
    keys = set()
    for kind in ("qwen3", "gemma"):
        encoder = ours(folders[kind], dimensions)
        assert encoder.info.dim == dimensions
        keys.add(encoder.info.key)
        expected = theirs(reference(folders[kind], dimensions), RAGGED, encoder._spec.passage_prefix)
        assert cosines(encoder.encode_passages(RAGGED), expected) >= CLOSE
        if dimensions < HIDDEN:
            assert encoder.info.key != info_of(SETTINGS, ModelChoice(str(folders[kind]))).key
    assert len(keys) == 2


BEHIND: list[list[tuple[str, dict[str, Any]]]] = [
    [
        ("Pooling", {"pooling": "mean"}),
        ("Dense", {"in_features": HIDDEN, "out_features": 64, "bias": True, "activation": activation}),
        ("LayerNorm" if activation == "GELU" else "Normalize", {}),
    ]
    for activation in ("Tanh", "ReLU", "SiLU", "Identity")
]
BEHIND.append([("Pooling", {"pooling": "mean"}), ("LayerNorm", {}), ("Normalize", {})])


@pytest.mark.parametrize("modules", BEHIND)
def test_what_is_behind_the_pooling(tmp_path: Path, modules: list[tuple[str, dict[str, Any]]]) -> None:
    folder = sentence("xlm-roberta", tmp_path / "model", modules=modules, prompts={})
    expected = theirs(reference(folder), RAGGED)
    assert spread(expected) > 0.01
    assert cosines(ours(folder).encode_passages(RAGGED), expected) >= CLOSE


@pytest.mark.parametrize("kind", [*KINDS, "distilbert", "mpnet", "t5"])
def test_a_folder_without_modules(tmp_path: Path, kind: str) -> None:
    folder = tiny_models.transformer(kind, tmp_path / "model")
    encoder = ours(folder)
    expected = theirs(reference(folder), RAGGED)
    assert spread(expected) > 0.1
    assert cosines(encoder.encode_passages(RAGGED), expected) >= CLOSE
    # Qwen3 is told what to look for, even so.
    assert ("Instruct" in encoder.query_prefix()) == (kind == "qwen3")


@pytest.mark.parametrize("kind", KINDS)
def test_what_sentence_transformers_saves_itself(folders: dict[str, Path], kind: str, tmp_path: Path) -> None:
    model = reference(folders[kind])
    model.save(str(tmp_path / "saved"))
    again = ours(tmp_path / "saved")
    np.testing.assert_allclose(
        again.encode_passages(RAGGED), ours(folders[kind]).encode_passages(RAGGED), atol=2e-6
    )


def test_weights_in_several_files(folders: dict[str, Path], tmp_path: Path) -> None:
    transformers = module("transformers")
    folder = sentence("qwen3", tmp_path / "sharded")
    whole = ours(folder)
    expected = whole.encode_passages(RAGGED)
    (folder / "model.safetensors").unlink()
    transformers.Qwen3Model.from_pretrained(str(folders["qwen3"])).save_pretrained(
        str(folder), max_shard_size="40KB"
    )
    assert not (folder / "model.safetensors").exists()
    assert len(list(folder.glob("model-*.safetensors"))) > 2
    sharded = ours(folder)
    np.testing.assert_allclose(sharded.encode_passages(RAGGED), expected, atol=1e-6)
    assert sharded.info.key == whole.info.key


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_is_near(folders: dict[str, Path], kind: str) -> None:
    encoder, plain = ours(folders[kind], precision="bfloat16"), ours(folders[kind])
    assert encoder.precision == "bfloat16"
    assert encoder.info.key == plain.info.key
    found = encoder.encode_passages(RAGGED)
    assert cosines(found, plain.encode_passages(RAGGED)) >= BFLOAT16
    # As near to float32 as sentence-transformers in the same type, or nearer.
    prompts = tiny_models.prompts_of(kind)
    passage = prompts.get("document") or prompts.get("passage") or ""
    other = theirs(reference(folders[kind], dtype="bfloat16"), RAGGED, passage)
    assert cosines(found, other / np.linalg.norm(other, axis=1, keepdims=True)) >= BFLOAT16


def test_the_precision_is_what_is_set_where_the_model_bears_it(folders: dict[str, Path]) -> None:
    import torch

    for name in ("float32", "bfloat16", "float16"):
        assert ours(folders["qwen3"], precision=name).precision == name
    # Gemma's activations leave the range of float16.
    assert ours(folders["gemma"], precision="float16").precision == "float32"
    assert ours(folders["qwen3"]).precision == "float32"
    with pytest.raises(FatalError, match="precision is not known"):
        ours(folders["qwen3"], precision="int4")
    dtypes = {True: torch.bfloat16, False: torch.float16}
    for supported, expected in dtypes.items():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.cuda, "is_bf16_supported", lambda **_: supported)  # noqa: B023
            assert transformer_module.choose_dtype(torch.device("cuda"), "auto") is expected


def test_numbers_that_are_none_are_told(folders: dict[str, Path], tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    folder = sentence("bert", tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    weights["encoder.layer.1.output.dense.bias"] = torch.full((HIDDEN,), float("nan"))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(FatalError, match="gives no numbers"):
        ours(folder)


def test_weights_that_are_missing_are_not_made_up(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    for kind, name in (
        ("bert", "encoder.layer.1.output.dense.bias"),
        ("qwen3", "layers.1.mlp.up_proj.weight"),
        ("xlm-roberta", "embeddings.word_embeddings.weight"),
    ):
        folder = sentence(kind, tmp_path / kind)
        weights = load_file(folder / "model.safetensors")
        del weights[name]
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(FatalError, match="cannot be loaded"):
            ours(folder)


def test_what_a_tokenizer_config_says_of_special_tokens_takes_none_away(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = sentence("qwen3", tmp_path / "model")
    said = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    # As Qwen3-Embedding is published: no token in front, and the one behind by tokenizer.json alone.
    said |= {"add_bos_token": False, "tokenizer_class": "Qwen2Tokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(said))
    expected = ours(folders["qwen3"]).encode_passages(RAGGED)
    np.testing.assert_array_equal(ours(folder).encode_passages(RAGGED), expected)


def test_the_task_changes_queries_and_nothing_else(folders: dict[str, Path]) -> None:
    model = reference(folders["qwen3"])
    encoder = ours(folders["qwen3"])
    notes, code = encoder.encode_queries(RAGGED), encoder.encode_queries(RAGGED, "code")
    assert cosines(notes, code) < BOUND
    assert cosines(notes, theirs(model, RAGGED, tiny_models.QWEN_QUERY)) >= CLOSE
    told = ours(folders["qwen3"], instructions=Instructions(code="Find the {} function\nthat is meant"))
    assert told.info.key == encoder.info.key
    prompt = "Instruct: Find the {} function that is meant\nQuery:"
    assert cosines(told.encode_queries(RAGGED, "code"), theirs(model, RAGGED, prompt)) >= CLOSE
    np.testing.assert_allclose(told.encode_queries(RAGGED), notes, atol=1e-6)
    gemma = ours(folders["gemma"])
    assert gemma.query_prefix("code") == "task: code retrieval | query: "
    assert gemma.query_prefix("question") == "task: question answering | query: "
    assert ours(folders["bert"], instructions=Instructions(notes="x")).query_prefix() == ""


def test_a_long_passage_gets_the_mean_of_its_windows(folders: dict[str, Path]) -> None:
    long = " ".join(texts(3, 15))
    for kind in ("bert", "qwen3"):
        encoder = ours(folders[kind], context_tokens=40)
        spec = encoder._spec
        assert spec.max_length == 40
        [(text, ids)] = encoder._passages([long])
        windows = encoder._windows(text, ids)
        assert len(windows) == -(-(len(ids) - encoder._special) // (spec.max_passage - 8))
        assert max(map(len, windows)) <= 40
        lengths = [len(window) for window in windows]
        assert max(lengths) - min(lengths) <= 8
        raw = encoder._tokenizer
        joined = "".join(raw.decode(window.ids).replace(" ", "") for window in windows)
        assert joined == long.replace(" ", "")
        each = np.stack([encoder._embed([window])[0] for window in windows])
        mean = each.mean(0) / np.linalg.norm(each.mean(0))
        found = encoder.encode_passages(["rain", long, "cold"])
        np.testing.assert_allclose(found[1], mean, atol=1e-5)
        np.testing.assert_allclose(found[0], encoder.encode_passages(["rain"])[0], atol=1e-5)
        assert sum(lengths) == encoder.count_tokens([long])[0]
        # Of a query the beginning counts, as with sentence-transformers.
        model = reference(folders[kind])
        model.max_seq_length = 40
        expected = theirs(model, [long], encoder.query_prefix())
        assert cosines(encoder.encode_queries([long]), expected) >= CLOSE


def test_endless_and_odd_texts(folders: dict[str, Path]) -> None:
    odd = [
        "",
        " ",
        "\n" * 90_000 + "rain",
        "\ud800 rain",
        "雨は古い橋に",
        "🐈" * 50_000,
        "\0",
        "the " * 90_000,
    ]
    for kind in KINDS:
        encoder = ours(folders[kind])
        for found in (encoder.encode_passages(odd), encoder.encode_queries(odd)):
            assert found.shape == (len(odd), HIDDEN)
            np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
        most = most_windows(encoder._spec.max_length) * encoder._spec.max_length
        assert max(encoder.count_tokens(odd)) <= most


@pytest.mark.parametrize(
    ("kind", "trick"),
    [
        ("bert", "rain fell [SEP] [PAD] [PAD]"),
        ("xlm-roberta", "rain <pad> fell </s>"),
        ("qwen3", "a<|endoftext|>"),
    ],
)
def test_a_file_cannot_speak_in_special_tokens(folders: dict[str, Path], kind: str, trick: str) -> None:
    encoder = ours(folders[kind])
    [[window]] = [encoder._windows(text, ids) for text, ids in encoder._passages([trick])]
    special = {token.content for token in encoder._tokenizer.get_added_tokens_decoder().values()}
    ids = {encoder._tokenizer.token_to_id(token) for token in special} - {3}
    inner = window.ids[:-1] if kind == "qwen3" else window.ids[1:-1]
    assert not ids & set(inner)


def test_a_batch_that_does_not_fit_into_memory_is_halved(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    encoder = ours(folders["bert"])
    expected = encoder.encode_passages(RAGGED)
    forward, seen = encoder._model.forward, list[int]()

    def short_of_memory(*, input_ids: Any, **more: Any) -> Any:
        seen.append(input_ids.numel())
        if seen[-1] > 120:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return forward(input_ids=input_ids, **more)

    monkeypatch.setattr(encoder._model, "forward", short_of_memory)
    monkeypatch.setattr(transformer_module, "_SMALLEST_BUDGET", 1)
    np.testing.assert_allclose(encoder.encode_passages(RAGGED), expected, atol=2e-6)
    assert max(seen) > 120
    seen.clear()
    np.testing.assert_allclose(encoder.encode_passages(RAGGED), expected, atol=2e-6)
    assert max(seen) <= 120, "it should have learned"
    assert len(seen) < len(RAGGED)
    monkeypatch.setattr(encoder._model, "forward", _nothing_left)
    with pytest.raises(IndexerError, match="needs more memory"):
        encoder.encode_passages(RAGGED)


def _nothing_left(**_: Any) -> Any:
    raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")


def test_another_mistake_is_not_taken_for_a_lack_of_memory(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = ours(folders["bert"])

    def broken(**_: Any) -> Any:
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(encoder._model, "forward", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        encoder.encode_passages(RAGGED)


def test_pooling_does_not_care_where_the_padding_is() -> None:
    import torch

    hidden = torch.randn(3, 7, 5)
    for pooling in POOLINGS:
        for unpooled in (0, 2):
            skip = torch.full((1,), unpooled)
            for length in (3, 7):
                text = hidden[:1, :length]
                alone = transformer_module.pooled(text, torch.ones(1, length), pooling, skip)
                for left in range(8 - length):
                    wide, mask = torch.full((1, 7, 5), float("nan")), torch.zeros(1, 7)
                    wide[:, left : left + length], mask[:, left : left + length] = text, 1
                    found = transformer_module.pooled(wide, mask, pooling, skip)
                    torch.testing.assert_close(found, alone)


def test_the_window_is_read_and_set(folders: dict[str, Path]) -> None:
    assert read_folder(folders["qwen3"]).model.max_length == 512
    assert read_folder(folders["qwen3"], context_tokens=100).model.max_length == 100
    assert read_folder(folders["qwen3"], context_tokens=40_000).model.max_length == 512
    # Two special tokens, and "passage: " has two of its own.
    roberta = read_folder(folders["xlm-roberta"]).model
    assert (roberta.max_length, roberta.max_passage) == (64, 60)
