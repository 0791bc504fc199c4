"""Input of users: folders of conversations and media, and files of other tools.

`rows` finds a folder's conversations and reads their rows. `line_keys` maps the keys of a row to those of a
sample and refuses likely mistakes; `sample_checks` refuses samples with valid types that cannot be used.
`sample_rows` keeps what a commit needs of each row, and `row_table` that of all rows. `name_table` numbers
the paths of media, `checked_files` holds the results of their checks by number, and `file_rows` the rows of
a commit; `spilled_texts` keeps IDs and paths in temporary files. `folder` reads a whole folder and checks
every media file; `remote` does it for a prefix in S3.

`convert` writes such a folder's `conversations.jsonl` from the files of other tools. `tables` reads CSV
files, `parquet` Hugging Face's Parquet files, and `webdataset` tars; `extracted_media` writes the media that
the last two contain, and `turns` finds the conversation in a row.
"""

__all__: list[str] = []
