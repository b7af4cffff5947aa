"""A run that was stopped or killed and resumed ends with the same bits as one that was not."""

import json
import os
import shutil
import signal
from pathlib import Path

import kill
import numpy as np
import pytest
from PIL import Image

import mixer_jax
from mixer_jax import config as configs
from mixer_jax.training import checkpoints, loop
from mixer_jax.training import workdir as workdirs

CONFIGS = Path(mixer_jax.__file__).parents[1] / 'configs'


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  """The run directory of a run that nothing disturbed."""
  workdir = tmp_path_factory.mktemp('whole') / 'run'
  assert loop.train_and_evaluate(kill.tiny(), workdir)['steps'] == 60
  return workdir


def signalled(monkeypatch, at, number=signal.SIGTERM):
  """Sends this process a signal when a feed from step `at` on is asked for, once."""
  original, left = loop.loader.Loader.train, [at]

  def train(self, step, count):
    if left and step + count > left[0]:
      left.clear()
      os.kill(os.getpid(), number)
    return original(self, step, count)

  monkeypatch.setattr(loop.loader.Loader, 'train', train)


def test_the_reference_has_everything_random_on_and_learns_something(whole):
  config = workdirs.read_config(whole)
  assert config['model']['dropout'] and config['model']['stochastic_depth'] and config['ema']
  assert set(config['augment']) == {'affine', 'mixup'}
  lines = kill.log_lines(whole)
  logged = [line['step'] for line in lines if 'train/loss' in line]
  assert logged == [*range(7, 50, 7), 60]  # the last line takes in what is left over
  assert [line['step'] for line in lines if 'test/loss' in line] == [25, 50, 60]
  state = kill.last_state(whole)
  assert state['.step'] == 60
  assert {name.split('[')[0].split('.')[1] for name in state} == {'step', 'params', 'opt_state', 'ema', 'sums'}


def test_stopped_between_two_lines_of_the_log(whole, tmp_path, monkeypatch, capfd):
  monkeypatch.setattr(loop, 'CALL_SECONDS', 0.0)  # single steps, so that the stop falls between all intervals
  with monkeypatch.context() as patch:
    signalled(patch, 32)
    assert loop.train_and_evaluate(kill.tiny(), tmp_path / 'run') is None
  assert 'stopped by SIGTERM at step 33, saved' in capfd.readouterr().out
  assert not (tmp_path / 'run' / 'summary.json').exists()
  assert loop.train_and_evaluate(kill.tiny(), tmp_path / 'run')
  assert 'resumed at step 33' in capfd.readouterr().out
  assert kill.differences(whole, tmp_path / 'run') == []
  lines = [json.loads(line) for line in (tmp_path / 'run' / 'metrics.jsonl').read_text().splitlines()]
  (stop,) = [line for line in lines if len(line) == 2]
  times = [line['time/seconds'] for line in lines]
  assert stop['step'] == 33 and times == sorted(times)  # the time between the last line and the stop counts
  summary = json.loads((tmp_path / 'run' / 'summary.json').read_text())
  assert summary['seconds'] >= times[-1] > stop['time/seconds']
  assert summary['examples_per_second'] == pytest.approx(summary['examples'] / summary['seconds'], rel=0.01)


@pytest.mark.slow
def test_crops_noise_and_muon_go_on_where_they_were(tmp_path, monkeypatch, capfd):
  rng = np.random.default_rng(0)
  (tmp_path / 'photographs').mkdir()
  for i in range(9):
    coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8))
    coarse.resize((24 + i, 20)).save(tmp_path / 'photographs' / f'{i}.png')
  arguments = [
    f'--config={CONFIGS}/image_autoencoder.py:{tmp_path}/photographs', '--config.data.image=(16, 16, 3)',
    '--config.data.train=all[3:]', '--config.data.val=all[:3]', '--config.data.crop_from=22', '--config.model.hidden=8',
    '--config.model.token_mlp=4', '--config.model.channel_mlp=6', '--config.model.bottleneck=2',
    '--config.model.encoder_blocks=1', '--config.model.decoder_blocks=1', '--config.model.code=4',
    '--config.task.noise=0.3', '--config.batch_size=4',
    '--config.eval_batch_size=3', '--config.total=7 steps', '--config.schedule.warmup=0', '--config.log_every=1 steps',
    '--config.eval_every=4 steps', '--config.checkpoint_every=0', '--config.ema=0.5',
  ]  # fmt: skip
  config = configs.load(arguments)
  assert loop.train_and_evaluate(config, tmp_path / 'whole')
  monkeypatch.setattr(loop, 'CALL_SECONDS', 0.0)
  with monkeypatch.context() as patch:
    signalled(patch, 2)
    assert loop.train_and_evaluate(config, tmp_path / 'run') is None
  assert loop.train_and_evaluate(config, tmp_path / 'run')
  assert 'resumed at step 3' in capfd.readouterr().out
  assert kill.differences(tmp_path / 'whole', tmp_path / 'run') == []


