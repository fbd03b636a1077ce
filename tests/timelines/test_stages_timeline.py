"""Encode, prefill and decode as stages: timelines worked out by hand, in integers.

Prices are those of `simserve.testing.stages`.
"""

from fractions import Fraction

import pytest

from simserve.policies.switching import switch
from simserve.sim import laws
from simserve.sim.handover import Handover, KvMode, KvSender, Prompt, Stages, Switching, TransferUse
from simserve.sim.images import FeatureStore, Image
from simserve.sim.plan import WorkKind
from simserve.sim.trace import Trace
from simserve.systems.vllm import Vllm
from simserve.testing.builders import load
from simserve.testing.stages import LAYERS, staged

A, B = Image(1, rows=(1, 1), tokens=20, feature_bytes=300), Image(2, rows=(1,), tokens=10, feature_bytes=100)
E, P, D = WorkKind.ENCODE, WorkKind.PREFILL, WorkKind.DECODE


def times(trace: Trace) -> list[tuple[int, int, int]]:
    """(first scheduled, first token, finish) per request."""
    names = ("first_scheduled_ns", "first_token_ns", "finish_ns")
    return list(zip(*(trace.requests[name].tolist() for name in names), strict=True))


def check(trace: Trace) -> None:
    """All laws but work conservation: a request in another stage leaves the process that prefills idle."""
    for law in (laws.conservation, laws.causality, laws.tokens, laws.lanes, laws.memory):
        law(trace)


def test_features_come_while_the_prompt_is_scheduled() -> None:
    """Encoded at 2,000; scheduled 500 later, the 300 bytes there by then; 30 tokens take 400, their KV 30."""
    cluster = staged("E-P-D", Stages(schedule_ns=300, schedule_ns_per_token=10))
    trace = cluster.play(load([(0, 30, 2)], images=[(A,)]))

    check(trace)
    assert times(trace) == [(2500, 2900, 2900 + 30 + 110)]
    assert (cluster.store.hits, cluster.store.misses) == (0, 1)


def test_a_slow_fetch_is_what_the_prompt_waits_for() -> None:
    """Scheduled at 2,100, features at 2,300."""
    trace = staged("E-P-D", Stages(schedule_ns=100)).play(load([(0, 30, 2)], images=[(A,)]))
    assert times(trace)[0][:2] == (2300, 2700)


def test_a_synchronous_fetch_blocks_the_process() -> None:
    """The text request behind waits for the fetch of the one before: 2,100 to 2,100 + 300 + 400 + its own 200."""
    cluster = staged("E-P-D", Stages(schedule_ns=100, prefetch=False))
    trace = cluster.play(load([(0, 30, 1), (2101, 10, 1)], images=[(A,), ()]))

    check(trace)
    assert times(trace) == [(2100, 2800, 2800), (2800, 3000, 3000)]


def test_text_never_meets_the_encoder() -> None:
    """While it is busy."""
    trace = staged("E-P-D", Stages(schedule_ns=10**6)).play(load([(0, 30, 1), (1, 10, 1)], images=[(A,), ()]))
    assert times(trace)[1] == (1, 201, 201)


def test_features_that_are_known_are_not_encoded_again() -> None:
    """The same image 3,000 ns later: fetched from the store at once."""
    cluster = staged("E-P-D", Stages())
    trace = cluster.play(load([(0, 30, 1), (3000, 30, 1)], images=[(A,), (A,)]))

    assert times(trace)[1][:2] == (3300, 3700)
    assert (cluster.store.hits, cluster.store.misses) == (1, 1)


def test_what_the_store_lost_is_encoded_in_place() -> None:
    """Room for one: B's features push A's out while A's prompt is being scheduled, so its process encodes A itself."""
    cluster = staged("E-P-D", Stages(schedule_ns=1500), store=FeatureStore(300))
    trace = cluster.play(load([(0, 30, 1), (0, 20, 1)], images=[(A,), (B,)]))

    assert times(trace) == [(3500, 3500 + 2000 + 400, 5900), (5900, 5900 + 300, 6200)]


