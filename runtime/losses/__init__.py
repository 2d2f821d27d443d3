"""What outputs come down to: losses, metrics, objectives."""
