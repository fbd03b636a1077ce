"""From a workload description to its requests."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from simserve.sim.rng import stream
from simserve.spec.confidence import ConfidenceSpec
from simserve.spec.model import load_model
from simserve.spec.study import StudySpec
from simserve.spec.workload import ClassSpec, TraceSpec, WorkloadSpec
from simserve.workload.azure import read_azure
from simserve.workload.blocks import read_blocks
from simserve.workload.drawn import draw
from simserve.workload.files import resolve
from simserve.workload.requests import RequestSet
from simserve.workload.shown import with_shown_tokens


def build_workload(spec: WorkloadSpec, *, seed: int, base_dir: Path | None = None) -> RequestSet:
    """The requests of `spec`, the same for the same seed; paths are relative to `base_dir`, then the cwd."""
    trace = spec.trace
    requests = draw(spec, seed=seed, base_dir=base_dir) if trace is None else _trace(trace, base_dir)
    if spec.kind == "diffusion":
        requests = _diffusion(requests, spec.confidence or ConfidenceSpec(), seed)
    return requests if spec.classes is None else _classed(requests, spec.classes, seed)


def study_requests(study: StudySpec, *, seed: int, base_dir: Path | None) -> RequestSet:
    """The requests of a study's workload as its model reads them, images and sounds as tokens.

    SpecError where there are some and the model reads none.
    """
    requests = build_workload(study.workload, seed=seed, base_dir=base_dir)
    plain = requests.images is None and requests.audio is None
    return requests if plain else with_shown_tokens(requests, load_model(study.model))


def _diffusion(requests: RequestSet, confidence: ConfidenceSpec, seed: int) -> RequestSet:
    """The same requests, whose output tokens are canvases."""
    record = {**requests.provenance, "diffusion": {"seed": seed, **confidence.model_dump(mode="json")}}
    return replace(requests, confidence=confidence, confidence_seed=seed, provenance=record)


def _trace(spec: TraceSpec, base_dir: Path | None) -> RequestSet:
    path = resolve(spec.path, base_dir)
    if spec.format == "azure":
        return read_azure(path, rate_scale=spec.rate_scale, limit=spec.limit)
    return read_blocks(path, spec.format, rate_scale=spec.rate_scale, limit=spec.limit)


def _classed(requests: RequestSet, classes: tuple[ClassSpec, ...], seed: int) -> RequestSet:
    """The same requests with a class drawn for each (one for all turns of a session), and its priority."""
    session = np.arange(len(requests)) if requests.session is None else requests.session
    shares = np.array([c.share for c in classes])
    drawn = stream(seed, "classes").choice(len(classes), int(session[-1]) + 1, p=shares / shares.sum())
    class_id = drawn[session]
    listed = [c.model_dump(mode="json", exclude_none=True) for c in classes]
    return replace(
        requests, class_id=class_id, classes=classes, priority=np.array([c.priority for c in classes])[class_id],
        provenance={**requests.provenance, "classes": listed},
    )  # fmt: skip
