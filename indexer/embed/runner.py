"""Runs a packed model so that the device always has the next batch before it is done with this one."""

from __future__ import annotations

import contextlib
import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from indexer.embed import Vectors, packed
from indexer.embed.packed import Shape
from indexer.embed.tokenized import Input

if TYPE_CHECKING:
    import torch

_log = logging.getLogger(__name__)

GRAPHS = "graphs"
COMPILE = "compile"
# What may be faster, and is not on until it was measured: names of these two, with commas between.
VARIABLE = "DRAGOMAN_GPU"
# Batches up to here are short of work rather than of time: starting a kernel costs as much as running it.
_GRAPH_TOKENS = 4_096
_MOST_GRAPHS = 24
_WARM_UPS = 2


def wanted() -> frozenset[str]:
    """What the environment asks for."""
    return frozenset(filter(None, os.environ.get(VARIABLE, "").replace(" ", "").split(",")))


class Started:
    """A batch that is on its way."""

    def __init__(self, inputs: list[Input], rows: torch.Tensor, event: Any) -> None:
        """Take note of it.

        Args:
            inputs: The texts.
            rows: Float32 (texts, dim) on the host, where they will be.
            event: Passed by the device when they are; None where they are already.
        """
        self.inputs = inputs
        self._rows = rows
        self._event = event

    def result(self) -> Vectors:
        """Float32 (texts, dim) of unit length, waiting for them.

        Raises:
            RuntimeError: The device failed.
        """
        if self._event is not None:
            self._event.synchronize()
        return np.array(self._rows.numpy(), np.float32)


@dataclass(frozen=True, slots=True)
class _Graph:
    """A recorded pass: what it reads, what it writes, and how it is done again."""

    flat: torch.Tensor
    rows: torch.Tensor
    graph: Any


class PackedRunner:
    """A packed model and what follows it. One thread owns it."""

    def __init__(
        self,
        model: Any,
        layers: Sequence[Callable[[torch.Tensor], torch.Tensor]],
        pooling: str,
        dim: int,
        pad: int,
        *,
        extras: AbstractSet[str] = frozenset(),
    ) -> None:
        """Prepare.

        Args:
            model: A transformer that `packed.switch` has switched.
            layers: What follows the pooling: functions of float32 (n, dim).
            pooling: See `indexer.embed.folder.Model.pooling`.
            dim: Of what the last layer gives, so much is used.
            pad: The token that fills up.
            extras: Of `GRAPHS` and `COMPILE`, what is tried.
        """
        self._model, self._layers = model, layers
        self._pooling, self._dim, self._pad = pooling, dim, pad
        self._first = packed.first_position(model)
        self._device: torch.device = model.device
        self._pinned = self._device.type == "cuda"
        self._rounds = GRAPHS in extras
        self._graphs: OrderedDict[Shape, _Graph] = OrderedDict()
        self._pool: Any = None
        if COMPILE in extras:
            compile_layers(model)

    def start(self, inputs: list[Input]) -> Started:
        """Hand a batch to the device, without waiting for it.

        Raises:
            RuntimeError: The device failed, or had too little memory.
        """
        import torch

        shape = packed.shape_of(inputs)
        rounds = self._rounds and shape.tokens <= _GRAPH_TOKENS
        if rounds:
            shape = packed.rounded(shape)
        # Streams and events are of the device that is the current one.
        here = torch.cuda.device(self._device) if self._pinned else contextlib.nullcontext()
        with torch.inference_mode(), here:
            host = torch.empty(shape.size, dtype=torch.int64, pin_memory=self._pinned)
            packed.pack(inputs, shape, host.numpy(), first_position=self._first, pad=self._pad)
            if rounds and self._pinned and (graph := self._graph(shape)) is not None:
                graph.flat.copy_(host, non_blocking=True)
                graph.graph.replay()
                rows = graph.rows
            else:
                rows = self._vectors(host.to(self._device, non_blocking=True), shape)
            rows = rows[: len(inputs)]
            if not self._pinned:
                return Started(inputs, rows.cpu(), None)
            back = torch.empty(rows.shape, dtype=torch.float32, pin_memory=True)
            back.copy_(rows, non_blocking=True)
            event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
            event.record()
            return Started(inputs, back, event)

    def _vectors(self, flat: torch.Tensor, shape: Shape) -> torch.Tensor:
        """Float32 (shape.texts, dim) of unit length, on the device."""
        import torch

        vectors = packed.forward(self._model, flat, shape, self._pooling)
        for layer in self._layers:
            vectors = layer(vectors)
        return torch.nn.functional.normalize(vectors[:, : self._dim], dim=1)

    def _graph(self, shape: Shape) -> _Graph | None:
        """The recorded pass for batches of a shape; None where it cannot be recorded."""
        import torch

        if shape in self._graphs:
            self._graphs.move_to_end(shape)
            return self._graphs[shape]
        while len(self._graphs) >= _MOST_GRAPHS:
            self._graphs.popitem(last=False)
        try:
            self._graphs[shape] = self._record(shape)
        except RuntimeError as error:
            _log.warning("Passes cannot be recorded on %s: %s", self._device, error)
            self._rounds = False
            self._graphs.clear()
            torch.cuda.synchronize(self._device)  # raises where it was the device that failed
            return None
        return self._graphs[shape]

    def _record(self, shape: Shape) -> _Graph:
        """Record a pass (CUDA graph), so that one call starts its thousand kernels."""
        import torch

        flat = torch.zeros(shape.size, dtype=torch.int64, device=self._device)
        first = [Input([self._pad], 0)]
        host = np.empty(shape.size, np.int64)
        packed.pack(first, shape, host, first_position=self._first, pad=self._pad)
        flat.copy_(torch.from_numpy(host))
        aside = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(aside):
            for _ in range(_WARM_UPS):
                self._vectors(flat, shape)
        torch.cuda.current_stream(self._device).wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        # They never run at once, so they may share their memory.
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        with torch.cuda.graph(graph, pool=self._pool):
            rows = self._vectors(flat, shape)
        return _Graph(flat, rows, graph)


def compile_layers(model: Any, backend: str | Callable[..., Any] = "inductor") -> int:
    """Have torch compile each layer of a model at its first use: one compilation, as all are alike.

    On CUDA this wants Triton, which comes with torch on Linux, and a C compiler.

    Returns:
        How many layers it has.
    """
    import torch

    count = int(model.config.num_hidden_layers)
    for module in model.modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == count:
            for layer in module:
                layer.compile(dynamic=True, backend=backend)
            return count
    return 0
