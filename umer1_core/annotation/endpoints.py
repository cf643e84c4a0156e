"""Where the servers are: the recipe's endpoints and those of its endpoints file, which may change during a run."""

from __future__ import annotations

import fsspec

from schemas.recipe import Annotation, holds_credentials
from umer1_core.errors import RecipeError


def read_endpoints(annotation: Annotation, endpoints: list[str]) -> list[str]:
    """`endpoints` and, where the recipe names a file, the addresses in it, a line each; `#` starts a comment.

    Raises RecipeError for a line that is no address or holds a secret, OSError when the file cannot be read.
    """
    if not annotation.endpoints_file:
        return endpoints
    with fsspec.open(annotation.endpoints_file, "rt") as file:
        lines = [line.partition("#")[0].strip() for line in file]
    listed = [line for line in lines if line]
    for number, address in enumerate(listed, 1):
        if not address.startswith(("http://", "https://")) or holds_credentials(address):
            raise RecipeError(
                f"Address {number} in {annotation.endpoints_file} is no plain http address.",
                "Write one base URL a line, as http://host:8000/v1, without user, key or query.",
            )
    return list(dict.fromkeys([*endpoints, *listed]))
