"""Lists the commands: `python -m mixer_jax`."""

import ast
from pathlib import Path

from mixer_jax import cli

COMMANDS = ('train', 'evaluate', 'predict', 'analyze', 'convert', 'export', 'sweep', 'describe', 'benchmark')


def main(_: list[str]) -> None:
  print('mixer-jax: MLP-Mixer and its relatives in JAX.\n')
  for name in COMMANDS:
    text = ast.get_docstring(ast.parse(Path(__file__).with_name(f'{name}.py').read_text(encoding='utf-8')))
    print(f'  python -m mixer_jax.{name:10} {text.splitlines()[0]}')
  print('\nEach answers --help.')


if __name__ == '__main__':
  cli.run(main)
