"""What a training writes down and shows of itself."""
