"""A run that could start: everything is read and checked, and nothing is written yet."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from msgspec import structs

from zoedge.bundle import Bundle
from zoedge.manifest import Manifest
from zoedge.options import TuneOptions

from .data import InMemory, KeyNames, Record, hold_out, read
from .data.alike import alike_notes
from .data.batches import MicroBatch, fixed_rows, micro_batches
from .data.buckets import padded
from .data.dataset import Dataset, encode_rows
from .data.facts import Facts
from .data.keys import named
from .data.remarks import Altered, remarks
from .device import Device, Grain, open_device
from .losses.objectives import Objective, beside, module_folder, objective
from .machine.threads import threads_for
from .measuring.measure import Measure
from .measuring.target_scale import InUnits, target_scale
from .noise.permutation import permutation
from .passes.bounds import Bounds, bounds_beside
from .passes.frozen import frozen_where
from .passes.prefix_cache import PrefixCache
from .passes.ways.caching import Recurring
from .passes.ways.choice import choose_way
from .passes.ways.situation import Situation
from .passes.ways.use import form_uses
from .plan import MAX_FOLDS, UNBOUNDED_STEPS, Plan, make_plan, on_device
from .records import Assign
from .run.certainty import validation_notes
from .run.fold import FULL, Fold
from .run.method import method_of
from .spaces.parameters import Parameters, load_buffers, map_exported
from .start.activations import branch_bases
from .start.initial import initial_head
from .start.precision import settled_precision
from .start.probe import deal
from .start.refit import Forward, HeadRefit, fitted_rows
from .tasks import Task, task_for
from .tasks.columns import Columns, by_name, columns_of
from .tasks.columns import told as columns_told
from .tasks.plain import asked_shape
from .tasks.regression import Standardised


@dataclass(frozen=True)
class Job:
    """What a tuner needs.

    Attributes:
        bundle: what is tuned.
        data: the encoded rows.
        plan: the settings, all decided.
        fold: the state before the first record.
        measure: losses and metrics.
        refit: solves the head again and again; None where directions move it or there is none.
        bases: of the directions of LoRA branches; None where none are moved in, or the run has begun.
        initial: those, and the first values of a moved new head; None where there are neither.
        notes: sentences the user should read.
        form: of the whole graph, which the run keeps.
        cache: what keeps results of the layers before the first trained one; None where nothing does.
    """

    bundle: Bundle
    data: Splits
    plan: Plan
    fold: Fold
    measure: Measure
    refit: HeadRefit | None
    bases: Assign | None
    initial: Callable[[], Assign] | None
    notes: tuple[str, ...]
    form: str
    cache: PrefixCache | None = None

    def close(self) -> None:
        """Give back the disk that the run took for itself."""
        if self.cache is not None:
            self.cache.close()


class Splits(NamedTuple):
    """Training rows, validation rows where there are any, and what was found out about both."""

    train: Dataset
    valid: Dataset | None
    facts: Facts = Facts()
    columns: str = ""  # which columns are what, in words


def read_rows(
    bundle: Bundle,
    device: Device,
    data: str | InMemory,
    options: TuneOptions,
    given: Collection[str] = (),
    facts: Facts | None = None,
) -> tuple[Splits, Plan]:
    """Read and encode the data, and decide what the run will do with it.

    Args:
        bundle: what to tune.
        device: what will run it.
        data: the rows.
        options: the user's, or those of the run that is continued.
        given: the options that the user named; those without effect are noted.
        facts: of the run that is continued; None where they are still to be found out.

    Raises:
        InputError: something can't be used.
    """
    manifest = bundle.manifest
    # an unknown one is said before the data is read
    with beside(facts.objective_folder if facts else ""):
        goal = objective(options.objective, manifest, options.objective_direction)
    if ":" in options.objective:
        options = structs.replace(options, objective_direction="max" if goal.maximised else "min")
    keys = KeyNames.of(options)
    raw, raw_valid = read(data, "train"), read(data, "valid")
    known = manifest.feature_names if facts is None else facts.columns
    rows, headed = named(raw, keys, () if facts is None else facts.header, known)
    plan = make_plan(options, manifest, len(rows), raw_valid is not None, given, device=device)
    options = plan.options
    columns = columns_of(rows, manifest, known)
    if headed:
        columns = replace(columns, positions=True)
    words = columns_told(rows[0], columns, manifest, keys.label)
    features = tuple(known) or columns.features
    header = _header(columns, raw[0], facts)
    source = _Source(
        by_name(rows, columns, manifest),
        _by_header(raw_valid, keys, header, features, manifest) if raw_valid else None,
        stratified=facts is None or facts.stratified,
    )
    task = task_for(bundle, options.seed, options.truncation_side)
    train, valid = source.encoded(task, options)
    altered = remarks(Altered.of(train, valid), manifest, options.truncation_side)
    scale = target_scale(bundle, device, str(data), train, options) if facts is None else facts.target
    if scale is not None and scale.outputs:
        train, valid = source.encoded(Standardised(task, scale), options)
    size = len(valid) if valid else 0
    shape = asked_shape(rows[0], manifest)
    facts = facts or Facts(
        columns=features,
        header=header,
        target=scale,
        stratified=True,
        validation_rows=size,
        crossfit_rows=fitted_rows(len(train), plan.folds) if not size else 0,
        objective_folder=module_folder(options.objective),
        shape=shape,
    )
    notes = (
        *altered,
        *((str(scale),) if scale else ()),
        *alike_notes(train, manifest),
        *validation_notes(train, valid, manifest, facts.crossfit_rows),
    )
    return Splits(train, valid, facts, words), replace(plan, notes=(*plan.notes, *notes))


def _header(columns: Columns, first: Record, facts: Facts | None) -> tuple[str, ...]:
    """Return the names of all columns of the training file; () where it has none."""
    if facts is not None:
        return facts.header
    return first.names if columns.features and not columns.positions else ()


def _by_header(
    records: Sequence[Record],
    keys: KeyNames,
    header: tuple[str, ...],
    features: tuple[str, ...],
    manifest: Manifest,
) -> Sequence[Record]:
    """Return validation rows whose columns are those of the training file."""
    rows, _ = named(records, keys, header, features)
    return by_name(rows, columns_of(rows, manifest, features, header), manifest)


def in_precision(
    bundle: Bundle, device: Device, splits: Splits, plan: Plan, asked: TuneOptions
) -> tuple[Device, Plan]:
    """Return the device in the precision that suits a run, and the plan for it.

    Args:
        bundle: what is tuned.
        device: as it was opened for the options.
        splits: the rows.
        plan: for that device.
        asked: the options; one that names a precision gets it.
    """
    options = plan.options
    if asked.precision != "auto" or len(device.precisions) == 1:
        return device, plan

    def other(precision: str) -> Device:
        return open_device(options.provider, options.threads, precision)

    def batches(where: Device) -> list[MicroBatch]:
        return a_batch(splits.train, bundle.manifest, options, where.grain)

    goal = _goal(options, bundle.manifest, splits.facts)
    chosen, told = settled_precision(bundle, device, batches, goal, options.eps or 0.0, other)
    return chosen, on_device(replace(plan, notes=(*plan.notes, told)), chosen, asked.placement)


def make_job(
    bundle: Bundle,
    device: Device,
    splits: Splits,
    plan: Plan,
    folder: Path | None = None,
    *,
    begun: bool = False,
    form: str | None = None,
) -> Job:
    """Open what a run needs: buffers, a session, and what refits and evaluates.

    Args:
        bundle: what is tuned.
        device: what runs it.
        splits: the rows.
        plan: what is to be done.
        folder: where disk may be taken until the job is closed; None for nowhere.
        begun: the run has its first values already.
        form: of the whole graph, as the run was begun with it; None for by the forms' rules.
    """
    manifest, options = bundle.manifest, plan.options
    goal = _goal(options, manifest, splits.facts)
    # before the run's own session is open: what this holds is gone by then
    bases = None if begun else _branch_bases(bundle, device, options, splits.train)
    fold = build_fold(bundle, device, plan)
    dealt = _deal(options.seed, len(splits.train), plan.folds)
    recurring = _recurring(folder, manifest, plan, len(splits.train))
    choice = choose_way(_situation(bundle, splits.train, fold, options, goal, recurring, form))
    wholes = form_uses(timed=False).items()
    chosen = {use.setting: "yes" if name == choice.form else "no" for name, use in wholes if use.setting}
    plan = replace(plan, options=structs.replace(options, points_per_pass=choice.asked, **chosen))
    measure = Measure(
        choice.forward,
        manifest,
        splits.train.examples,
        splits.valid.examples if splits.valid else (),
        goal,
        seed=options.seed,
        batch_size=options.batch_size,
        micro_batch_size=options.micro_batch_size,
        bounds=eval_bounds(options, manifest, splits.train, device.grain),
        dealt=dealt,
        goal=options.objective,
        probing=choice.probing,
        scale=splits.facts.target,
    )
    refit = head_refit(manifest, dealt or _deal(options.seed, len(splits.train), MAX_FOLDS), measure.forward)
    initial = None if begun else _initial(bundle, plan, refit, bases)
    notes = tuple(n for n in (*device.notes, choice.note, *plan.notes) if n)
    solved = refit if plan.solved else None
    if ":" in options.objective:
        # a new head may say nothing yet, as constant outputs correlate with nothing
        measure.check(finite=manifest.head is None or not manifest.head.fresh)
    return Job(bundle, splits, plan, fold, measure, solved, bases, initial, notes, choice.form, choice.cache)


def _situation(
    bundle: Bundle,
    train: Dataset,
    fold: Fold,
    options: TuneOptions,
    goal: Objective,
    recurring: Recurring | None,
    form: str | None,
) -> Situation:
    """Return what the way of measuring a step's points is chosen for."""
    manifest, parameters = bundle.manifest, fold.parameters
    device = parameters.device
    return Situation(
        bundle,
        parameters.buffers,
        varying=parameters.varying,
        batch=a_batch(train, manifest, options, device.grain),
        outputs=goal.outputs,
        points=fold.method.most_at_once,
        device=device,
        threads=threads_for(manifest, options.threads),
        frozen=frozen_where(bundle, device, options.prepack),
        recurring=recurring,
        rows=_layer_rows(manifest, options, train, device.grain),
        options=options,
        form=form,
    )


