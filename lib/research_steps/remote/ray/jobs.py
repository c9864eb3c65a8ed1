"""A thread's driver as a job of a Ray cluster, by Ray's own job submission: sent, found again, followed.

Sent is the work tree as it is, without git: RESEARCH_ORIGIN says which code that is, and the bytes of its patch go to
the journal. A thread has one running job for each store. The jobs' IDs are numbered and Ray takes each ID once, so of
two that submit at the same moment one starts the job and the other finds it. Nobody has to stay until the job ends.
"""

import asyncio
import logging
import math
import os
import re
import shlex
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from research_steps.errors import LauncherError, MachineLost, UsageError
from research_steps.git import Checkout
from research_steps.journal.journal import Journal
from research_steps.journal.store import LocalStore, open_store, store_url
from research_steps.records.encoding import canonical, sha256
from research_steps.records.redaction import redact
from research_steps.records.secret_names import names_a_secret
from research_steps.records.series import check_topic
from research_steps.remote.ray import worktree
from research_steps.remote.ray.config import (
    CONNECT_S,
    Cluster,
    check_listening,
    environment,
    imported,
    read_yaml,
    token_file,
)
from research_steps.terminal import pass_on, say
from research_steps.trial.provenance import ORIGIN, origin_of

if TYPE_CHECKING:
    from ray.job_submission import JobDetails

STORE = "MARIN_PREFIX"
# While a job is followed: when to look again after its log broke off, and when to give up on a server that tells nothing
# new of one that may have ended.
AGAIN_S, SILENT_S = 1.0, 60.0


@dataclass(frozen=True)
class Driver:
    """What is to run: a thread's command, in one of Ray's runtime environments, and the thread's journal."""

    command: str
    journal: Journal
    environment: dict[str, Any]


