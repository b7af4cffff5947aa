"""A run as a StableHLO file, run in a process that has jax and NumPy and nothing of this project; a run as ONNX."""

import hashlib
import json
import os
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from flax import nnx

import mixer_jax
from mixer_jax.inference import classify as inference
from mixer_jax.training import restore

ROOT = Path(mixer_jax.__file__).parents[1]
SHORT = (
  '--config.batch_size=32', '--config.total=4 steps', '--config.schedule.warmup=0', '--config.log_every=2 steps',
  '--config.eval_every=0', '--config.checkpoint_every=0',
)  # fmt: skip
SMALL = (*SHORT, '--config.model.blocks=1', '--config.model.hidden=8', '--config.augment={}')
MIXER = ('--config.model.token_mlp=6', '--config.model.channel_mlp=10')
CALL = """
import sys
import jax
import numpy as np

file, given, made = sys.argv[1:]
with np.load(given) as arrays:
  batches = [[arrays[f'{i}/{j}'] for j in range(sum(k.startswith(f'{i}/') for k in arrays))] for i in range(3)]
run = jax.export.deserialize(bytearray(open(file, 'rb').read()))
outputs = [run.call(*batch) for batch in batches]
assert not any(name.startswith(('mixer_jax', 'flax')) for name in sys.modules)
np.savez(made, **{f'{i}/{name}': value for i, output in enumerate(outputs) for name, value in output.items()})
"""


def call(artefact, batches, tmp_path):
  """What the artefact gives for three batches, in a process without this project: `sys.path` has not its folder."""
  np.savez(
    tmp_path / 'given.npz', **{f'{i}/{j}': array for i, batch in enumerate(batches) for j, array in enumerate(batch)}
  )
  environment = {name: value for name, value in os.environ.items() if name != 'PYTHONPATH'} | {'JAX_PLATFORMS': 'cpu'}
  command = [sys.executable, '-c', CALL, artefact, tmp_path / 'given.npz', tmp_path / 'made.npz']
  result = subprocess.run(
    list(map(str, command)), env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
  )
  assert result.returncode == 0, result.stderr
  with np.load(tmp_path / 'made.npz') as made:
    found = dict(made)
  return [{name.partition('/')[2]: v for name, v in found.items() if name.startswith(f'{i}/')} for i in range(3)]


