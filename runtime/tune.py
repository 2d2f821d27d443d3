"""``zoedge tune``: a run is made or continued, once everything is known to be usable."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import closing
from functools import partial
from pathlib import Path

import msgspec

from zoedge import options as tune_options
from zoedge.bundle import Bundle
from zoedge.errors import BundleError, InputError
from zoedge.files import as_path
from zoedge.installed import module_version, version
from zoedge.options import TuneOptions
from zoedge.settings import flag

from .asked import Asked, Function, Options, asked
from .data import Data, InMemory, as_data
from .data.facts import Facts
from .device import open_device
from .job import Job, in_precision, make_job, read_rows
from .losses import objectives
from .measuring.target_scale import with_scale
from .noise.reference import NOISE_VERSION
from .plan import trainable_elements
from .preflight.alive import check_live
from .preflight.check import check
from .preflight.fineness import with_eps
from .preflight.trial import Ask
from .records import Header
from .run import journal as journals
from .run import snapshots
from .run.journal import Contents, Journal
from .run.opened import BundleLike, RunLike, folder_of, open_bundle, open_run
from .run.progress import Extent, Progress, Row, as_progress
from .run.run_folder import CONFIG_FILE, LOG_FILE, Log, Run, locked, remove_leftovers
from .run.steps import MeasuredHere
from .run.tuner import Parts, Tuner


def tune(
    bundle: BundleLike,
    data: Data | InMemory,
    output: RunLike,
    options: Options | None = None,
    *,
    objective: str | Function | None = None,
    given: Collection[str] | None = None,
    resume: bool = False,
    progress: Progress | Callable[[Row], object] | None = None,
    preflight: bool = True,
) -> Run:
    """Tune a bundle.

    Args:
        bundle: the folder that ``zoedge export`` wrote, or a ``Bundle``; with ``resume`` the run itself will do.
        data: a data file, a folder of splits, or a hub id; or rows in memory: a list of dicts, a dict of arrays, a
            pandas ``DataFrame``, a ``datasets.Dataset``, or a dict of these by split.
        output: the run's folder: new or empty, or with ``resume`` a run to continue.
        options: what to do, as ``TuneOptions`` or a dict; defaults suit the method and the bundle.
        objective: in place of the options': a name, or a function ``fn(outputs, targets) -> float`` as
            ``losses.objectives.FunctionObjective`` describes it. A resumed run must be given the function again; a
            replay needs none.
        given: the options that the user named: a resumed run must agree with them, and those without effect
            are noted. None takes those of a dict, or of ``TuneOptions`` those that differ from their defaults.
        resume: continue the run in ``output``; without a run there, start one.
        progress: who is told; nobody by default. A plain function is called with the log row of each step and of
            each evaluation.
        preflight: refuse a run that can't fit into the memory this process may hold.

    Returns:
        The run, finished.

    Raises:
        InputError: something given can't be used; nothing was written.
        RefusedError: the run can't fit into memory; nothing was written.
        KeyboardInterrupt: interrupted; the run is saved and can be resumed.
    """
    folder, wanted, rows = (
        folder_of(output, "the run's folder"),
        asked(options, given, objective),
        as_data(data),
    )
    told, source = as_progress(progress), _bundle_for(bundle, folder if resume else None)
    with objectives.functions_given(wanted.functions), locked(folder):
        contents = _journal_of(folder, resume)
        if contents is None:
            Run.check_new(folder)
        facts = None if contents is None else Run.open(folder).facts
        settled = wanted.options
        if contents is not None:
            settled = _continued(settled, wanted.given, contents.header, folder)
        begun = contents is not None and len(contents.records) > 0
        opened = open_bundle(source)
        if contents is not None:
            _check_bundle(contents.header, opened, folder)
        form = contents.header.form if contents is not None else None
        ready = _ready(opened, rows, settled, wanted, preflight, folder, begun=begun, facts=facts, form=form)
        with closing(ready) as job:
            if contents is not None:
                _check_same(contents.header, job, folder)
            remove_leftovers(folder)
            return _run(job, folder, str(rows), contents, told)


def _bundle_for(bundle: BundleLike, resumed: Path | None) -> BundleLike:
    """Return the bundle to tune; a run is no bundle, unless it is the one that is ``resumed``."""
    is_run = isinstance(bundle, Run) or (
        isinstance(bundle, str | Path) and (as_path(bundle, "a bundle") / CONFIG_FILE).is_file()
    )
    if is_run and (resumed is None or folder_of(bundle, "a run").resolve() != resumed.resolve()):
        run = open_run(bundle)
        raise InputError(
            f"{run.folder} is a run and not a bundle: go on with it by --resume -o {run.folder} (resume=True in "
            f"Python, with a run for the output), or start anew from its bundle {run.bundle_folder} (run.bundle() in "
            "Python)"
        )
    return bundle


def dry_run(
    bundle: BundleLike,
    data: Data | InMemory,
    options: Options | None = None,
    *,
    objective: str | Function | None = None,
    given: Collection[str] | None = None,
    preflight: bool = True,
) -> dict[str, str]:
    """Check everything ``tune`` would, write nothing, and return the header and the notes that it would print."""
    wanted, rows = asked(options, given, objective), as_data(data)
    source = _bundle_for(bundle, None)
    with objectives.functions_given(wanted.functions):
        job = _ready(open_bundle(source), rows, wanted.options, wanted, preflight, begun=True)
    return _header_lines(job, str(rows)) | ({"note": "; ".join(job.notes)} if job.notes else {})


def _ready(
    bundle: Bundle,
    data: str | InMemory,
    options: TuneOptions,
    wanted: Asked,
    preflight: bool,
    folder: Path | None = None,
    *,
    begun: bool,
    facts: Facts | None = None,
    form: str | None = None,
) -> Job:
    """Read everything, see whether it fits, and open it."""
    device = open_device(options.provider, options.threads, options.precision)
    splits, plan = read_rows(bundle, device, data, options, wanted.given, facts)
    device, plan = in_precision(bundle, device, splits, plan, options)
    options = msgspec.structs.replace(options, precision=plan.options.precision)
    if preflight:
        lengths = [rows.lengths.max(initial=0) for rows in (splits.train, splits.valid) if rows is not None]
        ask = Ask(
            bundle=str(bundle.folder),
            data=data,
            options=options,
            facts=splits.facts,
            own_objective=wanted.function is not None,
        )
        plan = check(ask, bundle.manifest, device, plan, int(max(lengths)))
    check_live(bundle, device, splits, plan.options)
    if facts is None and wanted.options.eps is None and wanted.options.precision != "auto":
        plan = with_eps(bundle, device, splits, plan)
    return make_job(bundle, device, splits, plan, folder, begun=begun, form=form)


def _journal_of(folder: Path, resume: bool) -> Contents | None:
    path = folder / journals.JOURNAL_FILE
    if not path.exists():
        return None
    if not resume:
        raise InputError(f"{folder} holds a run already: continue it with --resume or choose another -o")
    return journals.read_journal(path)


def _continued(asked: TuneOptions, given: Collection[str], header: Header, folder: Path) -> TuneOptions:
    """Return the saved options with what may change; a given one that differs and may not is an error.

    Threads and providers may round sums differently: bits are those of an uninterrupted run only with the same.
    """
    saved = tune_options.make(header.options, str(folder / journals.JOURNAL_FILE))
    was, now = tune_options.flat(saved), tune_options.flat(asked)
    changes = {}
    for name, setting in tune_options.known_settings().items():
        value = now.get(name)
        # None and "auto" leave it to what was chosen then
        if name not in given or name not in was or value in (was[name], None, "auto"):
            continue
        if not setting.free:
            raise InputError(
                f"{flag(name)} {value} differs from the {was[name]} that {folder} was started with: "
                f"leave it out to resume, or choose another -o"
            )
        changes[name] = value
    if "epochs" in changes:
        changes.setdefault("steps", None)
    return tune_options.make(was | changes)


def _check_bundle(header: Header, bundle: Bundle, folder: Path) -> None:
    if header.bundle != bundle.digest:
        raise BundleError(
            f"{folder} was started on another bundle than {bundle.folder}: resume it with that one"
        )


def _check_same(header: Header, job: Job, folder: Path) -> None:
    if header.data != job.data.train.digest:
        raise InputError(f"{folder} was started on other training data: resume it with the same --data")
    if header.valid is not None and header.valid != _valid_digest(job):
        raise InputError(
            f"{folder} was started with other validation rows, which its best weights were chosen by: "
            f"resume it with the same --data"
        )
    if header.noise != NOISE_VERSION:
        raise BundleError(
            f"{folder} was started with noise version {header.noise}, and this zoedge has {NOISE_VERSION}"
        )


def _run(job: Job, folder: Path, data: str, contents: Contents | None, progress: Progress) -> Run:
    if contents is None:
        run = Run.create(folder, job.bundle.folder, data, job.plan.options, job.data.facts)
        journal = Journal.create(run.journal, _header(job))
        contents = Contents(_header(job), [], 0, 0)
    else:
        run = Run.open(folder)
        snapshots.catch_up(run.snapshot, job.fold, contents.records)  # before anything is cut
        journal = Journal.reopen(run.journal, contents.size)
        changed = _changed_versions(contents.header)
        if changed:
            progress.note(
                f"{changed} since the run began: from here on its bits may differ from an uninterrupted run's"
            )
    log = Log(folder / LOG_FILE, job.fold.step)
    parts = _parts(job)
    progress.start(_header_lines(job, data), parts.extent, job.fold.step)
    for note in (*job.notes, *_new_schedule(contents.header, job), *_other_rounding(contents.header, job)):
        progress.note(note)
    if contents.torn:
        progress.note(
            f"the journal's last {contents.torn} bytes were torn; going on from step {job.fold.step}"
        )
    Tuner(parts, contents.records, run, journal, log, progress, elapsed_seconds=log.elapsed_seconds).run()
    return run


def _parts(job: Job) -> Parts:
    """Return what the run's loop turns."""
    return Parts(
        fold=job.fold,
        steps=MeasuredHere(job.measure),
        options=job.plan.options,
        extent=Extent(job.plan.total_steps, job.plan.max_seconds),
        criterion=job.measure.criterion,
        goal=job.measure.goal,
        names=[p.name for p in job.bundle.manifest.trainable],
        saved=lambda tensors: with_scale(tensors, job.data.facts.target, job.bundle.manifest),
        validation=job.measure.validation if job.data.valid is not None else None,
        facts=job.data.facts,
        refit=job.refit,
        initial=job.initial,
        news=partial(_news, job),
    )


