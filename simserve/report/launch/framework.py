"""Which framework a deployment was simulated as, and what of it no launch file can say: remarks that all share."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from simserve.diffusion import denoises
from simserve.explore.space import uses_host
from simserve.report.launch.names import Known, known

if TYPE_CHECKING:
    from simserve.explore.objective import Outcome
    from simserve.spec.deployment import DeploymentSpec

ENGINES = ("vllm", "sglang", "trtllm")
TITLES = {"vllm": "vLLM", "sglang": "SGLang", "trtllm": "TensorRT-LLM"}
PACKAGES = {"vllm": "vllm", "sglang": "sglang", "trtllm": "tensorrt_llm"}
_ASYNC = {
    "vllm": "vLLM 0.14 and later overlap",
    "sglang": "SGLang overlaps",
    "trtllm": "TensorRT-LLM overlaps",
}


def simulated_as(deployment: DeploymentSpec) -> str:
    """The framework of the deployment's engine, else of its (first pool's) scheduler; vllm for those of papers."""
    _, first = deployment.engines()[0]
    for name in (deployment.engine, first.scheduler, deployment.scheduler):
        if name is not None and (engine := _family(name)) is not None:
            return engine
    return "vllm"


def nothing_to_launch(deployment: DeploymentSpec) -> str | None:
    """Why there are no launch files, in one line with what would have to be set; None where there are some."""
    d = deployment
    if d.stages is not None and len(d.engines()) + len(d.encoders()) > 1:
        options = "".join(f", {name} {value}" for name, value in d.system_options)
        return (f"no launch files: {d.system} with stages {d.stages} is simulated, and how to start such processes is "
                f"not known here; simulated were {d.num_gpus} GPUs{options}")  # fmt: skip
    if not denoises(d.scheduler):
        return None
    limits = {"max_num_batched_tokens": d.max_num_batched_tokens, "max_num_seqs": d.max_num_seqs}
    settings = ", ".join(f"{name} {value}" for name, value in (*limits.items(), *d.scheduler_options))
    return (
        f"no launch files: {d.scheduler} is no scheduler of vLLM, SGLang or TensorRT-LLM, and the command line of its "
        f"own code is not known here; simulated were {settings}, gpu_memory_utilization {memory_share(d):g} for "
        f"each of {d.replicas} replicas"
    )


def _family(name: str) -> str | None:
    """The framework that a profile of this name is of, by its chain of bases; None where there is no such profile."""
    from simserve.errors import SimserveError
    from simserve.paths import find_data
    from simserve.spec.base import read_yaml

    for _ in range(8):
        if name in ENGINES:
            return name
        try:
            name = str(read_yaml(find_data("perfdb", name)).data.get("base", ""))
        except (SimserveError, AttributeError):
            return None
    return None


def flags_for(engine: str, deployment: DeploymentSpec) -> Known:
    """The table of the simulated version if that engine was simulated, else of the newest."""
    own = simulated_as(deployment) == engine
    return known(PACKAGES[engine], deployment.engine_version if own else "")


def memory_share(deployment: DeploymentSpec) -> float:
    """The share of memory that was simulated, to 4 digits."""
    from simserve.build import memory_share as resolved
    from simserve.spec.hardware import load_gpu

    return round(resolved(deployment, load_gpu(deployment.gpu)), 4)


def rank_tokens(run: Outcome) -> int:
    """KV tokens that one data-parallel rank of a replica held in the simulation."""
    return run.deployment.kv_capacity(run.num_gpu_blocks)


def max_graph_tokens(deployment: DeploymentSpec) -> int:
    """Decode steps that the simulated profile has as CUDA graphs, at most those that can be."""
    from simserve.build import engine_profile

    return min(engine_profile(deployment).max_cudagraph_tokens, deployment.max_num_seqs)


def moe_split(deployment: DeploymentSpec) -> tuple[int, int]:
    """(ranks that share the experts, ranks that split each expert) within one pipeline stage."""
    d = deployment
    ranks = d.tensor_parallel_size * d.data_parallel_size * d.prefill_context_parallel_size
    split = d.moe_tensor_parallel_size or (1 if d.enable_expert_parallel else ranks)
    return ranks // split, split


def stage_ranks(deployment: DeploymentSpec) -> int:
    """Ranks of one pipeline stage."""
    return deployment.gpus_per_replica // deployment.pipeline_parallel_size


def weights_remark(engine: str, deployment: DeploymentSpec, target: str, online: dict[str, str]) -> tuple[str, str]:
    """(online quantisation to ask for or '', remark or '') that make the checkpoint what was simulated."""
    stored, stored_moe = _stored(target)
    d, flag, text = deployment, "", ""
    if d.dtype.startswith("fp8") and stored.startswith("fp8"):
        if d.dtype != stored:
            text = f"simulated with weights in {d.dtype}; the checkpoint's are {stored}"
    elif d.dtype not in (stored, "bf16", "fp16") and d.dtype in online:
        flag = online[d.dtype]
    elif d.dtype not in (stored, "bf16", "fp16"):
        text = f"simulated with weights in {d.dtype}: serve a checkpoint that is quantised so"
    elif stored not in (d.dtype, "bf16", "fp16"):
        text = f"simulated with weights in {d.dtype}; the checkpoint's are {stored}"
    if d.moe_dtype not in (None, d.dtype, stored_moe):
        text = f"{text}; " if text else ""
        text += f"simulated with experts in {d.moe_dtype}: serve a checkpoint whose experts are"
    return flag, text


@lru_cache(maxsize=64)
def _stored(target: str) -> tuple[str, str]:
    """Formats of a checkpoint's weights and experts; asked for every run of a result."""
    from simserve.spec.model import checkpoint_formats

    return checkpoint_formats(target)


