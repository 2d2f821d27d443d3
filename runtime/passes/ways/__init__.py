"""Which way a run measures its points: several in a pass, parts computed once or kept, matrices from the left."""
