"""How long to pause before another try: exponential backoff with full jitter."""

import random
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Backoff:
    """Exponential with full jitter (M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog).

    Attributes:
        base_s: upper bound of the first pause.
        cap_s: upper bound of all later ones.
    """

    base_s: float
    cap_s: float

    def pause_s(self, tries: int, dice: Callable[[], float] = random.random) -> float:
        """The pause after `tries` failures, from 1: anything between nothing and the doubled bound.

        Args:
            tries: failures so far.
            dice: a number from 0 up to 1; not for secrets, so the ordinary generator will do.
        """
        return dice() * min(self.cap_s, self.base_s * 2 ** min(tries - 1, 32))
