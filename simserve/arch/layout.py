"""How one replica is spread over GPUs: tensor, data, expert, pipeline and context parallelism, in vLLM's terms."""

from __future__ import annotations

from dataclasses import dataclass

from simserve.errors import Infeasible
from simserve.spec.model import ModelSpec


@dataclass(frozen=True, slots=True)
class Layout:
    """Sizes of the groups of one replica.

    tp: ranks that split attention and dense layers; dp: groups of them that serve requests of their own and share the
    experts; pp: stages of layers; pcp: ranks that share the tokens of prompts, and the KV cache; dcp: ranks out of tp
    that share the KV cache which they would otherwise hold twice; moe_tp: ranks that split each expert, 0 for 1 with
    expert_parallel and for all without.
    """

    tp: int = 1
    dp: int = 1
    pp: int = 1
    pcp: int = 1
    dcp: int = 1
    expert_parallel: bool = False
    moe_tp: int = 0

    @property
    def stage_gpus(self) -> int:
        """GPUs of one pipeline stage, which are also those that share its experts."""
        return self.tp * self.dp * self.pcp

    @property
    def gpus(self) -> int:
        """GPUs of the replica."""
        return self.stage_gpus * self.pp

    @property
    def expert_ranks(self) -> int:
        """Ranks over which the experts are spread, 0 for the tensor-parallel ones."""
        return 0 if self.dp == self.pcp == 1 else self.stage_gpus

    @property
    def kv_ranks(self) -> int:
        """Ranks over which the KV cache of one request is spread beyond its heads: each block holds so many times
        as many tokens."""
        return self.pcp * self.dcp

    @property
    def plain(self) -> bool:
        """Whether tensor and expert parallelism are all there is."""
        return self.dp == self.pp == self.pcp == self.dcp == 1 and not self.moe_tp

    def check(self, model: ModelSpec) -> None:
        """Infeasible, in one line, for what the model cannot be spread over in this way."""
        if self.dp > 1 and model.experts is None:
            raise Infeasible(
                f"data_parallel_size {self.dp} shares experts out, and {model.name} has none: use replicas: {self.dp}"
            )
        if self.pp > model.num_hidden_layers:
            raise Infeasible(
                f"pipeline_parallel_size {self.pp} is more than the {model.num_hidden_layers} layers of {model.name}"
            )
        if self.moe_tp and (model.experts is None or self.stage_gpus % self.moe_tp):
            ranks = f"{self.stage_gpus} ranks with experts" if model.experts else "experts, for there are none"
            raise Infeasible(f"moe_tensor_parallel_size {self.moe_tp} does not divide the {ranks}: {model.name}")
        if self.kv_ranks > 1 and (model.sliding_layers or model.linear is not None or model.sparse is not None):
            what = "sliding windows" if model.sliding_layers else "sparse attention" if model.sparse else "delta nets"
            raise Infeasible(f"context parallelism is not modelled with the {what} of {model.name}")
        if self.dcp > 1:
            self._check_duplicates(model)

    def _check_duplicates(self, model: ModelSpec) -> None:
        """vLLM's rule: only ranks that hold the same key/value heads can share the cache."""
        heads = 1 if model.latent is not None else model.num_key_value_heads
        if self.tp % self.dcp or self.tp // heads < self.dcp:
            raise Infeasible(
                f"decode_context_parallel_size {self.dcp} needs so many of {self.tp} tensor-parallel ranks with the "
                f"same of the {heads} key/value heads of {model.name}"
            )


def stage_layers(layers: int, stages: int) -> list[tuple[int, int]]:
    """[first, last) of each stage: vLLM's get_pp_indices, what is left over goes to the stages before the last."""
    sizes = [layers // stages] * stages
    for index in range(layers % stages):
        sizes[-(index + 2)] += 1
    ends = [sum(sizes[: index + 1]) for index in range(stages)]
    return list(zip([0, *ends[:-1]], ends, strict=True))


def stage_model(model: ModelSpec, first: int, last: int) -> ModelSpec:
    """The layers [first, last) as a model of their own; windowed and linear ones are spread evenly over it."""
    if last - first == model.num_hidden_layers:
        return model
    update: dict[str, object] = {"num_hidden_layers": last - first}
    if model.sliding_layers:
        before, after = (model.sliding_layers * end // model.num_hidden_layers for end in (first, last))
        update["sliding_layers"] = after - before
    if model.linear is not None:
        before, after = (model.linear.linear_layers * end // model.num_hidden_layers for end in (first, last))
        update["linear"] = model.linear.model_copy(update={"linear_layers": after - before})
    if model.experts is not None:
        dense = min(max(model.experts.first_dense_layers - first, 0), last - first)
        update["experts"] = model.experts.model_copy(update={"first_dense_layers": dense})
    return model.model_copy(update=update)
