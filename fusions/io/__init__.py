"""Files: checkpoints, the folder of a result, PolyChord's format."""
