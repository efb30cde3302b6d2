"""What the kernel offers to us: bpf(2), its objects, and what else it tells of itself."""
