"""Passes from graph to graph, each a frozen dataclass that declares its contract."""
