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
from .data.dataset import Dataset, encode
from .data.facts import Facts
from .data.remarks import Altered, remarks
from .head.initial import initial_head
from .head.probe import deal
from .head.refit import Forward, HeadRefit
from .losses.measure import Bounds, Measure, bounds_beside
from .losses.objectives import Objective, objective
from .losses.target_scale import InUnits, target_scale
from .machine.threads import threads_for
from .noise.kernels import add_terms_here
from .noise.permutation import permutation
from .noise.reference import Float32
from .passes.frozen import Array, frozen_tensors
from .passes.prefix_cache import PrefixCache
from .plan import MAX_FOLDS, UNBOUNDED_STEPS, Plan, make_plan
from .records import Assign
from .run.activations import branch_bases
from .run.certainty import validation_notes
from .run.fold import FULL, Fold
from .run.method import method_of
from .spaces.parameters import Parameters, load_buffers
from .tasks import Task, task_for
from .tasks.columns import by_name, columns_of
from .tasks.columns import told as columns_told
from .tasks.plain import shape_of
from .tasks.regression import Standardised
from .ways.caching import Recurring
from .ways.choice import choose
from .ways.situation import Situation


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
        directions: of LoRA branches; None where none are moved in, or the run has begun.
        initial: those, and the first values of a moved new head; None where there are neither.
        notes: sentences the user should read.
        cache: what keeps results of the layers before the first trained one; None where nothing does.
    """

    bundle: Bundle
    data: Splits
    plan: Plan
    fold: Fold
    measure: Measure
    refit: HeadRefit | None
    directions: Assign | None
    initial: Callable[[], Assign] | None
    notes: tuple[str, ...]
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
    data: str | InMemory,
    options: TuneOptions,
    given: Collection[str] = (),
    facts: Facts | None = None,
) -> tuple[Splits, Plan]:
    """Read and encode the data, and decide what the run will do with it.

    Args:
        bundle: what to tune.
        data: the rows.
        options: the user's, or those of the run that is continued.
        given: the options that the user named; those without effect are noted.
        facts: of the run that is continued; None where they are still to be found out.

    Raises:
        InputError: something can't be used.
    """
    manifest = bundle.manifest
    # an unknown one is said before the data is read
    goal = objective(options.objective, manifest, options.objective_direction)
    if ":" in options.objective:
        options = structs.replace(options, objective_direction="max" if goal.maximised else "min")
    keys = KeyNames.of(options)
    rows, valid_rows = read(data, "train", keys), read(data, "valid", keys)
    plan = make_plan(options, manifest, len(rows), valid_rows is not None, given)
    options = plan.options
    known = manifest.feature_names if facts is None else facts.columns
    columns = columns_of(rows, manifest, known)
    words = columns_told(rows[0], columns, manifest, keys.label)
    named = tuple(known) or columns.features
    source = _Source(
        by_name(rows, columns, manifest),
        by_name(valid_rows, columns_of(valid_rows, manifest, named), manifest) if valid_rows else None,
        stratified=facts is None or facts.stratified,
    )
    task = task_for(bundle, options.seed, options.truncation_side)
    train, valid = source.encoded(task, options)
    altered = remarks(Altered.of(train, valid), manifest, options.truncation_side)
    scale = target_scale(bundle, str(data), train, options) if facts is None else facts.target
    if scale is not None and scale.outputs:
        train, valid = source.encoded(Standardised(task, scale), options)
    size = len(valid) if valid else 0
    shape = shape_of(rows[0], manifest)
    facts = facts or Facts(columns=named, target=scale, stratified=True, validation_rows=size, shape=shape)
    notes = (
        *altered,
        *((str(scale),) if scale else ()),
        *alike_notes(train, manifest),
        *validation_notes(train, valid, manifest),
    )
    return Splits(train, valid, facts, words), replace(plan, notes=(*plan.notes, *notes))


def assemble(
    bundle: Bundle, splits: Splits, plan: Plan, folder: Path | None = None, *, begun: bool = False
) -> Job:
    """Open what a run needs: buffers, a session, and what refits and evaluates.

    Args:
        bundle: what is tuned.
        splits: the rows.
        plan: what is to be done.
        folder: where disk may be taken until the job is closed; None for nowhere.
        begun: the run has its first values already.
    """
    manifest, options = bundle.manifest, plan.options
    goal = _goal(options, manifest, splits.facts)
    # before the run's own session is open: what this holds is gone by then
    directions = None if begun else _branch_directions(bundle, options, splits.train)
    fold, buffers, note = build_fold(bundle, plan)
    dealt = _deal(options.seed, len(splits.train), plan.folds)
    choice = choose(
        Situation(
            bundle,
            buffers,
            varying=fold.parameters.varying,
            batch=_a_batch(splits.train, manifest, options),
            outputs=goal.outputs,
            points=fold.method.most_points,
            threads=threads_for(manifest, options.threads),
            provider=options.provider,
            frozen=frozen_where(bundle, options),
            recurring=_recurring(folder, manifest, plan, len(splits.train)),
            rows=_layer_rows(manifest, options, splits.train),
        ),
        options.probes_per_pass,
        options.few_rows,
    )
    plan = replace(
        plan,
        options=structs.replace(
            options, few_rows="yes" if choice.few_rows else "no", probes_per_pass=choice.asked
        ),
    )
    measure = Measure(
        choice.forward,
        manifest,
        splits.train.examples,
        splits.valid.examples if splits.valid else (),
        goal,
        seed=options.seed,
        batch_size=options.batch_size,
        micro_batch_size=options.micro_batch_size,
        bounds=eval_bounds(options, manifest, splits.train),
        dealt=dealt,
        goal=options.objective,
        probing=choice.probing,
        scale=splits.facts.target,
    )
    refit = head_refit(manifest, dealt or _deal(options.seed, len(splits.train), MAX_FOLDS), measure.forward)
    initial = None if begun else _initial(bundle, plan, refit, directions)
    notes = tuple(n for n in (note, choice.note, *plan.notes) if n)
    solved = refit if plan.solved else None
    if ":" in options.objective:
        # a head that is assigned first may say nothing yet, as constant outputs correlate with nothing
        measure.check(finite=initial is None and solved is None)
    return Job(bundle, splits, plan, fold, measure, solved, directions, initial, notes, choice.cache)


def eval_bounds(options: TuneOptions, manifest: Manifest, train: Dataset) -> Bounds:
    """Return the bounds of the passes that evaluate a run."""
    rows = min(options.batch_size, options.micro_batch_size or options.batch_size)
    tokens = _layer_rows(manifest, options, train) if manifest.text is not None else None
    return bounds_beside(rows, tokens, options.micro_batch_size)


def _layer_rows(manifest: Manifest, options: TuneOptions, train: Dataset) -> int | None:
    """Return how many rows a layer sees in the largest pass that a step can have; None for pictures and the like."""
    rows = min(options.batch_size, options.micro_batch_size or options.batch_size)
    if manifest.text is not None:
        return rows * padded(int(train.lengths.max(initial=1)), manifest.text.max_length)
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


def frozen_where(bundle: Bundle, options: TuneOptions) -> dict[str, Array] | None:
    """Return the frozen tensors where sessions are to use them in place; None where they may copy them."""
    return frozen_tensors(bundle) if options.prepack == "no" else None


def build_fold(bundle: Bundle, plan: Plan) -> tuple[Fold, dict[str, Float32], str | None]:
    """Return the state before the first record, the buffers it moves, and a note about the noise kernel."""
    options = plan.options
    method = method_of(options)
    buffers = load_buffers(bundle)
    add_terms, note = add_terms_here(options.threads)
    parameters = Parameters(
        bundle.manifest,
        buffers,
        seed=options.seed,
        method=method,
        placement=options.placement,
        lora_space=options.lora_space,
        add_terms=add_terms,
        fixed=plan.solved,
    )
    return Fold(method, parameters, eps=options.eps or 0.0), buffers, note


@dataclass(frozen=True)
class _Source:
    """Records of the training data and of its validation split, and how rows are held out without one."""

    train: Sequence[Record]
    valid: Sequence[Record] | None
    stratified: bool

    def encoded(self, task: Task, options: TuneOptions) -> tuple[Dataset, Dataset | None]:
        """Return training and validation rows, encoded by a task."""
        rows = encode(self.train, task)
        if self.valid is not None:
            return rows, encode(self.valid, task)
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


def _a_batch(train: Dataset, manifest: Manifest, options: TuneOptions) -> list[MicroBatch]:
    """Return the passes of a step like those to come."""
    rows = permutation(options.seed, "zoedge.choice", 0, len(train))[: options.batch_size]
    return micro_batches(train.examples, rows, manifest=manifest, max_rows=options.micro_batch_size)


def _initial(
    bundle: Bundle, plan: Plan, refit: HeadRefit | None, directions: Assign | None
) -> Callable[[], Assign] | None:
    options = plan.options
    makers = []
    if not plan.solved:
        makers.append(initial_head(bundle.manifest, options.head_init, options.seed, refit))
    if directions is not None:
        makers.append(lambda: directions)
    given = [make for make in makers if make is not None]
    if not given:
        return None
    return lambda: Assign(0, {FULL: {name: v for make in given for name, v in make().slots[FULL].items()}})


def _branch_directions(bundle: Bundle, options: TuneOptions, train: Dataset) -> Assign | None:
    """Return the record of the directions in which LoRA branches are moved, from some training rows."""
    if options.lora_space != "activations":
        return None
    return branch_bases(
        bundle,
        train.examples,
        permutation(options.seed, "zoedge.activations", 0, len(train)),
        threads=threads_for(bundle.manifest, options.threads),
        provider=options.provider,
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
