"""Fixtures that several test files share: a store on local disk, one in an object store, a GitHub and a Ray cluster, all
real. And which files run in one process, and which begin first.
"""

import os
import tempfile
import uuid
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from research_steps.trial import contention
from xdist.scheduler import LoadFileScheduling

from tests.support import github_api, iris_cluster, object_store, ray_cluster
from tests.support.marin_steps import IS_TODAYS

# They share one cluster, and therefore one process.
ON_RAY = ("test_cluster", "test_cluster_access", "test_submit")
# What takes longest begins first, so that no process is left with it in the end.
LONG = [
    *("ON_RAY", "test_benchmarks", "test_evidence", "test_thread", "test_seal", "test_reproduce", "test_dev"),
    *("test_wandb", "test_iris", "test_moe_hc_experiment", "test_cli", "test_dev_ssh"),
    *("test_anchors", "test_dev_watch", "test_wandb_tagging", "test_extract_recipe", "test_wheel", "test_finish"),
    *("test_kickoff", "test_secrets", "test_code"),
]
# What only one generation of Marin has.
collect_ignore = [] if IS_TODAYS else ["test_artifact_steps.py", "test_todays_iris.py"]
# The first example imports what the others find there, and the machine may be busy.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")


def pytest_make_parametrize_id(val: object) -> str | None:
    """Texts, such as a thread or a message, are told apart by how they begin; pytest numbers those that begin alike."""
    return f"{' '.join(val.split())[:20]}.." if isinstance(val, str) and len(val) > 24 else None


def group_of(file: Path) -> str:
    """Tests of one group run in one process, one after the other. A file's own do, because they share what is slow to
    start."""
    return "ON_RAY" if file.stem in ON_RAY else file.stem


class GroupScheduling(LoadFileScheduling):
    """As `--dist loadgroup`, whose marks pytest-xdist 3.8 doesn't see with pytest 9.2."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(Path(super()._split_scope(nodeid)))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> GroupScheduling:
    return GroupScheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        return LONG.index(group_of(item.path)) if group_of(item.path) in LONG else len(LONG)

    items.sort(key=place)


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


@pytest.fixture(scope="session", autouse=True)
def own_state(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What a checkout without git keeps among the user's own files."""
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))


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


@dataclass
class SharedCluster:
    """The cluster that runs, what ends it, and the tests that have yet to use it."""

    cluster: ray_cluster.Cluster
    ending: ExitStack
    waiting: set[str]


SHARED = pytest.StashKey[SharedCluster]()


@pytest.fixture(scope="session")
def ray(request: pytest.FixtureRequest) -> Iterator[ray_cluster.Cluster]:
    """The one cluster of a test run: two nodes of two cores; the first has a job server, and says that it has a TPU. A
    test may kill what works on a node, but no node."""
    users = [item for item in request.session.items if "ray" in getattr(item, "fixturenames", ())]
    assert {item.path.stem for item in users} <= set(ON_RAY), "conftest.ON_RAY has every file whose tests need it"
    with ExitStack() as ending:
        cluster = ending.enter_context(ray_cluster.local())
        request.session.stash[SHARED] = SharedCluster(cluster, ending, {item.nodeid for item in users})
        yield cluster


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, Any, Any]:
    """A test that ends a node of the cluster fails itself, before those that come later. The cluster ends with the last
    one that needs it, because it takes from the processor while it waits, too."""
    shared = item.session.stash.get(SHARED, None)
    # The last test of all ends the cluster with its other fixtures.
    whole = shared is None or all(node.runs() for node in shared.cluster.nodes)
    result = yield
    if shared is not None and item.nodeid in shared.waiting:
        shared.waiting.remove(item.nodeid)
        assert whole, "a node that all tests share has ended"
        if not shared.waiting:
            shared.ending.close()
    return result


@pytest.fixture(scope="module")
def controller() -> Iterator[iris_cluster.Controller]:
    with iris_cluster.controller() as running:
        yield running


@pytest.fixture
def shared() -> Iterator[Path]:
    """A store that tasks of Iris see as the tests do. A worker of today's has a /tmp of its own for each of them."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        yield Path(folder)
