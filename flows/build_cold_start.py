"""build-cold-start/default: from a recipe to a validated data set, then training.

prefect deployment run build-cold-start/default
"""

from prefect import flow, get_run_logger

from flows.line import build_version
from schemas.recipe import Recipe
from tasks.versions import open_version, write_miniature_world
from umer1_core.recipes import miniature_recipe


@flow(name="build-cold-start", flow_run_name="build {recipe.name}", validate_parameters=True)
def build_cold_start(recipe: Recipe) -> str:
    """Sample, annotate, filter, publish and validate a data set, and start its training.

    The same recipe goes on where it stopped; a changed one opens a new version.
    """
    get_run_logger().info("Recipe:\n%s", recipe.model_dump_json(indent=2))
    if recipe.miniature:
        write_miniature_world(recipe.miniature)
    return build_version(recipe, open_version(recipe, "build"))


if __name__ == "__main__":
    build_cold_start(miniature_recipe())
