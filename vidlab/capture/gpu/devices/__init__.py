"""What the devices say of themselves: NVML, read at a period."""
