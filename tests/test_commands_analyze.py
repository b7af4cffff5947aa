"""Studies of runs through the command: every kind of task, what is written, what is refused."""

import contextlib
import functools
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import mixer_jax
from mixer_jax import config as configs
from mixer_jax.training import restore, settings

ROOT = Path(mixer_jax.__file__).parents[1]
SHORT = (
  '--config.total=4 steps', '--config.schedule.warmup=0', '--config.log_every=0', '--config.eval_every=0',
  '--config.checkpoint_every=2 steps',
)  # fmt: skip
RUNS = {
  'digits': (
    '--config.augment={}', '--config.model.blocks=1', '--config.model.hidden=8', '--config.model.token_mlp=4',
    '--config.model.channel_mlp=6', '--config.batch_size=32', '--config.eval_batch_size=48',
  ),
  'breast_cancer': ('--config.model.hidden=4', '--config.model.blocks=1', '--config.eval_batch_size=48'),
  'digits_autoencoder': (
    '--config.model.hidden=6', '--config.model.encoder_blocks=1', '--config.model.decoder_blocks=0',
    '--config.model.token_mlp=4', '--config.model.channel_mlp=6', '--config.model.bottleneck=3',
    '--config.model.code=5',
  ),
}  # fmt: skip
QUICK = ('--examples=100', '--iterations=8', '--eigenvalues=2', '--probes=3', '--points=3', '--m=30')
PRINTED = {
  'split', 'step', 'averaged', 'seed', 'parameters', 'examples', 'loss', 'gradient_norm', 'eigenvalues', 'residuals',
  'smallest', 'smallest_residual', 'iterations', 'trace', 'trace_standard_error', 'probes', 'm_sharpness',
  'm_sharpness_standard_error', 'groups', 'rho', 'm',
}  # fmt: skip


@pytest.fixture(scope='module')
def runs(run_command, tmp_path_factory):
  """The name of a config of RUNS -> the directory of a finished run."""
  folder = tmp_path_factory.mktemp('runs')

  @functools.cache
  def run(name):
    config = f'--config={ROOT}/configs/{name}.py'
    assert run_command('train', config, *RUNS[name], *SHORT, f'--workdir={folder / name}') == 0
    return folder / name

  return run


@pytest.fixture(scope='module')
def analyzed(run_command):
  """Runs the command; what it printed, and what sharpness.json holds."""

  @functools.cache
  def analyzed(workdir, *options):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
      assert run_command('analyze', 'sharpness', f'--workdir={workdir}', *QUICK, *options) == 0
    return json.loads(printed.getvalue()), json.loads((workdir / 'sharpness.json').read_text())

  return analyzed


def test_help_of_the_study_is_fast_and_needs_no_jax():
  code = (
    'import sys, time; began = time.process_time()\nfrom mixer_jax import analyze\n'
    'try: analyze.main(["sharpness", "--help"])\n'
    'except SystemExit as stop: print(stop.code, "jax" in sys.modules, time.process_time() - began)'
  )
  result = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=True)
  *text, last = result.stdout.splitlines()
  status, has_jax, seconds = last.split()
  assert (status, has_jax) == ('0', 'False') and float(seconds) < 3
  assert text[0].startswith('usage: python -m mixer_jax.analyze sharpness')
  assert all(f'--{name}' in result.stdout for name in ('debug', 'data_dir', 'workdir', 'raw', 'rho', 'm', 'seed'))


@pytest.mark.parametrize(
  'name', [name if name == 'digits' else pytest.param(name, marks=pytest.mark.nightly) for name in RUNS]
)
def test_every_kind_of_run(name, runs, analyzed):
  printed, written = analyzed(runs(name))
  assert set(printed) == PRINTED and written == printed | {k: written[k] for k in ('line', 'surface')}
  assert (printed['split'], printed['step'], printed['averaged'], printed['examples']) == (
    json.loads((runs(name) / 'config.json').read_text())['data']['train'], 4, True, 100,
  )  # fmt: skip
  assert (printed['groups'], printed['m'], printed['rho']) == (3, 30, 0.05)
  assert printed['smallest'] <= printed['eigenvalues'][1] <= printed['eigenvalues'][0]
  assert printed['parameters'] == restore.restore(runs(name)).experiment.parameters
  assert np.shape(written['surface']['loss']) == (3, 3) and len(written['line']['random']['loss']) == 5
  middles = written['surface']['loss'][1][1], written['line']['sharpest']['loss'][2]
  assert middles == pytest.approx((printed['loss'],) * 2, rel=1e-6)
  assert written['surface']['loss'][1] == pytest.approx(written['line']['random']['loss'][::2], rel=1e-5)
  for figure in ('line', 'surface'):
    with Image.open(runs(name) / 'figures' / f'sharpness_{figure}.png') as picture:
      assert picture.width > 600 and np.asarray(picture.convert('L')).std() > 10


