"""Text is UTF-8 whatever the locale: every file that is opened as text says so, and a command runs under LC_ALL=C."""

import ast
import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from table_runs import SMALL, rows

import mixer_jax

ROOT = Path(mixer_jax.__file__).parents[1]
SOURCES = sorted(
  path for folder in ('mixer_jax', 'studies', 'benchmarks', 'configs') for path in (ROOT / folder).rglob('*.py')
)


def without_encoding(source):
  """The lines of calls that open a file as text and leave its encoding to the locale."""
  found = []
  for call in ast.walk(ast.parse(source)):
    if not isinstance(call, ast.Call):
      continue
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, 'id', '')
    of = call.func.value.id if isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Name) else ''
    given = {keyword.arg for keyword in call.keywords}
    texts = [a.value for a in call.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
    binary = any('b' in text and set(text) <= set('rwaxb+') for text in texts)
    opens = name == 'open' and of not in {'Image', 'os', 'archive', 'gzip', 'tarfile', 'webbrowser'} and not binary
    writes = name in ('write_text', 'read_text') and isinstance(call.func, ast.Attribute) and of != 'files'
    if (opens or writes) and 'encoding' not in given:
      found.append(call.lineno)
  return found


def test_the_check_sees_what_it_is_for():
  bad = "open('a')\nopen('a', 'w')\npath.open()\npath.write_text('x')\npath.read_text()\n"
  assert without_encoding(bad) == [1, 2, 3, 4, 5]
  assert without_encoding("open('a', 'rb')\npath.open('wb')\npath.read_text(encoding='utf-8')\nImage.open(f)") == []


@pytest.mark.parametrize('path', SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_text_file_has_its_encoding(path):
  assert without_encoding(path.read_text(encoding='utf-8')) == []


@pytest.mark.slow
def test_a_table_of_other_letters_in_the_c_locale(tmp_path):
  """Trained and predicted by a Python that takes ASCII for text unless told otherwise."""
  header = ('id', 'größe', 'gewicht', 'farbe', 'art')
  swap = {'red': 'röt', 'green': '\u7dd1', 'blue': 'blau'}
  body = [(*row[:3], swap[row[3]], ('schön', 'häßlich')[int(row[4])]) for row in rows(40)]
  with (tmp_path / 'mine.csv').open('w', encoding='utf-8', newline='') as file:
    csv.writer(file).writerows([header, *body])
  env = os.environ | {'LC_ALL': 'C', 'PYTHONCOERCECLOCALE': '0', 'PYTHONUTF8': '0', 'PYTHONPATH': str(ROOT)}
  env |= {'GLIBC_TUNABLES': ''}  # so that the command is not started again, without -X

  def run(*arguments):
    done = subprocess.run(
      [sys.executable, '-X', 'utf8=0', '-m', *arguments], env=env, capture_output=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr.decode(errors='replace')[-2000:]
    return done.stdout.decode('ascii')  # nothing else can be printed there

  of = ('--config=csv:mine.csv', *SMALL, '--config.data.label=art', '--config.data.drop=id', '--workdir=run')
  shown = run('mixer_jax.train', *of)
  assert r"'sch\xf6n'" in shown and r'gr\xf6\xdfe' in shown
  assert json.loads((tmp_path / 'run/labels.json').read_text(encoding='utf-8')) == ['häßlich', 'schön']
  run('mixer_jax.predict', '--workdir=run', '--input', 'mine.csv', '--output=out.csv')
  with (tmp_path / 'out.csv').open(encoding='utf-8', newline='') as file:
    assert {row['prediction'] for row in csv.DictReader(file)} <= {'schön', 'häßlich'}
