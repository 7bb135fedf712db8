"""The training loop: pure torch. It knows no cluster and no tracker; both are handed in as callables."""
