"""What steps.py and growth.py measure: each way of training as a process that takes one step when told to."""
