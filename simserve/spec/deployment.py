"""One deployment: which GPUs, how many, and how the engine on them is set. Names are vLLM's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from simserve.spec.base import Spec

Dtype = Literal["bf16", "fp16", "fp8"]
KvCacheDtype = Literal["auto", "bf16", "fp16", "fp8"]


class DeploymentSpec(Spec):
    """`replicas` engines of `tensor_parallel_size` GPUs each, behind one router.

    num_gpu_blocks: KV blocks per replica, None for what the memory leaves; max_model_len: tokens a request
    may reach, None for what model and KV cache allow; scheduler_options: other knobs of the scheduler by name
    (`simserve explain NAME` lists them); kv_cache_dtype "auto": 16 bit, as vLLM.
    """

    gpu: str = "h100_sxm"
    tensor_parallel_size: int = Field(default=1, ge=1, le=64)
    replicas: int = Field(default=1, ge=1, le=4096)
    scheduler: str = "vllm"
    router: str = "round_robin"
    max_num_batched_tokens: int = Field(default=8192, ge=1, le=1 << 20)
    max_num_seqs: int = Field(default=256, ge=1, le=1 << 16)
    dtype: Dtype = "bf16"
    kv_cache_dtype: KvCacheDtype = "auto"
    gpu_memory_utilization: float = Field(default=0.92, gt=0, le=1)
    block_size: int = Field(default=16, ge=1, le=1024)
    num_gpu_blocks: int | None = Field(default=None, ge=2)
    max_model_len: int | None = Field(default=None, ge=2)
    enable_prefix_caching: bool = False
    scheduler_options: tuple[tuple[str, bool | int | float | str], ...] = ()

    @field_validator("scheduler_options", mode="before")
    @classmethod
    def _from_mapping(cls, value: Any) -> Any:
        """A mapping in YAML; kept as pairs, so that a deployment is hashable."""
        return tuple(sorted(value.items())) if isinstance(value, Mapping) else value

    @model_validator(mode="after")
    def _budget_holds_the_batch(self) -> DeploymentSpec:
        if self.max_num_batched_tokens < self.max_num_seqs:
            raise ValueError(
                f"max_num_batched_tokens {self.max_num_batched_tokens} is smaller than max_num_seqs "
                f"{self.max_num_seqs}; vLLM refuses that"
            )
        return self

    @property
    def num_gpus(self) -> int:
        """GPUs of all replicas."""
        return self.tensor_parallel_size * self.replicas
