"""The accuracy report: all points, the printed numbers, nothing from elsewhere, coverage counted by hand."""

import json
import re
from pathlib import Path

import pytest

from simserve.cli.main import main
from simserve.report.accuracy import interval_coverage

HEADER = "id,model,gpu,framework,concurrency,prompt_tokens,output_tokens,ttft_ms,tpot_ms\n"
ROWS = (
    "one,meta-llama/Llama-3.1-8B,h100_sxm,vllm,4,512,64,50,7\n"
    "two,meta-llama/Llama-3.1-8B,h200_sxm,sglang,2,256,32,40,6\n"
    "lost,who/Knows,h100_sxm,vllm,4,512,64,50,7\n"
)


def test_the_page_holds_points_numbers_and_reasons(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both points in the figures, the scores of the JSON, the reason of the one that has none, no address to load."""
    records, page, scores = tmp_path / "points.csv", tmp_path / "page.html", tmp_path / "scores.json"
    records.write_text(HEADER + ROWS)
    assert main(["validate", "--records", str(records), "--html", str(page), "--json", str(scores)]) == 0
    assert "measurements within the 90 % interval: TTFT" in capsys.readouterr().out
    text, content = page.read_text(), json.loads(scores.read_text())
    figures = dict(re.findall(r"data-for='([\w-]+)'>(.*?)</script>", text))
    drawn = json.loads(figures["scatter-ttft"])["data"]
    assert {"vllm", "sglang"} <= {trace.get("name") for trace in drawn}
    assert sum(len(trace["x"]) for trace in drawn if trace["mode"] == "markers") == 2
    whole = next(row for row in content["scores"] if (row["regime"], row["metric"]) == ("all", "ttft"))
    assert f"<b>{100 * whole['median']:.1f} %</b>" in text
    assert "who/Knows" in text
    assert not re.search(r"(?:src|href)\s*=\s*['\"]?https?:", re.sub(r"<script>.*?</script>", "", text, flags=re.S))
    assert content["interval_coverage"]["ttft"]["points"] == 2


def test_coverage_is_counted_by_metric_and_bucket() -> None:
    """Factor 1.25 holds 100 against 81 and not against 79; another metric has no factor."""
    rows = [({"predicted_within_ttft": 1.25}, {"ttft": (100.0, m), "tpot": (1.0, 1.0)}) for m in (81.0, 79.0, 124.0)]
    found = interval_coverage(rows)
    assert found == [
        {"metric": "ttft", "bucket": "all", "points": 3, "share": 2 / 3},
        {"metric": "ttft", "bucket": "20-50 %", "points": 3, "share": 2 / 3},
    ]


def test_a_page_is_for_points(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A target that is a folder is refused before any work."""
    records = tmp_path / "points.csv"
    records.write_text(HEADER + ROWS)
    assert main(["validate", "--records", str(records), "--html", str(tmp_path)]) == 2
    assert "is a directory" in capsys.readouterr().err
