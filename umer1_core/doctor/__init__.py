"""Before a run: is everything there that a recipe names, and is it what the recipe takes it for? Above the stages."""
