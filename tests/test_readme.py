"""README and docs/results: every command passes its parser, every config there loads, commands agree, code runs."""

import argparse
import importlib
import re
import runpy
import shlex
import sys
from pathlib import Path

import jax
import pytest

from mixer_jax import config as configs
from mixer_jax.training import settings, sweep

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / 'README.md', *sorted((ROOT / 'docs' / 'results').glob('*.md'))]
# Their configs read files of the reader's; `mine` is README's own module, which test_own_parts.py trains.
WITH_FILES = 'finetune|csv|image_folder|image_autoencoder'


class Parsed(Exception):
  """The options of a command and what its parser leaves over."""


def commands(page):
  """The arguments of every `python -m mixer_jax.NAME` and `python FILE` of a page, without those of shell loops."""
  blocks = re.findall(r'```bash\n(.*?)```', page.read_text(), re.DOTALL)
  lines = '\n'.join(blocks).replace('\\\n', ' ').splitlines()
  lines += re.findall(r'`(python -m mixer_jax\.\w+ --[^`]*)`', page.read_text())
  for line in lines:
    words = shlex.split(line, comments=True)
    if words[:1] != ['python'] or '$' in line or re.search(r'\b(NAME|DIR|PLACE|KEY|FILES)\b|\.\.\.', line):
      continue
    if words[1] == '-m' and words[2].startswith('mixer_jax.'):
      yield words[2].removeprefix('mixer_jax.'), words[3:]
    elif words[1].endswith('.py'):
      yield words[1], words[2:]


def parsed(name, arguments, monkeypatch):
  """The options of a command, and what its parser leaves to others."""
  real, depth = argparse.ArgumentParser.parse_known_args, []

  def once(self, args=None, namespace=None):
    depth.append(self)
    try:
      found = real(self, args, namespace)
    finally:
      depth.pop()
    if depth:  # a sub-command's
      return found
    raise Parsed(*found)

  with monkeypatch.context() as patch:
    patch.setattr(argparse.ArgumentParser, 'parse_known_args', once)
    patch.setattr(sys, 'argv', [name, *arguments])
    if name.endswith('.py'):
      patch.syspath_prepend((ROOT / name).parent)
      main = runpy.run_path(str(ROOT / name))['main']
    else:
      main = importlib.import_module(f'mixer_jax.{name}').main
    with pytest.raises(Parsed) as stopped:
      main(*[arguments] * main.__code__.co_argcount)
  return stopped.value.args


def overrides(name, known, rest, tmp_path):
  """What each config of a command is loaded from: with --over, one for each combination."""
  if name == 'sweep':
    return [run.arguments for run in sweep.plan(known.config, rest, known.over, 1, tmp_path)]
  return [[f'--config={known.config}', *rest] if getattr(known, 'config', None) else rest]


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.stem)
def test_every_command_passes_its_parser(page, tmp_path, monkeypatch):
  monkeypatch.chdir(ROOT)
  for name, arguments in commands(page):
    known, rest = parsed(name, arguments, monkeypatch)
    assert all(word.startswith('--config') for word in rest), (name, rest)
    for flags in overrides(name, known, rest, tmp_path):
      if flags and not re.search(rf'--config=(configs/)?({WITH_FILES})\b|mine:', ' '.join(flags)):
        settings.resolve(configs.load(flags))


def test_readme_and_results_agree_on_what_makes_a_run():
  """A sweep into one folder is the same sweep wherever it is written down."""
  said = {}
  for page in PAGES:
    for name, arguments in commands(page):
      place = [word for word in arguments if word.startswith('--workdir=')]
      if name == 'sweep' and place:
        wanted = sorted(re.sub(r'^--config=(?:configs/)?(\w+)(?:\.py)?', r'--config=\1', word) for word in arguments)
        said.setdefault(place[0], {})[page.stem] = [word for word in wanted if not word.startswith('--metrics=')]
  shared = {place: pages for place, pages in said.items() if len(pages) > 1}
  assert {'--workdir=runs/rows', '--workdir=runs/rows_others', '--workdir=runs/mixer_others'} <= set(shared)
  for place, pages in shared.items():
    assert len({str(arguments) for arguments in pages.values()}) == 1, (place, pages)


def test_the_snippet_of_sharp_minima_runs():
  page = (ROOT / 'README.md').read_text().partition('\n## Sharp minima\n')[2].partition('\n## ')[0]
  (code,) = re.findall(r'```python\n(.*?)```', page, re.DOTALL)
  made = {}
  exec(code, made)
  # The gradient is negative for the second and third of the entries, so AdamW raises them.
  assert jax.device_get(made['params']['kernel']).tolist() == pytest.approx([0, 1e-3, 1e-3], rel=1e-2)


@pytest.mark.slow
def test_the_snippet_of_models_runs():
  page = (ROOT / 'README.md').read_text().partition('\n## In Python\n')[2].partition('\n## ')[0]
  (code,) = re.findall(r'```python\n(.*?)```', page, re.DOTALL)
  made = {}
  exec(code, made)
  assert made['logits'].shape == (1, 1000) and made['named']['block_3'].shape == (1, 196, 512)
