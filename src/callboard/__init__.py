"""callboard: actors in processes, supervised, over an exchangeable request plane."""
