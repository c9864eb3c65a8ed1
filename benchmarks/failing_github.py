"""A GitHub that keeps state and fails, in a process of its own: `python -m benchmarks.failing_github FOLDER SEED`.

A third of the requests fail while the file `fails` is in the folder: refused, limited, cut off, or done with no answer.
It prints its own port, its process and its proxy's address, and ends with its standard input.
"""

import sys
from pathlib import Path
from random import Random

from tests.support import github_api
from tests.support.github_api import Fault, Proxy


def faults() -> tuple[Fault, ...]:
    lost = (github_api.reset(forward=True), github_api.unavailable(502, forward=True), github_api.truncate())
    refused = (github_api.reset(), github_api.unavailable(503), github_api.secondary_limit(1), github_api.rate_limit(1))
    return (*lost, *refused, github_api.cut_json())


def main() -> None:
    folder, draw = Path(sys.argv[1]), Random(sys.argv[2])

    def choose(method: str, path: str, number: int) -> Fault | None:
        return draw.choice(faults()) if (folder / "fails").exists() and draw.random() < 1 / 3 else None

    with github_api.server() as server, Proxy(server) as proxy:
        proxy.fault = choose
        print(server.port, server.pid, proxy.url, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
