"""A translated model's linear layers in 8 bits, in two ways: rounded while it runs, or calibrated.

Weights have a scale for each output in both. `in_groups` leaves it to OpenVINO to round what goes into a
layer, a scale for each token and group of numbers, and to multiply group by group. `calibrated` puts the
rounding into the graph, so that whole rows are multiplied at the rate of 8-bit products: one scale for each
tensor, from a sample of texts, behind a layer normalization, and elsewhere one for each token. Before that
channels that stand out are divided by a factor that goes into the weights (Xiao et al., SmoothQuant, 2023,
arXiv:2211.10438).
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

# How much of a channel's size goes into the weights; more where all tokens share a scale.
_SMOOTHED, _SMOOTHED_BY_TOKEN = 0.6, 0.5
# Other texts may go so much beyond the sample.
_MARGIN = 1.25
# So far below zero, of what is above, a range is one that begins near zero (behind a GELU, say).
_ONE_SIDED = 0.35
_SMALLEST = 1e-6

_Array = npt.NDArray[np.float32]


class Site(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of the input of one or several linear layers.

    Attributes:
        factor: Float32 (width,); the input is divided by it, the weights are multiplied.
        low: Least number of the divided input in the sample, at most 0.
        high: Largest, at least 0.
        by_token: Whether each token has a scale of its own.
    """

    factor: _Array
    low: float
    high: float
    by_token: bool


def in_groups(graph: Any) -> Any:
    """A copy with the weights of all linear layers in 8 bits, a scale for each output.

    What goes into them is rounded to 8 bits when it runs, a scale for every token and group of numbers
    (`openvino.compiled`).
    """
    copy = graph.clone()
    for products in _sites(copy):
        for product in products:
            rounded, scale = _rounded(_weights(product))
            product.input(1).replace_source_output(_constant(rounded, scale).output(0))
    copy.validate_nodes_and_infer_types()
    return copy


def calibrated(graph: Any, core: Any, batches: Sequence[list[Any]]) -> Any:
    """A copy with 8-bit products whose inputs are rounded in the graph.

    Args:
        graph: A translated model in float32.
        core: OpenVINO.
        batches: The graph's inputs for a sample of texts, without padding.
    """
    opset: Any = import_module("openvino.opset13")
    found = measured(graph, core, batches)
    copy = graph.clone()
    for products, site in zip(_sites(copy), found, strict=True):
        source = products[0].input_value(0)
        width = [1] * (len(source.get_partial_shape()) - 1) + [-1]
        divided = opset.multiply(source, _float((1 / site.factor).reshape(width)))
        scale, shift = None, 0.0
        if not site.by_token:
            low, high = _with_whole_zero(site.low * _MARGIN, site.high * _MARGIN)
            rounded = _rounding(divided, low, high)
        elif site.low > -_ONE_SIDED * site.high:
            # From the least number on: all 256 steps are for what is there.
            shift = -site.low * _MARGIN
            divided = opset.add(divided, _float(shift))
            scale = opset.maximum(opset.reduce_max(divided, _last(), True), _float(_SMALLEST))
            rounded = _rounding(opset.divide(divided, scale), 0, 1)
        else:
            largest = opset.reduce_max(opset.abs(divided), _last(), True)
            scale = opset.maximum(largest, _float(_SMALLEST))
            rounded = _rounding(opset.divide(divided, scale), -1, 1, 255)
        for product in products:
            _replace(product, rounded, scale, shift, site.factor)
    copy.validate_nodes_and_infer_types()
    return copy


def _replace(product: Any, rounded: Any, scale: Any, shift: float, factor: _Array) -> None:
    """Give a product its rounded input, and turn what comes out back; no `scale` where that is constant."""
    opset: Any = import_module("openvino.opset13")
    users = list(product.output(0).get_target_inputs())
    weights, scales = _rounded(_weights(product) * factor)
    product.input(0).replace_source_output(rounded.output(0))
    product.input(1).replace_source_output(_constant(weights, scales).output(0))
    if scale is None:
        return
    turned = opset.multiply(product, scale)
    if shift:
        row = [1] * (len(turned.get_output_partial_shape(0)) - 1) + [-1]
        turned = opset.add(turned, _float(-shift * (weights * scales).sum(1).reshape(row)))
    for user in users:
        user.replace_source_output(turned.output(0))


