"""The commands that documents show, as somebody types them, and parsing them as the programs do that they call."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import click
import pytest
from research_steps.actions import templates
from research_steps.cli.common import ResearchCommand
from research_steps.cli.main import main
from research_steps.thread.options import RunOptions

from tests.support.toy_thread import HERE

SKILL = Path(templates.__file__).with_name("skill.txt")
DOCUMENTS = [
    *(HERE / name for name in ("README.md", "AGENTS.md", "CONTRIBUTING.md", "SECURITY.md", "infra/README.md")),
    *sorted((HERE / "docs").rglob("*.md")),
    SKILL,
]
# Beside those of every thread: the example of docs/threads.md, and dev mode's.
_PROGRAMS = ("research", "python", "make", "wandb")
_THREAD_OPTIONS = {*(field.name for field in fields(RunOptions)), "largest", "dev", "set"}


def shown(document: Path) -> list[list[str]]:
    """The commands of a document's fenced blocks, in order, that are this project's own or W&B's."""
    found = []
    for block in re.findall(r"(?ms)^```bash\n(.*?)^```$", document.read_text()):
        for line in block.replace("\\\n", " ").splitlines():
            inner = re.findall(r"\$\((research [^)]*)\)", line)
            for text in (line, *inner):
                # Another line may be a part of a text.
                if text.split(" ")[0] in (*_PROGRAMS, "git"):
                    found += _simple(text)
    return found


def _simple(line: str) -> list[list[str]]:
    """The commands of a line, which pipes and the like stand between."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;")
    lexer.whitespace_split = True
    simple: list[list[str]] = [[]]
    for word in lexer:
        if set(word) <= set("|&;"):
            simple.append([])
        else:
            simple[-1].append(word)
    return [words for words in simple if words and words[0] in _PROGRAMS]


def failing(checked: str) -> list[str]:
    """The lines of `research check` that fail, but for one that a loaded machine can fail by what it does to times."""
    return [line for line in checked.splitlines() if line.startswith("  FAIL") and "apples to apples" not in line]


def problem(command: list[str], monkeypatch: pytest.MonkeyPatch) -> str | None:
    """Why a command can't be meant so: no such command or option, or an argument too many or too few."""
    match command:
        case ["research", *arguments]:
            with monkeypatch.context() as patch:
                patch.setattr(ResearchCommand, "invoke", lambda self, ctx: None)
                try:
                    main.main(arguments, prog_name="research", standalone_mode=False)
                except click.ClickException as error:
                    return error.format_message()
            return None
        case ["python", "-m", _, *arguments]:
            names = [argument[2:].partition("=")[0].replace("-", "_") for argument in arguments if argument[:2] == "--"]
            return next((f"no option --{name}" for name in names if name not in _THREAD_OPTIONS), None)
        case ["make", *targets]:
            there = (HERE / "Makefile").read_text()
            return next((f"no target {name}" for name in targets if not re.search(rf"(?m)^{name}:", there)), None)
        case ["wandb", name, *_]:
            from wandb.cli.cli import cli

            return None if name in cli.commands else f"no command {name} of wandb"
    return None


def named(document: Path) -> Iterator[tuple[str, str]]:
    """What a document calls a command in its text, each with what is wrong with it, if anything is."""
    for text in re.findall(r"`(research [^`]+)`", re.sub(r"(?ms)^```.*?^```$", "", document.read_text())):
        _, name, *words = text.replace("\\|", "|").split()
        for one in name.split("|") if name != "COMMAND" else ():
            yield text, _unknown(one, words)


def _unknown(name: str, words: list[str]) -> str:
    context = click.Context(main)
    command = main.get_command(context, name)
    if command is None:
        return f"no command {name}"
    options = {"--help", *(option for parameter in command.params for option in parameter.opts)}
    if isinstance(command, click.Group):
        plain = [word for word in words if re.fullmatch(r"[a-z-]+(\|[a-z-]+)*", word) and not word.startswith("--")]
        for inner in (inner for word in plain[:1] for inner in word.split("|")):
            if inner not in command.commands:
                return f"no command {name} {inner}"
        options |= {name for inner in command.commands.values() for each in inner.params for name in each.opts}
    given = [word for word in words[: words.index("--")] if "--" in words] if "--" in words else words
    unknown = [word.rstrip(",") for word in given if re.fullmatch(r"--[a-z-]+", word) and word not in options]
    return f"no option {unknown[0]}" if unknown else ""
