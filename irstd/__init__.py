"""irstd: data sets and training for infrared small-target detection (IRSTD)."""

__version__ = "0.1.0"
