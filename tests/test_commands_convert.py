"""Weights as users handle them: convert, init_from, finetune; a run that was fine-tuned, opened again."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn import datasets

import mixer_jax
from mixer_jax.inference import classify
from mixer_jax.models import params as network
from mixer_jax.training import restore, warm_start

ROOT = Path(mixer_jax.__file__).parents[1]
DIGITS, FINETUNE = (f'--config={ROOT}/configs/{name}.py' for name in ('digits', 'finetune'))
SHORT = (
  '--config.batch_size=32', '--config.total=6 steps', '--config.schedule.warmup=0', '--config.log_every=2 steps',
  '--config.eval_every=3 steps', '--config.checkpoint_every=3 steps',
)  # fmt: skip
SMALL = (
  *SHORT, '--config.model.blocks=2', '--config.model.hidden=8', '--config.model.token_mlp=6',
  '--config.model.channel_mlp=10', '--config.augment={}',
)  # fmt: skip

SCHEDULE_FREE = {'name': 'schedule_free', 'b1': 0.9, 'b2': 0.99, 'eps': 1e-8, 'weight_decay': 0.0, 'clip': 0.0}


@pytest.fixture(scope='module')
def pretrained(run_command, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('runs') / 'pretrained'
  assert run_command('train', DIGITS, *SMALL, f'--workdir={workdir}') == 0
  return workdir


@pytest.fixture(scope='module')
def finetuned(run_command, pretrained, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('runs') / 'finetuned'
  assert run_command('train', f'{FINETUNE}:{pretrained},digits,adamw', *SHORT, f'--workdir={workdir}') == 0
  return workdir


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
  """20 images for each of two classes, larger than a digit and in colour."""
  folder = tmp_path_factory.mktemp('photos')
  digits = datasets.load_digits()
  for label, name in ((0, 'round'), (1, 'straight')):
    (folder / 'train' / name).mkdir(parents=True)
    for i, pixels in enumerate(digits.images[digits.target == label][:20]):
      image = Image.fromarray(np.uint8(pixels * (255 / 16))).resize((20, 24)).convert('RGB')
      image.save(folder / 'train' / name / f'{i}.png')
  return folder


def test_any_to_any_and_back(run_command, pretrained, tmp_path, capsys):
  chain = [pretrained, tmp_path / 'a.npz', tmp_path / 'b.safetensors', tmp_path / 'folder', tmp_path / 'c.npz']
  for source, target in zip(chain, chain[1:], strict=False):
    assert run_command('convert', f'--from={source}', f'--to={target}', '--check') == 0
    out, err = capsys.readouterr()
    assert f'-> {target}' in out and 'logits of 4 random images differ by at most 0,' in err
  original = network.arrays(restore.restore(pretrained).params)
  with np.load(tmp_path / 'c.npz') as again, np.load(tmp_path / 'a.npz') as first:
    assert all(np.array_equal(again[name], first[name]) for name in first.files)
    assert np.array_equal(again['head/kernel'], original['head.kernel'])


def test_a_run_keeps_its_preprocessing_in_a_folder(run_command, pretrained, tmp_path):
  assert run_command('convert', f'--from={pretrained}', f'--to={tmp_path / "folder"}') == 0
  about = json.loads((tmp_path / 'folder' / 'config.json').read_text())
  assert about['data'] == {'image': [8, 8, 1], 'classes': 10, 'mean': [0.305], 'std': [0.376]}
  assert about['model']['gelu'] == 'tanh' and about['labels'] == [str(i) for i in range(10)]


def test_a_folder_is_no_run(refused, run_command, pretrained, tmp_path, capsys):
  assert run_command('convert', f'--from={pretrained}', f'--to={tmp_path / "folder"}') == 0
  capsys.readouterr()
  refused('evaluate', f'--workdir={tmp_path}/folder', parts=['is a model folder', '--config.init_from.weights='])


def test_a_new_run_begins_with_the_arrays(run_command, pretrained, tmp_path):
  """A learning rate of next to nothing, so that a step shows what was there before it."""
  workdir = tmp_path / 'run'
  change = ('--config.ema=0', '--config.schedule.peak=1e-30', '--config.schedule.floor=0', '--config.total=1 steps')
  assert (
    run_command('train', DIGITS, *SMALL, *change, f'--config.init_from.weights={pretrained}', f'--workdir={workdir}')
    == 0
  )
  before, after = (network.arrays(restore.restore(run).params) for run in (pretrained, workdir))
  assert all(np.array_equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize('change', [
  pytest.param(('--config.ema=0.9',), marks=pytest.mark.nightly),
  pytest.param(('--config.model.scan=True',), marks=pytest.mark.nightly),
  pytest.param((f'--config.optimizer={SCHEDULE_FREE}', '--config.ema=0'), marks=pytest.mark.nightly),
], ids=['average', 'stacked', 'schedule_free'])  # fmt: skip
def test_averages_and_stacks_begin_with_the_arrays_too(change, run_command, pretrained, tmp_path):
  workdir = tmp_path / 'run'
  still = ('--config.schedule.peak=1e-30', '--config.schedule.floor=0', '--config.total=1 steps')
  assert (
    run_command(
      'train', DIGITS, *SMALL, *still, *change, f'--config.init_from.weights={pretrained}', f'--workdir={workdir}'
    )
    == 0
  )
  before, after = (network.arrays(restore.restore(run).params) for run in (pretrained, workdir))
  for name in before:
    np.testing.assert_allclose(after[name], before[name], rtol=1e-6, atol=1e-7)


def test_finetuned_says_what_it_did(finetuned, pretrained):
  summary = json.loads((finetuned / 'summary.json').read_text())
  assert summary['init_from']['weights'] == str(pretrained) and summary['init_from']['kind'] == 'run'
  assert summary['init_from']['notes'] == [
    'step 6 of the run, averaged parameters',
    'head: reinitialised, 10 -> 10 classes',
  ]
  assert summary['config']['init_from']['head'] == 'new'


def test_finetuned_opened_again_gives_its_own_logits_in_every_bit(
  run_command, finetuned, pretrained, tmp_path, monkeypatch
):
  """evaluate and predict know nothing of init_from: the weights may be gone, and the head is the run's."""
  batch = {'image': np.random.default_rng(0).integers(0, 256, (9, 8, 8, 1), np.uint8)}
  moved = tmp_path / 'moved'
  shutil.copytree(finetuned, moved)
  monkeypatch.setattr(warm_start, 'read', lambda *_: pytest.fail('the weights were read again'))
  first, second = (
    classify.make_answers(restore.restore(run))(batch, 16)['probabilities'] for run in (finetuned, moved)
  )
  assert np.array_equal(first, second)
  head = network.arrays(restore.restore(moved).params)['head.kernel']
  assert np.abs(head).max() > 0 and not np.array_equal(
    head, network.arrays(restore.restore(pretrained).params)['head.kernel']
  )
  assert run_command('evaluate', f'--workdir={moved}') == 0


