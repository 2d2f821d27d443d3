"""What this machine is and allows: memory, limits, threads, interrupts, compiling."""
