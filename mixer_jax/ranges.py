"""Which numbers a setting may be, declared with it: `eps: Amount = 1e-8`. parts.resolve checks them, by name."""

import dataclasses
from typing import Annotated, Any


@dataclasses.dataclass(frozen=True)
class Within:
  """An interval in the notation of mathematics, such as `[0, 1)`; of a tuple, each number must lie in it."""

  interval: str

  def __contains__(self, value: Any) -> bool:
    if isinstance(value, (tuple, list)):
      return all(part in self for part in value)
    if not isinstance(value, (int, float)):  # None, say
      return True
    low, high = map(float, self.interval[1:-1].split(','))
    above = value > low if self.interval[0] == '(' else value >= low
    below = value < high if self.interval[-1] == ')' else value <= high
    return above and below  # nan is neither


COUNTED = Within('[1, 2147483647]')  # the numbers of an int32, in which jax counts
Count = Annotated[int, COUNTED]
Whole = Annotated[int, Within('[0, 2147483647]')]
Seed = Annotated[int, Within('[0, 4294967295]')]
Amount = Annotated[float, Within('[0, inf)')]
Positive = Annotated[float, Within('(0, inf)')]
Rate = Annotated[float, Within('[0, 1)')]
Share = Annotated[float, Within('[0, 1]')]
