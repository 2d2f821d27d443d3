"""What a run will do: the user's options with every open setting filled in for the bundle and the data."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import TypeVar

import msgspec

from zoedge.adapters import LORA, lora_branches
from zoedge.errors import InputError
from zoedge.manifest import ACTIVATIONS_FILE, Manifest
from zoedge.methods import Defaults, Duration, Length, Recipe, find_recipe
from zoedge.options import TuneOptions, checked, own, parse_size, seconds

from .data import held_out_rows
from .data.batches import steps_in
from .device import Device
from .run.method import method_of
from .spaces.elements import active_share, idle, moved_singly, size, written
from .spaces.parameters import BRANCH_SPACES, placement_for
from .start.convex import LOSSES
from .unused import Circumstances, unused

T = TypeVar("T")

MAX_FOLDS = 5
HOLD_OUT = 0.1
UNBOUNDED_STEPS = 250  # stands in for the length of a run that only time bounds
EVALUATIONS = 8  # a run evaluates about this often unless told otherwise


@dataclass(frozen=True)
class Plan:
    """A run's settings, all decided.

    Attributes:
        options: every None replaced, except steps, epochs and max_time where others bound the run.
        total_steps: steps after which the run ends; None when only time bounds it.
        max_seconds: seconds after which it ends; None when only steps bound it.
        solved: names of the head's tensors when it is solved in closed form instead of being moved.
        folds: cross-fitted heads; 0 without.
        notes: sentences the user should read.
    """

    options: TuneOptions
    total_steps: int | None
    max_seconds: float | None
    solved: tuple[str, ...]
    folds: int
    notes: tuple[str, ...] = ()


def solvable_head(manifest: Manifest) -> tuple[str, ...]:
    """Return the tensors of a new head that can be solved from features; () where there is none."""
    head = manifest.head
    if head is None or not head.fresh or manifest.loss not in LOSSES:
        return ()
    names = (head.weight,) if head.bias is None else (head.weight, head.bias)
    trainable = {p.name for p in manifest.trainable}
    return names if trainable.issuperset(names) else ()


def make_plan(
    options: TuneOptions,
    manifest: Manifest,
    rows: int,
    has_validation: bool,
    given: Collection[str] = (),
    *,
    device: Device | None = None,
) -> Plan:
    """Fill in what the user left open.

    Args:
        options: the user's.
        manifest: the bundle's.
        rows: training rows, held-out ones included.
        has_validation: whether the data has a validation split of its own.
        given: the options that the user named; those without effect are noted.
        device: what will run it; None for one that asks for nothing.

    Raises:
        InputError: a setting out of its range, an unknown method, or a batch larger than the data.
    """
    options = checked(options)
    recipe = find_recipe(options.method)
    defaults = recipe.defaults
    head = solvable_head(manifest) if options.head_init == "probe" else ()
    moved = [p for p in manifest.trainable if p.name not in head]
    solved = head if moved else ()  # a head alone is moved, from the probe on
    # the loss of a solved head on rows that it hasn't seen can validate, and nothing but the loss
    validated = has_validation or (bool(solved) and options.objective == "loss")
    held_out = options.val_size if options.val_size is not None else (0.0 if validated else HOLD_OUT)
    train_rows = rows if has_validation else rows - held_out_rows(rows, held_out)
    evaluates = has_validation or held_out > 0 or bool(solved)
    _check(options, rows, train_rows, evaluates=evaluates)
    parse_size(options.prefix_cache)
    folds = _folds(options.batch_size, train_rows) if solved else 0
    total = _total_steps(options, defaults.steps, train_rows)
    space = _lora_space(options, manifest, recipe)
    placement = placement_for(manifest, solved)
    small = placement == "out-of-place"
    length = _length(defaults, space, branches=bool(manifest.branches), small=small)
    filled = msgspec.structs.replace(
        options,
        lr=_or(options.lr, length.lr),
        eps=_or(options.eps, length.eps),
        method_options=msgspec.to_builtins(own(options).for_run(_duration(options, total, train_rows))),
        lr_schedule=options.lr_schedule or defaults.schedule,
        val_size=held_out,
        steps=total,
        epochs=None,
        eval_every=_or(options.eval_every, max(1, (total or UNBOUNDED_STEPS) // EVALUATIONS)),
        head_refit_every=_or(options.head_refit_every, max(1, (total or UNBOUNDED_STEPS) // EVALUATIONS)),
        placement=_placement(options, placement, device),
        precision=options.precision if device is None else device.precision,
        lora_space=space,
    )
    notes = _notes(filled, manifest, solved, given, has_validation=has_validation, evaluates=evaluates)
    return Plan(filled, total, seconds(options.max_time) if options.max_time else None, solved, folds, notes)


def _notes(
    filled: TuneOptions,
    manifest: Manifest,
    solved: tuple[str, ...],
    given: Collection[str],
    *,
    has_validation: bool,
    evaluates: bool,
) -> tuple[str, ...]:
    """Return what the user should know of settings that decide nothing."""
    method = method_of(filled)
    singly = moved_singly(manifest, filled, solved, method)
    here = Circumstances(
        manifest,
        find_recipe(filled.method),
        method,
        bool(solved),
        has_validation,
        evaluates,
        bool(singly),
        filled.points_per_pass,
    )
    notes = unused(given, here)
    if len(singly) == len(written(manifest, filled, solved)):  # nothing else moves
        notes += idle(singly, active_share(method))
    return notes


def on_device(plan: Plan, device: Device, asked: str) -> Plan:
    """Return a plan for another precision of a device.

    Args:
        plan: made for the device in float32.
        device: what will run it.
        asked: the placement that the user asked for.
    """
    options = plan.options
    placement = _placement(msgspec.structs.replace(options, placement=asked), options.placement, device)
    return replace(
        plan, options=msgspec.structs.replace(options, precision=device.precision, placement=placement)
    )


def _placement(options: TuneOptions, suited: str, device: Device | None) -> str:
    """Return where directions act: out of place where a device's sessions read no float32."""
    if device is None or not device.out_of_place:
        return suited if options.placement == "auto" else options.placement
    if options.placement == "in-place":
        raise InputError(
            f"--placement in-place is not possible with --precision {device.precision}, whose rounded weights would "
            "drift: leave it out, or give --precision float32"
        )
    return "out-of-place"


