"""The moe_hc experiment: its measure function, its candidate kernels and its float64 reference.

Trials run for real, in two child processes (this file, run as a program, and its fork): one with a single CPU device and
one with four, because JAX fixes the device count when its backend starts. A child takes the first sample of every trial
and then a second one of each, so that many generators are open in one process, as when a candidate is interleaved with
a baseline.
"""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from experiments.moe_hc.measure import (
    CANDIDATE_NAMES,
    LEVANTER_IMPLEMENTATIONS,
    OLDER_IMPLEMENTATIONS,
    TODAYS_PARALLEL,
    MoeConfig,
    has_todays_kernels,
    measure,
)
from experiments.moe_hc.reference import RUN_TOKENS, draw_inputs

REPOSITORY = Path(__file__).resolve().parents[1]

# All dimensions differ, so that no transposed or mixed-up axis can pass.
SHAPE = {"tokens": 96, "hidden_dim": 32, "intermediate_dim": 48, "num_experts": 8, "topk": 2}
# More tokens than the reference samples.
MANY_TOKENS = {**SHAPE, "tokens": 640}

RIGHT = {
    f"{name} {pass_mode} {routing}": {"implementation": name, "pass_mode": pass_mode, "routing": routing, **SHAPE}
    for name in ("scatter", *CANDIDATE_NAMES)
    for pass_mode in ("forward", "forward_backward")
    for routing in ("random", "runs")
}
BFLOAT16 = {
    f"{name} bfloat16": {"implementation": name, "pass_mode": "forward_backward", "dtype": "bfloat16", **SHAPE}
    for name in ("scatter", *CANDIDATE_NAMES)
}
WRONG = {
    "ignores_weights": {"pass_mode": "forward"},
    "swaps_gate_and_up": {"pass_mode": "forward", "dtype": "bfloat16"},
    "drops_one_assignment": {"pass_mode": "forward"},
    "no_gradient_through_gate": {"pass_mode": "forward_backward"},
    "nan_in_one_token": {"pass_mode": "forward"},
}
ONE_DEVICE = {
    **{name: {"config": config} for name, config in {**RIGHT, **BFLOAT16}.items()},
    **{
        name: {"config": {"implementation": "dense", **MANY_TOKENS, **config}, "kernel": name}
        for name, config in WRONG.items()
    },
    "ring without a mesh": {"config": {"implementation": "ring", **SHAPE}},
    "sonic": {"config": {"implementation": "sonic", **SHAPE}},
    "more devices": {"config": {"implementation": "ring", "expert_parallel": 4, **SHAPE}},
}
RING = {"implementation": "ring", "expert_parallel": 4, "capacity_factor": 2.0, **SHAPE}
FOUR_DEVICES = {
    "ring forward": {"config": RING},
    "ring forward_backward": {"config": {**RING, "pass_mode": "forward_backward"}},
    **{
        f"{name} {pass_mode}": {"config": {**RING, "implementation": name, "pass_mode": pass_mode}}
        for name in (TODAYS_PARALLEL if has_todays_kernels() else ())
        for pass_mode in ("forward", "forward_backward")
    },
    "ring over capacity": {"config": {**RING, "capacity_factor": 0.5}},
    "ragged_all_to_all": {"config": {**RING, "implementation": "ragged_all_to_all"}},
    "local candidate": {"config": {**RING, "implementation": "dense"}},
    "fewer devices": {"config": {"implementation": "scatter", **SHAPE}},
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """Both children's answers; they run side by side."""
    path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    # Trials that differ in their data alone are one program.
    cache = {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("compiled")),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    done = subprocess.run(
        [sys.executable, __file__],
        input=json.dumps([ONE_DEVICE, FOUR_DEVICES]),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env={**os.environ, **cache, "PYTHONPATH": path, "JAX_PLATFORMS": "cpu"},
    )
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def one_device(outcomes):
    return outcomes[0]


@pytest.fixture(scope="module")
def four_devices(outcomes):
    return outcomes[1]


def test_importing_measure_loads_no_heavy_library():
    """A thread file can import the measure function and make configurations without paying for JAX."""
    program = (
        "import sys; from experiments.moe_hc.measure import MoeConfig; MoeConfig(); "
        "print(sorted({'jax', 'numpy', 'levanter', 'haliax', 'ml_dtypes'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_config_survives_json():
    """A configuration is plain JSON: it comes back equal."""
    config = MoeConfig(implementation="ring", expert_parallel=4, capacity_factor=2.0)
    assert MoeConfig(**json.loads(json.dumps(asdict(config)))) == config


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"pass_mode": "backward"}, "pass_mode must be one of 'forward', 'forward_backward', found 'backward'"),
        ({"dtype": "float16"}, "dtype must be one of 'float32', 'bfloat16', found 'float16'"),
        ({"routing": "even"}, "routing must be one of 'random', 'runs', found 'even'"),
        ({"tokens": 0}, "tokens must be a positive integer, found 0"),
        ({"hidden_dim": 64.0}, "hidden_dim must be a positive integer, found 64.0"),
        ({"topk": True}, "topk must be a positive integer, found True"),
        ({"topk": 9}, "topk must be at most num_experts (8), found 9"),
        ({"seed": -1}, "seed must be a non-negative integer, found -1"),
        ({"capacity_factor": 0.0}, "capacity_factor must be a positive number, found 0.0"),
        ({"expert_parallel": 3}, "tokens must be a multiple of expert_parallel (3), found 512"),
        ({"tokens": 516, "expert_parallel": 3}, "num_experts must be a multiple of expert_parallel (3), found 8"),
    ],
)
def test_bad_value_is_refused_in_one_sentence(changes, sentence):
    """A bad field says what was expected and what was found."""
    with pytest.raises(ValueError) as refused:
        MoeConfig(**changes)
    assert str(refused.value) == sentence


