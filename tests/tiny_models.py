"""Embedding models of every kind with some thousand random weights, saved as the real ones are."""

from __future__ import annotations

import importlib
import json
import random
import warnings
from pathlib import Path
from typing import Any

SENTENCE = "the cat sat on a mat while rain fell over old stone bridges and nobody knew why it was so cold"
WORDS = SENTENCE.split()
HIDDEN = 48
LENGTH = 64
QWEN_QUERY = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"
GEMMA_PROMPTS = {
    "query": "task: search result | query: ",
    "document": "title: none | text: ",
    "STS": "task: sentence similarity | query: ",
}
KINDS = ("bert", "xlm-roberta", "modernbert", "qwen3", "gemma")


def module(name: str) -> Any:
    """A library that types itself badly, imported when wanted; its warnings on import are not ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(name)


def texts(seed: int, count: int, lengths: tuple[int, ...] = (1, 2, 5, 9, 20, 33)) -> list[str]:
    """Random sentences."""
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.choice(lengths))) for _ in range(count)]


def word_tokenizer(begin: str, end: str, pad: str, *, pad_first: bool) -> Any:
    """A tokenizer of whole words with a special token on either side."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    special = [pad, begin, end, "<unk>"] if pad_first else [begin, pad, end, "<unk>"]
    vocabulary = {word: at for at, word in enumerate([*special, *sorted(set(WORDS)), *"?:.,|_", *FILLERS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(special)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A {end}",
        pair=f"{begin} $A {end} $B {end}",
        special_tokens=[(token, vocabulary[token]) for token in (begin, end)],
    )
    return tokenizer


FILLERS = ("query", "passage", "task", "search", "result", "title", "none", "text", "code", "retrieval")


def byte_tokenizer(*, end: bool) -> Any:
    """A tokenizer as Qwen3's, with a few merges; `end` for the end-of-text token behind each text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [
        ("Ġ", "w"),
        ("Ġ", "t"),
        ("h", "e"),
        ("Ġt", "he"),
        ("o", "n"),
        ("a", "t"),
        ("Ġ", "s"),
        ("l", "d"),
    ]
    vocabulary = {piece: at for at, piece in enumerate([*alphabet, *(a + b for a, b in merges)])}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    plain = processors.ByteLevel(trim_offsets=False)
    last = "<|endoftext|>"
    template = processors.TemplateProcessing(
        single=f"$A {last}", pair=f"$A {last} $B {last}", special_tokens=[(last, tokenizer.token_to_id(last))]
    )
    tokenizer.post_processor = processors.Sequence([plain, template]) if end else plain
    return tokenizer


def transformer(kind: str, folder: Path, *, seed: int = 5, **more: Any) -> Path:
    """Write config.json, model.safetensors and the tokenizer's files."""
    import torch

    transformers = module("transformers")
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    small: dict[str, Any] = {"hidden_size": HIDDEN, "num_hidden_layers": 2, "num_attention_heads": 4}
    small |= {"intermediate_size": 64, "max_position_embeddings": LENGTH, "initializer_range": 0.4}
    tokenizer, special = _tokenizer(kind)
    small |= {"vocab_size": tokenizer.get_vocab_size(), "pad_token_id": tokenizer.token_to_id(special["pad"])}
    if kind == "bert":
        model = transformers.BertModel(transformers.BertConfig(**small | more))
    elif kind == "xlm-roberta":
        # As RoBERTa: the first positions are those of the padding's number and before.
        small |= {"max_position_embeddings": LENGTH + 2, "type_vocab_size": 1}
        model = transformers.XLMRobertaModel(transformers.XLMRobertaConfig(**small | more))
    elif kind == "modernbert":
        small |= {"local_attention": 8, "global_attn_every_n_layers": 2, "cls_token_id": 1, "sep_token_id": 2}
        small |= {"bos_token_id": 1, "eos_token_id": 2, "initializer_cutoff_factor": 2.0}
        model = transformers.ModernBertModel(transformers.ModernBertConfig(**small | more))
    elif kind == "qwen3":
        small |= {"num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 512}
        model = transformers.Qwen3Model(transformers.Qwen3Config(**small | more))
    elif kind == "gemma":
        small |= {"num_key_value_heads": 1, "head_dim": 16, "use_bidirectional_attention": True}
        small |= {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}
        small |= {"query_pre_attn_scalar": 16, "bos_token_id": 1, "eos_token_id": 2}
        model = transformers.Gemma3TextModel(transformers.Gemma3TextConfig(**small | more))
    elif kind == "distilbert":
        names = {"hidden_size": "dim", "num_hidden_layers": "n_layers", "num_attention_heads": "n_heads"}
        names["intermediate_size"] = "hidden_dim"
        other = {names.get(name, name): value for name, value in small.items()}
        model = transformers.DistilBertModel(transformers.DistilBertConfig(**other | more))
    elif kind == "mpnet":
        small |= {"max_position_embeddings": LENGTH + 2}
        model = transformers.MPNetModel(transformers.MPNetConfig(**small | more))
    elif kind == "t5":
        other = {"d_model": HIDDEN, "d_kv": 12, "d_ff": 64, "num_layers": 2, "num_heads": 4}
        other |= {name: small[name] for name in ("vocab_size", "pad_token_id")}
        model = transformers.T5EncoderModel(transformers.T5Config(**other | more))
    else:
        raise ValueError(kind)
    with torch.no_grad():  # what starts as zeros and ones would hide a mistake
        for name, weight in model.named_parameters():
            if weight.ndim == 1 or "embed" in name:  # of which the padding's row starts as zeros
                weight.add_(torch.randn_like(weight) * 0.2)
            elif kind == "t5" and "shared" not in name:
                weight.copy_(torch.randn_like(weight) * 0.3)
    model.eval().save_pretrained(str(folder))
    if kind == "qwen3":  # as it is published
        config = json.loads((folder / "config.json").read_text("utf-8"))
        _write(folder / "config.json", config | {"architectures": ["Qwen3ForCausalLM"]})
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **{f"{role}_token": token for role, token in special.items()}
    )
    fast.padding_side = "left" if kind == "qwen3" else "right"  # as it is published
    fast.model_max_length = 10**30 if kind == "t5" else LENGTH if kind != "qwen3" else 512
    fast.save_pretrained(str(folder))
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def _tokenizer(kind: str) -> tuple[Any, dict[str, str]]:
    if kind == "qwen3":
        return byte_tokenizer(end=True), {"pad": "<|endoftext|>", "eos": "<|endoftext|>"}
    if kind in {"xlm-roberta", "mpnet"}:
        special = {"bos": "<s>", "eos": "</s>", "pad": "<pad>", "cls": "<s>", "sep": "</s>", "unk": "<unk>"}
        return word_tokenizer("<s>", "</s>", "<pad>", pad_first=False), special
    if kind == "gemma":
        special = {"bos": "<bos>", "eos": "<eos>", "pad": "<pad>", "unk": "<unk>"}
        return word_tokenizer("<bos>", "<eos>", "<pad>", pad_first=True), special
    special = {"cls": "[CLS]", "sep": "[SEP]", "pad": "[PAD]", "unk": "<unk>"}
    return word_tokenizer("[CLS]", "[SEP]", "[PAD]", pad_first=True), special


def modules_of(kind: str) -> list[tuple[str, dict[str, Any]]]:
    """What stands behind the transformer in a real model of this kind."""
    if kind == "gemma":
        wide = {"in_features": HIDDEN, "out_features": 4 * HIDDEN, "bias": False, "activation": "Identity"}
        back = {"in_features": 4 * HIDDEN, "out_features": HIDDEN, "bias": False, "activation": "Identity"}
        return [("Pooling", {"pooling": "mean"}), ("Dense", wide), ("Dense", back), ("Normalize", {})]
    pooling = {"qwen3": "lasttoken", "xlm-roberta": "mean"}.get(kind, "cls" if kind == "bert" else "mean")
    return [("Pooling", {"pooling": pooling}), ("Normalize", {})]


def prompts_of(kind: str) -> dict[str, str]:
    """What a real model of this kind says of its prompts."""
    if kind == "qwen3":
        return {"query": QWEN_QUERY, "document": ""}
    if kind == "gemma":
        return GEMMA_PROMPTS
    return {"query": "query: ", "passage": "passage: "} if kind == "xlm-roberta" else {}


def sentence(
    kind: str,
    folder: Path,
    *,
    modules: list[tuple[str, dict[str, Any]]] | None = None,
    prompts: dict[str, str] | None = None,
    seed: int = 5,
    **more: Any,
) -> Path:
    """Write a folder in the layout that published models have (sentence-transformers 2 to 5)."""
    transformer(kind, folder, seed=seed, **more)
    _write(folder / "sentence_bert_config.json", {"max_seq_length": None, "do_lower_case": False})
    said = prompts_of(kind) if prompts is None else prompts
    _write(
        folder / "config_sentence_transformers.json",
        {"prompts": said, "default_prompt_name": None, "similarity_fn_name": "cosine"},
    )
    listed = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]
    for at, (name, what) in enumerate(modules or modules_of(kind), start=1):
        path = f"{at}_{name}"
        listed.append(
            {"idx": at, "name": str(at), "path": path, "type": f"sentence_transformers.models.{name}"}
        )
        (folder / path).mkdir()
        if name == "Pooling":
            _write(folder / path / "config.json", _pooling(**what))
        elif name == "Dense":
            _dense(folder / path, seed=seed + at, **what)
        elif name == "LayerNorm":
            _layer_norm(folder / path, seed=seed + at)
    _write(folder / "modules.json", listed)
    return folder


def _pooling(pooling: str, *, include_prompt: bool = True) -> dict[str, Any]:
    names = {"cls": "cls_token", "max": "max_tokens", "mean": "mean_tokens", "lasttoken": "lasttoken"}
    names |= {"mean_sqrt_len_tokens": "mean_sqrt_len_tokens", "weightedmean": "weightedmean_tokens"}
    modes = {f"pooling_mode_{name}": mode in pooling.split("+") for mode, name in names.items()}
    return {"word_embedding_dimension": HIDDEN, "include_prompt": include_prompt, **modes}


def _dense(
    folder: Path, *, in_features: int, out_features: int, bias: bool, activation: str, seed: int
) -> None:
    import torch
    from safetensors.torch import save_file

    place = "linear" if activation == "Identity" else "activation"
    _write(
        folder / "config.json",
        {
            "in_features": in_features,
            "out_features": out_features,
            "bias": bias,
            "activation_function": f"torch.nn.modules.{place}.{activation}",
        },
    )
    torch.manual_seed(seed)
    weights = {"linear.weight": torch.randn(out_features, in_features) * in_features**-0.5}
    if bias:
        weights["linear.bias"] = torch.randn(out_features) * 0.3
    save_file(weights, folder / "model.safetensors")


def _layer_norm(folder: Path, *, seed: int) -> None:
    import torch
    from safetensors.torch import save_file

    _write(folder / "config.json", {"dimension": HIDDEN})
    torch.manual_seed(seed)
    save_file(
        {"norm.weight": torch.randn(HIDDEN), "norm.bias": torch.randn(HIDDEN)}, folder / "model.safetensors"
    )


def _write(file: Path, content: object) -> None:
    file.write_text(json.dumps(content), encoding="utf-8")


GGUF_NAMES = {
    "embed_tokens.weight": "token_embd.weight",
    "norm.weight": "output_norm.weight",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def gguf_name(name: str) -> str:
    """What llama.cpp calls a tensor of Qwen3."""
    if name in GGUF_NAMES:
        return GGUF_NAMES[name]
    _, layer, part = name.split(".", 2)
    part, kind = part.rsplit(".", 1)
    return f"blk.{layer}.{GGUF_NAMES[part]}.{kind}"


def write_gguf(folder: Path, file: Path, kind: str = "F16", *, pooling: int | None = 3, **more: Any) -> Path:
    """Write a folder of Qwen3's kind as llama.cpp's converter does, matrices in the given type.

    Args:
        folder: Made by `sentence` or `transformer`.
        file: Where to.
        kind: Such as ``F16`` or ``Q8_0``.
        pooling: As llama.cpp numbers them; None for a file that does not say.
        more: Further keys, or other values for those that are there; None leaves one out.
    """
    from safetensors.numpy import load_file
    from tokenizers import Tokenizer

    gguf = module("gguf")

    config = json.loads((folder / "config.json").read_text("utf-8"))
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    special = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    tokens = [tokenizer.id_to_token(at) for at in range(tokenizer.get_vocab_size())]
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    end = tokenizer.token_to_id("<|endoftext|>")
    keys: dict[str, Any] = {
        "general.name": "Tiny Embedding",
        "qwen3.block_count": config["num_hidden_layers"],
        "qwen3.context_length": config["max_position_embeddings"],
        "qwen3.embedding_length": config["hidden_size"],
        "qwen3.feed_forward_length": config["intermediate_size"],
        "qwen3.attention.head_count": config["num_attention_heads"],
        "qwen3.attention.head_count_kv": config["num_key_value_heads"],
        "qwen3.attention.key_length": config["head_dim"],
        "qwen3.attention.value_length": config["head_dim"],
        "qwen3.attention.layer_norm_rms_epsilon": float(config["rms_norm_eps"]),
        "qwen3.rope.freq_base": float(config["rope_parameters"]["rope_theta"]),
        "qwen3.pooling_type": pooling,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if token in special else 1 for token in tokens],
        "tokenizer.ggml.merges": [" ".join(merge) for merge in merges],
        "tokenizer.ggml.eos_token_id": end,
        "tokenizer.ggml.padding_token_id": end,
        "tokenizer.ggml.add_eos_token": True,
        "tokenizer.ggml.add_bos_token": False,
        **{name.replace("__", "."): value for name, value in more.items()},
    }
    writer = gguf.GGUFWriter(str(file), "qwen3")
    for name, value in keys.items():
        if isinstance(value, bool):
            writer.add_bool(name, value)
        elif isinstance(value, int):
            writer.add_uint32(name, value)
        elif isinstance(value, float):
            writer.add_float32(name, value)
        elif isinstance(value, str):
            writer.add_string(name, value)
        elif value is not None:
            writer.add_array(name, value)
    for name, weight in load_file(folder / "model.safetensors").items():
        is_matrix = weight.ndim == 2
        wanted = gguf.GGMLQuantizationType[kind if is_matrix else "F32"]
        writer.add_tensor(gguf_name(name), gguf.quants.quantize(weight, wanted), raw_dtype=wanted)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def dequantised(file: Path, folder: Path, target: Path) -> Path:
    """A folder with the weights that a .gguf file really holds, otherwise as the one it was made of."""
    import shutil

    import numpy as np
    from safetensors.numpy import load_file, save_file

    gguf = module("gguf")

    shutil.copytree(folder, target)
    read = {tensor.name: tensor for tensor in gguf.GGUFReader(str(file)).tensors}
    weights = {}
    for name, weight in load_file(folder / "model.safetensors").items():
        tensor = read[gguf_name(name)]
        plain = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        weights[name] = np.ascontiguousarray(plain.reshape(weight.shape), np.float32)
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    return target


BERT_NAMES = {
    "embeddings.word_embeddings": "token_embd",
    "embeddings.position_embeddings": "position_embd",
    "embeddings.token_type_embeddings": "token_types",
    "embeddings.LayerNorm": "token_embd_norm",
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}


PLAIN = ("embeddings.position_embeddings", "embeddings.token_type_embeddings")


def write_bert_gguf(
    folder: Path, file: Path, *, name: str, pooling: int, plain: tuple[str, ...] = PLAIN
) -> Path:
    """Write a folder of BERT's kind as llama.cpp's converter does, matrices in F16 except for the `plain`."""
    from safetensors.numpy import load_file
    from tokenizers import Tokenizer

    gguf = module("gguf")

    config = json.loads((folder / "config.json").read_text("utf-8"))
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    special = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    tokens = [tokenizer.id_to_token(at) for at in range(tokenizer.get_vocab_size())]
    writer = gguf.GGUFWriter(str(file), "bert")
    writer.add_name(name)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_layer_norm_eps(config["layer_norm_eps"])
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType(pooling))
    writer.add_token_type_count(config["type_vocab_size"])
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    # Of a vocabulary of WordPiece the converter marks what begins a word.
    writer.add_token_list([token if token in special else f"\u2581{token}" for token in tokens])
    writer.add_token_types([3 if token in special else 1 for token in tokens])
    ids = {token: at for at, token in enumerate(tokens)}
    writer.add_bos_token_id(ids["[CLS]"])
    writer.add_sep_token_id(ids["[SEP]"])
    writer.add_eos_token_id(ids["[SEP]"])
    writer.add_pad_token_id(ids["[PAD]"])
    writer.add_unk_token_id(ids["<unk>"])
    for tensor, weight in load_file(folder / "model.safetensors").items():
        part, kind = tensor.rsplit(".", 1)
        if part.startswith("encoder.layer."):
            _, _, layer, part = part.split(".", 3)
            known = f"blk.{layer}.{BERT_NAMES[part]}.{kind}"
        elif part in BERT_NAMES:
            known = f"{BERT_NAMES[part]}.{kind}"
        else:
            continue  # the pooler
        half = weight.ndim == 2 and part not in plain
        writer.add_tensor(known, weight.astype("float16" if half else "float32"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file
