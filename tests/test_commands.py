"""The doors as users open them: a whole run from training to predictions, and the one line for each mistake."""

import csv
import errno
import fcntl
import gzip
import json
import math
import os
import platform
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
from flax import nnx
from PIL import Image
from sklearn import datasets
from tensorboardX.proto import event_pb2
from tensorboardX.record_writer import RecordWriter, masked_crc32c

import mixer_jax
from mixer_jax import cli
from mixer_jax.data import loader
from mixer_jax.data.images import decode
from mixer_jax.training import hooks, restore

ROOT = Path(mixer_jax.__file__).parents[1]
DOORS = ('train', 'evaluate', 'predict', 'convert', 'export', 'analyze', 'describe', 'benchmark')
DIGITS = f'--config={ROOT}/configs/digits.py'
# A small Mixer for 20 steps, quickly compiled: what these tests look at does not depend on its size.
SMALL = (
  '--config.augment={}', '--config.model.blocks=1', '--config.model.hidden=16', '--config.model.token_mlp=8',
  '--config.model.channel_mlp=24', '--config.batch_size=32', '--config.total=20 steps',
  '--config.schedule.warmup=2 steps', '--config.log_every=5 steps', '--config.eval_every=10 steps',
  '--config.checkpoint_every=10 steps',
)  # fmt: skip
EVALUATIONS, LOGGED = (10, 20), (5, 10, 15, 20)


def process(name, *arguments, devices=1):
  """`python -m mixer_jax.NAME ARGUMENTS` in a process of its own, with so many devices."""
  command = [sys.executable, '-m', f'mixer_jax.{name}', *map(str, arguments)]
  flags = f'{os.environ.get("XLA_FLAGS", "")} --xla_force_host_platform_device_count={devices}'
  environment = {**os.environ, 'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(ROOT), 'XLA_FLAGS': flags}
  return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope='module')
def run(run_command, tmp_path_factory):
  """The directory of a finished run."""
  workdir = tmp_path_factory.mktemp('runs') / 'small'
  assert run_command('train', DIGITS, *SMALL, f'--workdir={workdir}') == 0
  return workdir


@pytest.fixture(scope='module')
def restored(run):
  return restore.restore(run)


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
  """Three digits as PNGs of their own size, and one enlarged."""
  folder = tmp_path_factory.mktemp('photos')
  images = np.round(datasets.load_digits().images[[3, 14, 15]] * (255 / 16)).astype(np.uint8)
  for i, image in enumerate(images):
    Image.fromarray(image).save(folder / f'{i}.png')
  Image.fromarray(images[0]).resize((30, 50)).save(folder / 'large.jpg')
  return folder


def snapshot(folder):
  return {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in folder.rglob('*')} if folder.is_dir() else None


# ---- help


@pytest.mark.parametrize('name', DOORS)
def test_help_is_fast_and_needs_no_jax(name):
  code = (
    f'import sys, time; began = time.process_time()\nfrom mixer_jax import {name}\n'
    f'try: {name}.main(["--help"])\n'
    'except SystemExit as stop: print(stop.code, "jax" in sys.modules, time.process_time() - began)'
  )
  result = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=True)
  *text, last = result.stdout.splitlines()
  status, has_jax, seconds = last.split()
  assert (status, has_jax) == ('0', 'False') and float(seconds) < 3
  assert text[0].startswith(f'usage: python -m mixer_jax.{name}') and '--debug' in result.stdout
  assert result.stderr == ''


# ---- what the doors set up


def test_huge_pages():
  code = 'import os, sys; from mixer_jax import cli; cli.use_huge_pages(); print(os.environ, os.getpid(), sys.argv)'
  environment = {k: v for k, v in os.environ.items() if k != 'GLIBC_TUNABLES'} | {'PYTHONPATH': str(ROOT)}
  start = lambda e: subprocess.Popen(
    [sys.executable, '-c', code, 'a b', '--c'], env=e, stdout=subprocess.PIPE, text=True
  )
  process = start(environment)
  told = process.communicate(timeout=60)[0]
  assert f"{process.pid} ['-c', 'a b', '--c']" in told  # the same process, the same arguments
  assert (cli.HUGE_PAGES in told) == (platform.libc_ver()[0] == 'glibc')
  assert cli.HUGE_PAGES not in start(environment | {'GLIBC_TUNABLES': ''}).communicate(timeout=60)[0]


