"""One small Ray for all tests here; without Ray none of them is collected. `make test-ray` installs it."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator

import pytest

if importlib.util.find_spec("ray") is None:
    collect_ignore_glob = ["test_*.py"]

# Set before Ray is imported: no usage reports, no authentication.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
# Each of Ray's processes imports a thousand modules; compiling them every time takes longer than the tests.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


@pytest.fixture(scope="session")
def small_ray() -> Iterator[str]:
    """The address of a running Ray, which takes 5 to 10 seconds of CPU to start."""
    import ray

    context = ray.init(num_cpus=2, include_dashboard=False, object_store_memory=100 * 2**20)
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield context.address_info["address"]
    ray.shutdown()
