"""Where the measured data and step logs are, for tests that need them."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session", autouse=True)
def _one_process() -> Iterator[None]:
    """Searches that do not say how many processes play in this one: starting others takes longer than tests do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("simserve.explore.executors.cpus", lambda: 1)
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of measured data beside the checkout; a test that needs it is skipped without it.

    SIMSERVE_REQUIRE_DATA=1 makes its absence a failure, so that continuous integration cannot pass by skipping.
    """
    if not SHARED.is_dir():
        if os.environ.get("SIMSERVE_REQUIRE_DATA"):
            pytest.fail(f"{SHARED} is missing")
        pytest.skip("the folder of measured data is not beside this checkout")
    return SHARED
