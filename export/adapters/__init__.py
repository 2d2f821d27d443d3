"""What is trained beside frozen matrices: which matrices, and how a kind of adapter gets into graphs."""
