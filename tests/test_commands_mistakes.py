"""The one line for each mistake in a config or in images, and for what the disk or the loss does."""

import errno
import gzip
import json
import math
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp
import pytest
from PIL import Image
from runs import DIGITS, ROOT, SMALL, process
from tensorboardX.record_writer import RecordWriter

import mixer_jax
from mixer_jax.data import loader
from mixer_jax.training import hooks

# ---- mistakes in a config


@pytest.mark.parametrize(
  'override, parts',
  [
    ('--config.batchsize=3', ['batchsize', 'batch_size']),
    ('--config.model.hiden=3', ['hiden', 'hidden']),
    ('--config.batch_size=many', ['batch_size', 'many']),
    ('--config.model.name=mixr', ['model.name', "'mixr'", "did you mean 'mixer'"]),
    ('--config.data.name=digit', ['data set', "'digit'", "did you mean 'digits'"]),
    ('--config.optimizer.name=adamv', ['optimizer.name', "'adamv'", 'sgd']),
    ('--config.optimizer.name=sgdd', ['optimizer.name', "'sgdd'", "did you mean 'sgd'", 'adamw']),
    ('--config.schedule.name=cosin', ['schedule.name', "did you mean 'cosine'"]),
    ('--config.task.name=clasification', ['task.name', "did you mean 'classification'"]),
    ('--config.task.loss=hinge', ['task.loss', "'hinge'", 'sigmoid, softmax']),
    ('--config.augment={"afine": {}}', ['afine', 'affine']),
    ('--config.augment={"affine": {"degrees": -1.0}}', ['degrees', '-1']),
    ('--config.augment_until=always', ['augment_until', "'always'", '500 steps']),
    ('--config.augment_until=-5%', ['augment_until', "'-5%'"]),
    ('--config.augment_until=50%', ['augment_until', "'50%'", 'augment is empty']),
    ('--config.model.patch=3', ['3x3', '8x8']),
    ('--config.model.dropout=1.5', ['dropout', '1.5']),
    ('--config.model.blocks=0', ['blocks', '0']),
    ('--config.data.train=train[:120%]', ['120%', '100%']),
    ('--config.data.train=train[2000:]', ['2000', '1797']),
    ('--config.data.test=tst', ['tst', 'train']),
    ('--config.data.classes=11', ['11', '10']),
    ('--config.data.mean=(0.1, 0.2, 0.3)', ['mean', '3', '1']),
    ('--config.seed=-1', ['seed', '-1']),
    ('--config.ema=1.5', ['ema', '1.5']),
    ('--config.batch_size=0', ['batch_size', '0']),
    ('--config.accumulate=3', ['batch_size', '32', '3']),
    ('--config.mesh.fsdp=7', ['mesh.fsdp=7', 'devices']),
    ('--config.total=20', ['total', "'20'", '500 steps']),
    ('--config.total=0', ['2 steps', 'the whole run has 0']),
    ('--config.log_every=often', ['log_every', "'often'"]),
    ('--config.schedule.warmup=30 steps', ['schedule.warmup', '30', '20']),
    ('--config.schedule.peak=0.0', ['schedule', 'peak', '0.0']),
    ('--stepps=3', ['stepps']),
  ],
)
def test_a_mistake_in_the_config_ends_in_one_line(override, parts, tmp_path, refused):
  refused('train', DIGITS, *SMALL, override, f'--workdir={tmp_path}/run', parts=parts)
  assert not list(tmp_path.iterdir())


def test_no_such_config(tmp_path, refused):
  config = f'--config={ROOT}/configs/digit.py'
  refused('train', config, f'--workdir={tmp_path}/run', parts=['digit.py', 'digits.py'])
  refused('describe', config, parts=['digit.py'])
  refused('benchmark', config, parts=['digit.py'])
  refused('train', f'{DIGITS}:large', f'--workdir={tmp_path}/run', parts=['digits.py takes no argument', "'large'"])
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('name', ['train', 'evaluate', 'predict'])
def test_a_required_option(run_command, name, capsys):
  assert run_command(name, *([DIGITS] if name == 'train' else [])) == 2
  assert '--workdir' in capsys.readouterr().err.splitlines()[-1]


def test_a_process_without_a_coordinator(run_command, tmp_path, capsys):
  assert run_command('train', DIGITS, f'--workdir={tmp_path}/run', '--processes=2', '--process=0') == 2
  assert '--coordinator' in capsys.readouterr().err.splitlines()[-1]


def test_an_error_in_a_process_of_its_own(tmp_path):
  # Three devices do not divide 32 examples.
  arguments = (DIGITS, *SMALL, f'--workdir={tmp_path}/run')
  result = process('train', *arguments, devices=3)
  assert result.returncode == 1 and result.stdout == ''
  assert len(result.stderr.splitlines()) == 1
  assert result.stderr.startswith('error: batch_size is 32, which 3 devices do not divide')
  assert not list(tmp_path.iterdir())


def test_debug_shows_the_traceback(run_command, tmp_path):
  with pytest.raises(mixer_jax.errors.MixerError, match='patch 3x3'):
    run_command('train', DIGITS, *SMALL, '--config.model.patch=3', f'--workdir={tmp_path}/run', '--debug')


