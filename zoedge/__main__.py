"""``python -m zoedge``."""

from .cli.main import main

if __name__ == "__main__":
    main(prog_name="zoedge")
