"""The one exception for users' mistakes."""

import difflib
import math
from collections.abc import Iterable

SHOWN = 60


class MixerError(Exception):
  """A mistake that the user can fix; the message names the thing, the values and the way out."""


def check_amount(what: str, value: float, why: str = '') -> None:
  """Refuses a number that is below 0, infinite or not a number."""
  if not 0 <= value < math.inf:
    raise MixerError(f'{what} is {value}, but must be at least 0 and finite{why}')


def unknown(kind: str, name: object, known: Iterable[str], besides: str = '') -> MixerError:
  """The error for a name that is not in a table: lists the known ones, SHOWN at most, and guesses the one meant."""
  known = sorted(known)
  folded = {each.casefold(): each for each in reversed(known)}
  close = difflib.get_close_matches(str(name).casefold(), folded, n=1)
  guess = f'; did you mean {folded[close[0]]!r}?' if close else '.'
  shown = ', '.join(known[:SHOWN]) + (f', ... ({len(known):,} in all)' if len(known) > SHOWN else '')
  return MixerError(f'unknown {kind} {name!r}{guess} Known: {shown or "none"}{besides and f", {besides}"}.')
