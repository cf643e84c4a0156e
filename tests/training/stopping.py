"""Callbacks by which a test interrupts a training, or shows that it took no step."""

from collections.abc import Callable
from typing import Any


class Stopped(Exception):
    pass


def stop_after(step: int) -> Callable[[dict[str, Any]], None]:
    def stop(record: dict[str, Any]) -> None:
        if record["step"] == step:
            raise Stopped

    return stop


def never(record: dict[str, Any]) -> None:
    raise AssertionError(f"step {record['step']} was taken")
