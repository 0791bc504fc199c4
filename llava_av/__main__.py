"""`python -m llava_av` is `llava-av`."""

from llava_av.cli import run_and_exit

if __name__ == "__main__":
    run_and_exit()