def eval_bounds(options: TuneOptions, manifest: Manifest, train: Dataset, grain: Grain) -> Bounds:
    """Return the bounds of the passes that evaluate a run."""
    rows = min(options.batch_size, options.micro_batch_size or options.batch_size)
    tokens = _layer_rows(manifest, options, train, grain) if manifest.text is not None else None
    return bounds_beside(rows, tokens, options.micro_batch_size)


def _layer_rows(manifest: Manifest, options: TuneOptions, train: Dataset, grain: Grain) -> int | None:
    """Return how many rows a layer sees in the largest pass that a step can have; None for pictures and the like."""
    rows = min(options.batch_size, options.micro_batch_size or options.batch_size)
    if manifest.text is not None:
        return rows * padded(int(train.lengths.max(initial=1)), manifest.text.max_length, grain)
    return rows if all(len(port.shape) <= 2 for port in manifest.inputs) else None


def _recurring(folder: Path | None, manifest: Manifest, plan: Plan, rows: int) -> Recurring | None:
    if folder is None:
        return None
    options = plan.options
    return Recurring(
        folder,
        options.prefix_cache,
        rows,
        epochs=(plan.total_steps or UNBOUNDED_STEPS) * options.batch_size / rows,
        most_rows=min(options.batch_size, options.micro_batch_size or options.batch_size),
        fixed_rows=fixed_rows(manifest),
    )


