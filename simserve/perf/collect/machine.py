"""What the machine is: a CUDA GPU through torch, or the CPU; its cache, its name in perfdb, facts for provenance."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import subprocess
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from simserve.errors import MissingData, UnknownName
from simserve.perf.checks import known_l2
from simserve.units import MIB

_UNKNOWN_CACHE = 128 * MIB
DEVICES = ("auto", "cuda", "cpu")


@dataclass(frozen=True)
class Machine:
    """kind: cuda or cpu; name: folder in perfdb; cache_bytes: the last cache; memory_bytes: free for buffers.

    torch: the module, None where it is not installed; facts: model, versions, clocks.
    """

    kind: str
    name: str
    cache_bytes: int
    memory_bytes: int
    torch: Any = None
    facts: dict[str, Any] = field(default_factory=dict)


def find_machine(device: str, name: str = "") -> Machine:
    """The machine for --device; MissingData where a GPU is asked for and torch or the GPU is not there."""
    if device not in DEVICES:
        raise UnknownName("device", device, DEVICES)
    torch = _torch() if device != "cpu" or importlib.util.find_spec("torch") else None
    cuda = torch is not None and torch.cuda.is_available()
    if device == "cuda" and not cuda:
        missing = "torch is not installed (pip install torch)" if torch is None else "torch sees no CUDA device"
        raise MissingData(f"--device cuda: {missing}")
    return _gpu(torch, name) if cuda and device != "cpu" else _cpu(torch, name)


def need_torch(machine: Machine, what: str) -> Any:
    """The torch module; MissingData if there is none."""
    if machine.torch is None:
        raise MissingData(f"{what} needs PyTorch: pip install torch")
    return machine.torch


def need_cuda(machine: Machine, what: str) -> Any:
    """The torch module of a machine with a CUDA GPU; MissingData otherwise."""
    if machine.kind != "cuda":
        raise MissingData(f"{what} needs a CUDA GPU and PyTorch")
    return machine.torch


def _torch() -> Any:
    return importlib.import_module("torch") if importlib.util.find_spec("torch") else None


def _gpu(torch: Any, name: str) -> Machine:
    model = str(torch.cuda.get_device_name())
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    known = known_gpu(model)
    free, _ = torch.cuda.mem_get_info()
    cache = int(getattr(properties, "L2_cache_size", 0)) or known_l2(known, _UNKNOWN_CACHE)
    facts = {
        "model": model, "torch": torch.__version__, "cuda": torch.version.cuda,
        **_nvidia_smi("driver_version", "clocks.max.sm", "clocks.max.mem", "power.limit"),
    }  # fmt: skip
    return Machine("cuda", name or f"{known or slug(model)}/measured", cache, int(free * 0.8), torch, facts)


def _cpu(torch: Any, name: str) -> Machine:
    facts = _cpuinfo()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    versions = {"python": platform.python_version(), "numpy": metadata.version("numpy")}
    if torch is not None:
        versions["torch"] = torch.__version__
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    model = str(facts.get("model", "cpu"))
    return Machine("cpu", name or f"{slug(model)}_{cores}c", _last_cache(), int(memory * 0.5), torch,
                   {**facts, "cores": cores, **versions})  # fmt: skip


def slug(model: str) -> str:
    """'AMD EPYC 7R32' -> 'amd_epyc_7r32'."""
    return re.sub(r"[^a-z0-9]+", "_", model.lower().replace("(r)", "").replace("(tm)", "")).strip("_") or "unnamed"


# CUDA's device names, exactly: an H100 PCIe or NVL is no H100 SXM.
CUDA_NAMES = {
    "A100-SXM4-80GB": "a100_sxm", "A30": "a30", "A40": "a40", "RTX A6000": "rtx_a6000", "L40S": "l40s",
    "H100 80GB HBM3": "h100_sxm", "H200": "h200_sxm", "H800": "h800", "H20": "h20",
    "B200": "b200_sxm", "B300 SXM6 AC": "b300_sxm", "GB200": "gb200", "GB300": "gb300",
    "GeForce RTX 3090": "rtx_3090", "GeForce RTX 4090": "rtx_4090",
    "RTX PRO 6000 Blackwell Server Edition": "rtx_pro_6000",
    "RTX PRO 6000 Blackwell Workstation Edition": "rtx_pro_6000",
}  # fmt: skip


def known_gpu(model: str) -> str:
    """The GPU of hw_specs that a CUDA device name means, '' if none does."""
    return CUDA_NAMES.get(model.removeprefix("NVIDIA").strip(), "")


def _nvidia_smi(*fields: str) -> dict[str, str]:
    """What nvidia-smi says of the first GPU; nothing where it is not installed."""
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"]
    try:
        line = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.splitlines()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return {}
    return dict(zip(fields, (word.strip() for word in line.split(",")), strict=False))


def _cpuinfo() -> dict[str, Any]:
    """Model and clock of the CPU, where /proc says them."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return {"model": platform.processor() or platform.machine()}
    found = dict(re.findall(r"^(model name|cpu MHz)\s*: (.+)$", text, re.M))
    return {"model": found.get("model name", platform.machine()), "mhz": found.get("cpu MHz", "")}


@lru_cache(maxsize=1)
def _last_cache() -> int:
    """Bytes of the last cache of the first core."""
    sizes = []
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        number = re.match(r"(\d+)([KM])", path.read_text(encoding="utf-8"))
        if number:
            sizes.append(int(number[1]) * (1024 if number[2] == "K" else MIB))
    return max(sizes, default=_UNKNOWN_CACHE)
