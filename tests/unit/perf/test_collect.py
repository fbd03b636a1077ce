"""Collectors: the timer by a clock of our own, the grid near a kink, a journal that was cut off, runs by the CLI."""

import json
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from math import log
from pathlib import Path

import numpy as np
import pytest

from simserve.cli.main import main
from simserve.errors import Infeasible, MissingData, SpecError, UnknownName
from simserve.perf import store
from simserve.perf.collect import collector, collector_names
from simserve.perf.collect.cpu_attention import attend
from simserve.perf.collect.grid import Curve, Point, next_point
from simserve.perf.collect.journal import Journal
from simserve.perf.collect.machine import CUDA_NAMES, Machine, find_machine, known_gpu, slug
from simserve.perf.collect.task import Options, Task, powers, run
from simserve.perf.collect.timer import CudaClock, HostClock, Sample, buffer_sets, measure
from simserve.spec.hardware import gpu_names


class Replayed:
    """A clock that answers from a list, the last answer for ever; counts the calls it was asked to run."""

    def __init__(self, *answers: float) -> None:
        self.answers, self.asked = list(answers), []  # type: list[float], list[int]

    def elapsed_ns(self, call: Callable[[int], None], times: int) -> float:
        self.asked.append(times)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


def nothing(i: int) -> None:
    """An operation."""


def test_the_median_counts_and_outliers_are_told() -> None:
    """Warm-up until 100 and 103 agree; of five samples one lies far off, and does not move the result."""
    clock = Replayed(900, 100, 103, 100, 101, 99, 5000, 100)
    assert measure(nothing, clock, repeats=5) == Sample(100, 5, 1)
    assert clock.asked[:3] == [1, 1, 1]
    assert clock.asked[3] == round(300_000 / 103)


def test_long_operations_get_fewer_samples_and_short_ones_many_calls() -> None:
    """A second each: three samples of one call; 10 ns each: 30,000 calls to a sample."""
    slow, fast = Replayed(1e9), Replayed(10.0)
    assert measure(nothing, slow).repeats == 3
    assert slow.asked[-1] == 1
    assert measure(nothing, fast).repeats == 15
    assert fast.asked[-1] == 30_000


def test_buffers_together_exceed_twice_the_cache() -> None:
    """So that a set was evicted when its turn comes again."""
    for size in (1000, 10**6, 10**8):
        assert (buffer_sets(size, 32 * 10**6) - 1) * size >= 2 * 32 * 10**6 or buffer_sets(size, 32 * 10**6) == 256
    assert buffer_sets(10**9, 0) == 2


def test_calls_rotate_from_sample_to_sample() -> None:
    """The host clock goes on counting."""
    seen: list[int] = []
    clock = HostClock()
    clock.elapsed_ns(seen.append, 3)
    clock.elapsed_ns(seen.append, 2)
    assert seen == [0, 1, 2, 3, 4]


class FakeCuda:
    """As much of torch.cuda as the clock uses: work is queued, and done only when somebody waits for it."""

    def __init__(self, kernel_ms: float, capturable: bool = True) -> None:
        self.kernel_ms, self.capturable = kernel_ms, capturable
        self.now, self.queue, self.recording = 0.0, [], None  # type: float, list[Any], list[float] | None
        self.cuda, self.uint8, self.flushes = self, "uint8", 0
        self.OutOfMemoryError = MemoryError

    def empty(self, size: int, dtype: str, device: str) -> "FakeCuda":
        assert (size, dtype, device) == (2 * 50, "uint8", "cuda")
        return self

    def zero_(self) -> None:
        """Overwrites the cache: a kernel as any other."""
        assert self.recording is None
        self.flushes += 1
        self.queue.append(100.0)

    def launch(self, i: int) -> None:
        """A kernel."""
        if self.recording is not None:
            self.recording.append(self.kernel_ms)
        else:
            self.queue.append(self.kernel_ms)

    def synchronize(self) -> None:
        if self.recording is not None and not self.capturable:
            raise RuntimeError("not permitted while capturing")
        for entry in self.queue:
            if isinstance(entry, FakeEvent):
                entry.at = self.now
            else:
                self.now += entry
        self.queue.clear()

    def Event(self, enable_timing: bool) -> "FakeEvent":  # noqa: N802
        assert enable_timing
        return FakeEvent(self)

    def CUDAGraph(self) -> "FakeGraph":  # noqa: N802
        return FakeGraph(self)

    def graph(self, graph: "FakeGraph") -> "FakeGraph":
        return graph