def test_unknown_implementation_lists_the_choices():
    """A misspelt implementation is refused with every name that would do."""
    with pytest.raises(ValueError, match="found 'scater'") as refused:
        MoeConfig(implementation="scater")
    for name in LEVANTER_IMPLEMENTATIONS + CANDIDATE_NAMES:
        assert repr(name) in str(refused.value)


def test_names_are_those_of_levanter_and_of_the_kernels(one_device):
    """The names that a configuration accepts are the ones that exist."""
    expected = LEVANTER_IMPLEMENTATIONS if has_todays_kernels() else OLDER_IMPLEMENTATIONS
    assert sorted(one_device["names"]["levanter"]) == sorted(expected)
    assert one_device["names"]["candidates"] == list(CANDIDATE_NAMES)


def test_inputs_depend_on_seed_and_differ_by_routing_only():
    """Candidate and baseline get the same numbers; "runs" repeats experts over consecutive tokens, "random" doesn't."""
    random, again, runs, other = (
        draw_inputs(**SHAPE, dtype="float32", routing=routing, seed=seed)
        for routing, seed in (("random", 0), ("random", 0), ("runs", 0), ("random", 1))
    )
    for first, second in zip(random, again, strict=True):
        np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(random.x, runs.x)
    assert not np.array_equal(random.x, other.x)
    first_run = runs.selected_experts[:RUN_TOKENS]
    assert (first_run == first_run[0]).all()
    assert (random.selected_experts[:RUN_TOKENS] != random.selected_experts[0]).any()
    assert all(len(set(row)) == SHAPE["topk"] for row in random.selected_experts.tolist())


@pytest.mark.parametrize("name", RIGHT)
def test_right_kernel_passes_the_check(one_device, name):
    """Scatter and every candidate equal the float64 reference, output and gradients, under both routings."""
    samples = one_device[name]["samples"]
    assert [sample.keys() for sample in samples] == [{"time_s", "max_rel_error"}] * 2
    assert all(sample["time_s"] > 0 for sample in samples)
    assert samples[0]["max_rel_error"] == samples[1]["max_rel_error"] < 1e-5


@pytest.mark.parametrize("name", BFLOAT16)
def test_bfloat16_rounding_is_tolerated(one_device, name):
    """In bfloat16 the same kernels pass with the larger error that its rounding gives."""
    assert 1e-5 < one_device[name]["samples"][0]["max_rel_error"] < 3e-2


@pytest.mark.parametrize("name", WRONG)
def test_wrong_kernel_is_never_timed(one_device, name):
    """A kernel that computes something else gives no sample, also if it is wrong for one assignment only."""
    outcome = one_device[name]
    assert outcome["error"] == "RuntimeError"
    assert outcome["message"].startswith("implementation 'dense' is wrong: ")


def test_wrong_gradient_is_named(one_device):
    """A right output with a wrong gradient is refused, and the message names a gradient."""
    assert "is wrong: d_" in one_device["no_gradient_through_gate"]["message"]


def test_silent_fallback_is_refused(one_device):
    """Levanter runs scatter in silence when ring has no expert mesh; the trial fails and says so."""
    outcome = one_device["ring without a mesh"]
    assert outcome["error"] == "RuntimeError"
    assert outcome["message"].startswith("implementation 'ring' was asked for but scatter ran")


def test_sonic_on_cpu_fails_as_it_is(one_device):
    """Sonic's own complaint about its missing Triton comes through unchanged."""
    assert one_device["sonic"]["error"] == "ImportError"
    assert "jax-triton" in one_device["sonic"]["message"]


def test_what_runs_on_an_expert_mesh_is_what_was_asked_for(four_devices):
    """With four devices each implementation that the installed Levanter has for CPU is what runs, in both passes, and it
    is right."""
    names = ("ring", *(TODAYS_PARALLEL if has_todays_kernels() else ()))
    for name in (f"{name} {pass_mode}" for name in names for pass_mode in ("forward", "forward_backward")):
        assert "samples" in four_devices[name], (name, four_devices[name])
        assert four_devices[name]["samples"][0]["max_rel_error"] < 1e-5


