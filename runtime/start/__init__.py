"""What a run starts from: a new head, solved in closed form from features, and the directions of activations."""
