"""Runs benchmark groups and prints `name | ours | peer or plain way | ratio | goal | ok or short`."""

import importlib
import sys

from rich.console import Console

from tests.bench.line import Line

GROUPS = ("annotation", "data", "sft", "grpo", "quickstart")


def main() -> int:
    wanted = sys.argv[1:] or GROUPS
    console = Console(highlight=False, soft_wrap=True)
    unknown = set(wanted) - set(GROUPS)
    if unknown:
        console.print(f"There is no group {', '.join(sorted(unknown))}; there are {', '.join(GROUPS)}.")
        return 2
    console.print("name | ours | peer or plain way | ratio | goal | ok or short", style="bold")
    short = 0
    for group in wanted:
        for line in importlib.import_module(f"tests.bench.{group}").lines():
            console.print(render(line))
            short += not line.ok
    return 1 if short else 0


def render(line: Line) -> str:
    peer = f"{line.peer:,.4g} {line.unit} ({line.peer_name})"
    verdict = "ok" if line.ok else "short"
    return f"{line.name} | {line.ours:,.4g} {line.unit} | {peer} | {line.ratio:.2f} | {line.goal_text} | {verdict}"


if __name__ == "__main__":
    sys.exit(main())
