"""A low-rank change to the weights of an encoder, added to them when the model's folder is made.

The file is a safetensors file with two float16 matrices for each weight matrix W that changes,
``<W>.lora_A`` (rank, columns) and ``<W>.lora_B`` (rows, rank): W becomes W + lora_B @ lora_A. The method is
that of Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (ICLR 2022). Since the sum has the
shape of W, a model with an adapter is as fast as one without.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float32]
Factors = tuple[Matrix, Matrix]
_A, _B = ".lora_A", ".lora_B"


class AdapterError(ValueError):
    """The bytes are no adapter, or not one of this model."""


class Adapter:
    """A checked adapter.

    Attributes:
        factors: lora_A (rank, columns) and lora_B (rows, rank), float32, by the name of the weight matrix.
    """

    def __init__(self, data: bytes) -> None:
        """Read and check a file.

        Raises:
            AdapterError: It is something else.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            arrays = load(data)
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            raise AdapterError(f"it is no safetensors file: {error}") from error
        self.factors: dict[str, Factors] = {}
        for name in sorted({key.removesuffix(_A).removesuffix(_B) for key in arrays}):
            try:
                a, b = arrays[name + _A].astype(np.float32), arrays[name + _B].astype(np.float32)
            except KeyError as error:
                raise AdapterError(f"{error} is not in it") from error
            if a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1]:
                raise AdapterError(f"the sizes of {name} do not fit one another")
            if not (np.isfinite(a).all() and np.isfinite(b).all()):
                raise AdapterError(f"{name} holds values that are not numbers")
            self.factors[name] = (a, b)

    def check(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Make sure that the adapter is one of a model with weights of these shapes.

        Raises:
            AdapterError: It changes a weight that is not there or has other sizes.
        """
        for name, (a, b) in self.factors.items():
            if shapes.get(name) != (b.shape[0], a.shape[1]):
                raise AdapterError(f"the model has no {name} of {b.shape[0]} x {a.shape[1]}")

    def add(self, name: str, rows: Iterator[Matrix]) -> Iterator[Matrix]:
        """The changed rows of a weight.

        Args:
            name: Which weight.
            rows: Its rows in order, some at a time.

        Yields:
            The same rows with the adapter's share added, or as they are where it has none.
        """
        factors = self.factors.get(name)
        if factors is None:
            yield from rows
            return
        a, b = factors
        first = 0
        for some in rows:
            last = first + len(some)
            yield some + b[first:last] @ a
            first = last


def pack(factors: Mapping[str, Factors], notes: Mapping[str, str]) -> bytes:
    """An adapter's file.

    Args:
        factors: As `Adapter.factors`; rounded to float16.
        notes: What the file says of itself in its header.
    """
    from safetensors.numpy import save

    arrays = {}
    for name, (a, b) in sorted(factors.items()):
        arrays[name + _A] = np.ascontiguousarray(a, np.float16)
        arrays[name + _B] = np.ascontiguousarray(b, np.float16)
    return save(arrays, dict(sorted(notes.items())))
