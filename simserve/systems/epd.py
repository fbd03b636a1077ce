"""EPD: encode, prefill and decode on GPUs of their own, with the tiles of one request spread over all encoders.

Source: G. Singh et al., "Efficiently Serving Large Multimodal Models Using EPD Disaggregation", ICML 2025 (arXiv
2501.05460), by its digest, whose tags are kept: [P] abstract, [C] released code.
Claim: TTFT of requests with many or large images falls, and more of them fit, when encoding has GPUs of its own.
Modelled: intra-request parallel encoding, a prompt starts when all its tiles have been encoded [P; that it waits for
all: I]; first come, first served in all stages [C]; KV in one message when the prompt is done [I]; GPUs that change
their stage: each 5 s one to the longest queue, of the stage with most to spare [C]; the layout is the study's, or the
search's, as in the paper.
Simplified: features reach the prompt in no time (NVLink); an encoder does not hold its features until the prompt is
accepted; an idle GPU that changes its stage has its weights already, so a change takes no time unless switch_delay_s
says otherwise; steps of a GPU that began as an encoder are not in the shares of busy time by source.
Knobs: below; max_num_seqs: 1 in the pools is the batch of 1 of its scripts.
Reproduces: TTFT and SLO attainment of 6E1P1D, 7P1D and 8 engines (`studies/papers/epd_icml25.yaml`).
"""

from __future__ import annotations

from dataclasses import dataclass

from simserve.policies.staging import Staging, other
from simserve.systems import system


@system("epd")
@dataclass
class Epd(Staging):
    """Stages with spread encoding and, if asked, role switching."""

    spread: bool = other("spread", True)
