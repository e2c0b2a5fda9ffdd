"""What each idea of the fast path is worth: a step with all of them, and with one switched off at a time.

    python benchmarks/ideas.py --channels 16 --cells 8 --batch 32 --rounds 5

Every variant has its own process, and rounds go through all of them in turn, so that a machine that slows down slows
all alike. The figure is the median over rounds of (step without the idea) / (step with all). Other options are those of
`search_step.py`. Memory is the peak of the process.
"""

from __future__ import annotations

import json
import statistics
import sys

from search_step import IDEAS, Path, environment, in_turn, parse


def main() -> None:
    options = parse()
    variants = {"all": [], **{idea: ["--without", idea] for idea in IDEAS}}
    paths = {name: Path("fast", typed) for name, typed in variants.items()}
    rounds = in_turn(paths, options.rounds)
    print("| without | α pass | w pass | step: times slower | peak memory |")
    print("|---|---|---|---|---|")
    for name, found in rounds.items():
        pairs = zip(found, rounds["all"], strict=True)
        slower = statistics.median((f["alpha"] + f["weight"]) / (a["alpha"] + a["weight"]) for f, a in pairs)
        alpha, weight = (statistics.median(f[key] for f in found) for key in ("alpha", "weight"))
        print(
            f"| {'(nothing)' if name == 'all' else name} | {alpha:.2f} s | {weight:.2f} s | {slower:.2f} "
            f"| {found[-1]['memory'] / 1000:.2f} GB |"
        )
    print(json.dumps({"arguments": sys.argv[1:], **environment(options)}))


if __name__ == "__main__":
    main()
