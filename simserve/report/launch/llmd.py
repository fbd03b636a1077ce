"""llm-d: values of the chart llm-d-modelservice (the servers) and of its router (InferencePool and endpoint picker).

Checked by name against the public charts and guides that `flags/llm_d-0.10.yaml` names, vLLM's flags against vLLM of
PyPI; rendered by no Helm and applied to no cluster. llm-d serves vLLM: of another framework it is the nearest, with a
remark.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from simserve.report.launch import vllm
from simserve.report.launch.document import yaml_text
from simserve.report.launch.framework import (
    comments,
    flags_for,
    knob_remarks,
    simulated_remarks,
    synchronous_remark,
)
from simserve.report.launch.names import Known, known
from simserve.report.launch.placement import gpus_per_node, pools
from simserve.report.launch.served import Served

if TYPE_CHECKING:
    from simserve.explore.objective import Outcome

SERVICE_PORT, SIDECAR_PORT = 8000, 8200
OF_THE_CHART = ("--tensor-parallel-size", "--data-parallel-size")  # set by `parallelism`
_PICKED_BY = {
    "random": (), "round_robin": (), "least_loaded": ("active-request-scorer",),
    "power_of_two": ("active-request-scorer",), "least_kv": ("kv-cache-utilization-scorer",),
    "prefix_affinity": ("prefix-cache-scorer", "active-request-scorer"),
    "session_affinity": ("session-affinity-scorer",),
}  # fmt: skip
_ROUTER_REMARKS = {
    "round_robin": "simulated router round_robin: llm-d has no turns, a random endpoint is the nearest",
    "power_of_two": "simulated router power_of_two: llm-d takes the endpoint with fewest requests of all",
    "prefix_affinity": "simulated router prefix_affinity: llm-d weighs what an endpoint has cached and its load",
    "session_affinity": "simulated router session_affinity: clients keep the session that llm-d's scorer gives",
}


def files(model: Served, run: Outcome, name: str) -> dict[str, str]:
    """llm-d-modelservice.yaml and llm-d-router.yaml."""
    label = {"llm-d.ai/guide": _label(name)}
    return {
        "llm-d-modelservice.yaml": yaml_text(modelservice(model, run, label), remarks(model, run)),
        "llm-d-router.yaml": yaml_text(router(run, label), comments([
            "values of llm-d's router chart: InferencePool and endpoint picker; see llm-d-modelservice.yaml",
        ])),
    }  # fmt: skip


def table() -> Known:
    """The table of keys and plugins."""
    return known("llm_d")


def modelservice(model: Served, run: Outcome, label: dict[str, str]) -> dict[str, Any]:
    """The values of the servers: without pools all of them are 'decode' pods without a sidecar."""
    parts = dict(pools(run))
    decode = parts.get("decode") or next(iter(parts.values()))
    prefill = next((part for name, part in parts.items() if name not in ("", "decode")), None)
    return {
        "multinode": any(_nodes(part) > 1 for part in parts.values()),
        "modelArtifacts": {
            "uri": f"hf://{model.target}", "name": model.target, "size": "0", "authSecretName": "llm-d-hf-token",
            "labels": {**label, "llm-d.ai/inferenceServing": "true"},
        },
        "accelerator": {"type": "nvidia"},
        "routing": {
            "servicePort": SERVICE_PORT,
            "proxy": {
                "enabled": prefill is not None, "targetPort": SIDECAR_PORT, "connector": "nixlv2", "secure": False,
            },
        },
        "decode": _role(model, decode, SIDECAR_PORT if prefill is not None else SERVICE_PORT),
        "prefill": {"create": False, "replicas": 0} if prefill is None else _role(model, prefill, SERVICE_PORT),
    }  # fmt: skip


def _role(model: Served, run: Outcome, port: int) -> dict[str, Any]:
    """One pool: the chart adds model, port, tensor and data parallelism to the arguments."""
    d = run.deployment
    nodes = _nodes(run)
    words = vllm.engine(model, run).words
    args = [w for i, w in enumerate(words) if w not in OF_THE_CHART and (i == 0 or words[i - 1] not in OF_THE_CHART)]
    pod_ip = {"name": "VLLM_NIXL_SIDE_CHANNEL_HOST", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}
    ports = [{"name": "vllm", "containerPort": port}]
    container: dict[str, Any] = {
        "name": "vllm", "image": f"vllm/vllm-openai:v{flags_for('vllm', d).version}", "modelCommand": "vllmServe",
        "args": args, "ports": ports, "mountModelVolume": True,
    }  # fmt: skip
    if run.pools:
        container["env"] = [pod_ip]
        ports.append({"name": "nixl", "containerPort": vllm.SIDE_PORT})
    parallelism = {"tensor": d.tensor_parallel_size, "data": d.data_parallel_size}
    if d.data_parallel_size > 1:
        parallelism |= {"dataLocal": max(1, d.data_parallel_size // nodes), "workers": nodes}
    return {"create": True, "replicas": d.replicas, "parallelism": parallelism, "containers": [container]}


def router(run: Outcome, label: dict[str, str]) -> dict[str, Any]:
    """The values of the router: which endpoint each pool's requests go to."""
    plugins, profiles = picker(run)
    config = {
        "apiVersion": "llm-d.ai/v1", "kind": "EndpointPickerConfig", "plugins": plugins, "schedulingProfiles": profiles,
    }  # fmt: skip
    return {"router": {
        "epp": {
            "replicas": 1, "pluginsConfigFile": "simserve.yaml",
            "pluginsCustomConfig": {"simserve.yaml": yaml_text(config)},
        },
        "modelServers": {"matchLabels": dict(label)},
    }}  # fmt: skip


