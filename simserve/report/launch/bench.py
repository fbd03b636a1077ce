"""The command that plays the simulated workload against the launched server: bench.sh, with requests.jsonl beside it.

`vllm bench serve` replays the file exactly (times, lengths, shared blocks; token ids are random), AIPerf too, sessions
included; SGLang's benchmark draws anew from the nearest of its distributions. Flags checked: vLLM, SGLang and AIPerf of
PyPI in the versions of `flags/`; AIPerf's command line was parsed by AIPerf itself.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from simserve.report.launch.framework import comments, simulated_as
from simserve.report.launch.names import Command, known
from simserve.report.launch.placement import FIRST_PORT, ROUTER_PORT
from simserve.report.launch.requests_file import Requests
from simserve.report.launch.served import Served
from simserve.spec.lengths import LengthSpec

if TYPE_CHECKING:
    from simserve.explore.objective import Outcome

FILE = "requests.jsonl"
TOOLS = ("vllm", "aiperf", "sglang")
_NO_FILE = "the simulated requests are not beside this file"
_IN_FRONT = "in front of all servers"


def bench_script(
    model: Served, run: Outcome, provenance: Mapping[str, Any], requests: Requests | None,
    frameworks: Sequence[str] = (),
) -> str:  # fmt: skip
    """bench.sh [TOOL] [URL]: TOOL is vllm, aiperf or sglang, URL the server's.

    frameworks: whose launch files lie beside it; the URL is that of the simulated one if it is among them or none is
    named, else of the first.
    """
    count, seed = _count(provenance, requests), int(provenance.get("seed", 0))
    spec = dict(provenance.get("study", {}).get("workload") or {})
    commands = {
        "vllm": _vllm(model, requests, count, seed),
        "aiperf": _aiperf(model, requests, count, seed),
        "sglang": _sglang(model, run, spec, count, seed),
    }
    tool = "aiperf" if requests is not None and requests.sessions else "vllm"
    own = simulated_as(run.deployment)
    launched = own if own in frameworks or not frameworks else frameworks[0]
    lines = ["#!/bin/sh", *_about(spec, requests, count, seed), *_elsewhere(run, launched, frameworks)]
    lines += ['cd "$(dirname "$0")"', _url(run, launched), f'case "${{1:-{tool}}}" in']
    for name in TOOLS:
        command, remarks = commands[name]
        lines += [f"{name})", *(f"  {line}" for line in comments(remarks))]
        lines += [f"  {command}"] if command else ['  echo "not possible, see bench.sh" >&2', "  exit 2"]
        lines.append("  ;;")
    lines += ["*)", '  echo "usage: bench.sh [vllm|aiperf|sglang] [URL]" >&2', "  exit 2", "  ;;", "esac"]
    return "\n".join(lines) + "\n"


def _count(provenance: Mapping[str, Any], requests: Requests | None) -> int:
    """Requests that were simulated: the first so many, if the workload was cut."""
    if requests is not None:
        return len(requests.lines)
    workload = provenance["workload"]
    return int(workload.get("head") or workload["requests"])


def port(run: Outcome, framework: str) -> int | None:
    """Where clients send requests: the router's port, if the framework brings one; None where it is still to be put up.

    The frontends of Dynamo and of llm-d listen where a lone server does.
    """
    if run.num_gpus == run.deployment.gpus_per_replica or framework in ("dynamo", "llm-d"):
        return FIRST_PORT
    return ROUTER_PORT if framework == "sglang" or (framework == "trtllm" and run.pools) else None


def _url(run: Outcome, framework: str) -> str:
    found = port(run, framework)
    if found is None:  # one server of several would get the load of all
        return f'URL="${{2:?the URL of what spreads requests, {_IN_FRONT} of {framework}}}"'
    return f'URL="${{2:-http://127.0.0.1:{found}}}"'


def _elsewhere(run: Outcome, launched: str, frameworks: Sequence[str]) -> list[str]:
    """A comment on each framework beside this one that is reached elsewhere."""
    texts = [f"the URL is that of {launched}"]
    for name in frameworks:
        if (found := port(run, name)) != port(run, launched):
            where = f"that of a load balancer or proxy {_IN_FRONT}" if found is None else f"http://127.0.0.1:{found}"
            texts.append(f"of {name} it is {where}")
    return comments(texts) if len(texts) > 1 else []


def _about(spec: Mapping[str, Any], requests: Requests | None, count: int, seed: int) -> list[str]:
    """Comments on what is reproduced and how well."""
    texts = [f"plays the simulated workload, {count} requests (seed {seed}): sh bench.sh [vllm|aiperf|sglang] [URL]"]
    if requests is None:
        texts.append(f"{_NO_FILE}: too many, or the trace was not found; `simserve launch` beside it writes them")
    else:
        texts.append(f"{FILE}: one simulated request per line, its time, its lengths, and which blocks prompts share")
        texts.append("the server sees random tokens of those lengths; outputs run to their length (ignore_eos)")
    if spec.get("classes"):
        texts.append("classes: the tools send no priorities, and report no class on its own")
    texts += [
        f"{key}: their tokens are sent as text, by sglang not at all; nothing is encoded"
        for key in ("images", "audio") if spec.get(key)
    ]  # fmt: skip
    return comments(texts)


def _vllm(model: Served, requests: Requests | None, count: int, seed: int) -> tuple[str, list[str]]:
    """`vllm bench serve` over the file."""
    if requests is None:
        return "", [_NO_FILE]
    if requests.sessions:
        return "", ["vllm bench serve sends no turn after the answer to the one before: use aiperf"]
    command = Command(known("vllm"), "bench", ("vllm", "bench", "serve"))
    for flag, value in (("--backend", "openai"), ("--endpoint", "/v1/completions"), ("--model", model.target),
                        ("--dataset-name", "timed_trace"), ("--dataset-path", FILE),
                        ("--timed-trace-chunk-hash-size", requests.block_tokens),
                        ("--timed-trace-sec-multiplier", 0.001), ("--num-prompts", count),
                        ("--seed", seed)):  # fmt: skip
        command.add(flag, value)
    if requests.concurrency is not None:
        command.add("--no-self-timed")
        command.add("--max-concurrency", requests.concurrency)
    command.add("--percentile-metrics", "ttft,tpot,itl,e2el")
    command.add("--metric-percentiles", "50,90,95,99")
    return f'{shlex.join(command.line)} --base-url "$URL"', [f"vLLM {command.known.version}", *command.remarks]


def _aiperf(model: Served, requests: Requests | None, count: int, seed: int) -> tuple[str, list[str]]:
    """AIPerf over the file."""
    if requests is None:
        return "", [_NO_FILE]
    command = Command(known("aiperf"), "profile", ("aiperf", "profile"))
    for flag, value in (("--model", model.target), ("--endpoint-type", "chat" if requests.sessions else "completions"),
                        ("--input-file", FILE), ("--custom-dataset-type", "mooncake_trace"),
                        ("--extra-inputs", "ignore_eos:true"), ("--random-seed", seed)):  # fmt: skip
        command.add(flag, value)
    command.add("--streaming")
    command.add("--isl-block-size", requests.block_tokens)
    if requests.concurrency is not None:
        command.add("--no-fixed-schedule")
        command.add("--concurrency", requests.concurrency)
        command.add("--request-count", count)
    else:
        command.add("--fixed-schedule")
    remarks = [f"AIPerf {command.known.version}", *command.remarks]
    if requests.sessions:
        remarks.append("the chat template adds tokens to each turn")
    return f'{shlex.join(command.line)} --url "$URL"', remarks


def _sglang(
    model: Served, run: Outcome, spec: Mapping[str, Any], count: int, seed: int
) -> tuple[str, list[str]]:  # fmt: skip
    """SGLang's benchmark with lengths and arrivals drawn anew."""
    arrivals = spec.get("arrivals")
    if arrivals is None:
        return "", ["SGLang's benchmark does not take the lengths of a trace: use vllm or aiperf"]
    command = Command(known("sglang"), "bench", ("python", "-m", "sglang.benchmark.serving"))
    remarks = [f"SGLang {command.known.version}; drawn anew, not the simulated requests"]
    common, _, one = _lengths((spec.get("prefixes") or {}).get("tokens") or {"kind": "fixed", "value": 0})
    prompt, low, same = _lengths(spec["prompt_tokens"])
    prompt, low, same = prompt + common, low + common, same and one
    output, low_out, same_out = _lengths(spec["output_tokens"])
    ratio = min(low / prompt, low_out / output)
    for flag, value in (("--backend", "sglang-oai"), ("--model", model.target), ("--dataset-name", "random-ids"),
                        ("--random-input-len", prompt), ("--random-output-len", output),
                        ("--random-range-ratio", f"{ratio:.4g}"), ("--num-prompts", count),
                        ("--seed", seed)):  # fmt: skip
        command.add(flag, value)
    if not (same and same_out and abs(low / prompt - low_out / output) < 1e-3):
        remarks.append("lengths are uniform here, one ratio of least to most for both; simulated otherwise")
    if arrivals["kind"] == "closed_loop":
        command.add("--max-concurrency", arrivals["concurrency"])
    else:
        command.add("--request-rate", f"{arrivals['rate_rps']:g}")
        if arrivals["kind"] != "poisson":
            remarks.append(f"arrivals are Poisson here, simulated were {arrivals['kind']}")
    if spec.get("prefixes") or spec.get("sessions"):
        remarks.append("no prefix is shared here, and there are no sessions; both were simulated as the study says")
    return f'{shlex.join(command.line)} --base-url "$URL"', [*remarks, *command.remarks]


def _lengths(spec: Mapping[str, Any]) -> tuple[int, int, bool]:
    """(most, least, whether uniform between them is what was simulated) of a distribution of tokens."""
    kind = spec["kind"]
    if kind == "fixed":
        return int(spec["value"]), int(spec["value"]), True
    if kind == "uniform":
        low, high = LengthSpec.model_validate(spec).ends
        return high, low, True
    if kind == "lognormal":
        return max(1, round(spec["mean"])), max(1, round(spec["mean"])), False
    values = spec.get("values") or [1]
    mean = max(1, round(sum(values) / len(values)))
    return mean, mean, False
