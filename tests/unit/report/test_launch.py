"""The launch commands start what was simulated: limits, GPUs, nodes, models from files."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from simserve.errors import SpecError
from simserve.explore.objective import Outcome
from simserve.explore.result import SearchResult
from simserve.report.document import document
from simserve.report.launch import Served, launch_files, launch_lines, launch_script, serve_command, served_model
from simserve.report.save import save
from simserve.spec.deployment import DeploymentSpec

MODEL = Served("m", 131072)
NAME = "meta-llama/Llama-3.1-8B"


def outcome(blocks: int = 10_000, **fields: Any) -> Outcome:
    """A run of a deployment with these fields."""
    deployment = DeploymentSpec(**fields)
    return Outcome(
        deployment=deployment, num_gpus=deployment.num_gpus, num_gpu_blocks=blocks, tokens_per_s_per_gpu=1.0,
        ttft_ms=1.0, tpot_ms=1.0, usd_per_hour=1.0, usd_per_million_tokens=1.0, slo=(), turned_away=0, metrics={},
    )  # fmt: skip


def found(run: Outcome, given: str = NAME, name: str = NAME) -> SearchResult:
    """A search that found this run, with a model of 131072 tokens of context."""
    model = {"name": name, "max_position_embeddings": 131072}
    return SearchResult("search", "demo", [run], provenance={"model": model, "study": {"model": given}})


def started(script: Path, folder: Path, *arguments: str) -> list[str]:
    """The CUDA_VISIBLE_DEVICES and port of every server that a launch script starts."""
    (folder / "vllm").write_text('#!/bin/sh\nfor word; do port=$word; done\necho "$CUDA_VISIBLE_DEVICES $port"\n')
    (folder / "vllm").chmod(0o755)
    command = ["sh", str(script), *arguments]
    done = subprocess.run(command, env={"PATH": f"{folder}:/usr/bin:/bin"}, capture_output=True, text=True, check=True)
    return sorted(done.stdout.splitlines())


def test_launch_of_one_replica() -> None:
    """The simulated limits appear as flags of `vllm serve`."""
    expected = (
        "vllm serve m --tensor-parallel-size 2 --max-num-batched-tokens 4096 --max-num-seqs 128 "
        "--gpu-memory-utilization 0.92 --block-size 16 --dtype bfloat16 --quantization fp8 "
        "--kv-cache-dtype fp8 --max-model-len 9000 --no-enable-prefix-caching --no-async-scheduling --port 8000"
    )
    run = outcome(
        tensor_parallel_size=2, max_num_batched_tokens=4096, max_num_seqs=128, dtype="fp8",
        kv_cache_dtype="fp8", max_model_len=9000,
    )  # fmt: skip

    assert expected == serve_command(MODEL, run)


@pytest.mark.parametrize(
    ("blocks", "asked", "expected"),
    [(1001, None, "16000"), (8193, None, None), (8192, None, "131056"), (1001, 500, "500"), (8193, 500, "500")],
)
def test_context_is_capped_to_what_the_kv_cache_holds(blocks: int, asked: int | None, expected: str | None) -> None:
    """vLLM does not start with a context that its KV cache cannot hold; one block of it is vLLM's own."""
    words = serve_command(MODEL, outcome(blocks, max_model_len=asked)).split()
    value = words[words.index("--max-model-len") + 1] if "--max-model-len" in words else None

    assert value == expected


def test_a_capped_context_is_explained() -> None:
    """The cap is the simulator's, so a comment says where it comes from."""
    capped, whole = (launch_lines(MODEL, outcome(blocks)) for blocks in (1001, 9000))

    assert [line for line in capped if "simulated KV cache" in line]
    assert not [line for line in whole if "simulated KV cache" in line]


@pytest.mark.parametrize(
    ("enabled", "flag"), [(True, "--enable-prefix-caching"), (False, "--no-enable-prefix-caching")]
)
def test_prefix_caching_is_as_simulated(enabled: bool, flag: str) -> None:
    """vLLM's own default is on, ours is off."""
    assert flag in serve_command(MODEL, outcome(enable_prefix_caching=enabled)).split()


def test_drafts_and_scheduling_ahead_are_flags() -> None:
    """As simulated; then no remark on synchronous scheduling is needed."""
    lines = launch_lines(MODEL, outcome(async_scheduling=True, num_speculative_tokens=3))

    assert """--speculative-config '{"method": "mtp", "num_speculative_tokens": 3}' --async-scheduling""" in lines[0]
    assert not [line for line in lines[1:] if "async" in line]


