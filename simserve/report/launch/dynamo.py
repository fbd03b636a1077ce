"""NVIDIA Dynamo: a DynamoGraphDeployment (nvidia.com/v1beta1) of a frontend and a component per pool.

Checked: flags of the frontend (its own parser took them) and the workers against ai-dynamo 1.6.1 of PyPI, those of the
engines against the versions that it pins (vLLM 0.31.0, SGLang 0.5.21; TensorRT-LLM's keys against 1.3.0rc27, it pins
1.3.0rc29); the fields of the resource against the public examples of the repository
(`examples/backends/*/deploy/v1beta1`). Nothing was applied to a cluster.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from simserve.report.launch import sglang, trtllm, vllm
from simserve.report.launch.document import yaml_text
from simserve.report.launch.framework import TITLES, comments, knob_remarks, simulated_as, simulated_remarks
from simserve.report.launch.names import Command, Known, known
from simserve.report.launch.placement import gpus_per_node, pools
from simserve.report.launch.served import Served

if TYPE_CHECKING:
    from simserve.explore.objective import Outcome
    from simserve.spec.deployment import DeploymentSpec

ENGINES = {"vllm": ("vllm", "0.31.0"), "sglang": ("sglang", "0.5.21"), "trtllm": ("tensorrt_llm", "1.3.0rc27")}
PINNED = {"vllm": "0.31.0", "sglang": "0.5.21", "trtllm": "1.3.0rc29"}  # by ai-dynamo 1.6.1 [known]
IMAGES = {"vllm": "vllm-runtime", "sglang": "sglang-runtime", "trtllm": "tensorrtllm-runtime"}
ROUTERS = {
    "round_robin": "round-robin", "random": "random", "power_of_two": "power-of-two", "least_loaded": "least-loaded",
}  # fmt: skip
_SECRET = "hf-token-secret"
_ENGINE_FILE = "/etc/simserve/{}.yaml"
_KV = ("kv", "kv, which predicts what each worker holds from what it sent there")
_NEAREST = {
    "prefix_affinity": _KV,
    "least_kv": _KV,
    "session_affinity": (
        "round-robin", "round-robin with --router-session-affinity-ttl-secs; clients name their session",
    ),
}


def files(model: Served, run: Outcome, name: str) -> dict[str, str]:
    """dynamo.yaml: the deployment, and for TensorRT-LLM a ConfigMap with its arguments before it."""
    own = simulated_as(run.deployment)
    graph = _name(name)
    documents: list[Any] = []
    if own == "trtllm":
        data = {f"{pool or 'engine'}.yaml": yaml_text(trtllm.llm_args(part, pool)) for pool, part in pools(run)}
        metadata = {"name": f"{graph}-engine"}
        documents.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})
    documents.append({
        "apiVersion": "nvidia.com/v1beta1", "kind": "DynamoGraphDeployment", "metadata": {"name": graph},
        "spec": {"backendFramework": own, "components": [_frontend(run, own), *(
            _worker(model, pool, part, own, graph) for pool, part in pools(run)
        )]},
    })  # fmt: skip
    texts = [yaml_text(document) for document in documents]
    return {"dynamo.yaml": "".join(f"{line}\n" for line in remarks(model, run)) + "---\n".join(texts)}


def table() -> Known:
    """The table of Dynamo's own flags."""
    return known("ai_dynamo")


def engine_table(own: str) -> Known:
    """The table of the engine that this version of Dynamo comes with."""
    return known(*ENGINES[own])


def frontend(d: DeploymentSpec) -> Command:
    """The frontend's flags: how it routes."""
    command = Command(table(), "frontend")
    mode = ROUTERS.get(d.router) or _NEAREST.get(d.router, ("round-robin", ""))[0]
    command.add("--router-mode", mode)
    if mode == "kv":
        command.add("--no-router-kv-events")
        command.add("--kv-cache-block-size", d.block_size)
    if d.router == "session_affinity":
        command.add("--router-session-affinity-ttl-secs", 3600)
    return command


def worker(model: Served, pool: str, run: Outcome, own: str) -> tuple[Command, Command]:
    """(flags of Dynamo's worker, flags of the engine in it) for one pool."""
    command = Command(table(), own)
    side = "decode" if pool == "decode" else "prefill"
    engine = Command(engine_table(own), "serve")
    if own == "vllm":
        engine = vllm.engine(model, run, engine_table(own))
    elif own == "sglang":
        engine = sglang.engine(model, run, engine_table(own))
    if pool and own == "sglang":
        engine.add("--disaggregation-mode", side)
        engine.add("--disaggregation-transfer-backend", "nixl")
        engine.add("--disaggregation-bootstrap-port", sglang.BOOTSTRAP_PORT)
    elif pool:
        command.add("--disaggregation-mode", side)
    return command, engine


