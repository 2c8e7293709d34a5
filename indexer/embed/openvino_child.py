"""Translates one model for OpenVINO, in a process of its own: torch is needed for it, and much memory.

It reads an `Order` (JSON) from standard input and writes the translation and `Findings` into the order's
folder.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import sys
import traceback
import warnings
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from indexer.embed import Vectors
from indexer.embed.folder import ModelFolder
from indexer.embed.measure import PASSAGES, measure
from indexer.embed.openvino import FINDINGS, GRAPH, NAME, TABLE, Findings, OpenVinoEncoder, Order, core
from indexer.embed.openvino_int8 import calibrated, in_groups
from indexer.embed.transformer import (
    TransformerEncoder,
    load_layers,
    load_transformer,
    pad_token,
    pooled,
    stay_offline,
)
from indexer.errors import FatalError

# Vectors of a precision that is chosen automatically are those of torch in float32 to this cosine.
_SAME = 0.999
# 8 bits must be worth what they cost: this much faster than what is next.
_INT8_GAIN = 1.1
# 8 bits with the rounding in the graph; its name in the findings.
_CALIBRATED = "int8 calibrated"
_IN_8_BITS = ("int8", _CALIBRATED)
_ROUNDS = 3
_ROUND_S = 0.4
_ROWS = 256


class _Unsuitable(Exception):  # noqa: N818  an answer, not a fault
    """Why a model is not for OpenVINO."""


class _Place(NamedTuple):
    """Where the vectors of the vocabulary are; see `Findings`."""

    file: str
    offset: int
    dtype: str


def main() -> int:
    """Translate what standard input orders."""
    order = msgspec.json.decode(sys.stdin.buffer.read(), type=Order)
    stay_offline()
    warnings.simplefilter("ignore")
    try:
        findings = _translate(order)
    except _Unsuitable as reason:
        findings = Findings(engine="torch", reason=str(reason))
    except Exception as error:  # noqa: BLE001  a stranger's model may fail anywhere; torch then runs it
        traceback.print_exc()
        findings = Findings(engine="torch", reason=f"It cannot be translated ({type(error).__name__}).")
    (Path(order.target) / FINDINGS).write_bytes(msgspec.json.format(msgspec.json.encode(findings)))
    return 0


def _translate(order: Order) -> Findings:
    import torch

    openvino: Any = import_module(NAME)
    folder = ModelFolder(path=Path(order.path), model=order.model)
    target = Path(order.target)
    torch.set_num_threads(order.threads)
    model = load_transformer(folder, torch.float32)
    embedding = model.get_input_embeddings()
    # Others scale or normalize what they look up, which is then not what lies on the disk.
    if type(embedding) is not torch.nn.Embedding:
        raise _Unsuitable(f"Its embeddings are a {type(embedding).__name__}.")
    reference = TransformerEncoder(folder, "cpu", order.threads, precision="float32", load=lambda _: model)
    texts = list(_texts())
    wanted = reference.encode_passages(texts)
    graph = _graph(folder, model)
    table = _find(folder, embedding.weight) or _write(target / TABLE, embedding.weight)
    pad = pad_token(model.config)
    shape = (int(embedding.weight.shape[0]), int(embedding.weight.shape[1]))
    engine = core()
    bfloat16 = "BF16" in engine.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    names = ["float32", "bfloat16", "int8"] if bfloat16 else ["float32", "int8"]
    if order.precision != "auto":
        names = [order.precision]
    found = {
        name: Findings(
            engine=NAME, precision=name, table=table.file, offset=table.offset, dtype=table.dtype,
            shape=shape, pad=pad,
        )
        for name in names
    }  # fmt: skip
    graphs = dict.fromkeys(names, graph)

    def load(name: str) -> OpenVinoEncoder:
        # At the priority that torch has, with which it is compared.
        return OpenVinoEncoder(
            folder, target, order.threads, graph=graphs[name], findings=found[name], behind=False
        )

    encoders: dict[str, Any] = {}
    # Only for who asks for 8 bits: with one scale for a tensor all vectors of a language shift a little the
    # same way (0.0027 in a component of their mean), away from the means that are shipped.
    if order.precision == "int8":
        found[_CALIBRATED] = found["int8"]
        try:
            graphs[_CALIBRATED] = calibrated(graph, engine, _sample(load("int8")))
            encoders[_CALIBRATED] = load(_CALIBRATED)
        except (RuntimeError, FatalError):  # of a stranger's model; the others may do
            traceback.print_exc()
    if "int8" in names:
        graphs["int8"] = in_groups(graph)
    encoders |= {name: load(name) for name in names}
    names = list(encoders)
    cosines = {name: _least_cosine(encoders[name].encode_passages(texts), wanted) for name in names}
    # What was chosen by name needs no measuring, where there is one way only.
    by_name = order.forced and len(names) == 1
    rates = {} if by_name else _rates({"torch": reference, **encoders})
    fit = [name for name in names if cosines[name] >= _SAME]
    if order.precision != "auto":
        fit = fit or [max(names, key=cosines.__getitem__)]
    chosen = _choose(fit, rates)
    if chosen is None:
        raise _Unsuitable(f"Its vectors differ from those of torch (cosine {max(cosines.values()):.4f}).")
    if not order.forced and rates[chosen] <= rates["torch"]:
        raise _Unsuitable("Torch is as fast here.")
    # Half the size; for bfloat16 nothing is lost by it.
    openvino.save_model(graphs[chosen], target / GRAPH, compress_to_fp16=chosen == "bfloat16")
    saved = OpenVinoEncoder(folder, target, order.threads, findings=found[chosen])
    if (cosine := _least_cosine(saved.encode_passages(texts), wanted)) < cosines[chosen] - 0.001:
        raise _Unsuitable(f"Its vectors are others once it is written ({cosine:.4f}).")
    return msgspec.structs.replace(found[chosen], tokens_per_s=rates, cosines=cosines)


def _texts() -> Iterator[str]:
    """Texts of several languages and lengths, so that batches are padded."""
    for passage in PASSAGES:
        yield passage
        yield passage[: len(passage) // 3]
        yield passage[-40:]
    yield "bridge"
    yield ""


def _graph(folder: ModelFolder, model: Any) -> Any:
    """The model from the vectors of its tokens to the vector of the text, as an OpenVINO model."""
    import torch

    openvino: Any = import_module(NAME)
    spec = folder.model
    layers = load_layers(folder, torch.device("cpu"))

    class Whole(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, rows: torch.Tensor, mask: torch.Tensor, unpooled: torch.Tensor) -> torch.Tensor:
            hidden = self.model(inputs_embeds=rows, attention_mask=mask).last_hidden_state
            vectors = pooled(hidden, mask, spec.pooling, unpooled if not spec.include_prompt else None)
            for layer in layers:
                vectors = layer(vectors)
            unit: torch.Tensor = torch.nn.functional.normalize(vectors[:, : spec.dim], dim=1)
            return unit + 0 * unpooled[:, None]  # so that it is an input of every model

    width = int(model.get_input_embeddings().weight.shape[1])
    example = (
        torch.randn(2, 8, width),
        torch.tensor([[1] * 8, [1] * 5 + [0] * 3]),
        torch.zeros(2, dtype=torch.int64),
    )
    shapes = [[-1, -1, width], [-1, -1], [-1]]
    with contextlib.redirect_stdout(sys.stderr), torch.inference_mode():
        return openvino.convert_model(
            Whole().eval(),
            example_input=example,
            input=[openvino.PartialShape(shape) for shape in shapes],
        )


def _sample(encoder: OpenVinoEncoder) -> list[list[Any]]:
    """What the graph is given for each of the texts that have more than a word."""
    return [encoder.inputs_of(text) for text in _texts() if " " in text]


def _rates(encoders: dict[str, Any]) -> dict[str, float]:
    """Tokens a second, measured in turns: the machine is not idle."""
    seen: dict[str, list[float]] = {name: [] for name in encoders}
    for _ in range(_ROUNDS):
        for name, encoder in encoders.items():
            seen[name].append(measure(encoder, seconds=_ROUND_S))
    return {name: round(statistics.median(rates), 1) for name, rates in seen.items()}


def _choose(fit: list[str], rates: dict[str, float]) -> str | None:
    if len(fit) < 2:
        return fit[0] if fit else None
    rounded = max((name for name in fit if name in _IN_8_BITS), key=rates.__getitem__, default=None)
    exact = max((name for name in fit if name not in _IN_8_BITS), key=rates.__getitem__, default=None)
    if exact is None or (rounded is not None and rates[rounded] >= _INT8_GAIN * rates[exact]):
        return rounded
    return exact


def _least_cosine(found: Vectors, wanted: Vectors) -> float:
    return round(float((found * wanted).sum(1).min()), 6)


def _find(folder: ModelFolder, weight: Any) -> _Place | None:
    """Where in the model's own files a tensor lies as it is."""
    rows = np.unique(np.linspace(0, len(weight) - 1, _ROWS).astype(np.int64))
    wanted = weight.detach()[rows].float().numpy()
    for file in sorted(folder.transformer.glob("*.safetensors")):
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header: dict[str, Any] = json.loads(stream.read(length))
        for name, entry in header.items():
            if name == "__metadata__" or entry["shape"] != list(weight.shape):
                continue
            if entry["dtype"] not in {"F32", "F16", "BF16"}:
                continue
            place = _Place(
                str(file.relative_to(folder.path)), 8 + length + entry["data_offsets"][0], entry["dtype"]
            )
            if np.array_equal(_table(folder.path / place.file, place, weight.shape)[rows], wanted):
                return place
    return None


def _table(file: Path, place: _Place, shape: Any) -> Any:
    from indexer.embed.openvino import Table

    findings = Findings(engine=NAME, offset=place.offset, dtype=place.dtype, shape=(shape[0], shape[1]))
    return Table(file, findings)


def _write(file: Path, weight: Any) -> _Place:
    """A file of a tensor that is in the model's own files in another form only."""
    rows = weight.detach().float().numpy()
    file.write_bytes(rows.tobytes())
    return _Place(file.name, 0, "F32")


if __name__ == "__main__":
    sys.exit(main())
