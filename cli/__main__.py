"""`python -m keras_si_cli`."""

from .main import main

if __name__ == "__main__":
    main()
