"""Forward passes: sessions, what they share between probes, and what is kept of them."""
