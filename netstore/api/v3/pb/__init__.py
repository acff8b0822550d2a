"""Generated from `contrib/proto` by `python -m contrib.proto.generate`; never edited by hand."""
