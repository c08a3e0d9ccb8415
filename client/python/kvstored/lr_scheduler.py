"""Learning-rate schedules as data, by MXNet's names and numbers.

The server computes the rate, from each key's own count of updates. A schedule here only describes
it; calling it with a count gives the same number, for a look or a plot.
"""

from __future__ import annotations

import math
from typing import Any, Optional, Sequence


class LRScheduler:
    """What all have. base_lr None: the optimizer's learning rate."""

    name = ""

    def __init__(self, base_lr: Optional[float] = None, warmup_steps: int = 0,
                 warmup_begin_lr: float = 0.0, warmup_mode: str = "linear") -> None:
        self.base_lr = base_lr
        self.warmup_steps = warmup_steps
        self.warmup_begin_lr = warmup_begin_lr
        self.warmup_mode = warmup_mode

    def to_dict(self) -> dict[str, Any]:
        """As it travels."""
        given = {name: value for name, value in vars(self).items() if value is not None}
        return {"name": self.name, **given}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.to_dict()})"

    def __call__(self, num_update: int) -> float:
        """The rate of the update of that number, the first being 1."""
        base = 0.01 if self.base_lr is None else self.base_lr
        if num_update < self.warmup_steps:
            if self.warmup_mode == "constant":
                return self.warmup_begin_lr
            return (self.warmup_begin_lr
                    + (base - self.warmup_begin_lr) * num_update / self.warmup_steps)
        return self._rate(base, num_update)

    def _rate(self, base: float, num_update: int) -> float:
        raise NotImplementedError

    def _left(self, num_update: int, max_update: int) -> float:
        """Of the way from the warm-up to max_update: 1 at its start, 0 at its end."""
        if num_update >= max_update:
            return 0.0
        return 1 - (num_update - self.warmup_steps) / (max_update - self.warmup_steps)


class FactorScheduler(LRScheduler):
    """Every `step` updates, times `factor`, but not below `stop_factor_lr`."""

    name = "factor"

    def __init__(self, step: int, factor: float = 1.0, stop_factor_lr: float = 1e-8,
                 base_lr: Optional[float] = None, warmup_steps: int = 0,
                 warmup_begin_lr: float = 0.0, warmup_mode: str = "linear") -> None:
        super().__init__(base_lr, warmup_steps, warmup_begin_lr, warmup_mode)
        if step < 1 or factor > 1:
            raise ValueError("step is at least 1, factor at most 1")
        self.step = step
        self.factor = factor
        self.stop_factor_lr = stop_factor_lr

    def _rate(self, base: float, num_update: int) -> float:
        times = max(0, (num_update - 1) // self.step)
        return base if times == 0 else max(self.stop_factor_lr, base * self.factor ** times)


class MultiFactorScheduler(LRScheduler):
    """After each of the updates that `step` lists, times `factor`."""

    name = "multifactor"

    def __init__(self, step: Sequence[int], factor: float = 1.0, base_lr: Optional[float] = None,
                 warmup_steps: int = 0, warmup_begin_lr: float = 0.0,
                 warmup_mode: str = "linear") -> None:
        super().__init__(base_lr, warmup_steps, warmup_begin_lr, warmup_mode)
        self.step = list(step)
        if not self.step or self.step[0] < 1 or sorted(set(self.step)) != self.step:
            raise ValueError("step is a list of growing numbers from 1 up")
        if factor > 1:
            raise ValueError("factor is at most 1")
        self.factor = factor

    def _rate(self, base: float, num_update: int) -> float:
        times = sum(step < num_update for step in self.step)
        return base * self.factor ** times


class PolyScheduler(LRScheduler):
    """From base_lr to `final_lr` at `max_update`, by a power of what is left of the way."""

    name = "poly"

    def __init__(self, max_update: int, base_lr: Optional[float] = None, pwr: float = 2,
                 final_lr: float = 0.0, warmup_steps: int = 0, warmup_begin_lr: float = 0.0,
                 warmup_mode: str = "linear") -> None:
        super().__init__(base_lr, warmup_steps, warmup_begin_lr, warmup_mode)
        self.max_update = max_update
        self.pwr = pwr
        self.final_lr = final_lr

    def _rate(self, base: float, num_update: int) -> float:
        left = self._left(num_update, self.max_update)
        return self.final_lr + (base - self.final_lr) * math.pow(left, self.pwr)


class CosineScheduler(LRScheduler):
    """From base_lr to `final_lr` at `max_update`, by half a cosine."""

    name = "cosine"

    def __init__(self, max_update: int, base_lr: Optional[float] = None, final_lr: float = 0.0,
                 warmup_steps: int = 0, warmup_begin_lr: float = 0.0,
                 warmup_mode: str = "linear") -> None:
        super().__init__(base_lr, warmup_steps, warmup_begin_lr, warmup_mode)
        self.max_update = max_update
        self.final_lr = final_lr

    def _rate(self, base: float, num_update: int) -> float:
        turned = math.pi * (1 - self._left(num_update, self.max_update))
        return self.final_lr + (base - self.final_lr) * (1 + math.cos(turned)) / 2