@pytest.fixture(scope='module')
def run(run_command, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('runs') / 'digits'
  assert run_command('train', f'--config={ROOT}/configs/digits.py', *SMALL, *MIXER, f'--workdir={workdir}') == 0
  return workdir


def test_images_of_any_batch_as_the_run_itself(run_command, run, tmp_path):
  artefact = tmp_path / 'digits.stablehlo'
  assert run_command('export', f'--workdir={run}', f'--output={artefact}') == 0
  random = np.random.default_rng(0)
  batches = [[random.integers(0, 256, (size, 8, 8, 1), np.uint8)] for size in (1, 3, 17)]
  classify = inference.make_answers(restore.restore(run))
  for (image,), found in zip(batches, call(artefact, batches, tmp_path), strict=True):
    assert found['logits'].shape == (len(image), 10)
    np.testing.assert_allclose(
      found['probabilities'], classify({'image': image}, len(image))['probabilities'], rtol=1e-5, atol=1e-6
    )
    e = np.exp(found['logits'] - found['logits'].max(axis=1, keepdims=True))
    np.testing.assert_allclose(found['probabilities'], e / e.sum(axis=1, keepdims=True), rtol=1e-5, atol=1e-6)
  about = json.loads(Path(f'{artefact}.json').read_text())
  assert about['inputs'][0] | {'meaning': ''} == {
    'name': 'image', 'shape': ['batch', 8, 8, 1], 'dtype': 'uint8', 'meaning': '',
  }  # fmt: skip
  assert about['labels'] == [str(i) for i in range(10)] and about['step'] == 4
  assert about['sha256'] == hashlib.sha256(artefact.read_bytes()).hexdigest()
  assert about['platforms'] == ['cpu', 'cuda', 'tpu']
  assert sorted(path.name for path in tmp_path.glob('digits*')) == ['digits.stablehlo', 'digits.stablehlo.json']


@pytest.mark.slow
def test_rows(run_command, tmp_path):
  workdir, artefact = tmp_path / 'run', tmp_path / 'rows'
  config = f'--config={ROOT}/configs/breast_cancer.py'
  assert (
    run_command('train', config, *SHORT, '--config.model.blocks=1', '--config.model.hidden=8', f'--workdir={workdir}')
    == 0
  )
  assert run_command('export', f'--workdir={workdir}', f'--output={artefact}', '--platforms=cpu') == 0
  random = np.random.default_rng(0)
  batches = [[random.normal(size=(n, 30)).astype(np.float32), np.zeros((n, 0), np.int32)] for n in (1, 3, 17)]
  classify = inference.make_answers(restore.restore(workdir))
  for (features, categories), found in zip(batches, call(artefact, batches, tmp_path), strict=True):
    expected = classify({'features': features, 'categories': categories}, len(features))['probabilities']
    np.testing.assert_allclose(found['probabilities'], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.nightly
def test_an_autoencoder(run_command, tmp_path):
  workdir, artefact = tmp_path / 'run', tmp_path / 'codes'
  config = f'--config={ROOT}/configs/digits_autoencoder.py'
  small = ('--config.model.encoder_blocks=1', '--config.model.decoder_blocks=1', '--config.model.hidden=8')
  assert run_command('train', config, *SHORT, *small, *MIXER, f'--workdir={workdir}') == 0
  assert run_command('export', f'--workdir={workdir}', f'--output={artefact}', '--platforms=cpu') == 0
  image = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1), np.uint8)
  found = call(artefact, [[image], [image[:2]], [image[:1]]], tmp_path)
  run = restore.restore(workdir)
  expected = nnx.jit(nnx.merge(run.experiment.graphdef, run.params))(image / np.float32(255))
  np.testing.assert_allclose(found[0]['image'], expected, rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(found[1]['image'], expected[:2], rtol=1e-5, atol=1e-5)


EXPORT = """
import sys
from mixer_jax import export

for workdir, artefact in zip(sys.argv[1::2], sys.argv[2::2]):
  export.main([f'--workdir={workdir}', f'--output={artefact}'])
"""


@pytest.fixture(scope='module')
def exported(run_command, run, tmp_path_factory):
  """{name: (run directory, ONNX file)}, from one process of their own: jax2onnx replaces functions of jax."""
  folder = tmp_path_factory.mktemp('onnx')
  table, random = folder / 'table.csv', np.random.default_rng(0)
  lines = [f'{random.normal():.3f},{"abc"[i % 3]},{"no" if i % 2 else "yes"}' for i in range(60)]
  table.write_text('\n'.join(['size,kind,label', *lines]) + '\n')
  blocks = ('--config.model.encoder_blocks=1', '--config.model.decoder_blocks=1', '--config.model.hidden=8')
  trained = {
    'codes': ('digits_autoencoder.py', *blocks, *MIXER),
    'rows': (f'csv.py:{table}', '--config.model.blocks=1', '--config.model.hidden=8', '--config.batch_size=16'),
    'zero': ('digits.py', *SMALL, *MIXER, "--config.layers={'freeze': ('head',)}"),
  }
  for name, (config, *settings) in trained.items():
    arguments = (f'--config={ROOT}/configs/{config}', *SHORT, *settings, f'--workdir={folder / name}')
    assert run_command('train', *arguments) == 0
  found = {name: (folder / name if name in trained else run, folder / f'{name}.onnx') for name in ('classes', *trained)}
  command = [sys.executable, '-c', EXPORT, *(str(path) for paths in found.values() for path in paths)]
  result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
  assert result.returncode == 0 and not result.stderr, result.stderr
  return found


@pytest.mark.slow
@pytest.mark.parametrize('task', ['classes', 'codes'])
def test_onnx(exported, task):
  workdir, artefact = exported[task]
  session = onnxruntime.InferenceSession(artefact)
  restored = restore.restore(workdir)
  for size in (1, 17):
    image = np.random.default_rng(size).integers(0, 256, (size, 8, 8, 1), np.uint8)
    found = dict(zip((x.name for x in session.get_outputs()), session.run(None, {'image': image}), strict=True))
    if task == 'codes':
      expected = nnx.jit(nnx.merge(restored.experiment.graphdef, restored.params))(image / np.float32(255))
      np.testing.assert_allclose(found['decoded'], expected, rtol=1e-4, atol=1e-4)
    else:
      expected = inference.make_answers(restored)({'image': image}, size)['probabilities']
      np.testing.assert_allclose(found['probabilities'], expected, rtol=1e-4, atol=1e-5)
      assert list(found) == ['logits', 'probabilities'] and found['logits'].shape == (size, 10)
  about = json.loads(Path(f'{artefact}.json').read_text())
  assert about['sha256'] == hashlib.sha256(artefact.read_bytes()).hexdigest() and 'platforms' not in about
  assert list(about['outputs']) == (['decoded'] if task == 'codes' else ['logits', 'probabilities'])


@pytest.mark.slow
def test_onnx_of_rows(exported):
  workdir, artefact = exported['rows']
  categories = np.array([[0], [1], [2], [3], [1]], np.int32)
  session = onnxruntime.InferenceSession(artefact)
  width = session.get_inputs()[0].shape[1]  # a place for every column
  raw = {'features': np.random.default_rng(1).normal(size=(5, width)).astype(np.float32), 'categories': categories}
  _, probabilities = session.run(None, raw)
  expected = inference.make_answers(restore.restore(workdir))(raw, 5)['probabilities']
  assert np.ptp(expected[:, 1]) > 1e-3
  np.testing.assert_allclose(probabilities, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_onnx_of_a_head_that_is_still_zero(exported):
  image = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 1), np.uint8)
  logits, _ = onnxruntime.InferenceSession(exported['zero'][1]).run(None, {'image': image})
  assert not logits.any()