@pytest.mark.slow
def test_resumed_equals_never_stopped_without_the_weights(run_command, pretrained, finetuned, tmp_path):
  weights, workdir = tmp_path / 'weights', tmp_path / 'run'
  shutil.copytree(pretrained, weights)
  begin = (f'{FINETUNE}:{weights},digits,adamw', *SHORT, f'--workdir={workdir}')
  assert run_command('train', *begin) == 0
  shutil.rmtree(workdir / 'checkpoints' / '6')
  (workdir / 'summary.json').unlink()
  before = json.loads((workdir / 'init_from.json').read_text())
  assert run_command('train', *begin) == 0
  ours, theirs = (network.arrays(restore.restore(run).params) for run in (workdir, finetuned))
  assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
  assert json.loads((workdir / 'summary.json').read_text())['init_from'] == before


@pytest.mark.nightly
def test_the_probe_moves_the_head_alone(run_command, pretrained, tmp_path):
  workdir = tmp_path / 'run'
  assert run_command('train', f'{FINETUNE}:{pretrained},digits,probe', *SHORT, f'--workdir={workdir}') == 0
  before, after = (network.arrays(restore.restore(run).params) for run in (pretrained, workdir))
  moved = {name for name in before if not np.array_equal(before[name], after[name])}
  assert moved == {'head.kernel', 'head.bias'}


def test_a_folder_of_ones_own(run_command, pretrained, photos, tmp_path, capsys):
  """20 images a class, other size, colour: one command, no file touched."""
  workdir = tmp_path / 'run'
  assert run_command('train', f'{FINETUNE}:{pretrained},{photos},adamw', *SHORT, f'--workdir={workdir}') == 0
  assert 'head: reinitialised, 10 -> 2 classes' in capsys.readouterr().out
  assert json.loads((workdir / 'labels.json').read_text()) == ['round', 'straight']


