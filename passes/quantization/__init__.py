"""Cheaper number formats, as the standard writes them, each within a stated budget."""
