"""What arrives: a trace that is replayed, or arrivals and lengths drawn from distributions."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from simserve.spec.base import Spec
from simserve.spec.confidence import ConfidenceSpec
from simserve.spec.images import ImagesSpec
from simserve.spec.lengths import LengthSpec, exactly
from simserve.spec.slo import SloSpec
from simserve.spec.sounds import SoundsSpec

ADDED = ("prefixes", "sessions", "images", "audio")  # to what a workload draws
MOST_REQUESTS = 20_000_000  # of a drawn workload; the columns alone take a gigabyte


class TraceSpec(Spec):
    """A recorded trace.

    path: relative to the study, or to the current folder; rate_scale: 2 halves all gaps between arrivals; limit: the
    first so many requests; format: azure (any CSV, see `workload/columns.py`), mooncake or blocks_jsonl (JSON lines
    with block ids, see `workload/blocks.py`).
    """

    path: str
    format: Literal["azure", "mooncake", "blocks_jsonl"] = "azure"
    rate_scale: float = Field(default=1.0, gt=0)
    limit: int | None = Field(default=None, ge=1)


class ArrivalSpec(Spec):
    """How requests arrive.

    kind: at random (poisson, gamma), evenly (constant), or each when one ends (closed_loop); rate_rps: requests per
    second; cv: coefficient of variation of the gaps of gamma, 1 as poisson, more in bursts; concurrency: requests in
    flight of a closed loop.
    """

    kind: Literal["poisson", "gamma", "constant", "closed_loop"]
    rate_rps: float | None = Field(default=None, gt=0, le=1e9)
    cv: float | None = Field(default=None, ge=0.001, le=100)
    concurrency: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _has_what_its_kind_needs(self) -> ArrivalSpec:
        needed = {"closed_loop": ["concurrency"], "gamma": ["rate_rps", "cv"]}.get(self.kind, ["rate_rps"])
        exactly(self, self.kind, needed, ["rate_rps", "cv", "concurrency"])
        return self


class PrefixSpec(Spec):
    """Common prefixes: a `share` of the requests (of the sessions) begins with one of `count` of them.

    Prefixes are equally likely; their `tokens`, drawn once for each, come on top of `prompt_tokens`.
    """

    count: int = Field(ge=1, le=1_000_000)
    tokens: LengthSpec
    share: float = Field(default=1.0, gt=0, le=1)


class SessionSpec(Spec):
    """Conversations of `turns` turns: a prompt is the one before, what was generated, and `prompt_tokens` new ones.

    A turn is sent when the turn before has ended and a time has passed, exponential with mean think_time_s.
    `arrivals` are then those of sessions; `requests` counts turns, the last session is cut there.
    """

    turns: LengthSpec
    think_time_s: float = Field(default=0.0, ge=0, le=1e6)


class ClassSpec(Spec):
    """A class of requests: its share of all (of sessions), priority (lower first), and an SLO of its own or none."""

    name: str = Field(pattern=r"^[A-Za-z0-9._-]+$")
    share: float = Field(gt=0, le=1)
    priority: int = Field(default=0, ge=-(1 << 31), le=1 << 31)
    slo: SloSpec | None = None


class WorkloadSpec(Spec):
    """Either `trace`, or `arrivals`, `prompt_tokens`, `output_tokens` and the number of `requests`.

    trace: recorded requests; arrivals: when they come; prompt_tokens, output_tokens: how long they are; requests: how
    many; prefixes: what prompts have in common; sessions: conversations of several turns; images, audio: what comes
    with the text; classes: shares of the requests with a priority and an SLO of their own.
    Drawn workloads may have common `prefixes`, `sessions` of several turns, `images` and `audio`; all may have
    `classes`.
    kind diffusion: output tokens are the canvas of masks that a diffusion language model fills in, of a trace too;
    confidence: how many of them a step commits, None for the defaults of `ConfidenceSpec`.
    """

    kind: Literal["autoregressive", "diffusion"] = "autoregressive"
    confidence: ConfidenceSpec | None = None
    trace: TraceSpec | None = None
    arrivals: ArrivalSpec | None = None
    prompt_tokens: LengthSpec | None = None
    output_tokens: LengthSpec | None = None
    requests: int | None = Field(default=None, ge=1, le=MOST_REQUESTS)
    prefixes: PrefixSpec | None = None
    sessions: SessionSpec | None = None
    images: ImagesSpec | None = None
    audio: SoundsSpec | None = None
    classes: tuple[ClassSpec, ...] | None = Field(default=None, min_length=1)

    @field_validator("classes")
    @classmethod
    def _all_have_a_class(cls, classes: tuple[ClassSpec, ...] | None) -> tuple[ClassSpec, ...] | None:
        if classes is not None:
            if len({c.name for c in classes}) != len(classes):
                raise ValueError("two classes have the same name")
            total = sum(c.share for c in classes)
            if abs(total - 1) > 1e-6:
                raise ValueError(f"the shares of all classes must add up to 1, not {total:g}")
        return classes

    @model_validator(mode="after")
    def _trace_or_distributions(self) -> WorkloadSpec:
        drawn = ["arrivals", "prompt_tokens", "output_tokens", "requests"]
        if self.trace is not None:
            exactly(self, "a workload with a trace", ["trace"], [*drawn, *ADDED])
        elif all(getattr(self, name) is None for name in drawn):
            raise ValueError("a workload needs trace, or arrivals, prompt_tokens, output_tokens and requests")
        else:
            exactly(self, "a workload without a trace", drawn, drawn)
        if self.sessions is not None and self.arrivals is not None and self.arrivals.kind == "closed_loop":
            raise ValueError("sessions need arrivals in an open loop: poisson, gamma or constant")
        return self

    @model_validator(mode="after")
    def _diffusion(self) -> WorkloadSpec:
        if self.kind == "diffusion":
            exactly(self, "a workload of kind diffusion", [], [*ADDED])
        elif self.confidence is not None:
            raise ValueError("confidence needs kind: diffusion")
        return self

    @model_serializer(mode="wrap")
    def _as_before(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Autoregressive workloads say nothing of diffusion, others nothing of images and sounds: journals stay."""
        fields: dict[str, Any] = plain(self)
        for name in ("images", "audio"):
            if getattr(self, name) is None:
                fields.pop(name, None)
        if self.kind == "autoregressive":
            for name in ("kind", "confidence"):
                fields.pop(name, None)
        return fields