def test_one_request_is_spread_over_the_encoders() -> None:
    """A's two tiles and B's one on two encoders: 2,000 and 1,000; on one encoder they are one pass."""
    rows = [(0, 40, 1)]
    spread = staged("2E-P-D", Stages(spread=True)).play(load(rows, images=[(A, B)]))
    whole = staged("2E-P-D", Stages()).play(load(rows, images=[(A, B)]))

    assert times(spread)[0][0] == 2000 + 400
    assert times(whole)[0][0] == 3000 + 400


def test_least_loaded_encoder() -> None:
    """Three images on two encoders: the third queues behind the first."""
    trace = staged("2E-P-D", Stages()).play(load([(0, 30, 1)] * 3, images=[(A,), (A._replace(content=7),), (B,)]))
    spans = trace.spans
    assert [trace.resources[i] for i in spans["resource"].tolist()][:3] == ["encoder 0", "encoder 1", "features 0"]
    assert times(trace)[2][0] >= 3000


def test_one_process_encodes_and_prefills_in_turn() -> None:
    """EP-D: encoding is part of the first step, 2,000 + 400, and nothing else runs meanwhile."""
    trace = staged("EP-D", Stages(schedule_ns=999)).play(load([(0, 30, 1), (1, 10, 1)], images=[(A,), ()]))

    check(trace)
    assert times(trace) == [(0, 2400, 2400), (2400, 2600, 2600)]


def test_a_monolithic_process_stops_decoding_to_encode() -> None:
    """TP1: the decode step that would end at 510 is 2,000 + 300 longer, with the image's prompt of 30 tokens in it."""
    trace = staged("TP1", Stages()).play(load([(0, 10, 4), (150, 30, 1)], images=[(), (A,)]))

    check(trace)
    assert times(trace)[0] == (0, 200, 200 + 2000 + 100 + 310 + 110 + 110)


@pytest.mark.parametrize(("slow", "prompt_ends"), [(Fraction(1), 2400), (Fraction(3), 3067)])
def test_processes_on_one_gpu_slow_one_another(slow: Fraction, prompt_ends: int) -> None:
    """(E-P): a prompt of 400 alone, from 2,000 on beside an encoding that ends at 3,000; with 3 a third of 1,000 is
    done by then, and the rest of 67 goes at full speed."""
    cluster = staged("(E-P)-D", Stages(), slow={(P, E): slow})
    trace = cluster.play(load([(1000, 20, 1), (2000, 30, 1)], images=[(A,), ()]))
    assert times(trace)[1][1] == prompt_ends


def test_encoding_slows_down_beside_a_prompt_and_recovers() -> None:
    """An encoding of 2,000 at half speed beside a prompt of 400: it ends at 2,200, its features come 300 later."""
    cluster = staged("(E-P)-D", Stages(), slow={(E, P): Fraction(2)})
    trace = cluster.play(load([(0, 20, 1), (1000, 30, 1)], images=[(A,), ()]))

    assert times(trace)[0][0] == 2200 + 300
    assert times(trace)[1] == (1000, 1400, 1400)


def test_the_first_token_comes_from_the_process_that_decodes() -> None:
    """It has the KV at 430, and computes the prompt's last token again: a step of 110 before each of two tokens."""
    trace = staged("EP-D", Stages(decode_answers=True)).play(load([(0, 30, 2)]))

    check(trace)
    assert times(trace) == [(0, 400 + 30 + 110, 400 + 30 + 110 + 110)]
    assert trace.transfers is not None
    assert trace.transfers.computed_again == 1


def test_a_proxy_is_before_the_first_stage() -> None:
    """70 ns from arrival to queue."""
    assert times(staged("EP-D", Stages(proxy_ns=70)).play(load([(5, 30, 1)])))[0][0] == 75


def test_a_blocking_fetch_holds_the_process_longer() -> None:
    """Beside the 300 of its bytes."""
    trace = staged("E-P-D", Stages(prefetch=False, blocking_ns=50)).play(load([(0, 30, 1)], images=[(A,)]))
    assert times(trace)[0] == (2000, 2000 + 350 + 400, 2750)


