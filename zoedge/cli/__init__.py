"""The command line: one file per command. Heavy packages are imported when a command runs."""
