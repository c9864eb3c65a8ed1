"""A sweep of 300 trials in 6 shards on three nodes of Ray, while workers, the driver and the network are taken away.

Bar: a worker is killed (-9) after every 20 finished trials, one node is cut off for 20 s, the driver is killed and
submitted again twice: 300 standing records, late ones kept as late, 0 lost, one table in the logbook. Each node is in a
network namespace of its own, the store is S3 (moto's server), the driver is a job of `research submit`. A second node
is frozen while the driver is killed for the second time, until others have taken its trials over: what it finishes then
is late.
Needs root, for the namespaces. All nodes share this machine's cores, so the metric is declared as not timed: trials
run side by side. Marin gives a step whose driver died to the next one after 90 s; that is waited out.
"""

import argparse
import os
import random
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from research_steps.git import Checkout
from research_steps.journal.journal import Journal
from research_steps.journal.logbook_place import logbook_of
from research_steps.journal.store import open_store
from research_steps.publish.logbook.format import parse
from research_steps.publish.logbook.verify import check, read

from tests.support import object_store
from tests.support.ray_cluster import Cluster, Node, cluster, network

TRIALS, SHARDS, EVERY = 300, 6, 20
DRIVERS = 2
CUT_S = 20.0
SUBMISSIONS = 5
MEASURE = """
import time


def measure(config):
    while True:
        start = time.perf_counter()
        sum(range(config["work"]))
        yield {"time_s": time.perf_counter() - start}
"""
THREAD = """
from experiments.swept.measure import measure
from research_steps import Metric, Resources, Series, main

series = Series(
    topic="swept", prefix="SWEPT", goal="survive", metrics=(Metric("time_s", timed=False, min_effect=0.001),),
    sampling_s=0.2, max_pairs=100000, contention_wait_s=0, floor_processes=1,
)


def thread(steps):
    base = steps.baseline(measure, {"work": 10000}, resources=Resources(ram="200m"))
    steps.sweep(base, ("work", [10001 + number for number in range(TRIALS)]), label="cells", shards=SHARDS)


if __name__ == "__main__":
    main(series, thread)
"""


