"""Several processes as one run: they join, agree on what they train, and end together when one of them fails.

On its own, jax waits up to minutes for a process that is gone, or ends with a C++ stack trace. So each process writes
a sign of life to the key-value store of the coordinator, process 0, and watches those of the others.
"""

import contextlib
import hashlib
import json
import os
import re
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import orbax.checkpoint as ocp

from mixer_jax.data.examples import Source
from mixer_jax.errors import MixerError
from mixer_jax.training.last_words import NO_COORDINATOR

SIGN = 1.0  # seconds between signs of life
SILENT = 30.0  # seconds without a sign after which a process counts as gone,
SILENT_BROKEN = 10.0  # and after a collective operation has failed here
PATIENCE = 24 * 3600 * 1000  # ms to wait for facts of others, who may read for long: those that fail end this process
SAMPLE = 8  # examples of each split that are compared
ALIVE, FAILED, FACTS = 'mixer_jax/alive', 'mixer_jax/failed', 'mixer_jax/facts'
FINISHED = 'finished'
# What jax, gloo and orbax raise here when another process is gone.
OF_OTHERS = re.compile(
  'gloo|nccl|DEADLINE_EXCEEDED|UNAVAILABLE|Connection (reset|closed)|coordination service|barrier', re.IGNORECASE
)


def connect(coordinator: str | None, processes: int | None, process: int | None) -> None:
  """Joins the other processes of a run; without arguments, from the cluster's environment (TPU pods, Slurm)."""
  try:
    jax.distributed.initialize(coordinator, processes, process)
  except (RuntimeError, ValueError) as error:
    reason = ' '.join(str(error).split())[:300]
    raise MixerError(
      f'jax.distributed could not start ({reason}); give --coordinator, --processes, --process'
    ) from error


# ---- agreeing


def agree(what: str, facts: Callable[[], Mapping[str, Any]]) -> None:
  """Compares facts, plain JSON, with those of all other processes.

  Raises:
    MixerError: they differ; names the first difference and both values, the same in every process.
  """
  if jax.process_count() == 1:
    return
  client = ocp.multihost.get_jax_distributed_client()
  client.key_value_set(f'{FACTS}/{what}/{jax.process_index()}', json.dumps(_flat(facts())))
  of_all = [
    json.loads(client.blocking_key_value_get(f'{FACTS}/{what}/{i}', PATIENCE)) for i in range(jax.process_count())
  ]
  if found := first_difference(of_all):
    raise MixerError(
      f'the processes disagree: {found}; start all of them with the same config, data, run directory and versions'
    )


def first_difference(of_all: Sequence[Mapping[str, Any]]) -> str | None:
  """The first fact in which a process differs from process 0, in words."""
  for key in dict.fromkeys(key for facts in of_all for key in facts):
    first, *others = (facts.get(key, 'missing') for facts in of_all)
    for i, other in enumerate(others, start=1):
      if other != first:
        return f'{key} is {first!r:.200} in process 0, but {other!r:.200} in process {i}'
  return None


def facts_of(source: Source) -> dict[str, Any]:
  """The size, the classes, and a checksum of some examples of a data set."""
  rows = sorted({round(i * (len(source) - 1) / (SAMPLE - 1)) for i in range(SAMPLE)})
  found = hashlib.sha256()
  for row in rows:
    for name, value in sorted(source[row].items()):
      found.update(f'{name} {value.dtype} {value.shape}'.encode() + value.tobytes())
  return {'examples': len(source), 'classes': list(source.classes), 'checksum of a sample': found.hexdigest()}


def _flat(value: Any, prefix: str = '') -> dict[str, Any]:
  inner = value if isinstance(value, Mapping) else dict(enumerate(value)) if isinstance(value, list) else {}
  if not inner:
    return {prefix: value}
  return {k: v for name, part in inner.items() for k, v in _flat(part, f'{prefix}.{name}' if prefix else name).items()}


# ---- ending together