def test_a_signal_between_the_last_look_and_the_next_is_heard(tmp_path, monkeypatch, capfd):
  original, left = loop._agreed, [1]

  def agreed(value):
    result = original(value)
    if left and value == 0:  # the look at the stop itself, which has already been answered with no
      left.clear()
      os.kill(os.getpid(), signal.SIGTERM)
    return result

  monkeypatch.setattr(loop, '_agreed', agreed)
  assert loop.train_and_evaluate(kill.tiny(), tmp_path / 'run') is None
  assert 'stopped by SIGTERM at step' in capfd.readouterr().out


def test_a_second_ctrl_c_says_what_is_lost(tmp_path, monkeypatch, capfd):
  monkeypatch.setattr(loop, 'CALL_SECONDS', 0.0)
  original = loop.loader.Loader.train

  def train(self, step, count):
    if step == 15:
      os.kill(os.getpid(), signal.SIGINT)
      os.kill(os.getpid(), signal.SIGINT)
    return original(self, step, count)

  monkeypatch.setattr(loop.loader.Loader, 'train', train)
  with pytest.raises(KeyboardInterrupt):
    loop.train_and_evaluate(kill.tiny(), tmp_path / 'run')
  shown = capfd.readouterr().err
  assert 'SIGINT: saving after the current steps' in shown
  assert 'quit at once: all after step 10, the last one saved, is lost; the same command goes on from there' in shown


def test_handlers_are_given_back(tmp_path):
  before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
  with loop.Stop():
    assert signal.getsignal(signal.SIGTERM) != before[0]
  assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


@pytest.mark.slow
def test_how_a_run_is_cut_into_calls_does_not_matter(whole, tmp_path, monkeypatch):
  """As long as can be; the runs that are stopped take single steps."""
  monkeypatch.setattr(loop, 'CALL_SECONDS', 1e9)
  loop.train_and_evaluate(kill.tiny(), tmp_path / 'run')
  assert kill.differences(whole, tmp_path / 'run') == []


def test_a_finished_run_whose_last_lines_are_lost_is_evaluated_again(whole, tmp_path, capsys):
  workdir = tmp_path / 'run'
  shutil.copytree(whole, workdir)
  wanted = json.loads((workdir / 'summary.json').read_text())
  (workdir / 'summary.json').unlink()
  log = workdir / 'metrics.jsonl'
  log.write_bytes(log.read_bytes()[:-25])
  found = loop.train_and_evaluate(kill.tiny(), workdir)
  assert found['metrics'] == wanted['metrics'] and found['best'] == wanted['best']
  assert kill.log_lines(workdir) == kill.log_lines(whole)
  assert f'the last line of {log} was cut off' in capsys.readouterr().err


@pytest.mark.slow
def test_two_kills_at_random_moments(whole, tmp_path):
  """The full study is `python tests/training/kill.py`; see docs/results/resume.md."""
  config = tmp_path / 'config.py'
  config.write_text(
    f'from ml_collections import ConfigDict\nget_config = lambda arg=None: ConfigDict({kill.tiny()!r})\n'
  )
  record = kill.study(str(config), [], kills=2, seed=0, folder=tmp_path, limit=200)
  assert len(record['kills']) == 2
  assert record['differences'] == []