class Server:
    """The job server of a cluster. Raises MachineLost when there is none, UsageError when it is another server."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster, self.address = cluster, cluster.job_server
        variable = "RAY_API_SERVER_ADDRESS"
        check_listening(cluster.name, self.address, ("http", "https"), variable)
        # Ray's client would otherwise go where RAY_ADDRESS says, and tell each step that it takes.
        os.environ[variable] = self.address
        logging.getLogger("ray.dashboard").propagate = False
        imported()
        from ray.exceptions import AuthenticationError
        from ray.job_submission import JobSubmissionClient

        try:
            self.client = JobSubmissionClient(self.address)
        except AuthenticationError as error:
            raise UsageError(
                f"{self.address} takes jobs only from who has its token, and {token_file()} or RAY_AUTH_TOKEN does not "
                f"hold that: {_line(error.message).partition('. ')[0]}."
            ) from error
        except (RuntimeError, OSError, ValueError) as error:
            raise UsageError(f"{self.address} is no job server of Ray: {_line(error)}") from error

    def command(self, *options: str) -> str:
        """What lists the jobs of this cluster, or does with one of them what the options say."""
        return shlex.join(["research", "jobs", "--cluster", str(self._cluster.file), *options])

    def submit(self, checkout: Checkout, driver: Driver, say: Callable[[str], None]) -> str:
        """The ID of the job that runs a driver: of a new one, or of the one that is running. Raises UsageError."""
        tree, topic, store = worktree.files(checkout), driver.journal.topic, driver.journal.store.url
        wanted = {
            "topic": topic,
            "store": store,
            "command": driver.command,
            "work tree": sha256(canonical(tree)),
            "environment": sha256(canonical(driver.environment)),
        }
        if self._is_open():
            say(
                f"{self.address} asks for no token: whoever reaches it can run anything there (infra/README.md says how "
                "to have it ask)"
            )
        prefix = f"{topic}-{sha256(store.encode())[:8]}-"
        jobs = self._jobs(prefix)
        if running := self._running(jobs, wanted, say):
            return running
        id = f"{prefix}{max(jobs, default=0) + 1}"
        with tempfile.TemporaryDirectory(prefix="research-submit-") as folder:
            package = Path(folder) / "tree.zip"
            left_out = worktree.zip_into(package, checkout, tree)
            origin = keep_origin(checkout, driver.journal)
            if worktree.files(checkout) != tree:
                raise UsageError(f"The work tree in {checkout.root} was edited while it was packed: submit it again.")
            if left_out:
                say(f"left out, because Ray takes no such links or names: {', '.join(map(repr, left_out))}")
            say(f"{id}: sending the work tree, {package.stat().st_size} bytes, to {self.address}")
            env_vars = {**driver.environment["env_vars"], ORIGIN: origin}
            runtime_env = {**driver.environment, "env_vars": env_vars, "working_dir": str(package)}
            try:
                self.client.submit_job(
                    entrypoint=driver.command, submission_id=id, metadata=wanted, runtime_env=runtime_env
                )
            except (RuntimeError, OSError, ValueError, TypeError) as error:
                if running := self._running(self._jobs(prefix), wanted, say):
                    return running
                raise UsageError(f"The cluster did not take {id}: {_line(error)}") from error
        return id

    def listed(self) -> list[dict[str, str]]:
        """The jobs of threads, oldest first: what each is called, what became of it, since when it runs, and what."""
        ours = [job for job in self._all() if (job.metadata or {}).keys() >= {"topic", "store"}]
        ours.sort(key=lambda job: job.start_time or 0)
        return [
            {
                "id": str(job.submission_id),
                "status": job.status.lower(),
                "since": f"{datetime.fromtimestamp((job.start_time or 0) / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC",
                "command": job.entrypoint,
            }
            for job in ours
        ]

    def stop(self, id: str) -> None:
        """Have a job end. Raises UsageError where there is none of this ID."""
        if id not in {job.submission_id for job in self._all()}:
            raise UsageError(f"{self.address} knows no job {id}: {self.command()!r} lists them.")
        self.client.stop_job(id)

    def _is_open(self) -> bool:
        """Whether it lists its jobs to somebody without a token."""
        try:
            with urllib.request.urlopen(f"{self.address.rstrip('/')}/api/jobs/", timeout=CONNECT_S):
                return True
        except OSError:
            return False

    def follow(self, id: str) -> int:
        """Print a job's log from its beginning until it ends; its driver's exit code.

        Raises LauncherError when nobody knows that, MachineLost when the server tells nothing more.
        """
        job = asyncio.run(self._follow(id))
        if job.driver_exit_code is None:
            raise LauncherError(f"{id} {job.status.lower()} without an exit code: {_line(job.message)}")
        code = int(job.driver_exit_code)
        # As a shell tells the death by a signal.
        return code if code >= 0 else 128 - code

    async def _follow(self, id: str) -> "JobDetails":
        printed, failing = 0, math.inf
        while True:
            before = printed
            printed, problem = await self._print_log(id, before)
            job: JobDetails | None = None
            try:
                job = self.client.get_job_info(id)
            except (RuntimeError, OSError) as error:
                problem = _line(error)
                if "status code 404" in problem:
                    raise LauncherError(
                        f"{self.address} knows no job {id}: the cluster was started anew, and the job ended with the "
                        "earlier one. Submit it again: it goes on where the journal says that it was."
                    ) from error
            runs = job is not None and not job.status.is_terminal()
            # What broke off lacks its end, also where nothing new was in it.
            if job is not None and not runs and not problem:
                return job
            failing = math.inf if runs or printed > before else min(failing, time.monotonic())
            if time.monotonic() - failing > SILENT_S:
                silent = f"for {SILENT_S:g} s ({problem})"
                if job is None:
                    raise MachineLost(
                        f"{self.address} has told nothing of {id} {silent}: it may run on, and submitting it again "
                        "attaches to it."
                    )
                read = self.command("--log", id)
                ended = f"{id} has ended, and {self.address} has not told the end of its log {silent}: {read!r} may."
                say(ended)
                return job
            await asyncio.sleep(AGAIN_S)

    async def _print_log(self, id: str, printed: int) -> tuple[int, str]:
        """Print a log but for its first characters, until it ends or breaks off: how many are printed then, and what
        broke it off."""
        import aiohttp

        # Each connection tells it from its beginning.
        log, position = self.client.tail_job_logs(id), 0
        while True:
            try:
                text = await anext(log, None)
            except (RuntimeError, OSError, aiohttp.ClientError) as error:
                return printed, _line(error)
            if text is None:
                return printed, ""
            pass_on(text[max(printed - position, 0) :], sys.stdout)
            position += len(text)
            printed = max(printed, position)

    def _jobs(self, prefix: str) -> dict[int, "JobDetails"]:
        """The jobs of a thread and a store by their number."""
        pattern = re.compile(rf"{re.escape(prefix)}(\d+)")
        numbered = ((pattern.fullmatch(job.submission_id or ""), job) for job in self._all())
        return {int(match[1]): job for match, job in numbered if match}

    def _all(self) -> "list[JobDetails]":
        try:
            jobs: list[JobDetails] = self.client.list_jobs()
        except (RuntimeError, OSError, ValueError) as error:
            raise MachineLost(f"{self.address} does not list its jobs: {_line(error)}") from error
        return jobs

    def _running(self, jobs: dict[int, "JobDetails"], wanted: dict[str, str], say: Callable[[str], None]) -> str | None:
        """The ID of the job that has not ended. Raises UsageError when it is not the one that is wanted."""
        for job in jobs.values():
            if not job.status.is_terminal():
                id = str(job.submission_id)
                differs = [name for name, value in wanted.items() if (job.metadata or {}).get(name) != value]
                if differs:
                    raise UsageError(
                        f"{id} runs this thread with another {' and another '.join(differs)} ({job.entrypoint}): wait "
                        f"for it, or stop it with '{self.command('--stop', id)}', then submit again."
                    )
                say(f"{id} is running already: attached to it")
                return id
        return None


def driver_of(
    checkout: Checkout, cluster: Cluster, argv: Sequence[str], name: str, given: Sequence[str], prefix: str | None
) -> Driver:
    """A thread's command, in the runtime environment `name` with the variables `given`. Raises UsageError."""
    topic = topic_of(argv)
    store = open_store(store_url(checkout.root, prefix))
    if isinstance(store, LocalStore) and not cluster.is_here:
        raise UsageError(
            f"The store {store.url} is on this machine's disk, and {cluster.name} runs on others: name one that both "
            "reach, with --prefix s3://… or gs://…, or in MARIN_PREFIX."
        )
    if Path.cwd() != checkout.root:
        raise UsageError(
            f"A thread is submitted from the root of its work tree: expected {checkout.root}, not {Path.cwd()}."
        )
    chosen = runtime_environment(checkout, name)
    env_vars = {**chosen.get("env_vars", {}), **variables(given)}
    for named, value in env_vars.items():
        if names_a_secret(named) or redact(str(value)) != str(value):
            raise UsageError(
                f"The variable {named} looks like a secret, and Ray shows the environment of a job to everybody who "
                "sees its dashboard: set it on the cluster's nodes instead."
            )
    env_vars[STORE] = store.url
    return Driver(shlex.join(argv), Journal(store, topic), {**chosen, "env_vars": env_vars})


