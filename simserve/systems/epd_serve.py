"""EPD-Serve: encode, prefill and decode as processes that are placed freely, apart or together on one NPU.

Source: "EPD-Serve", arXiv 2601.11590, by its digest, whose tags are kept: [P] published, [D] derived from the tables,
[I] inferred; [fitted] says on what. Its code is not public.
Claim: stages apart, with features prefetched and KV sent in groups of layers, or two stages side by side on an NPU
that need different parts of it, serve more multimodal requests within their SLO than one process does.
Modelled: layouts in its notation (`DeploymentSpec.stages`) [P]; text alone goes straight to the prompt's process,
images go to the least loaded encoder, their features into a store by content, from where the process that prefills
fetches them while its host schedules the request, or encodes them itself if the store has lost them [P]; KV leaves in
groups of layers while the rest of the prompt is computed [P], the baselines layer by layer or in one message;
processes on one NPU slow one another pair by pair of stages; one process with several stages does one at a time. The
process that decodes answers, so TTFT ends behind the hand-over of KV [I: table 2's TTFT falls with it; the digest has
the first token from the prompt's process].
Simplified: features are fetched before an instance is chosen; host time of a pass or step slows who shares the NPU,
and is slowed; the least loaded instance is the one with the fewest requests [I: the weights of its load score are not
published]; groups are as large as a target payload [I: the formula of their size is not published]; encoders take one
request at a time.
Quantities: feature link 4.1 ms + 0.25 GB/s, scheduling 24.8 ms + 47.1 us a token [D: table 3]; KV link 16 GiB/s with
handshakes of 246 us, groups of 16 MiB [D: table 4]; layer by layer 2.8 % of a layer's time hides its message [fitted:
table 4, both lengths]; slowdowns [fitted: table 5, the rows (E-P)-D and (E-D)-P]; what a synchronous fetch and a
layer-wise hand-over hold requests up beyond their messages [fitted: table 2 at 2 requests/s].
Knobs: below. Reproduces: tables 2 to 5 and the headline (`studies/papers/epd_serve_*.yaml`).
"""

from __future__ import annotations

from dataclasses import dataclass

from simserve.policies.staging import Staging, other
from simserve.systems import system


@system("epd_serve")
@dataclass
class EpdServe(Staging):
    """Stages with prefetched features and grouped KV; see the module."""

    kv_transfer: str = other("kv_transfer", "grouped")
    kv_handshake_us: float = other("kv_handshake_us", 246.0)
    kv_gib_per_s: float = other("kv_gib_per_s", 16.0)
    layerwise_window: float = other("layerwise_window", 0.028)
    feature_latency_ms: float = other("feature_latency_ms", 4.1)
    feature_gb_per_s: float = other("feature_gb_per_s", 0.25)
    schedule_ms: float = other("schedule_ms", 24.8)
    schedule_us_per_token: float = other("schedule_us_per_token", 47.1)
    decode_answers: bool = other("decode_answers", True)
    encode_beside_prefill: float = other("encode_beside_prefill", 1.99)
    prefill_beside_encode: float = other("prefill_beside_encode", 1.55)
    encode_beside_decode: float = other("encode_beside_decode", 1.27)
    decode_beside_encode: float = other("decode_beside_encode", 3.0)
