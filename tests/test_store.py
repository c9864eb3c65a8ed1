"""The store: of any number of writers one creates an object, and nobody ever sees half of one.

Writers are real processes; the object store is a real S3 server, with a proxy in front where the network fails.
"""

import contextlib
import hashlib
import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from research_steps.errors import StoreError, UsageError
from research_steps.journal.store import LocalStore, Store, open_store

from tests.support import object_store
from tests.support.object_store import Proxy

# Eight processes, forked once the libraries are loaded. They wait for each other before each object, so that all want
# it at the same moment.
RACE = """
import os, sys, time
import fsspec, s3fs
from research_steps.journal.store import open_store
url, objects, gate = sys.argv[1], int(sys.argv[2]), sys.argv[3]
for writer in range(8):
    if os.fork() == 0:
        break
else:
    sys.exit(max(os.waitstatus_to_exitcode(os.wait()[1]) for _ in range(8)))
store = open_store(url)
store.create(f"warm up/{writer}", b"")
for number in range(objects):
    os.makedirs(f"{gate}/{number}", exist_ok=True)
    open(f"{gate}/{number}/{writer}", "x").close()
    while len(os.listdir(f"{gate}/{number}")) < 8:
        time.sleep(0.001)
    if store.create(f"race/{number}", f"{writer} wrote {number}".encode() * 100):
        os.write(1, f"{number} {writer}\\n".encode())
"""

# Objects tell what they should hold: their name is the hash of their content.
WRITE_FOR_EVER = """
import hashlib, os, sys
from research_steps.journal.store import open_store
store = open_store(sys.argv[1])
while True:
    data = os.urandom(1 << 18) * int(sys.argv[2])
    store.create("objects/" + hashlib.sha256(data).hexdigest(), data)
    print("wrote", flush=True)
"""


@pytest.fixture
def store(store_url: str) -> Store:
    return open_store(store_url)


@pytest.fixture
def proxied(s3_url: str, s3_port: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Store, Proxy]]:
    """A store in S3 behind a network that can fail, after its first write."""
    import s3fs

    proxy = Proxy(s3_port)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}")
    # s3fs tries five times by itself.
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    s3fs.S3FileSystem.clear_instance_cache()
    store = open_store(s3_url)
    assert store.create("first", b"1")
    yield store, proxy
    proxy.close()


def test_an_object_is_created_once_and_never_changed(store: Store) -> None:
    """The second writer is refused, and reads what the first one wrote; saying the same again is no conflict."""
    assert store.create("folder/name", b"first")
    assert not store.create("folder/name", b"second")
    assert store.create("folder/name", b"first")
    assert store.read("folder/name") == b"first"


def test_a_lease_may_be_replaced(store: Store) -> None:
    """What is put, not created, holds the last bytes."""
    store.put("lease", b"until noon")
    store.put("lease", b"until one")
    assert store.read("lease") == b"until one"


def test_an_object_tells_when_it_was_written(store: Store) -> None:
    """By the store's clock: what is replaced is as young as it was when that was done."""
    assert store.written("clock") is None
    store.put("clock", b"1")
    first = store.written("clock")
    # An object store counts whole seconds.
    time.sleep(1.1)
    store.put("clock", b"2")
    second = store.written("clock")
    assert first is not None and second is not None
    assert 0.1 < (second - first).total_seconds() < 60 and abs((second - datetime.now(UTC)).total_seconds()) < 60


def test_what_is_not_there_is_none_and_no_error(store: Store) -> None:
    """An empty store can be asked for everything."""
    assert store.read("folder/name") is None
    assert store.read_many([]) == {}
    assert store.read_many(["a", "folder/b"]) == {}
    assert store.names("folder") == []


def test_names_are_listed_in_order_with_their_folder(store: Store) -> None:
    """A folder's own objects are listed, and not those of the folders in it."""
    for name in ("folder/b", "folder/a", "folder/c/inside", "elsewhere"):
        store.create(name, name.encode())
    assert [name for name in store.names("folder") if name != "folder/c"] == ["folder/a", "folder/b"]
    assert store.read_many(store.names("folder")[:2]) == {"folder/a": b"folder/a", "folder/b": b"folder/b"}


def test_of_eight_racing_processes_one_creates_each_object(store_url: str, tmp_path: Path) -> None:
    """Every object has one writer that was told so, and holds that one's bytes."""
    objects = 10 if store_url.startswith("s3:") else 40
    command = [sys.executable, "-c", RACE, store_url, str(objects), str(tmp_path / "gate")]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    won: dict[int, list[int]] = {}
    for line in printed.splitlines():
        number, writer = map(int, line.split())
        won.setdefault(number, []).append(writer)
    assert sorted(won) == list(range(objects))
    store = open_store(store_url)
    for number, winners in won.items():
        assert len(winners) == 1
        assert store.read(f"race/{number}") == f"{winners[0]} wrote {number}".encode() * 100
    assert len({winner for winners in won.values() for winner in winners}) > 1, "nobody raced"


