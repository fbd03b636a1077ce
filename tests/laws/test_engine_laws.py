"""Laws for the engines and textbook baselines, with their own knobs and with prefix caching."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simserve.policies.routers import RoundRobin
from simserve.sim import laws
from simserve.systems import SCHEDULERS
from simserve.testing.builders import load, play
from simserve.testing.conformance import same
from simserve.testing.toy import ToyCost
from simserve.workload.requests import RequestSet

COST = ToyCost(base_ns=1000, per_token_ns=7, per_context_ns=1)

OWN_KNOBS: dict[str, dict[str, st.SearchStrategy[object]]] = {
    "static": {"max_new_tokens": st.sampled_from([0, 1, 20, 1024])},
    "orca": {"max_new_tokens": st.sampled_from([0, 1, 20, 1024]), "max_model_len": st.sampled_from([None, 64])},
    "sglang": {
        "chunked_prefill": st.booleans(), "enable_mixed_chunk": st.booleans(), "max_prefill_tokens": st.just(64),
        "schedule_policy": st.sampled_from(["fcfs", "lpm"]), "max_new_tokens": st.sampled_from([1, 20, 50, 4096]),
        "schedule_conservativeness": st.sampled_from([0.1, 1.0]), "scheduler_recv_interval": st.sampled_from([1, 2, 7]),
    },
    "trtllm": {
        "capacity_policy": st.sampled_from(["guaranteed_no_evict", "max_utilization"]),
        "enable_chunked_context": st.booleans(), "max_new_tokens": st.sampled_from([0, 1, 20, 1024]),
        "batch_wait_timeout_iters": st.sampled_from([0, 3]), "batch_wait_max_tokens_ratio": st.sampled_from([0.0, 0.9]),
        "attention_dp_timeout_iters": st.sampled_from([0, 0, 5]), "attention_dp_size": st.sampled_from([1, 2]),
    },
    "sarathi": {"watermark": st.sampled_from([0.0, 0.2])},
}  # fmt: skip


@st.composite
def loads(draw: st.DrawFn) -> RequestSet:
    """Up to 30 requests that share prefixes, in bursts and with gaps, open or closed loop."""
    count = draw(st.integers(1, 30))
    lengths = st.tuples(st.sampled_from([0, 0, 1, 500, 1007, 20_000]), st.integers(1, 90), st.integers(1, 60))
    rows, content, now = [], [], 0
    for index in range(count):
        gap, prompt, output = draw(lengths)
        now += gap
        rows.append((now, prompt, output))
        content.append(((draw(st.integers(0, 3)), prompt // 2), (100 + index, prompt - prompt // 2)))
    return load(rows, concurrency=draw(st.sampled_from([None, None, 1, 5])), content=content)


@pytest.mark.parametrize("caching", [False, True])
@pytest.mark.parametrize("name", OWN_KNOBS)
@settings(max_examples=100, deadline=None)
@given(data=st.data(), requests=loads(), blocks=st.sampled_from([41, 50, 70, 400]))
def test_own_knobs_keep_the_laws(
    name: str, caching: bool, data: st.DataObject, requests: RequestSet, blocks: int
) -> None:
    """Under KV pressure: every request ends once, blocks come back, nobody stands still, leap on == leap off."""
    knobs = {key: data.draw(choice, label=key) for key, choice in OWN_KNOBS[name].items()}
    knobs["max_num_batched_tokens"] = data.draw(st.sampled_from([8, 33, 2048]))
    knobs["max_num_seqs"] = data.draw(st.sampled_from([1, 3, 8]))
    ahead = data.draw(st.booleans(), label="async_scheduling")
    traces = []
    for leap in (True, False):
        trace, cluster = play(
            requests, [SCHEDULERS.get(name)(**knobs)], RoundRobin(), COST, num_gpu_blocks=blocks, block_size=4,
            enable_prefix_caching=caching, leap=leap, async_scheduling=ahead,
        )  # fmt: skip
        assert cluster.instances[0].ledger.used == 0
        laws.check(trace)
        traces.append(trace)

    assert (traces[0].requests["outcome"] != 2).all()
    assert same(*traces)
