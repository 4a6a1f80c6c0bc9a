"""Low precision: schemes and what a device makes of them, calibration, contracts, search, and the audit of what was built."""
