"""Launch files of SGLang, TensorRT-LLM, Dynamo and llm-d: what was simulated, in flags that the named version has."""

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from simserve.explore.objective import Outcome
from simserve.report.launch import FRAMEWORKS, Served, dynamo, launch_files, launch_lines, launch_script, llmd, trtllm
from simserve.report.launch.framework import simulated_as
from simserve.report.launch.names import Command, known
from simserve.spec.deployment import DeploymentSpec

NAME = "meta-llama/Llama-3.1-8B"
MODEL = Served(NAME, 131072)
PROVENANCE: dict[str, Any] = {
    "model": {"name": NAME, "max_position_embeddings": 131072}, "seed": 3, "workload": {"requests": 7},
    "study": {"model": NAME, "workload": {
        "arrivals": {"kind": "poisson", "rate_rps": 2.5}, "prompt_tokens": {"kind": "uniform", "low": 100, "high": 200},
        "output_tokens": {"kind": "fixed", "value": 10}, "requests": 7,
    }},
}  # fmt: skip
POOLS = {
    "prefill": {"replicas": 2, "router": "random"}, "decode": {"tensor_parallel_size": 2, "router": "least_loaded"},
}  # fmt: skip
DEPLOYMENTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "sglang": {
        "scheduler": "sglang", "tensor_parallel_size": 2, "data_parallel_size": 2, "enable_expert_parallel": True,
        "replicas": 3, "router": "prefix_affinity", "num_speculative_tokens": 2, "kv_cache_dtype": "fp8",
        "dtype": "fp8",
        "all2all_backend": "deepep_low_latency", "enable_prefix_caching": True, "max_model_len": 9000,
        "scheduler_options": {"max_prefill_tokens": 4096, "enable_mixed_chunk": True, "schedule_policy": "lpm",
                              "scheduler_recv_interval": 10},
    },
    "trtllm": {
        "scheduler": "trtllm", "tensor_parallel_size": 4, "moe_tensor_parallel_size": 2, "num_speculative_tokens": 1,
        "block_size": 32, "enable_prefix_caching": True, "offload": {"dram_gib": 64, "ssd_gib": 10},
        "max_model_len": 8000,
        "scheduler_options": {"capacity_policy": "max_utilization", "batch_wait_timeout_iters": 5}, "replicas": 2,
    },
    "vllm pools": {"system": "distserve", "engine": "vllm", "pools": POOLS, "num_speculative_tokens": 1},
    "sglang pools": {"system": "distserve", "engine": "sglang", "pools": POOLS, "router": "session_affinity"},
    "trtllm pools": {"system": "distserve", "engine": "trtllm", "pools": POOLS, "async_scheduling": True},
    "several nodes": {
        "tensor_parallel_size": 8, "pipeline_parallel_size": 2, "replicas": 2, "num_gpu_blocks": 4000,
        "scheduler_options": {"policy": "priority", "watermark": 0.02, "long_prefill_token_threshold": 512},
    },
    "all of vllm": {
        "data_parallel_size": 4, "tensor_parallel_size": 2, "all2all_backend": "deepep_high_throughput", "replicas": 2,
        "router": "least_kv", "enable_expert_parallel": True, "dtype": "fp8_block", "async_scheduling": True,
    },
    "paper": {"scheduler": "sarathi", "max_num_batched_tokens": 512, "max_num_seqs": 128, "snapshot_interval_ms": 50},
    "contexts": {"tensor_parallel_size": 4, "prefill_context_parallel_size": 2, "decode_context_parallel_size": 2},
}  # fmt: skip


def outcome(blocks: int = 10_001, **fields: Any) -> Outcome:
    """A run of a deployment with these fields."""
    deployment = DeploymentSpec(**fields)
    pools = tuple({"name": name, "num_gpu_blocks": blocks} for name, _ in deployment.engines() if name)
    return Outcome(
        deployment=deployment, num_gpus=deployment.num_gpus, num_gpu_blocks=blocks, tokens_per_s_per_gpu=1.0,
        ttft_ms=1.0, tpot_ms=1.0, usd_per_hour=1.0, usd_per_million_tokens=1.0, slo=(), turned_away=0, metrics={},
        pools=pools,
    )  # fmt: skip


def files(which: str | Outcome, *frameworks: str) -> dict[str, str]:
    """All launch files of one of the deployments."""
    run = outcome(**DEPLOYMENTS[which]) if isinstance(which, str) else which
    return launch_files(run, PROVENANCE, name="a study", workload=None, frameworks=frameworks or FRAMEWORKS)


