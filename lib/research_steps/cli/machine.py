"""The command that looks at this machine as a trial does before it is timed. It changes nothing."""

import os
import sys
from dataclasses import asdict

import click

from research_steps.cli.common import as_json, print_json
from research_steps.cli.main import command
from research_steps.trial import contention
from research_steps.trial.provenance import device_class


@command
@as_json
def doctor(json_output: bool) -> None:
    """What would disturb a trial on this machine now, and how to mend it; exits with 1 when something would.

    Only root sees the files that other users' processes hold open.
    """
    machine = contention.HERE
    others = machine.others_cores()
    problems = [*machine.disturbances(), *machine.load_of(others)]
    left = "left behind" if machine.tpu_lock.exists() else ""
    found = {
        "device_class": device_class(),
        "devices": [str(path) for path in machine.devices()],
        "cores": os.cpu_count(),
        "cores_busy_with_others": round(others, 2),
        "cores_that_count_as_load": machine.load_cores,
        "device_lock": machine.lock_holder(machine.device_lock),
        "libtpu_lock": machine.lock_holder(machine.tpu_lock) or left,
        "problems": [asdict(problem) for problem in problems],
    }
    if json_output:
        print_json(found)
    else:
        click.echo(f"device class: {found['device_class']}")
        click.echo(f"accelerator devices: {', '.join(map(str, machine.devices())) or 'none'}")
        click.echo(f"busy with others: {others:.2f} of {os.cpu_count()} cores; above {machine.load_cores:g} is load")
        click.echo(f"device lock {machine.device_lock}: {found['device_lock'] or 'free'}")
        click.echo(f"libtpu lock {machine.tpu_lock}: {found['libtpu_lock'] or 'none'}")
        for problem in problems:
            click.echo(f"problem: {problem.what}; to mend it, {problem.mend}")
        if not problems:
            click.echo("Nothing would disturb a trial now.")
    if problems:
        sys.exit(1)