class Havoc:
    """What is taken away, and when: by how many trials have finished. Workers after every so many; and the network and
    the drivers where the nodes of the cluster have a namespace each."""

    def __init__(self, cluster: Cluster, journal: Journal, trials: int, every: int, seed: int) -> None:
        self.cluster, self.journal, self.random = cluster, journal, random.Random(seed)
        self.trials, self.every = trials, every
        self.workers = self.drivers = 0
        self.events: list[str] = []
        self.began = time.monotonic()
        self.over = threading.Event()

    def finished(self) -> int:
        return len(self.journal.store.names(f"journal/{self.journal.topic}/trials/records"))

    def work(self) -> None:
        work = [self._workers] + ([self._network_and_drivers] if self.cluster.nodes[-1].namespace else [])
        threads = [threading.Thread(target=job) for job in work]
        for thread in threads:
            thread.start()
        self.over.wait()
        for thread in threads:
            thread.join()

    def say(self, what: str) -> None:
        self.events.append(f"{time.monotonic() - self.began:6.1f} s, {self.finished():3} records: {what}")
        print(self.events[-1], flush=True)

    def _workers(self) -> None:
        for count in range(self.every, self.trials, self.every):
            if not self._reached(count):
                return
            while not self.over.wait(0.1):
                workers = [worker for node in self.cluster.nodes for worker in node.workers("cells-shard")]
                if workers:
                    worker = self.random.choice(workers)
                    worker.kill()
                    self.workers += 1
                    self.say(f"worker {worker.pid} killed")
                    break

    def _network_and_drivers(self) -> None:
        first, second = self.random.sample(self.cluster.nodes[1:], 2)
        if self._reached(int(0.3 * self.trials)):
            with self._cut_off(first):
                time.sleep(CUT_S)
        if self._reached(int(0.45 * self.trials)):
            self._kill_driver()
        if self._reached(int(0.7 * self.trials)):
            with self._frozen(second):
                time.sleep(1)
                self._kill_driver()

    @contextmanager
    def _cut_off(self, node: Node) -> Iterator[None]:
        began = time.monotonic()
        node.cut(True)
        counts = [len(machine.workers("cells-shard")) for machine in self.cluster.nodes]
        self.say(f"node {node.ip} cut off; workers of each node: {counts}")
        yield
        node.cut(False)
        self.say(f"node {node.ip} back after {time.monotonic() - began:.0f} s")

    @contextmanager
    def _frozen(self, node: Node) -> Iterator[None]:
        """Stop everything on a node, in the middle of trials, until each of them was ended by somebody else."""
        names: list[str] = []
        processes: list[psutil.Process] = []
        while not names and not self.over.is_set():
            for process in processes:
                process.resume()
            time.sleep(0.05)
            processes = [node.process, *node.process.children(recursive=True)]
            for process in processes:
                process.suspend()
            pids = {process.pid for process in processes}
            names = [
                f"{attempt.intent.key}-0.json"
                for attempt in self.journal.scan().open
                if attempt.intent.owner.pid in pids
            ]
        self.say(f"node {node.ip} frozen, in the middle of {len(names)} trials")
        yield
        ended = f"journal/{self.journal.topic}/trials/records/"
        while not {ended + name for name in names} <= set(self.journal.store.names(ended.rstrip("/"))):
            if self.over.wait(0.5):
                break
        # Its raylet learns last that the cluster has given the node up; it would kill what still measures.
        workers = [process for worker in node.workers() for process in (worker, *worker.children(recursive=True))]
        for some in (workers, processes):
            for process in some:
                with suppress(psutil.Error):
                    process.resume()
            time.sleep(2)
        self.say(f"node {node.ip} runs again, its trials were taken over")

    def _kill_driver(self) -> None:
        for process in self.cluster.nodes[0].process.children(recursive=True):
            try:
                argv = process.cmdline()
            except psutil.Error:
                continue
            if argv[1:3] == ["-m", "experiments.swept"]:
                process.kill()
                self.drivers += 1
                self.say("driver killed")

    def _reached(self, count: int) -> bool:
        while self.finished() < count:
            if self.over.wait(0.2):
                return False
        return True


def checkout(root: Path, trials: int, shards: int) -> Path:
    folder = root / "experiments" / "swept"
    folder.mkdir(parents=True)
    for package in (root / "experiments", folder):
        (package / "__init__.py").touch()
    (folder / "measure.py").write_text(MEASURE)
    (folder / "__main__.py").write_text(THREAD.replace("TRIALS", str(trials)).replace("SHARDS", str(shards)))
    (root / ".gitignore").write_text("__pycache__/\nlocal_store/\n")
    (root / "cluster.yaml").write_text("cluster_name: apart\nprovider: {type: local, head_ip: 127.0.0.1}\n")
    for command in ("init -q", "config user.name P", "config user.email p@example.org", "add -A", "commit -q -m all"):
        subprocess.run(["git", *shlex.split(command)], cwd=root, check=True)
    return root


def run(cluster: Cluster, root: Path, store: str, havoc: Havoc) -> list[str]:
    """Submit the thread until it comes to its end, and publish it from here: what is wrong then."""
    threading.Thread(target=havoc.work).start()
    environment = {**os.environ, "RAY_API_SERVER_ADDRESS": cluster.jobs, "WANDB_MODE": "disabled"}
    research, submitted = [str(Path(sys.executable).with_name("research"))], 0
    argv = [
        *research,
        "submit",
        "--cluster",
        "cluster.yaml",
        "--prefix",
        store,
        "--",
        "python",
        "-m",
        "experiments.swept",
    ]
    try:
        for submitted in range(1, SUBMISSIONS + 1):
            with (root.parent / "driver.log").open("ab") as log:
                code = subprocess.run(argv, cwd=root, env=environment, stdout=log, stderr=log).returncode
            havoc.say(f"submission {submitted} ended with {code}")
            if code == 0:
                break
        else:
            print((root.parent / "driver.log").read_text()[-4000:])
            return ["the thread does not come to its end"]
    finally:
        havoc.over.set()
    took = time.monotonic() - havoc.began
    done = f"{submitted} submissions, {havoc.drivers} drivers and {havoc.workers} workers killed"
    print(f"{took:.0f} s, {done}")
    subprocess.run([*research, "sync", "swept", "--prefix", store], cwd=root, env=environment, check=True)
    return what_is_wrong(havoc.journal, root, havoc.trials)


