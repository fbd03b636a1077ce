"""The engine profile: capture sizes, sources, strict reading, and where the host constant comes from."""

from pathlib import Path

import pytest

from simserve.errors import MissingData, SpecError, UnknownName
from simserve.perf import calibrate
from simserve.perf.host import NUMBERS, load_profile


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


@pytest.mark.parametrize("name", ["vllm", "sglang", "trtllm"])
def test_every_number_has_a_source(name: str) -> None:
    """Those that a file leaves out come from its base."""
    profile = load_profile(name)
    assert [key for key, _ in profile.sources] == list(NUMBERS)
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
    for name, text, problem in (
        ("list", "[]", "must be a mapping"), ("torn", "a: [", "is no YAML"), ("loop", "base: loop", "rest on itself"),
        ("free", "base: vllm\ngemm_time_factor: {value: 0, source: x}", "must be above 0"),
    ):  # fmt: skip
        (folder / f"{name}.yaml").write_text(text)
        with pytest.raises(SpecError, match=problem):
            load_profile(name)


def test_host_constant_is_what_the_runs_give(shared: Path) -> None:
    """The YAML's number is the rounded result of the fit, from five runs."""
    median_ns, spread_ns, runs = calibrate.host_constant(shared / "data" / "e2e" / "blis_vllm_share.csv")
    profile = load_profile("vllm", calibrated=False)
    assert (profile.host_ns_per_step, profile.host_ns_sigma, runs) == (
        round(median_ns, -4),
        round(spread_ns, -3),
        5,
    )


def test_fit_without_the_runs_says_so(tmp_path: Path) -> None:
    """No file: MissingData."""
    with pytest.raises(MissingData, match="no measured runs"):
        calibrate.host_constant(tmp_path / "none.csv")


def test_versions_and_fits_change_a_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The latest entry that is not newer; what was fitted only where it is asked for; other numbers are the base's."""
    folder = tmp_path / "perfdb" / "engines"
    folder.mkdir(parents=True)
    lines = [
        "name: mine", "base: vllm", "host_ns_per_step: {value: 5, source: here}",
        "versions:", '  "1.2.0rc2": {host_ns_per_step: {value: 6, source: here}}',
        '  "1.10": {host_ns_per_step: {value: 7, source: here}}',
    ]  # fmt: skip
    (folder / "mine.calibrated.yaml").write_text('"1.2.0rc6": {api_ns: {value: 9, source: fit}}\n')
    (folder / "mine.yaml").write_text("\n".join(lines) + "\n")
    monkeypatch.setenv("SIMSERVE_DATA", str(tmp_path))

    def numbers(version: str, *, calibrated: bool = True) -> tuple[int, int]:
        profile = load_profile("mine", version, calibrated=calibrated)
        return profile.host_ns_per_step, profile.api_ns

    def api_ns(version: str, *, calibrated: bool = True) -> int:
        return load_profile("vllm", version, calibrated=calibrated).api_ns

    assert numbers("1.1") == (5, api_ns("1.1"))
    assert numbers("1.2.0rc2.post1") == (6, api_ns("1.2.0rc2.post1"))
    assert numbers("1.2.0rc6.post2") == (6, 9)
    assert numbers("nightly-1") == numbers("") == (7, 9)
    assert numbers("", calibrated=False) == (7, api_ns("", calibrated=False))
    assert api_ns("0.12") != api_ns("0.15") != api_ns("", calibrated=False)


@pytest.mark.parametrize(("name", "older", "first"), [
    ("vllm", "0.10.2", "0.11.0"), ("vllm_uncompiled", "0.10.2", "0.17.0"), ("trtllm_triton", "0.21.0", "1.1.0"),
])  # fmt: skip
def test_a_version_before_the_first_that_was_fitted_has_nothing_fitted(name: str, older: str, first: str) -> None:
    """Neither constants nor spreads."""
    assert load_profile(name, older) == load_profile(name, older, calibrated=False)
    assert load_profile(name, first) != load_profile(name, first, calibrated=False)


@pytest.mark.parametrize("name", ["sglang", "trtllm"])
def test_what_was_fitted_to_vllm_stays_with_vllm(name: str) -> None:
    """Of a version that nobody calibrated an engine has its own and the base's plain numbers."""
    fitted = load_profile("vllm", "0.12.0")
    assert fitted.moe_time_factor != 1.0
    own, plain = load_profile(name, "0.0.1"), load_profile(name, "0.0.1", calibrated=False)
    if name == "trtllm":
        assert own == plain
    assert plain.moe_time_factor == 1.0
    assert own.moe_time_factor != fitted.moe_time_factor


def test_a_version_that_was_not_fitted_has_what_its_table_says() -> None:
    """TensorRT-LLM 1.3.0rc20, whose launches were measured; rc5 before it has what from 1.1 was fitted."""
    newest, tabled, fitted = (load_profile("trtllm", version) for version in ("", "1.3.0rc20", "1.3.0rc5"))
    assert newest.eager_ns_per_op == tabled.eager_ns_per_op == 18_000
    assert fitted.eager_ns_per_op > 50_000
    assert tabled.api_ns == fitted.api_ns
