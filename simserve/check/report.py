"""What was checked, for machines: JSON ("simserve.check/1") and JUnit XML.

    schema    "simserve.check/1"
    exit      0 all passed, 1 an expectation failed, 2 a study could not be checked
    counts    {studies, passed, failed, skipped, errors}; the first three of expectations, errors of studies
    studies   [{file, name, kind, status: passed|failed|error, error, note, requests, deployment, seconds,
                expectations: [{name, status: passed|failed|skipped, measured, expected, off, message}]}]
    without   files of studies that expect nothing

off: by how much a bound is missed, as a share of it. In JUnit a study is a suite, an expectation a case.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal
from xml.etree import ElementTree

from simserve.check.judge import Verdict
from simserve.report.document import json_safe
from simserve.version import __version__

SCHEMA = "simserve.check/1"
PASSED, FAILED, ERROR = 0, 1, 2
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class StudyCheck:
    """One study: its verdicts, or in `error` the one line why there are none.

    kind: search or simulate, "" if unknown; requests: that were played; deployment: the winner or the only one, in
    words; note: what makes this check another than the study asks for; seconds: wall time.
    """

    file: str
    name: str
    kind: str = ""
    verdicts: tuple[Verdict, ...] = ()
    error: str = ""
    note: str = ""
    requests: int | None = None
    deployment: str = ""
    seconds: float = 0.0

    @property
    def status(self) -> Literal["passed", "failed", "error"]:
        """The worst of its verdicts."""
        if self.error:
            return "error"
        return "failed" if self.count("failed") else "passed"

    def count(self, status: str) -> int:
        """Expectations of that status."""
        return sum(verdict.status == status for verdict in self.verdicts)


def exit_code(checks: Sequence[StudyCheck]) -> int:
    """2 if a study could not be checked, else 1 if an expectation failed, else 0."""
    found = {check.status for check in checks}
    return ERROR if "error" in found else FAILED if "failed" in found else PASSED


def counts(checks: Sequence[StudyCheck]) -> dict[str, int]:
    """Of studies, of expectations by status, of studies with an error."""
    by_status = {status: sum(c.count(status) for c in checks) for status in ("passed", "failed", "skipped")}
    return {"studies": len(checks), **by_status, "errors": sum(bool(c.error) for c in checks)}


def check_document(checks: Sequence[StudyCheck], without: Sequence[str]) -> dict[str, Any]:
    """JSON-safe data; see the module docstring for the schema."""
    studies = [
        {
            "file": c.file, "name": c.name, "kind": c.kind or None, "status": c.status, "error": c.error or None,
            "note": c.note or None, "requests": c.requests, "deployment": c.deployment or None,
            "seconds": round(c.seconds, 3), "expectations": [asdict(v) for v in c.verdicts],
        }
        for c in checks
    ]  # fmt: skip
    plain = {"schema": SCHEMA, "simserve": __version__, "exit": exit_code(checks), "counts": counts(checks),
             "studies": studies, "without": list(without)}  # fmt: skip
    safe: dict[str, Any] = json_safe(plain)
    return safe


def junit_xml(checks: Sequence[StudyCheck]) -> bytes:
    """JUnit XML as Jenkins, GitLab and GitHub's reporters read it."""
    whole = {name: value for name, value in _totals(checks).items() if name != "skipped"}  # which only suites have
    root = ElementTree.Element("testsuites", {"name": "simserve check", **whole})
    for check in checks:
        suite = ElementTree.SubElement(root, "testsuite", {"name": _legal(check.name), **_totals([check])})
        properties = ElementTree.SubElement(suite, "properties")
        requests = "" if check.requests is None else str(check.requests)
        known = {"file": check.file, "kind": check.kind, "deployment": check.deployment, "note": check.note,
                 "requests": requests, "simserve": __version__}  # fmt: skip
        for name, value in known.items():
            if value:
                ElementTree.SubElement(properties, "property", {"name": name, "value": _legal(value)})
        if check.error:
            _case(suite, check, "study", "error", check.error)
        for verdict in check.verdicts:
            kind = {"passed": "", "failed": "failure", "skipped": "skipped"}[verdict.status]
            _case(suite, check, verdict.name, kind, verdict.message)
    ElementTree.indent(root)
    xml: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return xml + b"\n"


def _totals(checks: Sequence[StudyCheck]) -> dict[str, str]:
    """A study with an error is one case."""
    known = counts(checks)
    tests = known["passed"] + known["failed"] + known["skipped"] + known["errors"]
    return {"tests": str(tests), "failures": str(known["failed"]), "errors": str(known["errors"]),
            "skipped": str(known["skipped"]), "time": f"{sum(c.seconds for c in checks):.3f}"}  # fmt: skip


def _case(suite: ElementTree.Element, check: StudyCheck, name: str, kind: str, message: str) -> None:
    # One run serves all expectations of a study; readers that sum up cases arrive at its time by equal shares.
    share = check.seconds / max(len(check.verdicts), 1)
    attributes = {"classname": _legal(check.name), "name": _legal(name), "time": f"{share:.3f}"}
    case = ElementTree.SubElement(suite, "testcase", attributes)
    if kind:
        about = {"message": _legal(message), **({} if kind == "skipped" else {"type": kind})}
        ElementTree.SubElement(case, kind, about).text = _legal(f"{check.file}: {message}")


def _legal(text: str) -> str:
    """Without the characters that no XML may hold."""
    return _NOT_XML.sub("?", text)
