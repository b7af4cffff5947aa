"""Prints the resolved config, sizes and costs, from shapes alone.

  python -m mixer_jax.describe --config=digits
  python -m mixer_jax.describe --config=imagenet:H/14 --json

The config is printed whole, with every default. Nothing is downloaded, compiled or held in memory. A table is read.
"""

import json
import math
from typing import Any

from mixer_jax import cli


def describe(config: dict[str, Any], data_dir: str | None = None) -> dict[str, Any]:
  """Model, sizes and costs of a config.

  Returns:
    config (resolved), parameters, tokens (where a model has them), forward_flops (matrix products, one example),
    parameter_bytes, optimizer_bytes, ema_bytes, batch and eval_batch (name -> shape and dtype, global),
    batch_per_device, devices.
  """
  import jax
  from flax import nnx

  from mixer_jax.analysis import cost
  from mixer_jax.tasks.task import model_inputs
  from mixer_jax.training import experiment as experiments
  from mixer_jax.training.settings import resolve

  config = resolve(config)
  experiment = experiments.build(config, data_dir=data_dir)
  settings = experiment.settings
  state = experiment.init_state(experiment.optimizer()[0], abstract=True)
  seen = jax.eval_shape(experiment.preprocess, experiment.data.batch(1))
  forward = lambda params, batch: nnx.merge(experiment.graphdef, params)(*model_inputs(batch))
  shapes = lambda size: {k: f'{v.dtype}{list(v.shape)}' for k, v in experiment.data.batch(size).items()}
  return {
    'config': config,
    'parameters': experiment.parameters,
    **({'tokens': math.prod(grid)} if (grid := getattr(experiment.model, 'grid', None)) else {}),
    'forward_flops': cost.matmul_flops(forward, state.params, seen),
    'parameter_bytes': cost.nbytes(state.params),
    'optimizer_bytes': cost.nbytes(state.opt_state),
    'ema_bytes': cost.nbytes(state.ema),
    'batch': shapes(settings.batch_size),
    'eval_batch': shapes(settings.eval_batch_size),
    'batch_per_device': settings.batch_size // experiment.mesh.size,
    'devices': experiment.mesh.size,
  }


def main(arguments: list[str]) -> None:
  options = cli.parser('describe', __doc__, data=True, prints_result=True)
  cli.add_config(options)
  options.add_argument('--json', action='store_true', help='print JSON')
  known, rest = options.parse_known_args(arguments)
  from mixer_jax import config as configs

  result = describe(configs.load(cli.config_arguments(known, rest)), known.data_dir)
  if known.json:
    print(json.dumps(result, indent=2))
    return
  for name, value in result.pop('config').items():
    print(f'{"config." + name:24} {json.dumps(value)}')
  print()
  for name, value in result.items():
    shown = f'{value:,}' if isinstance(value, int) else value
    if isinstance(value, dict):
      shown = ', '.join(f'{k}={v}' for k, v in value.items())
    print(f'{name.replace("_", " "):24} {shown}')


if __name__ == '__main__':
  cli.run(main)
