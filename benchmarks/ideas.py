"""What each idea of the fast path is worth: a step with all of them, and with one switched off at a time.

    python benchmarks/ideas.py --channels 16 --cells 8 --batch 32 --rounds 5

A whole cell as one function, the compiled kernels, and on CUDA cells in few large operations do the work of the last
ideas in their own way; what those are worth shows without the former.

Every variant has its own process, and rounds go through all of them in turn, so that a machine that slows down slows
all alike. The figure is the median over rounds of (step without the idea) / (step with all, or without the former
alone). Other options are those of `search_step.py`. Memory is the peak of the process.
"""

from __future__ import annotations

import json
import statistics
import sys

from search_step import IDEAS, Path, environment, in_turn, parse

ALONE = {"cpu": ("kernels", "whole", "halves", "heap"), "cuda": ("gathered", "graphs", "halves")}
"""Ideas that count on a device by themselves."""
WITHIN = {
    "cpu": {"shared": "whole"} | dict.fromkeys(("channels-last", "depthwise", "products", "sums"), "kernels"),
    "cuda": dict.fromkeys(("shared", "channels-last", "products", "sums"), "gathered"),
}
"""Ideas that count only without another one."""


def main() -> None:
    options = parse()
    typed = {idea: ["--without", idea] for idea in IDEAS}
    variants = {"all": [], **{idea: typed[idea] for idea in ALONE[options.device]}}
    variants |= {f"{other}, {idea}": typed[other] + typed[idea] for idea, other in WITHIN[options.device].items()}
    paths = {name: Path("fast", typed) for name, typed in variants.items()}
    rounds = in_turn(paths, options.rounds)
    print("| without | α pass | w pass | step: times slower | peak memory |")
    print("|---|---|---|---|---|")
    for name, found in rounds.items():
        pairs = zip(found, rounds[name.split(", ")[0] if ", " in name else "all"], strict=True)
        slower = statistics.median((f["alpha"] + f["weight"]) / (a["alpha"] + a["weight"]) for f, a in pairs)
        alpha, weight = (statistics.median(f[key] for f in found) for key in ("alpha", "weight"))
        print(
            f"| {'(nothing)' if name == 'all' else name} | {alpha:.2f} s | {weight:.2f} s | {slower:.2f} "
            f"| {found[-1]['memory'] / 1000:.2f} GB |"
        )
    print(json.dumps({"arguments": sys.argv[1:], **environment(options)}))


if __name__ == "__main__":
    main()
