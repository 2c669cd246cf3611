"""Loss forecasts: what a training comes to under any schedule, and how loss scales with size and data."""

from separatrix.analysis.forecasting.areas import annealing_area, forward_area, rates_of
from separatrix.analysis.forecasting.curve import Curve, curve_of
from separatrix.analysis.forecasting.forecasts import Forecast, forecast
from separatrix.analysis.forecasting.laws import LAWS, Fitted, fit

__all__ = [
    "LAWS",
    "Curve",
    "Fitted",
    "Forecast",
    "annealing_area",
    "curve_of",
    "fit",
    "forecast",
    "forward_area",
    "rates_of",
]
