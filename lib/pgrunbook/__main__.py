"""``python -m pgrunbook``."""

from pgrunbook.app.main import command

if __name__ == "__main__":
    command()
