"""(source, seed, step) -> batch: the data on the device when they fit, streamed through Grain when not.

What some steps need goes to the device as a `feed`, in one of two forms that `fetch` turns into the same batch inside
the jitted step:
  {'data': {name: [examples, ...]}, 'rows': int32 [steps, batch]}   the data are there already, only rows are sent
  {'batches': {name: [1, batch, ...]}}                              one batch is sent
Evaluation feeds also hold `mask` [steps, batch]: 0 where the last batch was padded.
"""

import atexit
import functools
import gc
import multiprocessing.connection
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

import grain
import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from mixer_jax.data.examples import Source, materialize, stack

CHUNK = 1024  # the most steps one call runs; a fixed shape for `rows`, so that every call is the same program


@functools.lru_cache(maxsize=4)
def permutation(seed: int, epoch: int, size: int) -> np.ndarray:
  """The order of the examples in an epoch, int32 [size]."""
  return np.random.default_rng((seed, epoch)).permutation(size).astype(np.int32)


def rows_of_step(seed: int, step: int, batch_size: int, size: int) -> np.ndarray:
  """The examples of a training step, int32 [batch]: a batch may span two epochs, so no example is skipped."""
  epochs, places = np.divmod(step * batch_size + np.arange(batch_size, dtype=np.int64), size)
  parts = [permutation(seed, int(epoch), size)[places[epochs == epoch]] for epoch in np.unique(epochs)]
  return np.concatenate(parts)


def rows_of_eval(batch: int, batch_size: int, size: int) -> tuple[np.ndarray, np.ndarray]:
  """The examples of an evaluation batch and its mask, [batch]: in order, padded with the first example at mask 0."""
  rows = batch * batch_size + np.arange(batch_size, dtype=np.int32)
  return np.where(rows < size, rows, 0).astype(np.int32), (rows < size).astype(np.float32)


def fetch(feed: dict, i: jax.Array, sharding: jax.sharding.Sharding) -> dict[str, jax.Array]:
  """Batch number i of a feed, on the device, laid out over the devices along its first axis."""
  if 'rows' in feed:
    batch = {name: jnp.take(array, feed['rows'][i], axis=0, mode='clip') for name, array in feed['data'].items()}
    batch |= {'mask': feed['mask'][i]} if 'mask' in feed else {}
  else:
    batch = {name: array[i] for name, array in feed['batches'].items()}
  return jax.lax.with_sharding_constraint(batch, sharding)


