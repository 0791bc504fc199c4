"""YAML and JSON that users write, read within bounds: `bounded` parses them, `yaml_loader` extends PyYAML."""

from llava_av.parsing.bounded import MAX_BYTES, SyntaxProblemError, parse_json, parse_yaml, unique_object

__all__ = ["MAX_BYTES", "SyntaxProblemError", "parse_json", "parse_yaml", "unique_object"]
