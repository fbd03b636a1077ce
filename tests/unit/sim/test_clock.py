"""The clock's own loop: SimPy's order, cancelled timers, a limit, and SimPy's events beside timers."""

from collections.abc import Generator

import simpy

from simserve.sim.clock import ARRIVAL, PLAN, Clock


def test_timers_and_processes_of_simpy_share_one_order() -> None:
    """By time, then priority, then the order of scheduling; a cancelled call is not made."""
    clock, seen = Clock(), list[tuple[int, str]]()

    def process() -> Generator[simpy.Event, None, None]:
        yield clock.env.timeout(5)
        seen.append((clock.now_ns, "process"))

    clock.env.process(process())
    clock.call_at(7, lambda: seen.append((clock.now_ns, "plan")), PLAN)
    clock.call_at(7, lambda: seen.append((clock.now_ns, "arrival")), ARRIVAL)
    clock.call_at(3, lambda: seen.append((clock.now_ns, "first")), PLAN)
    clock.call_at(4, lambda: seen.append((clock.now_ns, "never")), ARRIVAL).cancel()
    clock.run()

    assert [(3, "first"), (5, "process"), (7, "arrival"), (7, "plan")] == seen


def test_a_limit_stops_before_what_happens_at_it() -> None:
    """As `simpy.Environment.run(until=...)`: the rest waits, and the clock stands at the limit."""
    clock, seen = Clock(), list[int]()
    for time_ns in (1, 5):
        clock.call_at(time_ns, lambda: seen.append(clock.now_ns), ARRIVAL)
    clock.run(5)
    assert ([1], 5) == (seen, clock.now_ns)
    clock.run()
    assert [1, 5] == seen