def topic_of(argv: Sequence[str]) -> str:
    """The topic of the thread that a command runs. Raises UsageError for any other command."""
    module = argv[2] if len(argv) > 2 and Path(argv[0]).name.startswith("python") and argv[1] == "-m" else ""
    match = re.fullmatch(r"experiments\.([^.]+)", module)
    if match is None:
        raise UsageError(
            f"{shlex.join(argv)!r} runs no thread: expected 'python -m experiments.TOPIC …', with the thread in "
            "experiments/TOPIC/__main__.py."
        )
    if any(argument.partition("=")[0] == "--prefix" for argument in argv[3:]):
        raise UsageError("--prefix was given to the thread: give it to 'research submit', before the '--'.")
    return check_topic(match[1])


def variables(given: Sequence[str]) -> dict[str, str]:
    """The variables to send, each as NAME, whose value is taken from here, or as NAME=VALUE. Raises UsageError."""
    values = {}
    for setting in given:
        name, separator, value = setting.partition("=")
        if name in (STORE, ORIGIN):
            raise UsageError(f"--env {name} is set by 'research submit' itself: the store is named with --prefix.")
        values[name] = value if separator else environment((name,))[name]
    return values


def runtime_environment(checkout: Checkout, name: str) -> dict[str, Any]:
    """One of Ray's runtime environments by its name in infra/environments.yaml. Raises UsageError."""
    path = checkout.root / "infra" / "environments.yaml"
    environments = read_yaml(path, "Ray's runtime environments by name") if path.exists() else {"default": {}}
    chosen = environments.get(name) if isinstance(environments, dict) else None
    if not isinstance(chosen, dict):
        names = ", ".join(map(str, environments)) if isinstance(environments, dict) else "NAME: {pip: […]}"
        raise UsageError(f"--environment {name!r} is no runtime environment in {path}: expected one of {names}.")
    return chosen


def keep_origin(checkout: Checkout, journal: Journal) -> str:
    """Where the work tree comes from, as RESEARCH_ORIGIN tells it where there is no git; its patch is in the journal."""
    origin, patch = origin_of(checkout, journal.topic)
    journal.keep_patch(origin.patch, patch)
    return msgspec.json.encode(origin).decode()


def _line(message: object) -> str:
    return " ".join(str(message).split())
