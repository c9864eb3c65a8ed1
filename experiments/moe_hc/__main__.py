"""Hillclimb of the routed-expert MLP: can a kernel beat Levanter's, here, at this shape?

Two questions, so two sweeps of implementations with a baseline each: on one device, and expert-parallel over four.
"""

from research_steps import Hypothesis, Metric, Resources, Series, Steps, Stop, main

from experiments.moe_hc.measure import TODAYS_LOCAL, TODAYS_PARALLEL, MoeConfig, has_todays_kernels, measure

series = Series(
    topic="moe_hc",
    prefix="MOE-HC",
    goal="Find an implementation of Levanter's routed-expert MLP (levanter.grug.grug_moe.moe_mlp) that takes less time.",
    metrics=(
        Metric("time_s", "min"),
        # The same in each process, and below a hundred-thousandth it is rounding.
        Metric("max_rel_error", "min", min_effect=0.5, min_effect_abs=1e-5, timed=False, exact=True),
    ),
    hypotheses=(
        Hypothesis("H1", "On CPU ragged_dot is computed densely over all experts, so blocked matmuls take less time."),
        Hypothesis("H2", "What wins with random routing also wins when runs of tokens share their experts."),
    ),
    tags=("MOE-HC", "grug-moe"),
    motivation="The routed-expert MLP is most of a MoE layer's time, and which kernel is best depends on the backend.",
    problem="On CPU, ragged_dot seems to be computed densely over all experts, whatever the routing.",
    baseline_case="scatter, float32, forward, 512 tokens of 128, 8 experts of 128, top 2, random routing",
    matrix=("local implementations, one axis", "routing, one axis", "the best of both together", "ring over 4 devices"),
    code_paths=("experiments/moe_hc", "levanter.grug.grug_moe"),
    references=("https://github.com/marin-community/marin",),
    constraints="Same output within the tolerance of the dtype; no assignment is dropped.",
    stop="A candidate below 0.9 × the baseline's time in three processes, for both routings; or none after this sweep.",
    stop_at=Stop(0.1, "stable"),
    variants=("routing",),
    sampling_s=2.0,
)

# On a cluster; without one this machine measures.
MACHINE = Resources(cpu=2, ram="6g")
CANDIDATES = ["sonic", "dense", "ragged_gather", "blocked_batch", "blocked_scan"]
PARALLEL = ["ring", "ragged_all_to_all"]
if has_todays_kernels():
    CANDIDATES += TODAYS_LOCAL
    PARALLEL += TODAYS_PARALLEL


def thread(steps: Steps) -> None:
    scatter = MoeConfig(implementation="scatter")
    base = steps.baseline(measure, scatter, label="scatter, one device", resources=MACHINE)
    local = steps.sweep(base, ("implementation", CANDIDATES), label="local implementations", hypothesis="H1")
    routing = steps.sweep(base, ("routing", ["runs"]), label="routing")
    both = steps.interact(local, routing, label="best implementation with runs", hypothesis="H2")
    # So many that a reproduction with as many would see a change of 10 %.
    again = steps.replicate(local, n=6, across=("routing", ["random", "runs"]), label="best local implementation again")

    four = MoeConfig(implementation="ring", expert_parallel=4)
    ring = steps.baseline(measure, four, label="ring, four devices", resources=MACHINE)
    parallel = steps.sweep(ring, ("implementation", PARALLEL), label="expert-parallel implementations")

    steps.seal(steps.interpret(base, local, routing, both, again, ring, parallel))


if __name__ == "__main__":
    main(series, thread)
