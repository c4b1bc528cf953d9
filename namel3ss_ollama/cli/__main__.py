"""`python -m namel3ss_ollama.cli`."""

from namel3ss_ollama.cli import main

if __name__ == "__main__":
    main()
