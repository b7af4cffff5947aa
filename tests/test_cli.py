"""How a command ends: a stdout that takes nothing, one that is closed, mistakes beside it."""

import subprocess
import sys
from pathlib import Path

import pytest
from runs import ROOT

RUN = 'from mixer_jax import cli, errors, messages\n'
FULL = Path('/dev/full')
pytestmark = pytest.mark.skipif(not FULL.exists(), reason='no /dev/full')


def run(code, stdout, *arguments):
  command = [sys.executable, '-c', RUN + code, *arguments]
  environment = {'PYTHONPATH': str(ROOT), 'GLIBC_TUNABLES': ''}
  with open(stdout, 'w') as file:
    return subprocess.run(command, stdout=file, stderr=subprocess.PIPE, text=True, env=environment, check=False)


PRINTS = [
  'import mixer_jax.__main__\ncli.run(mixer_jax.__main__.main)',
  "cli.run(lambda _: print('result'))",
  "cli.run(lambda _: print('x' * 10**6))",  # more than the buffer holds: it fails in print
  "messages.show()\ncli.run(lambda _: messages.logger.info('note'))",
  "cli.run(lambda _: cli.parser('x', 'help').parse_args(['--help']))",
]


@pytest.mark.parametrize('code', PRINTS)
def test_a_stdout_that_takes_nothing(code):
  result = run(code, FULL)
  assert result.returncode == 1
  assert result.stderr == (
    'error: cannot write to stdout (No space left on device); free space, or send it elsewhere\n'
  )


@pytest.mark.parametrize('code', PRINTS)
def test_a_stdout_that_takes_all(code, tmp_path):
  result = run(code, tmp_path / 'out')
  assert (result.returncode, result.stderr) == (0, '') and (tmp_path / 'out').read_text()


def test_a_mistake_beside_a_stdout_that_takes_nothing():
  code = "def main(_):\n  print('begun')\n  raise errors.MixerError('a mistake')\ncli.run(main)"
  result = run(code, FULL)
  assert (result.returncode, result.stderr) == (1, 'error: a mistake\n')
  result = run(code.replace("errors.MixerError('a mistake')", 'KeyboardInterrupt'), FULL)
  assert (result.returncode, result.stderr) == (130, '')


def test_errors_of_other_files_keep_their_traceback(tmp_path):
  code = "def main(_):\n  print('begun')\n  open('/nowhere')\ncli.run(main)"
  result = run(code, tmp_path / 'out')
  assert result.returncode == 1 and 'FileNotFoundError' in result.stderr and 'cannot write' not in result.stderr
  result = run(PRINTS[0], FULL, '--debug')
  assert 'Traceback' in result.stderr and 'No space left on device' in result.stderr


def test_a_stdout_that_is_closed():
  command = f'"{sys.executable}" -c "{RUN}cli.run(lambda _: print(1))" >&-'
  result = subprocess.run(
    ['sh', '-c', command], stderr=subprocess.PIPE, text=True, env={'PYTHONPATH': str(ROOT), 'GLIBC_TUNABLES': ''},
    check=False,
  )  # fmt: skip
  assert (result.returncode, result.stderr) == (0, '')
