"""One ssh session with a dev host, which stays in the background, and through which everything goes.

Whoever comes later finds the session by its control socket, in the private folder of the kept parent. The socket of
the kept parent over there is forwarded to one beside it, so that a warm attempt starts no process there by ssh. How a
host is reached is the user's own ssh configuration; `infra/dev_hosts.yaml` adds what ssh does not know.
"""

import os
import secrets
import shlex
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

import msgspec

from research_steps.errors import LauncherError, MachineLost, UsageError
from research_steps.files import read, write_aside
from research_steps.git import Checkout
from research_steps.records.encoding import canonical, sha256
from research_steps.trial.launcher.daemon import locked
from research_steps.trial.launcher.private_socket import require_private

DEV_HOSTS = "infra/dev_hosts.yaml"
# ssh ends with this when it could not connect, or was cut off.
CUT_OFF = 255
# A connection that answers nothing for ALIVE_S * ALIVE_TIMES is cut off (seconds).
ALIVE_S, ALIVE_TIMES = 3, 3
CONNECT_S = 10
SESSION_IDLE_S = 1800


class DevHost(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is known of a host: ssh's name for it, the folder there that has one for each checkout, the Python there,
    which of the variables here it is given, and a configuration file of ssh to use in place of the user's."""

    ssh: str
    root: str = "~/research-steps"
    python: str = "python3"
    env: tuple[str, ...] = ()
    ssh_config: str | None = None


def dev_host(checkout: Checkout, name: str) -> DevHost:
    """The host of this name: what the checkout's list says of it, or else an alias of ssh. Raises UsageError."""
    path = checkout.root / DEV_HOSTS
    listed = path.read_bytes() if path.is_file() else b""
    try:
        hosts = msgspec.yaml.decode(listed, type=dict[str, dict[str, object] | None] | None) or {}
        return msgspec.convert({"ssh": name, **(hosts.get(name) or {})}, DevHost)
    except msgspec.MsgspecError as error:
        raise UsageError(
            f"{path} can't be used for {name!r}: {' '.join(str(error).split())}. Expected lines such as 'NAME: "
            "{ssh: user@address, root: ~/folder, python: ~/venv/bin/python, env: [XLA_FLAGS]}', each field optional."
        ) from error


def name_there(checkout: Checkout) -> str:
    """What the checkout's folder on any host is called, as no other checkout's is: another clone of the same name, or a
    copy of this one, would be measured in its place."""
    path = checkout.private / "dev-hosts" / "name"
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path.with_name("lock")):
        if read(path) is None:
            write_aside(path, secrets.token_hex().encode())
        drawn = read(path) or b""
    return f"{checkout.root.name}-{sha256(drawn + os.fsencode(checkout.root))[:8]}"