class Loader:
  """Loads the examples of one source for training or evaluation on a mesh.

  Args:
    seed: of the order of the training examples.
    batch_size: global, over all devices and hosts.
    mesh: with axes `data` and `fsdp`; a batch is cut along both.
    resident_mib: data of up to this size are held on every device.
    workers: Grain's processes that read and decode streamed data; 0 reads in threads.
  """

  def __init__(
    self, source: Source, *, seed: int, batch_size: int, mesh: jax.sharding.Mesh, resident_mib: float, workers: int
  ):
    self.source, self.seed, self.batch_size, self.size = source, seed, batch_size, len(source)
    self.workers = workers
    axes = jax.sharding.PartitionSpec
    self._over_batch = jax.sharding.NamedSharding(mesh, axes(None, ('data', 'fsdp')))
    size = self.size * sum(np.asarray(v).nbytes for v in source[0].values())
    self.resident = size <= resident_mib * 2**20
    self._stream, self._position, self._next = None, -1, None
    if self.resident:
      everywhere = jax.sharding.NamedSharding(mesh, axes())
      self._data = {name: _put(array, everywhere) for name, array in materialize(source).items()}

  def train(self, step: int, count: int) -> dict:
    """The feed of steps step, ..., step + count - 1; count is at most `self.chunk`."""
    rows = functools.partial(rows_of_step, self.seed, batch_size=self.batch_size, size=self.size)
    if not self.resident:
      if step != self._position:
        self.close()
        self._stream = self._read(lambda i: (rows(step + i), None))
        self._next = self._send(next(self._stream))
      batch, self._position = self._next, step + 1
      self._next = self._send(next(self._stream))  # goes to the device while this step is computed
      return {'batches': batch}
    if count > CHUNK:
      raise ValueError(f'a feed of {count} steps exceeds the maximum of {CHUNK}')
    padded = np.zeros((CHUNK, self.batch_size), np.int32)
    padded[:count] = [rows(step + i) for i in range(count)]
    return {'data': self._data, 'rows': _put(padded, self._over_batch)}

  def evaluate(self) -> Iterator[tuple[dict, int]]:
    """(feed, number of batches in it) until every example has been seen once."""
    batches = -(-self.size // self.batch_size)
    rows = functools.partial(rows_of_eval, batch_size=self.batch_size, size=self.size)
    if not self.resident:
      for batch in self._read(rows, batches):
        yield {'batches': self._send(batch)}, 1
      return
    both = [rows(i) for i in range(batches)]
    for start in range(0, batches, CHUNK):
      part = both[start : start + CHUNK]
      feed = {name: np.stack([b[k] for b in part]) for k, name in enumerate(('rows', 'mask'))}
      yield {'data': self._data} | {name: _put(a, self._over_batch) for name, a in feed.items()}, len(part)

  def close(self) -> None:
    """Ends the workers that read training batches ahead, and frees the memory that they share."""
    if self._stream is not None and self.workers:
      self._stream.close()
    self._stream, self._position, self._next = None, -1, None

  @property
  def chunk(self) -> int:
    """The most steps that one feed holds."""
    return CHUNK if self.resident else 1

  def _read(self, rows: Callable, batches: int | None = None) -> Iterator[dict[str, np.ndarray]]:
    """This process's part of batch 0, 1, ..., read ahead by Grain."""
    source, local = self.source, self._local_slice()  # not self: this function goes to the worker processes

    def read(i):
      index, mask = rows(i)
      batch = stack([source[int(row)] for row in index[local]])
      return batch if mask is None else batch | {'mask': mask[local]}

    dataset = grain.MapDataset.range(batches if batches is not None else np.iinfo(np.int32).max).map(read)
    dataset = dataset.to_iter_dataset(grain.ReadOptions(num_threads=8, prefetch_buffer_size=8))
    if self.workers:
      _free_at_exit()
      if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # Grain hands its flags to the workers, but no absl app has run here.
      options = grain.MultiprocessingOptions(num_workers=self.workers)
      dataset = dataset.mp_prefetch(options, worker_init_fn=_live_with_parent)
    return iter(dataset)

  def _local_slice(self) -> slice:
    indices = self._over_batch.addressable_devices_indices_map((1, self.batch_size)).values()
    spans = [index[1].indices(self.batch_size) for index in indices]
    return slice(min(s[0] for s in spans), max(s[1] for s in spans))

  def _send(self, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    shape = lambda a: (1, self.batch_size, *a.shape[1:])
    return {
      name: jax.make_array_from_process_local_data(self._over_batch, a[None], shape(a)) for name, a in batch.items()
    }


@functools.cache
def _free_at_exit() -> None:
  """Lets Grain free the memory that its workers shared; otherwise Python's last words are warnings of leaks."""

  def free():
    gc.collect()  # the last batches are in reference cycles
    time.sleep(0.2)  # Grain frees them in a thread of its own

  atexit.register(free)


def _live_with_parent(*_) -> None:
  """A worker ignores Ctrl-C, so that the run can finish its steps and save; it ends with the run, even a killed one."""
  signal.signal(signal.SIGINT, signal.SIG_IGN)  # it reaches every process of a terminal

  def wait():
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)

  threading.Thread(target=wait, daemon=True).start()


def _put(array: np.ndarray, sharding: jax.sharding.Sharding) -> jax.Array:
  """An array that every process holds whole -> the devices; each process fills its own."""
  return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])
