"""Where elements lie: channels last, transposes pushed and cancelled, weights packed for contraction."""
