"""Fixtures that several test files share: a store on local disk, one in an object store, a GitHub and a Ray cluster, all
real. And which files begin first.
"""

import os
import uuid
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from research_steps.trial import contention

from tests.support import github_api, object_store, ray_cluster

# What takes longest begins first, so that no process is left with it in the end.
LONG = [
    *("test_benchmarks", "test_cluster", "test_evidence", "test_thread", "test_seal", "test_reproduce", "test_dev"),
    *("test_dev_tpu", "test_submit", "test_wandb", "test_iris", "test_moe_hc_experiment", "test_cli", "test_dev_ssh"),
    *("test_anchors", "test_dev_watch", "test_wandb_tagging", "test_extract_recipe", "test_wheel", "test_finish"),
    *("test_kickoff", "test_secrets", "test_code"),
]
# The first example imports what the others find there, and the machine may be busy.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")


def pytest_make_parametrize_id(val: object) -> str | None:
    """Texts, such as a thread or a message, are told apart by how they begin; pytest numbers those that begin alike."""
    return f"{' '.join(val.split())[:20]}.." if isinstance(val, str) and len(val) > 24 else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    """Where everything is installed a test that skips tests nothing, and nobody would see it."""
    report = yield
    if report.skipped and os.environ.get("CI") == "true" and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} skipped, and in CI it has to run: {report.longrepr}"
    return report


@pytest.fixture(scope="session", autouse=True)
def own_turns(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Timed trials of this process and its forks take turns among themselves, and wait for no other tests' trials."""
    contention.HERE = contention.Machine(tmp=tmp_path_factory.mktemp("machine"))


@pytest.fixture(scope="session")
def s3_port() -> Iterator[int]:
    with object_store.server() as port:
        yield port


@pytest.fixture
def s3_url(s3_port: int, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty bucket, reachable from this process and from those that it starts."""
    import s3fs

    for name, value in object_store.environment(s3_port).items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    bucket = f"bucket-{uuid.uuid4().hex[:12]}"
    s3fs.S3FileSystem().mkdir(bucket)
    return f"s3://{bucket}/prefix"


@pytest.fixture(params=["local", "s3"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A store of each kind."""
    return str(request.getfixturevalue("s3_url")) if request.param == "s3" else str(tmp_path / "store")


@pytest.fixture(scope="session")
def github_server() -> Iterator[github_api.Server]:
    with github_api.server() as server:
        yield server


@pytest.fixture
def github_repository(github_server: github_api.Server) -> github_api.Repository:
    """An empty repository, seen without the proxy."""
    return github_server.repository()


@pytest.fixture
def github_proxy(github_server: github_api.Server) -> Iterator[github_api.Proxy]:
    """What the code under test talks to."""
    with github_api.Proxy(github_server) as proxy:
        yield proxy


# It ends with the file: one that waits for the next file takes as much of the processor as starting another.
@pytest.fixture(scope="module")
def ray() -> Iterator[ray_cluster.Cluster]:
    """One node of two cores with a job server, which says that it has a TPU."""
    with ray_cluster.local() as cluster:
        yield cluster
