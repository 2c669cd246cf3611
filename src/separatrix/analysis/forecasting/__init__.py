"""Loss forecasts: what a training comes to under any schedule, and how loss scales with size and data."""

from separatrix.analysis.forecasting.areas import annealing_area, forward_area, rates_of
from separatrix.analysis.forecasting.curve import Curve, common_series, curve_of, recorded_rates
from separatrix.analysis.forecasting.forecasts import DEFAULT_LAW, Forecast, forecast
from separatrix.analysis.forecasting.laws import LAWS, Fitted, fit
from separatrix.analysis.forecasting.scaling import (
    IsoFlop,
    ScalingLaw,
    Training,
    fit_scaling,
    isoflop,
    scaling_intervals,
    training_of,
    trainings_of,
)
from separatrix.analysis.forecasting.sizes import SizeLaw, fit_sizes, size_interval

__all__ = [
    "DEFAULT_LAW",
    "LAWS",
    "Curve",
    "Fitted",
    "Forecast",
    "IsoFlop",
    "ScalingLaw",
    "SizeLaw",
    "Training",
    "annealing_area",
    "common_series",
    "curve_of",
    "fit",
    "fit_scaling",
    "fit_sizes",
    "forecast",
    "forward_area",
    "isoflop",
    "rates_of",
    "recorded_rates",
    "scaling_intervals",
    "size_interval",
    "training_of",
    "trainings_of",
]