class FakeEvent:
    """Knows its time once the queue has got to it."""

    def __init__(self, cuda: FakeCuda) -> None:
        self.owner, self.at = cuda, None  # type: FakeCuda, float | None

    def record(self) -> None:
        self.owner.queue.append(self)

    def synchronize(self) -> None:
        self.owner.synchronize()

    def elapsed_time(self, end: "FakeEvent") -> float:
        assert self.at is not None
        assert end.at is not None
        return end.at - self.at


class FakeGraph:
    """Records while it is open; replay queues what was recorded."""

    def __init__(self, cuda: FakeCuda) -> None:
        self.owner, self.work = cuda, []  # type: FakeCuda, list[float]

    def __enter__(self) -> None:
        self.owner.recording = self.work

    def __exit__(self, *_: object) -> None:
        self.owner.recording = None

    def replay(self) -> None:
        self.owner.queue.extend(self.work)


@pytest.mark.parametrize("capturable", [True, False])
def test_cuda_kernels_are_timed_between_events(capturable: bool) -> None:
    """0.25 ms each are 250,000 ns a call, from a graph and without; what ran before is not counted."""
    cuda = FakeCuda(0.25, capturable)

    def call(i: int) -> None:
        cuda.launch(i)
        if not capturable:
            cuda.synchronize()

    clock = CudaClock(cuda, cache_bytes=50)
    assert clock.elapsed_ns(call, 4) == pytest.approx(250_000)
    assert clock.elapsed_ns(call, 8) == pytest.approx(250_000)
    assert clock.captured == capturable
    assert cuda.flushes == 2  # outside of what was timed


def test_an_operation_that_cannot_be_captured_does_not_stop_others_from_it() -> None:
    """Want of memory is no reason to measure launches: it is passed on."""
    cuda = FakeCuda(0.25, capturable=False)
    clock = CudaClock(cuda)
    clock.elapsed_ns(lambda i: cuda.synchronize(), 1)
    assert not clock.captured
    assert clock.elapsed_ns(cuda.launch, 4) == pytest.approx(250_000)
    assert clock.captured

    def too_much(i: int) -> None:
        if cuda.recording is not None:
            raise MemoryError

    with pytest.raises(MemoryError):
        clock.elapsed_ns(too_much, 1)


CURVE = Curve((("n", 1),), "m", powers(1, 4096, 4))


def explore(law: Callable[[int], float], points: int, curve: Curve = CURVE) -> list[int]:
    """Values of m that were measured, in order."""
    ns: dict[Point, int] = {}
    while len(ns) < points:
        point, _ = next_point([curve], ns, 0.0)
        if point is None:
            break
        ns[point] = round(law(int(dict(point)["m"])))
    return [int(dict(point)["m"]) for point in ns]


def test_the_grid_is_refined_at_a_kink() -> None:
    """Flat to 100, then linear: a straight power law needs no more points, the kink gets them."""
    found = explore(lambda m: 10**6 * max(1.0, m / 100), 14)
    near = [m for m in found[4:] if 25 <= m <= 400]
    assert len(near) >= 7
    assert min(abs(log(m / 100)) for m in found) < 0.2


def test_a_power_law_is_done_after_the_first_points() -> None:
    """Nothing to gain: no error anywhere."""
    ns = {point: 1000 * int(dict(point)["m"]) ** 2 for point in CURVE.first()}
    assert next_point([CURVE], ns, 0.01) == (None, pytest.approx(0, abs=1e-6))


def test_the_worst_curve_is_refined_first() -> None:
    """Of a straight and a bent one the bent one."""
    bent = Curve((("n", 2),), "m", CURVE.candidates)
    ns = {point: 1000 * int(dict(point)["m"]) for point in CURVE.first()}
    ns |= {point: 10**6 + 1000 * int(dict(point)["m"]) for point in bent.first()}
    point, error = next_point([CURVE, bent], ns, 0.01)
    assert point is not None
    assert dict(point)["n"] == 2
    assert error > 0.01


