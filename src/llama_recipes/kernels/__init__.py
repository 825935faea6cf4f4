"""Our own operations for processors, in C++: what a training step spends its time in besides
matrix products. The model's plain path in PyTorch stays, as fallback and as oracle."""
