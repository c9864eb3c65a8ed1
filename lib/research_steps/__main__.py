"""`python -m research_steps`: the command `research`."""

import sys


def main() -> None:
    """The command `research`, whose `record` begins what it records before the rest of it is imported."""
    if sys.argv[1:2] == ["record"]:
        from research_steps.cli.recorded_command import begin_early

        begin_early(sys.argv[2:])
    from research_steps.cli.main import main as research

    research(prog_name="research")


if __name__ == "__main__":
    main()
