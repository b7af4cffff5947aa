"""What the package says while it works: notes on stdout, warnings on stderr, through Python's own logging.

The commands switch it on; a program that uses the package gets the warnings, and the notes after `show()`.
"""

import logging
import sys

import tqdm

logger = logging.getLogger('mixer_jax')


class _Handler(logging.Handler):
  """Prints to what stdout and stderr are at that moment, above a progress bar where there is one."""

  aside = False

  def emit(self, record: logging.LogRecord) -> None:
    warning = record.levelno >= logging.WARNING
    text = f'warning: {record.getMessage()}' if warning else record.getMessage()
    with tqdm.tqdm.external_write_mode():
      print(text, file=sys.stderr if warning or self.aside else sys.stdout, flush=True)


def show(*, aside: bool = False) -> None:
  """Prints notes and warnings from now on.

  Args:
    aside: notes go to stderr too, for commands whose stdout is a result.
  """
  if not any(isinstance(handler, _Handler) for handler in logger.handlers):
    logger.addHandler(_Handler())
    logger.setLevel(logging.INFO)
    logger.propagate = False
  for handler in logger.handlers:
    if isinstance(handler, _Handler):
      handler.aside = aside
