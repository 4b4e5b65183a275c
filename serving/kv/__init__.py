"""What is in the workers' KV caches: block hashes, the events that tell of them, and the index that the router asks."""
