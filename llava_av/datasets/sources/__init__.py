"""Input of users: folders of conversations and media, and files of other tools.

`rows` finds a folder's conversations and reads their rows. `line_keys` maps the keys of a row to those of a
sample and refuses likely mistakes; `sample_checks` refuses samples with valid types that cannot be used.
`folder` does this for a whole folder and checks every media file. `convert` writes `conversations.jsonl` from
tables, chat messages and other formats.
"""

__all__: list[str] = []
