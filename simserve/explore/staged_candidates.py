"""The layouts of a space of stages as columns: which can exist, what each costs, and the screen's estimate of it.

Layouts that differ in counts alone share their processes: these are checked and priced once for each setting.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from simserve.errors import Infeasible
from simserve.explore.feasible import Rejected, check
from simserve.explore.layouts import own_width
from simserve.explore.screen import Curves, Screen, curves_of
from simserve.explore.staged_screen import EncoderStage, Layout, ModelStage, estimate_layouts
from simserve.explore.staged_space import STAGES, StagedSpace
from simserve.sim.handover import Prompt, StagedSystem, TransferUse
from simserve.spec.stages import Place, Stage, parse_stages
from simserve.units import NS_PER_S

if TYPE_CHECKING:
    from simserve.explore.load import Load
    from simserve.spec.deployment import DeploymentSpec
    from simserve.spec.model import ModelSpec

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class StagedPart:
    """Screened configurations: (layout, setting) of each by index."""

    space: StagedSpace
    layout: Ints
    settings: Sequence[Mapping[str, Any]]
    setting: Ints
    screen: Screen

    def __len__(self) -> int:
        return len(self.layout)

    def select(self, index: Ints) -> StagedPart:
        """Some of them."""
        return StagedPart(self.space, self.layout[index], self.settings, self.setting[index], self.screen.select(index))

    def layouts(self, known: dict[tuple[object, ...], int]) -> Ints:
        """A number for each layout on each GPU, in each width and format."""
        wide = [known.setdefault(tuple(map(s.get, _HARDWARE)), len(known) + 1) for s in self.settings]
        return self.layout * (len(known) + 1) + np.array(wide, dtype=np.int64)[self.setting]

    def deployment(self, index: int) -> DeploymentSpec:
        """One of them."""
        layout = self.space.choices[STAGES][int(self.layout[index])]
        return self.space.deployment({STAGES: layout, **self.settings[int(self.setting[index])]})


_HARDWARE = ("gpu", "tensor_parallel_size", "dtype", "enable_expert_parallel")


@dataclass
class _Kind:
    """Layouts that differ in counts, with one setting. first: the deployment of one of them; spoilt: why none can be.
    """

    first: DeploymentSpec
    places: tuple[Place, ...]
    layout: list[int]
    counts: Ints
    setting: int
    blocks: dict[str, int] = field(default_factory=dict)

    @property
    def sizes(self) -> Ints:
        """GPUs of one of each place."""
        own = zip(self.first.gpus, self.places, strict=True)
        return np.array([count // place.count for (_, count), place in own], dtype=np.int64)

    def within(self, most: int | None) -> None:
        """Keep those of at most so many GPUs."""
        keep = np.ones(len(self.counts), dtype=np.bool_) if most is None else self.counts @ self.sizes <= most
        self.counts = self.counts[keep]
        self.layout = [layout for layout, kept in zip(self.layout, keep.tolist(), strict=True) if kept]

    @property
    def usd_per_hour(self) -> Floats:
        """Of all GPUs."""
        from simserve.spec.hardware import load_gpu

        prices = [load_gpu(gpu).price_usd_per_hour for gpu, _ in self.first.gpus]
        return np.asarray(self.counts @ (self.sizes * np.array(prices)), dtype=np.float64)


def staged_parts(
    space: StagedSpace, model: ModelSpec, load: Load, rejected: list[Rejected]
) -> Iterator[tuple[StagedPart, int]]:  # fmt: skip
    """(all that can be in a space, how many there are); what cannot is noted."""
    settings: list[Mapping[str, Any]] = []
    kinds = [kind for kind in _kinds(space, settings) if _possible(kind, model, load, rejected)]
    if not kinds:
        return
    engines = _Engines(kinds, model, load, space.limits)
    columns, screens = [], []
    for kind in kinds:
        gpus = (kind.counts @ kind.sizes).astype(np.float64)
        busy, tpot_ms, ttft_ms, per_gpu = estimate_layouts(engines.layout_of(kind), kind.counts, gpus, load)
        e2e_ms = ttft_ms + tpot_ms * max(0.0, load.output_tokens - 1)
        screens.append(Screen(busy, tpot_ms, ttft_ms, per_gpu, gpus, kind.usd_per_hour, e2e_ms))
        columns.append((np.array(kind.layout, dtype=np.int64), np.full(len(kind.layout), kind.setting)))
    layout, setting = (np.concatenate(c) for c in zip(*columns, strict=True))
    screen = Screen(*(np.concatenate(c) for c in zip(*(s.columns for s in screens), strict=True)))
    order = np.lexsort((setting, layout))
    yield StagedPart(space, layout, settings, setting, screen).select(order), len(order)


def _kinds(space: StagedSpace, settings: list[Mapping[str, Any]]) -> Iterator[_Kind]:
    """Every kind of layout with every setting, those of at most max_gpus GPUs."""
    groups: dict[tuple[object, ...], list[int]] = {}
    layouts = [parse_stages(text) for text in space.choices[STAGES]]
    for index, (text, places) in enumerate(zip(space.choices[STAGES], layouts, strict=True)):
        key = (own_width(text), *((place.processes, place.tensor_parallel_size) for place in places))
        groups.setdefault(key, []).append(index)
    numbers: dict[tuple[object, ...], int] = {}
    for members in groups.values():
        text = space.choices[STAGES][members[0]]
        counts = np.array([[place.count for place in layouts[i]] for i in members], dtype=np.int64)
        for setting in space.points(text):
            number = numbers.setdefault(tuple(setting.items()), len(numbers))
            if number == len(settings):
                settings.append(setting)
            first = space.deployment({STAGES: text, **setting})
            kind = _Kind(first, layouts[members[0]], members, counts, number)
            kind.within(space.max_gpus)
            if kind.layout:
                yield kind


def _possible(kind: _Kind, model: ModelSpec, load: Load, rejected: list[Rejected]) -> bool:
    """Whether its processes can exist; if not, that is noted."""
    try:
        check(model, kind.first, longest_tokens=load.longest_tokens)
        for name, engine in kind.first.engines():
            kind.blocks[name] = check(model, engine, longest_tokens=load.longest_tokens)
    except Infeasible as error:
        rejected.append(Rejected(kind.first, str(error), len(kind.layout)))
        return False
    return True


class _Engines:
    """Prices of all processes of all kinds, each of them once."""

    def __init__(self, kinds: Sequence[_Kind], model: ModelSpec, load: Load, limits: tuple[int, int]) -> None:
        self._model, self._load = model, load
        self._passes: dict[DeploymentSpec, tuple[float, float, float]] = {}
        blocks = {_alone(engine): kind.blocks[name] for kind in kinds for name, engine in kind.first.engines()}
        self._place = {engine: index for index, engine in enumerate(blocks)}
        self._curves = curves_of(model, list(blocks), list(blocks.values()), load, limits)

    def _priced(self, engine: DeploymentSpec) -> tuple[Curves, int]:
        place = self._place[_alone(engine)]
        curves = self._curves.kinds[int(self._curves.kind[place])]
        assert isinstance(curves, Curves)
        return curves, int(self._curves.member[place])

    def layout_of(self, kind: _Kind) -> Layout:
        """The processes of a kind with their prices."""
        from simserve.pooled import build_system

        system: StagedSystem = build_system(kind.first)
        encoders = []
        for placed, own in kind.first.encoders():
            new_s, cv2, _ = self._encoding(own)
            encoders.append(EncoderStage(placed.place, new_s, cv2))
        models = [self._model_stage(kind.first, system, name, engine, apart=bool(encoders))
                  for name, engine in kind.first.engines()]  # fmt: skip
        return Layout(encoders, models, system.stages(), system.slowdowns(), system.feature_link)

    def _model_stage(
        self, deployment: DeploymentSpec, system: StagedSystem, name: str, engine: DeploymentSpec, *, apart: bool
    ) -> ModelStage:
        placed, (curves, member) = deployment.process(name), self._priced(engine)
        prefills, decodes = Stage.PREFILL in placed.process, Stage.DECODE in placed.process
        encode_s = kv_s = late_s = 0.0
        if prefills and Stage.ENCODE in placed.process and self._load.shown is not None:
            new_s, _, every_s = self._encoding(engine)
            share = self._load.shown
            encode_s = share.new_share * new_s if apart else share.share * every_s
        if prefills and not decodes:
            kv_s, late_s = self._kv(deployment, system, engine, float(curves.alone_s[member]))
        return ModelStage(placed.place, prefills, decodes, curves, member, encode_s, kv_s, late_s)

    def _kv(
        self, deployment: DeploymentSpec, system: StagedSystem, engine: DeploymentSpec, prompt_s: float
    ) -> tuple[float, float]:
        """(seconds that the KV of the mean prompt keeps a link busy, seconds that it is late)."""
        from simserve.stages import kv_sender

        tokens, took_ns = round(self._load.prompt_tokens), round(prompt_s * NS_PER_S)

        def last_ns(began_ns: int) -> int:
            width = engine.tensor_parallel_size
            sender = kv_sender(self._model, deployment, system, width, TransferUse(), lambda _: took_ns)
            return sender.send([Prompt(tokens, began_ns, took_ns)])[0] - took_ns

        return (last_ns(took_ns) - system.handover().stall_ns) / NS_PER_S, last_ns(0) / NS_PER_S

    def _encoding(self, own: DeploymentSpec) -> tuple[float, float, float]:
        """(mean seconds of a pass over a request's new images, its squared variation, mean over all of a request's)."""
        from simserve.build import engine_profile
        from simserve.multimodal import pass_of
        from simserve.stages import encoder_of

        profile = engine_profile(own)
        key, shown = _alone(own), self._load.shown
        if key not in self._passes:
            cost = encoder_of(self._model, own, profile)
            if cost is None or shown is None:
                self._passes[key] = (0.0, 0.0, 0.0)
            else:
                encode_ns = pass_of(cost, profile)
                new, every = (np.array([encode_ns(images) for images in jobs]) / NS_PER_S
                              for jobs in (shown.new, shown.every))  # fmt: skip
                mean = float(new.mean())
                self._passes[key] = (mean, float(new.var()) / mean**2, float(every.mean()))
        return self._passes[key]


def _alone(engine: DeploymentSpec) -> DeploymentSpec:
    """One replica of a process, however many there are behind whichever router."""
    return engine.model_copy(update={"replicas": 1, "router": "round_robin"})
