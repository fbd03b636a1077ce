"""A deployment of stages in words, and which of its stages is the busiest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simserve.spec.stages import Stage

if TYPE_CHECKING:
    from simserve.explore.objective import Outcome
    from simserve.spec.deployment import DeploymentSpec


def staged_layout(d: DeploymentSpec) -> str:
    """'2E-P-D on a100_sxm TP1 bf16'; with what each process has where that differs."""
    own = {name: f"{engine.gpu} {engine.split} {engine.dtype}" for name, engine in d.engines()}
    own |= {placed.name: f"{engine.gpu} TP{engine.tensor_parallel_size}" for placed, engine in d.encoders()
            if engine.gpu not in {e.gpu for _, e in d.engines()}}  # fmt: skip
    if len(set(own.values())) == 1:
        return f"{d.stages} on {next(iter(own.values()))}"
    return f"{d.stages} on " + ", ".join(f"{name} {text}" for name, text in own.items())


def staged_words(d: DeploymentSpec) -> str:
    """The same with system, limits and routers, and the options that are given."""
    limits = {name: _limits(engine) for name, engine in d.engines()}
    if len(set(limits.values())) == 1:
        text = next(iter(limits.values()))
    else:
        text = "; ".join(f"{name} {own}" for name, own in limits.items())
    options = "".join(f", {name} {value}" for name, value in d.system_options)
    return f"{d.system} {staged_layout(d)}, {text}{options}"


def _limits(engine: DeploymentSpec) -> str:
    text = f"{engine.max_num_batched_tokens} tokens, {engine.max_num_seqs} seqs"
    if engine.gpu_memory_utilization is not None:
        text += f", {engine.gpu_memory_utilization:g} of memory"
    return f"{text}, {engine.router}"


def busy_stages(run: Outcome) -> dict[str, float]:
    """Share of the time, 0 to 1, in which each process is busy: encoders alone as E, the mean over them."""
    found = {}
    if (encoding := (run.metrics.get("stages") or {}).get("encoder_busy")) is not None:
        found["E"] = float(encoding)
    return {**found, **{str(part["pool"]): float(part["busy"]) for part in run.usage}}


def bottleneck(run: Outcome, tight: str | None) -> tuple[str, float, str] | None:
    """(process, share of the time in which it is busy, one sentence): of those that a request passes before its first
    token the busiest, where TPOT is not what binds (`tight`), else the one that decodes; None without stages."""
    d, busy = run.deployment, busy_stages(run)
    if d.stages is None or not busy:
        return None
    processes = {name: d.process(name).process for name, _ in d.engines()}
    wanted = {Stage.DECODE} if tight == "tpot" else {Stage.ENCODE, Stage.PREFILL}
    some = [name for name in busy if name in processes and wanted & processes[name]]
    if "E" in busy and tight != "tpot":
        some.insert(0, "E")
    name = max(some or busy, key=lambda one: busy[one])
    shares = ", ".join(f"{one} {100 * share:.0f} %" for one, share in busy.items())
    what = "TPOT is made by" if tight == "tpot" else "the busiest stage before the first token is"
    return name, busy[name], f"Of {d.stages} {what} {name}; busy are, of the time, {shares}{_moved(run)}"


def _moved(run: Outcome) -> str:
    """What is handed over, and how much of it nobody waits for."""
    found = run.metrics.get("stages") or {}
    parts = [
        f"{100 * found[key]:.0f} % of {what}" for key, what in (
            ("kv_overlap", "the time of KV messages beside the prompt"),
            ("feature_overlap", "the time of fetching features beside the scheduling of their prompts"),
        ) if found.get(key) is not None
    ]  # fmt: skip
    return f"; {' and '.join(parts)}" if parts else ""
