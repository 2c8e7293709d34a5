"""Linear layers in 8 bits: products that are of 8-bit numbers, and come out as they were."""

from __future__ import annotations

from collections import Counter
from importlib import import_module
from typing import Any

import numpy as np
import pytest

from indexer.embed.openvino import compiled, core
from indexer.embed.openvino_int8 import calibrated, in_groups, measured

WIDTH, WIDER = 64, 256


def graph() -> Any:
    """A normalization, two maps of what it gives, a GELU and a map back, as they are in a transformer."""
    openvino: Any = import_module("openvino")
    opset: Any = import_module("openvino.opset13")
    rng = np.random.default_rng(1)

    def constant(value: Any) -> Any:
        return opset.constant(np.asarray(value, np.float32))

    def linear(source: Any, width: int, outputs: int) -> Any:
        weights = constant(rng.standard_normal((outputs, width)) / width**0.5)
        return opset.add(opset.matmul(source, weights, False, True), constant(rng.standard_normal(outputs)))

    rows = opset.parameter([-1, -1, WIDTH], np.float32)
    even = opset.mvn(rows, opset.constant(np.array([-1])), True, 1e-12, "INSIDE_SQRT")
    gain = np.ones(WIDTH)
    gain[7] = 12  # a channel that stands out
    normal = opset.add(opset.multiply(even, constant(gain)), constant(rng.standard_normal(WIDTH)))
    up = opset.gelu(linear(normal, WIDTH, WIDER), "erf")
    beside = linear(normal, WIDTH, WIDTH)
    down = linear(up, WIDER, WIDTH)
    back = linear(beside, WIDTH, WIDTH)
    return openvino.Model([opset.add(down, back)], [rows])


def rows(seed: int, texts: int = 3, length: int = 40) -> Any:
    return np.random.default_rng(seed).standard_normal((texts, length, WIDTH)).astype(np.float32)


def run(model: Any, given: Any) -> Any:
    return np.array(model.create_infer_request().infer([given])[0])


def error(found: Any, wanted: Any) -> float:
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def layers(model: Any) -> Counter[tuple[str, str]]:
    nodes = model.get_runtime_model().get_ordered_ops()
    infos = [node.get_rt_info() for node in nodes]
    return Counter(
        (info["layerType"].astype(str), info["primitiveType"].astype(str).lower()) for info in infos
    )


def test_a_calibrated_graph_multiplies_8_bit_numbers_and_gives_what_it_gave() -> None:
    engine, exact = core(), graph()
    rounded = calibrated(exact, engine, [[rows(seed)] for seed in range(4)])
    model = compiled(engine, rounded, "int8", 1)
    products = {kind for (layer, kind) in layers(model) if layer == "FullyConnected"}
    assert {kind.rpartition("_")[2] for kind in products} <= {"i8", "u8"}, products
    wanted = run(compiled(engine, exact, "float32", 1), rows(9))
    assert 0 < error(run(model, rows(9)), wanted) < 0.02
    assert error(run(compiled(engine, in_groups(exact), "int8", 1), rows(9)), wanted) < 0.02


def test_scales_are_of_tensors_behind_a_normalization_and_of_tokens_elsewhere() -> None:
    sites = measured(graph(), core(), [[rows(0)]])
    assert sorted(site.by_token for site in sites) == [False, True, True]
    (normal,) = (site for site in sites if not site.by_token)
    assert normal.factor.argmax() == 7
    assert all(site.low <= 0 < site.high for site in sites)


def test_a_token_much_larger_than_the_sample_has_its_own_scale() -> None:
    """Behind the GELU nothing is cut off, however large it is."""
    openvino: Any = import_module("openvino")
    opset: Any = import_module("openvino.opset13")
    rng = np.random.default_rng(2)
    source = opset.parameter([-1, -1, WIDTH], np.float32)
    weights = opset.constant((rng.standard_normal((WIDTH, WIDTH)) / 8).astype(np.float32))
    exact = openvino.Model([opset.matmul(opset.gelu(source, "erf"), weights, False, True)], [source])
    engine = core()
    rounded = calibrated(exact, engine, [[rows(0)]])
    given = rows(3)
    given[0, 0] *= 50
    wanted = run(compiled(engine, exact, "float32", 1), given)
    found = run(compiled(engine, rounded, "int8", 1), given)
    for token in ((0, 0), (1, 1)):
        assert error(found[token], wanted[token]) < 0.02


@pytest.mark.parametrize("make", [in_groups, lambda graph: calibrated(graph, core(), [[rows(0)]])])
def test_the_graph_that_is_copied_stays_as_it_was(make: Any) -> None:
    engine, exact = core(), graph()
    before = run(compiled(engine, exact, "float32", 1), rows(5))
    make(exact)
    assert np.array_equal(run(compiled(engine, exact, "float32", 1), rows(5)), before)
