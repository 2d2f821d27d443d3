"""``zoedge tune``."""

from __future__ import annotations

from pathlib import Path

import click

from .. import options
from ..errors import InputError
from . import flags


@click.command(
    cls=flags.SettingsCommand, epilog="Example: zoedge tune bundle --data reviews.csv -o run --max-time 15m"
)
@click.argument("bundle", required=False, type=click.Path(path_type=Path))
@flags.data(required=False)
@flags.output("the run's folder; it must not exist, but with --resume")
@click.option(
    "--resume", is_flag=True, help="continue the run in the output folder; BUNDLE and --data are known then"
)
@click.option("--dry-run", is_flag=True, help="check everything and say what would be done")
@click.option(
    "--no-preflight", "preflight", flag_value=False, default=True, help="start even if memory won't do"
)
@click.option(
    "-c",
    "--config",
    type=click.Path(path_type=Path),
    help="YAML file of settings, or a run's config.yaml; flags beat it",
)
def tune(
    bundle: Path | None,
    data: str | None,
    output: Path,
    resume: bool,
    dry_run: bool,
    config: Path | None,
    preflight: bool,
    **given: object,
) -> None:
    """Tune BUNDLE on your data with forward passes alone."""
    from zoedge.runtime import tune as runtime
    from zoedge.runtime.losses.objectives import beside
    from zoedge.runtime.run.progress import for_terminal

    loaded = options.load_options(config, {n: value for n, value in given.items() if value is not None})
    settings, names = loaded.options, loaded.given
    bundle, data = bundle or (Path(loaded.bundle) if loaded.bundle else None), data or loaded.data
    bundle, data = _what(bundle, data, output, resume)
    if dry_run:
        with beside(loaded.objective_folder):
            lines = runtime.dry_run(bundle, data, settings, given=names, preflight=preflight)
        width = max(map(len, lines))
        click.echo("\n".join(f"{name:<{width}}  {value}" for name, value in lines.items()))
        return
    try:
        with beside(loaded.objective_folder):
            runtime.tune(
                bundle,
                data,
                output,
                settings,
                given=names,
                resume=resume,
                progress=for_terminal(),
                preflight=preflight,
            )
    except KeyboardInterrupt:
        if (output / "journal.zoj").exists():
            click.echo(f"Interrupted; go on with: zoedge tune --resume -o {output}", err=True)
        raise
    click.echo(f"{output} holds the tuned weights")


def _what(bundle: Path | None, data: str | None, output: Path, resume: bool) -> tuple[Path, str]:
    """Return the bundle and the data; a run that is resumed knows its own."""
    from zoedge.runtime.run.run_folder import CONFIG_FILE, Run

    if resume and (output / CONFIG_FILE).is_file():
        run = Run.open(output)
        bundle, data = bundle or run.bundle_folder, data or run.data
    if bundle is None and resume:
        raise InputError(f"{output} holds no run that could be resumed: give the -o that it was started with")
    if bundle is None:
        raise InputError(
            "no BUNDLE is given: zoedge tune BUNDLE --data DATA -o RUN (zoedge export makes bundles)"
        )
    if data is None:
        raise InputError(f"no --data is given: name the rows to tune {bundle} on, like --data rows.csv")
    return bundle, data
