"""Decode attention on CPUs: what papers published, laws, and a host's own table."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simserve.errors import MissingData, SpecError, UnknownName
from simserve.perf.cpu_attention import cpu_attention, kernels
from simserve.perf.query import query
from simserve.perf.roofline import kv_bytes
from simserve.spec.hardware import host_names, load_host

APEX_T4, APEX_A10 = load_host("xeon_gold_6130_x2"), load_host("xeon_gold_6342_x2")
LLAMA_7B = (32, 32, 128)
ROW = "bf16,128,32,8,{threads},{batch},{context},{ns}\n"


def rate(host: str, kernel: str, batch: int, **keys: int) -> float:
    """GB/s of KV at contexts of 1,000 tokens of Llama-2-7B, the launch left out."""
    compiled = cpu_attention(load_host(host), *LLAMA_7B, kernel=kernel, **keys)  # type: ignore[arg-type]
    ns = compiled.time_ns(batch, 1000 * batch) - kernels()[kernel].launch_ns
    return batch * 1000 * kv_bytes(1, 32, 128, 2) / ns


def test_apex_batch_of_four() -> None:
    """3,031 us on the CPU and 170 us on the GPU at batch 4 (APEX; Llama-2-7B, 1,000 tokens and A10 inferred)."""
    keys = {"heads": 32, "kv_heads": 32, "batch": 4, "context": 1000}
    cpu = query("xeon_gold_6130_x2", "cpu_decode_attention", {**keys, "kernel": "llamafile"})
    gpu = query("a10", "decode_attention", keys)

    assert cpu.ns / 1000 == pytest.approx(3031, rel=0.15)
    assert "transferred" == cpu.source
    assert cpu.ns / gpu.ns == pytest.approx(3031 / 170, rel=0.3)


def test_the_published_gains_need_these_rates() -> None:
    """T4 box 15 to 25 GB/s, A10 box 20 to 90 GB/s (digest of APEX), FlexGen's host 12.3 GB/s."""
    assert 15 < rate("xeon_gold_6130_x2", "llamafile", 128) < 26
    assert 20 < rate("xeon_gold_6342_x2", "llamafile", 128) < 90
    flexgen = APEX_T4.model_copy(update={"memory_bandwidth_bytes_per_s": 150_000_000_000})
    whole = cpu_attention(flexgen, *LLAMA_7B, kernel="torch").time_ns(64, 64_000) - kernels()["torch"].launch_ns
    assert 64_000 * kv_bytes(1, 32, 128, 2) / whole == pytest.approx(12.3, rel=0.05)


def test_neo_and_apex_kernels_cross() -> None:
    """APEX's is up to twice as fast for large batches and no faster for one request."""
    large = rate("xeon_gold_6130_x2", "llamafile", 256) / rate("xeon_gold_6130_x2", "ispc", 256)
    one = rate("xeon_gold_6130_x2", "llamafile", 1) / rate("xeon_gold_6130_x2", "ispc", 1)
    assert 1.4 < large <= 2.0
    assert one < 1.2


def test_more_cores_help_until_the_memory_is_the_limit() -> None:
    """NEO's A10G hosts of 4, 8, 16 and 32 cores: no core lost, none gained past the share of the bandwidth."""
    by_cores = [rate("epyc_7r32", "ispc", 64, threads=n) for n in (1, 2, 4, 8, 16, 32)]
    assert by_cores == sorted(by_cores)
    assert by_cores[1] == pytest.approx(2 * by_cores[0])
    assert by_cores[-1] == pytest.approx(by_cores[3])


@given(st.sampled_from(["llamafile", "ispc", "torch"]), st.integers(1, 200), st.integers(1, 10**6), st.integers(1, 64))
def test_laws_of_the_published_kernels(kernel: str, batch: int, total: int, threads: int) -> None:
    """More context or fewer threads never take less; half the bytes take less; no host beats its memory."""
    compiled = cpu_attention(APEX_A10, 32, 8, 128, threads=threads, kernel=kernel)
    ns = compiled.time_ns(batch, total)
    assert compiled.time_ns(batch, total + 100) > ns
    assert cpu_attention(APEX_A10, 32, 8, 128, threads=threads + 1, kernel=kernel).time_ns(batch, total) <= ns
    assert cpu_attention(APEX_A10, 32, 8, 128, threads=threads, dtype="fp8", kernel=kernel).time_ns(batch, total) < ns
    assert total * kv_bytes(1, 8, 128, 2) / ns * 1e9 < APEX_A10.memory_bandwidth_bytes_per_s


