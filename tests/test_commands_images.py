"""A few images of one's own, by the defaults of the configs: what the log says, and what the network learns."""

import json

import numpy as np
import pytest
from flax import nnx
from PIL import Image
from runs import ROOT

from mixer_jax.models import params as network
from mixer_jax.models.mixer import MlpMixer
from mixer_jax.weights import reading, writing


@pytest.fixture
def weights(tmp_path):
  """A model folder of a small Mixer with random weights, for images of 8x8."""
  model = {'patch': 2, 'hidden': 16, 'blocks': 1, 'token_mlp': 16, 'channel_mlp': 32}
  params = nnx.state(MlpMixer(image=(8, 8, 3), classes=3, **model, rngs=nnx.Rngs(0)), nnx.Param)
  arrays, data = network.arrays(params), {'image': [8, 8, 3], 'classes': 3}
  found = reading.Weights(arrays=arrays, model={'name': 'mixer', **model}, data=data, source='', kind='run')
  writing.write(found, tmp_path / 'weights')
  return tmp_path / 'weights'


def write_stripes(folder, count, seed):
  """Noise with bright rows or bright columns."""
  random = np.random.default_rng(seed)
  for name, axis in (('rows', 0), ('columns', 1)):
    (folder / name).mkdir(parents=True)
    for i in range(count):
      pixels = random.integers(0, 140, (8, 8, 3))
      bright = [slice(None)] * 2
      bright[axis] = slice(int(random.integers(2)), None, 2)
      pixels[tuple(bright)] += 80
      Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f'{i}.png')


@pytest.mark.slow
def test_fine_tuning_on_forty_images(weights, tmp_path, run_command, capsys):
  write_stripes(tmp_path / 'mine' / 'train', 20, seed=0)
  write_stripes(tmp_path / 'mine' / 'test', 50, seed=1)
  write_stripes(tmp_path / 'mine' / 'spare', 1, seed=2)
  (tmp_path / 'mine' / 'train' / 'rows' / 'list.txt').write_text('0.png')
  config, workdir = f'{ROOT}/configs/finetune.py:{weights},{tmp_path}/mine,adamw', tmp_path / 'run'
  streamed = '--config.data.resident_mib=0'
  assert run_command('train', f'--config={config}', f'--workdir={workdir}', streamed) == 0
  shown = capsys.readouterr().out
  assert f'{tmp_path}/mine/spare is not used' in shown
  assert '140 examples are read when their batch comes' in shown and '--check_data' in shown
  assert shown.count('1 left out (1 .txt)') == 1  # though two parts of train are read
  summary = json.loads((workdir / 'summary.json').read_text())
  assert summary['steps'] == 302 and summary['config']['batch_size'] == 8
  assert summary['metrics']['test/accuracy'] > 0.9
  assert summary['best']['chosen_by'] == 'val/accuracy'
