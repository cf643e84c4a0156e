"""From the hub to the folders that a recipe names: what a source needs, fetched once, checked. Above the stages."""