def left_aside(store: Store) -> bool:
    """Whether a writer to a local store was killed inside a write."""
    return isinstance(store, LocalStore) and any((store.root / "objects").glob(".*"))


def test_a_writer_killed_at_any_moment_leaves_whole_objects_only(store_url: str) -> None:
    """kill -9 leaves nothing or the whole object under a name; what is left aside is no object."""
    moments = random.Random(7)
    kills, size = (4, 8) if store_url.startswith("s3:") else (16, 16)
    store = open_store(store_url)
    for number in range(10 * kills):
        if number >= kills and (left_aside(store) or not isinstance(store, LocalStore)):
            break
        command = [sys.executable, "-c", WRITE_FOR_EVER, store_url, str(size)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"wrote\n"
            time.sleep(moments.uniform(0.0, 0.05))
            writer.send_signal(signal.SIGKILL)
    names = store.names("objects")
    assert len(names) >= kills
    for name in names:
        data = store.read(name)
        assert data is not None
        assert hashlib.sha256(data).hexdigest() == name.removeprefix("objects/")
    if isinstance(store, LocalStore):
        assert left_aside(store), "no writer was killed inside a write; the test shows nothing"


@pytest.mark.parametrize("size", [6 << 20, 101 << 20], ids=["6 MiB", "101 MiB, in parts"])
def test_a_large_object_is_created_once_too(s3_url: str, size: int) -> None:
    """What is sent in several parts is refused like a small object where the name is taken."""
    store = open_store(s3_url)
    data = b"x" * size
    assert store.create("large", data)
    assert not store.create("large", data[:-1] + b"y")
    assert store.read("large") == data


@pytest.mark.parametrize("lost", [1, 1000], ids=["one answer", "every answer"])
def test_a_write_whose_answer_is_lost_is_neither_lost_nor_doubled(proxied: tuple[Store, Proxy], lost: int) -> None:
    """The store took the object and the connection broke: the writer learns that the object is its own."""
    store, proxy = proxied
    proxy.lose_answers(lost)
    assert store.create("intent", b"mine")
    assert proxy.lost > 0
    assert store.read("intent") == b"mine"
    assert not store.create("intent", b"another's")


def test_a_refusal_that_is_spelled_otherwise_is_a_refusal(proxied: tuple[Store, Proxy]) -> None:
    """Stores that talk like S3 answer a taken name in words of their own; that is no failure."""
    store, proxy = proxied
    store.create("taken", b"first")
    proxy.answer = lambda request, answer: answer.replace(b"<Condition>If-None-Match</Condition>", b" " * 36)
    assert not store.create("taken", b"second")
    assert store.create("taken", b"first")


def test_a_store_that_can_not_decide_is_asked_again(proxied: tuple[Store, Proxy]) -> None:
    """S3 may answer two writers at once that it can't tell who was first; then one of them has to try again."""
    store, proxy = proxied
    undecided = [3]

    def request(data: bytes) -> bytes | None:
        undecided[0] -= data.startswith(b"PUT ")
        return None if undecided[0] >= 0 and data.startswith(b"PUT ") else data

    proxy.request = request
    body = b"<Error><Code>ConditionalRequestConflict</Code><Message>conflict</Message></Error>"
    conflict = b"HTTP/1.1 409 Conflict\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    proxy.answer = lambda request, answer: answer or conflict
    assert store.create("name", b"mine")
    assert store.read("name") == b"mine"


def test_a_run_waits_for_a_store_that_is_away(
    proxied: tuple[Store, Proxy], s3_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What was measured is written once the network is back, once, and the wait is told. What a store refuses by rule is
    not asked for again."""
    _, proxy = proxied
    waiting = open_store(s3_url, away_s=60)
    assert waiting.create("before", b"1")
    asked = 0

    def away(data: bytes) -> bytes | None:
        nonlocal asked
        asked += 1
        # Each time the library underneath tries several times itself.
        return None if asked <= 12 else data

    proxy.request = away
    assert waiting.create("name", b"mine")
    assert "could not write" in caplog.text
    assert waiting.read("name") == b"mine"
    began = asked
    with pytest.raises(StoreError, match="does not exist"):
        open_store("s3://no-such-bucket-here/prefix", away_s=60).create("name", b"1")
    assert asked - began < 20


def test_a_store_that_replaces_objects_is_refused_before_anything_is_lost(
    s3_url: str, s3_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that ignores the condition of a put would let every writer be the first."""
    import s3fs

    proxy = Proxy(s3_port)
    proxy.request = lambda data: re.sub(rb"(?i)\r\nif-none-match: \*", b"", data)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(StoreError, match="replaced an object that it was asked only to create"):
        open_store(s3_url).create("claims/000001", b"mine")
    assert open_store(s3_url).read("claims/000001") is None
    proxy.close()


def test_a_bucket_that_is_not_there_is_told_when_something_is_written(s3_url: str) -> None:
    """The sentence names the object that could not be written."""
    store = open_store("s3://no-such-bucket-here/prefix")
    assert store.read("name") is None
    with pytest.raises(StoreError, match=r"could not write s3://no-such-bucket-here/prefix/name: .* does not exist"):
        store.create("name", b"1")


def test_an_unreachable_store_is_told_in_one_sentence(tmp_path: Path) -> None:
    """With the network away reading, listing and writing say so; nothing is taken for empty."""
    code = """
import sys
from research_steps.errors import StoreError
from research_steps.journal.store import open_store
store = open_store("s3://bucket/prefix")
for act in (lambda: store.read("a"), lambda: store.names("a"), lambda: store.read_many(["a"]),
            lambda: store.put("a", b""), lambda: store.create("a", b"")):
    try:
        act()
    except StoreError as error:
        assert "\\n" not in str(error), error
        print("told")
"""
    # Nothing listens on port 9; one try is enough.
    env = object_store.environment(9) | {"AWS_MAX_ATTEMPTS": "1"}
    code = "import s3fs; s3fs.S3FileSystem.retries = 1\n" + code
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["told"] * 5, done.stderr


@contextlib.contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    if os.geteuid() != 0 or not Path("/proc/mounts").exists():
        pytest.skip("only root can mount a file system")
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_refuses_the_write_and_keeps_the_rest(tmp_path: Path) -> None:
    """The error names object and reason; what was there is whole, and no half object or file aside is left."""
    with mounted(tmp_path / "disk", "size=256k"):
        store = LocalStore(tmp_path / "disk" / "store")
        store.create("journal/small", b"kept")
        with pytest.raises(StoreError, match=r"could not write .*journal/large: No space left on device") as told:
            store.create("journal/large", bytes(1 << 20))
        assert "\n" not in str(told.value)
        with pytest.raises(StoreError, match="No space left"):
            store.put("journal/lease", bytes(1 << 20))
        assert [path.name for path in (store.root / "journal").iterdir()] == ["small"]
        assert store.read("journal/small") == b"kept"
        assert store.create("journal/large", b"fits now")


def test_a_file_size_limit_refuses_the_write_and_keeps_the_rest(tmp_path: Path) -> None:
    """A quota that cuts a write in the middle leaves no half object."""
    store = LocalStore(tmp_path)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, limit[1]))
    try:
        with pytest.raises(StoreError, match="File too large"):
            store.create("object", bytes(1 << 17))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert list(tmp_path.iterdir()) == []


