"""Measuring attribution quality: retrieval, agreement, calibration."""
