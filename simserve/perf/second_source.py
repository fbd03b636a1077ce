"""How a device's prices compare with what somebody else measured on it: `perfdb/<device>/<source>`, never fitted on.

Error = price from the device's own tables / measured by the other - 1. Differences of software and clocks between the
two are in it, so it is what to expect of a price on a cluster that one has not measured.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np

from simserve.perf import store
from simserve.perf.collective import measured_all_reduce
from simserve.perf.decode import measured_decode
from simserve.perf.gemm import GemmTable
from simserve.perf.host import kernel_folders
from simserve.perf.prefill import measured_prefill
from simserve.perf.relatives import gemm_table, has_rows
from simserve.perf.roofline import Floats
from simserve.perf.scattered import ScatteredGemms
from simserve.spec.hardware import GpuSpec, load_gpu

_SHAPE = ("kv_dtype", "heads", "kv_heads", "head_dim", "window")


def others(device: str) -> list[str]:
    """Names of the second sources of a device: ['vidur'] for tables in perfdb/h100_sxm/vidur.

    A folder that an engine's profile asks first is none: other kernels, of the same source.
    """
    names = (name.partition("/")[2] for name in store.devices() if name.startswith(f"{device}/"))
    return [name for name in names if name not in kernel_folders()]


def errors(device: str, source: str, family: str) -> Floats:
    """Relative errors of the prices of `device` at every row that `source` measured; empty for other families."""
    other = f"{device}/{source}"
    if family not in _PRICES or not (store.has_table(device, family) and store.has_table(other, family)):
        return np.zeros(0)
    gpu, columns = load_gpu(device), store.read_table(other, family)
    keys, price = _PRICES[family]
    out: list[Floats] = [np.zeros(0)]
    for rows in store.groups(columns, keys):
        formats = [name for name in ("dtype", "kv_dtype") if name in columns]
        if all(has_rows(device, family, name, str(columns[name][rows[0]])) for name in formats):
            part = {name: values[rows] for name, values in columns.items()}
            out.append(price(gpu, part) / part["latency_ns"].astype(np.float64) - 1)
    return np.concatenate(out)


def _gemm(gpu: GpuSpec, part: store.Columns) -> Floats:
    m = part["m"].astype(np.float64)
    sorted_m, back = np.unique(m, return_inverse=True)
    table = _gemm_table(gpu, str(part["dtype"][0]))
    return table.curve(int(part["n"][0]), int(part["k"][0]), sorted_m).ns[back]


def _prefill(gpu: GpuSpec, part: store.Columns) -> Floats:
    table = measured_prefill(gpu, gpu, *_shape(part))
    rows = zip(*(part[name].tolist() for name in ("batch", "tokens", "past")), strict=True)
    return np.array([table.chunks_ns([(tokens, past)] * batch) for batch, tokens, past in rows])


def _decode(gpu: GpuSpec, part: store.Columns) -> Floats:
    kv_dtype, heads, kv_heads, dim, window = _shape(part)
    table = measured_decode(gpu, gpu, kv_dtype, heads, kv_heads, dim, int(part["batch"].max()), window)
    rows = zip(part["batch"].tolist(), part["context"].tolist(), strict=True)
    return np.array([table.time_ns(batch, batch * context) for batch, context in rows])


def _all_reduce(gpu: GpuSpec, part: store.Columns) -> Floats:
    return measured_all_reduce(gpu, gpu, int(part["ranks"][0]), part["bytes"].astype(np.float64)).ns


def _shape(part: store.Columns) -> tuple[str, int, int, int, int]:
    """(kv_dtype, heads, kv_heads, head_dim, window) of rows that share them."""
    heads, kv_heads, dim, window = (int(part[name][0]) for name in _SHAPE[1:])
    return str(part["kv_dtype"][0]), heads, kv_heads, dim, window


@lru_cache(maxsize=8)
def _gemm_table(gpu: GpuSpec, dtype: str) -> GemmTable | ScatteredGemms:
    return gemm_table(gpu, gpu, dtype)


_PRICES: dict[str, tuple[tuple[str, ...], Callable[[GpuSpec, store.Columns], Floats]]] = {
    "gemm": (("dtype", "n", "k"), _gemm),
    "prefill_attention": (_SHAPE, _prefill),
    "decode_attention": (_SHAPE, _decode),
    "all_reduce": (("ranks",), _all_reduce),
}
