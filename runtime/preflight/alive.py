"""A run on a device where its tensors aren't live is refused."""

from __future__ import annotations

from zoedge.bundle import Bundle
from zoedge.errors import InputError
from zoedge.options import TuneOptions

from ..device import Device
from ..job import Splits, a_batch
from ..machine.threads import threads_for
from ..passes.live import Liveness, liveness


def check_live(bundle: Bundle, device: Device, splits: Splits, options: TuneOptions) -> Liveness | None:
    """See that changes of every trained tensor reach the loss; None where export showed it.

    Args:
        bundle: what is tuned.
        device: what runs it.
        splits: the rows.
        options: of the run.

    Raises:
        InputError: one doesn't.
    """
    if device.shown_live:
        return None
    batch = a_batch(splits.train, bundle.manifest, options, device.grain)[0]
    found = liveness(bundle, device, batch, threads_for(bundle.manifest, options.threads))
    if found.dead:
        more = f" and {len(found.dead) - 1} more" if len(found.dead) > 1 else ""
        raise InputError(
            f"--provider {options.provider} doesn't follow changes of {found.dead[0]}{more}, so tuning could not "
            "reach them: use --provider cpu, or export without them"
        )
    return found