@pytest.mark.parametrize('change', [
  pytest.param(('--config.init_from.tokens=interpolate',), marks=pytest.mark.nightly),
  pytest.param(('--config.init_from.tokens=tile', '--config.model.token_mlp=24'), marks=pytest.mark.nightly),
  pytest.param(('--config.model.patch=4', '--config.init_from.stem=resize'), marks=pytest.mark.nightly),
], ids=['interpolated', 'tiled', 'stem'])  # fmt: skip
def test_larger_images_with_resized_weights(change, run_command, pretrained, tmp_path):
  arguments = (f'{FINETUNE}:{pretrained},digits,adamw', *SHORT, '--config.data.image=(16, 16, 1)', *change)
  assert run_command('train', *arguments, f'--workdir={tmp_path}/run') == 0


def test_mistakes(refused, pretrained, finetuned, tmp_path):
  at = f'--workdir={tmp_path / "run"}'
  small = (DIGITS, *SMALL, at)
  refused('train', *small, '--config.init_from.weights=nowhere/w.npz', parts=['nowhere/w.npz', 'no file'])
  refused('train', *small, f'--config.init_from.weights={pretrained}', '--config.init_from.checkpoint=99', parts=['99'])
  refused(
    'train',
    *small,
    f'--config.init_from.weights={pretrained}',
    '--config.model.hidden=16',
    parts=['model.hidden is 8 in the weights, 16 here'],
  )
  refused('train', *small, '--config.init_from.head=new', parts=['init_from.weights is empty'])
  refused('train', *small, f'--config.init_from.weights={pretrained}', '--config.init_from.haed=new', parts=['haed'])
  refused('train', f'{FINETUNE}:{pretrained}', at, parts=['WEIGHTS,DATASET'])
  refused('train', f'{FINETUNE}:{pretrained},digits,adma', at, parts=['sgd, adamw, probe, scratch'])
  refused('train', f'{FINETUNE}:{pretrained},dogs', at, parts=["DATASET is 'dogs'"])
  refused('train', f'{FINETUNE}:{tmp_path}/none,digits', at, parts=['none is no run directory'])
  refused('convert', f'--from={tmp_path}', f'--to={tmp_path}/w.npz', parts=['has no config.json'])
  refused('convert', f'--from={pretrained}', f'--to={tmp_path}/w.h5', parts=['w.h5'])
  refused('convert', f'--from={pretrained}', f'--to={finetuned}', parts=['other things in it'])
  os.mkfifo(tmp_path / 'pipe.npz')
  for command in (('convert', f'--from={pretrained}', '--to'), ('predict', f'--workdir={pretrained}', '--input=x')):
    output = [] if command[0] == 'convert' else ['--output']
    refused(*command, *output, tmp_path / 'pipe.npz', parts=['pipe.npz is neither a file nor a folder'])
  (tmp_path / 'w.npz').write_bytes(b'PK\x03\x04 and no more')
  refused('convert', f'--from={tmp_path}/w.npz', f'--to={tmp_path}/out', parts=['w.npz is damaged'])
  refused('convert', f'--from={tmp_path}/w.npz', f'--to={tmp_path}/out', '--checkpoint=best', parts=['is no run'])
  assert not (tmp_path / 'run').exists() and not (tmp_path / 'out').exists()


def test_a_table_goes_on_with_the_same_rows_only(run_command, refused, tmp_path, capsys):
  """Through a model folder, too; other rows teach other scalings, so the weights would mean something else."""
  small = (
    f'--config={ROOT}/configs/breast_cancer.py', *SHORT, '--config.eval_every=0', '--config.model.blocks=1',
    '--config.model.hidden=4',
  )  # fmt: skip
  assert run_command('train', *small, f'--workdir={tmp_path}/first') == 0
  assert run_command('convert', f'--from={tmp_path}/first', f'--to={tmp_path}/folder', '--check') == 0
  assert 'equal in every bit' in capsys.readouterr().err
  start = f'--config.init_from.weights={tmp_path}/folder'
  assert run_command('train', *small, start, f'--workdir={tmp_path}/second') == 0
  capsys.readouterr()
  other = ('--config.data.train=train[:50%]', f'--workdir={tmp_path}/third')
  message = run_command('train', *small, start, *other)
  assert 'of a table of another schema' in message
