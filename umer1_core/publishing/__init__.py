"""Publishing: the tables people train on, and where every row and token went."""
