"""Checkpoints: which are kept, what happens to damaged ones, whose error it is; nothing half-written is ever read."""

import gc
import logging
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from kill import differences, log_lines, tiny
from orbax.checkpoint import CheckpointManager

from mixer_jax.errors import MixerError
from mixer_jax.training import checkpoints, loop
from mixer_jax.training.state import TrainState

# Orbax leaves the other reads of a checkpoint behind, running, when the first of them fails.
pytestmark = pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')
RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def left_behind():
  """The reads that Orbax left behind end with the test, where their warning is expected."""
  yield
  gc.collect()


def make_state(step, width=64):
  """A state of which no two steps have the same bits; large enough not to lie inside TensorStore's index."""
  random = np.random.default_rng(step)
  params = {'kernel': jnp.asarray(random.normal(size=(width, 300)), jnp.float32), 'bias': jnp.full(width, step * 1.0)}
  ema = jax.tree.map(lambda x: x / 2, params)
  return TrainState(jnp.int32(step), params, (jnp.int32(step), params), ema, {'loss': jnp.float32(0.1 * step)})


def shapes(width=64):
  device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  place = lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device)
  return jax.tree.map(place, jax.eval_shape(lambda: make_state(0, width)))


def assert_state(state, step):
  jax.tree.map(np.testing.assert_array_equal, state, make_state(step))


def write(folder, steps, best=None, scores=()):
  """Checkpoints of those steps, every one on disk."""
  manager = checkpoints.Checkpoints(folder, best=best)
  scores = dict(zip(steps, scores, strict=False))
  for step in steps:
    manager.save(step, make_state(step), {best: scores[step]} if step in scores else {})
  manager.close()


def steps_on_disk(folder):
  return sorted(int(path.name) for path in (folder / 'checkpoints').iterdir() if path.name.isdigit())


# Where they are


ODD = [
  'run[1]', 'run[!a]*?', 'a\\b', ' of spaces ', '{a,b}', '~', '$HOME', '%41', '#?x=1', 'gs:x', 'größe, 数',
  'a\nb\t\x7f',
]  # fmt: skip
ODD += [''.join(map(chr, part)) for part in (range(1, 47), range(48, 128))]


@pytest.mark.parametrize('name', ODD)
def test_a_folder_of_any_name(name, tmp_path, capfd):
  """Every character of ASCII but the slash; the folder above it as well."""
  folder = tmp_path / name / name[::-1]
  write(folder, [1])
  write(folder, [2, 3])
  assert steps_on_disk(folder) == [2, 3]
  reader = checkpoints.Checkpoints(folder, read_only=True)
  assert_state(reader.restore_last(shapes(), set_aside=False), 3)
  assert capfd.readouterr().err == ''


def test_a_first_checkpoint_that_cannot_be_opened_again_stops_the_run(tmp_path, monkeypatch):
  merge = ocp.StandardCheckpointHandler.finalize
  monkeypatch.setattr(ocp.StandardCheckpointHandler, 'finalize', lambda self, path: shutil.rmtree(path / 'd', True))
  manager = checkpoints.Checkpoints(tmp_path)
  with pytest.raises(MixerError, match=r'step 1 was written to .*, but cannot be opened again .*another --workdir'):
    manager.save(1, make_state(1), {})
  monkeypatch.setattr(ocp.StandardCheckpointHandler, 'finalize', merge)


def test_a_warning_of_orbax_is_one_line_of_ours(tmp_path, capfd):
  checkpoints.Checkpoints(tmp_path)
  logging.getLogger('absl').warning('of\n  another library')
  record = logging.LogRecord('absl', logging.WARNING, '/x/orbax/y.py', 1, 'no files\n  of %s', ('mine',), None)
  logging.getLogger('absl').handle(record)
  assert capfd.readouterr().err == 'warning: checkpoints: no files of mine\n'


# What is kept