def commands(text: str) -> list[list[str]]:
    """The words of every command of a script that is no comment, without assignments in front."""
    lines = [line.strip().removesuffix(" &") for line in text.splitlines()]
    ours = [line for line in lines if re.match(r"([A-Z_]+=\S+ )*(python|vllm|trtllm-serve|aiperf) ", line)]
    words = [shlex.split(line) for line in ours]
    return [[w for i, w in enumerate(line) if i or "=" not in w] for line in words]


def flags(words: list[str]) -> dict[str, str]:
    """Flag -> its value, '' for none."""
    nexts = [*words[1:], ""]
    return {w: ("" if n.startswith("--") else n) for w, n in zip(words, nexts, strict=True) if w.startswith("--")}


def options(text: str, program: str) -> list[dict[str, str]]:
    """The flags of every command in a script that has this word."""
    return [flags(line) for line in commands(text) if program in line]


def keys(value: Any, prefix: str = "") -> set[str]:
    """Dotted paths of all keys; items of lists count as what holds them."""
    if isinstance(value, list):
        return set().union(*(keys(item, prefix) for item in value)) if value else set()
    if not isinstance(value, dict):
        return set()
    own = {f"{prefix}{key}" for key in value}
    return own.union(*(keys(item, f"{prefix}{key}.") for key, item in value.items()))


@pytest.mark.parametrize("which", DEPLOYMENTS)
def test_every_flag_is_one_of_the_named_version(which: str) -> None:
    """Of each command of each script, against the table made from that version's package."""
    found = files(which)
    tables = {
        "sglang.launch_server": known("sglang").programs["serve"], "serve": known("vllm").programs["serve"],
        "sglang_router.launch_router": known("sglang_router").programs["router"],
        "trtllm-serve": known("tensorrt_llm").programs["serve"],
    }  # fmt: skip
    seen = set()
    for name in ("vllm.sh", "sglang.sh", "trtllm.sh"):
        for line in commands(found[name]):
            program = next(word for word in line if word in tables)
            if "disaggregated" not in line:
                used = {word for word in line if word.startswith("--")}
                assert used <= tables[program], (name, used - tables[program])
                seen.add(program)
    assert {"sglang.launch_server", "serve", "trtllm-serve"} <= seen


@pytest.mark.parametrize("which", DEPLOYMENTS)
def test_every_key_is_one_of_the_named_version(which: str) -> None:
    """Of TensorRT-LLM's YAML, llm-d's values and plugins, and the flags in Dynamo's and llm-d's containers."""
    found = files(which)
    for name, text in found.items():
        if name.startswith("trtllm-") and name != trtllm.DISAGGREGATED:
            assert keys(yaml.safe_load(text)) <= known("tensorrt_llm").programs["llm_args"]
        if name == trtllm.DISAGGREGATED:
            assert keys(yaml.safe_load(text)) <= known("tensorrt_llm").programs["disagg_config"]
    values = yaml.safe_load(found["llm-d-modelservice.yaml"])
    roles = [values.pop(role) for role in ("decode", "prefill")]
    values["modelArtifacts"]["labels"] = {}
    llm_d = known("llm_d").programs
    assert keys(values) <= llm_d["modelservice"]
    for role in roles:
        for container in role.get("containers", []):
            assert {w for w in container["args"] if w.startswith("--")} <= known("vllm").programs["serve"]
            container["env"], container["ports"] = [], []
        assert keys(role) <= llm_d["role"]
    router = yaml.safe_load(found["llm-d-router.yaml"])
    picker = yaml.safe_load(router["router"]["epp"]["pluginsCustomConfig"].pop("simserve.yaml"))
    router["router"]["modelServers"]["matchLabels"] = {}
    assert keys(router) <= llm_d["router"]
    types = {plugin["type"] for plugin in picker["plugins"]}
    assert types <= llm_d["plugins"]
    assert {p["pluginRef"] for profile in picker["schedulingProfiles"] for p in profile["plugins"]} <= types


