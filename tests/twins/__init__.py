"""PyTorch twins of the cases: one file a family; only test_torch.py imports them."""
