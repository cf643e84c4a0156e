"""reannotate/nightly: a new version in which some sides are asked again and all others are taken over.

prefect deployment run reannotate/nightly
prefect deployment run reannotate/nightly --param mode=redrive
"""

from typing import Literal

from prefect import flow, get_run_logger

from flows.line import build_version
from schemas.recipe import Recipe
from tasks.versions import open_version, something_to_ask_again


@flow(name="reannotate", flow_run_name="{mode} {recipe.name}", validate_parameters=True)
def reannotate(recipe: Recipe, mode: Literal["reannotate", "redrive"] = "reannotate", reason: str = "") -> str:
    """Ask rejected, failed and outdated sides again (`reannotate`), or only the dead letters (`redrive`).

    reason: redrive only the dead letters of this reason; the others stay what they are.
    """
    if not something_to_ask_again(recipe, mode, reason):
        left = "kept and current" if mode == "reannotate" else "annotated"
        get_run_logger().info("Every side of the newest version is %s: there is nothing to do.", left)
        return ""
    return build_version(recipe, open_version(recipe, mode, reason))
