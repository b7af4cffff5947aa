"""What the package says while it works: notes on stdout, warnings on stderr, through Python's own logging.

Warnings are always printed. The commands print notes as well; a program that uses the package does so after `show()`.
"""

import logging
import sys

import tqdm


class _Handler(logging.Handler):
  """Prints to what stdout and stderr are at that moment, above a progress bar where there is one."""

  aside = False

  def emit(self, record: logging.LogRecord) -> None:
    warning = record.levelno >= logging.WARNING
    text = f'warning: {record.getMessage()}' if warning else record.getMessage()
    with tqdm.tqdm.external_write_mode():
      print(text, file=sys.stderr if warning or self.aside else sys.stdout, flush=True)


_handler = _Handler()
logger = logging.getLogger('mixer_jax')
logger.addHandler(_handler)
logger.setLevel(logging.WARNING)
logger.propagate = False


def show(*, aside: bool = False) -> None:
  """Prints notes, too, from now on.

  Args:
    aside: notes go to stderr, for commands whose stdout is a result.
  """
  logger.setLevel(logging.INFO)
  _handler.aside = aside