class SshSession:
    """The session of a checkout with a host. Its sockets lie in a `folder` that only its user can open, or LauncherError
    is raised."""

    def __init__(self, name: str, checkout: Checkout, folder: Path) -> None:
        require_private(folder)
        self.name, self.host = name, dev_host(checkout, name)
        self._name = name_there(checkout)
        self.key = sha256(canonical([name, self._name, msgspec.to_builtins(self.host)]))[:8]
        self.lock = folder / f"{self.key}.lock"
        self.socket = folder / f"{self.key}.socket"
        config = ["-F", str(Path(self.host.ssh_config).expanduser())] if self.host.ssh_config else []
        self._control = folder / f"{self.key}.ssh"
        self._ssh = ["ssh", *config, "-T", "-S", str(self._control)]
        self._ssh += ["-oBatchMode=yes", "-oLogLevel=ERROR", "-oControlMaster=no", f"-oConnectTimeout={CONNECT_S}"]
        self._ssh += [f"-oServerAliveInterval={ALIVE_S}", f"-oServerAliveCountMax={ALIVE_TIMES}"]

    def connect(self) -> bool:
        """Have a session; returns whether it is a new one. Raises MachineLost with what ssh says."""
        if self._call("-O", "check").returncode == 0:
            return False
        # What a session that was killed has left would keep the next one from listening.
        self._control.unlink(missing_ok=True)
        session = ["-f", "-N", "-M", f"-oControlPersist={SESSION_IDLE_S}"]
        session += ["-oClearAllForwardings=yes", "-oStreamLocalBindUnlink=yes"]
        # A file, because some versions hold on to it for as long as the session lasts.
        with tempfile.TemporaryFile() as errors:
            done = subprocess.run([*self._ssh, *session, "--", self.host.ssh], stdin=subprocess.DEVNULL, stderr=errors)
            errors.seek(0)
            if done.returncode != 0:
                raise self._unreachable(errors.read())
        return True

    def folder(self) -> str:
        """The checkout's folder over there, made when it is missing, as an absolute path. Raises LauncherError where it
        is somebody else's, or the one that holds it, who could put code there."""
        steps = []
        for path in (_quoted(self.host.root), shlex.quote(f"./{self._name}")):
            is_own = f"{{ test -O . || {{ echo {path} belongs to another user >&2; false; }}; }}"
            steps.append(f"mkdir -p -- {path} && cd -- {path} && {is_own}")
        return self._printed(self._run(" && ".join((*steps, "pwd -P"))))

    def forward(self, socket: str) -> None:
        """Have connections to `self.socket` go to a socket over there."""
        done = self._call("-O", "forward", "-L", f"{self.socket}:{socket}")
        if done.returncode != 0:
            raise self._unreachable(done.stderr)

    def python(self, code: str, input: bytes) -> str:
        """The last line that a little program prints over there. Its input is in no command line."""
        done = self._run(f"{_quoted(self.host.python)} -P -c {shlex.quote(code)}", input)
        message = _message(done.stderr)
        if "No module named 'research_steps" in message:
            raise LauncherError(
                f"research_steps does not import in {self.host.python} on {self.name}: install it there, with what is "
                f"measured, or name another Python in {DEV_HOSTS} ('python: …')."
            )
        if done.returncode in (126, 127):
            raise LauncherError(
                f"There is no Python {self.host.python} on {self.name} ({message}): name one in {DEV_HOSTS}, as "
                "'python: …'."
            )
        return self._printed(done)

    def remove(self, root: str, names: Iterable[str]) -> None:
        """Delete files below a folder over there."""
        # rsync could do it along the way, but the releases differ in whether they take such a list.
        self._printed(self._run(f"cd -- {shlex.quote(root)} && xargs -0 rm -f --", _list(names)))

    def bring(self, source: Path, root: str, names: Iterable[str]) -> None:
        """Bring files below `source` over, into a folder there. Raises LauncherError."""
        # By content: an edit may leave size and time, which is told in seconds, as they were.
        command = ["rsync", "--checksum", "--links", "--times", "--perms", "--force", "--secluded-args"]
        command += ["--files-from=-", "--from0", "-e", shlex.join(self._ssh), "./", f"{self.host.ssh}:{root}/"]
        try:
            done = subprocess.run(command, cwd=source, input=_list(names), capture_output=True)
        except FileNotFoundError as error:
            raise LauncherError("The command 'rsync' is not on PATH: install it, because --host needs it.") from error
        if done.returncode != 0:
            raise LauncherError(
                f"The files could not be brought to {root} on {self.name}: {_message(done.stderr)}. rsync must be "
                "installed there as well, and the folder must be yours."
            )

    def _run(self, command: str, input: bytes = b"") -> "subprocess.CompletedProcess[bytes]":
        done = self._call(command=command, input=input)
        if done.returncode == CUT_OFF:
            raise self._unreachable(done.stderr)
        return done

    def _printed(self, done: "subprocess.CompletedProcess[bytes]") -> str:
        if done.returncode != 0:
            raise LauncherError(f"On {self.name}: {_message(done.stderr) or f'exit code {done.returncode}'}.")
        # The last line, because what a shell runs when it starts may print as well.
        return done.stdout.decode().strip().rpartition("\n")[2]

    def _call(self, *options: str, command: str = "", input: bytes = b"") -> "subprocess.CompletedProcess[bytes]":
        try:
            return subprocess.run(
                [*self._ssh, *options, "--", self.host.ssh, *filter(None, [command])], input=input, capture_output=True
            )
        except FileNotFoundError as error:
            raise LauncherError("The command 'ssh' is not on PATH: install OpenSSH's client.") from error

    def _unreachable(self, stderr: bytes) -> MachineLost:
        return MachineLost(
            f"{self.name} can't be reached: {_message(stderr) or 'ssh was cut off'}. Check that 'ssh {self.host.ssh}' "
            "connects without asking for anything."
        )


def _message(stderr: bytes) -> str:
    return " ".join(stderr.decode("utf-8", "replace").split()).rstrip(".")


def _list(names: Iterable[str]) -> bytes:
    return b"".join(os.fsencode(name) + b"\0" for name in names)


def _quoted(path: str) -> str:
    """For a shell over there, which knows where home is."""
    return f'"$HOME"/{shlex.quote(path[2:])}' if path.startswith("~/") else shlex.quote(path)
