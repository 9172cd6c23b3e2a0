"""What a report says of itself: its subject in a line, and the words it uses. Only what its runs have is named."""

from __future__ import annotations

from contextual_rnn.experiments.config import BASELINE
from contextual_rnn.experiments.config.decay import DECAY
from contextual_rnn.experiments.config.retrieval import RETRIEVAL
from contextual_rnn.experiments.report.data import Report

# Each initial state, and what the paper calls it.
STATES = {
    "zero": ("zeros", "Eq. 2a of the paper"),
    "free": ("a learned variable", "Eq. 2b of the paper"),
    "context": ("g(context), the output of a network of the context", "Eq. 2c of the paper, there called learned"),
    "normal": ("a sample around g(context)", "Eq. 4 of the paper, there called a learned distribution"),
}
CONTEXTS = {
    "retrieval": "the first letter of a retrieval sequence",
    "decay": "the initial value and the period of a decay curve",
}


def ran(report: Report) -> set[str]:
    """The names of the tasks that have runs."""
    return {section.entry.name for section in report.sections}


def of_the_paper(report: Report) -> bool:
    return not ran(report).isdisjoint((RETRIEVAL.name, DECAY.name))


def subject(report: Report) -> str:
    """The line below the title."""
    start = "other states too"
    if of_the_paper(report):
        start = (
            "something learned: a variable (free), the output of a network of the context (context), or a sample from "
            "a normal distribution around that (normal), as Wenke and Fleming (2019) propose"
        )
    weights = ""
    if RETRIEVAL.name in ran(report):
        weights = "The authors' starting weights are those of their code, sound ones PyTorch's defaults. "
    return (
        f"A recurrent network usually starts from zeros. Here it starts from {start}. {weights}The words, figures and "
        "commands are explained below. The command contextual-rnn compare asks the same question of your own table."
    )


def glossary(report: Report) -> dict[str, str]:
    """Words and their meanings."""
    known = [state for state in report.states if state in STATES]
    states = [
        f"{state}: {meaning} ({paper})." if of_the_paper(report) else f"{state}: {meaning}."
        for state in known
        for meaning, paper in [STATES[state]]
    ]
    contexts = "; ".join(text for task, text in CONTEXTS.items() if task in ran(report))
    compared = BASELINE in report.states and len(report.states) > 1
    cells = [cell for section in report.sections for row in section.final_figures.rows for cell in row]
    words = {
        "Initial states": (known, " ".join(states)),
        "Context": (
            {"context", "normal"} & set(known),
            f"What is known before the first step{': ' if contexts else ''}{contexts}.",
        ),
        "Starting weights": (
            RETRIEVAL.name in ran(report),
            "How all weights of the network begin. The authors' are those of their code; sound ones are PyTorch's "
            "defaults.",
        ),
        "Learns the task": (RETRIEVAL.name in ran(report), "Passes 95 % accuracy on the validation set."),
        "Seed": (True, "A repetition with other random numbers. A result of one seed is an illustration."),
        "Median and interval": (
            True,
            "The middle value over seeds, and in brackets its 95 % bootstrap interval; of fewer than six seeds that is "
            "their span.",
        ),
        "Gain": (
            compared,
            "The median over seeds of the difference to the zero state of the same seed and data; positive is better.",
        ),
        "No significant difference": (compared, "The interval of the gain contains zero."),
        "Running free": (
            DECAY.name in ran(report),
            "Each prediction is fed back as the next input, from the first value alone.",
        ),
        "Diverged": (
            any("diverged" in cell for cell in cells),
            "The loss was not finite. Such runs do not count.",
        ),
    }
    return {word: meaning for word, (there, meaning) in words.items() if there}
