"""Files of a run directory that are damaged: one line that names the file, nothing lost."""

import json

import pytest

from mixer_jax.errors import MixerError
from mixer_jax.training import log, workdir

LINE = json.dumps({'step': 5, 'train/loss': 1.0, 'time/seconds': 0.1})


@pytest.mark.parametrize(
  'line', ['', LINE[:-7], '3', '[]', '{"train/loss": 1.0}', '{"step": "5"}', '\udcff', '[' * 100_000],
  ids=['empty', 'half', 'number', 'list', 'no step', 'text', 'not UTF-8', 'deep'],
)  # fmt: skip
def test_a_line_of_the_log_that_is_none(line, tmp_path):
  path = tmp_path / 'metrics.jsonl'
  path.write_text('\n'.join([LINE, line, LINE, LINE[:9]]), encoding='utf-8', errors='surrogateescape')
  before = path.read_bytes()
  with pytest.raises(MixerError, match='metrics.jsonl, line 2 is no line of a log') as error:
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
