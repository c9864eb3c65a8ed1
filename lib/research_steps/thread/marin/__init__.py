"""The bindings to Marin, of which this process has the one whose Marin is installed: `binding`."""

from importlib.util import find_spec

from research_steps.errors import UsageError
from research_steps.thread.marin.protocols import Binding

# The modules by which each generation is known.
_ARTIFACT_STEPS, _EXECUTOR_STEPS = "marin.execution.lazy", "marin.execution.executor"


def _installed() -> Binding:
    if find_spec("marin") is not None and find_spec("marin.execution") is not None:
        if find_spec(_ARTIFACT_STEPS) is not None:
            from research_steps.thread.marin import artifact_steps

            return artifact_steps
        if find_spec(_EXECUTOR_STEPS) is not None:
            from research_steps.thread.marin import executor_steps

            return executor_steps
    raise UsageError(
        f"No Marin that this version knows is installed here: expected the module {_ARTIFACT_STEPS} (today's, with "
        f"artifact steps) or {_EXECUTOR_STEPS} (with executor steps). Run it in Marin's checkout, or install "
        "'research-steps[marin]'."
    )


binding: Binding = _installed()