@pytest.mark.parametrize("which", DEPLOYMENTS)
def test_dynamo_takes_flags_of_its_engines_own_version(which: str) -> None:
    """Dynamo's workers take Dynamo's flags and those of the engine that it pins, here older than the newest."""
    own = simulated_as(DeploymentSpec(**DEPLOYMENTS[which]))
    documents = list(yaml.safe_load_all(files(which, "dynamo")["dynamo.yaml"]))
    graph = documents[-1]
    frontend, *workers = graph["spec"]["components"]
    engine = dynamo.engine_table(own)
    allowed = dynamo.table().programs[own] | engine.programs["serve"] | {"--model", "--served-model-name"}
    container = frontend["podTemplate"]["spec"]["containers"][0]

    assert (graph["apiVersion"], graph["kind"]) == ("nvidia.com/v1beta1", "DynamoGraphDeployment")
    assert {w for w in container["args"] if w.startswith("--")} <= dynamo.table().programs["frontend"]
    assert flags(container["args"])["--router-mode"] in dynamo.table().choices["frontend"]["--router-mode"]
    for worker in workers:
        (container,) = worker["podTemplate"]["spec"]["containers"]
        assert {w for w in container["args"] if w.startswith("--")} <= allowed
        assert all(isinstance(word, str) for word in container["args"])
    if own == "trtllm":
        for text in documents[0]["data"].values():
            assert keys(yaml.safe_load(text)) <= known("tensorrt_llm").programs["llm_args"]


@pytest.mark.parametrize("which", DEPLOYMENTS)
def test_scripts_parse(which: str, tmp_path: Path) -> None:
    """`sh -n` of every script; YAML by a parser; each file says whose version its flags are."""
    run = outcome(**DEPLOYMENTS[which])
    for name, text in {**files(run), "launch.sh": launch_script(MODEL, run)}.items():
        path = tmp_path / name
        path.write_text(text)
        if name.endswith(".sh"):
            done = subprocess.run(["sh", "-n", str(path)], capture_output=True, text=True, check=False)
            assert (done.returncode, done.stderr) == (0, ""), name
        else:
            assert list(yaml.safe_load_all(text))
    titles = {"vllm.sh": "vLLM 0.33.0", "sglang.sh": "SGLang 0.5.23", "trtllm.sh": "TensorRT-LLM 1.3.0rc27"}
    assert all(f"# the flags are those of {title}" in (tmp_path / name).read_text() for name, title in titles.items())


def test_a_flag_that_a_version_lacks_is_a_remark() -> None:
    """SGLang 0.5.21 has no --attn-dp-size, 0.5.23 takes only known policies; nothing is dropped in silence."""
    command = Command(known("sglang", "0.5.22"), "serve")

    assert not command.add("--attn-dp-size", 2)
    assert not command.add("--schedule-policy", "nonsense")
    assert command.add("--schedule-policy", "lpm")
    assert command.words == ["--schedule-policy", "lpm"]
    assert command.remarks == [
        "simulated with --attn-dp-size 2, which sglang 0.5.21 does not have",
        "simulated with --schedule-policy nonsense, which sglang 0.5.21 does not have",
    ]


@pytest.mark.parametrize(
    ("version", "table"),
    [("", "0.33.0"), ("0.25.1", "0.24.0"), ("0.31.0", "0.31.0"), ("0.12.0", "0.19.0"), ("9", "0.33.0")],
)
def test_the_table_of_a_version(version: str, table: str) -> None:
    """The newest that is not newer; the oldest for what is older than all."""
    assert known("vllm", version).version == table


def test_the_simulated_version_has_its_own_flags() -> None:
    """vLLM 0.20 had no watermark flag: a remark; 0.33 has."""
    fields = {"scheduler_options": {"watermark": 0.02}}
    old, new = (files(outcome(engine_version=v, **fields), "vllm")["vllm.sh"] for v in ("0.20.0", "0.33.0"))

    assert "# simulated with --watermark 0.02, which vllm 0.19.0 does not have" in old
    assert "# simulated as vLLM 0.20.0; check the flags against it" in old
    assert "--watermark 0.02 " in new
    assert "simulated as" not in new


@pytest.mark.parametrize(
    ("fields", "own"),
    [
        ({}, "vllm"), ({"scheduler": "sglang"}, "sglang"), ({"scheduler": "trtllm"}, "trtllm"),
        ({"scheduler": "orca"}, "vllm"), ({"scheduler": "vllm", "engine": "sglang"}, "sglang"),
        ({"system": "distserve", "pools": POOLS}, "vllm"),
    ],
)  # fmt: skip
def test_which_framework_was_simulated(fields: dict[str, Any], own: str) -> None:
    """The engine, else the scheduler; vLLM for those of papers."""
    assert simulated_as(DeploymentSpec(**fields)) == own


