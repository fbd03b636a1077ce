"""The passes between GEMMs: a launch, cached bytes, and what was measured on two cards."""

import numpy as np
import pytest

from simserve.perf import store
from simserve.perf.elementwise import CACHED, IN_CACHE, elementwise_ns
from simserve.perf.roofline import Floats
from simserve.spec.hardware import load_gpu
from simserve.units import MIB

# Bytes that move per element of `width`: the norm reads and writes two vectors, silu_and_mul reads two and writes one.
BYTES = {"add_rms_norm": 8, "rotary": 4, "qk_norm": 4, "silu_and_mul": 3}


def errors(table: str) -> Floats:
    """Price over measurement - 1 of every pass of a table."""
    columns, gpu = store.read_table(table, "elementwise"), load_gpu(table.partition("/")[0])
    known = np.isin(columns["op"].astype(str), list(BYTES))
    each = np.array([BYTES.get(str(op), 0) for op in columns["op"]], dtype=np.float64)
    size = each * columns["width"] * columns["tokens"]
    return np.asarray((elementwise_ns(gpu, size) / columns["latency_ns"] - 1)[known])


def test_bytes_in_half_of_the_cache_are_fast() -> None:
    """H100: 2 us; 25 MiB at three times 80 % of 3.35 TB/s; what is more at 80 %."""
    h100 = load_gpu("h100_sxm")
    rate = 0.8 * 3350.0
    near = IN_CACHE * 50 * MIB
    found = elementwise_ns(h100, np.array([0.0, near, near + 10**6]))
    cached = 2000 + near / rate / CACHED
    assert found.tolist() == pytest.approx([2000, cached, cached + 1e6 / rate])


def test_a_device_without_a_known_cache_streams() -> None:
    """All bytes from memory."""
    unknown = load_gpu("h100_sxm").model_copy(update={"name": "unheard_of"})
    assert elementwise_ns(unknown, np.array([1e6]))[0] == pytest.approx(2000 + 1e6 / 2680)


def test_passes_of_rtx_pro_6000_that_nobody_fitted() -> None:
    """Median within 16 %, 90 % within 63 %; the card that it was fitted on within 19 %."""
    apart = np.abs(errors("rtx_pro_6000/llmservingsim"))
    assert np.median(apart) < 0.16
    assert np.quantile(apart, 0.9) < 0.63
    assert np.median(np.abs(errors("rtx_4090"))) < 0.19
