"""`python -m llava_av` is `llava-av`."""

from llava_av.cli import main

if __name__ == "__main__":
    main()