def test_sglang_gets_the_limits_of_all_attention_ranks() -> None:
    """Two groups of two ranks: SGLang's tp-size is four, and it divides chunk and seats by two."""
    first = options(files("sglang", "sglang")["sglang.sh"], "sglang.launch_server")[0]
    expected = {
        "--tp-size": "4", "--attn-dp-size": "2", "--ep-size": "4", "--chunked-prefill-size": "16384",
        "--max-running-requests": "512", "--max-prefill-tokens": "2048", "--schedule-policy": "lpm",
        "--schedule-conservativeness": "3.333", "--scheduler-recv-interval": "10", "--enable-mixed-chunk": "",
        "--moe-a2a-backend": "deepep", "--deepep-mode": "low_latency", "--speculative-algorithm": "NEXTN",
        "--speculative-num-steps": "2", "--speculative-num-draft-tokens": "3", "--kv-cache-dtype": "fp8_e4m3",
        "--quantization": "fp8", "--context-length": "9000", "--disable-overlap-schedule": "", "--page-size": "16",
    }  # fmt: skip

    assert expected == {flag: first[flag] for flag in expected}
    assert "--disable-radix-cache" not in first
    assert "--max-total-tokens" not in first


def test_the_share_of_memory_is_sglangs_own_only_if_it_was_simulated() -> None:
    """As asked; another framework's share means something else, so the pool is set in tokens: 10,000 blocks."""
    own = outcome(scheduler="sglang", gpu_memory_utilization=0.8)
    (first,) = options(files(own, "sglang")["sglang.sh"], "sglang.launch_server")
    (other,) = options(files("plain", "sglang")["sglang.sh"], "sglang.launch_server")

    assert (first["--mem-fraction-static"], other["--max-total-tokens"]) == ("0.8", "160000")
    assert "--mem-fraction-static" not in other
    assert "# simulated was vLLM: this is the nearest that SGLang" in files("plain", "sglang")["sglang.sh"]


def test_sglang_pools_and_their_router() -> None:
    """Two prefill servers with a bootstrap port each and one decode server; the router knows all of them."""
    text = files("sglang pools", "sglang")["sglang.sh"]
    servers = options(text, "sglang.launch_server")
    (router,) = (line for line in commands(text) if "sglang_router.launch_router" in line)

    assert [s["--disaggregation-mode"] for s in servers] == ["prefill", "prefill", "decode"]
    assert [s["--disaggregation-bootstrap-port"] for s in servers] == ["8998", "8999", "8998"]
    assert " ".join(router[router.index("--prefill") :]) == (
        "--prefill http://127.0.0.1:8000 8998 --prefill http://127.0.0.1:8001 8999 --decode http://127.0.0.1:8002"
    )
    assert (flags(router)["--prefill-policy"], flags(router)["--decode-policy"]) == ("random", "power_of_two")
    assert "# simulated router least_loaded: sglang_router has no such policy, power_of_two is the nearest" in text


def test_sglang_over_several_nodes_starts_a_part_on_each(tmp_path: Path) -> None:
    """Two servers of 16 GPUs on four nodes of eight: ranks 0 and 1 of each, and the first node's address."""
    script = tmp_path / "sglang.sh"
    script.write_text(files("several nodes", "sglang")["sglang.sh"])
    (tmp_path / "python").write_text('#!/bin/sh\necho "$*"\n')
    (tmp_path / "python").chmod(0o755)
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin", **{f"NODE{i}": f"10.0.0.{i}" for i in range(4)}}
    said = [
        subprocess.run(["sh", str(script), str(node)], env=env, capture_output=True, text=True, check=True).stdout
        for node in range(4)
    ]

    assert ["--nnodes 2 --node-rank 0 --dist-init-addr 10.0.0.0:20000" in said[0],
            "--nnodes 2 --node-rank 1 --dist-init-addr 10.0.0.0:20000" in said[1],
            "--nnodes 2 --node-rank 0 --dist-init-addr 10.0.0.2:20001" in said[2],
            "--nnodes 2 --node-rank 1 --dist-init-addr 10.0.0.2:20001" in said[3]] == [True] * 4  # fmt: skip
    assert "--worker-urls http://10.0.0.0:8000 http://10.0.0.2:8001" in said[0]
    missing = subprocess.run(
        ["sh", str(script), "0"], env={"PATH": env["PATH"]}, capture_output=True, text=True, check=False
    )
    assert missing.returncode
    assert "NODE0" in missing.stderr


