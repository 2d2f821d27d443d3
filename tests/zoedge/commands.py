"""The command line called in this process."""

from click.testing import CliRunner

from zoedge.cli.main import main

# six steps of nine forward passes each, whatever the defaults are
SIX_STEPS = (
    *("--method", "fzoo", "--steps", 6, "--batch-size", 8, "--queries", 8),
    *("--lr", 0.01, "--eps", 0.01, "--eval-every", 1),
)


def run(*arguments, code=0):
    """Call the command line in this process; return what it printed."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result


def error(*arguments, code=2):
    """The error of a command line that fails, without click's two lines of usage."""
    result = run(*arguments, code=code)
    assert "Traceback" not in result.output
    text = result.stderr
    return text.partition("\n\n")[2] if text.startswith("Usage: ") else text
