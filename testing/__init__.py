"""For the tests of callboard's users: the pytest plug-in with the ``cluster`` fixture, and the leak gate."""
