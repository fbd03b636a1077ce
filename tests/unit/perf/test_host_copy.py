"""Copies between host and GPU: the measured figures, the cliff of small pieces, both directions, pageable memory."""

from pathlib import Path

import pytest

from simserve.cli.main import main
from simserve.errors import UnknownName
from simserve.perf import store
from simserve.perf.host_copy import copy, piece_overhead_ns
from simserve.perf.importers import importer
from simserve.spec.hardware import load_link
from simserve.units import KIB, MIB

GEN3, GEN4, GEN5 = (load_link(f"pcie{g}_x16") for g in (3, 4, 5))


def gb_per_s(size: int, pieces: int) -> float:
    """Rate of a batch on PCIe 5.0."""
    return size * pieces / copy(GEN5, size, pieces).ns


@pytest.mark.parametrize(
    ("page_kib", "pieces", "rate"), [(4, 10_000, 6.8), (24, 50_000, 6.7), (28, 50_000, 39.9), (64, 100_000, 51.8)]
)
def test_measured_batches_come_back(page_kib: int, pieces: int, rate: float) -> None:
    """As published, to the latency of one call."""
    assert rate == pytest.approx(gb_per_s(page_kib * KIB, pieces), rel=0.003)
    assert "measured" == copy(GEN5, page_kib * KIB, pieces).source


def test_the_cliff_lies_at_28_kib_for_any_large_batch() -> None:
    """One byte less costs several times as much; nothing is averaged across it."""
    below, above = gb_per_s(28 * KIB - 1, 100_000), gb_per_s(28 * KIB, 100_000)

    assert below < 8 < 40 < above


def test_large_copies_reach_the_published_rates() -> None:
    """12, 26 and 55.6 GB/s, measured; sizes between are slower by the latency only."""
    assert [12.0, 26.0, 55.6] == [round(512 * MIB / copy(k, 512 * MIB).ns, 1) for k in (GEN3, GEN4, GEN5)]
    assert copy(GEN5, MIB).ns == pytest.approx(GEN5.latency_ns + MIB / 55.63, rel=1e-3)


def test_longer_copies_and_more_pieces_never_take_less() -> None:
    """In bytes from the cliff on (below it 24 KiB was measured to be faster than 16), and in pieces."""
    times = [copy(GEN5, size, 20_000).ns for size in (28 * KIB, 50_000, 64 * KIB, MIB, 64 * MIB)]
    assert times == sorted(times)
    counts = [copy(GEN5, 32 * KIB, n).ns for n in (1, 2, 100, 10_000, 100_000, 1_000_000)]
    assert counts == sorted(counts)
    assert 0 == piece_overhead_ns(4 * KIB, 1)


def test_what_is_not_measured_says_so() -> None:
    """Other generations take the pieces over; both directions lose 2.7 %; pageable is a rule of thumb."""
    alone, both, pageable = (copy(GEN4, 64 * MIB, **more) for more in ({}, {"both": True}, {"memory": "pageable"}))

    assert ("measured", "transferred", "modelled") == (alone.source, both.source, pageable.source)
    assert (26.0 / 25.3, 2.0) == (pytest.approx(both.ns / alone.ns, rel=1e-6), pageable.ns / alone.ns)
    assert "transferred" == copy(GEN3, 64 * KIB, 10_000).source
    with pytest.raises(UnknownName, match="unknown memory 'pined'; did you mean 'pinned'"):
        copy(GEN4, 1, memory="pined")


def test_the_tables_are_what_the_importer_builds(tmp_path: Path) -> None:
    """`simserve perfdb build --from pcie`, and the figures name their source."""
    importer("pcie")(["pcie5_x16"], tmp_path, None)
    entry = store.provenance("pcie5_x16", "host_copy")

    shipped = store.table_path("pcie5_x16", "host_copy")
    assert shipped is not None
    assert shipped.read_bytes() == (tmp_path / "pcie5_x16" / "host_copy.parquet").read_bytes()
    assert any("42212" in source["framework"] for source in entry["sources"])


def test_from_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    """A KV block of 2 MiB to an H100, alone and in pieces of 8 KiB."""
    assert 0 == main(["perfdb", "query", "h100_sxm", "host_copy", f"bytes={2 * MIB}"])
    assert 0 == main(["perfdb", "query", "h100_sxm", "host_copy", f"bytes={8 * KIB}", "pieces=256"])
    alone, pieces = (float(line.split()[0]) for line in capsys.readouterr().out.splitlines() if " us " in line)

    assert 47 < alone < 48
    assert pieces > 5 * alone
