"""Orbax checkpoints: written asynchronously; the best and the latest are kept, damaged ones skipped with a warning."""

import contextlib
import functools
import logging
import os
import shutil
import sys
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from mixer_jax.errors import MixerError
from mixer_jax.messages import logger
from mixer_jax.training import hosts
from mixer_jax.training.state import TrainState

NOT_DAMAGE = ('RESOURCE_EXHAUSTED', 'PERMISSION_DENIED', 'Permission denied', 'Too many open files')
OVERHEAD = 2**20  # a generous bound on a checkpoint's bytes beyond its arrays
FILES = 64  # of a checkpoint; orbax makes about 30
PATTERN = set('[]*?\\')  # orbax looks for its files by a pattern, in which these stand for something else


def checkpoints_in(workdir: Path) -> bool:
  """Whether a run directory has a checkpoint, even a damaged one."""
  return any(path.name.isdecimal() for path in (Path(workdir) / 'checkpoints').glob('*'))


class Checkpoints:
  """The checkpoints of a run directory.

  Args:
    best: the metric that selects the best checkpoint, or None.
    highest: whether higher values of it are better.
    read_only: leave the directory untouched.
  """

  def __init__(self, workdir: Path, *, best: str | None = None, highest: bool = True, read_only: bool = False):
    _log_warnings_only()
    _spare_late_threads()
    self.folder = Path(workdir).resolve() / 'checkpoints'
    self._best, self._sign, self._values, self._opened = best, 1 if highest else -1, {}, read_only
    options = ocp.CheckpointManagerOptions(
      preservation_policy=self, read_only=read_only, create=not read_only, cleanup_tmp_directories=not read_only
    )
    with self._reported('opened'):
      # Metadata can be read before the first save or restore only if the handler is given, not just its name.
      handlers = {'state': ocp.StandardCheckpointHandler()}
      self._manager = ocp.CheckpointManager(self._plain(read_only), options=options, item_handlers=handlers)
    for step in self.steps():
      with contextlib.suppress(Exception), _without_warnings():  # Unreadable metadata: restoring that step reports it.
        self._note(step, self._written(step).get('metrics', {}))

  def steps(self) -> list[int]:
    return sorted(self._manager.all_steps())

  def save(self, step: int, state: TrainState, metrics: dict[str, float]) -> None:
    """Starts an asynchronous write; its errors are raised in the next save() or in close()."""
    if step in self._manager.all_steps():
      return
    self._note(step, metrics)
    with self._reported(f'written at step {step}'):
      self._manager.wait_until_finished()
      self._check_space(step, state)
      self._manager.save(
        step, args=ocp.args.Composite(state=ocp.args.StandardSave(state)),
        custom_metadata={'checksum': int(checksum(state)), 'metrics': metrics},
      )  # fmt: skip
      if not self._opened:
        self._open_first(step, state)

  def _plain(self, read_only: bool) -> Path:
    """The folder, or a link to it where orbax would misread its name."""
    if not PATTERN & set(str(self.folder)):
      return self.folder
    if not read_only:
      self.folder.mkdir(parents=True, exist_ok=True)
    link = Path(tempfile.mkdtemp(prefix='mixer-jax-')) / 'checkpoints'
    link.symlink_to(self.folder)
    weakref.finalize(self, shutil.rmtree, link.parent, ignore_errors=True)
    return link

  def _open_first(self, step: int, state: TrainState) -> None:
    """Opens the first checkpoint that this process wrote: its list of arrays, and one of them.

    A run whose checkpoints cannot be read stops here, not when they are needed.
    """
    self._manager.wait_until_finished()
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
    one = jax.tree.map(lambda _: ocp.PLACEHOLDER, shapes)._replace(step=shapes.step)
    given = ocp.args.PyTreeRestore(one, restore_args=ocp.checkpoint_utils.construct_restore_args(one))
    try:
      self._check_shapes(shapes, step, strict=True)
      reader = ocp.Checkpointer(ocp.PyTreeCheckpointHandler())
      read = reader.restore(self._manager.directory / str(step) / 'state', args=given).step
      if int(read) != int(state.step):
        raise ValueError(f'its step is {int(read)}')
    except Exception as error:
      reason = ' '.join(str(error).split())[:300]
      raise MixerError(
        f'the checkpoint of step {step} was written to {self.folder}, but cannot be opened again ({reason}); choose'
        ' another --workdir'
      ) from error
    self._opened = True

  def restore(self, shapes: TrainState, step: int) -> TrainState:
    """The state of a step with the shardings of `shapes`, whatever devices wrote it.

    Raises:
      MixerError: the checkpoint is damaged or belongs to another model.
    """
    try:
      return self._restore(shapes, step)
    except MixerError:
      raise
    except Exception as error:
      reason = ' '.join(str(error).split())[:200]
      raise MixerError(
        f'the checkpoint of step {step} in {self.folder} is damaged ({reason}); choose another one'
      ) from error

  def restore_last(self, shapes: TrainState, *, set_aside: bool) -> TrainState | None:
    """The newest readable state; None if there are no checkpoints.

    Damaged checkpoints are skipped with a warning. If an earlier one is readable, `set_aside` moves the damaged ones
    away, so that the run can write those steps again.

    Raises:
      MixerError: no checkpoint is readable, or reading failed for a reason other than damage.
    """
    damaged = []
    for step in reversed(self.steps()):
      try:
        state = self._restore(shapes, step)
      except MixerError:
        raise
      except Exception as error:  # Orbax and TensorStore may raise anything for a damaged file.
        reason = ' '.join(str(error).split())[:200]
        if isinstance(error, MemoryError) or any(sign in str(error) for sign in NOT_DAMAGE):
          raise MixerError(
            f'the checkpoint of step {step} in {self.folder} cannot be read here and now ({reason}); fix that, then'
            ' run the same command again'
          ) from error
        logger.warning(f'the checkpoint of step {step} is damaged ({reason}); trying the one before')
        damaged.append(step)
      else:
        if set_aside and damaged:
          self._set_aside(damaged)
        return state
    if damaged:
      raise MixerError(
        f'none of the checkpoints {damaged[::-1]} in {self.folder} can be read; start again in another --workdir'
      )
    return None

  def last_good(self) -> str:
    """Describes the last checkpoint for an error message, after waiting for pending writes."""
    self.close()
    last = self.steps()[-1:]
    return f'the last good checkpoint is of step {last[0]}' if last else 'there is no checkpoint yet'

  def _set_aside(self, steps: list[int]) -> None:
    if jax.process_index() == 0:
      for step in steps:
        aside = self.folder.parent / f'damaged_checkpoint_{step}'
        while aside.exists():
          aside = aside.with_name(aside.name + '_again')
        shutil.move(self.folder / str(step), aside)
    if jax.process_count() > 1:
      multihost_utils.sync_global_devices(f'checkpoints {steps} set aside')
    self._manager.reload()

  def close(self) -> None:
    """Waits for pending writes."""
    with self._reported('written'):
      self._manager.wait_until_finished()
      self._manager.close()

  def _restore(self, shapes: TrainState, step: int) -> TrainState:
    with _without_warnings():
      self._check_shapes(shapes, step)
      state = self._manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(shapes))).state
    written = self._written(step).get('checksum')
    if written is not None and int(checksum(state)) != written:
      raise ValueError('checksum mismatch: its arrays are not those that were written')
    return state

  def should_preserve(self, checkpoints, *, context) -> list[bool]:
    """Orbax's hook; its own policies forget the best checkpoint after a restart."""
    steps = [info.step for info in checkpoints]
    best = max((step for step in steps if step in self._values), key=lambda step: self._values[step], default=None)
    return [step == best or step in steps[-2:] for step in steps]

  def _note(self, step: int, metrics: dict[str, float]) -> None:
    if self._best in metrics:
      self._values[step] = self._sign * metrics[self._best]

  def _written(self, step: int) -> dict:
    """The metadata that save() wrote."""
    return self._manager.metadata(step).custom_metadata or {}

  def _check_space(self, step: int, state: TrainState) -> None:
    """Checks before writing: an Orbax save that fails midway prints a traceback for every array."""
    needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) + OVERHEAD
    disk = shutil.disk_usage(self.folder)
    if disk.total and disk.free < needed:  # Some remote file systems report a size of 0.
      raise MixerError(
        f'no space left on the device for the checkpoint of step {step} in {self.folder}: {needed / 2**20:,.1f} MiB'
        f' needed, {disk.free / 2**20:,.1f} MiB free; earlier checkpoints are intact: free space, then run the same'
        ' command again'
      )
    inodes = os.statvfs(self.folder)
    if inodes.f_files and inodes.f_favail < FILES:
      raise MixerError(
        f'no inodes left on the device for the checkpoint of step {step} in {self.folder}: it takes up to {FILES}'
        f' files, {inodes.f_favail} may still be made; earlier checkpoints are intact: remove files, then run the same'
        ' command again'
      )

  def _check_shapes(self, shapes: TrainState, step: int, *, strict: bool = False) -> None:
    try:
      stored = self._manager.item_metadata(step).state
      stored = {_name(path): tuple(leaf.shape) for path, leaf in jax.tree.flatten_with_path(stored.tree)[0]}
    except Exception:  # Unreadable metadata: the restore that follows reports it.
      if strict:
        raise
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
    except MixerError:
      raise
    except Exception as error:
      reason = ' '.join(str(error).split())
      if jax.process_count() > 1 and hosts.OF_OTHERS.search(reason):
        raise MixerError(
          f'the checkpoint could not be {what}, for another process did not answer: {reason[:300]}'
        ) from error
      full = 'No space left on device' in reason or 'ENOSPC' in reason or 'RESOURCE_EXHAUSTED' in reason
      reason = 'no space left on the device' if full else reason[:300]
      raise MixerError(
        f'the checkpoint could not be {what} in {self.folder} ({reason}); earlier checkpoints are intact: free space'
        ' or fix the permissions, then run the same command again'
      ) from error