def _news(job: Job) -> str | None:
    """Return what came up in the run's passes since it was last asked."""
    told = (job.fold.parameters.device.news(), job.cache.news() if job.cache is not None else None)
    return "; ".join(filter(None, told)) or None


def _other_rounding(header: Header, job: Job) -> list[str]:
    """Return what the user should know where an int8 base will round other rows together than it did."""
    was, now = header.options.get("points_per_pass"), job.plan.options.points_per_pass
    quantization = job.bundle.manifest.quantization
    if was == now or quantization is None or quantization.kind != "int8":
        return []
    return [
        f"the run was begun with {was or 1} points a pass and goes on with {now or 1}: int8 rounds activations to "
        "other steps from here on"
    ]


def _new_schedule(header: Header, job: Job) -> list[str]:
    """Return what the user should know where a resumed run is to be of another length than it was begun with."""
    options = job.plan.options
    names = ("steps", "epochs", "max_time")
    changed = [n for n in names if header.options.get(n) != getattr(options, n)]
    if not changed or options.lr_schedule == "constant":
        return []
    was, now = (
        ", ".join(f"{n.replace('_', '-')} {v}" for n, v in zip(names, values, strict=True) if v is not None)
        for values in ([header.options.get(n) for n in names], [getattr(options, n) for n in names])
    )
    return [
        f"the run was begun with {was} and goes on with {now}: from here on its {options.lr_schedule} learning rate "
        "falls over the new length"
    ]


