"""Training that is lost: a loss that is no finite number."""

from __future__ import annotations

import io

import numpy as np

from pipeline.command import CommandError
from pipeline.dataset import HostSlice
from pipeline.format.storage import write_atomically
from trainer.plan import Plan, Position


def check_finite(losses: np.ndarray, position: Position, plan: Plan, *, keep_batch: bool) -> None:
    """Raises a CommandError that names the step if a loss is no finite number.

    Args:
      losses: float32 [n], of the steps from `position` on.
      position: before those steps.
      plan: of the run.
      keep_batch: whether to write the step's batch to the run, as bad_batch.npz.
    """
    bad = np.flatnonzero(~np.isfinite(losses))
    if not bad.size:
        return
    phase = plan.recipe.phases[position.phase]
    step = position.step + int(bad[0])
    saved = ""
    if keep_batch and not phase.cached_features:
        epoch, skip = divmod(step, plan.steps_per_epoch)
        epoch += plan.first_epoch(position.phase)
        batches = plan.train_data(epoch=epoch, skip_batches=skip, augment=phase.augment)(HostSlice())
        file = io.BytesIO()
        np.savez(file, **next(batches.as_numpy_iterator()))
        write_atomically(plan.run / "bad_batch.npz", file.getvalue())
        saved = f" (its batch: {plan.run / 'bad_batch.npz'})"
    raise CommandError(
        f"the loss became {losses[bad[0]]} in phase {phase.name} at step {step + 1}{saved}; "
        f"lower lr_max (it is {phase.lr_max:g}) or set optimizer.clip_norm=1"
    )