def test_the_last_two_and_the_best_are_kept_also_over_restarts(tmp_path):
  write(tmp_path, [1, 2, 3], 'test/accuracy', [0.5, 0.9, 0.6])
  assert steps_on_disk(tmp_path) == [2, 3]
  write(tmp_path, [4, 5, 6], 'test/accuracy', [0.7, 0.8, 0.85])
  assert steps_on_disk(tmp_path) == [2, 5, 6]
  write(tmp_path, [7, 8], 'test/accuracy', [0.95, 0.1])
  assert steps_on_disk(tmp_path) == [7, 8]
  write(tmp_path, [9, 10, 11], 'test/accuracy', [0.2])  # those without a score are never the best
  assert steps_on_disk(tmp_path) == [7, 10, 11]


def test_without_a_metric_the_last_two_are_kept(tmp_path):
  write(tmp_path, [1, 2, 3, 4])
  assert steps_on_disk(tmp_path) == [3, 4]


def test_what_is_read_is_what_was_written(tmp_path):
  write(tmp_path, [3, 7])
  manager = checkpoints.Checkpoints(tmp_path)
  assert_state(manager.restore(shapes(), 3), 3)
  assert_state(manager.restore_last(shapes(), set_aside=True), 7)
  manager.close()


def test_no_checkpoint_is_no_error(tmp_path):
  manager = checkpoints.Checkpoints(tmp_path)
  assert manager.restore_last(shapes(), set_aside=True) is None
  manager.close()


def test_a_read_only_run_directory_is_not_touched(tmp_path):
  write(tmp_path, [1, 2])
  (tmp_path / 'checkpoints' / '3.orbax-checkpoint-tmp').mkdir()
  tree = lambda: sorted((str(p), p.stat().st_mtime_ns) for p in tmp_path.rglob('*') if p.is_file())
  before, folders = tree(), sorted((tmp_path / 'checkpoints').iterdir())
  damage_flipped(tmp_path / 'checkpoints' / '2')
  changed = tree()
  assert changed != before
  manager = checkpoints.Checkpoints(tmp_path, read_only=True)
  assert_state(manager.restore_last(shapes(), set_aside=False), 1)
  manager.close()
  assert (tree(), sorted((tmp_path / 'checkpoints').iterdir())) == (changed, folders)


# Damage


def data_files(checkpoint):
  """The files that hold the arrays, largest first."""
  return sorted(Path(checkpoint).glob('state/**/d/*'), key=lambda path: -path.stat().st_size)