def test_every_candidate_is_measured_once_at_most() -> None:
    """On noise, until nothing is left."""
    draw = random.Random(1)
    found = explore(lambda m: draw.uniform(1e3, 1e6), 1000)
    assert sorted(found) == list(CURVE.candidates)


SETTINGS = {"family": "gemm", "kernel": "x"}
POINT = (("m", 1), ("n", 2))


def test_a_journal_goes_on_after_a_cut_off_line(tmp_path: Path) -> None:
    """Killed in the middle of a line: what was whole is there, and the next line starts cleanly."""
    path = tmp_path / "j"
    Journal(path, SETTINGS).add(POINT, Sample(5, 3, 0))
    with path.open("a") as file:
        file.write('{"point": {"m": 4, "n"')

    again = Journal(path, SETTINGS)
    assert again.samples == {POINT: Sample(5, 3, 0)}
    again.add((("m", 8), ("n", 2)), Sample(6, 3, 1))
    assert len(Journal(path, SETTINGS).samples) == 2


def test_points_of_other_settings_are_not_mixed(tmp_path: Path) -> None:
    """Named in one line; --fresh starts anew."""
    path = tmp_path / "j"
    Journal(path, SETTINGS).add(POINT, Sample(5, 3, 0))
    with pytest.raises(SpecError, match=r"kernel: was measured with 'x', now 'y'; --fresh"):
        Journal(path, {**SETTINGS, "kernel": "y"})
    assert Journal(path, {**SETTINGS, "kernel": "y"}, fresh=True).samples == {}
    header = path.read_text()
    for line in ("no json", "[1]", '{"point": {}}', '{"point": [1], "ns": 1, "repeats": 1, "outliers": 0}'):
        path.write_text(header + line + "\n")
        with pytest.raises(SpecError, match=r"j:2: is no line of a journal"):
            Journal(path, {**SETTINGS, "kernel": "y"})


def test_a_run_keeps_to_its_budget_and_skips_what_cannot_run(tmp_path: Path) -> None:
    """Seven points, none of them above 1,000; progress is reported."""
    reports: list[tuple[int, int, str]] = []
    task = Task("gemm", "x", [CURVE], lambda point: nothing, Replayed(1e6), "k", skip=lambda point: point["m"] > 1000)
    journal = Journal(tmp_path / "j", SETTINGS)
    run(task, journal, 7, -1.0, lambda *what: reports.append(what))
    assert len(journal.samples) == 7
    assert max(dict(point)["m"] for point in journal.samples) <= 1000
    assert reports[0][:2] == (0, 7)
    assert reports[-1][0] == 7

    other = Curve((("n", 2),), "m", powers(1, 64))
    run(replace(task, curves=[other]), journal, 5, -1.0, lambda *what: None)
    assert len(journal.samples) == 7 + 5  # points of other curves are not of this run's budget
    with pytest.raises(MissingData, match="no point of gemm fits"):
        run(replace(task, skip=lambda point: True), journal, 5, 0.0, lambda *what: None)


def test_the_plain_cpu_kernel_is_attention() -> None:
    """Against the formula, in double precision."""
    draw = np.random.default_rng(2)
    q, k, v = (draw.random(shape, dtype=np.float32) for shape in ((4, 16), (16, 50), (50, 16)))
    weights = np.exp(q.astype(float) @ k / 4)
    assert np.allclose(attend(q, k, v), weights / weights.sum(axis=1, keepdims=True) @ v, rtol=1e-5)