def test_tensorrt_llm_arguments() -> None:
    """The simulated limits by its names; 64 GiB of host memory over four ranks."""
    args = yaml.safe_load(files("trtllm", "trtllm")["trtllm-engine.yaml"])

    assert args == {
        "tensor_parallel_size": 4, "pipeline_parallel_size": 1, "max_batch_size": 256, "max_num_tokens": 8192,
        "enable_chunked_prefill": True, "dtype": "bfloat16", "max_seq_len": 8000, "disable_overlap_scheduler": True,
        "kv_cache_config": {
            "enable_block_reuse": True, "tokens_per_block": 32, "dtype": "auto", "free_gpu_memory_fraction": 0.9,
            "host_cache_size": 16 << 30,
        },
        "scheduler_config": {"capacity_scheduler_policy": "MAX_UTILIZATION"},
        "moe_expert_parallel_size": 2, "moe_tensor_parallel_size": 2,
        "cuda_graph_config": {"enable_padding": True, "max_batch_size": 256},
        "speculative_config": {"decoding_type": "MTP", "max_draft_len": 1}, "batch_wait_timeout_iters": 5,
    }  # fmt: skip


def test_tensorrt_llm_pools() -> None:
    """Addresses of both pools, routers by its names, KV by NIXL; context servers do not overlap."""
    found = files("trtllm pools", "trtllm")
    front = yaml.safe_load(found[trtllm.DISAGGREGATED])
    prefill, decode = (yaml.safe_load(found[f"trtllm-{name}.yaml"]) for name in ("prefill", "decode"))

    assert front["context_servers"] == {
        "num_instances": 2, "urls": ["127.0.0.1:8000", "127.0.0.1:8001"], "router": {"type": "round_robin"}
    }  # fmt: skip
    assert front["generation_servers"]["router"] == {"type": "load_balancing"}
    assert (prefill["disable_overlap_scheduler"], decode["disable_overlap_scheduler"]) == (True, False)
    assert prefill["cache_transceiver_config"] == {"backend": "NIXL"}
    assert "# simulated router random: trtllm-serve has no such one, round_robin is the nearest" in found["trtllm.sh"]


def test_dynamo_pools() -> None:
    """A component for each pool with its replicas and GPUs; the router that all of Dynamo has is in the frontend."""
    text = files("vllm pools", "dynamo")["dynamo.yaml"]
    frontend, prefill, decode = yaml.safe_load(text)["spec"]["components"]
    of = {c["name"]: flags(c["podTemplate"]["spec"]["containers"][0]["args"]) for c in (frontend, prefill, decode)}

    assert [(c["type"], c["replicas"]) for c in (prefill, decode)] == [("prefill", 2), ("decode", 1)]
    limits = [c["podTemplate"]["spec"]["containers"][0]["resources"]["limits"] for c in (prefill, decode)]
    assert limits == [{"nvidia.com/gpu": "1"}, {"nvidia.com/gpu": "2"}]
    assert [of[name]["--disaggregation-mode"] for name in ("prefill", "decode")] == ["prefill", "decode"]
    assert "NixlConnector" in of["prefill"]["--kv-transfer-config"]
    assert of["Frontend"]["--router-mode"] == "random"
    assert "# simulated with the routers least_loaded and random; the frontend has one mode for both pools" in text


def test_dynamo_over_several_nodes() -> None:
    """A replica of 16 GPUs is two pods of eight."""
    worker = yaml.safe_load(files("several nodes", "dynamo")["dynamo.yaml"])["spec"]["components"][1]

    assert (worker["multinode"], worker["replicas"]) == ({"nodeCount": 2}, 2)
    assert worker["podTemplate"]["spec"]["containers"][0]["resources"]["limits"] == {"nvidia.com/gpu": "8"}


def test_llm_d_pools() -> None:
    """Both roles with their replicas; tensor parallelism is the chart's, the rest vLLM's flags; a profile each."""
    found = files("vllm pools", "llm-d")
    values = yaml.safe_load(found["llm-d-modelservice.yaml"])
    plugins, profiles = llmd.picker(outcome(**DEPLOYMENTS["vllm pools"]))

    assert [(values[role]["replicas"], values[role]["parallelism"]["tensor"]) for role in ("prefill", "decode")] == [
        (2, 1), (1, 2)
    ]  # fmt: skip
    assert not {"--tensor-parallel-size", "--port"} & set(values["decode"]["containers"][0]["args"])
    assert values["routing"]["proxy"]["enabled"]
    assert [profile["name"] for profile in profiles] == ["prefill", "decode"]
    assert {"pluginRef": "active-request-scorer"} in profiles[1]["plugins"]
    assert {"pluginRef": "random-picker"} in profiles[0]["plugins"]
    assert {"type": "always-disagg-pd-decider"} in plugins


