"""The names of the commands; imports nothing, so that naming them is quick."""

from __future__ import annotations

__all__ = ["COMMANDS"]

COMMANDS = {
    "search": "Search an architecture by gradient descent.",
    "retrain": "Train an architecture from scratch.",
    "random-search": "Train random architectures for a short time and take the best.",
    "study": "Compare methods over seeds, and report on every run.",
    "report": "Draw runs as one HTML file.",
    "export": "Write a retrained network as ONNX, or as a program of torch.export.",
    "predict": "Predict images, rows of a table or arrays with a retrained network.",
    "show": "Show an architecture in the terminal, as a picture, or as DOT.",
    "query": "Look an architecture up in the table of a benchmark.",
    "convert": "Write an architecture or weights in the form of another program.",
    "nni-run": "Run a script that was written for NNI, with archgrad under NNI's names.",
    "doctor": "Show what this installation has, and what is missing for which feature.",
    "spaces": "List the search spaces.",
    "steps": "List the bilevel steps: how the gradient of the alphas is computed.",
    "relaxations": "List the relaxations: how alphas become mixing weights.",
    "methods": "List the methods of search, and the parts that they are made of.",
}
"""Name -> what it does. A command is imported only when it runs, so that `--help` does not wait for torch."""
