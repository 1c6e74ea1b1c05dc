"""Tables that are made once and are at hand on whatever device torch works on.

A hardware target makes its device torch's default device; what is computed from geometry alone is
kept for every device that asked for it.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor


def moved(value: Any, device: torch.device | str) -> Any:
    """A tensor, or lists, tuples and dicts of them, on a device; anything else as it is.

    >>> moved([torch.ones(2), "a name"], "meta")[0].device.type
    'meta'
    """
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, list | tuple):
        return type(value)(moved(each, device) for each in value)
    if isinstance(value, dict):
        return {key: moved(each, device) for key, each in value.items()}
    return value


def table(make: Callable[..., Any]) -> Callable[..., Any]:
    """Like `functools.cache`, for functions of hashable arguments that make tensors: they are made
    on the CPU and come on torch's default device.

    >>> @table
    ... def count(n):
    ...     return torch.arange(n)
    >>> with torch.device("meta"):
    ...     count(3).device.type
    'meta'
    >>> count(3) is count(3)
    True
    """
    made: dict[tuple, Any] = {}

    @wraps(make)
    def found(*arguments):
        device = torch.get_default_device()
        key = (device, *arguments)
        if key not in made:
            if device.type == "cpu":
                made[key] = make(*arguments)
            else:
                with torch.device("cpu"):
                    of_cpu = found(*arguments)
                made[key] = moved(of_cpu, device)
        return made[key]

    return found


class table_property:  # lower case as `property`
    """Like `functools.cached_property`, for tensors: on torch's default device."""

    def __init__(self, make: Callable[[Any], Any]):
        self.make, self.__doc__ = make, make.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, of: Any, owner: type | None = None) -> Any:
        if of is None:
            return self
        made = of.__dict__.setdefault(f"_{self.name}_by_device", {})
        device = torch.get_default_device()
        if device not in made:
            if device.type == "cpu":
                made[device] = self.make(of)
            else:
                with torch.device("cpu"):
                    of_cpu = self.__get__(of)
                made[device] = moved(of_cpu, device)
        return made[device]
