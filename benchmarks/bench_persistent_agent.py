"""Whether trying often makes a claim true: an agent that confirms everything it tries, again and again.

    python -m benchmarks.bench_persistent_agent [SERIES]

In a null series 200 attempts change nothing, and each is confirmed up to 20 times by three processes more, at a process
noise of 1, 2 and 3 %; it ends with the first improvement that is called replicated. Beside it a candidate that takes 3 %
less, at 2 % of noise, as the first and as the tenth that its series confirms. Effects are drawn; what judges them and
counts the looks is what a thread has.

Bars: at most 5 % of null series end with an improvement (upper 95 % bound, Clopper and Pearson); the true one is found
within 20 looks in 95 % as the first confirmation, and in 90 % as the tenth. The same agent without the spending of error
(each look at 5 %) is told beside it, so that a bar that anything passes would be seen.
"""

import math
import random
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import msgspec
from research_steps import Metric
from research_steps.evidence.error_spending import Spending
from research_steps.evidence.judgement import judge
from research_steps.evidence.statistics import LEVEL
from research_steps.git import Checkout
from research_steps.records.encoding import Stored
from research_steps.records.model import Samples, TrialRecord
from scipy import stats

from benchmarks import synthetic

SERIES, ATTEMPTS, LOOKS, PROCESSES, FLOOR = 300, 200, 20, 3, 5
METRIC = Metric("time_s")
BAR, FIRST, TENTH = 0.05, 0.95, 0.90


@dataclass(frozen=True)
class Agent:
    """What is tried: so many candidates with this effect, at this noise; `spends` is False where each look has all of
    the error."""

    effect: float
    noise: float
    attempts: int
    confirmation: int = 1
    spends: bool = True


@cache
def template() -> TrialRecord:
    return synthetic.trial("BENCH-00000.01", "0" * 64, synthetic.captured(Checkout.find(Path(__file__).parent)))


def finds(agent: Agent, seed: int) -> bool:
    """Whether the agent replicates an improvement in one series."""
    draw = random.Random(f"{agent} {seed}")

    def process(effect: float, id: str) -> Any:
        ratio = math.exp(effect + draw.gauss(0, agent.noise))
        samples = Samples(paired=True, order="", candidate={METRIC.name: [ratio]}, baseline={METRIC.name: [1.0]})
        return Stored(msgspec.structs.replace(template(), id=id, samples=samples), b"")

    floor = [process(0.0, "BENCH-00000.1") for _ in range(FLOOR)]
    for attempt in range(agent.attempts):
        trials: list[Stored[TrialRecord]] = []
        for look in range(1, LOOKS + 1):
            trials += [process(agent.effect, f"BENCH-{look:05d}.1") for _ in range(PROCESSES)]
            spending = Spending.for_look(agent.confirmation + attempt, look)
            level = spending.level if agent.spends else LEVEL
            judged = judge(METRIC, trials, floor, level)
            if (judged.verdict, judged.confidence) == ("improved", "replicated"):
                return True
    return False


def share(agent: Agent, series: int) -> int:
    """In how many of so many series it does."""
    with ProcessPoolExecutor() as pool:
        return sum(pool.map(partial(finds, agent), range(series), chunksize=4))


def run(series: int, attempts: int) -> list[str]:
    """Print how often each agent replicates an improvement; the bars that were missed."""
    missed = []
    for noise in (0.01, 0.02, 0.03):
        false = share(Agent(0.0, noise, attempts), series)
        bound = float(stats.beta.ppf(0.95, false + 1, series - false)) if false < series else 1.0
        naive = share(Agent(0.0, noise, attempts, spends=False), min(series, 40))
        print(
            f"null, {noise:.0%} noise: {false} of {series} series with a false improvement (bound {bound:.1%}); "
            f"each look at 5 %: {naive} of {min(series, 40)}", flush=True
        )  # fmt: skip
        missed += [f"null at {noise:.0%}"] if bound > BAR else []
    for confirmation, bar in ((1, FIRST), (10, TENTH)):
        true = share(Agent(math.log(0.97), 0.02, 1, confirmation), series)
        print(f"3 % less at 2 % noise, confirmation {confirmation}: found in {true} of {series}", flush=True)
        missed += [f"power as confirmation {confirmation}"] if true < bar * series else []
    return missed


def quick(folder: Path) -> list[str]:
    """Few attempts in few series: hardly any is fooled, most are without the spending, and what is there is found."""
    false = share(Agent(0.0, 0.03, 10), 12)
    naive = share(Agent(0.0, 0.03, 30, spends=False), 12)
    true = share(Agent(math.log(0.97), 0.02, 1), 12)
    ok = false <= 1 and naive >= 3 and true >= 11
    return [] if ok else [f"of 12 series {false} false, {naive} without spending, {true} found"]


def main() -> None:
    missed = run(int(sys.argv[1]) if len(sys.argv) > 1 else SERIES, ATTEMPTS)
    sys.exit(f"bar NOT MET: {', '.join(missed)}" if missed else 0)


if __name__ == "__main__":
    main()
