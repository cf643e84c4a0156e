"""A few rows of every source through the first rooms, and what the whole recipe would cost. Above the stages."""
