"""A learning rate for a tiny Llama, over three seeds, trained by Marin's own step on this machine."""

from research_steps import Hypothesis, Metric, Series, Steps, main

from experiments.tiny_lr.config import TinyLr
from experiments.tiny_lr.measure import measure

series = Series(
    topic="tiny_lr",
    prefix="TINY-LR",
    goal="Find the learning rate with which a tiny Llama ends at the lowest loss after 100 steps.",
    metrics=(
        Metric("eval_loss", "min", min_effect=0.01, timed=False),
        Metric("tokens", timed=False, budget=True),
    ),
    hypotheses=(
        Hypothesis("H1", "100 steps are so few that a larger learning rate than 1e-3 ends at a lower loss."),
        Hypothesis("H2", "How often it is evaluated changes nothing in what it learns."),
    ),
    tags=("TINY-LR", "learning-rate"),
    motivation="It shows a training as a thread: Marin's own step, seeds, and what they let one say.",
    problem="One training at each learning rate can't be told from another seed.",
    baseline_case="learning rate 1e-3, Adam, two layers of 64, 100 steps of 16 × 64 bytes of generated sums",
    matrix=("learning rates, one axis, at three seeds", "steps between evaluations, which should change nothing"),
    code_paths=("experiments/tiny_lr", "levanter.main.train_lm"),
    references=("https://github.com/marin-community/marin",),
    stop="A learning rate that ends at least 1 % lower in three more seeds; or none after this sweep.",
)


def thread(steps: Steps) -> None:
    base = steps.baseline(measure, TinyLr(), over=("seed", range(3)), label="learning rate 1e-3")
    rates = steps.sweep(base, ("learning_rate", [3e-4, 3e-3, 1e-2, 3e-2]), label="learning rates", hypothesis="H1")
    evaluations = steps.sweep(base, ("steps_per_eval", [25]), label="evaluated more often", hypothesis="H2")
    again = steps.replicate(rates, n=3, label="best learning rate at other seeds")
    steps.seal(steps.interpret(base, rates, evaluations, again))


if __name__ == "__main__":
    main(series, thread)
