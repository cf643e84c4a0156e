"""`umer1 …`: the same verbs as the flows, a file for each group of them."""

from umer1_core.cli import before, build, look, use
from umer1_core.cli.app import EXAMPLES, app

__all__ = ["EXAMPLES", "app", "before", "build", "look", "main", "use"]


def main() -> None:
    app()
