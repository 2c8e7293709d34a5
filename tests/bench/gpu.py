"""The encoder on a GPU, against its matrix products and sentence-transformers: ``python -m tests.bench.gpu``.

Qwen3-Embedding-0.6B's architecture with random weights (speed does not depend on them) and a tokenizer made
here, so that nothing is fetched. It runs from a bare checkout with torch, numpy, transformers, tokenizers,
safetensors, msgspec and platformdirs; where sentence-transformers is there, it is measured in the same run.
Ends with JSON. ``--device cpu --tiny`` runs the same code with a tiny model.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import json
import logging
import os
import random
import statistics
import sys
import tempfile
import time
import types
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

if importlib.util.find_spec("tomli_w") is None:  # settings are read here, and never written
    sys.modules["tomli_w"] = types.ModuleType("tomli_w")

from indexer.embed import Vectors
from indexer.embed.runner import COMPILE, GRAPHS
from indexer.embed.sentence import QWEN_END, QWEN_QUERY, read_folder
from indexer.embed.tokenized import Input
from indexer.embed.transformer import TransformerEncoder, stay_offline

ROOT = Path(__file__).resolve().parents[2]
Encode = Callable[[list[str]], Vectors]
# https://huggingface.co/Qwen/Qwen3-Embedding-0.6B, config.json
QWEN = {
    "hidden_size": 1024,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 3072,
    "vocab_size": 151_669,
    "max_position_embeddings": 32_768,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000},
    "tie_word_embeddings": True,
}
TINY = QWEN | {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 96,
    "vocab_size": 9_000,
}
# What a report on an RTX 4090 says of sentence-transformers with this model: ms of one sentence, of 100, GB.
REPORT = {"one_ms": 187.0, "hundred_ms": 312.0, "memory_gb": 5.2}
# What is off until it is measured; see `indexer.embed.runner`.
VARIANTS = {
    "packed+graphs": frozenset({GRAPHS}),
    "packed+compile": frozenset({COMPILE}),
    "packed+compile+graphs": frozenset({COMPILE, GRAPHS}),
}
_MERGES = 8_000
_SHORT_WORDS = (6, 14)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a model of a few thousand weights")
    parser.add_argument("--seconds", type=float, default=420, help="begin nothing new after so long")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    parser.add_argument("--profile", action="store_true", help="list the kernels of 100 sentences")
    options = parser.parse_args()
    stay_offline()
    warnings.simplefilter("ignore")
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="  (%(name)s: %(message)s)")
    logging.getLogger("transformers").setLevel(logging.ERROR)
    import torch

    if options.device.startswith("cuda") and not torch.cuda.is_available():
        sys.exit(
            f"torch {torch.__version__} finds no GPU here, so there is nothing to measure. "
            "`--device cpu --tiny` runs the same code with a tiny model."
        )
    with tempfile.TemporaryDirectory(prefix="dragoman-bench-") as scratch:
        os.environ["DRAGOMAN_CACHE"] = str(Path(scratch) / "cache")
        found = _Bench(options, Path(scratch)).run()
    text = json.dumps(found, indent=1)
    _say(text)
    if options.json:
        options.json.write_text(text, encoding="utf-8")


class _Bench:
    def __init__(self, options: argparse.Namespace, scratch: Path) -> None:
        import torch

        self._options = options
        self._until = time.monotonic() + options.seconds
        self._torch: Any = torch
        self._cuda = options.device.startswith("cuda")
        self._config = TINY if options.tiny else QWEN
        self._dtype = torch.bfloat16 if self._cuda else torch.float32
        self._lengths = (64, 256) if options.tiny else (512, 2_048, 8_192)
        # So many tokens of each length; sentence-transformers, which is slower, gets a part of them.
        self._tokens = 4_096 if options.tiny else 262_144
        self._rounds = 2 if options.tiny else 5
        self._words = _words()
        self._folder = scratch / "qwen3-random"
        self._wanted: Vectors | None = None
        self._long_texts: dict[int, list[str]] = {}
        self._found: dict[str, Any] = {"report_rtx_4090": REPORT}

    def run(self) -> dict[str, Any]:
        """All of it, as far as there is time."""
        torch = self._torch
        self._found |= {
            "device": torch.cuda.get_device_name() if self._cuda else "cpu",
            "torch": torch.__version__,
            "transformers": importlib.import_module("transformers").__version__,
            "dtype": str(self._dtype),
        }
        _say(", ".join(f"{name} {value}" for name, value in self._found.items() if isinstance(value, str)))
        self._timed("model written", lambda: _write_model(self._folder, self._config, self._words))
        for name, stage in (
            ("products", self._products),
            ("as shipped", partial(self._variants, {"packed": frozenset()})),
            ("sentence-transformers", self._reference),
            ("variants", partial(self._variants, VARIANTS)),
            ("ratios", self._ratios),
        ):
            if time.monotonic() > self._until and name != "ratios":
                _say(f"{name}: left out, no time")
                continue
            self._timed(name, stage)
        return self._found

    def _timed(self, name: str, stage: Callable[[], object]) -> None:
        begun = time.monotonic()
        stage()
        _say(f"[{name}: {time.monotonic() - begun:.0f} s]")

    # --- limits ---------------------------------------------------------------------------------------

    @property
    def _flops(self) -> dict[str, float]:
        """Operations a token: in products with weights, and in attention a token that is seen."""
        config: dict[str, Any] = self._config
        heads, width = config["num_attention_heads"] * config["head_dim"], config["hidden_size"]
        keys = config["num_key_value_heads"] * config["head_dim"]
        weights = 2 * width * heads + 2 * width * keys + 3 * width * config["intermediate_size"]
        layers = config["num_hidden_layers"]
        return {"linear": 2.0 * layers * weights, "seen": 4.0 * layers * heads}

    def _of(self, length: float) -> float:
        """Operations a token of a text of that length; half of it is seen on average."""
        return self._flops["linear"] + self._flops["seen"] * length / 2

    def _products(self) -> None:
        """The rate of matrix products in the model's shapes, weighed as the model has them, in FLOP/s."""
        torch, config = self._torch, self._config
        rows = 1_024 if self._options.tiny else 32_768
        heads = config["num_attention_heads"] * config["head_dim"]  # type: ignore[operator]
        keys = config["num_key_value_heads"] * config["head_dim"]  # type: ignore[operator]
        width, inner = config["hidden_size"], config["intermediate_size"]
        shapes = [(width, heads), (width, keys), (width, keys), (heads, width)]
        shapes += [(width, inner), (width, inner), (inner, width)]
        total = took = 0.0
        device, dtype = self._options.device, self._dtype
        for source, target in shapes:
            left = torch.randn(rows, source, device=device, dtype=dtype)
            right = torch.randn(target, source, device=device, dtype=dtype)
            took += self._median(partial(torch.nn.functional.linear, left, right), 20)
            total += 2.0 * rows * source * target
        self._found["products_tflops"] = total / took / 1e12
        if self._cuda:
            square = torch.randn(8_192, 8_192, device=device, dtype=dtype)
            rate = 2.0 * 8_192**3 / self._median(lambda: square @ square, 20) / 1e12
            self._found["products_8192_tflops"] = rate
        _say(f"matrix products in the model's shapes: {self._found['products_tflops']:.1f} TFLOP/s")
        linear, seen = self._flops["linear"], self._flops["seen"]
        _say(f"a token takes {linear / 1e9:.3f} GFLOP, and {seen / 1e3:.0f} kFLOP for each token it sees")

    def _median(self, work: Callable[[], object], times: int) -> float:
        """Seconds of one run."""
        torch = self._torch
        for _ in range(3):
            work()
        seen: list[float] = []
        for _ in range(times):
            if self._cuda:
                begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                begun.record()
                work()
                ended.record()
                ended.synchronize()
                seen.append(begun.elapsed_time(ended) / 1000)
            else:
                start = time.perf_counter()
                work()
                seen.append(time.perf_counter() - start)
        return float(statistics.median(seen))

    # --- what is measured -----------------------------------------------------------------------------

    def _texts(self, tokens: int, count: int, counts: Callable[[list[str]], list[int]]) -> list[str]:
        """Random texts of at most, and nearly, so many tokens."""
        draw = random.Random(tokens)
        a_word = sum(counts([" ".join(self._words[:2_000])])) / 2_000
        texts = []
        for _ in range(count):
            words = draw.choices(self._words, k=int(tokens / a_word))
            while (found := counts([" ".join(words)])[0]) > tokens:
                words = words[: int(len(words) * min(0.99, tokens / found))]
            texts.append(" ".join(words))
        return texts

    def _sentences(self, count: int) -> list[str]:
        draw = random.Random(count)
        return [" ".join(draw.choices(self._words, k=draw.randint(*_SHORT_WORDS))) for _ in range(count)]

    def _variants(self, variants: dict[str, frozenset[str]]) -> None:
        """This program's own encoder, with or without what is off until it is measured."""
        rows: dict[str, Any] = self._found.setdefault("ours", {})
        for name, chosen in variants.items():
            if time.monotonic() > self._until:
                _say(f"{name}: left out, no time")
                continue
            try:
                with self._memory() as memory:
                    encoder = self._load(chosen)
                    row: dict[str, Any] = {"packed": encoder.packed}
                    self._measure(row, encoder, name, long=GRAPHS not in chosen or len(chosen) == 2)
                row |= memory
                vectors = encoder.encode_passages(self._check)
                self._wanted = vectors if self._wanted is None else self._wanted
                row["least_cosine_to_packed"] = float((vectors * self._wanted).sum(1).min())
            except Exception as error:
                if not chosen:
                    raise
                logging.getLogger("bench").exception("%s cannot be measured", name)
                row = {"error": f"{type(error).__name__}: {str(error)[:300]}"}
            rows[name] = row
            if self._options.profile and self._cuda and name == "packed":
                self._profile(encoder)
            del encoder
            self._free()

    def _load(self, extras: frozenset[str]) -> TransformerEncoder:
        return TransformerEncoder(
            read_folder(self._folder), self._options.device, packed_anyway=not self._cuda, extras=extras
        )

    def _measure(self, row: dict[str, Any], encoder: TransformerEncoder, name: str, *, long: bool) -> None:
        self._latencies(row, encoder.encode_passages, name)
        if not long:
            return
        row["long"] = {}
        for length in self._lengths:
            texts = self._long(length, encoder)
            tokens = sum(encoder.count_tokens(texts))
            # As a person has it, and the device alone.
            whole = self._seconds(partial(encoder.encode_passages, texts))
            inputs = [Input(ids, 0) for ids in encoder._tokenize("", texts)]
            alone = self._seconds(partial(encoder._embed, inputs))
            found = self._rates(length, tokens, alone) | {"tokens_per_s_with_tokenizing": tokens / whole}
            row["long"][length] = found
            _say(f"{name}, {length} tokens: {_rates_in_words(found)}, with tokenizing {tokens / whole:,.0f}")
        begun = time.perf_counter()
        encoder.count_tokens(texts)
        row["tokenizer_tokens_per_s"] = tokens / (time.perf_counter() - begun)

    def _long(self, length: int, encoder: TransformerEncoder) -> list[str]:
        """Always the same texts of a length; the reference gets the same."""
        if length not in self._long_texts:
            count = max(4, self._tokens // length)
            self._long_texts[length] = self._texts(length, count, encoder.count_tokens)
        return self._long_texts[length]

    def _latencies(self, row: dict[str, Any], encode: Encode, name: str) -> None:
        self._check = [*self._sentences(40), " ".join(self._words[:300])]
        row["ms"] = {}
        for count in (1, 100, 1_000):
            texts = self._sentences(count)
            seconds = self._seconds(partial(encode, texts), 5 * self._rounds)
            row["ms"][count] = 1000 * seconds
        _say(f"{name}: " + ", ".join(f"{count} short {ms:.1f} ms" for count, ms in row["ms"].items()))

    def _seconds(self, work: Callable[[], object], times: int = 0) -> float:
        """The median of what a caller waits, warmed up."""
        for _ in range(2):
            work()
        seen = []
        for _ in range(times or self._rounds):
            begun = time.perf_counter()
            work()
            seen.append(time.perf_counter() - begun)
        return float(statistics.median(seen))

    def _rates(self, length: int, tokens: int, seconds: float) -> dict[str, float]:
        limit = self._found.get("products_tflops", float("nan")) * 1e12
        return {
            "tokens_per_s": tokens / seconds,
            "tflops": tokens * self._of(length) / seconds / 1e12,
            "share_of_products": tokens * self._of(length) / seconds / limit,
            "share_without_attention": tokens * self._flops["linear"] / seconds / limit,
        }

    def _reference(self) -> None:
        """sentence-transformers with its defaults, on the same texts."""
        try:
            package: Any = importlib.import_module("sentence_transformers")
        except ImportError as error:
            self._found["sentence_transformers"] = {"error": str(error)}
            _say("sentence-transformers is not installed: nothing to compare with")
            return
        row: dict[str, Any] = {"version": package.__version__}
        with self._memory() as memory:
            kwargs = {"dtype": self._dtype}
            model = package.SentenceTransformer(
                str(self._folder), device=self._options.device, local_files_only=True, model_kwargs=kwargs
            )

            encode = partial(model.encode, show_progress_bar=False)
            self._latencies(row, encode, "sentence-transformers")
            row["long"] = {}
            for length, texts in self._long_texts.items():
                part = texts[: max(4, len(texts) // 4)]
                tokens = len(part) * length
                found = self._rates(length, tokens, self._seconds(partial(encode, part), 2))
                row["long"][length] = found
                _say(f"sentence-transformers, {length} tokens: {_rates_in_words(found)}")
                if time.monotonic() > self._until:
                    break
        row |= memory
        if self._wanted is not None:
            row["least_cosine_to_packed"] = float((encode(self._check) * self._wanted).sum(1).min())
        self._found["sentence_transformers"] = row

    def _ratios(self) -> None:
        """Where it stands against what it must reach."""
        theirs = self._found.get("sentence_transformers", {})
        ratios: dict[str, Any] = {}
        for name, row in self._found.get("ours", {}).items():
            if "error" in row:
                continue
            one: dict[str, Any] = {"hundred_short_ms": row["ms"].get(100)}
            one["times_faster_short"] = {
                count: theirs["ms"][count] / ms for count, ms in row["ms"].items() if "ms" in theirs
            }
            one["times_faster_long"] = {
                length: found["tokens_per_s_with_tokenizing"] / theirs["long"][length]["tokens_per_s"]
                for length, found in row.get("long", {}).items()
                if length in theirs.get("long", {})
            }
            one["share_of_products"] = {
                length: found["share_of_products"] for length, found in row.get("long", {}).items()
            }
            if self._cuda and not self._options.tiny:
                one["times_faster_than_report"] = {
                    "one": REPORT["one_ms"] / row["ms"][1],
                    "hundred": REPORT["hundred_ms"] / row["ms"][100],
                }
            ratios[name] = one
        self._found["ratios"] = ratios

    # --- the device -----------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _memory(self) -> Iterator[dict[str, float]]:
        """The most that was taken on the device meanwhile, in GB."""
        found: dict[str, float] = {}
        self._free()
        if self._cuda:
            self._torch.cuda.reset_peak_memory_stats()
        yield found
        if self._cuda:
            found["allocated_gb"] = self._torch.cuda.max_memory_allocated() / 1e9
            found["reserved_gb"] = self._torch.cuda.max_memory_reserved() / 1e9

    def _free(self) -> None:
        import gc

        gc.collect()
        if self._cuda:
            self._torch.cuda.empty_cache()

    def _profile(self, encoder: TransformerEncoder) -> None:
        """How many kernels 100 sentences take, and how long the device works at them."""
        profiler: Any = importlib.import_module("torch.profiler")
        texts = self._sentences(100)
        activities = [profiler.ProfilerActivity.CPU, profiler.ProfilerActivity.CUDA]
        with profiler.profile(activities=activities) as profile:
            encoder.encode_passages(texts)
        events = [event for event in profile.events() if str(event.device_type).endswith("CUDA")]
        device_ms = sum(event.device_time for event in events) / 1000
        self._found["hundred_short_kernels"] = {"count": len(events), "device_ms": device_ms}
        _say(profile.key_averages().table(sort_by="cuda_time_total", row_limit=25))


def _words() -> list[str]:
    """Words of the texts that come with the program, in their frequency."""
    files = sorted([*(ROOT / "docs").rglob("*.md"), *(ROOT / "assets").rglob("*.txt"), ROOT / "README.md"])
    text = " ".join(file.read_text("utf-8", "replace") for file in files if file.is_file())
    words = text.split()
    random.Random(1).shuffle(words)
    return words


def _write_model(folder: Path, config: dict[str, Any], words: list[str]) -> None:
    """A folder as published models have it: random weights, and a tokenizer trained on our words."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    transformers: Any = importlib.import_module("transformers")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_MERGES,
        special_tokens=[QWEN_END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    lines = (" ".join(words[first : first + 50]) for first in range(0, len(words), 50))
    tokenizer.train_from_iterator(lines, trainer)
    end = tokenizer.token_to_id(QWEN_END)
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single=f"$A {QWEN_END}", pair=f"$A {QWEN_END} $B {QWEN_END}", special_tokens=[(QWEN_END, end)]
            ),
        ]
    )
    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(1)
    made = transformers.Qwen3Config(**config, pad_token_id=end, eos_token_id=end)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            model = transformers.Qwen3Model(made)
    finally:
        torch.set_default_dtype(before)
    model.save_pretrained(str(folder))
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=QWEN_END, eos_token=QWEN_END, padding_side="left"
    )
    fast.model_max_length = 8_192
    fast.save_pretrained(str(folder))
    tokenizer.save(str(folder / "tokenizer.json"))
    pooling = {"word_embedding_dimension": config["hidden_size"], "pooling_mode_lasttoken": True}
    pooling |= {"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": False}
    kinds = ("Transformer", "Pooling", "Normalize")
    paths = ("", "1_Pooling", "2_Normalize")
    for path in paths[1:]:
        (folder / path).mkdir()
    for name, content in {
        "modules.json": [
            {"idx": at, "name": str(at), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for at, (kind, path) in enumerate(zip(kinds, paths, strict=True))
        ],
        "1_Pooling/config.json": pooling,
        "sentence_bert_config.json": {"max_seq_length": 8_192, "do_lower_case": False},
        "config_sentence_transformers.json": {
            "prompts": {"query": QWEN_QUERY, "document": ""},
            "default_prompt_name": None,
            "similarity_fn_name": "cosine",
        },
    }.items():
        (folder / name).write_text(json.dumps(content), encoding="utf-8")


def _rates_in_words(found: dict[str, float]) -> str:
    return (
        f"{found['tokens_per_s']:,.0f} tokens/s, {found['tflops']:.1f} TFLOP/s, "
        f"{100 * found['share_of_products']:.0f} % of its products' rate"
    )


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