def what_is_wrong(journal: Journal, root: Path, trials: int) -> list[str]:
    """What is wrong with the records and the logbook; what there is, is printed."""
    snapshot, here = journal.scan(), Checkout.find(root)
    entries = [
        stored.record for stored in snapshot.entries.values() if stored.record.step == "sweep" and not stored.record.late
    ]
    rows = [row for entry in entries for row in entry.rows]
    good = [row for row in rows if row.status == "ok"]
    standing = Counter(
        trial.record.id for trial in snapshot.trials.values() if not trial.record.late and "." in trial.record.id
    )
    late = [trial.record.id for trial in snapshot.trials.values() if trial.record.late]
    doubled = sum(count > 1 for count in standing.values())
    blocks = [block.id for block in parse(logbook_of(here, "swept").path.read_bytes()).entries]
    problems = [*check(read(here, "swept"), journal).problems, *snapshot.problems]
    print(f"sweep entries {len(entries)}, rows {len(rows)}, of them ok {len(good)}")
    print(f"trials of the sweep with a standing record {len(standing) - 1}, with more than one {doubled}")
    print(f"interrupted attempts {len(snapshot.interrupted)}, late records {len(late)}: {', '.join(late)}")
    print(f"open attempts {len(snapshot.open)}, entries of the logbook {blocks}")
    ids = {row.trial.id for row in rows}
    if not (len(entries) == 1 and len(rows) == len(ids) == len(good) == trials and not doubled):
        problems.append(f"{len(entries)} tables of {len(rows)} rows, {len(ids)} trials, {len(good)} good, not {trials}")
    return problems + [f"{len(snapshot.open)} attempts are open"] * bool(snapshot.open)


def quick(folder: Path, ray: Cluster) -> list[str]:
    """Six trials in two shards, whose workers are killed after two and after four; neither nodes nor drivers."""
    root, store = checkout(folder / "checkout", 6, 2), str(folder / "store")
    havoc = Havoc(ray, Journal(open_store(store), "swept"), 6, 2, 1)
    return run(ray, root, store, havoc) + ([] if havoc.workers else ["no worker was killed"])


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=TRIALS)
    parser.add_argument("--seed", type=int, default=random.randrange(1000))
    options = parser.parse_args()
    print(f"seed {options.seed}")
    with tempfile.TemporaryDirectory(prefix="bench-cluster-") as folder, network(3) as net:
        address = net[0]
        with object_store.server(address) as port:
            env = {**object_store.CREDENTIALS, "AWS_ENDPOINT_URL": f"http://{address}:{port}"}
            os.environ.update(env)
            import s3fs

            s3fs.S3FileSystem().mkdir("shared")
            root, store = checkout(Path(folder) / "checkout", options.trials, SHARDS), "s3://shared/bench"
            with cluster(head_cpus=0, jobs=True, network=net, env=env) as nodes:
                havoc = Havoc(nodes, Journal(open_store(store), "swept"), options.trials, EVERY, options.seed)
                problems = run(nodes, root, store, havoc)
    if havoc.drivers != DRIVERS:
        problems.append(f"{havoc.drivers} drivers were killed, not {DRIVERS}")
    sys.exit(f"bar NOT MET: {problems}" if problems else 0)


if __name__ == "__main__":
    main()