@pytest.mark.parametrize(("handover", "arrives", "messages_ns", "exposed_ns"), [
    # computed from 0 to 400, a layer in 100; 40 bytes a layer, 1 byte in 1 ns, a handshake of 5
    (Handover(KvMode.SYNCHRONOUS, 10**9, 5), 400 + 5 + 160, 165, 165),
    # groups of 2 layers are there at 200 and 400, or when half of their last layer is done, at 150 and 350
    (Handover(KvMode.GROUPED, 10**9, 5, group_bytes=80, ready=1000), 400 + 85, 170, 85),
    (Handover(KvMode.GROUPED, 10**9, 5, group_bytes=119, ready=500), 350 + 85, 170, 35),
    # 4 messages of 45, of each of which a tenth of a layer's 125 alone is hidden, 12
    (Handover(KvMode.LAYERWISE, 10**9, 5, window=100, stall_ns=3), 400 + 4 * (45 - 12) + 3, 180, 4 * 33),
])  # fmt: skip
def test_messages_of_kv(handover: Handover, arrives: int, messages_ns: int, exposed_ns: int) -> None:
    """One prompt of 40 tokens; ended 400, alone 500."""
    use = TransferUse()
    assert KvSender(handover, LAYERS, 1, use, lambda tokens: 500).send([Prompt(40, 0, 400)]) == [arrives]
    assert (use.kv_ns, use.kv_exposed_ns) == (messages_ns, exposed_ns)


def test_messages_of_two_prompts_share_a_link() -> None:
    """Two prompts end at 400: their first groups leave at 200 and 285, the second ones at 400 and 485."""
    sender = KvSender(Handover(KvMode.GROUPED, 10**9, 5, group_bytes=80, ready=1000), LAYERS, 1, TransferUse(),
                      lambda tokens: 500)  # fmt: skip
    assert sender.send([Prompt(40, 0, 400)] * 2) == [485, 485 + 85]


def test_kv_that_finds_no_room_waits_for_blocks() -> None:
    """Room for one of two requests where they decode: the second is fetched when the first has finished."""
    cluster = staged("EP-D", Stages(), decode_blocks=4)
    trace = cluster.play(load([(0, 30, 4), (0, 30, 4)]))

    check(trace)
    first, second = times(trace)
    assert first == (0, 700, 730 + 3 * 110)
    assert second[2] == first[2] + 3 * 110
    assert cluster.instances[1].ledger.used == 0
    assert cluster.instances[0].ledger.used == 0


def test_an_idle_encoder_becomes_one_that_decodes() -> None:
    """A text every 10,000 ns, each decoded for some 70,000, on 2E-P-D with room for three that decode: an encoder goes
    to them, once; what comes later is decoded there."""
    rows = [(i * 10_000, 10, 600) for i in range(20)]
    room = {"decode_blocks": 3 * 39 + 1, "blocks": 2000}
    cluster = staged("2E-P-D", Stages(switching=Switching(50_000, 70)), rule=switch, **room)
    trace = cluster.play(load(rows))
    alone = staged("2E-P-D", Stages(), **room).play(load(rows))

    check(trace)
    assert trace.transfers is not None
    assert (trace.transfers.switches, len(cluster.encoders)) == (1, 1)
    assert len(set(trace.requests["instance"].tolist())) == 2
    assert trace.end_ns < 0.6 * alone.end_ns


def test_a_chunk_of_one_token_is_preceded_by_the_images_too() -> None:
    """A budget of two, one of which decodes: the image's prompt begins with one token, and 2,000 of encoding."""
    cluster = staged("EP-D", Stages())
    cluster.instances[0].scheduler = Vllm(max_num_batched_tokens=2, max_num_seqs=2)
    trace = cluster.play(load([(0, 21, 1)], images=[(A,)]))
    assert times(trace)[0][1] == 2000 + 11 * 100 + 21 * 10
    cluster = staged("TP1", Stages())
    cluster.instances[0].scheduler = Vllm(max_num_batched_tokens=2, max_num_seqs=2)
    trace = cluster.play(load([(0, 1, 40), (150, 21, 1)], images=[(), (A,)]))
    assert times(trace)[1][1] - times(trace)[1][0] > 2000