def build_fold(bundle: Bundle, device: Device, plan: Plan) -> Fold:
    """Return the state before the first record."""
    options = plan.options
    method = method_of(options)
    parameters = Parameters(
        bundle.manifest,
        load_buffers(bundle, device),
        seed=options.seed,
        method=method,
        placement=options.placement,
        lora_space=options.lora_space,
        device=device,
        fixed=plan.solved,
        exported=map_exported(bundle),
    )
    return Fold(method, parameters, eps=options.eps or 0.0)


@dataclass(frozen=True)
class _Source:
    """Records of the training data and of its validation split, and how rows are held out without one."""

    train: Sequence[Record]
    valid: Sequence[Record] | None
    stratified: bool

    def encoded(self, task: Task, options: TuneOptions) -> tuple[Dataset, Dataset | None]:
        """Return training and validation rows, encoded by a task."""
        rows = encode_rows(self.train, task)
        if self.valid is not None:
            return rows, encode_rows(self.valid, task)
        if not options.val_size:
            return rows, None
        classes = rows.classes if self.stratified else None
        kept, held = hold_out(len(rows), options.val_size, options.seed, classes)
        return rows.subset(kept), rows.subset(held)


def _goal(options: TuneOptions, manifest: Manifest, facts: Facts) -> Objective:
    """Return the objective, on the scale that the run takes its targets on."""
    goal, scale = objective(options.objective, manifest, options.objective_direction), facts.target
    if scale is None or (scale.outputs and options.objective == "loss"):
        return goal
    return InUnits(goal, scale)


