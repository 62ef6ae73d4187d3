"""What can be wrong with exemplars, their data set, feature spaces or maps."""

from __future__ import annotations

from attributary_train.errors import TrainError


class CustomizationError(TrainError):
    """A setting, a file or a value that Attribution by Customization cannot work with."""