def test_an_onnx_model_that_gives_something_else_is_not_kept(refused, run, tmp_path, monkeypatch):
  session = onnxruntime.InferenceSession
  monkeypatch.setitem(sys.modules, 'jax2onnx', types.SimpleNamespace(to_onnx=lambda *_, **__: _Model()))

  class Wrong:
    def __init__(self, *_, **__):
      pass

    def run(self, names, raw):
      return [np.ones((3, 10), np.float32) for _ in names]

  class _Model:
    opset_import = (types.SimpleNamespace(version=23),)

    def SerializeToString(self):
      return b'model'

  monkeypatch.setattr(onnxruntime, 'InferenceSession', Wrong)
  refused('export', f'--workdir={run}', f'--output={tmp_path}/x.onnx', parts=['other logits', 'StableHLO'])

  def cannot(*_, **__):
    raise NotImplementedError('no plugin for erf_inv')

  monkeypatch.setattr(onnxruntime, 'InferenceSession', session)
  monkeypatch.setitem(sys.modules, 'jax2onnx', types.SimpleNamespace(to_onnx=cannot))
  refused('export', f'--workdir={run}', f'--output={tmp_path}/x.onnx', parts=['no plugin for erf_inv', 'StableHLO'])
  monkeypatch.setitem(sys.modules, 'jax2onnx', None)
  refused('export', f'--workdir={run}', f'--output={tmp_path}/x.onnx', parts=["'.[onnx]'"])
  assert list(tmp_path.iterdir()) == []


def test_mistakes(refused, run, tmp_path, monkeypatch):
  at = f'--workdir={run}'
  refused('export', at, f'--output={tmp_path}', parts=[tmp_path, 'is a folder'])
  refused('export', at, f'--output={tmp_path}/none/x', parts=['none', 'no folder'])
  for end in ('json', 'txt', 'onnxx', 'mlir', 'pb'):
    refused('export', at, f'--output={tmp_path}/x.{end}', parts=[f'ends in .{end}', 'x.stablehlo', 'NAME.onnx'])
  os.mkfifo(tmp_path / 'pipe')
  refused('export', at, f'--output={tmp_path}/pipe', parts=['pipe is neither a file nor a folder'])
  (tmp_path / 'pipe').unlink()
  with monkeypatch.context() as patch:
    patch.setattr(restore, 'restore', lambda *_, **__: pytest.fail('restored first'))
    refused('export', at, f'--output={tmp_path}/x', '--platforms=cpu,gpu', parts=["'gpu'", 'cuda'])
  refused('export', at, f'--output={tmp_path}/x.onnx', '--platforms=cpu', parts=['--platforms=cpu', 'leave it out'])
  refused('export', at, f'--output={tmp_path}/x', '--platforms=,', parts=['--platforms is empty'])
  refused('export', at, f'--output={tmp_path}/x', '--checkpoint=7', parts=["'7'"])
  refused('export', f'--workdir={tmp_path}', f'--output={tmp_path}/x', parts=['no run directory'])

  def full(*_):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(Path, 'write_bytes', full)
  refused('export', at, f'--output={tmp_path}/x', '--platforms=cpu', parts=['cannot write --output', 'No space left'])
  assert list(tmp_path.iterdir()) == []
