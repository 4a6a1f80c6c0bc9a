"""What every model gains from and none loses by: folding, dropping and merging, bit for bit the same."""
