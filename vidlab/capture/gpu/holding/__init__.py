"""What keeps a block of GPU memory alive: chains of Python references, in words."""
