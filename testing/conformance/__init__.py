"""The tests that every request plane has to pass, shipped so that the author of one can run them.

    pytest --pyargs callboard.testing.conformance --plane SCHEME

runs them on the plane of a scheme. What a plane needs around it, and what can be done to it, says its `rig.Rig`.
"""