def test_compiled_programs_are_kept(tmp_path):
  # Large enough to take more than a tenth of a second to compile.
  code = (
    'from mixer_jax import cli\ncli.use_compilation_cache()\nimport jax\n'
    'print(jax.jit(lambda x: sum(jax.numpy.sort(x + i) for i in range(40)))(jax.numpy.arange(9.0)))'
  )
  environment = {k: v for k, v in os.environ.items() if k != 'JAX_COMPILATION_CACHE_DIR'}
  environment |= {'PYTHONPATH': str(ROOT), 'XDG_CACHE_HOME': str(tmp_path), 'JAX_PLATFORMS': 'cpu'}
  files = []
  for _ in range(2):
    subprocess.run([sys.executable, '-c', code], env=environment, check=True, capture_output=True)
    files.append({p.name for p in (tmp_path / 'mixer_jax' / 'xla').glob('jit__lambda*-cache')})
  assert files[0] and files[0] == files[1]


def test_the_bar_of_a_terminal(run_command, tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(sys.stderr, 'isatty', lambda: True, raising=False)
  assert run_command('train', DIGITS, *SMALL, f'--workdir={tmp_path}/run') == 0
  shown = capsys.readouterr()
  assert '20/20' in shown.err and 'step 10  test/accuracy' in shown.err.replace('\r', '\n')
  assert 'step 10' not in shown.out


# ---- a whole run


def test_run_directory(run):
  assert {p.name for p in run.iterdir() if 'tfevents' not in p.name} == {
    'config.json', 'labels.json', 'metrics.jsonl', 'summary.json', 'checkpoints', 'figures', '.lock',
  }  # fmt: skip
  assert len(list(run.glob('*tfevents*'))) == 1
  assert sorted(int(p.name) for p in (run / 'checkpoints').iterdir() if p.name.isdecimal()) == list(EVALUATIONS)
  with Image.open(run / 'figures' / 'curves.png') as image:
    assert image.format == 'PNG' and np.asarray(image.convert('L')).std() > 1
  assert json.loads((run / 'labels.json').read_text()) == list('0123456789')
  config = json.loads((run / 'config.json').read_text())
  assert config['model']['hidden'] == 16 and config['total'] == '20 steps' and config['ema'] == 0.99


def test_metrics(run):
  lines = [json.loads(line) for line in (run / 'metrics.jsonl').read_text().splitlines()]
  train = [line for line in lines if 'train/loss' in line]
  test = [line for line in lines if 'test/accuracy' in line]
  assert [line['step'] for line in train] == list(LOGGED) and [line['step'] for line in test] == list(EVALUATIONS)
  for line in train:
    assert {k for k in line if k.startswith('train/')} == {
      'train/loss', 'train/accuracy', 'train/top5', 'train/grad_norm', 'train/learning_rate',
    }  # fmt: skip
  for line in test:
    names = {'loss', 'accuracy', 'top5'}
    wanted = {f'test/{name}' for name in names} | {f'test/raw_{name}' for name in names}  # average and raw parameters
    assert {k for k in line if k.startswith('test/')} == wanted
    assert line['test/loss'] != line['test/raw_loss']
    assert round(line['test/accuracy'] * 359, 3) % 1 == 0  # the last fifth of 1,797, each counted once
  assert all(math.isfinite(value) for line in lines for value in line.values())
  # The logits start at zero, so the first losses are at log(10) and fall from there.
  assert train[-1]['train/loss'] < train[0]['train/loss'] < math.log(10) + 0.1


def test_events(run):
  (file,) = run.glob('*tfevents*')
  data, events = file.read_bytes(), []
  while data:  # of each record the length, its checksum, the event, its checksum
    (length,) = struct.unpack('<Q', data[:8])
    assert struct.unpack('<I', data[8:12])[0] == masked_crc32c(data[:8])
    events.append(event_pb2.Event.FromString(data[12 : 12 + length]))
    data = data[16 + length :]
  assert events[0].file_version == 'brain.Event:2'
  drawn = [(event.step, event.summary.value[0].tag, event.summary.value[0].simple_value) for event in events[1:]]
  lines = [json.loads(line) for line in (run / 'metrics.jsonl').read_text().splitlines()]
  wanted = [(line['step'], name, value) for line in lines for name, value in line.items() if name != 'step']
  assert [d[:2] for d in drawn] == [w[:2] for w in wanted]
  np.testing.assert_allclose([d[2] for d in drawn], [w[2] for w in wanted], rtol=1e-6)


def test_summary(run):
  summary = json.loads((run / 'summary.json').read_text())
  assert set(summary) == {
    'config', 'parameters', 'steps', 'examples', 'seconds', 'examples_per_second', 'device', 'metrics', 'best',
  }  # fmt: skip
  assert summary['config'] == json.loads((run / 'config.json').read_text())
  assert (summary['steps'], summary['examples']) == (20, 20 * 32) and summary['seconds'] > 0
  assert summary['examples_per_second'] == pytest.approx(640 / summary['seconds'], rel=0.01)
  stem, norms, head = 4 * 16 + 16, 2 * 16, 16 * 10 + 10
  mlps = (16 * 8 + 8) + (8 * 16 + 16) + (16 * 24 + 24) + (24 * 16 + 16)
  assert summary['parameters'] == stem + mlps + 2 * norms + norms + head
  lines = [json.loads(line) for line in (run / 'metrics.jsonl').read_text().splitlines()]
  test = [line for line in lines if 'test/accuracy' in line]
  assert summary['metrics']['test/accuracy'] == test[-1]['test/accuracy'] and 'step' not in summary['metrics']
  best = max(test, key=lambda line: line['test/accuracy'])
  assert summary['best']['step'] == best['step'] and summary['best']['test/accuracy'] == best['test/accuracy']


def evaluated(run_command, capsys, *arguments):
  capsys.readouterr()
  assert run_command('evaluate', *arguments) == 0
  return json.loads(capsys.readouterr().out)


def test_evaluate_gives_the_numbers_of_training(run_command, run, capsys):
  before = snapshot(run)
  result = evaluated(run_command, capsys, f'--workdir={run}')
  metrics = json.loads((run / 'summary.json').read_text())['metrics']
  assert (result['split'], result['step'], result['examples']) == ('train[80%:]', 20, 359)
  assert {f'test/{k}': result[k] for k in ('loss', 'accuracy', 'top5')} == {
    k: v for k, v in metrics.items() if k.startswith('test/') and not k.startswith('test/raw_')
  }
  assert snapshot(run) == before


def test_evaluate_another_split_and_checkpoint(run_command, run, capsys):
  result = evaluated(run_command, capsys, f'--workdir={run}', '--split=train[:10%]', '--checkpoint=10')
  assert (result['split'], result['step'], result['examples']) == ('train[:10%]', 10, 180)
  assert round(result['accuracy'] * 180, 3) % 1 == 0
  best = json.loads((run / 'summary.json').read_text())['best']
  result = evaluated(run_command, capsys, f'--workdir={run}', '--checkpoint=best')
  assert (result['step'], result['accuracy']) == (best['step'], best['test/accuracy'])


def test_predict(run_command, run, restored, photos, tmp_path, capsys):
  output = tmp_path / 'classes.csv'
  pattern = str(photos / '*.jpg')
  assert (
    run_command('predict', f'--workdir={run}', '--input', photos / '2.png', pattern, photos, f'--output={output}') == 0
  )
  with output.open(newline='') as file:
    header, *rows = list(csv.reader(file))
  assert header[:3] == ['file', 'class', 'probability']
  assert header[3:] == [f'{k}_{i}' for i in range(2, 6) for k in ('class', 'probability')]
  wanted = ['2.png', 'large.jpg', '0.png', '1.png', '2.png', 'large.jpg']
  assert [row[0] for row in rows] == [str(photos / name) for name in wanted]
  experiment = restored.experiment
  images = np.stack([decode.read_image(row[0], experiment.data.image) for row in rows])
  model = experiment.init_model()
  nnx.update(model, restored.params)
  logits = np.asarray(model(experiment.preprocess({'image': images})['image']))
  probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
  for row, each in zip(rows, probabilities, strict=True):
    order = np.argsort(-each)[:5]
    assert row[1::2] == [restored.classes[k] for k in order]
    shown = [float(p) for p in row[2::2]]
    np.testing.assert_allclose(shown, each[order], atol=2e-6)
    assert shown == sorted(shown, reverse=True) and shown[-1] > 0 and sum(shown) <= 1
  assert [p.name for p in tmp_path.iterdir()] == ['classes.csv']


def test_describe(run_command, capsys):
  assert run_command('describe', DIGITS, *SMALL, '--json') == 0
  result = json.loads(capsys.readouterr().out)
  tokens, hidden, blocks, token_mlp, channel_mlp = 16, 16, 1, 8, 24
  assert result['tokens'] == tokens
  stem, head = 2 * tokens * 4 * hidden, 2 * hidden * 10
  assert result['forward_flops'] == stem + blocks * 4 * tokens * hidden * (token_mlp + channel_mlp) + head
  assert result['parameter_bytes'] == result['ema_bytes'] == 4 * result['parameters']
  moments = 2 * 4 * result['parameters']
  assert moments <= result['optimizer_bytes'] <= moments + 16
  assert result['batch'] == {'image': 'uint8[32, 8, 8, 1]', 'label': 'int32[32]'}
  assert result['eval_batch'] == {'image': 'uint8[128, 8, 8, 1]', 'label': 'int32[128]'}
  assert result['batch_per_device'] * result['devices'] == 32
  assert run_command('describe', DIGITS, *SMALL, '--config.ema=0') == 0
  text = capsys.readouterr().out
  assert re.search(rf'^parameters +{result["parameters"]:,}$', text, re.M) and re.search(r'^ema bytes +0$', text, re.M)


@pytest.mark.skipif(not Path('/proc/self/status').is_file(), reason='reads the peak memory that Linux tells')
def test_describe_a_large_model_from_shapes_alone():
  # Not getrusage: its peak is inherited from the process that starts this one.
  code = (
    'import re, sys, time; began = time.process_time()\n'
    'from mixer_jax import describe\n'
    'describe.main(sys.argv[1:])\n'
    'peak = re.search(r"VmHWM:\\s*(\\d+) kB", open("/proc/self/status").read())\n'
    'print(int(peak[1]) * 1024, time.process_time() - began, file=sys.stderr)'
  )
  result = subprocess.run(
    [sys.executable, '-c', code, f'--config={ROOT}/configs/imagenet.py:H/14', '--json'],
    cwd=ROOT, env={**os.environ, 'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': ''}, capture_output=True, text=True, check=True,
  )  # fmt: skip
  described = json.loads(result.stdout)
  memory, seconds = map(float, result.stderr.split())
  tokens, hidden = 256, 1280
  stem, head = 2 * tokens * 3 * 14 * 14 * hidden, 2 * hidden * 1000
  assert described['forward_flops'] == stem + 32 * 4 * tokens * hidden * (640 + 5120) + head
  # Its parameters and Adam's moments alone would be 5 GB.
  assert described['parameters'] > 430e6 and memory < 1.5 * 2**30 and seconds < 20


def test_benchmark(run_command, capsys):
  assert run_command('benchmark', DIGITS, *SMALL, '--seconds=0.2', '--json') == 0
  result = json.loads(capsys.readouterr().out)
  numbers = {k: v for k, v in result.items() if k not in ('config', 'device')}
  assert set(numbers) == {
    'batch_size', 'compile_seconds', 'step_seconds', 'examples_per_second', 'step_flops', 'flops_per_second',
    'peak_flops_per_second', 'utilisation', 'peak_memory_bytes',
  }  # fmt: skip
  assert all(math.isfinite(v) and v > 0 for v in numbers.values())
  assert numbers['examples_per_second'] == pytest.approx(32 / numbers['step_seconds'])
  assert numbers['flops_per_second'] == pytest.approx(numbers['step_flops'] / numbers['step_seconds'])
  assert numbers['utilisation'] < 1
  # Backward passes cost twice the forward one, but for the stem, whose input needs no gradient.
  stem, forward = 2 * 16 * 4 * 16, 2 * 16 * 4 * 16 + 4 * 16 * 16 * (8 + 24) + 2 * 16 * 10
  assert numbers['step_flops'] == pytest.approx(32 * (3 * forward - stem), rel=0.1)


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


def test_evaluation_on_devices_that_do_not_divide_the_batch_of_the_training(run):
  result = process('evaluate', f'--workdir={run}', devices=3)
  assert result.returncode == 0, result.stderr
  evaluated, trained = json.loads(result.stdout), json.loads((run / 'summary.json').read_text())['metrics']
  assert evaluated['accuracy'] == pytest.approx(trained['test/accuracy'], abs=1e-6)
  assert evaluated['loss'] == pytest.approx(trained['test/loss'], rel=1e-5)


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


def test_class_folders_that_differ(folder, tmp_path, refused):
  shutil.move(folder / 'test' / 'dog', folder / 'test' / 'wolf')
  arguments = (f'--config={ROOT}/configs/image_folder.py:{folder}', f'--workdir={tmp_path}/run')
  refused('train', *arguments, parts=[folder, 'dog', 'wolf'])
  assert not (tmp_path / 'run').exists()


def test_no_folder(tmp_path, refused):
  arguments = (f'--config={ROOT}/configs/image_folder.py:{tmp_path}/nowhere', f'--workdir={tmp_path}/run')
  refused('train', *arguments, parts=[f'{tmp_path}/nowhere/train', 'PATH/train/CLASS/*.jpg'])
  assert not list(tmp_path.iterdir())


# ---- run directories


def test_the_run_of_another_config(run, refused):
  before = snapshot(run)
  given = (DIGITS, *SMALL, f'--workdir={run}')
  refused('train', *given, '--config.model.hidden=32', parts=[run, 'model.hidden', 'is 16 there', '32 here'])
  refused('train', *given, '--config.augment={"flip": {}}', parts=[run, 'augment'])
  assert snapshot(run) == before


def test_an_empty_section_is_not_a_missing_one(run, tmp_path, refused):
  # An augmentation without settings is an empty dict.
  config = json.loads((run / 'config.json').read_text())
  config['augment'] = {'flip': {}}
  (tmp_path / 'config.json').write_text(json.dumps(config))
  refused('train', DIGITS, *SMALL, f'--workdir={tmp_path}', parts=['another config: augment', '{} here'])


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
def test_a_run_goes_on_with_other_hardware(run, tmp_path):
  shutil.copytree(run, tmp_path / 'run')
  (tmp_path / 'run' / 'summary.json').unlink()
  shutil.rmtree(tmp_path / 'run' / 'checkpoints' / '20')
  other = ('--config.mesh.data=2', '--config.mesh.fsdp=2', '--config.data.resident_mib=0.0')
  result = process('train', DIGITS, *SMALL, '--config.ema=0.99', *other, f'--workdir={tmp_path}/run', devices=4)
  assert result.returncode == 0, result.stderr
  assert 'resumed at step 10' in result.stdout and 'data 2 x fsdp 2' in result.stdout
  assert json.loads((tmp_path / 'run' / 'config.json').read_text())['mesh'] == {'data': 2, 'fsdp': 2}
  ours, theirs = (json.loads((r / 'summary.json').read_text())['metrics'] for r in (tmp_path / 'run', run))
  assert ours['train/loss'] == pytest.approx(theirs['train/loss'], rel=1e-4)


def test_the_checkpoint_of_another_model(run, tmp_path, refused):
  shutil.copytree(run, tmp_path / 'run')
  config = json.loads((run / 'config.json').read_text())
  config['model']['hidden'] = 32
  (tmp_path / 'run' / 'config.json').write_text(json.dumps(config))
  parts = ['another model', f'{tmp_path}/run/checkpoints', '16', '32']
  refused('evaluate', f'--workdir={tmp_path}/run', parts=parts)
  refused('train', DIGITS, *SMALL, '--config.model.hidden=32', f'--workdir={tmp_path}/run', parts=parts)


def test_data_of_other_classes(run, tmp_path, refused):
  shutil.copytree(run, tmp_path / 'run')
  (tmp_path / 'run' / 'labels.json').write_text(json.dumps(list('0123456798')))
  parts = ["class 8 is '9' in the run", "'8' in the data"]
  refused('train', DIGITS, *SMALL, f'--workdir={tmp_path}/run', parts=parts)
  refused('evaluate', f'--workdir={tmp_path}/run', parts=parts)


def test_a_second_process_in_the_same_directory(run, refused):
  before = snapshot(run)
  with (run / '.lock').open() as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    refused('train', DIGITS, *SMALL, f'--workdir={run}', parts=[run, 'another process is training'])
  before.pop(run / '.lock')
  assert {p: v for p, v in snapshot(run).items() if p != run / '.lock'} == before


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
  assert process.returncode == 0, err
  stopped = re.search(r'stopped by SIGINT at step (\d+), saved', out)
  assert (tmp_path / 'run' / 'checkpoints' / stopped[1]).is_dir()


# ---- mistakes with a run


@pytest.mark.parametrize('name', ['evaluate', 'predict'])
def test_a_folder_that_is_no_run(name, tmp_path, photos, refused):
  more = ['--input', photos, f'--output={tmp_path}/out.csv'] if name == 'predict' else []
  (tmp_path / 'empty').mkdir()
  for folder in ('empty', 'none'):
    refused(name, f'--workdir={tmp_path}/{folder}', *more, parts=[f'{tmp_path}/{folder}', 'config.json'])
  (tmp_path / 'empty' / 'config.json').write_text('{"seed": 0')
  refused(name, f'--workdir={tmp_path}/empty', *more, parts=['config.json', 'cannot be read'])
  assert [p.name for p in tmp_path.iterdir()] == ['empty']


def test_a_run_without_checkpoints(run, tmp_path, refused):
  shutil.copy(run / 'config.json', tmp_path)
  refused('evaluate', f'--workdir={tmp_path}', parts=[tmp_path, 'no checkpoints'])


@pytest.mark.parametrize('checkpoint', ['15', 'frist', '²', '-1'])
def test_a_checkpoint_that_is_not_there(run, checkpoint, refused):
  refused('evaluate', f'--workdir={run}', f'--checkpoint={checkpoint}', parts=[run, repr(checkpoint), '[10, 20]'])


@pytest.mark.parametrize(
  'split, parts', [('tst', ["'tst'"]), ('train[90%:200%]', ['200%']), ('train[', ['train[']), ('val', ["'val'"])]
)
def test_a_split_that_is_not_there(run, split, parts, refused):
  refused('evaluate', f'--workdir={run}', f'--split={split}', parts=parts)


def test_labels_that_are_gone(run, tmp_path, refused):
  shutil.copytree(run, tmp_path / 'run')
  (tmp_path / 'run' / 'labels.json').unlink()
  refused('evaluate', f'--workdir={tmp_path}/run', parts=['labels.json'])


def test_predict_refuses(run, photos, tmp_path, refused):
  (tmp_path / 'bad.png').write_text('no image\n')
  out = f'--output={tmp_path}/out.csv'
  given = ('predict', f'--workdir={run}')
  refused(*given, '--input', photos / '0.png', tmp_path / 'bad.png', out, parts=[tmp_path / 'bad.png'])
  refused(*given, '--input', tmp_path / 'none.png', out, parts=[tmp_path / 'none.png', 'no such file'])
  refused(*given, '--input', tmp_path / '*.tif', out, parts=[tmp_path / '*.tif'])
  refused(*given, '--input', photos / '0.png', f'--output={tmp_path}/no/out.csv', parts=[f'{tmp_path}/no/out.csv'])
  refused(*given, '--input', photos / '0.png', f'--output={tmp_path}', parts=[tmp_path])
  assert [p.name for p in tmp_path.iterdir()] == ['bad.png']
  assert not Path(f'{tmp_path}.part').exists()
