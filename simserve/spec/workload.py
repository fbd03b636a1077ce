"""What arrives: a trace that is replayed, or arrivals and lengths drawn from distributions."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from simserve.spec.base import Spec
from simserve.spec.confidence import ConfidenceSpec
from simserve.spec.slo import SloSpec

LONGEST = 1 << 30  # tokens of one request, far beyond any context window
MOST_REQUESTS = 20_000_000  # of a drawn workload; the columns alone take a gigabyte


class TraceSpec(Spec):
    """A recorded trace. rate_scale 2 halves all gaps between arrivals; limit: the first so many requests.

    format: azure (CSV), mooncake or blocks_jsonl (JSON lines with block ids, see `workload/blocks.py`).
    """

    path: str
    format: Literal["azure", "mooncake", "blocks_jsonl"] = "azure"
    rate_scale: float = Field(default=1.0, gt=0)
    limit: int | None = Field(default=None, ge=1)


class ArrivalSpec(Spec):
    """How requests arrive: `rate_rps` per second, `cv` (gamma) of the gaps, or a closed loop."""

    kind: Literal["poisson", "gamma", "constant", "closed_loop"]
    rate_rps: float | None = Field(default=None, gt=0, le=1e9)
    cv: float | None = Field(default=None, ge=0.001, le=100)
    concurrency: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _has_what_its_kind_needs(self) -> ArrivalSpec:
        needed = {"closed_loop": ["concurrency"], "gamma": ["rate_rps", "cv"]}.get(self.kind, ["rate_rps"])
        _exactly(self, self.kind, needed, ["rate_rps", "cv", "concurrency"])
        return self


class LengthSpec(Spec):
    """A distribution of token counts, at least 1.

    fixed: value; uniform: low..high inclusive, or value and on both sides of it as far as its share `spread`;
    lognormal: mean and std of the variable itself, clipped to [min, max]; empirical: drawn with replacement from
    values, or from a column of the CSV file at path. A path that ends in .json or .json.gz is a list of numbers, or of
    objects whose key `column` has them.
    """

    kind: Literal["fixed", "uniform", "lognormal", "empirical"]
    value: int | None = Field(default=None, ge=1, le=LONGEST)
    low: int | None = Field(default=None, ge=1, le=LONGEST)
    high: int | None = Field(default=None, ge=1, le=LONGEST)
    spread: float | None = Field(default=None, gt=0, lt=1)
    mean: float | None = Field(default=None, ge=1, le=LONGEST)
    std: float | None = Field(default=None, gt=0, le=LONGEST)
    min: int | None = Field(default=None, ge=1, le=LONGEST)
    max: int | None = Field(default=None, ge=1, le=LONGEST)
    values: tuple[Annotated[int, Field(ge=1, le=LONGEST)], ...] | None = Field(default=None, min_length=1)
    path: str | None = None
    column: str | None = None

    @model_validator(mode="after")
    def _has_what_its_kind_needs(self) -> LengthSpec:
        if self.kind == "empirical":
            needed = ["values"] if self.path is None else ["path", "column"]
            if self.path is not None and self.column is None and is_json(self.path):
                needed = ["path"]
        else:
            needed = {"fixed": ["value"], "uniform": ["low", "high"], "lognormal": ["mean", "std"]}[self.kind]
            if self.kind == "uniform" and self.spread is not None:
                needed = ["value", "spread"]
        known = ["value", "low", "high", "spread", "mean", "std", "values", "path", "column"]
        if self.kind != "lognormal":
            known += ["min", "max"]
        _exactly(self, self.kind, needed, known)
        for low, high in (("low", "high"), ("min", "max")):
            first, second = getattr(self, low), getattr(self, high)
            if first is not None and second is not None and first > second:
                raise ValueError(f"{low} {first} is larger than {high} {second}")
        return self

    @property
    def ends(self) -> tuple[int, int]:
        """Of a uniform one, both included."""
        if self.spread is None:
            return self.low or 1, self.high or 1
        aside = int((self.value or 1) * self.spread)
        return max(1, (self.value or 1) - aside), (self.value or 1) + aside


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

    Drawn workloads may have common `prefixes` and `sessions` of several turns; all may have `classes`.
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
            _exactly(self, "a workload with a trace", ["trace"], [*drawn, "prefixes", "sessions"])
        elif all(getattr(self, name) is None for name in drawn):
            raise ValueError("a workload needs trace, or arrivals, prompt_tokens, output_tokens and requests")
        else:
            _exactly(self, "a workload without a trace", drawn, drawn)
        if self.sessions is not None and self.arrivals is not None and self.arrivals.kind == "closed_loop":
            raise ValueError("sessions need arrivals in an open loop: poisson, gamma or constant")
        return self

    @model_validator(mode="after")
    def _diffusion(self) -> WorkloadSpec:
        if self.kind == "diffusion":
            _exactly(self, "a workload of kind diffusion", [], ["prefixes", "sessions"])
        elif self.confidence is not None:
            raise ValueError("confidence needs kind: diffusion")
        return self

    @model_serializer(mode="wrap")
    def _as_before_diffusion(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Autoregressive workloads say nothing of diffusion, so that journals of searches stay what they are."""
        fields: dict[str, Any] = plain(self)
        if self.kind == "autoregressive":
            for name in ("kind", "confidence"):
                fields.pop(name, None)
        return fields


def is_json(path: str) -> bool:
    """Whether a file of lengths is read as JSON, not as CSV."""
    return path.lower().endswith((".json", ".json.gz"))


def _exactly(spec: Spec, kind: str, needed: list[str], known: list[str]) -> None:
    """ValueError unless all of `needed` and nothing else of `known` is set."""
    missing = [name for name in needed if getattr(spec, name) is None]
    if missing:
        raise ValueError(f"{kind} needs {' and '.join(missing)}")
    extra = [name for name in known if name not in needed and getattr(spec, name) is not None]
    if extra:
        raise ValueError(f"{kind} has no {' nor '.join(extra)}")