def picker(run: Outcome) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(plugins, profiles) of the endpoint picker."""
    plugins: list[dict[str, Any]] = []
    profiles: list[dict[str, Any]] = []
    if run.pools:
        plugins += [
            {"type": "always-disagg-pd-decider"},
            {"type": "disagg-profile-handler", "parameters": {"deciders": {"prefill": "always-disagg-pd-decider"}}},
            {"type": "prefill-filter"}, {"type": "decode-filter"},
        ]  # fmt: skip
    for name, pool in pools(run):
        scorers = _PICKED_BY.get(pool.deployment.router, ())
        if "prefix-cache-scorer" in scorers:
            plugins.append({"type": "approx-prefix-cache-producer"})
        side = "decode" if name == "decode" else "prefill"
        chosen = [*([f"{side}-filter"] if name else []), *scorers, "max-score-picker" if scorers else "random-picker"]
        plugins += [{"type": plugin} for plugin in chosen if {"type": plugin} not in plugins]
        profiles.append({"name": side if name else "default", "plugins": [{"pluginRef": plugin} for plugin in chosen]})
    unique = [plugin for i, plugin in enumerate(plugins) if plugin not in plugins[:i]]
    return unique, profiles


def remarks(model: Served, run: Outcome) -> list[str]:
    """Comments on what differs from the simulation."""
    texts = [
        "values of the chart llm-d-modelservice 0.4: helm install NAME llm-d-modelservice/llm-d-modelservice -f this "
        "file, and llm-d's router chart with llm-d-router.yaml; neither was rendered here",
        "the image has to have NIXL for pools; modelArtifacts.size is that of the weights' volume",
    ]
    for name, pool in pools(run):
        d = pool.deployment
        texts.append(
            f"{name or 'decode'}: {d.gpus_per_replica} {d.gpu} for each of {d.replicas} replicas; a nodeSelector has "
            "to see to the type"
        )
        texts.append(_ROUTER_REMARKS.get(d.router, ""))
        if d.gpus_per_replica != d.tensor_parallel_size * d.data_parallel_size:
            texts.append(f"the chart asks for tensor x data GPUs; each server here needs {d.gpus_per_replica}")
        if _nodes(pool) > 1 and d.data_parallel_size == 1:
            texts.append("one server over several nodes: the chart's LeaderWorkerSet spreads data-parallel ranks only")
        if d.scheduler != "vllm":
            texts.append(f"simulated with the scheduler {d.scheduler!r}, which `vllm serve` does not have")
        if d.moe_tensor_parallel_size is not None:
            texts.append(f"simulated with each expert split over {d.moe_tensor_parallel_size} ranks; vLLM has no flag")
        expressed = vllm.EXPRESSED if d.scheduler == "vllm" else frozenset()
        texts += [*vllm.engine(model, pool).remarks, *knob_remarks(d, expressed)]
    texts += [model.remark, model.in_pods]
    if not all(d.async_scheduling for _, d in run.deployment.engines()):
        texts.append(synchronous_remark("vllm", "--no-async-scheduling"))
    return comments([*texts, *simulated_remarks("vllm", run, flags_for("vllm", run.deployment))])


def _nodes(run: Outcome) -> int:
    return -(-run.deployment.gpus_per_replica // gpus_per_node(run))


def _label(name: str) -> str:
    """A value that a label may have."""
    return ("".join(c if c.isalnum() and c.isascii() else "-" for c in name).strip("-") or "simserve")[:60].strip("-")