def test_what_was_logged_after_the_checkpoint_is_dropped_once(whole, tmp_path):
  """As a kill right after a line leaves it: lines beyond the checkpoint, the last of them cut short."""
  workdir = tmp_path / 'run'
  with pytest.MonkeyPatch.context() as patch:
    signalled(patch, 40)
    patch.setattr(loop, 'CALL_SECONDS', 0.0)
    loop.train_and_evaluate(kill.tiny(), workdir)
  with (workdir / 'metrics.jsonl').open('a') as file:
    file.write('{"step": 42, "train/loss": 99.0, "time/seconds": 1.0}\n{"step": 49, "train/lo')
  loop.train_and_evaluate(kill.tiny(), workdir)
  assert kill.differences(whole, workdir) == []


def test_the_comparison_sees_a_single_bit(whole):
  a = kill.last_state(whole)
  b = {name: value.copy() for name, value in a.items()}
  assert kill.unequal(a, b) == []
  name = max(b, key=lambda name: b[name].nbytes)
  b[name].reshape(-1).view(np.uint32)[3] ^= 1
  assert kill.unequal(a, b) == [name]
  del b[name]
  assert kill.unequal(a, b) == [name]


def test_a_finished_run_is_left_as_it_is(whole):
  before = kill.last_state(whole), kill.log_lines(whole)
  assert loop.train_and_evaluate(kill.tiny(), whole)['steps'] == 60
  after = kill.last_state(whole), kill.log_lines(whole)
  assert kill.unequal(before[0], after[0]) == [] and before[1] == after[1]


def test_a_finished_run_whose_log_is_cut_keeps_its_summary(whole, tmp_path):
  shutil.copytree(whole, tmp_path / 'run')
  log, summary = tmp_path / 'run' / 'metrics.jsonl', (whole / 'summary.json').read_text()
  log.write_text(log.read_text()[:-20])
  cut = log.read_text()
  assert loop.train_and_evaluate(kill.tiny(), tmp_path / 'run') == json.loads(summary)
  assert (tmp_path / 'run' / 'summary.json').read_text() == summary and log.read_text() == cut


def test_the_state_of_a_stop_holds_the_sums_so_far(tmp_path, monkeypatch, capfd):
  monkeypatch.setattr(loop, 'CALL_SECONDS', 0.0)
  signalled(monkeypatch, 10, signal.SIGINT)
  loop.train_and_evaluate(kill.tiny(), tmp_path / 'run')
  assert 'stopped by SIGINT at step 11, saved' in capfd.readouterr().out
  state = kill.last_state(tmp_path / 'run')
  assert state['.step'] == 11
  assert state[".sums['steps']"] == 4  # since the line of step 7
  assert checkpoints.Checkpoints(tmp_path / 'run', read_only=True).steps() == [10, 11]


@pytest.mark.parametrize(
  'name', [pytest.param('look_sam', marks=pytest.mark.slow), pytest.param('dynamic_sam', marks=pytest.mark.nightly)]
)
def test_sam_noise_and_schedule_free_go_on_where_they_were(name, tmp_path, monkeypatch, capfd):
  sams = {
    'look_sam': {'every': 4, 'alpha': 0.7}, 'dynamic_sam': {'sparsity': 0.5, 'refresh': 3, 'drop': 0.5}
  }  # fmt: skip
  adamw = {'b1': 0.9, 'b2': 0.99, 'eps': 1e-8, 'weight_decay': 0.05, 'clip': 1.0}
  config = kill.tiny(
    total='12 steps', ema=0.0, optimizer={'name': 'schedule_free', **adamw},
    sam={'name': name, 'rho': 0.05, **sams[name]},
    schedule={'name': 'constant', 'peak': 2e-3, 'warmup': '2 steps'}, update_noise={'eta': 1e-6, 'gamma': 0.55},
    layers={'decay': 0.8, 'freeze': ['stem']}, augment={}, model=kill.tiny()['model'] | {'blocks': 1},
  )  # fmt: skip
  assert loop.train_and_evaluate(config, tmp_path / 'whole')
  monkeypatch.setattr(loop, 'CALL_SECONDS', 0.0)
  with monkeypatch.context() as patch:
    signalled(patch, 5)
    assert loop.train_and_evaluate(config, tmp_path / 'run') is None
  assert loop.train_and_evaluate(config, tmp_path / 'run')
  assert 'resumed at step 6' in capfd.readouterr().out
  assert kill.differences(tmp_path / 'whole', tmp_path / 'run') == []
  last = kill.log_lines(tmp_path / 'run')[-1]
  assert last['test/raw_loss'] != last['test/loss']
