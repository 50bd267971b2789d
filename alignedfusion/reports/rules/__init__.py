"""Report text read by rules: terms of a lexicon, assertion cues, normal statements."""
