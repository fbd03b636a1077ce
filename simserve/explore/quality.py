"""What a configuration of a diffusion model does to its answers, which nothing here judges."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from simserve.diffusion import denoises
from simserve.sim.plan import knobs
from simserve.systems import SCHEDULERS

if TYPE_CHECKING:
    from simserve.spec.deployment import DeploymentSpec

# Options by the value at which a step commits one position and attends to everything; beyond it, answers change.
_PLAIN = {"threshold": 0.0, "retention_ratio": 1.0, "tokens_per_step": 1}


def shown_options(d: DeploymentSpec) -> dict[str, Any]:
    """The scheduler's options, and the threshold of a diffusion scheduler also where it is the knob's default."""
    effective = _effective(d)
    return {**dict(d.scheduler_options), **{name: effective[name] for name in ("threshold",) if name in effective}}


def quality_note(d: DeploymentSpec) -> str:
    """Which options of a diffusion configuration change the answers; '' where none does, or for other models."""
    effective = _effective(d)
    changed = [f"{name} {effective[name]:g}" for name, plain in _PLAIN.items()
               if name in effective and effective[name] != plain]  # fmt: skip
    if not changed:
        return ""
    verb = "changes" if len(changed) == 1 else "change"
    note = f"Quality is not judged: {' and '.join(changed)} {verb} the answers"
    if effective.get("threshold", 0.0) > 0.0:
        note += "; positions per step come from workload.confidence, Fast-dLLM's figure on GSM8K unless given"
    return note


def _effective(d: DeploymentSpec) -> dict[str, Any]:
    """Every knob of a diffusion scheduler, as the options or its default have it."""
    if not denoises(d.scheduler):
        return {}
    defaults = {name: about["default"] for name, about in knobs(SCHEDULERS.get(d.scheduler)).items()}
    return {**defaults, **dict(d.scheduler_options)}