@pytest.mark.nightly
def test_the_loss_is_that_of_evaluate_where_training_adds_nothing(run_command, runs, analyzed, capsys):
  workdir = runs('breast_cancer')
  printed, _ = analyzed(workdir, '--split=test', '--examples=100000', '--checkpoint=2')
  capsys.readouterr()
  assert run_command('evaluate', f'--workdir={workdir}', '--checkpoint=2') == 0
  evaluated = json.loads(capsys.readouterr().out)
  for what in ('split', 'step', 'examples'):
    assert printed[what] == evaluated[what]
  assert printed['loss'] == pytest.approx(evaluated['loss'], rel=1e-5)


def test_raw_parameters(runs, analyzed):
  averaged, _ = analyzed(runs('digits'))
  raw, _ = analyzed(runs('digits'), '--raw')
  assert raw['averaged'] is False and raw['loss'] != averaged['loss'] and raw['trace'] != averaged['trace']


@pytest.mark.nightly
def test_many_devices_give_the_same_numbers(runs, analyzed):
  one, _ = analyzed(runs('digits'))
  environment = {**os.environ, 'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(ROOT)}
  environment['XLA_FLAGS'] = f'{os.environ["XLA_FLAGS"]} --xla_force_host_platform_device_count=4'
  command = [
    sys.executable,
    '-m',
    'mixer_jax.analyze',
    'sharpness',
    f'--workdir={runs("digits")}',
    *QUICK,
    '--batch_size=21',
  ]
  result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=True)
  four = json.loads(result.stdout)
  for name in ('loss', 'gradient_norm', 'eigenvalues', 'trace', 'm_sharpness'):
    np.testing.assert_allclose(four[name], one[name], rtol=1e-3, err_msg=name)
  assert 'Lanczos' in result.stderr and 'Traceback' not in result.stderr


def test_a_run_in_bfloat16_is_analysed_in_float32(runs, tmp_path):
  workdir = shutil.copytree(runs('digits'), tmp_path / 'run')
  config = json.loads((workdir / 'config.json').read_text())
  config['model']['dtype'] = 'bfloat16'
  (workdir / 'config.json').write_text(json.dumps(config))
  assert restore.restore(workdir).experiment.model.dtype == jnp.bfloat16
  assert restore.restore(workdir, exact=True).experiment.model.dtype == jnp.float32


def refused_sharpness(refused, workdir, *options, parts):
  return refused('analyze', 'sharpness', f'--workdir={workdir}', *options, parts=parts)


@pytest.mark.parametrize(
  'options, parts',
  [
    (['--rho=-1'], ['--rho is -1.0', 'above 0']),
    (['--m=0'], ['--m is 0', 'at least 1']),
    (['--m=101', '--examples=100'], ['--m is 101', '100 examples']),
    (['--examples=0'], ['--examples is 0', 'at least 1']),
    (['--batch_size=-2'], ['--batch_size is -2', 'at least 1']),
    (['--eigenvalues=9', '--iterations=8'], ['--eigenvalues is 9', '--iterations is 8']),
    (['--split=nonsense'], ['nonsense', 'train']),
    (['--split=val'], ["'val'", 'train']),
    (['--checkpoint=3'], ["'3'", '[2, 4]']),
  ],
)
def test_bad_options(options, parts, runs, refused):
  refused_sharpness(refused, runs('digits'), *options, parts=parts)


def test_no_run_and_no_study(run_command, tmp_path, refused, capsys):
  refused_sharpness(refused, tmp_path / 'nothing', parts=[tmp_path / 'nothing', 'no run directory'])
  assert run_command('analyze') == 2
  assert run_command('analyze', 'sharpnes', f'--workdir={tmp_path}') == 2
  assert 'usage: python -m mixer_jax.analyze' in capsys.readouterr().err