@pytest.fixture
def own_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A table of xeon_8259cl: 10 us, and 0.1 us per token over the root of the threads; batch saves a tenth."""
    rows = "dtype,head_dim,heads,kv_heads,threads,batch,context,latency_ns\n"
    for threads in (1, 4):
        for batch in (1, 2, 4, 8):
            for context in (64, 128, 256, 512, 1024):
                ns = 10_000 + 100 * batch * context * threads**-0.5 * 0.9 ** (batch > 1)
                rows += ROW.format(threads=threads, batch=batch, context=context, ns=round(ns))
    folder = tmp_path / "perfdb" / "xeon_8259cl"
    folder.mkdir(parents=True)
    (folder / "cpu_decode_attention.csv").write_text(rows)
    monkeypatch.setenv("SIMSERVE_DATA", str(tmp_path))
    return folder


def test_a_measured_table_comes_back(own_host: Path) -> None:
    """Rows as they are; between contexts a line; between threads by logarithms; past the last thread modelled."""
    host = load_host("xeon_8259cl")
    one = cpu_attention(host, 32, 8, 128, threads=1)
    assert one.time_ns(1, 512) == pytest.approx(61_200)
    assert one.time_ns(1, 384) == pytest.approx(10_000 + 38_400, rel=1e-3)
    assert [one.price(1, total).source for total in (512, 384, 10**7)] == ["measured", "interpolated", "modelled"]
    two = cpu_attention(host, 32, 8, 128, threads=2)
    assert two.price(1, 512).source == "interpolated"
    assert two.time_ns(1, 512) == pytest.approx((61_200 * 35_600) ** 0.5)
    assert cpu_attention(host, 32, 8, 128, threads=8).price(1, 512).source == "modelled"
    assert cpu_attention(host, 32, 8, 128, threads=1, dtype="fp8").time_ns(1, 512) == pytest.approx(30_600)


def test_the_example_of_a_measured_host() -> None:
    """epyc_2c: two threads are faster than one, and read no faster than the memory."""
    host = load_host("epyc_2c")
    one, two = (cpu_attention(host, 32, 8, 128, threads=n, dtype="fp32") for n in (1, 2))
    assert two.time_ns(8, 8 * 2048) < 0.75 * one.time_ns(8, 8 * 2048)
    assert two.price(8, 8 * 2048).source == "measured"
    assert 16 * 1024 * kv_bytes(1, 8, 128, 4) / two.time_ns(16, 16 * 1024) * 1e9 < host.memory_bandwidth_bytes_per_s


def test_what_is_wrong_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No table and no kernel; an unknown kernel; a description with a wrong key."""
    with pytest.raises(MissingData, match=r"name a kernel \(ispc, llamafile, torch\)"):
        cpu_attention(APEX_T4, 32, 8, 128)
    with pytest.raises(UnknownName, match="did you mean 'llamafile'"):
        cpu_attention(APEX_T4, 32, 8, 128, kernel="lamafile")
    (tmp_path / "perfdb").mkdir()
    (tmp_path / "perfdb" / "cpu_attention.yaml").write_text("mine: {lunch_ns: 1}\n")
    monkeypatch.setenv("SIMSERVE_DATA", str(tmp_path))
    kernels.cache_clear()
    try:
        with pytest.raises(SpecError, match=r"mine\.\w+: (is missing|unknown key)"):
            kernels()
    finally:
        kernels.cache_clear()


@pytest.mark.parametrize("name", [name for name in host_names() if name != "epyc_2c"])
def test_every_host_of_the_papers_has_a_price(name: str) -> None:
    """By each published kernel."""
    keys = {"heads": 32, "kv_heads": 8, "batch": 4, "context": 500}
    for kernel in kernels():
        assert query(name, "cpu_decode_attention", {**keys, "kernel": kernel}).source == "transferred"