@contextlib.contextmanager
def together(*, debug: bool = False) -> Iterator[None]:
  """Ends every process of a run when one of them fails, each with a line that names the process and the cause.

  Leaves the process itself: when another one is gone, jax's own way out would wait for it.
  """
  if jax.process_count() == 1:
    yield
    return
  watch = Watch(ocp.multihost.get_jax_distributed_client(), jax.process_index(), jax.process_count())
  watch.start()
  try:
    yield
  except BaseException as error:
    if debug:
      traceback.print_exc()
    watch.fail(error)
  watch.finish()


class Watch(threading.Thread):
  """Writes signs of life of this process, and ends it when another one has failed or gives none.

  Args:
    client: jax's distributed client, whose key-value store the processes share.
  """

  def __init__(self, client: Any, process: int, processes: int, end: Callable[[int], None] = os._exit):
    super().__init__(daemon=True)
    self._client, self._process, self._end = client, process, end
    self._seen = dict.fromkeys(range(processes), ('', time.monotonic()))
    self._lost: float | None = None  # since when the store does not answer
    self._silent, self._count, self._finished, self._over = SILENT, 0, False, threading.Event()

  def run(self) -> None:
    while not self._over.is_set():
      if cause := self.look():
        self._leave(cause)
      time.sleep(SIGN)

  def look(self) -> str | None:
    """Gives a sign of life; returns which other process has failed or is gone, in words."""
    try:
      self._count += 1
      self._say(ALIVE, f'{socket.gethostname()} {FINISHED if self._finished else self._count}')
      signs, failed = (self._read(place) for place in (ALIVE, FAILED))
    except Exception:  # jax's own, of many kinds
      self._lost = self._lost or time.monotonic()
      return NO_COORDINATOR if time.monotonic() - self._lost > SILENT_BROKEN else None
    self._lost = None
    for other, reason in failed.items():
      if other != self._process:
        return f'process {other} {reason}'
    now = time.monotonic()
    for other, sign in signs.items():
      if sign != self._seen[other][0]:
        self._seen[other] = sign, now
    for other, (sign, since) in self._seen.items():
      if now - since > self._silent and not sign.endswith(FINISHED) and other != self._process:
        host = f' ({sign.rpartition(" ")[0]})' if sign else ''
        return (
          f'process {other}{host} has given no sign for {now - since:.0f} s; see its own messages, then start all'
          ' processes again'
        )
    return None

  def fail(self, error: BaseException) -> None:
    """Ends this process after an error, and tells the others why, or tells whose failure caused it."""
    if OF_OTHERS.search(' '.join(str(e) for e in (error, error.__cause__))):
      self._silent = SILENT_BROKEN
      time.sleep(SILENT_BROKEN + 3 * SIGN)  # run() finds the one that is gone
    reason = ' '.join(str(error).split())
    reason = reason if isinstance(error, MixerError) else f'{type(error).__name__}: {reason}'
    self._over.set()
    with contextlib.suppress(Exception):
      self._say(FAILED, f'({socket.gethostname()}) failed: {reason[:1000]}')
      self._wait_for_others()
    self._leave(reason)

  def finish(self) -> None:
    """Returns when every process has finished."""
    self._finished = True
    while not all(sign.endswith(FINISHED) for sign, _ in self._seen.values()):  # run() looks
      time.sleep(SIGN / 10)
    self._over.set()
    self.join()

  def _wait_for_others(self) -> None:
    """The coordinator's end would end the others without the reason: it waits until they have read that."""
    time.sleep(5 * SIGN if self._process == 0 else 0)

  def _leave(self, cause: str) -> None:
    sys.stdout.flush()
    print(f'error: {cause}', file=sys.stderr, flush=True)
    self._end(1)

  def _say(self, place: str, text: str) -> None:
    self._client.key_value_set(f'{place}/{self._process}', text, allow_overwrite=True)

  def _read(self, place: str) -> dict[int, str]:
    return {int(key.rpartition('/')[2]): value for key, value in self._client.key_value_dir_get(place)}
