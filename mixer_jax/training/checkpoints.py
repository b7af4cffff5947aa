"""Orbax in and out: asynchronous, the best and the last kept, a damaged one passed over aloud."""

import contextlib
import logging
import shutil
import sys
from pathlib import Path

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from mixer_jax.errors import MixerError
from mixer_jax.training.state import TrainState


class Checkpoints:
  """The checkpoints of a run directory.

  Args:
    best: the metric that decides which one to keep as the best (higher is better), or None.
    read_only: nothing in the directory is touched.
  """

  def __init__(self, workdir: Path, *, best: str | None = None, read_only: bool = False):
    logging.getLogger('absl').setLevel(logging.ERROR)  # Orbax tells every step of every save.
    self.folder = Path(workdir).resolve() / 'checkpoints'
    keep = [policies.LatestN(2)]
    if best:
      value = lambda metrics: metrics.get(best, float('-inf'))
      keep.append(policies.BestN(get_metric_fn=value, n=1, keep_checkpoints_without_metrics=False))
    options = ocp.CheckpointManagerOptions(
      preservation_policy=policies.AnyPreservationPolicy(keep), read_only=read_only, create=not read_only,
      cleanup_tmp_directories=not read_only,
    )  # fmt: skip
    with self._reported('opened'):
      self._manager = ocp.CheckpointManager(self.folder, options=options, item_names=('state',))

  def steps(self) -> list[int]:
    return sorted(self._manager.all_steps())

  def save(self, step: int, state: TrainState, metrics: dict[str, float]) -> None:
    """Starts to write; errors of this and earlier writes are raised here or in close()."""
    if step in self._manager.all_steps():
      return
    with self._reported(f'of step {step} written'):
      self._manager.save(step, args=ocp.args.Composite(state=ocp.args.StandardSave(state)), metrics=metrics or None)

  def restore(self, shapes: TrainState, step: int) -> TrainState:
    """The state of a step, laid out as `shapes` say, whatever devices it was written on.

    Raises:
      MixerError: the checkpoint is of another model.
      ValueError, OSError and others of Orbax's: it cannot be read.
    """
    self._check_shapes(shapes, step)
    return self._manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(shapes))).state

  def restore_last(self, shapes: TrainState, *, set_aside: bool) -> TrainState | None:
    """The newest state that can be read; None when there is no checkpoint at all.

    A damaged checkpoint is reported and passed over for the one before; `set_aside` also moves it out of the way, so
    that the run can write that step again.

    Raises:
      MixerError: there are checkpoints, but none can be read.
    """
    present = self.steps()
    for step in reversed(present):
      try:
        return self.restore(shapes, step)
      except MixerError:
        raise
      except Exception as error:  # Orbax and TensorStore raise whatever they like for a damaged file.
        reason = ' '.join(str(error).split())[:200]
        print(
          f'warning: the checkpoint of step {step} is damaged ({reason}); trying the one before',
          file=sys.stderr,
        )
        if set_aside and jax.process_index() == 0:
          shutil.move(self.folder / str(step), self.folder.parent / f'damaged_checkpoint_{step}')
      if set_aside:
        self._manager.reload()
    if present:
      raise MixerError(
        f'none of the checkpoints {present} in {self.folder} can be read; start again in another --workdir'
      )
    return None

  def close(self) -> None:
    """Waits until everything is on disk."""
    with self._reported('written'):
      self._manager.wait_until_finished()
      self._manager.close()

  def _check_shapes(self, shapes: TrainState, step: int) -> None:
    try:
      stored = self._manager.item_metadata(step).state
      stored = {_name(path): tuple(leaf.shape) for path, leaf in jax.tree.flatten_with_path(stored.tree)[0]}
    except Exception:  # Unreadable metadata: the restore that follows says what is wrong.
      return
    wanted = {_name(path): tuple(leaf.shape) for path, leaf in jax.tree.flatten_with_path(shapes)[0]}
    for name in [*wanted, *stored]:
      if wanted.get(name) != stored.get(name):
        raise MixerError(
          f'the checkpoint of step {step} in {self.folder} is of another model: {name} is'
          f' {stored.get(name, "missing")} there, but {wanted.get(name, "missing")} here; use its own config'
        )

  @contextlib.contextmanager
  def _reported(self, what: str):
    try:
      yield
    except Exception as error:
      reason = ' '.join(str(error).split())
      full = 'No space left on device' in reason or 'ENOSPC' in reason or 'RESOURCE_EXHAUSTED' in reason
      reason = 'no space left on the device' if full else reason[:300]
      raise MixerError(
        f'the checkpoint could not be {what} in {self.folder} ({reason}); the ones before it are intact: free'
        ' space or mend the permissions, then run the same command again'
      ) from error


def _name(path) -> str:
  return '/'.join(str(getattr(key, 'name', getattr(key, 'key', getattr(key, 'idx', key)))) for key in path)
