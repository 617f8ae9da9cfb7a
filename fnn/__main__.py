"""``python -m fnn``: train on real images by hand-derived gradients, and see them proven."""

from fnn.cli.main import app

if __name__ == "__main__":
    app(prog_name="python -m fnn")