def test_dropped_assignments_are_refused(four_devices):
    """A kernel that drops work isn't comparable; the message counts the work and names the way out."""
    outcome = four_devices["ring over capacity"]
    assert outcome["error"] == "RuntimeError"
    assert "of 192 assignments at capacity_factor=0.5" in outcome["message"]
    assert "raise capacity_factor" in outcome["message"]


def test_ragged_all_to_all_on_cpu_fails_as_it_is(four_devices):
    """XLA's own complaint that its CPU backend lacks the collective comes through unchanged."""
    assert four_devices["ragged_all_to_all"]["error"] == "JaxRuntimeError"
    assert "UNIMPLEMENTED" in four_devices["ragged_all_to_all"]["message"]


def test_candidate_on_a_mesh_is_refused(four_devices):
    """Our kernels have no collectives and say so, in place of computing on one device."""
    assert four_devices["local candidate"]["error"] == "ValueError"
    assert "expected expert_parallel=1, found 4" in four_devices["local candidate"]["message"]


def test_other_device_count_is_refused(one_device, four_devices):
    """A process whose JAX already started with another CPU device count can't run the trial, and says what to do."""
    for outcome, counts in (
        (one_device["more devices"], "needs 4 cpu devices, found 1"),
        (four_devices["fewer devices"], "needs 1 cpu devices, found 4"),
    ):
        assert outcome["error"] == "RuntimeError"
        assert counts in outcome["message"]
        assert "fresh process" in outcome["message"]


def wrong_kernels() -> dict:
    """Kernels that are almost right, by name."""
    import jax
    import jax.numpy as jnp

    from experiments.moe_hc.kernels import dense

    def ignores_weights(x, experts, weights, w_up_gate, w_down):
        return dense(x, experts, jnp.full_like(weights, 1 / weights.shape[1]), w_up_gate, w_down)

    def swaps_gate_and_up(x, experts, weights, w_up_gate, w_down):
        gate, up = jnp.split(w_up_gate, 2, axis=-1)
        return dense(x, experts, weights, jnp.concatenate([up, gate], axis=-1), w_down)

    def drops_one_assignment(x, experts, weights, w_up_gate, w_down):
        # What a kernel with a capacity one too small does: the busiest expert's last token is left out.
        to_busiest = experts == jnp.argmax(jnp.bincount(experts.reshape(-1), length=w_up_gate.shape[0]))
        token = jnp.arange(len(x))[:, None]
        last = jnp.max(jnp.where(to_busiest, token, -1))
        return dense(x, experts, jnp.where(to_busiest & (token == last), 0, weights), w_up_gate, w_down)

    def no_gradient_through_gate(x, experts, weights, w_up_gate, w_down):
        gate, up = jnp.split(w_up_gate, 2, axis=-1)
        return dense(x, experts, weights, jnp.concatenate([jax.lax.stop_gradient(gate), up], axis=-1), w_down)

    def nan_in_one_token(x, experts, weights, w_up_gate, w_down):
        return dense(x, experts, weights, w_up_gate, w_down).at[1].set(jnp.nan)

    kernels = (ignores_weights, swaps_gate_and_up, drops_one_assignment, no_gradient_through_gate, nan_in_one_token)
    return {kernel.__name__: kernel for kernel in kernels}


def run_trials(trials: dict) -> dict:
    """In the child: two samples of each trial, or the type and text of what it raised."""
    # The first trial fixes the device count, so it must start before anything else uses JAX.
    outcomes, started = {}, {}
    for name, trial in trials.items():
        config = MoeConfig(**trial["config"])
        try:
            generator = measure(config)
            if "kernel" in trial:
                from experiments.moe_hc import kernels

                kernels.CANDIDATES[config.implementation] = wrong_kernels()[trial["kernel"]]
            outcomes[name] = {"samples": [next(generator)]}
            started[name] = generator
        except Exception as error:  # noqa: BLE001  # every outcome is reported to the test
            outcomes[name] = {"error": type(error).__name__, "message": str(error)}
    for name, generator in started.items():
        outcomes[name]["samples"].append(next(generator))
    return outcomes


def implementation_names() -> dict:
    """In the child: the names as the modules that own them have them."""
    from typing import get_args

    from levanter.grug.grug_moe import MoeImplementation

    from experiments.moe_hc.kernels import CANDIDATES

    return {"levanter": list(get_args(MoeImplementation)), "candidates": list(CANDIDATES)}


def run_both(on_one: dict, on_four: dict) -> list[dict]:
    """In the child: the outcomes of both, the second in a fork. What is imported before has started no backend."""
    names = implementation_names()
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            with os.fdopen(write, "w") as pipe:
                json.dump(run_trials(on_four), pipe)
        finally:
            os._exit(0)
    os.close(write)
    first = run_trials(on_one)
    with os.fdopen(read) as pipe:
        second = json.load(pipe)
    os.waitpid(pid, 0)
    return [{**first, "names": names}, {**second, "names": names}]


if __name__ == "__main__":
    json.dump(run_both(*json.load(sys.stdin)), sys.stdout)