def a_batch(train: Dataset, manifest: Manifest, options: TuneOptions, grain: Grain) -> list[MicroBatch]:
    """Return the passes of a step like those to come."""
    rows = permutation(options.seed, "zoedge.choice", 0, len(train))[: options.batch_size]
    return micro_batches(
        train.examples, rows, manifest=manifest, max_rows=options.micro_batch_size, grain=grain
    )


def _initial(
    bundle: Bundle, plan: Plan, refit: HeadRefit | None, bases: Assign | None
) -> Callable[[], Assign] | None:
    options = plan.options
    makers = []
    if not plan.solved:
        makers.append(initial_head(bundle.manifest, options.head_init, options.seed, refit))
    if bases is not None:
        makers.append(lambda: bases)
    given = [make for make in makers if make is not None]
    if not given:
        return None
    return lambda: Assign(0, {FULL: {name: v for make in given for name, v in make().slots[FULL].items()}})


def _branch_bases(bundle: Bundle, device: Device, options: TuneOptions, train: Dataset) -> Assign | None:
    """Return the record of the directions in which LoRA branches are moved, from some training rows."""
    if options.lora_space != "activations":
        return None
    return branch_bases(
        bundle,
        train.examples,
        permutation(options.seed, "zoedge.activations", 0, len(train)),
        device=device,
        threads=threads_for(bundle.manifest, options.threads),
        max_rows=options.micro_batch_size,
    )


def _deal(seed: int, rows: int, folds: int) -> list[list[int]]:
    return deal(permutation(seed, "zoedge.folds", 0, rows).tolist(), folds) if folds else []


def head_refit(manifest: Manifest, dealt: Sequence[Sequence[int]], forward: Forward) -> HeadRefit | None:
    """Return what solves a new head in closed form; None where there is no new head."""
    head = manifest.head
    if head is None or not head.fresh:
        return None
    shape = next(p.shape for p in manifest.parameters if p.name == head.weight)
    classes = shape[1] if head.transposed else shape[0]
    return HeadRefit(head, manifest.loss, classes, dealt, forward)
