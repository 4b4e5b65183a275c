"""The event plane: typed publish and subscribe, independent of the request plane."""
