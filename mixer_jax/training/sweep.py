"""Many runs of one config: every combination of values, each with several seeds."""

import itertools
import json
import re
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mixer_jax import config as configs
from mixer_jax.data.tables.schema import Schema
from mixer_jax.errors import MixerError
from mixer_jax.files import read_json, reported
from mixer_jax.messages import logger
from mixer_jax.optim.schedules import Length, sampled
from mixer_jax.training import experiment as experiments
from mixer_jax.training import loop, memory, warm_start
from mixer_jax.training import workdir as workdirs
from mixer_jax.training.log import read_metrics
from mixer_jax.training.settings import make, resolve

Learnt = tuple[Schema | None, int, Sequence[str]]  # of data: its schema, its number of training examples, its classes
COMMA = r',(?![^(\[{]*[)\]}])'  # outside brackets: (512,512) is one value


class Run(NamedTuple):
  """One run of a sweep: its own `values` by key, and the `arguments` of its config."""

  values: dict[str, str]
  seed: int
  workdir: Path
  arguments: list[str]


def parse_over(text: str) -> list[dict[str, str]]:
  """'KEY=A,B' -> [{KEY: A}, {KEY: B}]; 'KEY+OTHER=A+B,C+D' -> [{KEY: A, OTHER: B}, {KEY: C, OTHER: D}].

  Raises:
    MixerError: no key, no values, a duplicate value, or fewer or more values than keys.
  """
  left, equals, right = text.partition('=')
  keys = left.split('+')
  choices = [dict(zip(keys, value.split('+'), strict=False)) for value in re.split(COMMA, right)]
  if not equals or not right or '' in keys:
    raise MixerError(f'--over={text} must be like --over=model.blocks=2,4 or --over=arg=S/16,B/16')
  for value, choice in zip(re.split(COMMA, right), choices, strict=True):
    if len(value.split('+')) != len(keys):
      raise MixerError(f'--over={text}: {value!r} has {len(value.split("+"))} values, but there are {len(keys)} keys')
    if choices.count(choice) > 1:
      raise MixerError(f'--over={text}: {value!r} is there twice')
  return choices


def plan(config: str, rest: Sequence[str], overs: Sequence[str], seeds: int, workdir: Path) -> list[Run]:
  """All runs of a sweep, with the seeds of one combination in a row.

  Args:
    config: FILE or FILE:ARG; the key `arg` sets ARG.
    rest: further --config.key=value, for all runs.
    overs: see parse_over; each combination is one row of the table. An ARG with commas goes in brackets:
      'arg=(photos,script),photos'.
    seeds: each combination runs with the seeds 0, ..., seeds - 1.

  Raises:
    MixerError: a malformed `over`, two combinations with the same name, no seeds, or `seed` among the keys.
  """
  if seeds < 1:
    raise MixerError(f'--seeds is {seeds}, but must be at least 1')
  overs = [*map(parse_over, overs)]
  keys = {key for choices in overs for key in choices[0]} | {text.split('=')[0].split('.', 1)[-1] for text in rest}
  if 'seed' in keys:
    raise MixerError('the key seed belongs to --seeds=N, which runs 0 to N - 1; leave it out of --over and --config')
  runs: list[Run] = []
  names: dict[str, dict] = {}
  for parts in itertools.product(*overs):
    values = {key: value for part in parts for key, value in part.items()}
    name = re.sub(r'[^\w.,=+-]', '_', ','.join(f'{k.split(".")[-1]}={v}' for k, v in values.items())) or 'as_it_stands'
    if name in names:
      raise MixerError(f'the runs {values} and {names[name]} would both be called {name}; give each key once')
    names[name] = values
    file = config
    if 'arg' in values:
      argument = re.sub(r'^\((.*)\)$', r'\1', values['arg'])  # brackets allow commas
      file = f'{config.split(":")[0]}:{argument}'
    given = [f'--config.{key}={value}' for key, value in values.items() if key != 'arg']
    for seed in range(seeds):
      arguments = [f'--config={file}', *rest, *given, f'--config.seed={seed}']
      runs.append(Run(values, seed, workdir / name / f'seed{seed}', arguments))
  return runs


