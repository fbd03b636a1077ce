"""From the `search` section of a study to a space over layouts of stages, and what such a space cannot have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from simserve.errors import SpecError
from simserve.explore.choices import Choices, choices_of, known_options
from simserve.explore.layouts import MOST, every_layout, own_width, too_many
from simserve.explore.staged_space import STAGED_KNOBS, STAGES, WIDTH, StagedSpace
from simserve.spec.stages import parse_stages, processes_of
from simserve.spec.study import ALL_LAYOUTS

if TYPE_CHECKING:
    from simserve.spec.deployment import DeploymentSpec
    from simserve.spec.study import SpaceSpec, StudySpec

_KEY = f"search.space.{STAGES}"
# keys of a space that layouts leave no room for, and what says the same, or why not
_INSTEAD = {
    "mode": "the layout says where prompts and decoding run", "prefill": "give counts in the layout, e.g. E-2P-D",
    "decode": "give counts in the layout, e.g. E-P-2D", "replicas": "give counts in the layout, e.g. (E-PD)x2",
    "engine": "use deployment.engine and search.space.scheduler",
    "scheduler_options": "use deployment.scheduler_options", "router_options": "use deployment.router_options",
}  # fmt: skip


def staged_space_of(study: StudySpec) -> StagedSpace:
    """The space of a study with stages; SpecError or UnknownName with the key for what no deployment can have."""
    base, search = study.deployment, study.search
    asked = search.space if search is not None else None
    most = search.max_gpus if search is not None else None
    if base.stages is None and asked is not None and not asked.stages:
        raise SpecError("are searched for systems of stages; use deployment.system_options, or give stages",
                        key="search.space.system_options")  # fmt: skip
    _check_system(base)
    choices = choices_of(asked) if asked is not None else {}
    if asked is not None:
        _check_keys(asked, choices)
    widths = choices.get(WIDTH, (base.tensor_parallel_size,))
    listed = asked.stages if asked is not None and asked.stages else (base.stages or "",)
    layouts = _layouts(study, listed, most, widths)
    ordered: Choices = {STAGES: layouts, **{knob: choices[knob] for knob in STAGED_KNOBS if knob in choices}}
    options = _options(asked, base) if asked is not None else {}
    space = StagedSpace(base, ordered, most, options=options)
    if sum(_size(space.beside(layout)) for layout in layouts) > MOST:
        raise too_many(most)
    return space


def _size(values: dict[str, tuple[Any, ...]]) -> int:
    found = 1
    for choices in values.values():
        found *= len(choices)
    return found


def _check_system(base: DeploymentSpec) -> None:
    from simserve.pooled import build_system

    if base.system is None:
        raise SpecError("stages need a system of stages, e.g. deployment: {system: epd_serve, stages: E-P-D}", key=_KEY)
    if base.stages is None:
        name = base.system
        build_system(base.model_copy(update={STAGES: "TP1"}))  # says so of a system without stages
        raise SpecError(f"{name} needs stages in the deployment as well, e.g. E-P-D", key="deployment.stages")
    build_system(base)


def _check_keys(asked: SpaceSpec, choices: Choices) -> None:
    """SpecError for the first key that does not go with stages."""
    given = [key for key in type(asked).model_fields if key in asked.model_fields_set and getattr(asked, key)]
    for key in given:
        if key in (STAGES, "system_options") or key in STAGED_KNOBS:
            continue
        value = ", ".join(map(str, choices[key])) if key in choices else None
        why = _INSTEAD.get(key, "it is not modelled with them")
        raise SpecError(f"does not go with stages: {why}", key=f"search.space.{key}", value=value)


def _layouts(
    study: StudySpec, listed: tuple[str, ...], most: int | None, widths: tuple[int, ...]
) -> tuple[str, ...]:  # fmt: skip
    """Distinct layouts of at most `most` GPUs, in order."""
    found: dict[Any, str] = {}
    encodes = _encodes(study)
    for index, text in enumerate(listed):
        if text != ALL_LAYOUTS:
            _check_layout(study, text, f"{_KEY}[{index}]")
        elif most is None:
            raise SpecError("needs search.max_gpus: how many GPUs they may have", key=_KEY, value=ALL_LAYOUTS)
        for layout in [text] if text != ALL_LAYOUTS else every_layout(most or 1, widths, encodes=encodes):
            found.setdefault((own_width(layout) is not None, parse_stages(layout)), layout)
    return tuple(found.values())


def _check_layout(study: StudySpec, layout: str, key: str) -> None:
    """SpecError for a layout that the base cannot have, and for an encoder that has nothing to do."""
    from pydantic import ValidationError

    from simserve.spec.model import load_model

    processes = processes_of(parse_stages(layout))
    named = {placed.name for placed in processes}
    pools = tuple((name, pool) for name, pool in study.deployment.pools if name in named)
    plain = study.deployment.model_copy(update={STAGES: layout, "pools": pools}).model_dump(exclude_unset=True)
    try:
        type(study.deployment).model_validate(plain)
    except ValidationError as error:
        problem = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise SpecError(problem, key=key, value=layout) from None
    if all(placed.has_model for placed in processes):
        return
    model = load_model(study.model)
    if not model.encoders:
        raise SpecError(f"{model.name} reads text alone: an encoder has nothing to do", key=key, value=layout,
                        nearest=_without_encoders(layout))  # fmt: skip


def _without_encoders(layout: str) -> str | None:
    """The layout that is left of one whose encoders are alone on their devices."""
    from simserve.spec.stages import text_of

    left = [place for place in parse_stages(layout) if len(place.processes) == 1 and any(
        placed.has_model for placed in processes_of([place])
    )]  # fmt: skip
    try:
        return text_of(left) if left and parse_stages(text_of(left)) else None
    except ValueError:
        return None


def _encodes(study: StudySpec) -> bool:
    """Whether requests may bring images or sounds, and the model reads them."""
    from simserve.spec.model import load_model

    workload = study.workload
    shown = any(getattr(workload, key, None) is not None for key in ("images", "audio"))
    return shown and bool(load_model(study.model).encoders)


def _options(asked: SpaceSpec, base: DeploymentSpec) -> dict[str, Choices]:
    from simserve.systems import SYSTEMS

    return known_options("system_options", asked.system_options, SYSTEMS, {base.system or ""})
