"""Accelerators, links and hosts: found by name, every number sourced, figures consistent with each other."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from simserve.errors import SpecError, UnknownName
from simserve.paths import data_files
from simserve.spec.hardware import (
    gpu_names,
    host_names,
    link_names,
    load_gpu,
    load_host,
    load_link,
)
from simserve.units import GIB

GPUS = [
    "a10",
    "a100_sxm",
    "a100_sxm_40gb",
    "a10g",
    "a30",
    "a40",
    "ascend_910b1",
    "ascend_910b3",
    "ascend_910b4",
    "ascend_910c",
    "b200_sxm",
    "b300_sxm",
    "gb200",
    "gb300",
    "h100_sxm",
    "h20",
    "h200_sxm",
    "h800",
    "l4",
    "l40s",
    "rtx_3090",
    "rtx_4090",
    "rtx_a6000",
    "rtx_pro_6000",
    "t4",
]
PRICE_SOURCE = "assumption, on-demand list-price order of magnitude, edit it"


def test_the_shipped_hardware_is_complete() -> None:
    """All devices, hosts and links that the studies and digests name."""
    assert gpu_names() == GPUS
    assert link_names() == [
        "hccs",
        "ib_400g",
        "nvlink3",
        "nvlink4",
        "nvlink4_h800",
        "nvlink5",
        "nvme4_x4",
        "pcie3_x16",
        "pcie4_x16",
        "pcie5_x16",
        "roce_200g", "roce_400g",
    ]
    assert host_names() == [
        "epyc_2c", "epyc_7r32", "xeon_8259cl", "xeon_gold_5320", "xeon_gold_6130_x2", "xeon_gold_6342_x2",
    ]  # fmt: skip


@pytest.mark.parametrize("name", GPUS)
def test_a_gpu_file_is_consistent(name: str) -> None:
    """Named as its file; links exist; 16-bit formats agree, fp8 doubles them; the price is an assumption."""
    gpu = load_gpu(name)
    assert name == gpu.name
    load_link(gpu.interconnect)
    load_link(gpu.host_link)
    assert gpu.sources["price_usd_per_hour"] == PRICE_SOURCE
    peaks = gpu.peak_flops
    if "bf16" in peaks and gpu.vendor == "nvidia":
        assert peaks["fp16"] == peaks["bf16"]
    if "fp8" in peaks:
        assert peaks["fp8"] == pytest.approx(2 * peaks["fp16"], rel=0.02)
    assert peaks.get("fp32", 0) < peaks["fp16"]


@pytest.mark.parametrize(
    ("name", "nominal_gib"),
    [("h100_sxm", 80), ("h200_sxm", 141), ("a100_sxm", 80), ("a100_sxm_40gb", 40), ("t4", 16), ("l40s", 48)],
)
def test_cuda_shows_less_than_the_nominal_memory(name: str, nominal_gib: int) -> None:
    """By at most a tenth."""
    assert 0.9 * nominal_gib * GIB < load_gpu(name).memory_bytes < nominal_gib * GIB


def test_numbers_that_anything_rests_on() -> None:
    """A few datasheet figures typed in once more."""
    h100, a100, t4 = load_gpu("h100_sxm"), load_gpu("a100_sxm_40gb"), load_gpu("t4")
    assert h100.peak_flops["bf16"] == 989_400_000_000_000
    assert h100.memory_bandwidth_bytes_per_s == 3_350_000_000_000
    assert a100.memory_bandwidth_bytes_per_s == 1_555_000_000_000
    assert "fp8" not in a100.peak_flops
    assert "bf16" not in t4.peak_flops
    assert load_link(h100.interconnect).bandwidth_bytes_per_s == 450_000_000_000
    assert load_gpu("a10g").peak_flops["fp16"] == 70_000_000_000_000


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("H100-SXM", "h100_sxm"),
        ("h100", "h100_sxm"),
        ("RTX 4090", "rtx_4090"),
        ("A100_40GB", "a100_sxm_40gb"),
    ],
)
def test_a_gpu_is_found_by_its_usual_names(asked: str, found: str) -> None:
    """Case, '-', '_' and blanks do not matter; aliases count."""
    assert found == load_gpu(asked).name


def test_links_and_hosts_are_found_too() -> None:
    """By alias as by name."""
    assert load_link("PCIe-Gen4").name == "pcie4_x16"
    assert load_host("g4dn.4xlarge").name == "xeon_8259cl"


def test_a_wrong_gpu_gets_the_nearest() -> None:
    """One line with a proposal."""
    with pytest.raises(UnknownName, match="unknown GPU 'h100_sxmm'; did you mean 'h100_sxm'"):
        load_gpu("h100_sxmm")


@pytest.mark.parametrize("name", ["pcie3_x16", "pcie4_x16", "pcie5_x16"])
def test_pcie_efficiency_is_a_measured_one(name: str) -> None:
    """Large pinned copies reach 0.7 to 0.9 of the link in every public measurement."""
    assert 0.7 < (load_link(name).efficiency or 0) < 0.9


@pytest.mark.parametrize("name", ["epyc_7r32", "xeon_8259cl", "xeon_gold_6130_x2", "xeon_gold_6342_x2"])
def test_hosts_name_a_pcie_link(name: str) -> None:
    """And have cores."""
    host = load_host(name)
    assert load_link(host.pcie).kind == "pcie"
    assert host.sockets <= host.cores


def test_no_file_of_hw_specs_is_left_unread() -> None:
    """A file in a folder that no catalogue looks into would be dead weight."""
    assert len(list(data_files("hw_specs"))) == len(gpu_names() + link_names() + host_names())


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda f: f["sources"].pop("tdp_watts"), "no source for tdp_watts"),
        (lambda f: f["sources"].pop("peak_flops.fp16"), "no source for peak_flops.fp16"),
        (lambda f: f["sources"].update({"tdp_watts": " "}), "no source for tdp_watts"),
        (lambda f: f["sources"].update({"weight": "scales"}), "weight, which is no number"),
        (lambda f: f["peak_flops"].update({"fp16": -1}), "fp16"),
        (lambda f: f.update({"memory_gb": 80}), "memory_gb"),
    ],
)
def test_a_wrong_hardware_file_is_refused(tmp_path: Path, change: object, problem: str) -> None:
    """A number without a source, a source without a number, a wrong number, an unknown key."""
    source = next(p for p in data_files("hw_specs") if p.name == "t4.yaml")
    fields = yaml.safe_load(source.read_text(encoding="utf-8"))
    change(fields)  # type: ignore[operator]
    path = tmp_path / "t4.yaml"
    path.write_text(yaml.safe_dump(fields), encoding="utf-8")
    with pytest.raises(SpecError) as raised:
        load_gpu(str(path))
    assert problem in str(raised.value)
    assert str(path) in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


def test_a_users_file_hides_the_shipped_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Editing a price means copying one file into one's own folder."""
    source = next(p for p in data_files("hw_specs") if p.name == "t4.yaml")
    folder = tmp_path / "hw_specs" / "gpus"
    folder.mkdir(parents=True)
    text = source.read_text(encoding="utf-8").replace("price_usd_per_hour: 0.53", "price_usd_per_hour: 0.11")
    (folder / "t4.yaml").write_text(text, encoding="utf-8")
    monkeypatch.setenv("SIMSERVE_DATA", str(tmp_path))
    assert load_gpu("t4").price_usd_per_hour == 0.11


def test_hardware_is_hashable() -> None:
    """Descriptions are keys of cost-model caches, and equal ones hash alike."""
    assert hash(load_gpu("h100_sxm")) == hash(load_gpu("h100_sxm").model_copy())
    assert load_gpu("h100_sxm") != load_gpu("h100_sxm").model_copy(update={"tdp_watts": 500})
    assert len({load_link("nvlink4"), load_link("NVLink-4")}) == 1
    assert hash(load_host("epyc_7r32"))
