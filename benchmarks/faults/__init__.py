"""The campaign: programs that do to a node what a hospital does, and count what was lost."""