def execute(runs: Sequence[Run], data_dir: str | None) -> dict[Path, str] | None:
  """Starts or resumes every run that has no summary; a failed run does not stop the others.

  What can be refused without training is refused before the first run starts.

  Returns:
    errors by run directory, or None if Ctrl-C or SIGTERM interrupted the sweep.
  """
  failed = _refusals(runs, data_dir)
  for names, reason in grouped(failed).items():
    logger.warning(f'{names} will not start: {reason}')
  for number, run in enumerate(runs, start=1):
    if run.workdir in failed:
      continue
    logger.info(f'run {number} of {len(runs)}: {run.workdir}')
    try:
      if (run.workdir / 'summary.json').exists():
        logger.info('done before')
      elif loop.train_and_evaluate(resolve(configs.load(run.arguments)), run.workdir, data_dir=data_dir) is None:
        return None
    except MixerError as error:
      failed[run.workdir] = str(error)
    except Exception as error:  # go on with the other runs
      failed[run.workdir] = f'{type(error).__name__}: {" ".join(str(error).split())[:200]}'
      _keep_traceback(run.workdir)
    if run.workdir in failed:
      logger.info(f'failed: {failed[run.workdir]}')
  return failed


def grouped(failed: dict[Path, str]) -> dict[str, str]:
  """'RUN, RUN' -> their common error."""
  names: dict[str, list[str]] = {}
  for workdir, reason in failed.items():
    names.setdefault(reason, []).append(f'{workdir.parent.name}/{workdir.name}')
  return {', '.join(of_reason): reason for reason, of_reason in names.items()}


def _refusals(runs: Sequence[Run], data_dir: str | None) -> dict[Path, str]:
  """Errors by run directory of the runs that would be refused before their first step."""
  found: dict[Path, str] = {}
  reasons: dict[str, str | None] = {}
  learnt: dict[str, Learnt] = {}
  for run in runs:
    try:
      config = resolve(configs.load(run.arguments), notes=[])  # the run itself says what it drops
      workdirs.check_config(run.workdir, config)
      if (run.workdir / 'summary.json').exists():
        continue
    except MixerError as error:
      found[run.workdir] = str(error)
      continue
    combination = json.dumps(config | {'seed': 0})
    if combination not in reasons:
      reasons[combination] = _refusal(config, run.workdir, data_dir, learnt)
    if reason := reasons[combination]:
      found[run.workdir] = reason
  return found


def _refusal(config: dict, folder: Path, data_dir: str | None, learnt: dict[str, Learnt]) -> str | None:
  """Why a run of this config would be refused, or None.

  Args:
    learnt: what the data sections that were read before gave; grows.
  """
  section = json.dumps(config['data'])
  try:
    experiment = experiments.build(config, data_dir=data_dir, schema=learnt.get(section, (None,))[0])
    data = experiment.data
    if section not in learnt:
      sources = [data.source(split, data_dir) for split in (data.train, data.val, data.test) if split]
      learnt[section] = data.schema, len(sources[0]), sources[0].classes
    _, examples, classes = learnt[section]
    length = experiment.length(examples)
    for name in loop.EVERY:
      length.steps(getattr(experiment.settings, f'{name}_every'), f'{name}_every')
    optimizer = experiment.optimizer(length)[0]
    experiment.train_step(optimizer, length)
    memory.check(experiment.init_state(optimizer, abstract=True))
    if not (folder / 'checkpoints').is_dir():
      warm_start.start(experiment, classes)
  except MixerError as error:
    return str(error)
  except Exception as error:  # a fault, not a refusal: the run itself reports it
    logger.warning(f'not checked beforehand: {type(error).__name__}: {" ".join(str(error).split())[:200]}')
  return None


def done(runs: Sequence[Run], failed: dict[Path, str] | None) -> list[Run]:
  """The runs with a summary, except failed ones, whose summary may be of another config."""
  return [run for run in runs if (run.workdir / 'summary.json').exists() and run.workdir not in (failed or {})]


def summaries(runs: Sequence[Run]) -> list[tuple[dict[str, str], int, dict]]:
  """(values, seed, summary.json) of finished runs."""
  return [(run.values, run.seed, read_json(run.workdir / 'summary.json')) for run in runs]


def metrics(runs: Sequence[Run]) -> dict[str, list[list[dict[str, float]]]]:
  """Combination -> the lines of metrics.jsonl of each seed, for finished runs."""
  result: dict[str, list] = {}
  for run in runs:
    result.setdefault(run.workdir.parent.name, []).append(read_metrics(run.workdir))
  return result


def rates(runs: Sequence[Run]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
  """Combination -> steps and learning rates; not those of runs whose summary is from an earlier version."""
  result = {}
  for run in runs:
    name, summary = run.workdir.parent.name, read_json(run.workdir / 'summary.json')
    if name not in result and 'steps_per_epoch' in summary:
      length = Length(summary['steps'], summary['steps_per_epoch'])
      schedule = make('schedule', summary['config']['schedule'], length=length)
      result[name] = sampled(schedule, length.total)
  return result


def _keep_traceback(workdir: Path) -> None:
  with reported(workdir):
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / 'error.txt').write_text(traceback.format_exc(), encoding='utf-8')
