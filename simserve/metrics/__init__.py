"""From a trace to what people ask of it. All latencies are milliseconds of the simulated clock.

| metric | definition | over |
| --- | --- | --- |
| TTFT | first_token - arrival | requests that got a first token and finished |
| TPOT | (finish - first_token) / (output_tokens - 1) | finished requests with at least 2 output tokens |
| ITL | gap between successive tokens of one request | all such gaps |
| E2E | finish - arrival | finished requests |
| normalized latency | E2E / output_tokens | finished requests |
| queueing | first_scheduled - arrival | finished requests |
| request throughput | finished requests / duration | |
| middle throughput | those that finish between 30 and 70 % of all / that time (NEO's figure 10a) | |
| output, total token throughput | (output, prompt + output) tokens of finished requests / duration | |
| goodput | finished requests that meet every bound of the SLO / duration | |
| SLO attainment | those requests / all requests; a rejected or unfinished one has missed | |
| SLO met | for each bound: its latency at the SLO's percentile <= bound; unfinished: infinite | all, as above |
| classes | requests, latencies, goodput and attainment by class, against the class's own SLO if it has one | |
| hybrid | see `simserve.metrics.hybrid`; only with KV on a host | all instances |
| diffusion | see `simserve.metrics.diffusion`; only of diffusion models, whose first token is a block | all instances |
| stages | see `simserve.metrics.stages`; only with encode, prefill and decode as stages | all processes |
| KV occupancy | used / total blocks, weighted with step time; peak at step starts | all instances |

KV occupancy takes the blocks of a row of several equal steps to grow on a line; the peak is exact.
duration: from the first arrival to the last finish. Percentiles of requests interpolate linearly between
order statistics (numpy's default, as `vllm bench serve`). Percentiles of ITL are the smallest gap that at
least p % of all gaps do not exceed (inverted CDF), exact without a number per token; so is the percentile of
"SLO met". A request with one output token has no TPOT and meets every TPOT bound. Definitions as in
vLLM's benchmark and DistServe, normalized latency as in Orca and vLLM's paper [known].
"""

from simserve.metrics.stats import Stats
from simserve.metrics.summary import Metrics, attainment, compute, latencies_ms, token_gaps_ms

__all__ = ["Metrics", "Stats", "attainment", "compute", "latencies_ms", "token_gaps_ms"]
