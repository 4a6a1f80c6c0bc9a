"""What a device is: a page of facts, each with its source. Code asks the device; it does not know the device.

device = load_device("gpu:h200")
device["memory.hbm.bytes"]             141000000000
device.get("peak.fp4")                 None: the device has no such figure
device.source("memory.hbm.bytes")      ("mlcommons/inference_results_v4.1, ...", ...)
device.assumed("overhead.launch_s")    True
"""

from porter.device.catalog import default_device, default_devices, devices, families, load_device, load_file, package
from porter.device.device import Device, Fact

__all__ = [
    "Device",
    "Fact",
    "default_device",
    "default_devices",
    "devices",
    "families",
    "load_device",
    "load_file",
    "package",
]