# ---- mistakes in the data


def write_idx(path, array, cut=0):
  head = struct.pack(f'>BBBB{array.ndim}I', 0, 0, 8, array.ndim, *array.shape)
  body = head + array.astype(np.uint8).tobytes()
  with gzip.open(path, 'wb') if path.suffix == '.gz' else path.open('wb') as file:
    file.write(body[: len(body) - cut])


def test_missing_and_truncated_files(tmp_path, refused):
  arguments = (f'--config={ROOT}/configs/mnist.py', f'--workdir={tmp_path}/run', f'--data_dir={tmp_path}/data')
  refused('train', *arguments, parts=[f'{tmp_path}/data/mnist', '--data_dir', 'MIXER_DATA_DIR'])
  (tmp_path / 'data' / 'mnist').mkdir(parents=True)
  random = np.random.default_rng(0)
  for base in ('train', 't10k'):
    write_idx(tmp_path / f'data/mnist/{base}-labels-idx1-ubyte', random.integers(0, 10, 100))
    write_idx(tmp_path / f'data/mnist/{base}-images-idx3-ubyte', random.integers(0, 256, (100, 28, 28)), cut=500)
  refused('train', *arguments, parts=['train-images-idx3-ubyte', '78400', '77900'])
  assert not (tmp_path / 'run').exists()


@pytest.fixture
def folder(tmp_path):
  """A folder of images of two classes."""
  random = np.random.default_rng(0)
  for split, count in (('train', 40), ('test', 3)):
    for name in ('cat', 'dog'):
      (tmp_path / 'pets' / split / name).mkdir(parents=True)
      for i in range(count):
        image = Image.fromarray(random.integers(0, 256, (9, 8, 3), np.uint8))
        image.save(tmp_path / 'pets' / split / name / f'{i}.png')
  return tmp_path / 'pets'


def test_a_text_that_says_it_is_an_image(folder, tmp_path, refused):
  bad = folder / 'train' / 'dog' / 'notes.jpg'
  bad.write_text('a cat\n')
  arguments = (f'--config={ROOT}/configs/image_folder.py:{folder}', f'--workdir={tmp_path}/run')
  refused('train', *arguments, parts=[bad])
  assert not (tmp_path / 'run').exists()


def test_damaged_images_are_listed_before_the_first_step(folder, tmp_path, refused):
  bad = [folder / 'train' / 'dog' / '3.png', folder / 'train' / 'cat' / '9.png', folder / 'test' / 'cat' / '1.png']
  for path in bad:
    path.write_bytes(path.read_bytes()[:-60])  # the header is whole
  bad.append(folder / 'train' / 'cat' / 'page.jpg')
  bad[-1].write_text('<html>not found</html>')
  arguments = (f'--config={ROOT}/configs/image_folder.py:{folder}', f'--workdir={tmp_path}/run', '--check_data')
  refused('train', *arguments, parts=['4 of 87 examples', *bad])
  assert not (tmp_path / 'run').exists()


def test_class_folders_that_differ(folder, tmp_path, refused):
  shutil.move(folder / 'test' / 'dog', folder / 'test' / 'wolf')
  arguments = (f'--config={ROOT}/configs/image_folder.py:{folder}', f'--workdir={tmp_path}/run')
  refused('train', *arguments, parts=[folder, 'dog', 'wolf'])
  assert not (tmp_path / 'run').exists()


def test_no_folder(tmp_path, refused):
  arguments = (f'--config={ROOT}/configs/image_folder.py:{tmp_path}/nowhere', f'--workdir={tmp_path}/run')
  refused('train', *arguments, parts=[f'{tmp_path}/nowhere/train', 'PATH/train/CLASS/*.jpg'])
  assert not list(tmp_path.iterdir())


def test_a_workdir_that_cannot_be(tmp_path, refused):
  (tmp_path / 'file').write_text('mine\n')
  refused('train', DIGITS, *SMALL, f'--workdir={tmp_path}/file', parts=[f'{tmp_path}/file', 'is a file'])
  under = f'{tmp_path}/file/run'
  refused('train', DIGITS, *SMALL, f'--workdir={under}', parts=[under, 'Not a directory', '--workdir'])
  assert (tmp_path / 'file').read_text() == 'mine\n' and len(list(tmp_path.iterdir())) == 1


def test_a_workdir_that_may_not_be_written(tmp_path, refused, monkeypatch):
  locked = tmp_path / 'locked'
  locked.mkdir(mode=0o500)
  if os.geteuid() == 0:  # root may write everywhere
    make = Path.mkdir

    def mkdir(self, *args, **options):
      if locked in self.parents and not self.exists():
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))
      make(self, *args, **options)

    monkeypatch.setattr(Path, 'mkdir', mkdir)
  refused('train', DIGITS, *SMALL, f'--workdir={locked}', parts=[locked, 'Permission denied'])
  assert not list(locked.iterdir())