@pytest.mark.parametrize(
    ("fields", "name", "remark"),
    [
        ({"scheduler": "sarathi"}, "vllm.sh", "simulated with the scheduler 'sarathi', which `vllm serve` "),
        ({"scheduler": "sarathi", "scheduler_options": {"watermark": 0.1}}, "vllm.sh",
         "simulated with watermark 0.1 of the scheduler sarathi, for which there is no flag"),
        ({"snapshot_interval_ms": 50}, "sglang.sh", "the simulated router saw the servers as they were up to 50 ms"),
        ({"swap_space_gib": 4}, "vllm.sh", "simulated with 4 GiB of swap space per GPU, for which there is no flag"),
        ({"moe_dtype": "nvfp4"}, "trtllm.sh", "simulated with experts in nvfp4: serve a checkpoint whose experts are"),
        ({"dtype": "nvfp4"}, "sglang.sh", "simulated with weights in nvfp4: serve a checkpoint that is quantised so"),
        ({"scheduler": "sglang", "block_size": 1}, "vllm.sh", "simulated with blocks of 1 tokens; vLLM's are"),
        ({"scheduler": "sglang", "block_size": 1}, "trtllm.sh", "simulated with blocks of 1 tokens; Tensor"),
        ({"router": "power_of_two", "replicas": 2}, "llm-d-modelservice.yaml", "simulated router power_of_two: llm-d"),
        ({"router": "least_kv", "replicas": 2}, "dynamo.yaml", "simulated router least_kv: the nearest is --router"),
        ({"num_speculative_tokens": 1}, "sglang.sh", "simulated with drafted tokens accepted at a rate of 0.7"),
        ({"inter_node_link": "ib_400g"}, "trtllm.sh", "simulated with ib_400g between nodes"),
        ({"enable_prefix_caching": True, "offload": {"dram_gib": 8, "retention_s": 9}}, "vllm.sh",
         "simulated offload: eviction lru, blocks kept 9 s; not set here"),
        ({"tensor_parallel_size": 2, "data_parallel_size": 2}, "trtllm.sh", "simulated with 2 attention groups of 2"),
        ({"tensor_parallel_size": 16}, "trtllm.sh", "one server over several nodes: start it under mpirun"),
    ],
)  # fmt: skip
def test_what_a_framework_cannot_express_is_a_remark(fields: dict[str, Any], name: str, remark: str) -> None:
    """A comment in the file; a plain deployment has none of them."""
    assert f"# {remark}" in files(outcome(**fields))[name]
    assert f"# {remark}" not in files("plain")[name]


def test_a_checkpoint_in_a_folder_is_not_in_a_pod() -> None:
    """Kubernetes files say so; those for this machine take the folder."""
    (tmp := dict(PROVENANCE))["model"] = {"name": "/weights/mine", "max_position_embeddings": 4096}
    found = launch_files(outcome(), tmp, name="x", workload=None)

    said = [name for name, text in found.items() if "# /weights/mine is no Hugging Face id" in text]
    assert said == ["dynamo.yaml", "llm-d-modelservice.yaml"]
    assert "no Hugging Face id" not in files("plain")["dynamo.yaml"]


def test_vllm_from_another_framework_has_its_blocks() -> None:
    """SGLang's 10,000 tokens in pages of one are 625 blocks of vLLM's 16, and one is vLLM's own."""
    (first,) = options(files(outcome(scheduler="sglang", block_size=1), "vllm")["vllm.sh"], "serve")

    assert first["--num-gpu-blocks-override"] == "626"
    assert not {"--gpu-memory-utilization", "--block-size"} & set(first)


def test_the_lines_of_a_result_are_those_of_what_was_simulated() -> None:
    """In the terminal and result.json: SGLang's own command; launch.sh hands over to the script in the folder."""
    run = outcome(scheduler="sglang")

    assert launch_lines(MODEL, run)[0].startswith(f"python -m sglang.launch_server --model-path {NAME} --tp-size 1 ")
    assert 'exec sh "$(dirname "$0")/launch/sglang.sh" "$@"' in launch_script(MODEL, run)
    assert launch_lines(MODEL, outcome(scheduler="trtllm"))[0].endswith("--config trtllm-engine.yaml")