def _frontend(run: Outcome, own: str) -> dict[str, Any]:
    first = pools(run)[0][1].deployment
    container = {
        "name": "main", "image": _image(own), "command": ["python3", "-m", "dynamo.frontend"],
        "args": frontend(first).words,
    }  # fmt: skip
    return {"name": "Frontend", "type": "frontend", "replicas": 1, "podTemplate": {"spec": {"containers": [container]}}}


def _worker(model: Served, pool: str, run: Outcome, own: str, graph: str) -> dict[str, Any]:
    """One component: as many replicas as the pool has, over several nodes each if one does not hold it."""
    d = run.deployment
    nodes = -(-d.gpus_per_replica // gpus_per_node(run))
    command, engine = worker(model, pool, run, own)
    target = ["--model", model.target] if own != "sglang" else ["--model-path", model.target]
    container: dict[str, Any] = {
        "name": "main", "image": _image(own), "command": ["python3", "-m", f"dynamo.{own}"],
        "args": [*target, "--served-model-name", model.target, *command.words, *engine.words],
        "envFrom": [{"secretRef": {"name": _SECRET}}],
        "resources": {"limits": {"nvidia.com/gpu": str(-(-d.gpus_per_replica // nodes))}},
    }  # fmt: skip
    pod: dict[str, Any] = {"containers": [container]}
    if own == "trtllm":
        path = _ENGINE_FILE.format(pool or "engine")
        container["args"] += ["--extra-engine-args", path]
        container["volumeMounts"] = [
            {"name": "engine", "mountPath": path, "subPath": path.rsplit("/", 1)[1], "readOnly": True}
        ]
        pod["volumes"] = [{"name": "engine", "configMap": {"name": f"{graph}-engine"}}]
    component: dict[str, Any] = {
        "name": pool or "worker", "type": pool if pool in ("prefill", "decode") else "worker", "replicas": d.replicas,
        "podTemplate": {"spec": pod},
    }  # fmt: skip
    return component if nodes == 1 else {**component, "multinode": {"nodeCount": nodes}}


def _image(own: str) -> str:
    return f"nvcr.io/nvidia/ai-dynamo/{IMAGES[own]}:{table().version}"


def _name(name: str) -> str:
    """A name that Kubernetes takes."""
    plain = "".join(c if c.isalnum() and c.isascii() else "-" for c in name.lower()).strip("-")
    return plain[:40].strip("-") or "simserve"


def remarks(model: Served, run: Outcome) -> list[str]:
    """Comments on versions, GPUs, and what differs from the simulation."""
    own, d = simulated_as(run.deployment), run.deployment
    engine = engine_table(own)
    texts = [
        f"NVIDIA Dynamo {table().version}, whose workers are {TITLES[own]} {PINNED[own]}: kubectl apply -f dynamo.yaml",
        f"the secret {_SECRET} holds HF_TOKEN; the tag of the image was not checked",
    ]  # fmt: skip
    routers = set()
    for name, pool in pools(run):
        texts.append(f"{name or 'worker'}: {pool.deployment.gpus_per_replica} {pool.deployment.gpu} for each of "
                     f"{pool.deployment.replicas} replicas; a nodeSelector has to see to the type")  # fmt: skip
        routers.add(pool.deployment.router)
        texts += _engine_remarks(model, name, pool, own)
    for router in sorted(routers & set(_NEAREST)):
        texts.append(f"simulated router {router}: the nearest is --router-mode {_NEAREST[router][1]}")
    if len(routers) > 1:
        both = " and ".join(sorted(routers))
        texts.append(f"simulated with the routers {both}; the frontend has one mode for both pools")
    texts += [model.remark, model.in_pods]
    if not all(e.async_scheduling for _, e in d.engines()):
        texts.append("steps are scheduled one after another, as simulated; the engine would overlap them by itself")
    return comments([*texts, *simulated_remarks(own, run, engine)])


def _engine_remarks(model: Served, name: str, pool: Outcome, own: str) -> list[str]:
    d = pool.deployment
    command, engine = worker(model, name, pool, own)
    texts = [*command.remarks, *engine.remarks]
    if own == "trtllm":
        return [*texts, *trtllm.engine_remarks(model, pool)]
    if d.scheduler != own:
        texts.append(f"simulated with the scheduler {d.scheduler!r}, which {TITLES[own]} does not have")
    expressed = {"vllm": vllm.EXPRESSED, "sglang": sglang.EXPRESSED}[own]
    return [*texts, *knob_remarks(d, expressed if d.scheduler == own else frozenset())]