@pytest.mark.slow
@pytest.mark.skipif(not Path('/dev/full').exists(), reason='no /dev/full')
def test_no_space_for_the_log(tmp_path):
  (tmp_path / 'metrics.jsonl').symlink_to('/dev/full')
  result = process('train', DIGITS, *SMALL, f'--workdir={tmp_path}')
  assert result.returncode == 1
  assert len(result.stderr.splitlines()) == 1, result.stderr
  assert result.stderr.startswith(f'error: cannot write {tmp_path}/metrics.jsonl (No space left on device)')


@pytest.fixture
def small_disk(tmp_path):
  """A file system of 120 KiB."""
  folder = tmp_path / 'disk'
  folder.mkdir()
  command = ['mount', '-t', 'tmpfs', '-o', 'size=120k', 'tmpfs', folder]
  if not shutil.which('mount') or subprocess.run(command, capture_output=True, check=False).returncode:
    pytest.skip('file systems cannot be mounted here')
  yield folder
  subprocess.run(['umount', folder], check=True)


@pytest.mark.slow
def test_no_space_left(small_disk):
  result = process('train', DIGITS, *SMALL, f'--workdir={small_disk}/run')
  assert result.returncode == 1
  assert len(result.stderr.splitlines()) == 1, result.stderr
  assert result.stderr.startswith('error: no space left on the device for the checkpoint of step 10 in ')
  assert '0.1 MiB free' in result.stderr
  assert os.listdir(small_disk / 'run' / 'checkpoints') == []


def test_no_space_for_the_events(tmp_path, monkeypatch, refused):
  def flush(_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  monkeypatch.setattr(RecordWriter, 'flush', flush)
  refused('train', DIGITS, *SMALL, f'--workdir={tmp_path}/run', parts=[f'{tmp_path}/run', 'No space left on device'])


def test_no_space_for_a_checkpoint(run_command, tmp_path, monkeypatch, refused):
  def save(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  arguments = (DIGITS, *SMALL, f'--workdir={tmp_path}/run')
  with monkeypatch.context() as patch:
    patch.setattr(ocp.CheckpointManager, 'save', save)
    refused('train', *arguments, parts=['step 10', 'no space left', f'{tmp_path}/run/checkpoints', 'same command'])
  # The same command goes on once there is space, in the same process too: the lock is gone.
  assert run_command('train', *arguments) == 0
  assert json.loads((tmp_path / 'run' / 'summary.json').read_text())['steps'] == 20


def test_a_loss_that_is_not_finite(tmp_path, refused):
  # Adam moves every parameter by 1e30 in the second step, so the loss of a later one overflows.
  every = ('--config.checkpoint_every=1 steps', '--config.log_every=1 steps')
  given = (DIGITS, *SMALL, '--config.schedule.peak=1e30', *every, f'--workdir={tmp_path}')
  capture = {}
  real = loader.rows_of_step

  def rows_of_step(seed, step, batch_size, size):
    capture[step] = real(seed, step, batch_size, size)
    return capture[step]

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(loader, 'rows_of_step', rows_of_step)
    message = refused('train', *given, parts=['not finite', 'the last good checkpoint is of step', 'learning rate'])
  step = int(re.search(r'of step (\d+) is not finite', message)[1])
  last = int(re.search(r'checkpoint is of step (\d+)', message)[1])
  assert last == step  # so many steps were done before it
  assert str(capture[step][0]) + ', ' + str(capture[step][1]) in message
  assert_finite(tmp_path)


def test_an_evaluation_that_is_not_finite(tmp_path, refused, monkeypatch):
  real, calls = hooks.evaluate, []

  def evaluate(*arguments):
    calls.append(arguments)
    numbers, logits = real(*arguments)
    # Two for each evaluation: the average, and the raw parameters.
    return numbers | ({'loss': math.nan} if len(calls) == 3 else {}), logits

  monkeypatch.setattr(hooks, 'evaluate', evaluate)
  parts = ['the evaluation after 8 steps is not finite', 'the last good checkpoint is of step 4', 'learning rate']
  refused('train', DIGITS, *SMALL, '--config.eval_every=4 steps', f'--workdir={tmp_path}', parts=parts)
  assert_finite(tmp_path)


def assert_finite(workdir):
  lines = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
  assert lines and all(math.isfinite(v) for line in lines for v in line.values())


@pytest.mark.slow
def test_ctrl_c_in_a_terminal_spares_the_workers(tmp_path):
  options = ('--config.data.workers=1', '--config.data.resident_mib=0.0', '--config.total=100000 steps')
  command = [sys.executable, '-m', 'mixer_jax.train', DIGITS, *SMALL, *options, f'--workdir={tmp_path}/run']
  environment = {**os.environ, 'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(ROOT), 'PYTHONUNBUFFERED': '1'}
  pipes = {'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE, 'text': True}
  with subprocess.Popen(command, env=environment, start_new_session=True, **pipes) as process:
    assert any(line.startswith('step 20/') for line in process.stdout)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to all of them
    out, err = process.communicate(timeout=120)
  assert process.returncode == 0 and 'leaked' not in err, err
  stopped = re.search(r'stopped by SIGINT at step (\d+), saved', out)
  assert (tmp_path / 'run' / 'checkpoints' / stopped[1]).is_dir()
