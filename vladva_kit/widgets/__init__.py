"""Widgets for notebooks, and for each a plain function, ending in _view, that shows the same without a front end."""

from vladva_kit.widgets.page import View
from vladva_kit.widgets.remembered import ModelBusy, Remembered
from vladva_kit.widgets.training_dashboard import TrainingDashboard, training_view
from vladva_kit.widgets.winoground_probe import WinogroundProbe, winoground_view

__all__ = [
    "ModelBusy",
    "Remembered",
    "TrainingDashboard",
    "View",
    "WinogroundProbe",
    "training_view",
    "winoground_view",
]
