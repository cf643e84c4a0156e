"""What all verbs share: how one is registered, how a mistake is answered, how a flow is started.

Verbs that need Prefect start it as a process of its own, so the library stays free of it. A user's mistake is answered
with a sentence, never with a traceback.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.markup import escape

from umer1_core.errors import Umer1Error
from umer1_core.recipes import MINIATURE_FOLDER

app = typer.Typer(
    help="Reason before you embed: build cold-start data, train and evaluate UME-R1 style embedding models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
console = Console(highlight=False)
RecipePath = Annotated[str, typer.Argument(help="A recipe (YAML)", metavar="RECIPE")]
Dataset = Annotated[str, typer.Argument(help="A version, as runs/miniature/v1, or the output that holds it")]
Port = Annotated[int, typer.Option(help="Port of the Prefect server")]
MINIATURE_RECIPE = str(MINIATURE_FOLDER / "recipe.yaml")
EXAMPLES: dict[str, str] = {}
Panel = Literal["Build", "Before a run", "Look at a data set", "Use a data set"]


def verb(panel: Panel, example: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a function as `umer1 <name>`; errors meant for people end it with exit code 1 and their sentence."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        @wraps(function)
        def run(*args: Any, **kwargs: Any) -> None:
            try:
                function(*args, **kwargs)
            except Umer1Error as error:
                console.print(f"[red]Error:[/] {escape(error.message)}", soft_wrap=True)
                if error.remedy:
                    console.print(escape(error.remedy), soft_wrap=True)
                raise typer.Exit(1) from None
            except KeyboardInterrupt:
                console.print("Stopped. The same command goes on where it stopped.")
                raise typer.Exit(130) from None

        EXAMPLES[function.__name__] = example
        return app.command(epilog=f"Example: [bold]{example}[/]", rich_help_panel=panel)(run)

    return register


def run_module(module: str, *arguments: str) -> None:
    """Become another module's process."""
    become([sys.executable, "-m", module, *arguments])


def become(command: list[str]) -> None:
    """Become another command's process: signals reach it, and what ends this command ends it too."""
    sys.stdout.flush()
    os.execv(command[0], command)
