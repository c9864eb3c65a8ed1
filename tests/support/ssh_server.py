"""A real sshd with keys, a port and a home of its own, as another machine."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

SOON_S = 60.0
SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
MISSING = (
    ""
    if SSHD and shutil.which("ssh") and shutil.which("rsync")
    else "no sshd, ssh or rsync here: apt-get install openssh-server openssh-client rsync"
)
# What is kept there lies elsewhere than here, because sshd knows no runtime folder.
STOP = "import sys\nfrom research_steps.trial.launcher.daemon import Daemon\nDaemon(Path(sys.argv[1])).stop()"


@dataclass
class There:
    """The other machine: what its sshd is, and the folder that is its home."""

    sshd: "subprocess.Popen[bytes]"
    home: Path
    config: Path
    first: Path | None = None

    @property
    def roots(self) -> list[Path]:
        """The folders of all checkouts."""
        return sorted((self.home / "research-steps").glob("*"))

    @property
    def root(self) -> Path:
        """That of the first checkout, which is made alone."""
        if self.first is None:
            (self.first,) = self.roots
        return self.first

    @property
    def measured(self) -> list[str]:
        """One line for each time a side of a trial was set up there."""
        path = self.root / "measured"
        return path.read_text().splitlines() if path.exists() else []

    @contextmanager
    def held(self) -> Iterator[None]:
        """What is measured inside the block goes on at its end, or at the end of the test."""
        (self.root / "hold").write_text("0")
        try:
            yield
        finally:
            (self.root / "hold").unlink()


def keys(folder: Path, name: str) -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    return folder / name


@contextmanager
def sshd(folder: Path, address: str = "127.0.0.1", inside: tuple[str, ...] = ()) -> Iterator[There]:
    """One with keys, a port and a home of its own. Whatever a kept parent has started there is ended."""
    folder.mkdir()
    home, config = folder / "home", folder / "ssh_config"
    home.mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    host_key, user_key = keys(folder, "host_key"), keys(folder, "user_key")
    shutil.copy(folder / "user_key.pub", folder / "authorized_keys")
    (folder / "known_hosts").write_text(f"[{address}]:{port} {(folder / 'host_key.pub').read_text()}")
    config.write_text(
        f"Host away\n  HostName {address}\n  Port {port}\n  IdentityFile {user_key}\n  IdentitiesOnly yes\n"
        f"  UserKnownHostsFile {folder / 'known_hosts'}\n  StrictHostKeyChecking yes\n"
        f"Host nowhere\n  HostName {address}\n  Port 1\n"
    )
    (folder / "sshd_config").write_text(
        f"ListenAddress {address}:{port}\nHostKey {host_key}\nAuthorizedKeysFile {folder / 'authorized_keys'}\n"
        "StrictModes no\nUsePAM no\nPasswordAuthentication no\nPidFile none\n"
        f"SetEnv HOME={home} OMP_NUM_THREADS=3\n"
    )
    assert SSHD is not None
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    with (folder / "sshd.log").open("wb") as log:
        process = subprocess.Popen([*inside, SSHD, "-D", "-e", "-f", folder / "sshd_config"], stderr=log)
    there = There(process, home, config)
    try:
        assert soon(lambda: "listening" in (folder / "sshd.log").read_text()), (folder / "sshd.log").read_text()
        yield there
    finally:
        for root in there.roots:
            subprocess.run(
                [sys.executable, "-P", "-c", f"from pathlib import Path\n{STOP}", str(root)],
                env={name: value for name, value in os.environ.items() if name != "XDG_RUNTIME_DIR"},
            )
        server = psutil.Process(process.pid)
        for running in [*server.children(recursive=True), server]:
            with suppress(psutil.NoSuchProcess):
                running.kill()
        process.wait()


def soon(holds: Callable[[], object]) -> bool:
    until = time.monotonic() + SOON_S
    while time.monotonic() < until:
        if holds():
            return True
        time.sleep(0.02)
    return False
