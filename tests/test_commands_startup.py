"""What a command does first: help without jax, huge pages, the compilation cache, the bar."""

import os
import platform
import re
import subprocess
import sys

import pytest
from runs import COMMANDS, DIGITS, ROOT, SMALL

from mixer_jax import cli


@pytest.mark.parametrize('name', COMMANDS)
def test_help_is_fast_and_needs_no_jax(name):
  code = (
    f'import sys, time; began = time.process_time()\nfrom mixer_jax import {name}\n'
    f'try: {name}.main(["--help"])\n'
    'except SystemExit as stop: print(stop.code, "jax" in sys.modules, time.process_time() - began)'
  )
  result = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=True)
  *text, last = result.stdout.splitlines()
  status, has_jax, seconds = last.split()
  assert (status, has_jax) == ('0', 'False') and float(seconds) < 3
  assert text[0].startswith(f'usage: python -m mixer_jax.{name}') and '--debug' in result.stdout
  assert result.stderr == ''


# ---- what a command sets up


def test_huge_pages():
  code = 'import os, sys; from mixer_jax import cli; cli.use_huge_pages(); print(os.environ, os.getpid(), sys.argv)'
  environment = {k: v for k, v in os.environ.items() if k != 'GLIBC_TUNABLES'} | {'PYTHONPATH': str(ROOT)}
  start = lambda e: subprocess.Popen(
    [sys.executable, '-c', code, 'a b', '--c'], env=e, stdout=subprocess.PIPE, text=True
  )
  process = start(environment)
  shown = process.communicate(timeout=60)[0]
  assert f"{process.pid} ['-c', 'a b', '--c']" in shown  # the same process, the same arguments
  assert (cli.HUGE_PAGES in shown) == (platform.libc_ver()[0] == 'glibc')
  assert cli.HUGE_PAGES not in start(environment | {'GLIBC_TUNABLES': ''}).communicate(timeout=60)[0]


def test_compiled_programs_are_kept(tmp_path):
  # Large enough to take more than a tenth of a second to compile.
  code = (
    'from mixer_jax import cli\ncli.use_compilation_cache()\nimport jax\n'
    'print(jax.jit(lambda x: sum(jax.numpy.sort(x + i) for i in range(40)))(jax.numpy.arange(9.0)))'
  )
  environment = {k: v for k, v in os.environ.items() if k != 'JAX_COMPILATION_CACHE_DIR'}
  environment |= {'PYTHONPATH': str(ROOT), 'XDG_CACHE_HOME': str(tmp_path), 'JAX_PLATFORMS': 'cpu'}
  files = []
  for _ in range(2):
    subprocess.run([sys.executable, '-c', code], env=environment, check=True, capture_output=True)
    files.append({p.name for p in (tmp_path / 'mixer_jax' / 'xla').glob('jit__lambda*-cache')})
  assert files[0] and files[0] == files[1]


def test_the_bar_of_a_terminal(run_command, tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(sys.stderr, 'isatty', lambda: True, raising=False)
  assert run_command('train', DIGITS, *SMALL, f'--workdir={tmp_path}/run') == 0
  shown = capsys.readouterr()
  assert '20/20' in shown.err and 'step 10  test/accuracy' in shown.err.replace('\r', '\n')
  assert re.search(r'20/20 .*, loss \d\.\d+, rate \d\.\d+', shown.err)
  assert 'step 10' not in shown.out
  header, begun, compiled = shown.out.index('20 steps, '), shown.out.index('compiling'), shown.out.index('first step')
  assert header < begun < compiled and re.search(r'compiling and the first step took \d+\.\d s\n', shown.out)