def test_collecting_through_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few points, then a few more from the same journal; the table is one of perfdb's."""
    monkeypatch.setattr("simserve.perf.collect.cpu_attention._LONGEST", 256)
    monkeypatch.setattr("simserve.perf.collect.cpu_attention._MOST_BATCH", 1)
    monkeypatch.setattr("simserve.perf.collect.cpu_attention.read_rate", lambda threads: 10**9)
    monkeypatch.setattr("simserve.perf.collect.timer.LEAST_SAMPLE_NS", 1000.0)
    words = ["perfdb", "collect", "cpu-attention", "--device", "cpu", "--name", "my_host", "--threads", "1",
             "--heads", "2,1,16", "-o", str(tmp_path / "perfdb"), "--points"]  # fmt: skip
    assert main([*words, "4"]) == 0
    assert "4 points" in capsys.readouterr().out
    journal = (tmp_path / "perfdb" / "my_host" / ".cpu_decode_attention.journal").read_text()
    assert main([*words, "5", "--tolerance", "0"]) == 0
    assert (tmp_path / "perfdb" / "my_host" / ".cpu_decode_attention.journal").read_text().startswith(journal)

    monkeypatch.setenv("SIMSERVE_DATA", str(tmp_path))
    columns = store.read_table("my_host", "cpu_decode_attention")
    assert len(columns["latency_ns"]) == 5
    assert set(columns["context"].tolist()) <= {64, 91, 128, 181, 256}
    entry = store.provenance("my_host", "cpu_decode_attention")
    assert entry["licence"] == "own measurement"
    assert entry["read_bytes_per_s"] == {"1": 10**9}
    assert entry["machine"]["model"]


def test_gemms_without_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NumPy in fp32, and nothing else."""
    machine = Machine("cpu", "my_host", 0, 10**9, None, {"model": "x", "cores": 2})
    (task,) = collector("gemm")(machine, Options())
    assert {dict(curve.fixed)["dtype"] for curve in task.curves} == {"fp32"}
    task.prepare({"dtype": "fp32", "m": 4, "n": 8, "k": 16})(0)
    with pytest.raises(MissingData, match="fp32 alone"):
        collector("gemm")(machine, Options(dtype="bf16"))


def test_what_is_missing_is_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unknown names; no GPU; no torch; wrong heads."""
    machine = Machine("cpu", "my_host", 0, 10**9, None, {"model": "x", "cores": 2})
    assert collector_names() == ["gemm", "attention", "pcie", "cpu-attention", "collectives"]
    with pytest.raises(UnknownName, match="did you mean 'attention'"):
        collector("atention")
    with pytest.raises(UnknownName, match="did you mean 'cuda'"):
        find_machine("cudda")
    for name, what in (("attention", "PyTorch"), ("pcie", "CUDA GPU"), ("collectives", "PyTorch")):
        with pytest.raises(MissingData, match=what):
            collector(name)(machine, Options())
    assert main(["perfdb", "collect", "cpu-attention", "--heads", "3,2,64"]) == 2
    assert main(["perfdb", "collect", "cpu-attention", "--heads", "3"]) == 2
    assert main(["perfdb", "collect", "cpu-attention", "--heads", "4,2,²"]) == 2
    assert main(["perfdb", "collect", "cpu-attention", "--name", "../.."]) == 2


def test_fp8_gemms_need_a_gpu() -> None:
    """Whatever torch says."""
    machine = Machine("cpu", "my_host", 0, 10**9, object(), {"model": "x", "cores": 2})
    with pytest.raises(Infeasible, match="no GEMM in fp8"):
        collector("gemm")(machine, Options(dtype="fp8"))


def test_names_of_machines() -> None:
    """As folders of perfdb."""
    assert known_gpu("NVIDIA H100 80GB HBM3") == "h100_sxm"
    assert known_gpu("NVIDIA H100 PCIe") == known_gpu("NVIDIA H100 NVL") == ""
    assert known_gpu("NVIDIA RTX PRO 6000 Blackwell Server Edition") == "rtx_pro_6000"
    assert set(CUDA_NAMES.values()) <= set(gpu_names())
    assert slug("Intel(R) Xeon(R) Gold 6130 CPU @ 2.10GHz") == "intel_xeon_gold_6130_cpu_2_10ghz"


def test_torch_is_not_loaded_unless_measured_with() -> None:
    """Neither by --help nor by the list of collectors."""
    code = (
        "import sys; from simserve.cli.main import main; main(['perfdb', 'collect', '--help']);"
        "from simserve.perf.collect import collector; collector('gemm'); collector('collectives');"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_journal_is_plain_json(tmp_path: Path) -> None:
    """A header, then one point a line."""
    Journal(tmp_path / "j", SETTINGS).add(POINT, Sample(5, 3, 0))
    header, line = (tmp_path / "j").read_text().splitlines()
    assert json.loads(header) == {"settings": SETTINGS}
    assert json.loads(line) == {"point": {"m": 1, "n": 2}, "ns": 5, "repeats": 3, "outliers": 0}
