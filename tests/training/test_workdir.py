"""Files of a run directory that are damaged: one line that names the file, nothing lost."""

import json

import pytest

from mixer_jax import config as configs
from mixer_jax.errors import MixerError
from mixer_jax.training import log, restore, workdir
from mixer_jax.training.settings import resolve

LINE = json.dumps({'step': 5, 'train/loss': 1.0, 'time/seconds': 0.1})


@pytest.mark.parametrize(
  'line', ['', LINE[:-7], '3', '[]', '{"train/loss": 1.0}', '{"step": "5"}', '\udcff', '[' * 100_000],
  ids=['empty', 'half', 'number', 'list', 'no step', 'text', 'not UTF-8', 'deep'],
)  # fmt: skip
def test_a_line_of_the_log_that_is_none(line, tmp_path):
  path = tmp_path / 'metrics.jsonl'
  path.write_text('\n'.join([LINE, line, LINE, LINE[:9]]), encoding='utf-8', errors='surrogateescape')
  before = path.read_bytes()
  with pytest.raises(MixerError, match='metrics.jsonl, line 2 is not a log line') as error:
    log.read_metrics(tmp_path)
  assert '\n' not in str(error.value) and len(str(error.value)) < 600
  with pytest.raises(MixerError, match='line 2'):
    log.Log(tmp_path, step=5, total=10, write=True)
  assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_a_last_line_cut_short_is_left_out(tmp_path):
  (tmp_path / 'metrics.jsonl').write_text(f'{LINE}\n{LINE}\n{LINE[:9]}')
  assert log.read_metrics(tmp_path) == [json.loads(LINE)] * 2


@pytest.mark.parametrize('text', ['', '["a", "b"', '{"a": 1}', '3', '["a", 1]', '\udcff', '[' * 100_000])
def test_labels_that_are_none(text, tmp_path):
  (tmp_path / 'labels.json').write_text(text, encoding='utf-8', errors='surrogateescape')
  with pytest.raises(MixerError, match=r'labels\.json .*restore it') as error:
    workdir.check_classes(tmp_path, ['a', 'b'])
  assert '\n' not in str(error.value)


@pytest.mark.parametrize(
  'change, part',
  [
    ({'model': None}, 'is not a config'),
    ({'model': [[1]]}, 'is not a config'),
    ({'augment': {'noise': 1}, 'task': {'name': 'reconstruction'}}, 'is not a config'),
    ({'seed': 10**400}, 'an integer of 401 digits'),
    ({'data': {'mean': [10**400]}}, 'an integer of 401 digits'),
    ({'data': {'image': [10**400, 8, 1]}}, 'an integer of 401 digits'),
    ({'data': {'mean': [float('nan')]}}, 'data.mean is [nan], but must be in (-inf, inf)'),
    ({'data': {'std': [float('inf')]}}, 'data.std is [inf], but must be in (0, inf)'),
    ({'data': {'std': [0.0]}}, 'data.std is [0.0]'),
  ],
)
def test_configs_of_a_run_that_are_none(change, part, tmp_path):
  config = resolve(configs.load(['--config=digits']))
  both = {key: config[key] | value if key == 'data' else value for key, value in change.items()}
  (tmp_path / 'config.json').write_text(json.dumps(config | both))
  with pytest.raises(MixerError) as error:
    restore.rebuild(tmp_path)
  assert part in str(error.value) and '\n' not in str(error.value)


def test_a_config_of_a_run_that_has_a_key_twice(tmp_path):
  text = json.dumps(resolve(configs.load(['--config=digits'])))
  (tmp_path / 'config.json').write_text(text)
  assert restore.rebuild(tmp_path).settings.seed == 0
  (tmp_path / 'config.json').write_text(text.replace('"seed": 0', '"seed": 1, "seed": 0'))
  with pytest.raises(MixerError, match="it has 'seed' twice"):
    restore.rebuild(tmp_path)