def test_a_read_only_store_can_be_read_and_says_why_it_is_not_written(tmp_path: Path) -> None:
    """A colleague's store, mounted read-only, is good for everything but writing."""
    with mounted(tmp_path / "disk", "size=1m"):
        store = LocalStore(tmp_path / "disk")
        store.create("folder/name", b"kept")
        subprocess.run(["mount", "-o", "remount,ro", str(store.root)], check=True)
        for write in (store.create, store.put):
            with pytest.raises(StoreError, match=r"could not write .*other/name: Read-only file system"):
                write("other/name", b"new")
        assert store.read_many(store.names("folder")) == {"folder/name": b"kept"}


def _file(root: Path) -> None:
    (root / "folder").write_text("a file")


def _dangling(root: Path) -> None:
    (root / "folder").symlink_to(root / "not mounted")


def _folder(root: Path) -> None:
    (root / "folder" / "name").mkdir(parents=True)


@pytest.mark.parametrize("in_the_way", [_file, _dangling, _folder], ids=["file", "dangling link", "folder"])
def test_something_else_in_the_way_is_told_with_its_place(tmp_path: Path, in_the_way: Callable[[Path], None]) -> None:
    """A file where a folder should be, a link to a disk that is away, a folder where an object should be."""
    in_the_way(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(StoreError, match=rf"{re.escape(str(tmp_path))}/folder/name: .+\. What was recorded before"):
        LocalStore(tmp_path).create("folder/name", b"data")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("url", ["memory://here", "http://host/path", "gdrive://x"])
def test_a_store_without_conditional_create_is_refused(url: str) -> None:
    """A journal in it could lose a record to the next writer."""
    with pytest.raises(UsageError, match="conditional create"):
        open_store(url)


@pytest.mark.parametrize(("url", "library", "extra"), [("s3://b", "s3fs", "s3"), ("gs://b", "gcsfs", "gcs")])
def test_a_missing_library_is_named_with_what_installs_it(url: str, library: str, extra: str) -> None:
    """Object stores need an extra; the sentence says which."""
    without = f"import sys; sys.modules[{library!r}] = None"
    code = f"{without}\nfrom research_steps.journal.store import open_store\nopen_store({url!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1] == (
        f"research_steps.errors.UsageError: The store {url} needs a library: pip install 'research-steps[{extra}]'."
    )
