"""The engine profile: capture sizes, sources, strict reading, and where the host constant comes from."""

from pathlib import Path

import pytest

from simserve.errors import MissingData, SpecError, UnknownName
from simserve.perf import calibrate
from simserve.perf.host import load_profile


def test_capture_sizes() -> None:
    """1, 2, 4, eights below 256, sixteens to min(512, 2 x max_num_seqs)."""
    sizes = load_profile("vllm").capture_sizes(256)
    assert sizes[:5] == (1, 2, 4, 8, 16)
    assert sizes[-2:] == (496, 512)
    assert 264 not in sizes
    assert load_profile("vllm").capture_sizes(4) == (1, 2, 4, 8)


def test_padding() -> None:
    """The next captured size, or the tokens themselves past the last."""
    profile = load_profile("vllm")
    assert [profile.padded_tokens(m, 256) for m in (3, 9, 257, 512, 513)] == [4, 16, 272, 512, 513]


def test_every_number_has_a_source() -> None:
    """Eleven numbers, each with a sentence."""
    profile = load_profile("vllm")
    assert len(profile.sources) == 11
    assert all(len(why) > 10 for _, why in profile.sources)


def test_unknown_profile() -> None:
    """A miss names what there is."""
    with pytest.raises(UnknownName):
        load_profile("vlm-engine")


def test_number_without_source_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's own profile is read strictly: file and key in the message."""
    folder = tmp_path / "perfdb" / "engines"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text("name: mine\nhost_ns_per_step: 5\n")
    (folder / "typo.yaml").write_text("name: typo\nhost_ns_per_stepp: 5\n")
    monkeypatch.setenv("SIMSERVE_DATA", str(tmp_path))
    with pytest.raises(SpecError, match=r"mine\.yaml: host_ns_per_step: needs a value and a source"):
        load_profile("mine")
    with pytest.raises(SpecError, match="did you mean 'host_ns_per_step'"):
        load_profile("typo")


def test_host_constant_is_what_the_runs_give(shared: Path) -> None:
    """The YAML's number is the rounded result of the fit, from five runs."""
    median_ns, spread_ns, runs = calibrate.host_constant(shared / "data" / "e2e" / "blis_vllm_share.csv")
    profile = load_profile("vllm")
    assert (profile.host_ns_per_step, profile.host_ns_sigma, runs) == (
        round(median_ns, -4),
        round(spread_ns, -3),
        5,
    )


def test_fit_without_the_runs_says_so(tmp_path: Path) -> None:
    """No file: MissingData."""
    with pytest.raises(MissingData, match="no measured runs"):
        calibrate.host_constant(tmp_path / "none.csv")
