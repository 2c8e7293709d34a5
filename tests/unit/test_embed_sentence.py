"""Model folders: what is read from them, and what is refused. No model is loaded, torch is not imported."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from indexer.embed.folder import Layer, Model
from indexer.embed.sentence import harmless, instruction_of, read_folder
from indexer.errors import FatalError

ROOT = Path(__file__).parents[2]
QWEN = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"
BERT = {
    "model_type": "bert",
    "hidden_size": 64,
    "max_position_embeddings": 512,
    "architectures": ["BertModel"],
}
ROBERTA = BERT | {"model_type": "xlm-roberta", "max_position_embeddings": 514, "pad_token_id": 1}
QWEN3 = {
    "model_type": "qwen3",
    "hidden_size": 1024,
    "max_position_embeddings": 32768,
    "architectures": ["Qwen3ForCausalLM"],
}
GEMMA = {"model_type": "gemma3_text", "hidden_size": 768, "max_position_embeddings": 2048}


def put(file: Path, content: object) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content), encoding="utf-8")


def weights(file: Path, tensors: dict[str, bytes], *, kind: str = "U8") -> None:
    head: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, data in tensors.items():
        head[name] = {"dtype": kind, "shape": [len(data)], "data_offsets": [end, end + len(data)]}
        end += len(data)
    raw = json.dumps(head).encode()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(struct.pack("<Q", len(raw)) + raw + b"".join(tensors.values()))


def tokenizer(file: Path, *, end: str = "[SEP]") -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = ["[CLS]", "[SEP]", "[UNK]", "<|endoftext|>", "query", "passage", ":", "a", "b"]
    made = Tokenizer(models.WordLevel({word: at for at, word in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    if end:
        made.post_processor = processors.TemplateProcessing(
            single=f"[CLS] $A {end}", special_tokens=[("[CLS]", 0), (end, words.index(end))]
        )
    made.save(str(file))


def folder(
    path: Path,
    config: dict[str, Any] = BERT,
    *,
    modules: list[tuple[str, dict[str, Any]]] | None = None,
    prompts: dict[str, str] | None = None,
    end: str = "[SEP]",
) -> Path:
    """A folder that is right; without `modules` it is one of transformers."""
    put(path / "config.json", config)
    weights(path / "model.safetensors", {"one": bytes(range(256)) * 100, "two": b"x" * 900})
    tokenizer(path / "tokenizer.json", end=end)
    if modules is not None:
        listed = [{"idx": 0, "path": "", "type": "sentence_transformers.models.Transformer"}]
        for at, (kind, said) in enumerate(modules, start=1):
            listed.append({"idx": at, "path": f"{at}_{kind}", "type": f"sentence_transformers.models.{kind}"})
            put(path / f"{at}_{kind}" / "config.json", said)
            if kind in {"Dense", "LayerNorm"}:
                weights(path / f"{at}_{kind}" / "model.safetensors", {"linear.weight": b"w" * 5000})
        put(path / "modules.json", listed)
    if prompts is not None:
        put(path / "config_sentence_transformers.json", {"prompts": prompts, "default_prompt_name": None})
    return path


def read(path: Path, **more: Any) -> Model:
    return read_folder(path, cache=path.parent / "cache", **more).model


def test_a_plain_folder(tmp_path: Path) -> None:
    model = read(folder(tmp_path / "plain"))
    assert (model.pooling, model.query_prefix, model.passage_prefix) == ("mean", "", "")
    assert (model.dim, model.max_length, model.max_passage) == (64, 512, 510)
    assert model.key.startswith("bert-64-")
    assert model.name == "plain"
    assert read(folder(tmp_path / "roberta", ROBERTA)).max_length == 512


def test_pooling_prompts_and_layers_are_read(tmp_path: Path) -> None:
    wide = {"in_features": 64, "out_features": 128, "activation_function": "torch.nn.modules.linear.Identity"}
    back = {"in_features": 128, "out_features": 32, "bias": False}
    path = folder(
        tmp_path / "full",
        modules=[
            ("Pooling", {"pooling_mode_cls_token": True, "include_prompt": False}),
            ("Dense", wide),
            ("Dense", back),
            ("Normalize", {}),
        ],
        prompts={"query": "query : ", "passage": "passage : "},
    )  # fmt: skip
    put(path / "sentence_bert_config.json", {"max_seq_length": 128, "do_lower_case": True})
    model = read(path)
    assert (model.pooling, model.include_prompt, model.lowercase) == ("cls", False, True)
    assert model.layers == (
        Layer(kind="dense", path="2_Dense", activation="Identity"),
        Layer(kind="dense", path="3_Dense", activation="Tanh"),
        Layer(kind="normalize"),
    )
    # Two special tokens, two of the prefix.
    assert (model.dim, model.max_length, model.max_passage) == (32, 128, 124)
    assert (model.query_prefix, model.passage_prefix) == ("query : ", "passage : ")


def test_newer_files_are_understood(tmp_path: Path) -> None:
    path = folder(tmp_path / "new", modules=[("Pooling", {"pooling_mode": ["cls", "max"]})])
    put(
        path / "modules.json",
        [
            {"idx": 0, "path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"},
            {
                "idx": 1,
                "path": "1_Pooling",
                "type": "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
            },
        ],
    )
    put(
        path / "sentence_bert_config.json",
        {
            "transformer_task": "feature-extraction",
            "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
            "module_output_name": "token_embeddings",
        },
    )
    model = read(path)
    assert (model.pooling, model.dim) == ("cls+max", 128)


def test_qwen3_embedding(tmp_path: Path) -> None:
    last = [
        ("Pooling", {"pooling_mode_lasttoken": True, "pooling_mode_mean_tokens": False}),
        ("Normalize", {}),
    ]
    path = folder(
        tmp_path / "any", QWEN3, modules=last, prompts={"query": QWEN, "document": ""}, end="<|endoftext|>"
    )
    model = read(path)
    assert (model.pooling, model.append, model.passage_prefix) == ("lasttoken", "", "")
    assert model.instruction == "Instruct: {}\nQuery:"
    assert (
        model.tasks["notes"] == "Given a web search query, retrieve relevant passages that answer the query"
    )
    assert {"notes", "code", "question"} == model.tasks.keys()
    assert model.max_length == 8192
    assert read(path, context_tokens=20_000).max_length == 20_000
    assert read(path, context_tokens=99_000).max_length == 32_768
    assert model.choices == (768, 512, 256, 128, 64, 32)
    # A tokenizer that puts no end-of-text token behind a text is helped.
    tokenizer(path / "tokenizer.json", end="")
    helped = read(path)
    assert helped.append == "<|endoftext|>"
    assert helped.max_passage == helped.max_length - 1
    assert helped.key != model.key
    bare = read(folder(tmp_path / "bare", QWEN3, end="<|endoftext|>"))
    assert (bare.pooling, bare.instruction) == ("lasttoken", "Instruct: {}\nQuery:")


def test_embeddinggemma(tmp_path: Path) -> None:
    identity = "torch.nn.modules.linear.Identity"
    path = folder(
        tmp_path / "any",
        GEMMA,
        modules=[
            ("Pooling", {"pooling_mode_mean_tokens": True, "include_prompt": True}),
            (
                "Dense",
                {"in_features": 768, "out_features": 3072, "bias": False, "activation_function": identity},
            ),
            (
                "Dense",
                {"in_features": 3072, "out_features": 768, "bias": False, "activation_function": identity},
            ),
            ("Normalize", {}),
        ],
        prompts={"query": "task: search result | query: ", "document": "title: none | text: "},
    )
    model = read(path)
    assert model.instruction == "task: {} | query: "
    assert model.tasks["code"] == "code retrieval"
    assert model.passage_prefix == "title: none | text: "
    assert model.choices == (512, 256, 128)
    assert (model.dim, len(model.layers), model.max_length) == (768, 3, 2048)


@pytest.mark.parametrize(
    ("place", "config", "query", "passage", "pooling"),
    [
        ("intfloat--multilingual-e5-large", ROBERTA, "query: ", "passage: ", "mean"),
        ("multilingual-e5-base", ROBERTA, "query: ", "passage: ", "mean"),
        ("E5-small-v2", BERT, "query: ", "passage: ", "mean"),
        ("bge-m3", ROBERTA, "", "", "cls"),
        ("models--intfloat--multilingual-e5-base/snapshots/0123", ROBERTA, "query: ", "passage: ", "mean"),
        (
            "mine",
            ROBERTA | {"_name_or_path": "intfloat/multilingual-e5-base"},
            "query: ",
            "passage: ",
            "mean",
        ),
        ("multilingual-e5-base", GEMMA, "", "", "mean"),
        ("bge-m3", BERT, "", "", "mean"),
        ("my-e5-base-notes", BERT, "", "", "mean"),
    ],
)
def test_well_known_models_are_recognised(
    tmp_path: Path, place: str, config: dict[str, Any], query: str, passage: str, pooling: str
) -> None:
    model = read(folder(tmp_path / place, config))
    assert (model.query_prefix, model.passage_prefix, model.pooling) == (query, passage, pooling)


def test_they_are_recognised_by_card_or_id_whatever_the_folder(tmp_path: Path) -> None:
    path = folder(tmp_path / "x", ROBERTA, modules=[("Pooling", {})], prompts={"query": "", "document": ""})
    assert read(path).passage_prefix == ""
    named = read(path, name="intfloat/multilingual-e5-base")
    assert (named.passage_prefix, named.name) == ("passage: ", "multilingual-e5-base")
    card = "---\ntags:\n- mteb\nmodel-index:\n- name: multilingual-e5-base\n  results:\n---\n# E5\n"
    (path / "README.md").write_text(card)
    carded = read(path)
    assert carded.passage_prefix == "passage: "
    assert carded.key == named.key
    instruct = read(path, name="intfloat/multilingual-e5-large-instruct")
    assert instruct.instruction == "Instruct: {}\nQuery: "
    assert instruct.passage_prefix == ""


def test_dimensions(tmp_path: Path) -> None:
    path = folder(tmp_path / "m", BERT | {"matryoshka_dimensions": [64, 48, 32, 8, "x"]})
    full = read(path)
    assert full.choices == (48, 32)
    shorter = read(path, dimensions=32)
    assert (shorter.dim, shorter.full_dim) == (32, 64)
    assert shorter.key != full.key
    assert read(path, dimensions=64).key == full.key
    for wrong in (31, 65, 1, -5):
        with pytest.raises(FatalError, match="32 to 64"):
            read(path, dimensions=wrong)


def test_the_key_names_what_makes_the_vectors_and_nothing_else(tmp_path: Path) -> None:
    cls = [("Pooling", {"pooling_mode_cls_token": True}), ("Normalize", {})]

    def made(name: str, **more: Any) -> Path:
        return folder(tmp_path / name, **{"modules": cls, "prompts": {"document": "passage : "}} | more)

    path = made("one")
    key = read(path).key
    assert read(made("copy")).key == key
    assert read(made("cased", config=BERT | {"dtype": "float16", "_name_or_path": "x"})).key == key
    assert read(made("queries", prompts={"document": "passage : ", "query": "query : "})).key == key
    others = {
        read(made("prefix", prompts={"document": ""})).key,
        read(made("pooling", modules=[("Pooling", {}), ("Normalize", {})])).key,
        read(made("config", config=BERT | {"hidden_act": "relu"})).key,
        read(made("dense", modules=[*cls, ("Dense", {"in_features": 64, "out_features": 64})])).key,
        read(path, context_tokens=100).key,
        key,
    }
    for at in (0, 12_000, 25_599):
        data = bytearray(bytes(range(256)) * 100)
        # What training does: it changes a tensor here and there and everywhere.
        data = bytearray((byte + 1) % 256 for byte in data)
        data[at] ^= 1
        weights(path / "model.safetensors", {"one": bytes(data), "two": b"x" * 900})
        others.add(read(path).key)
    tokenizer(path / "tokenizer.json", end="<|endoftext|>")
    others.add(read(path).key)
    dense = made("other", modules=[*cls, ("Dense", {"in_features": 64, "out_features": 64})])
    weights(dense / "3_Dense" / "model.safetensors", {"linear.weight": b"v" * 5000})
    others.add(read(dense).key)
    assert len(others) >= 10
    # However long the longest input is, beyond what a passage of a library can be.
    long = folder(tmp_path / "long", QWEN3, end="<|endoftext|>")
    assert read(long).key == read(long, context_tokens=32_000).key


def test_what_was_measured_is_remembered_and_a_change_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder(tmp_path / "m")
    first = read(path)

    def refuse(*_: object) -> None:
        raise AssertionError("measured again")

    with monkeypatch.context() as patch:
        patch.setattr("indexer.embed.sentence._fingerprint", refuse)
        assert read(path) == first
        assert read(path, dimensions=32).dim == 32
        weights(path / "model.safetensors", {"one": b"other" * 200})
        with pytest.raises(AssertionError, match="again"):
            read(path)
    assert read(path).key != first.key
    for file in (tmp_path / "cache").iterdir():
        file.write_text("{")
    assert read(path).key != first.key


def _remove(name: str) -> Callable[[Path], None]:
    return lambda path: (path / name).unlink()


def _put(name: str, content: object) -> Callable[[Path], None]:
    return lambda path: put(path / name, content)


def _write(name: str, data: bytes) -> Callable[[Path], None]:
    return lambda path: [(path / name).write_bytes(data)].clear()


def _pickled(path: Path) -> None:
    (path / "model.safetensors").rename(path / "pytorch_model.bin")


def _sentencepiece(path: Path) -> None:
    (path / "tokenizer.json").rename(path / "sentencepiece.bpe.model")


def _part(kind: str, at: str = "sentence_transformers.models.") -> dict[str, Any]:
    return {"idx": 1, "path": "1_Pooling", "type": at + kind}


FIRST: dict[str, Any] = {"idx": 0, "path": "", "type": "sentence_transformers.models.Transformer"}
REFUSED: list[tuple[str, Callable[[Path], None], str]] = [
    ("no config", _remove("config.json"), "Choose the folder of a model"),
    ("no model type", _put("config.json", {"hidden_size": 64}), "Choose the folder of a model"),
    ("no size", _put("config.json", {"model_type": "bert"}), "how long its vectors are"),
    ("no JSON", _write("config.json", b"{"), "cannot be read"),
    ("not text", _write("config.json", b"\xff\xfe{}"), "cannot be read"),
    ("a list", _put("config.json", []), "not what it should be"),
    ("deep", _write("config.json", b"[" * 100_000), "cannot be read"),
    ("no weights", _remove("model.safetensors"), "There is no model.safetensors"),
    ("pickled weights", _pickled, "pickled"),
    ("no tokenizer", _remove("tokenizer.json"), "There is no tokenizer.json"),
    ("another tokenizer", _sentencepiece, "only sentencepiece.bpe.model"),
    ("a broken tokenizer", _write("tokenizer.json", b"{}"), "tokenizer.json cannot be read"),
    ("an adapter", _put("adapter_config.json", {}), "adapter"),
    ("remote code", _put("config.json", BERT | {"auto_map": {"AutoModel": "m.M"}}), "program code"),
    ("quantised", _put("config.json", BERT | {"quantization_config": {"bits": 4}}), "quantization_config"),
    ("own modules", _put("modules.json", [FIRST, _part("Part", "custom.")]), "program code of its own"),
    ("evil modules", _put("modules.json", [FIRST, _part("os;system")]), "program code of its own"),
    ("no modules", _put("modules.json", []), "not what it should be"),
    ("static", _put("modules.json", [_part("StaticEmbedding")]), "only transformers"),
    ("a strange part", _put("modules.json", [FIRST, _part("CNN")]), "CNN"),
    ("no pooling", _put("modules.json", [FIRST]), "no Pooling"),
    ("outside", _put("modules.json", [FIRST | {"path": "../x"}]), "not inside the folder"),
    ("outside too", _put("modules.json", [FIRST | {"path": "/etc"}]), "not inside the folder"),
    ("a strange pooling", _put("1_Pooling/config.json", {"pooling_mode": "magic"}), "magic"),
    ("for chats", _put("sentence_bert_config.json", {"modality_config": {"message": {}}}), "messages"),
    ("for words", _put("sentence_bert_config.json", {"query_expansion": {"length": 32}}), "each word"),
    ("for masks", _put("sentence_bert_config.json", {"transformer_task": "fill-mask"}), "fill-mask"),
    ("too short", _put("sentence_bert_config.json", {"max_seq_length": 4}), "nothing is left"),
    ("cut off", _write("model.safetensors", b"\x08\0\0\0\0\0\0\0{"), "damaged"),
    ("a huge head", _write("model.safetensors", b"\xff" * 100), "damaged"),
    ("an empty file", _write("model.safetensors", b""), "damaged"),
]  # fmt: skip


@pytest.mark.parametrize(("spoil", "why"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_what_cannot_be_used_is_refused_with_the_reason(
    tmp_path: Path, spoil: Callable[[Path], None], why: str
) -> None:
    path = folder(tmp_path / "m", modules=[("Pooling", {})])
    read(path)
    spoil(path)
    with pytest.raises(FatalError, match=why) as caught:
        read(path)
    assert str(path) in caught.value.message or why == "nothing is left"


def test_dense_layers_that_are_not_understood_are_refused(tmp_path: Path) -> None:
    pooling: tuple[str, dict[str, Any]] = ("Pooling", {})
    right: dict[str, Any] = {"in_features": 64, "out_features": 8}
    cases: list[tuple[dict[str, Any], str]] = [
        ({"in_features": 63}, "do not fit"),
        ({"out_features": "8"}, "do not fit"),
        ({"activation_function": "os.system"}, "os.system"),
        ({"activation_function": "torch.nn.modules.activation.MultiheadAttention"}, "Multihead"),
        ({"module_input_name": "token_embeddings"}, "vectors of words"),
    ]
    for at, (wrong, why) in enumerate(cases):
        with pytest.raises(FatalError, match=why):
            read(folder(tmp_path / str(at), modules=[pooling, ("Dense", right | wrong)]))
    pickled = folder(tmp_path / "pickled", modules=[pooling, ("Dense", right)])
    (pickled / "2_Dense" / "model.safetensors").rename(pickled / "2_Dense" / "pytorch_model.bin")
    with pytest.raises(FatalError, match="2_Dense are pickled"):
        read(pickled)


def test_shards(tmp_path: Path) -> None:
    path = folder(tmp_path / "m")
    whole = read(path)
    (path / "model.safetensors").unlink()
    weights(path / "model-1.safetensors", {"two": b"x" * 900})
    weights(path / "model-2.safetensors", {"one": bytes(range(256)) * 100})
    index = path / "model.safetensors.index.json"
    put(index, {"weight_map": {"one": "model-2.safetensors", "two": "model-1.safetensors"}})
    assert read(path).key == whole.key
    for name, why in (
        ("../a.safetensors", "no safetensors"),
        ("x.bin", "no safetensors"),
        ("b.safetensors", "missing"),
    ):
        put(index, {"weight_map": {"one": name}})
        with pytest.raises(FatalError, match=why):
            read(path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
NAMES = {
    "config.json": [
        *BERT,
        "text_config",
        "auto_map",
        "dim",
        "d_model",
        "quantization_config",
        "pad_token_id",
    ],
    "modules.json": ["type", "path"],
    "config_sentence_transformers.json": ["prompts", "default_prompt_name", "matryoshka_dims"],
    "sentence_bert_config.json": ["max_seq_length", "modality_config", "transformer_task", "do_lower_case"],
    "1_Pooling/config.json": ["pooling_mode", "include_prompt", "pooling_mode_cls_token"],
    "2_Dense/config.json": ["in_features", "out_features", "activation_function", "use_residual"],
    "tokenizer_config.json": ["model_max_length", "add_eos_token", "eos_token"],
}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    dense: dict[str, Any] = {"in_features": 64, "out_features": 32}
    root = tmp_path_factory.mktemp("good")
    return folder(root / "m", modules=[("Pooling", {}), ("Dense", dense)], prompts={"query": "a"})


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_a_file_says_the_folder_is_read_or_refused(good: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(NAMES)))
    file = good / name
    before = file.read_bytes() if file.is_file() else None
    said = json.loads(before) if before is not None else {}
    changed = data.draw(st.dictionaries(st.sampled_from(NAMES[name]), JSON, max_size=3))
    new = [part | changed for part in said] if isinstance(said, list) else said | changed
    file.write_text(json.dumps(data.draw(JSON) if data.draw(st.integers(0, 9)) == 0 else new))
    try:
        assert read(good).dim > 0
    except FatalError:
        pass
    finally:
        file.unlink()
        if before is not None:
            file.write_bytes(before)


def test_a_config_is_made_harmless() -> None:
    strange = {
        "attn_implementation": "evil/kernels",
        "text_config": {"_attn_implementation": "x", "auto_map": {"AutoModel": "m.M"}, "hidden_size": 8},
        "parts": [{"use_kernels": True}, 1],
    }
    assert harmless(strange) == {"text_config": {"hidden_size": 8}, "parts": [{}, 1]}


def test_templates_are_found_in_prompts() -> None:
    assert instruction_of(QWEN)[0] == "Instruct: {}\nQuery:"
    assert instruction_of("Instruct: Find it\nQuery: ") == ("Instruct: {}\nQuery: ", "Find it")
    assert instruction_of("task: search result | query: ") == ("task: {} | query: ", "search result")
    for plain in ("query: ", "", "Instruct: a\nb\nQuery:", "title: none | text: "):
        assert instruction_of(plain) == ("", "")


def test_reading_a_folder_needs_no_torch(tmp_path: Path) -> None:
    path = folder(tmp_path / "m")
    code = (
        "import sys; from pathlib import Path; from indexer.embed.sentence import read_folder\n"
        f"read_folder(Path({str(path)!r}), cache=Path({str(tmp_path)!r}))\n"
        "assert not {'torch', 'transformers', 'safetensors'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)
