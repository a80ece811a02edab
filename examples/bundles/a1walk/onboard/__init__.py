"""What a robot needs to run a policy: contract reader and runtime, on Python, numpy and onnxruntime alone.

This folder travels inside every bundle; `python BUNDLE/onboard --self-test` checks the bundle that holds it.
It uses relative imports only and the syntax of Python 3.8.
"""
