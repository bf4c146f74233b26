"""Numbers from outside. JSON's true is not one, though Python takes it for 1, and NaN lies in no range."""

import math
from typing import Any, TypeGuard


def is_number(value: Any, low: float = -math.inf, high: float = math.inf) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high


def is_whole(value: Any, low: float = -math.inf, high: float = math.inf) -> TypeGuard[int]:
    return isinstance(value, int) and is_number(value, low, high)


def number(name: str, value: Any, low: float, high: float) -> float:
    """-> value. Raises ValueError that names it and the range."""
    if not is_number(value, low, high):
        raise ValueError(f"{name} {value!r:.80} is not a number from {low:g} to {high:g}")
    return value


def whole(name: str, value: Any, low: float, high: float) -> int:
    """-> value. Raises ValueError that names it and the range."""
    if not is_whole(value, low, high):
        raise ValueError(f"{name} {value!r:.80} is not a whole number from {low} to {high}")
    return value