def measured(graph: Any, core: Any, batches: Sequence[list[Any]]) -> list[Site]:
    """What a sample of texts shows of each input of linear layers, in the graph's order."""
    opset: Any = import_module("openvino.opset13")
    openvino: Any = import_module("openvino")
    copy = graph.clone()
    sites = _sites(copy)
    if not sites:
        return []
    extremes = []
    for products in sites:
        source = products[0].input_value(0)
        axes = opset.constant(np.arange(len(source.get_partial_shape()) - 1))
        extremes += [opset.reduce_max(source, axes, False), opset.reduce_min(source, axes, False)]
    model = core.compile_model(
        openvino.Model(extremes, copy.get_parameters()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    request = model.create_infer_request()
    seen: list[list[_Array]] = []
    for batch in batches:
        found = request.infer(batch)
        seen.append([np.array(found[at], np.float32) for at in range(len(extremes))])
    sizes = [list(one) for one in zip(*seen, strict=True)]
    return [
        _site(products, np.max(highs, 0), np.min(lows, 0))
        for products, highs, lows in zip(sites, sizes[0::2], sizes[1::2], strict=True)
    ]


def _site(products: list[Any], high: _Array, low: _Array) -> Site:
    by_token = not _normalized(products[0].input_value(0).get_node())
    weights = np.max([np.abs(_weights(product)).max(0) for product in products], 0)
    share = _SMOOTHED_BY_TOKEN if by_token else _SMOOTHED
    sizes = np.maximum(np.maximum(np.abs(high), np.abs(low)), 1e-5)
    factor = sizes**share / np.maximum(weights, 1e-5) ** (1 - share)
    factor = (factor / np.exp(np.log(factor).mean())).astype(np.float32)
    return Site(
        factor=factor,
        low=min(0.0, float((low / factor).min())),
        high=max(_SMALLEST, float((high / factor).max())),
        by_token=by_token,
    )


def _normalized(node: Any) -> bool:
    """Whether it is what a layer normalization gives: no token is much larger than others."""
    while node.get_type_name() in {"Add", "Multiply"}:
        sources = [node.input_value(at).get_node() for at in range(2)]
        others = [source for source in sources if source.get_type_name() != "Constant"]
        if len(others) != 1:
            return False
        node = others[0]
    return bool(node.get_type_name() == "MVN")


def _sites(graph: Any) -> list[list[Any]]:
    """The products with constant weights, those of the same input together."""
    found: dict[tuple[str, int], list[Any]] = {}
    for node in graph.get_ordered_ops():
        if node.get_type_name() != "MatMul" or not node.get_attributes()["transpose_b"]:
            continue
        weights = node.input_value(1).get_node()
        if weights.get_type_name() != "Constant" or len(weights.shape) != 2:
            continue
        source = node.input_value(0)
        found.setdefault((source.get_node().get_friendly_name(), source.get_index()), []).append(node)
    return list(found.values())


def _weights(product: Any) -> _Array:
    """Float32 (outputs, width)."""
    return np.array(product.input_value(1).get_node().get_data(), np.float32)


def _rounded(weights: _Array) -> tuple[npt.NDArray[np.int8], _Array]:
    """8-bit numbers and their scales, (outputs, width) and (outputs, 1)."""
    scale = np.maximum(np.abs(weights).max(1, keepdims=True), 1e-12) / 127
    return np.clip(np.round(weights / scale), -127, 127).astype(np.int8), scale.astype(np.float32)


def _constant(weights: npt.NDArray[np.int8], scale: _Array) -> Any:
    opset: Any = import_module("openvino.opset13")
    return opset.multiply(opset.convert(opset.constant(weights), "f32"), _float(scale))


def _rounding(source: Any, low: float, high: float, levels: int = 256) -> Any:
    opset: Any = import_module("openvino.opset13")
    return opset.fake_quantize(source, _float(low), _float(high), _float(low), _float(high), levels)


def _with_whole_zero(low: float, high: float) -> tuple[float, float]:
    """About the same range, in which zero is one of 256 steps."""
    step = (high - low) / 255
    low = round(low / step) * step
    return low, low + 255 * step


def _float(value: Any) -> Any:
    opset: Any = import_module("openvino.opset13")
    return opset.constant(np.asarray(value, np.float32))


def _last() -> Any:
    opset: Any = import_module("openvino.opset13")
    return opset.constant(np.array([-1]))