def test_a_run_directory_that_cannot_be_written(runs, tmp_path, refused):
  workdir = shutil.copytree(runs('digits'), tmp_path / 'run')
  shutil.rmtree(workdir / 'figures')
  (workdir / 'figures').write_text('in the way')
  refused_sharpness(refused, workdir, *QUICK, parts=['figures', 'cannot write'])


def test_several_processes_are_refused(runs, refused, monkeypatch):
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  refused_sharpness(refused, runs('digits'), parts=['one process', 'there are 2'])


# ---- few shots


def test_few_shots_of_the_runs_own_data(runs, tmp_path, run_command, capsys):
  workdir = shutil.copytree(runs('digits'), tmp_path / 'run')
  options = ('--shots=2,7', '--draws=3')
  assert run_command('analyze', 'few_shot', f'--workdir={workdir}', *options) == 0
  found = json.loads(capsys.readouterr().out.splitlines()[-1])
  assert found == json.loads((workdir / 'few_shot.json').read_text())
  assert found['train'] == 'train[:80%]' and found['test'] == 'train[80%:]' and list(found['shots']) == ['2', '7']
  assert all(len(of['accuracies']) == 3 for of in found['shots'].values())
  assert found['shots']['7']['mean'] > 0.2  # of ten classes; the network has hardly been trained
  assert (workdir / 'figures' / 'few_shot.png').stat().st_size > 5000
  assert run_command('analyze', 'few_shot', f'--workdir={workdir}', *options) == 0
  assert json.loads(capsys.readouterr().out) == found


def test_few_shots_of_a_folder_of_images(runs, tmp_path, run_command, capsys):
  """Other data, in colour and of another size, with their own classes."""
  workdir, random = shutil.copytree(runs('digits'), tmp_path / 'run'), np.random.default_rng(0)
  for split in ('train', 'test'):
    for level, name in ((40, 'dark'), (200, 'light'), (120, 'grey')):
      folder = tmp_path / 'images' / split / name
      folder.mkdir(parents=True)
      for i in range(4):
        pixels = random.integers(level - 20, level + 20, (12, 10, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f'{i}.png')
  data = (f'--data=image_folder:{tmp_path}/images', '--train=train', '--test=test', '--classes=3', '--shots=3')
  assert run_command('analyze', 'few_shot', f'--workdir={workdir}', *data) == 0
  found = json.loads(capsys.readouterr().out.splitlines()[-1])
  assert found['shots']['3']['mean'] > 0.9  # brightness alone tells them


@pytest.mark.parametrize('options, parts', [
  (['--shots=5,x'], ["--shots is '5,x'"]), (['--shots=0'], ['at least 1']), (['--draws=0'], ['--draws is 0']),
  (['--ridge=0'], ['--ridge is 0.0']), (['--shots=5,200'], ['--shots asks for 200 of each class, but']),
  (['--data=mnist'], ['needs --train and --test']), (['--test=nonsense'], ['nonsense']),
  (['--train=nonsense'], ['nonsense']), (['--data=nothing', '--train=train', '--test=test'], ["'nothing'"]),
])  # fmt: skip
def test_few_shots_bad_options(options, parts, runs, refused, monkeypatch):
  monkeypatch.setattr(restore, 'restore', lambda *_, **__: pytest.fail('restored first'))
  refused('analyze', 'few_shot', f'--workdir={runs("digits")}', *options, parts=parts)


def test_few_shots_of_what_has_no_features(tmp_path, refused):
  """By the config alone: there is nothing to restore."""
  config = settings.resolve(configs.load([f'--config={ROOT}/configs/digits_autoencoder.py']))
  (tmp_path / 'config.json').write_text(json.dumps(config))
  refused('analyze', 'few_shot', f'--workdir={tmp_path}', parts=['has no method features'])


def test_few_shots_that_cannot_be_written(runs, tmp_path, refused, monkeypatch):
  workdir = shutil.copytree(runs('digits'), tmp_path / 'run')
  shutil.rmtree(workdir / 'figures')
  (workdir / 'figures').write_text('in the way')
  monkeypatch.setattr(restore, 'restore', lambda *_, **__: pytest.fail('restored first'))
  refused('analyze', 'few_shot', f'--workdir={workdir}', parts=['figures', 'cannot write'])
