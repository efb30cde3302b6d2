"""The tracker: who takes and gives back GPU memory, where in the program, and for which frame."""
