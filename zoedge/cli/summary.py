"""Bundles, runs and journals in plain words, a line per fact."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from zoedge import options as tune_options
from zoedge.adapters import ADAPTERS
from zoedge.bundle import Bundle
from zoedge.errors import BundleError
from zoedge.manifest import MANIFEST_FILE, SETTING, Manifest, Port, said_apart
from zoedge.runtime.data.facts import Facts
from zoedge.runtime.losses.objectives import criterion_of
from zoedge.runtime.records import Assign, Eval, Step
from zoedge.runtime.run import journal as journals
from zoedge.runtime.run.certainty import best_text, metric_texts
from zoedge.runtime.run.journal import Contents
from zoedge.runtime.run.method import method_of, skipped
from zoedge.runtime.run.run_folder import Run
from zoedge.runtime.tasks.columns import names_of

_LAST = 5  # losses and names that a line shows

Rows = Iterable[tuple[str, str]]


def bundle_lines(bundle: Bundle) -> list[str]:
    """Return what a bundle is and what tuning it would change."""
    manifest = bundle.manifest
    source = manifest.source
    rows = [
        ("bundle", f"{bundle.folder} (format {manifest.format}, zoedge {manifest.zoedge})"),
        ("task", f"{manifest.task}, loss {manifest.loss}"),
        ("source", " ".join(filter(None, (source.kind, source.name, source.revision, source.architecture)))),
        ("labels", ", ".join(manifest.labels)),
        ("template", (manifest.text and manifest.text.template) or ""),
        ("inputs", _ports(manifest.inputs)),
        ("targets", _ports(manifest.targets)),
        ("outputs", _ports(manifest.outputs)),
        ("deployed", f"{_ports(manifest.model_inputs)} -> {_ports(manifest.model_outputs)}"),
        *_trainable(manifest),
        *_branches(manifest),
        ("kept apart", said_apart(manifest.kept_apart)),
        ("quantised", "" if manifest.quantization is None else str(manifest.quantization)),
    ]
    sizes = {name: bundle.path(name).stat().st_size for name in (MANIFEST_FILE, *manifest.files)}
    return (
        _aligned(rows) + ["files"] + [f"  {size:>14,} bytes  {name}" for name, size in sorted(sizes.items())]
    )


def run_lines(run: Run) -> list[str]:
    """Return how a run was started and how far it got."""
    options = msgspec.to_builtins(run.options)
    lines = _aligned(
        [("run", str(run.folder)), ("bundle", str(run.bundle_folder)), ("data", run.data), *_facts(run)]
    )
    lines += ["options", *(f"  {name}: {value}" for name, value in options.items() if value is not None)]
    try:
        contents = journals.read_journal(run.journal)
    except BundleError as error:
        return [*lines, f"journal: {error}"]
    return lines + _aligned(_course(contents, run.facts))


def _facts(run: Run) -> Rows:
    """Yield what the run found out about its data."""
    facts = run.facts
    if facts.columns:
        yield "columns", names_of(facts.columns)
    if facts.target is not None:
        yield "scale", str(facts.target)


def journal_lines(path: Path) -> list[str]:
    """Return what a journal was started on and what it holds."""
    contents = journals.read_journal(path)
    header = contents.header
    counts = Counter(type(record).__name__.lower() for record in contents.records)
    kinds = ", ".join(f"{counts[kind]} {kind}" for kind in ("step", "assign", "eval"))
    rows = [
        ("journal", f"{path} ({contents.size:,} bytes)"),
        ("bundle", header.bundle),
        ("data", header.data),
        ("seed", f"{header.seed} (noise version {header.noise})"),
        (
            "made by",
            ", ".join([f"zoedge {header.zoedge}", *(f"{k} {v}" for k, v in header.versions.items())]),
        ),
        ("method", str(header.options.get("method"))),
        ("records", kinds),
        *_course(contents),
        ("torn", f"{contents.torn:,} bytes behind the last good record" if contents.torn else ""),
    ]
    return _aligned(rows)


def _course(contents: Contents, facts: Facts | None = None) -> Rows:
    """Yield steps, losses and evaluations; the rows behind these where they are known."""
    records = contents.records
    steps = [record for record in records if isinstance(record, Step)]
    evaluations = [record for record in records if isinstance(record, Eval)]
    options = tune_options.make(contents.header.options, "the journal's header")
    method, left_out = method_of(options), skipped(records, options)
    yield "steps", f"{len(steps)} taken, {left_out} skipped for a loss or an update that was not finite"
    if steps:
        yield "last losses", ", ".join(f"{method.loss(step.answers):.4f}" for step in steps[-_LAST:])
    assigned = [record for record in records if isinstance(record, Assign)]
    if assigned:
        yield "assigned", f"{len(assigned)} times: {_names(assigned[-1])}"
    if evaluations:
        criterion = criterion_of(options, evaluations[-1].metrics)
        best = (max if criterion.maximised else min)(
            evaluations, key=lambda record: record.metrics[criterion.metric]
        )
        yield "evaluations", f"{len(evaluations)}, last {_evaluation(evaluations[-1])}"
        yield "best", best_text(best.step, best.metrics, facts or Facts()).removeprefix("best ")


def _names(record: Assign) -> str:
    """Return which tensors got computed values: a solved head, the directions of a branch."""
    return _some(sorted({name for values in record.slots.values() for name in values}))


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LAST} more" if len(names) > _LAST else ""
    return ", ".join(names[:_LAST]) + more


def _evaluation(record: Eval) -> str:
    return f"after step {record.step}: {', '.join(metric_texts(record.metrics))}"


def _trainable(manifest: Manifest) -> Rows:
    """Yield the share of elements that tuning changes, in all and by group."""
    total = manifest.elements
    groups: Counter[str] = Counter()
    for parameter in manifest.trainable:
        groups[parameter.group] += math.prod(parameter.shape)
    trained = groups.total()
    share = 100 * trained / total if total else 0.0
    yield (
        "trainable",
        f"{trained:,} of {total:,} parameters ({share:.2f} %) in {len(manifest.trainable)} tensors",
    )
    yield "groups", ", ".join(f"{group} {count:,}" for group, count in groups.most_common())
    yield "frozen", "; ".join(_frozen(manifest))
    settings = [row.name for row in manifest.frozen if row.reason == SETTING]
    yield (
        "settings",
        f"{len(settings)} of one number each, which are no parameters ({_some(settings)})"
        if settings
        else "",
    )


def _frozen(manifest: Manifest) -> Iterable[str]:
    """Yield what no run can train, a reason each: how much, and which."""
    rows = [row for row in manifest.frozen if row.size]
    reasons: Counter[str] = Counter()
    for row in rows:
        reasons[row.reason] += row.size
    for reason, count in reasons.most_common():
        yield f"{count:,} {reason} ({_some([row.name for row in rows if row.reason == reason])})"


def _branches(manifest: Manifest) -> Iterable[tuple[str, str]]:
    """Yield each kind of adapter with how many there are, and their settings."""
    for kind, modules in ADAPTERS.items():
        own = [branch for branch in manifest.branches if branch.kind == kind]
        settings = sorted({" ".join(f"{n} {v:g}" for n, v in branch.settings.items()) for branch in own})
        if own:
            yield modules.label, ", ".join(filter(None, (f"{len(own)} branches", *settings)))


def _ports(ports: Sequence[Port]) -> str:
    return ", ".join(f"{port.name} {port.dtype} [{', '.join(map(str, port.shape))}]" for port in ports)


def _aligned(rows: Rows) -> list[str]:
    """Return "name  value" lines; a row without a value is left out."""
    kept = [(name, value) for name, value in rows if value]
    width = max(len(name) for name, _ in kept)
    return [f"{name:<{width}}  {value}" for name, value in kept]
