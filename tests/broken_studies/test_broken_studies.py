"""Some fifty broken study files: each gives one clear line on stderr and exit code 2, never a traceback."""

import subprocess
import sys
from pathlib import Path

import pytest

from simserve.cli.main import main

HERE = Path(__file__).resolve().parent

EXPECTED = {
    "a_list": "a_list.yaml:1: must be a mapping",
    "audio_for_llama": "workload.audio: meta-llama/Llama-3.1-8B reads text alone; audio needs a model with an audio "
    "encoder, such as Qwen/Qwen2-Audio-7B-Instruct",
    "audio_low_above_high": ":9: workload.audio.duration_s: low 10.0 is larger than high 5.0",
    "blank_trace": "blank.csv: the file has no rows",
    "both_trace_and_arrivals": ":3: workload: a workload with a trace has no arrivals",
    "budget_below_sequences": ":9: deployment: max_num_batched_tokens 128 is smaller than max_num_seqs 256",
    "closed_loop_without_size": ":4: workload.arrivals: closed_loop needs concurrency",
    "duplicate_key": ":3: model: the key stands here twice",
    "empty": "empty.yaml: the file is empty",
    "empty_trace": "empty.csv: the file has no rows",
    "flexgen_without_tiers": ":9: deployment: scheduler flexgen needs tiers: host_memory_gib, disk_gib",
    "fp8_on_a100": "none of 2 configurations is possible: a100_sxm does not compute in fp8",
    "diffusion_in_pools": "LLaDA-8B-Instruct is a diffusion model: it is served by one pool (got 'disaggregated')",
    "diffusion_model_on_vllm": "GSAI-ML/LLaDA-8B-Instruct is a diffusion model; those who serve it are dllm_cache, "
    "dllm_serve, fast_dllm, sangam, sched_early_exit, sparse_dllm, vanilla_dllm",
    "diffusion_model_without_canvases": ":3: workload.kind: GSAI-ML/LLaDA-8B-Instruct needs diffusion",
    "diffusion_with_prefix_caching": "none of 2 configurations is possible: diffusion models are modelled on one GPU "
    "with KV in 16 bits, not with enable_prefix_caching",
    "diffusion_with_tp": "on one GPU with KV in 16 bits, not with tensor_parallel_size",
    "diffusion_without_room": "none of 2 configurations is possible; 1 of them because GSAI-ML/LLaDA-8B-Instruct in "
    "bf16 on rtx_4090 does not fit: 14.9 GiB of weights and 9.6 GiB of activations",
    "diffusion_workload_for_llama": ":4: workload.kind: meta-llama/Llama-3.1-8B needs autoregressive",
    "dllm_serve_for_llama": "dllm_serve serves diffusion models, meta-llama/Llama-3.1-8B decodes token by token",
    "dense_data_parallel": "data_parallel_size 2 shares experts out, and meta-llama/Llama-3.1-8B has none",
    "images_for_qwen2_audio": "workload.images: Qwen/Qwen2-Audio-7B-Instruct reads text and audio; images need a model "
    "with a vision encoder, such as Qwen/Qwen3-VL-8B-Instruct",
    "impossible_tp": "tensor_parallel_size 3 does not divide the 32 attention heads",
    "low_above_high": ":6: workload.output_tokens: low 30 is larger than high 10",
    "min_above_max": ":5: workload.prompt_tokens: min 500 is larger than max 300",
    "missing_trace": "traces/nowhere.csv: no such file",
    "model_does_not_fit": "does not fit: per GPU 131.4 GiB of weights",
    "negative_length": ":5: workload.prompt_tokens.value: input should be greater than or equal to 1 (got -200)",
    "no_bound": ":8: slo: an SLO needs at least one of ttft_ms, tpot_ms, e2e_ms",
    "no_search": "there is no 'search' section; use `simserve simulate`",
    "no_values": ":11: search.space.router: is empty; give at least one value, or leave the key out (got [])",
    "no_values_of_an_option": ":11: search.space.scheduler_options.vllm.policy: is empty; give at least one value",
    "no_workload": "workload: this key is missing",
    "not_yaml": ":9: not valid YAML",
    "offload_without_hashes": ":8: deployment: offload needs enable_prefix_caching: true",
    "pass_beyond_the_budget": "a pass over the longest request has 768 tokens, more than max_num_batched_tokens 512",
    "percentile_120": ":8: slo.percentile: input should be less than 100 (got 120)",
    "pools_that_no_search_knows": ":9: deployment.pools: a search is over pools prefill and decode, or over one engine",
    "prompt_beyond_context": ":3: workload: every request is longer than the context of meta-llama/Llama-3.1-8B",
    "prompt_beyond_kv_cache": "the longest request needs 60020 tokens of KV cache",
    "slo_nothing_meets": "no configuration meets the SLO (2 possible configurations simulated)",
    "stages_all_of_how_many": ":11: search.space.stages: needs search.max_gpus: how many GPUs they may have (got "
    "'all')",
    "stages_all_without_system": ":11: search.space.stages: stages need a system of stages, e.g. deployment: {system: "
    "epd_serve",
    "stages_beside_mode": ":11: search.space.mode: does not go with stages: the layout says where prompts and "
    "decoding run",
    "stages_beside_prefill": ":11: search.space.prefill: does not go with stages: give counts in the layout, e.g. "
    "E-2P-D",
    "stages_beside_replicas": ":11: search.space.replicas: does not go with stages: give counts in the layout, e.g. "
    "(E-PD)x2 (got '1, 2')",
    "stages_in_lower_case": ":11: search.space.stages[0]: 'e' is no place in 'e-p-d'; did you mean 'E-P-D'?",
    "stages_of_distserve": ":9: deployment.system: distserve is no system of stages; epd_serve is one (got "
    "'distserve')",
    "stages_share_memory": ":11: search.space.stages[0]: pools P and D share the memory of a GPU: give each of "
    "them its gpu_memory_utilization, together at most 1 (got '(P-D)x2')",
    "stages_too_few_gpus": ":12: search.max_gpus: every configuration of the search space needs more than "
    "max_gpus = 2 GPUs",
    "stages_too_many": ":11: search.space.stages: the space has more than 100,000 layouts with their settings",
    "stages_unknown_letter": ":11: search.space.stages[1]: 'Q' is no place in 'E-Q-D'; write e.g. E-P-D",
    "stages_unknown_option": ":11: search.space.system_options.epd_serve.prefetsh: unknown knob of epd_serve "
    "'prefetsh'; did you mean 'prefetch'?",
    "stages_with_encoder_for_llama": ":11: search.space.stages[1]: meta-llama/Llama-3.1-8B reads text alone: an "
    "encoder has nothing to do (got 'E-2P-D'); did you mean '2P-D'?",
    "stages_with_replicas": ":8: deployment: replicas do not go with stages: write the counts there, e.g. (E-PD)x2",
    "stages_with_unknown_pool": ":8: deployment: pool 'PD' is not in stages E-P-D, which has E, P, D",
    "stages_without_decode": ":8: deployment: nobody does D in 'E-P'",
    "stages_without_system": ":8: deployment: stages need a system of stages, e.g. system: epd_serve",
    "system_options_without_stages": ":11: search.space.system_options: are searched for systems of stages",
    "text_for_number": ":7: workload.requests: must be a number, not text",
    "tiers_without_room": "no block fits: 55.1 GiB of weights",
    "too_few_gpus": ":12: search.max_gpus: every configuration of the search space needs more than",
    "trace_is_folder": "traces: is a folder, not a file",
    "trace_with_text": "text.csv, row 3: ContextTokens: not a whole number (got 'many')",
    "trace_without_column": "GeneratedTokens: the column is missing",
    "unknown_dtype": ":11: search.space.dtype[0]: must be one of bf16, fp16, fp8, "
    "fp8_block, nvfp4 (got 'bf61'); did you mean 'bf16'?",
    "unknown_gpu": ":11: search.space.gpu[0]: unknown GPU 'h10_sxm'; did you mean 'h100_sxm'?",
    "unknown_key": ":13: search.trails: unknown key; did you mean 'trials'?",
    "unknown_model": ":2: model: unknown model 'meta-llama/Llama-3.1-9B'; did you mean 'meta-llama/Llama-3.1-8B'?",
    "unknown_pool": ":9: deployment.pools: unknown pool of distserve 'decod'; did you mean 'decode'?",
    "unknown_router": ":11: search.space.router[0]: unknown router 'least_load'; did you mean 'least_loaded'?",
    "unknown_scheduler": ":9: deployment.scheduler: unknown scheduler 'vlm'; did you mean 'vllm'?",
    "unknown_system_option": ":9: deployment.system_options: unknown knob of semi_pd 'prefil_share'; did you mean "
    "'prefill_share'?",
    "unknown_top_key": ":8: sla: unknown key; did you mean 'slo'?",
    "unsorted_trace": "unsorted.csv, row 3: TIMESTAMP: times go backwards",
    "wrong_unit": ":8: slo.ttft_ms: '30 GB' is not a duration",
    "zero_rate": ":4: workload.arrivals.rate_rps: input should be greater than 0",
    "zero_requests": ":7: workload.requests: input should be greater than or equal to 1",
}


