"""Files that the package writes into a checkout, as they lie beside this one: a thread to begin with, and the skill.

Nothing that people wrote or changed is written over.
"""

import hashlib
import keyword
import re
from importlib.resources import files
from pathlib import Path

from research_steps.errors import UsageError
from research_steps.files import is_there, read, write_aside
from research_steps.git import Checkout
from research_steps.records.names import PREFIX
from research_steps.records.series import check_topic

# The last line of the skill, by which a later version knows that nobody changed it.
_MARK = re.compile(rb"<!-- written by research-steps; unchanged while sha256 ([0-9a-f]{64}) -->\n\Z")


def new_thread(checkout: Checkout, topic: str, dry_run: bool) -> list[Path]:
    """Write experiments/<topic>/ with a thread that runs as it is, unless this is a `dry_run`; the files. Raises
    UsageError where one of them is there."""
    if not check_topic(topic).isidentifier() or keyword.iskeyword(topic):
        raise UsageError(
            f"Topic {topic!r} can't be imported as experiments.{topic}: expected a name of Python, of lower-case "
            f"letters, digits and _, such as {_importable(topic)}."
        )
    prefix = _prefix(topic)
    experiments = checkout.root / "experiments"
    folder = experiments / topic
    texts = {
        folder / "__init__.py": b"",
        folder / "measure.py": _filled("measure.txt", topic, prefix),
        folder / "__main__.py": _filled("thread.txt", topic, prefix),
    }
    for path in texts:
        if is_there(path):
            raise UsageError(f"{path} is there already: expected a new topic. Nothing was written.")
    # A folder of experiments that has none is somebody's on purpose.
    if not experiments.exists():
        texts = {experiments / "__init__.py": b"", **texts}
    for path, text in () if dry_run else texts.items():
        write_aside(path, text)
    return list(texts)


def install_skill(checkout: Checkout, dry_run: bool) -> dict[Path, str]:
    """Write the skill wherever agents look for one; what is done to each file. Raises UsageError where people changed
    one, before anything is written."""
    text = _text("skill.txt").encode()
    text += f"<!-- written by research-steps; unchanged while sha256 {hashlib.sha256(text).hexdigest()} -->\n".encode()
    done = {}
    agents, claude = (checkout.root / skills / "run-research" for skills in (".agents/skills", ".claude/skills"))
    if not claude.resolve().is_relative_to(checkout.root):
        raise UsageError(
            f"{claude} leads out of {checkout.root}, to {claude.resolve()}: expected a folder of the checkout."
        )
    # It may be a link to the other.
    for path in dict.fromkeys(folder / "SKILL.md" for folder in (agents, claude.resolve())):
        found = read(path)
        if found is not None and found != text and not _is_ours(found):
            raise UsageError(
                f"{path} was changed by people: expected the text that was installed. Move it to a name of its own to "
                "have it beside the one that is installed. Nothing was written."
            )
        done[path] = "written" if found is None else "as it is" if found == text else "brought up to date"
    for path in () if dry_run else [path for path, what in done.items() if what != "as it is"]:
        write_aside(path, text)
    return done


def _is_ours(text: bytes) -> bool:
    mark = _MARK.search(text)
    return mark is not None and hashlib.sha256(text[: mark.start()]).hexdigest() == mark[1].decode()


def _text(name: str) -> str:
    return files(__name__).joinpath(name).read_text(encoding="utf-8")


def _filled(name: str, topic: str, prefix: str) -> bytes:
    return _text(name).replace("$topic", topic).replace("$prefix", prefix).encode()


def _importable(topic: str) -> str:
    name = topic.replace("-", "_")
    return name if name.isidentifier() and not keyword.iskeyword(name) else f"try_{name}"


def _prefix(topic: str) -> str:
    """The experiment ID prefix that a topic suggests: MOE-HC of moe_hc."""
    prefix = topic.upper().replace("_", "-").strip("-")[:32].rstrip("-")
    return prefix if re.fullmatch(PREFIX, prefix) else "TRY"
