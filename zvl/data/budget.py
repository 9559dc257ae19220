"""What a teacher may be paid: a hard cap that no number of calls in flight can pass."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass

from zvl.data.ledger import Ledger


@dataclass(frozen=True, slots=True)
class Budget:
    """A hard cap on all that a ledger holds, of earlier runs too: tokens, or cost at prices per million tokens.

    Raises ValueError for a cap that is not positive, a negative price, and a cap on cost without prices.
    """

    tokens: float = math.inf
    cost: float = math.inf
    prompt_price: float = 0.0
    completion_price: float = 0.0

    def __post_init__(self):
        if not (self.tokens > 0 and self.cost > 0 and self.prompt_price >= 0 and self.completion_price >= 0):
            raise ValueError(f"caps must be positive and prices at least 0: {self}")
        if self.cost < math.inf and not self.prompt_price + self.completion_price:
            raise ValueError("a cap on cost needs prompt_price and completion_price, per million tokens")

    @property
    def capped(self) -> bool:
        return min(self.tokens, self.cost) < math.inf


class BudgetSpent(RuntimeError):
    """The next call could pass the cap. tokens, cost: what was spent, with what failed calls may have cost."""

    def __init__(self, message: str, tokens: int, cost: float):
        super().__init__(message)
        self.tokens, self.cost = tokens, cost


class Purse:
    """Lends each call, before it is made, the most it can cost, so that no number of calls in flight passes the cap."""

    def __init__(self, budget: Budget, ledger: Ledger):
        self._budget, self._ledger = budget, ledger
        self._changed = threading.Condition()
        self._in_flight = 0
        self._held = [
            0,
            0,
        ]  # (prompt, completion) tokens of calls in flight, and of failed ones that may be billed

    def take(self, prompt: int, completion: int) -> None:
        """Reserve a call's tokens; waits for calls in flight where only their reservations are in the way.

        Raises BudgetSpent where the cap leaves no room.
        """
        with self._changed:
            while not self._fits(prompt, completion):
                if not self._in_flight:
                    tokens, cost = self._spent(*self._held)
                    raise BudgetSpent(
                        f"the budget is spent: {tokens} tokens (cost {cost:.6g}) of a cap of {self._budget.tokens} "
                        f"tokens (cost {self._budget.cost:.6g}), and the next call may take {prompt + completion} "
                        f"tokens; what was paid stays in {self._ledger.path}",
                        tokens,
                        cost,
                    )
                self._changed.wait()
            self._in_flight += 1
            self._hold(prompt, completion)

    def give_back(self, prompt: int, completion: int, in_doubt: bool) -> None:
        """End a reservation. in_doubt: the call failed in a way that may be billed all the same, so it stays held."""
        with self._changed:
            self._in_flight -= 1
            if not in_doubt:
                self._hold(-prompt, -completion)
            self._changed.notify_all()

    def _hold(self, prompt: int, completion: int) -> None:
        self._held[0] += prompt
        self._held[1] += completion

    def _spent(self, prompt: int, completion: int) -> tuple[int, float]:
        """(tokens, cost) of the ledger and these tokens more."""
        prices = self._budget.prompt_price, self._budget.completion_price
        paid = self._ledger.account(*prices)
        tokens = paid.prompt_tokens + paid.completion_tokens + prompt + completion
        return tokens, paid.cost + (prompt * prices[0] + completion * prices[1]) / 1e6

    def _fits(self, prompt: int, completion: int) -> bool:
        tokens, cost = self._spent(self._held[0] + prompt, self._held[1] + completion)
        return tokens <= self._budget.tokens and cost <= self._budget.cost
