"""A new head: solved in closed form from features, cross-fitted."""