def damage_flipped(checkpoint):
  """One byte of the largest data file, in the middle."""
  content = bytearray(data_files(checkpoint)[0].read_bytes())
  content[len(content) // 2] ^= 0x10
  data_files(checkpoint)[0].write_bytes(content)


def damage_truncated(checkpoint):
  os.truncate(data_files(checkpoint)[0], data_files(checkpoint)[0].stat().st_size // 2)


def damage_zero_bytes(checkpoint):
  for path in data_files(checkpoint):
    os.truncate(path, 0)


def damage_random_bytes(checkpoint):
  for path in data_files(checkpoint):
    path.write_bytes(RNG.bytes(path.stat().st_size))


def damage_index_gone(checkpoint):
  (checkpoint / 'state' / 'manifest.ocdbt').unlink()


def damage_metadata_gone(checkpoint):
  (checkpoint / 'state' / '_METADATA').unlink()


def damage_metadata_empty(checkpoint):
  os.truncate(checkpoint / 'state' / '_METADATA', 0)


def damage_arrays_gone(checkpoint):
  shutil.rmtree(checkpoint / 'state')


def damage_everything_empty(checkpoint):
  """As after a power cut: all the names are there, nothing in them."""
  for path in checkpoint.rglob('*'):
    if path.is_file():
      os.truncate(path, 0)


DAMAGES = [value for name, value in sorted(globals().items()) if name.startswith('damage_')]


@pytest.mark.parametrize('damage', DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_checkpoint_is_passed_over_aloud(damage, tmp_path, capfd):
  write(tmp_path, [5, 10])
  damage(tmp_path / 'checkpoints' / '10')
  manager = checkpoints.Checkpoints(tmp_path)
  assert_state(manager.restore_last(shapes(), set_aside=True), 5)
  warnings = [line for line in capfd.readouterr().err.splitlines() if line]
  assert len(warnings) == 1
  assert warnings[0].startswith('warning: the checkpoint of step 10 is damaged (')
  assert (tmp_path / 'damaged_checkpoint_10').is_dir() and steps_on_disk(tmp_path) == [5]
  manager.save(10, make_state(10), {})  # the run comes to that step again
  manager.close()
  manager = checkpoints.Checkpoints(tmp_path)
  assert_state(manager.restore_last(shapes(), set_aside=True), 10)
  manager.close()


def test_every_flipped_byte_of_the_arrays_is_noticed(tmp_path):
  write(tmp_path, [1])
  manager = checkpoints.Checkpoints(tmp_path, read_only=True)
  files = [path for path in data_files(tmp_path / 'checkpoints' / '1') if path.stat().st_size > 10_000]
  assert files
  for path in files:
    content = path.read_bytes()
    for place in np.random.default_rng(1).integers(0, len(content), 5):
      path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
      with pytest.raises(MixerError, match='the checkpoint of step 1 in .* is damaged'):
        manager.restore(shapes(), 1)
    path.write_bytes(content)
  assert_state(manager.restore(shapes(), 1), 1)
  manager.close()


def test_a_step_damaged_twice_is_set_aside_twice(tmp_path):
  for _ in range(3):
    write(tmp_path, [5, 10])
    damage_truncated(tmp_path / 'checkpoints' / '10')
    manager = checkpoints.Checkpoints(tmp_path)
    assert_state(manager.restore_last(shapes(), set_aside=True), 5)
    manager.close()
  assert len(list(tmp_path.glob('damaged_checkpoint_10*'))) == 3


def test_all_damaged_is_an_error_and_no_fresh_start(tmp_path):
  write(tmp_path, [5, 10])
  for step in (5, 10):
    damage_truncated(tmp_path / 'checkpoints' / str(step))
  for _ in range(2):  # a second try does not find an empty folder
    manager = checkpoints.Checkpoints(tmp_path)
    with pytest.raises(
      MixerError, match=r'none of the checkpoints \[5, 10\] in .* can be read; start again in another'
    ):
      manager.restore_last(shapes(), set_aside=True)
    manager.close()
  assert steps_on_disk(tmp_path) == [5, 10]


def test_what_the_machine_cannot_read_now_is_not_damaged(tmp_path, monkeypatch, capfd):
  write(tmp_path, [5, 10])
  manager = checkpoints.Checkpoints(tmp_path)

  def restore(*_, **__):
    raise ValueError('RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes')

  with monkeypatch.context() as patch:
    patch.setattr(CheckpointManager, 'restore', restore)
    with pytest.raises(MixerError, match=r'step 10 in .* cannot be read here and now \(RESOURCE_EXHAUSTED'):
      manager.restore_last(shapes(), set_aside=True)
  assert 'damaged' not in capfd.readouterr().err
  assert_state(manager.restore_last(shapes(), set_aside=True), 10)
  manager.close()


def test_a_checkpoint_of_another_model_is_refused_and_not_set_aside(tmp_path):
  write(tmp_path, [1])
  manager = checkpoints.Checkpoints(tmp_path)
  for call in (lambda s: manager.restore(s, 1), lambda s: manager.restore_last(s, set_aside=True)):
    with pytest.raises(MixerError, match=r'another model: params/bias is \(64,\) there, but \(65,\) here'):
      call(shapes(width=65))
    with pytest.raises(MixerError, match=r'another model: ema/bias is \(64,\) there, but missing here'):
      call(shapes()._replace(ema=None))
  assert steps_on_disk(tmp_path) == [1]
  manager.close()


@pytest.mark.slow
def test_training_goes_on_from_the_one_before_to_the_same_bits(tmp_path, capfd):
  tiny_run = tmp_path / 'whole'
  loop.train_and_evaluate(tiny(total='20 steps'), tiny_run)
  shutil.copytree(tiny_run, tmp_path / 'run')
  workdir = tmp_path / 'run'
  last = max(steps_on_disk(workdir))
  damage_random_bytes(workdir / 'checkpoints' / str(last))
  (workdir / 'summary.json').unlink()
  assert loop.train_and_evaluate(tiny(total='20 steps'), workdir)
  assert f'warning: the checkpoint of step {last} is damaged' in capfd.readouterr().err
  assert (workdir / f'damaged_checkpoint_{last}').is_dir()
  assert log_lines(workdir)
  assert differences(tiny_run, workdir) == []


# Writes


def test_the_error_of_a_write_in_the_background_is_raised_at_close(tmp_path, monkeypatch):
  manager = checkpoints.Checkpoints(tmp_path)
  manager.save(1, make_state(1), {})  # the first is waited for, and opened again
  monkeypatch.setattr(Path, 'rename', failing)
  monkeypatch.setattr(os, 'rename', failing)
  monkeypatch.setattr(os, 'replace', failing)
  manager.save(2, make_state(2), {})
  with pytest.raises(MixerError, match='checkpoint could not be written in .*no space left on the device'):
    manager.close()
  monkeypatch.undo()
  manager = checkpoints.Checkpoints(tmp_path)
  assert_state(manager.restore_last(shapes(), set_aside=True), 1)
  manager.close()


def failing(*_, **__):
  raise OSError(28, 'No space left on device')


def test_a_step_is_written_once(tmp_path, monkeypatch):
  calls = []
  original = CheckpointManager.save
  monkeypatch.setattr(
    CheckpointManager, 'save', lambda self, step, **k: (calls.append(step), original(self, step, **k))
  )
  manager = checkpoints.Checkpoints(tmp_path)
  for _ in range(2):
    manager.save(4, make_state(4), {})
  manager.close()
  assert calls == [4]


def test_what_a_killed_process_left_half_written_is_removed_and_never_read(tmp_path):
  write(tmp_path, [1, 2])
  folder = tmp_path / 'checkpoints'
  for step in (3, 4):
    shutil.copytree(folder / '2', folder / f'{step}.orbax-checkpoint-tmp')
  manager = checkpoints.Checkpoints(tmp_path)
  assert manager.steps() == [1, 2]
  assert_state(manager.restore_last(shapes(), set_aside=True), 2)
  manager.save(3, make_state(3), {})
  manager.close()
  assert sorted(path.name for path in folder.iterdir()) == ['2', '3']


def test_the_checksum_sees_every_bit_and_no_layout():
  state = make_state(1)
  value = int(checkpoints.checksum(state))
  for place in ((0, 0), (63, 299), (17, 5)):
    kernel = np.array(state.params['kernel'])
    kernel.view(np.uint32)[place] ^= 1 << 30
    changed = state._replace(params=state.params | {'kernel': jnp.asarray(kernel)})
    assert int(checkpoints.checksum(changed)) != value
  swapped = state._replace(params=state.params | {'kernel': state.params['kernel'][::-1]})
  assert int(checkpoints.checksum(swapped)) != value
  assert int(checkpoints.checksum(jax.tree.map(np.asarray, state))) == value


def test_a_state_without_an_average(tmp_path):
  manager = checkpoints.Checkpoints(tmp_path)
  manager.save(1, make_state(1)._replace(ema=None), {})
  manager.close()
  manager = checkpoints.Checkpoints(tmp_path)
  state = manager.restore(shapes()._replace(ema=None), 1)
  assert state.ema is None
  assert_state(state._replace(ema=make_state(1).ema), 1)
  with pytest.raises(MixerError, match='another model: ema/bias is missing there, but'):
    manager.restore(shapes(), 1)
  manager.close()


# A disk that says it has nothing at all says nothing.
@pytest.mark.parametrize(
  'total, inodes, parts', [(10**9, 0, 'no space left .* 0.0 MiB free'), (0, 9, 'no inodes left .* 5 may'), (0, 0, '')]
)
def test_a_disk_too_small(total, inodes, parts, tmp_path, monkeypatch):
  manager = checkpoints.Checkpoints(tmp_path)
  monkeypatch.setattr(shutil, 'disk_usage', lambda _: SimpleNamespace(total=total, free=1000))
  monkeypatch.setattr(checkpoints.os, 'statvfs', lambda _: SimpleNamespace(f_files=inodes, f_favail=5))
  if parts:
    with pytest.raises(MixerError, match=parts.replace('left', 'left .* step 1')):
      manager.save(1, make_state(1), {})
  else:
    manager.save(1, make_state(1), {})
  manager.close()
  assert manager.steps() == ([] if parts else [1])
