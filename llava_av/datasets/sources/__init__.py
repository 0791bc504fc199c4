"""Users' own data: folders, rows, keys and conversion of other tools' files."""
