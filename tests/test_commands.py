"""The commands as users run them: a whole run from training to predictions, and what they refuse of a run."""

import csv
import fcntl
import json
import math
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from flax import nnx
from PIL import Image
from runs import DIGITS, EVALUATIONS, LOGGED, ROOT, SMALL, process
from sklearn import datasets
from tensorboardX.proto import event_pb2
from tensorboardX.record_writer import masked_crc32c

from mixer_jax.data.images import decode
from mixer_jax.training import restore


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
    'config', 'parameters', 'steps', 'steps_per_epoch', 'examples', 'seconds', 'examples_per_second', 'device',
    'metrics', 'best',
  }  # fmt: skip
  assert summary['config'] == json.loads((run / 'config.json').read_text())
  assert (summary['steps'], summary['examples']) == (20, 20 * 32) and summary['seconds'] > 0
  assert summary['steps_per_epoch'] == 1438 / 32
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
  parts = ["class 8 is '9' in the run", "'8' in these data"]
  refused('train', DIGITS, *SMALL, f'--workdir={tmp_path}/run', parts=parts)
  refused('evaluate', f'--workdir={tmp_path}/run', parts=parts)


def test_a_second_process_in_the_same_directory(run, refused):
  before = snapshot(run)
  with (run / '.lock').open() as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    refused('train', DIGITS, *SMALL, f'--workdir={run}', parts=[run, 'another process is training'])
  before.pop(run / '.lock')
  assert {p: v for p, v in snapshot(run).items() if p != run / '.lock'} == before


def test_evaluation_on_devices_that_do_not_divide_the_batch_of_the_training(run):
  result = process('evaluate', f'--workdir={run}', devices=3)
  assert result.returncode == 0, result.stderr
  evaluated, trained = json.loads(result.stdout), json.loads((run / 'summary.json').read_text())['metrics']
  assert evaluated['accuracy'] == pytest.approx(trained['test/accuracy'], abs=1e-6)
  assert evaluated['loss'] == pytest.approx(trained['test/loss'], rel=1e-5)


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
  'split, parts',
  [
    ('tst', ["'tst'"]),
    ('tst[:10%]', ["'tst'"]),
    ('train[90%:200%]', ['200%']),
    ('train[', ['train[']),
    ('val', ["'val'"]),
  ],
)
def test_a_split_that_is_not_there(run, split, parts, refused):
  own = 'itself has: train, which is train[:80%], test, which is train[80%:].'
  refused('evaluate', f'--workdir={run}', f'--split={split}', parts=[*parts, own])


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


def test_a_folder_of_two_classes_under_the_task_binary(run_command, tmp_path, capsys):
  """Bright and dark images: trained, evaluated and predicted with one logit, the last class being the positive one."""
  random = np.random.default_rng(0)
  for split, count in (('train', 32), ('val', 8)):
    for name, level in (('bright', 190), ('dark', 60)):
      (tmp_path / 'lamps' / split / name).mkdir(parents=True)
      for i in range(count):
        pixels = random.integers(level - 40, level + 40, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / 'lamps' / split / name / f'{i}.png')
  small = [flag for flag in SMALL if 'augment' not in flag]  # the config's own, CutMix among them
  config = (f'--config={ROOT}/configs/image_folder.py:{tmp_path}/lamps', *small, '--config.data.image=(8, 8, 3)')
  binary = ('--config.task.name=binary', '--config.model.patch=2', '--config.eval_batch_size=16', '--config.ema=0')
  workdir = tmp_path / 'run'
  assert run_command('train', *config, *binary, '--config.total=60 steps', f'--workdir={workdir}') == 0
  summary = json.loads((workdir / 'summary.json').read_text())
  assert summary['metrics']['val/accuracy'] == summary['metrics']['val/roc_auc'] == 1
  assert summary['config']['task'] == {'name': 'binary', 'positive_weight': 1.0}
  evaluation = evaluated(run_command, capsys, f'--workdir={workdir}', '--split=val')
  assert evaluation['f1'] == 1 and evaluation['examples'] == 16
  output = tmp_path / 'classes.csv'
  given = ('--input', tmp_path / 'lamps' / 'val', f'--output={output}')
  assert run_command('predict', f'--workdir={workdir}', *given) == 0
  with output.open(newline='') as file:
    rows = list(csv.DictReader(file))
  assert len(rows) == 16
  for row in rows:
    assert row['class'] == Path(row['file']).parent.name
    first, second = float(row['probability']), float(row['probability_2'])
    assert first > 0.5 > second and first + second == pytest.approx(1, abs=2e-6)