def _header(job: Job) -> Header:
    return Header(
        bundle=job.bundle.digest,
        data=job.data.train.digest,
        valid=_valid_digest(job),
        seed=job.plan.options.seed,
        noise=NOISE_VERSION,
        options=tune_options.flat(job.plan.options),
        solved=job.plan.solved,
        form=job.form,
        zoedge=version(),
        versions={name: module_version(name) for name in ("numpy", "onnxruntime")},
    )


def _valid_digest(job: Job) -> str:
    return job.data.valid.digest if job.data.valid else ""


def _changed_versions(header: Header) -> str:
    now = {name: module_version(name) for name in header.versions}
    return ", ".join(f"{n} {old} became {now[n]}" for n, old in header.versions.items() if now[n] != old)


def _header_lines(job: Job, data: str) -> dict[str, str]:
    manifest, options = job.bundle.manifest, job.plan.options
    trained, total = trainable_elements(manifest)
    bound = [f"{job.plan.total_steps} steps"] if job.plan.total_steps else []
    bound += [options.max_time] if options.max_time else []
    validation = f"{len(job.data.valid)} held out for validation" if job.data.valid else "none held out"
    columns = {"columns": job.data.columns} if job.data.columns else {}
    return {
        "bundle": f"{job.bundle.folder} ({manifest.task})",
        "data": f"{data} ({len(job.data.train)} rows, {validation})",
        **columns,
        "trainable": f"{trained:,} of {total:,} parameters ({100 * trained / total:.2f} %), {options.placement}",
        "method": f"{options.method}, lr {options.lr:g} {options.lr_schedule}, eps {options.eps:g}, "
        f"{job.fold.method.told_points} points a step",
        **({"objective": _objective_line(job)} if options.objective != "loss" else {}),
        "device": f"{options.provider}, {options.precision}",
        "batch": f"{options.batch_size} rows, {' or '.join(bound)}, seed {options.seed}",
    }


def _objective_line(job: Job) -> str:
    by_loss = job.refit is not None and job.measure.criterion != job.measure.goal
    return f"{job.measure.goal}" + ("; the best weights are those of the least loss" if by_loss else "")