def test_every_broken_study_is_expected() -> None:
    """The table and the folder hold the same names."""
    assert sorted(EXPECTED) == sorted(path.stem for path in HERE.glob("*.yaml"))


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_one_clear_line(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In process: exit code 2, exactly one line, which says what is wrong and where."""
    code = main(["search", str(HERE / f"{name}.yaml"), "-o", str(tmp_path)])
    lines = capsys.readouterr().err.splitlines()

    assert code == 2
    assert len(lines) == 1
    assert lines[0].startswith("simserve: error: ")
    assert EXPECTED[name] in lines[0]


@pytest.mark.parametrize("name", ["unknown_key", "slo_nothing_meets"])
def test_one_clear_line_as_a_command(name: str, tmp_path: Path) -> None:
    """The real process: the same line, exit code 2, no traceback."""
    command = [sys.executable, "-m", "simserve", "search", str(HERE / f"{name}.yaml"), "-o", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert EXPECTED[name] in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_results_are_saved_when_nothing_meets_the_slo(tmp_path: Path) -> None:
    """The best that was found can still be read."""
    main(["search", str(HERE / "slo_nothing_meets.yaml"), "-o", str(tmp_path)])

    assert (tmp_path / "result.json").is_file()
    assert (tmp_path / "runs.csv").is_file()