def _check(options: TuneOptions, rows: int, train_rows: int, *, evaluates: bool) -> None:
    if train_rows < 1:
        raise InputError(
            f"the data has {rows} row{'s' if rows > 1 else ''}, and holding {rows - train_rows} out for validation "
            "leaves none to train on: give more rows, a smaller --val-size, or --val-size 0 with --batch-size "
            f"{rows} or less"
        )
    if options.batch_size > train_rows:
        raise InputError(
            f"--batch-size {options.batch_size} is larger than the {train_rows} training rows: use at most {train_rows}"
        )
    if options.steps is not None and options.epochs is not None:
        raise InputError(
            f"--steps {options.steps} and --epochs {options.epochs:g} are both given: leave one out"
        )
    if options.early_stopping_patience is not None and (options.eval_every == 0 or not evaluates):
        raise InputError(
            "--early-stopping-patience needs evaluations: give --val-size or --eval-every above 0"
        )


def _folds(batch_size: int, rows: int) -> int:
    """Return into how many folds rows are dealt, each at least a batch."""
    if rows < 2 * batch_size:
        raise InputError(
            f"--batch-size {batch_size} is too large for the two halves of {rows} rows that a probed head is "
            f"cross-fitted on: use at most {max(1, rows // 2)}, or --head-init zeros"
        )
    return min(MAX_FOLDS, rows // batch_size)


def _length(defaults: Defaults, lora_space: str, *, branches: bool, small: bool) -> Length:
    if lora_space == "activations" and defaults.activations is not None:
        return defaults.activations
    if branches:
        return defaults.factors
    return defaults.small if small else defaults.dense


def _lora_space(options: TuneOptions, manifest: Manifest, recipe: Recipe) -> str:
    kind = recipe.build(recipe.options()).directions.kind
    moves = recipe.defaults.activations is not None and (LORA, kind, "activations") in BRANCH_SPACES
    possible = bool(lora_branches(manifest)) and ACTIVATIONS_FILE in manifest.files and moves
    if options.lora_space == "activations" and not possible:
        raise InputError(
            f"--lora-space activations needs LoRA branches and a method that moves between them, not {recipe.name} on "
            f"this bundle: leave it out"
        )
    return "activations" if possible and options.lora_space != "factors" else "factors"


def _total_steps(options: TuneOptions, default: int, rows: int) -> int | None:
    if options.steps is not None:
        return options.steps
    if options.epochs is not None:
        return steps_in(options.epochs, rows, options.batch_size)
    return None if options.max_time else default


def _duration(options: TuneOptions, total: int | None, rows: int) -> Duration:
    epoch_steps = steps_in(1.0, rows, options.batch_size)
    return Duration(epoch_steps, (total or UNBOUNDED_STEPS) / epoch_steps)


def _or(value: T | None, default: T) -> T:
    return default if value is None else value


def trainable_elements(manifest: Manifest) -> tuple[int, int]:
    """Return how many elements are trainable, and how many there are in all."""
    return manifest.trained_elements, manifest.elements


def written_elements(manifest: Manifest, plan: Plan) -> int:
    """Return how many elements of buffers a move writes; on average, where it moves a share of them in place."""
    options = plan.options
    count = sum(map(size, written(manifest, options, plan.solved)))
    if options.placement == "in-place":
        method = method_of(options)
        singly = sum(map(size, moved_singly(manifest, options, plan.solved, method)))
        count -= round((1.0 - active_share(method)) * singly)
    return count