def simulated_remarks(engine: str, run: Outcome, table: Known) -> list[str]:
    """What the framework and its version have to do with what was simulated; of the whole deployment."""
    d, own = run.deployment, simulated_as(run.deployment)
    remarks = [f"the flags are those of {TITLES[engine]} {table.version}"]
    if own != engine:
        remarks.append(
            f"simulated was {TITLES[own]}: this is the nearest that {TITLES[engine]} can be set to, with a scheduler "
            "and kernels of its own; its numbers will differ"
        )
    elif d.engine_version and d.engine_version != table.version:
        remarks.append(f"simulated as {TITLES[own]} {d.engine_version}; check the flags against it")
    if d.stages is not None:
        remarks.append(f"simulated with {d.system}, stages {d.stages}: engines that encode, prefill and decode each")
    elif d.system is not None and len(d.pools) == 1:
        remarks.append(f"simulated system {d.system}, for whose shared GPUs there is no flag")
    elif d.system is not None:
        link = "the GPUs' own links, or 400 Gb/s InfiniBand between nodes" if d.kv_link is None else d.kv_link
        remarks.append(f"simulated system {d.system}, KV handed over by {link}")
    return remarks


def knob_remarks(deployment: DeploymentSpec, expressed: frozenset[str] = frozenset()) -> list[str]:
    """What one pool was simulated with that the framework is not told; expressed: names of options that it is."""
    d, remarks = deployment, []
    for name, value in d.scheduler_options:
        if name not in expressed:
            remarks.append(f"simulated with {name} {value} of the scheduler {d.scheduler}, for which there is no flag")
    for name, value in d.router_options:
        remarks.append(f"simulated with {name} {value} of the router {d.router}, for which there is no flag here")
    if d.snapshot_interval_ms:
        remarks.append(f"the simulated router saw the servers as they were up to {d.snapshot_interval_ms:g} ms before")
    if d.swap_space_gib:
        remarks.append(f"simulated with {d.swap_space_gib:g} GiB of swap space per GPU, for which there is no flag")
    if d.hybrid is not None and uses_host(d.scheduler):
        remarks.append(f"simulated with {d.hybrid.kv_gib:g} GiB of KV on the host, attended on its CPU: no flag for it")
    if d.offload is not None and (d.offload.eviction != "lru" or d.offload.retention_s):
        remarks.append(
            f"simulated offload: eviction {d.offload.eviction}, blocks kept {d.offload.retention_s:g} s; not set here"
        )
    if d.num_speculative_tokens:
        remarks.append(f"simulated with drafted tokens accepted at a rate of {d.acceptance_rate:g}")
    if d.inter_node_link is not None:
        remarks.append(f"simulated with {d.inter_node_link} between nodes")
    return remarks


def synchronous_remark(engine: str, flag: str) -> str:
    """Why scheduling ahead is turned off."""
    return (
        f"{flag}: simulated is one step after another; {_ASYNC[engine]} scheduling with the step before unless told "
        "not to"
    )


def comments(remarks: list[str]) -> list[str]:
    """Remarks as comment lines, each once."""
    return list(dict.fromkeys("# " + " ".join(text.removeprefix("# ").split()) for text in remarks if text))
