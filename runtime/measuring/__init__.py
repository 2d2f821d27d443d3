"""What is measured on rows: the losses of a step, evaluations, and the scale of targets."""
