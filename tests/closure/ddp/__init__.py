"""What the processes of `test_distributed` run."""
