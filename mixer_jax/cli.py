"""What the commands share: options, one clear line on a user's error, the compilation cache, huge pages for CPUs."""

import argparse
import io
import os
import platform
import sys
from collections.abc import Callable
from typing import NoReturn

from mixer_jax import messages
from mixer_jax.errors import MixerError
from mixer_jax.files import cache_folder
from mixer_jax.weights import trust

HUGE_PAGES = 'glibc.malloc.hugetlb=1'


def parser(
  command: str, text: str, *, data: bool = False, prints_result: bool = False,
  make: Callable[..., argparse.ArgumentParser] = argparse.ArgumentParser,
) -> argparse.ArgumentParser:  # fmt: skip
  """Options of `python -m mixer_jax.COMMAND`: --debug, and --data_dir for those that read data sets.

  Args:
    prints_result: stdout is for the result alone, so that notes go to stderr.
    make: add_parser of the sub-commands of another command, for one of them.
  """
  messages.show(aside=prints_result)
  options = make(
    prog=f'python -m mixer_jax.{command}', description=text, allow_abbrev=False,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )  # fmt: skip
  options.add_argument('--debug', action='store_true', help='show the traceback of an error')
  if data:
    options.add_argument(
      '--data_dir', help='where data sets lie (default: $MIXER_DATA_DIR, else the cache folder of the user)'
    )
  return options


def run(main: Callable[[list[str]], None], *, huge_pages: bool = False) -> None:
  """Runs a command: a user's mistake, or a stdout that cannot be written, is printed as one line and exits with 1."""
  if huge_pages:
    use_huge_pages()
  if isinstance(sys.stdout, io.TextIOWrapper):
    sys.stdout.reconfigure(errors='backslashreplace')  # the locale may lack letters of the names in data
  try:
    try:
      main(sys.argv[1:])
    except SystemExit:  # of --help
      _flush()
      raise
    _flush()
  except MixerError as error:
    if '--debug' in sys.argv:
      raise
    _leave(f'error: {" ".join(str(error).splitlines())}')  # a name out of a file may hold a line break
  except KeyboardInterrupt:
    _leave(130)
  except BrokenPipeError:
    _leave(141)
  except OSError as error:
    if '--debug' in sys.argv or _takes_output('\n'):
      raise
    _leave(f'error: cannot write to stdout ({error.strerror or error}); free space, or send it elsewhere')


def _flush() -> None:
  if sys.stdout is not None:  # as where it is closed
    sys.stdout.flush()


def _takes_output(text: str = '') -> bool:
  """Whether stdout takes what was printed, and this text: of what did not fit into its buffer nothing is left."""
  try:
    print(end=text)
    _flush()
  except OSError:
    return False
  return True


def _leave(code: int | str) -> NoReturn:
  """Exits; what stdout does not take is dropped, or Python would complain about it at the very end."""
  if not _takes_output():
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
  sys.exit(code)


def add_run(options: argparse.ArgumentParser) -> None:
  """The options of commands that open a run."""
  options.add_argument('--workdir', required=True, help='the run directory')
  options.add_argument('--checkpoint', default='last', help='last, best or a step')


def add_config(options: argparse.ArgumentParser, *, required: bool = False) -> None:
  """--config, for help: config.load reads it, with --config.KEY=VALUE."""
  from mixer_jax import config

  bundled = ', '.join(config.bundled())
  text = f'a Python file with get_config, or a bundled one: {bundled}; --config.KEY=VALUE sets any key'
  options.add_argument('--config', metavar='NAME[:ARG]', required=required, help=text)
  trust.add_option(options)


def config_arguments(known: argparse.Namespace, rest: list[str]) -> list[str]:
  """The arguments for config.load; modules named by --trust are trusted from now on."""
  trust.trust(known.trust)
  return [*([f'--config={known.config}'] if known.config else []), *rest]


def use_huge_pages() -> None:
  """Starts this process again with a malloc that asks for huge pages; must come before jax is imported.

  On CPUs a train step otherwise spends much of its time on page faults. glibc reads this setting only as a process
  starts. A GLIBC_TUNABLES that is set already, even to nothing, stays.
  """
  if platform.libc_ver()[0] == 'glibc' and 'GLIBC_TUNABLES' not in os.environ:
    os.environ['GLIBC_TUNABLES'] = HUGE_PAGES
    os.execv(sys.executable, sys.orig_argv)


def use_compilation_cache() -> None:
  """Compiled programs are kept between starts, small ones too; JAX_COMPILATION_CACHE_DIR moves it, '' turns it off."""
  import jax

  if 'JAX_COMPILATION_CACHE_DIR' in os.environ:
    return
  jax.config.update('jax_compilation_cache_dir', str(cache_folder() / 'xla'))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.1)
  jax.config.update('jax_persistent_cache_min_entry_size_bytes', -1)
