"""A constant tensor that follows the dtype and device of what it is multiplied with."""

from __future__ import annotations

import torch


class Constant:
    """A constant, kept in every dtype and on every device that was asked for."""

    def __init__(self, value: torch.Tensor) -> None:
        self.value = value
        self.casts: dict[tuple[torch.dtype, torch.device], torch.Tensor] = {}

    def like(self, other: torch.Tensor) -> torch.Tensor:
        return self._cast(other.dtype, other.device)

    def on(self, device: torch.device) -> torch.Tensor:
        return self._cast(self.value.dtype, device)

    def _cast(self, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        key = (dtype, device)
        if key not in self.casts:
            # A tensor made in inference mode could not be used in training later.
            with torch.inference_mode(False):
                self.casts[key] = self.value.to(device, dtype)
        return self.casts[key]
