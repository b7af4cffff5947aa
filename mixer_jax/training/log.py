"""A run's log: metrics.jsonl, TensorBoard, and a progress bar or plain lines."""

import contextlib
import errno
import json
import os
import socket
import sys
import time
from pathlib import Path

import tqdm
from tensorboardX import summary
from tensorboardX.proto import event_pb2
from tensorboardX.record_writer import RecordWriter

from mixer_jax.errors import MixerError
from mixer_jax.files import cannot_write, whole
from mixer_jax.messages import logger


def read_metrics(workdir: Path) -> list[dict[str, float]]:
  """The lines of metrics.jsonl, without a last line that a crash truncated; refuses one that is none, by its number."""
  path, found = Path(workdir) / 'metrics.jsonl', []
  for number, line in enumerate(path.read_bytes().split(b'\n')[:-1] if path.is_file() else [], start=1):
    try:
      found.append(json.loads(line))
      if not isinstance(found[-1]['step'], int):
        raise ValueError(f'step {found[-1]["step"]!r}')
    except (ValueError, TypeError, KeyError, RecursionError) as error:
      raise MixerError(
        f'{path}, line {number} is not a log line ({error}): {line[:60].decode(errors="replace")!r}; restore it or'
        ' take the line out'
      ) from error
  return found


class Log:
  """A run's log from `step` on; drops what a killed process logged after its last checkpoint.

  Args:
    total: steps of the whole run.
    write: False on all hosts but the first.
  """

  def __init__(self, workdir: Path, *, step: int, total: int, write: bool):
    self.path, self.total, self._write = Path(workdir) / 'metrics.jsonl', total, write
    self._seconds, self._since = 0.0, time.monotonic()
    self._steady: tuple[int, float] | None = None  # the first step that was reported and when: compilation is over
    self._bar, self._rate = None, ''
    if not write:
      return
    if self.path.is_file() and self.path.read_bytes()[-1:] not in (b'\n', b''):
      logger.warning(f'the last line of {self.path} was cut off, and is dropped')
    kept = [line for line in read_metrics(workdir) if line['step'] <= step]
    self._seconds = kept[-1]['time/seconds'] if kept else 0.0
    try:
      if self.path.is_file() or not self.path.exists():
        with whole(self.path) as part:
          part.write_text(''.join(json.dumps(line) + '\n' for line in kept), encoding='utf-8')
      self._file = self.path.open('ab', buffering=0)
      # Not SummaryWriter: on a full disk its thread dies, and then its queue blocks the run.
      name = f'events.out.tfevents.{int(time.time())}.{socket.gethostname()}'
      self._events = RecordWriter(str(self.path.with_name(name)))
    except OSError as error:
      raise cannot_write(self.path, error) from error
    self._event(file_version='brain.Event:2')
    if kept:  # makes TensorBoard discard a killed process's points after this step
      self._event(step=step + 1, session_log=event_pb2.SessionLog(status=event_pb2.SessionLog.START))

  @property
  def seconds(self) -> float:
    """Wall time of the run so far, earlier processes included."""
    return self._seconds + time.monotonic() - self._since

  def progress(self, step: int, loss: float) -> None:
    """Moves the bar of a terminal, which appears with the first step, below all that was said before it.

    Args:
      loss: the mean since the last line.
    """
    self._steady = self._steady or (step, time.monotonic())
    if not self._write or not sys.stderr.isatty():
      return
    is_new = self._bar is None
    if is_new:
      self._bar = tqdm.tqdm(initial=step, total=self.total, unit='step', dynamic_ncols=True, smoothing=0.1)
    self._bar.set_postfix_str(f'loss {loss:.4g}{self._rate}', refresh=is_new)
    self._bar.update(step - self._bar.n)

  def write(self, step: int, scalars: dict[str, float], note: str = '') -> None:
    """Writes a line of metrics.jsonl, TensorBoard points and a console line, where `note` sums up the watch."""
    if not self._write:
      return
    scalars = self._append(step, scalars)
    if 'train/learning_rate' in scalars:
      self._rate = f', rate {scalars["train/learning_rate"]:.2g}'
    shown = [f'{k} {v:.4g}' for k, v in scalars.items() if not k.startswith(('time/', 'watch/'))]
    shown = '  '.join([*shown, note] if note else shown)
    if self._bar is not None:
      self._bar.write(f'step {step}  {shown}', file=sys.stderr)
      return
    first, since = self._steady or (step, 0.0)
    rate = (step - first) / max(time.monotonic() - since, 1e-9)
    speed = f'  {rate:.1f} steps/s  {(self.total - step) / rate:.0f} s left' if rate else ''
    logger.info(f'step {step}/{self.total}  {shown}{speed}')

  def stopped(self, step: int) -> None:
    """Keeps the wall time of a run that stops between two lines."""
    if self._write:
      self._append(step, {})

  def _append(self, step: int, scalars: dict[str, float]) -> dict[str, float]:
    """Writes a line of metrics.jsonl and TensorBoard points; returns them with the wall time."""
    scalars = {**scalars, 'time/seconds': round(self.seconds, 3)}
    text = (json.dumps({'step': step, **scalars}) + '\n').encode()
    try:
      if self._file.write(text) < len(text):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
      for name, value in scalars.items():
        self._event(step=step, summary=summary.scalar(name, value))
      self._events.flush()
    except OSError as error:
      raise cannot_write(self.path, error) from error
    return scalars

  def note(self, text: str) -> None:
    """Prints a note on the first host."""
    if self._write:
      logger.info(text)

  def warn(self, text: str) -> None:
    """Warns on the first host."""
    if self._write:
      logger.warning(text)

  def _event(self, **what) -> None:
    self._events.write(event_pb2.Event(wall_time=time.time(), **what).SerializeToString())

  def close(self) -> None:
    """Closes the files; may be called twice."""
    if not self._write:
      return
    self._write = False
    if self._bar is not None:
      self._bar.close()
    self._file.close()
    with contextlib.suppress(OSError):  # every line was flushed, and failures were reported then
      self._events.close()