@jax.jit
def checksum(state) -> jax.Array:
  """A uint32 checksum of a state, independent of its layout over devices.

  TensorStore verifies its indices but not every array. Wrapping sums do not depend on the order, and with odd weights
  any change of a single word changes the sum.
  """
  total = jnp.uint32(0)
  for leaf in jax.tree.leaves(state):
    leaf = leaf.astype(jnp.uint8) if leaf.dtype == bool else leaf
    words = jax.lax.bitcast_convert_type(leaf, f'uint{8 * leaf.dtype.itemsize}').astype(jnp.uint32)
    weights = 2 * jnp.arange(words.size, dtype=jnp.uint32).reshape(words.shape) + 1
    total = total * jnp.uint32(31) + (words * weights).sum(dtype=jnp.uint32)
  return total


def _log_warnings_only() -> None:
  """Orbax logs every step of every save, and what it raises; its warnings become lines of ours."""
  logging.getLogger('asyncio').setLevel(logging.CRITICAL)
  absl = logging.getLogger('absl')
  absl.setLevel(logging.WARNING)
  absl.propagate = False
  if not any(isinstance(handler, _Warnings) for handler in absl.handlers):
    absl.addHandler(_Warnings())


@functools.cache
def _spare_late_threads() -> None:
  """Silences what still reads a damaged checkpoint that orbax has given up: TensorStore's threads, its coroutines.

  The error itself has been raised by then.
  """
  before = sys.unraisablehook

  def hook(unraisable: Any) -> None:
    is_closed = unraisable.exc_type is RuntimeError and str(unraisable.exc_value) == 'Event loop is closed'
    code = getattr(unraisable.object, 'cr_code', None)
    if not is_closed and not (code and 'orbax' in code.co_filename):
      before(unraisable)

  sys.unraisablehook = hook


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
  """While a checkpoint is read: what is wrong with it is raised, and orbax's warnings would repeat it."""
  logging.getLogger('absl').setLevel(logging.CRITICAL)
  try:
    yield
  finally:
    logging.getLogger('absl').setLevel(logging.WARNING)


class _Warnings(logging.Handler):
  def emit(self, record: logging.LogRecord) -> None:
    text = ' '.join(record.getMessage().split())
    expected = 'read_only' in text or 'read only' in text
    if record.levelno == logging.WARNING and 'orbax' in record.pathname and not expected:
      logger.warning(f'checkpoints: {text[:300]}')


def _name(path) -> str:
  return '/'.join(str(getattr(key, 'name', getattr(key, 'key', getattr(key, 'idx', key)))) for key in path)
