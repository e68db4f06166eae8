"""Methods that add bottleneck modules to a block."""
