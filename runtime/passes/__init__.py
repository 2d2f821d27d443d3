"""Forward passes: sessions, what they share between points, and what is kept of them."""
