"""Measurements for one GPU in one command: see ``calibration/run_gpu.sh``."""
