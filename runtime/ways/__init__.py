"""Which way a run measures its probes: several in a pass, parts computed once, matrices from the left."""
