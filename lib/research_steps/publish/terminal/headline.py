"""How a run ends on the terminal: with the answer by now, what to do next, and where to read on."""

from research_steps.evidence.state import ThreadState
from research_steps.publish import state_text
from research_steps.publish.state_text import PLAIN

# Of the baselines that something is best against, and of the commands.
ANSWERS, COMMANDS = 3, 3


def headline(state: ThreadState) -> list[str]:
    """What is best and what speaks against it, and the next commands."""
    lines = []
    for answer in state_text.answers(state, PLAIN)[:ANSWERS]:
        lines += [answer.best, *(f"  but: {text}" for text in answer.against)]
    lines += [f"next: {command}" for command in state_text.next_commands(state, PLAIN)[:COMMANDS]]
    return lines


def look_at(state: ThreadState, report: str = "") -> str:
    """Where to read on: the status, the record of the best, and the `report`, by its path or by what makes it."""
    topic = state.series.topic
    best = [f"research show {state.winners[0].claim.trials[0].id.partition('.')[0]}"] if state.winners else []
    return f"look: {'; '.join([f'research status {topic}', *best, report or f'research report {topic}'])}"
