"""reannotate/nightly: a new version in which rejected, failed and outdated sides are asked again.

prefect deployment run reannotate/nightly
"""

from prefect import flow, get_run_logger

from flows.line import build_version
from schemas.recipe import Recipe
from tasks.versions import open_version, something_to_reannotate


@flow(name="reannotate", flow_run_name="reannotate {recipe.name}", validate_parameters=True)
def reannotate(recipe: Recipe) -> str:
    """What the newest version kept under the present annotator is taken over; all other sides are asked again."""
    if not something_to_reannotate(recipe):
        get_run_logger().info("Every side of the newest version is kept and current: there is nothing to do.")
        return ""
    return build_version(recipe, open_version(recipe, "reannotate"))
