"""The threads of a checkout: one module each, experiments/<topic>/__main__.py, which is imported here and not run.

Only for what measures, and for the kickoff, which takes the series from there. Whoever reads has it from the journal, so
that looking at a checkout runs none of its code.
"""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from research_steps.errors import UsageError
from research_steps.git import Checkout
from research_steps.records.series import Series
from research_steps.thread.options import own_options
from research_steps.thread.types import Steps


def load_series(checkout: Checkout, topic: str) -> Series:
    """The series that a thread declares. Raises UsageError."""
    return _series(_module(checkout, topic), topic)


def load_thread(checkout: Checkout, topic: str) -> tuple[Series, Callable[[Steps], object]]:
    """The series that a thread declares, and its function that builds the steps, with the defaults of options that are
    its own. Raises UsageError."""
    module = _module(checkout, topic)
    thread = getattr(module, "thread", None)
    if not callable(thread):
        raise UsageError(f"{module.__name__} has no function thread(steps), in which the steps are built: name it so.")
    options = own_options(thread)
    return _series(module, topic), thread if options is None else lambda steps: thread(steps, options())


def refuse_below(checkout: Checkout, top: Path, topic: str) -> None:
    """Raise UsageError where the folder that holds `experiments` is not the top of its repository: logbook, store,
    patches and tags are those of a whole repository."""
    top = top.resolve()
    if top != checkout.root and top.is_relative_to(checkout.root):
        raise UsageError(
            f"The thread experiments/{topic} lies in {top}, a folder of the repository {checkout.root}: expected "
            f"experiments/ at the top of its repository. Move it to {checkout.root}, or run 'git init' in {top}."
        )


def _series(module: ModuleType, topic: str) -> Series:
    declared = {
        id(value): value for value in vars(module).values() if isinstance(value, Series) and value.topic == topic
    }
    if len(declared) != 1:
        raise UsageError(
            f"{module.__name__} declares {len(declared)} series with the topic {topic!r}: expected one, as a global."
        )
    return next(iter(declared.values()))


def _module(checkout: Checkout, topic: str) -> ModuleType:
    name = f"experiments.{topic}.__main__"
    sys.path.insert(0, str(checkout.root))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not name.startswith(error.name):
            raise UsageError(f"{name} can't be imported: {error}.") from error
        pattern = f":(glob)**/experiments/{topic}/__main__.py"
        for below in checkout.files(pattern) if checkout.git_dir is not None else ():
            refuse_below(checkout, (checkout.root / below).parents[2], topic)
        raise UsageError(
            f"There is no thread experiments/{topic}/__main__.py in {checkout.root}: expected one, which declares its "
            f"Series. 'research new {topic}' writes one to begin with."
        ) from error
    except UsageError:
        raise
    except (Exception, SystemExit) as error:
        raise UsageError(
            f"{name} can't be imported: {type(error).__name__}: {error}. A thread's file declares its Series and runs "
            "nothing when it is imported: main(…) stands below if __name__ == '__main__'."
        ) from error
    finally:
        sys.path.remove(str(checkout.root))
