"""How a router chooses a worker, and when: pure, with the time and the random numbers given."""
