"""Trains what a config describes; with the same run directory again, it resumes.

  python -m mixer_jax.train --config=digits --workdir=runs/digits
  python -m mixer_jax.train --config=imagenet:S/16 --workdir=runs/s16 --config.batch_size=1024

Any key of the config is set with --config.key=value. Exit code: 0 at the end and after a saved interruption.
"""

import contextlib

from mixer_jax import cli
from mixer_jax.training import last_words


def main(arguments: list[str]) -> None:
  options = cli.parser('train', __doc__, data=True)
  cli.add_config(options)
  options.add_argument('--workdir', required=True, help='the run directory')
  options.add_argument(
    '--check_data', action='store_true', help='read every example before the first step; list all that cannot be read'
  )
  options.add_argument('--distributed', action='store_true', help='join the other hosts, found by the environment')
  options.add_argument('--coordinator', help='HOST:PORT of the first process, instead of the environment')
  options.add_argument('--processes', type=int, help='how many processes there are')
  options.add_argument('--process', type=int, help='which one this is, from 0')
  known, rest = options.parse_known_args(arguments)
  if not known.coordinator and (known.processes is not None or known.process is not None):
    options.error('--processes and --process need --coordinator=HOST:PORT')

  with contextlib.ExitStack() as joined:
    if known.distributed or known.coordinator:
      last_words.shorten()
      cli.use_compilation_cache()
      from mixer_jax.training import hosts

      hosts.connect(known.coordinator, known.processes, known.process)
      joined.enter_context(hosts.together(debug=known.debug))  # from here on, also a wrong config ends all of them
    from mixer_jax import config as configs

    config = configs.load(cli.config_arguments(known, rest))
    cli.use_compilation_cache()
    from mixer_jax.training import loop

    loop.train_and_evaluate(config, known.workdir, data_dir=known.data_dir, check_data=known.check_data)


if __name__ == '__main__':
  cli.run(main, huge_pages=True)
