"""The command group, and the one place where errors become sentences and exit codes.

0 done    1 failed    2 usage or bad input    3 refused by a check    130 interrupted
"""

from __future__ import annotations

import errno
from typing import Any

import click

from ..errors import ZoedgeError
from ..installed import version
from .adapter import adapter
from .bench import bench
from .doctor import doctor
from .estimate import estimate
from .evaluate import evaluate
from .export import export
from .inspect import inspect
from .merge import merge
from .methods import methods
from .predict import predict
from .replay import replay
from .tune import tune

_INTERRUPTED = 130
_DEBUG = "zoedge.debug"

# what to do about failures of the operating system; others speak for themselves
_REMEDIES = {
    errno.ENOSPC: "free some space or write elsewhere",
    errno.EDQUOT: "free some space or write elsewhere",
    errno.EACCES: "check its permissions or choose another path",
    errno.EPERM: "check its permissions or choose another path",
    errno.EROFS: "choose a path that can be written",
}


class Commands(click.Group):
    """A group whose commands fail with a sentence; ``--debug``, in any place, adds the traceback."""

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        """Add a command that takes ``--debug`` too."""
        cmd.params.append(_debug_option(hidden=True))
        super().add_command(cmd, name)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise click.exceptions.Exit(_INTERRUPTED) from None
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except Exception as error:
            if ctx.meta.get(_DEBUG):
                raise
            message, exit_code = failure(error)
            click.echo(f"Error: {message}", err=True)
            raise click.exceptions.Exit(exit_code) from error


def failure(error: Exception) -> tuple[str, int]:
    """Return the sentence and the exit code of an error."""
    if isinstance(error, ZoedgeError):
        return str(error), error.exit_code
    if isinstance(error, MemoryError):
        return "not enough memory: lower --micro-batch-size, or tune fewer tensors", 1
    if isinstance(error, OSError) and error.strerror:
        name = f"{error.filename}: " if error.filename is not None else ""
        remedy = _REMEDIES.get(error.errno or 0)
        return f"{name}{error.strerror}" + (f": {remedy}" if remedy else ""), 1
    text = " ".join(str(error).split())
    return f"unexpected {type(error).__name__}: {text} (zoedge --debug shows where)", 1


def _remember(ctx: click.Context, option: click.Parameter, value: bool) -> None:
    ctx.meta[_DEBUG] = ctx.meta.get(_DEBUG, False) or value


def _debug_option(*, hidden: bool) -> click.Option:
    return click.Option(
        ["--debug"],
        is_flag=True,
        expose_value=False,
        callback=_remember,
        hidden=hidden,
        help="Show tracebacks of errors.",
    )


@click.group(
    cls=Commands,
    params=[_debug_option(hidden=False)],
    context_settings={
        "help_option_names": ["-h", "--help"],
        "token_normalize_func": lambda token: token.replace("_", "-"),
        "max_content_width": 110,
    },
)
@click.version_option(version(), prog_name="zoedge", message="%(prog)s %(version)s")
def main() -> None:
    """Fine-tune ONNX models on the device that runs them, with forward passes alone.

    \b
    zoedge export MODEL -o bundle --task text-classification --labels bad,good   on a workstation
    zoedge tune bundle --data reviews.csv -o run                                 on the device
    zoedge eval run --data reviews.csv
    zoedge merge run -o tuned                                                    a plain ONNX folder
    """


for _command in (
    *(export, estimate, tune, evaluate, predict, merge, adapter, replay),
    *(inspect, methods, bench, doctor),
):
    main.add_command(_command)