def test_scheduling_is_synchronous_and_a_comment_says_so() -> None:
    """vLLM overlaps scheduling with the step before by default, a deployment that does not ask for it does not."""
    lines = launch_lines(MODEL, outcome())

    assert "--no-async-scheduling" in lines[0].split()
    assert [line for line in lines[1:] if line.startswith("# --no-async-scheduling: ")]


def test_replicas_are_servers_on_their_own_gpus_and_ports() -> None:
    """Two replicas of two GPUs: GPUs 0,1 on port 8000 and 2,3 on 8001, and a router in front."""
    lines = launch_lines(MODEL, outcome(tensor_parallel_size=2, replicas=2))

    assert lines[0].startswith("CUDA_VISIBLE_DEVICES=0,1 vllm serve m ")
    assert lines[1].startswith("CUDA_VISIBLE_DEVICES=2,3 vllm serve m ")
    assert [line.rsplit(" ", 1)[1] for line in lines[:2]] == ["8000", "8001"]
    assert lines[2] == "# a round-robin load balancer in front of ports 8000-8001"


def test_replicas_that_need_a_second_node_say_so() -> None:
    """Nine GPUs do not fit one node of eight."""
    lines = launch_lines(MODEL, outcome(replicas=9))

    assert [line for line in lines if line.startswith("# on")] == ["# on node 0:", "# on node 1:"]
    assert "# a round-robin load balancer in front of ports 8000-8008, 8 on each node" in lines


def test_launch_script_starts_replicas_side_by_side(tmp_path: Path) -> None:
    """Several servers run in the background and the script waits for them."""
    save(found(outcome(replicas=2)), tmp_path)
    script = tmp_path / "launch.sh"

    assert script.read_text().splitlines()[-1] == "wait"
    assert started(script, tmp_path) == ["0 8000", "1 8001"]


def test_launch_script_starts_only_its_own_node(tmp_path: Path) -> None:
    """Five replicas of three GPUs on nodes of eight: two to a node, and no GPU is given out twice on one."""
    script = tmp_path / "launch.sh"
    script.write_text(launch_script(MODEL, outcome(tensor_parallel_size=3, replicas=5)))
    nodes = [started(script, tmp_path, str(node)) for node in range(3)]

    assert nodes == [["0,1,2 8000", "3,4,5 8001"], ["0,1,2 8002", "3,4,5 8003"], ["0,1,2 8004"]]


