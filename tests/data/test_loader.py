"""Batches: which examples a step takes, and that it is the same batch however it reaches the device."""

import os
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

import mixer_jax
from mixer_jax import config as configs
from mixer_jax.data import loader
from mixer_jax.data.examples import Source
from mixer_jax.data.images import sets
from mixer_jax.training import loop
from mixer_jax.training import mesh as meshes

MESH = meshes.make_mesh(data=-1, fsdp=1)


# Rows


@pytest.mark.parametrize('size, batch', [(100, 10), (101, 10), (7, 10), (64, 64), (10, 1)])
def test_every_epoch_has_every_example_once(size, batch):
  steps = -(-3 * size // batch)
  stream = np.concatenate([loader.rows_of_step(0, step, batch, size) for step in range(steps)])
  assert stream.dtype == np.int32
  epochs = [stream[e * size : (e + 1) * size] for e in range(3)]
  for epoch in epochs:
    np.testing.assert_array_equal(np.sort(epoch), np.arange(size))
  assert not np.array_equal(epochs[0], epochs[1]) and not np.array_equal(epochs[1], epochs[2])


def test_a_batch_runs_on_into_the_next_epoch():
  row = loader.rows_of_step(3, 2, 40, 100)
  np.testing.assert_array_equal(row[:20], loader.permutation(3, 0, 100)[80:])
  np.testing.assert_array_equal(row[20:], loader.permutation(3, 1, 100)[:20])


def test_rows_depend_on_seed_and_step_alone():
  forward = [loader.rows_of_step(5, step, 16, 50) for step in range(40)]
  loader.permutation.cache_clear()
  backward = [loader.rows_of_step(5, step, 16, 50) for step in reversed(range(40))][::-1]
  np.testing.assert_array_equal(forward, backward)
  assert not np.array_equal(forward, [loader.rows_of_step(6, step, 16, 50) for step in range(40)])


def test_rows_far_into_a_long_run():
  rows = loader.rows_of_step(0, 10_000_000, 4096, 1000)  # beyond 32 bits of examples
  assert rows.shape == (4096,) and rows.min() >= 0 and rows.max() < 1000
  assert np.bincount(rows, minlength=1000).min() >= 3


@pytest.mark.parametrize('size, batch', [(100, 10), (101, 10), (7, 10), (1, 4)])
def test_evaluation_counts_every_example_once_and_in_order(size, batch):
  parts = [loader.rows_of_eval(i, batch, size) for i in range(-(-size // batch))]
  rows, mask = (np.concatenate(p) for p in zip(*parts, strict=True))
  assert rows.shape == mask.shape == (-(-size // batch) * batch,)
  np.testing.assert_array_equal(rows[mask == 1], np.arange(size))
  assert mask.sum() == size and set(mask) <= {0.0, 1.0} and (rows[mask == 0] == 0).all()


# Feeds


def source(size=150):
  digits = sets.load('digits', f'train[:{size}]', image=(8, 8, 1), classes=10)
  assert len(digits) == size
  return digits


def make_loader(size=150, **changes):
  settings = {'seed': 7, 'batch_size': 16, 'mesh': MESH, 'resident_mib': 100.0, 'workers': 0}
  return loader.Loader(source(size), **settings | changes)


def fetched(feed, i):
  return jax.device_get(jax.jit(lambda f, i: loader.fetch(f, i, meshes.over_batch(MESH)))(feed, i))


def expected(step):
  rows = loader.rows_of_step(7, step, 16, 150)
  return {name: np.stack([source()[int(row)][name] for row in rows]) for name in ('image', 'label')}


def assert_batch(batch, wanted):
  assert set(batch) == set(wanted)
  for name, value in wanted.items():
    assert batch[name].dtype == value.dtype
    np.testing.assert_array_equal(batch[name], value)


def test_resident_feeds_hold_the_batches_of_their_steps():
  resident = make_loader()
  assert resident.resident and resident.chunk == loader.CHUNK
  feed = resident.train(8, 3)
  for i in range(3):
    assert_batch(fetched(feed, i), expected(8 + i))


def test_a_feed_holds_an_epoch_of_20_000_rows():
  rows = Source(('a',), {'label': np.arange(20_000, dtype=np.int32)}, lambda i: {'label': np.int32(i)}, 20_000)
  feed = loader.Loader(rows, seed=7, batch_size=32, mesh=MESH, resident_mib=100.0, workers=0).train(0, 625)
  labels = np.asarray(feed['data']['label'])[np.asarray(feed['rows'])[:625]]
  np.testing.assert_array_equal(np.sort(labels, axis=None), np.arange(20_000))


def test_a_feed_refuses_more_steps_than_it_holds():
  with pytest.raises(ValueError, match=f'a feed of {loader.CHUNK + 1} steps exceeds the maximum of {loader.CHUNK}'):
    make_loader().train(0, loader.CHUNK + 1)


@pytest.mark.parametrize('workers', [0, pytest.param(2, marks=pytest.mark.slow)])
def test_streamed_feeds_are_the_same_from_any_step(workers):
  streamed = make_loader(resident_mib=0.0, workers=workers)
  assert not streamed.resident and streamed.chunk == 1
  for step in (0, 1, 2, 9, 10, 3):  # in a row, ahead, back
    assert_batch(fetched(streamed.train(step, 1), 0), expected(step))


@pytest.mark.parametrize('size', [150, 16, 5])
@pytest.mark.parametrize('settings', [{}, {'resident_mib': 0.0}], ids=['resident', 'streamed'])
def test_evaluation_feeds_hold_every_example_once(settings, size):
  images, labels, counted = [], [], 0
  for feed, count in make_loader(size, **settings).evaluate():
    for i in range(count):
      batch = fetched(feed, i)
      keep = batch['mask'] == 1
      images.append(batch['image'][keep])
      labels.append(batch['label'][keep])
      counted += len(keep)
  assert counted == -(-size // 16) * 16
  np.testing.assert_array_equal(np.concatenate(images), source(size).arrays['image'])
  np.testing.assert_array_equal(np.concatenate(labels), source(size).arrays['label'])


def test_evaluation_of_more_batches_than_a_feed_holds(monkeypatch):
  monkeypatch.setattr(loader, 'CHUNK', 4)
  feeds = list(make_loader().evaluate())
  assert [count for _, count in feeds] == [4, 4, 2]


def test_data_are_resident_up_to_the_limit():
  mib = 150 * (64 + 4) / 2**20
  assert make_loader(resident_mib=mib * 1.001).resident
  assert not make_loader(resident_mib=mib * 0.999).resident


def train(workdir, **data):
  config = configs.load(['--config=configs/digits.py'])
  config['model'] |= {'hidden': 16, 'blocks': 2, 'token_mlp': 8, 'channel_mlp': 32, 'dropout': 0.1}
  config['schedule']['warmup'] = '2 steps'
  config['data'] |= data
  config |= {'total': '12 steps', 'log_every': '4 steps', 'eval_every': '6 steps', 'checkpoint_every': '0'}
  config |= {'augment': config['augment'] | {'mixup': {'alpha': 0.5}}, 'eval_batch_size': 100}
  loop.train_and_evaluate(config, workdir)
  lines = loop.read_metrics(workdir)
  return [{k: v for k, v in line.items() if not k.startswith('time/')} for line in lines]


@pytest.mark.slow
def test_streamed_training_is_resident_training(tmp_path):
  resident, streamed = train(tmp_path / 'resident'), train(tmp_path / 'streamed', resident_mib=0.0)
  assert len(resident) == 5
  for ours, theirs in zip(resident, streamed, strict=True):
    # One step in two programs: the compiler may add up a norm in another order, by the processor.
    assert ours == pytest.approx(theirs, rel=1e-6)


STREAMED = """
import sys, time
from mixer_jax.data import loader
from mixer_jax.data.images import sets
from mixer_jax.training import mesh

if __name__ == '__main__':
  source = sets.load('digits', 'train[:100]', image=(8, 8, 1), classes=10)
  streamed = loader.Loader(source, seed=0, batch_size=32, mesh=mesh.make_mesh(), resident_mib=0, workers=2)
  for step in range(3):
    streamed.train(step, 1)
  print(sum(count for _, count in streamed.evaluate()), flush=True)
  time.sleep(1000 if 'wait' in sys.argv else 0)
  streamed.close()
"""


@pytest.fixture
def streamed(tmp_path):
  """streamed(*arguments) starts that program."""
  (tmp_path / 'streamed.py').write_text(STREAMED)
  environment = os.environ | {'PYTHONPATH': str(Path(mixer_jax.__file__).parents[1]), 'JAX_PLATFORMS': 'cpu'}
  pipes = {'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE, 'text': True}
  return lambda *arguments: subprocess.Popen(
    [sys.executable, str(tmp_path / 'streamed.py'), *arguments], env=environment, **pipes
  )


@pytest.mark.slow
def test_workers_leave_no_shared_memory_behind(streamed):
  process = streamed()
  assert (*process.communicate(timeout=200), process.returncode) == ('4\n', '', 0)


@pytest.mark.slow
@pytest.mark.skipif(not Path('/proc/self/task').is_dir(), reason='looks for processes as Linux lists them')
def test_workers_end_with_a_killed_run(streamed):
  with streamed('wait') as process:
    try:
      assert process.stdout.readline() == '4\n'
      children = [(task / 'children').read_text() for task in Path(f'/proc/{process.pid}/task').iterdir()]
      children = ' '.join(children).split()
    finally:
      process.kill()
  assert len(children) >= 3  # with the resource tracker
  deadline = time.monotonic() + 30
  while any(map(is_alive, children)):
    assert time.monotonic() < deadline, children
    time.sleep(0.1)


def is_alive(pid):
  """Whether a process has not ended; one may wait for its parent to ask how."""
  try:
    return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] != 'Z'
  except OSError:
    return False
