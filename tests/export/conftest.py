"""Without jax2onnx, which goes with no JAX below 0.8.1, its files are left out."""

import importlib.util

collect_ignore = ["test_onnx.py"] if importlib.util.find_spec("jax2onnx") is None else []


def pytest_report_header():
    if collect_ignore:
        return "ONNX files are left out: pip install -e '.[onnx]' brings them"
    return None
