"""`python -m research_steps`: the command `research`."""

from research_steps.cli.main import main

if __name__ == "__main__":
    main(prog_name="research")
