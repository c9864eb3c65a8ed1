"""Commands that write files into a checkout to begin with: a thread, and what a coding agent should know."""

import click

from research_steps.actions import templates
from research_steps.cli.common import ResearchCommand, print_result
from research_steps.git import Checkout


@click.command(cls=ResearchCommand, json=True, dry_run=True)
@click.argument("topic")
def new(topic: str, dry_run: bool, json_output: bool) -> None:
    """Write a thread that runs into experiments/TOPIC. It sorts floats until you put in what you measure."""
    checkout = Checkout.find()
    paths = [str(path.relative_to(checkout.root)) for path in templates.new_thread(checkout, topic, dry_run)]
    lines = [f"written: {', '.join(paths)}", f"run it: python -m experiments.{topic} --seal true"]
    if dry_run:
        lines = [f"would be written: {', '.join(paths)}", "A dry run: nothing was written."]
    print_result(json_output, {"topic": topic, "dry_run": dry_run, "written": paths}, lines)


@click.group()
def skill() -> None:
    """What a coding agent should know to work with this."""


@skill.command(cls=ResearchCommand, json=True, dry_run=True)
def install(dry_run: bool, json_output: bool) -> None:
    """Write run-research/SKILL.md into .agents/skills and .claude/skills. One that people changed is left as it is."""
    checkout = Checkout.find()
    installed = templates.install_skill(checkout, dry_run)
    done = {str(path.relative_to(checkout.root)): what for path, what in installed.items()}
    lines = [f"{'would be ' if dry_run and what != 'as it is' else ''}{what}: {path}" for path, what in done.items()]
    print_result(json_output, {"dry_run": dry_run, "files": done}, lines)