@pytest.mark.parametrize("arguments", [[], ["2"], ["one"]])
def test_launch_script_refuses_a_node_that_there_is_not(tmp_path: Path, arguments: list[str]) -> None:
    """Without a valid number nothing starts."""
    script = tmp_path / "launch.sh"
    script.write_text(launch_script(MODEL, outcome(replicas=9)))
    done = subprocess.run(["sh", str(script), *arguments], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (2, "usage: launch.sh NODE, where NODE is 0 to 1\n")


def test_an_imported_model_is_served_from_its_folder(tmp_path: Path) -> None:
    """A config.json, or its folder: the folder is what vLLM takes, and it must hold more than that file."""
    (tmp_path / "config.json").write_text(json.dumps({}))
    for given in (str(tmp_path), str(tmp_path / "config.json")):
        served = served_model(found(outcome(), given, tmp_path.name).provenance)

        assert served.target == str(tmp_path)
        assert "weights" in served.remark


@pytest.mark.parametrize("given", ["mine.yaml", "some/mine_config.json"])
def test_a_model_without_a_checkpoint_says_what_to_put_there(given: str) -> None:
    """A description alone cannot be served: a comment says so."""
    launch = document(found(outcome(), given, "mine"))["runs"][0]["launch"]

    assert launch[0].startswith("vllm serve mine ")
    assert f"# mine is described in {given}: put the checkpoint's folder or Hugging Face id in its place" in launch


@pytest.mark.parametrize("given", [NAME, "llama-3.1-8b", "models/meta-llama--Llama-3.1-8B.yaml"])
def test_a_hugging_face_id_is_served_by_that_id(given: str) -> None:
    """However it was given, without any remark."""
    assert served_model(found(outcome(), given).provenance) == Served(NAME, 131072)


def test_pools_are_servers_with_a_connector_each_type_of_gpu_on_its_own_node() -> None:
    """Prefill 2 x TP1 on H100, decode 1 x TP2 on A100: ports go on, GPUs begin anew, a proxy is named."""
    pools = {"prefill": {"replicas": 2}, "decode": {"gpu": "a100_sxm", "tensor_parallel_size": 2}}
    run = replace(
        outcome(1001, system="distserve", pools=pools), num_gpus=4,
        pools=({"name": "prefill", "num_gpu_blocks": 1001}, {"name": "decode", "num_gpu_blocks": 2001}),
    )  # fmt: skip

    commands = [line for line in launch_lines(MODEL, run) if "vllm serve" in line and not line.startswith("#")]
    assert ["CUDA_VISIBLE_DEVICES=0 VLLM_NIXL_SIDE_CHANNEL_PORT=5600", "CUDA_VISIBLE_DEVICES=1 "
            "VLLM_NIXL_SIDE_CHANNEL_PORT=5601", "CUDA_VISIBLE_DEVICES=0,1 VLLM_NIXL_SIDE_CHANNEL_PORT=5600"] == [
        line.split(" vllm")[0] for line in commands
    ]  # fmt: skip
    assert ["8000", "8001", "8002"] == [line.split("--port ")[1] for line in commands]
    assert all("NixlConnector" in line for line in commands)
    assert any("proxy" in line for line in launch_lines(MODEL, run))


def test_offload_is_a_flag_of_the_server() -> None:
    """vLLM's native CPU offloading, sized for the whole replica."""
    command = serve_command(MODEL, outcome(enable_prefix_caching=True, offload={"dram_gib": 64}))

    assert "--kv-offloading-backend native --kv-offloading-size 64" in command


def test_parallelisms_are_flags() -> None:
    """Each size that is not one, and the exchange that is not vLLM's default; GPUs are those of the whole server."""
    run = outcome(
        tensor_parallel_size=2, data_parallel_size=2, pipeline_parallel_size=2, enable_expert_parallel=True,
        all2all_backend="deepep_low_latency", num_gpu_blocks=500,
    )  # fmt: skip
    words = serve_command(MODEL, run)
    assert words.startswith(
        "vllm serve m --tensor-parallel-size 2 --data-parallel-size 2 --pipeline-parallel-size 2 "
        "--all2all-backend deepep_low_latency --max-num-batched-tokens 8192"
    )
    assert "--enable-expert-parallel" in words
    assert "--num-gpu-blocks-override 500" in words
    run = outcome(tensor_parallel_size=8, decode_context_parallel_size=4, prefill_context_parallel_size=2)
    words = serve_command(MODEL, run)
    assert "--prefill-context-parallel-size 2 --decode-context-parallel-size 4" in words
    assert "parallel-size 1" not in words


def test_servers_of_several_gpus_share_nodes() -> None:
    """Three replicas of 2 x 2 GPUs: two on the first node, one on the second; a context of one rank's cache."""
    lines = launch_lines(MODEL, outcome(2001, tensor_parallel_size=2, data_parallel_size=2, replicas=3))
    assert [line.split()[0] for line in lines[:5]] == [
        "#", "CUDA_VISIBLE_DEVICES=0,1,2,3", "CUDA_VISIBLE_DEVICES=4,5,6,7", "#", "CUDA_VISIBLE_DEVICES=0,1,2,3",
    ]  # fmt: skip
    assert "--max-model-len 16000" in lines[1]


@pytest.mark.parametrize(
    ("fields", "remark"),
    [
        ({"tensor_parallel_size": 16}, "# one server over several nodes: start a Ray cluster"),
        ({"tensor_parallel_size": 8, "data_parallel_size": 2}, "# data-parallel ranks on several nodes: the"),
        ({"moe_tensor_parallel_size": 2}, "# simulated with each expert split over 2 ranks, for which"),
    ],
)
def test_what_the_command_alone_does_not_do_is_said(fields: dict[str, Any], remark: str) -> None:
    """A server over several nodes, and what vLLM has no flag for."""
    assert [line for line in launch_lines(MODEL, outcome(**fields)) if line.startswith(remark)]
    assert not [line for line in launch_lines(MODEL, outcome()) if line.startswith(remark)]


def test_diffusion_schedulers_have_no_launch_files(tmp_path: Path) -> None:
    """One line says so, with what was simulated; no command, no script, no folder."""
    run = outcome(gpu="l40s", scheduler="dllm_serve", replicas=2, scheduler_options={"block_length": 16})

    (line,) = launch_lines(MODEL, run)
    paths = save(found(run), tmp_path)

    assert line.startswith("# no launch files: dllm_serve is no scheduler of vLLM")
    assert "block_length 16, gpu_memory_utilization 0.8 for each of 2 replicas" in line
    assert "vllm serve" not in line
    assert sorted(path.name for path in paths) == ["provenance.json", "result.json", "runs.csv", "runs.parquet"]
    with pytest.raises(SpecError, match="no launch files"):
        launch_files(run, {}, name="demo", workload=None)
